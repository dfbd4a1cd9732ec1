"""Weights for other images, against plain loops and SciPy, and by what must hold of them."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from helpers import normal
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from blox.zoo.architecture.resizing import (
    interpolate_positions,
    repeat_positions,
    resize_channels,
    resize_columns,
    resize_patches,
    resize_positions,
    resize_rows,
)
from blox.zoo.models.gpt2 import GPT2Config
from blox.zoo.models.resnet import ResNetConfig
from blox.zoo.models.vit import ViTConfig

LAYOUTS = ['hf', 'dinov2', 'dinov2_with_registers', 'timm', '', 'google', 'big_vision']
# Grids before and after: up, down, one axis alone, to and from a single patch.
GRIDS = [
    ((4, 4), (7, 7)),
    ((7, 7), (3, 3)),
    ((3, 5), (6, 2)),
    ((5, 3), (5, 9)),
    ((14, 14), (24, 24)),
    ((1, 1), (3, 4)),
    ((6, 5), (1, 1)),
]


def config(grid, patch=(8, 4)):
    return ViTConfig(image_size=(grid[0] * patch[0], grid[1] * patch[1]), patch_size=patch)


def resized(pos_embed, old, new, layout):
    return resize_positions(pos_embed, config(old), config(new), layout)


def positions(grid, prefix=1, width=3):
    return normal(1, prefix + grid[0] * grid[1], width)


def cubic(distance, a):
    """Keys' kernel, solved for rather than copied: continuous, smooth, with slope `a` at 1."""
    x = abs(distance)
    if x >= 2:
        return 0.0
    if x >= 1:
        # Zero at 1 and twice at 2, slope a at 1.
        return a * (x - 1) * (x - 2) ** 2
    # 1 with slope 0 at 0, 0 with slope a at 1.
    return (1 - x) * (1 + x + (-2 - a) * x * x)


def interpolated(line, count, antialias):
    """One axis of torch's bicubic interpolation, a sum for each place."""
    step, last = len(line) / count, len(line) - 1
    width = max(step, 1) if antialias else 1
    out = []
    for i in range(count):
        centre = (i + 0.5) * step - 0.5
        places = range(-4 * len(line) - 4, 5 * len(line) + 4)
        weights = [cubic((j - centre) / width, -0.5 if antialias else -0.75) for j in places]
        if antialias:  # What lies outside has no say.
            weights = [w * (0 <= j <= last) for j, w in zip(places, weights)]
        values = [line[min(max(j, 0), last)] for j in places]
        out.append(sum(w * v for w, v in zip(weights, values)) / sum(weights))
    return np.array(out)


def expected(pos_embed, old, new, layout):
    """Position embeddings of a class token and a grid, resized axis by axis."""
    grid = pos_embed[0, 1:].reshape(*old, -1)
    if layout in ('google', 'big_vision'):
        # Linear, with the corners' centres where they were.
        axes = [np.linspace(0, n - 1, m) if m > 1 else np.zeros(1) for n, m in zip(old, new)]
        at = np.meshgrid(*axes, indexing='ij')
        planes = [map_coordinates(grid[..., k], at, order=1) for k in range(grid.shape[-1])]
        grid = np.stack(planes, -1)
    else:
        for axis, count in enumerate(new):
            grid = np.apply_along_axis(
                interpolated, axis, grid, count, layout not in ('hf', 'dinov2')
            )
    return np.concatenate([pos_embed[:, :1], grid.reshape(1, new[0] * new[1], -1)], 1)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('old', 'new'), GRIDS)
def test_positions_are_resized_as_the_layouts_library_does(old, new, layout):
    pos_embed = positions(old)
    found = resized(pos_embed, old, new, layout)
    np.testing.assert_allclose(found, expected(pos_embed, old, new, layout), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('a', 'b'), list(itertools.combinations(['hf', 'timm', 'google'], 2)))
def test_the_libraries_ways_differ(a, b):
    first, other = (resized(positions((7, 7)), (7, 7), (4, 4), layout) for layout in (a, b))
    assert abs(first - other).max() > 0.01


def test_our_own_are_resized_as_timms():
    pos_embed = positions((7, 7))
    assert (
        resized(pos_embed, (7, 7), (4, 9), '') == resized(pos_embed, (7, 7), (4, 9), 'timm')
    ).all()


sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(sides, sides, st.sampled_from(LAYOUTS))
def test_a_constant_field_stays_constant(old, new, layout):
    found = resized(np.full((1, old[0] * old[1], 2), 0.7), old, new, layout)
    assert found.shape == (1, new[0] * new[1], 2)
    np.testing.assert_allclose(found, 0.7, rtol=0, atol=1e-14)


@given(sides, st.sampled_from(LAYOUTS))
def test_the_same_grid_changes_nothing(grid, layout):
    pos_embed = positions(grid)
    np.testing.assert_allclose(
        resized(pos_embed, grid, grid, layout), pos_embed, rtol=0, atol=1e-15
    )


@given(sides, sides, st.sampled_from(LAYOUTS), st.integers(0, 2))
def test_tokens_before_the_grid_are_untouched(old, new, layout, prefix):
    pos_embed = positions(old, prefix)
    found = resized(pos_embed, old, new, layout)
    assert (found[:, :prefix] == pos_embed[:, :prefix]).all()
    alone = resized(pos_embed[:, prefix:], old, new, layout)
    assert (found[:, prefix:] == alone).all()


