"""Averages of models."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table

import blox as bx


def params(value, dtype=jnp.float32, **more):
    entries = {'w': jnp.full((2, 2), value, dtype), 'n': jnp.arange(3), **more}
    return bx.Params(seed=int(value * 8)).merge(bx.Params.from_entries(entries))


def test_an_average_is_of_numbers_alone_and_keeps_the_firsts_rng_and_flags():
    found = bx.average([params(1.0).freeze('w'), params(2.0)])
    np.testing.assert_array_equal(found['w'].value, np.full((2, 2), 1.5))
    assert not found['w'].trainable
    assert found['rng'].value[0] == params(1.0)['rng'].value[0]
    assert found['n'].value.tolist() == [0, 1, 2]


def test_weights_and_models_may_be_any_sequence():
    found = bx.average((x for x in (params(1.0), params(2.0))), np.array([1, 3]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(found['w'].value, np.full((2, 2), 1.75))


def test_narrow_numbers_are_averaged_in_wide_ones():
    found = bx.average([params(x, jnp.bfloat16) for x in (256.0, 1.0, 1.0, 1.0)])['w']
    assert (found.dtype, float(found.value[0, 0])) == (jnp.bfloat16, float(jnp.bfloat16(64.75)))


def test_a_models_ends_are_one_model(tmp_path):
    model, first = bx.zoo.load('vit-digits')
    images = jnp.ones((1, 8, 8, 1))
    found = bx.average([first, first], weights=[3, 5])
    np.testing.assert_allclose(model(found, images)[0], model(first, images)[0], atol=1e-5)


# A mapping is a collection, so that types let it pass.
ALONE: Any = params(1.0)
TABLE: Any = [[1], [1]]


@table(
    {
        'nothing': (lambda: bx.average([]), 'a list of Params'),
        'one': (lambda: bx.average(ALONE), 'a list of Params'),
        'a table of weights': (lambda: bx.average([params(1.0)] * 2, TABLE), '2 weights'),
        'weights': (lambda: bx.average([params(1.0)] * 2, [1]), '2 weights'),
        'no weight': (lambda: bx.average([params(1.0)] * 2, [1, -1]), 'sum up to 0'),
        'another': (
            lambda: bx.average([params(1.0), params(1.0, b=jnp.ones(1))]),
            "Params 1 are of another model than the first: 'b': unexpected",
        ),
        'a dtype': (
            lambda: bx.average([params(1.0), params(1.0, jnp.bfloat16)]),
            'w: expected .*float32.*bfloat16',
        ),
    }
)
def test_what_has_no_average_is_refused(row):
    call, message = row
    with pytest.raises(ValueError, match=message):
        call()
