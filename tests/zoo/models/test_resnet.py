"""ResNet: images of any size, v1 and v1.5, stems, and statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import tiny
from small_models import described, forward, inputs_for, model_of, random_params

import blox as bx
from blox import tap


def resnet(**fields):
    """A tiny ResNet of basic blocks."""
    sizes = {'widths': (16, 32), 'depths': (1, 1), 'stem_width': 8, 'block': 'basic'}
    return model_of(tiny('resnet', **{**sizes, **fields}))


@pytest.mark.parametrize('size', [(33, 47), (64, 32), (1, 1)])
def test_resnet_takes_other_image_sizes(size):
    model = resnet()
    logits, _ = forward(model.config)(random_params(model.config), jnp.ones((2, *size, 3)))
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(('stride_on', 'is_skipped'), [('conv1', True), ('conv2', False)])
def test_resnet_v1_skips_odd_pixels_where_v1_5_does_not(stride_on, is_skipped):
    model = resnet(block='bottleneck', stride_on=stride_on)
    params, block = random_params(model.config), model.stages[1][0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 64)), jnp.float32)
    outputs, gradient = jax.value_and_grad(lambda x: block(params, x)[0].sum())(x)
    assert bool((gradient[:, 1::2, 1::2] == 0).all()) == is_skipped
    assert gradient[:, ::2, ::2].any()
    assert outputs > 0


def test_resnet_versions_share_their_parameters():
    specs = [
        bx.spec(model, *model.example_inputs())
        for model in (resnet(block='bottleneck', stride_on=place) for place in ('conv1', 'conv2'))
    ]
    assert jax.tree.structure(specs[0]) == jax.tree.structure(specs[1])
    assert described(specs[0]) == described(specs[1])


@pytest.mark.parametrize(('stem', 'size'), [('imagenet', 8), ('small', 32)])
def test_resnet_stems_differ_in_resolution(stem, size):
    model = resnet(stem=stem)
    params, (inputs,) = random_params(model.config), inputs_for(model.config)
    maps, _ = jax.eval_shape(lambda p, x: model.feature_maps(p, x, [1]), params, inputs)
    assert maps[0].shape == (2, size, size, 16)


def test_resnet_moves_its_statistics_by_its_decay():
    model = resnet(bn_decay=0.25)
    params, (images,) = random_params(model.config), inputs_for(model.config)
    _, after = forward(model.config, is_training=True)(params, images)
    stem = np.asarray(jax.jit(model.stem[0].conv)(params, images)[0])
    old, new = (
        [p[f'resnet/stem/norm/{n}'].value for n in ('mean', 'var')] for p in (params, after)
    )
    expected = stem.mean((0, 1, 2)), stem.var((0, 1, 2), ddof=1)
    for before, batch, found in zip(old, expected, new):
        np.testing.assert_allclose(found, 0.25 * before + 0.75 * batch, rtol=1e-4, atol=1e-5)


def test_drop_path_grows_with_depth():
    model = resnet(block='bottleneck', depths=(2, 1), drop_path_rate=0.6)
    params, (images,) = random_params(model.config), inputs_for(model.config, batch=400)
    tapped = jax.jit(functools.partial(tap(model, '**/drop_path'), is_training=True))
    (_, taps), _ = tapped(params, images)
    dropped = [float((x == 0).all((1, 2, 3)).mean()) for x in taps.values()]
    assert dropped == pytest.approx([0, 0.3, 0.6], abs=0.1)


@pytest.mark.parametrize('size', [16, 48, 72])
def test_averages_take_even_maps_alone(size):
    sizes = {'depths': (1, 1, 1, 1), 'widths': (4, 4, 4, 4), 'image_size': size}
    model = bx.zoo.create('resnet50', **sizes, antialias='avg', num_classes=3)
    with pytest.raises(ValueError, match=r'maps of even height and width, .* found '):
        bx.spec(model, *model.example_inputs())


def test_pruning_leaves_the_reach_of_channel_attention():
    sizes = {'widths': (64,), 'depths': (1,), 'pruned_widths': (4, 5, 6)}
    model = resnet(block='bottleneck', channel_attention='eca', **sizes)
    spec = bx.spec(model, *model.example_inputs())
    # That of 256 channels; of 6 it would be 3.
    assert spec['resnet/stage1/block0/eca/conv/w'].shape == (5, 1, 1)