@given(sides, sides, st.sampled_from(LAYOUTS))
def test_a_turned_grid_gives_a_turned_result(old, new, layout):
    pos_embed = positions(old, prefix=0)
    turned = pos_embed.reshape(*old, -1).swapaxes(0, 1).reshape(pos_embed.shape)
    found = resized(pos_embed, old, new, layout).reshape(*new, -1).swapaxes(0, 1)
    other = resized(turned, old[::-1], new[::-1], layout).reshape(*new[::-1], -1)
    np.testing.assert_allclose(found, other, rtol=0, atol=1e-13)


def test_patches_count_not_pixels():
    pos_embed = positions((4, 4))
    old, new = config((4, 4)), config((6, 5))
    coarse, fine = (
        ViTConfig(image_size=(grid[0] * 2, grid[1] * 2), patch_size=(2, 2))
        for grid in ((4, 4), (6, 5))
    )
    one = resize_positions(pos_embed, old, new, 'timm')
    assert (one == resize_positions(pos_embed, coarse, fine, 'timm')).all()


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16'])
def test_the_dtype_stays_and_is_rounded_to_once(layout, dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    pos_embed = positions((5, 4)).astype(kind)
    found = resized(pos_embed, (5, 4), (8, 3), layout)
    exact = resized(pos_embed.astype(np.float64), (5, 4), (8, 3), layout)
    assert found.dtype == kind
    bound = ml_dtypes.finfo(kind).eps * abs(exact).max() * (8 if dtype == 'float32' else 1)
    assert abs(found.astype(np.float64) - exact).max() <= bound


# Channels of the first convolution.


def adapted(w, count, family=ResNetConfig):
    return resize_channels(w, family(), family(in_channels=count), 'timm')


@pytest.mark.parametrize('family', [ResNetConfig, ViTConfig])
def test_one_channel_has_the_sum_over_colors(family):
    w = normal(3, 2, 3, 5)
    expected = [[[sum(w[y, x])] for x in range(2)] for y in range(3)]
    np.testing.assert_allclose(adapted(w, 1, family), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize('count', [2, 4, 6, 7])
def test_other_channels_are_the_colors_in_turn_scaled(count):
    w = normal(3, 2, 3, 5)
    expected = np.stack([w[:, :, i % 3] * 3 / count for i in range(count)], 2)
    np.testing.assert_allclose(adapted(w, count), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize('count', [1, 3, 6, 9])
def test_images_of_equal_channels_give_what_they_gave(count):
    w = normal(3, 2, 3, 5)
    np.testing.assert_allclose(adapted(w, count).sum(2), w.sum(2), rtol=0, atol=1e-14)


@pytest.mark.parametrize('count', [1, 2, 4])
def test_the_dtype_of_a_convolution_stays(count):
    w = normal(3, 2, 3, 5).astype(np.float16)
    found = adapted(w, count)
    assert found.dtype == np.float16
    exact = adapted(w.astype(np.float64), count)
    np.testing.assert_allclose(found, exact, rtol=2**-11, atol=0)


@pytest.mark.parametrize('stored', [1, 2, 4])
def test_channels_change_from_three_alone(stored):
    with pytest.raises(ValueError, match=f'in_channels can change from 3 alone, found {stored}'):
        adapted(normal(3, 2, stored, 5), 3)


# Patches, tokens, positions of texts.


def test_a_larger_patch_gives_for_enlarged_images_what_the_old_one_gave():
    """The law of FlexiViT, for images that resizing makes: each pixel twice, or bilinearly between them."""
    w = normal(4, 4, 3, 5)
    found = resize_patches(w, None, ViTConfig(patch_size=(8, 8)), '')
    image = normal(4, 4, 3, seed=1)
    matrix = np.stack([interpolated(line, 8, True) for line in np.eye(4)], 1)
    enlarged = np.einsum('yh,xw,hwc->yxc', matrix, matrix, image)
    given, wanted = (np.einsum('hwc,hwco->o', x, k) for x, k in ((enlarged, found), (image, w)))
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-12)


def test_the_same_patch_changes_nothing_and_googles_is_another():
    w = normal(4, 6, 1, 2).astype(np.float32)
    same = resize_patches(w, None, ViTConfig(patch_size=(4, 6)), '')
    np.testing.assert_allclose(same, w, rtol=0, atol=1e-6)
    own, other = (
        resize_patches(w, None, ViTConfig(patch_size=(2, 3)), layout) for layout in ('', 'google')
    )
    assert own.dtype == np.float32
    assert abs(own - other).max() > 0.01


def test_new_tokens_are_the_mean_of_the_old_and_the_first_are_kept():
    table = normal(5, 3).astype(ml_dtypes.bfloat16)
    more = resize_rows(table, None, GPT2Config(vocab_size=8), '')
    assert (more[:5] == table).all()
    assert (more[5:] == table.astype(np.float32).mean(0).astype(table.dtype)).all()
    assert (resize_rows(table, None, GPT2Config(vocab_size=2), '') == table[:2]).all()
    assert (resize_columns(table.T, None, GPT2Config(vocab_size=8), '') == more.T).all()


def test_longer_texts_repeat_the_positions_and_shorter_ones_keep_the_first():
    table = normal(5, 3)
    longer = repeat_positions(table, None, GPT2Config(context=12), '')
    assert (longer == np.concatenate([table, table, table[:2]])).all()
    assert (repeat_positions(table, None, GPT2Config(context=2), '') == table[:2]).all()


def test_positions_of_texts_of_images_are_between_the_old_ones():
    line = np.arange(4.0)[:, None]
    found = interpolate_positions(line, None, GPT2Config(context=8), '')[:, 0]
    np.testing.assert_allclose(found, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
