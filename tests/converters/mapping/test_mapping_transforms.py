"""Transforms: index permutations, which are undone."""

import numpy as np
import pytest
from checkpoints import check_permutation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blox.converters.mapping.transforms import (
    HWIO,
    IDENTITY,
    T,
    join_axes,
    merge,
    prepend_zeros,
    transpose,
)

TRANSFORMS = {
    'identity': (IDENTITY, (2, 3), [(2, 3)]),
    'dense': (T, (2, 3), [(3, 2)]),
    'convolution': (HWIO, (2, 3, 4, 5), [(5, 4, 2, 3)]),
    'cycle': (transpose(1, 2, 0), (2, 3, 4), [(4, 2, 3)]),
    'join first': (join_axes(0, 2), (6, 5), [(2, 3, 5)]),
    'join last': (join_axes(1, 3), (5, 6), [(5, 3, 2)]),
    'merge rows': (merge(axis=0), (6, 2), [(2, 2)] * 3),
    'merge columns': (merge(axis=1), (2, 6), [(2, 2)] * 3),
    'q, k, v': (merge(axis=0) >> T, (4, 6), [(2, 4)] * 3),
    'heads': (join_axes(1, 2) >> merge(axis=1), (4, 12), [(4, 2, 2)] * 3),
    'prepend': (prepend_zeros(axis=1), (1, 5, 2), [(1, 4, 2)]),
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_transforms_give_the_shapes_they_say(name):
    via, shape, external_shapes = TRANSFORMS[name]
    assert via.external_shapes(shape, len(external_shapes)) == external_shapes
    check_permutation(via, shape, tuple(external_shapes))


def test_transforms_put_numbers_where_the_layouts_say():
    weights = [np.full((2, 3), i) + np.arange(2)[:, None] * 10 for i in range(3)]
    assert (merge(axis=0) >> T).forward(weights)[0].tolist() == [0, 10, 1, 11, 2, 12]
    kernel = np.arange(12).reshape(1, 3, 4)
    assert join_axes(1, 3).forward([kernel])[0].tolist() == list(range(12))
    image = np.arange(120).reshape(2, 3, 4, 5)
    assert HWIO.forward([image])[3, 4, 2, 1] == image[1, 2, 3, 4]


def test_shapes_of_the_largest_arrays_need_no_memory():
    assert HWIO.external_shapes((2**20,) * 2 + (2**8,) * 2) == [(2**8,) * 2 + (2**20,) * 2]


@pytest.mark.parametrize('via', [IDENTITY, HWIO, join_axes(0, 2), prepend_zeros(0)], ids=repr)
def test_only_a_merge_makes_several_arrays_one(via):
    with pytest.raises(ValueError, match='expected 2 external arrays, found 1'):
        via.inverse(np.zeros((2, 2, 2, 2)), 2)


@given(
    hnp.array_shapes(min_dims=3, max_dims=4, max_side=4),
    st.integers(1, 3),
    st.permutations(range(2)),
    st.permutations(range(2)),
)
def test_chains_of_transforms_are_undone(shape, count, axes, order):
    arrays = list(np.arange(count * np.prod(shape)).reshape(count, *shape))
    axes = (*axes, *range(2, len(shape) - 1))
    last = (merge(axis=axes[0]), transpose(*axes))
    via = join_axes(axes[0], shape[axes[0]]) >> last[order[0]] >> last[order[1]]
    ours = via.forward(arrays)
    assert sorted(ours.flat) == list(range(ours.size))
    assert via.external_shapes(ours.shape, count) == [shape] * count
    for found, expected in zip(via.inverse(ours, count), arrays):
        np.testing.assert_array_equal(found, expected, strict=True)
