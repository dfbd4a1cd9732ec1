"""Every layer agrees with a plain NumPy reference, in outputs and in derivatives."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import reference
from helpers import layer, normal, random_params, table

import blox as bx
from blox.layers import ACTIVATIONS
from blox.layers.rotary import rotate, rotation

close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12, strict=True)


def numbers(params):
    return [np.asarray(value) for value in jax.tree.leaves(params)]


def by_name(paths, values):
    return {path.removeprefix('layer/'): value for path, value in zip(paths, values)}


def unit_directions(point):
    """For each array of `point` a random direction that moves it alone."""
    return [
        [normal(*x.shape, seed=99) * (i == j) for j, x in enumerate(point)]
        for i in range(len(point))
    ]


def derive(function, point, directions, weights):
    """Outputs, their derivatives along `directions`, and the gradient of their weighted sum."""

    def program(point, directions, weights):
        outputs, push = jax.linearize(function, point)
        gradient = jax.vjp(function, point)[1](weights)[0]
        return outputs, jax.lax.map(push, directions), gradient

    stacked = [np.stack(parts) for parts in zip(*directions)]
    return jax.tree.map(np.asarray, jax.jit(program)(point, stacked, weights))


def assert_agrees(call, expected, *inputs):
    """`call(params, *inputs)` and `expected(p, *inputs)` have equal outputs and derivatives.

    Derivatives are those with respect to each trainable parameter and each input, forward along
    a random direction and backward from random weights of the outputs.
    """
    trainable, rest = random_params(call, *inputs).split_trainable()
    leaves, structure = jax.tree.flatten((trainable, inputs))

    def compute(point):
        trainable, inputs = jax.tree.unflatten(structure, point)
        return jax.tree.leaves(call(trainable.merge(rest), *inputs)[0])

    def compute_expected(*point):
        p = by_name(trainable, point) | by_name(rest, numbers(rest))
        return jax.tree.leaves(expected(p, *point[len(trainable) :]))

    compare(compute, compute_expected, [np.asarray(leaf) for leaf in leaves])


def compare(compute, compute_expected, point):
    outputs = compute_expected(*point)
    directions = unit_directions(point)
    weights = [normal(*y.shape, seed=7) / np.sqrt(y.size) for y in outputs]
    found, along, gradient = derive(compute, point, directions, weights)
    close_all(found, outputs)
    for i, direction in enumerate(directions):
        pushed = reference.derivative(compute_expected, point, direction)
        close_all([a[i] for a in along], pushed)
        backward = np.vdot(gradient[i], direction[i])
        close(backward, sum(np.vdot(w, d) for w, d in zip(weights, pushed)))


def close_all(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        close(np.asarray(one), np.asarray(other))


# Dense layers.


@pytest.mark.parametrize('use_bias', [True, False])
@pytest.mark.parametrize('shape', [(4,), (3, 4), (2, 3, 4), (2, 1, 3, 4), (2, 1, 2, 3, 4)])
def test_linear_agrees(x64, shape, use_bias):
    linear = bx.Linear(layer(), 5, use_bias=use_bias)
    assert_agrees(linear, reference.linear, normal(*shape))


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_mlp_agrees_with_each_activation(x64, name):
    mlp = bx.Mlp(layer(), 6, 3, ACTIVATIONS[name])
    assert_agrees(mlp, functools.partial(reference.mlp, activation=name), normal(2, 5, 4))


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_agree_far_from_zero(x64, name):
    x = np.linspace(-12, 12, 50)
    close_all([ACTIVATIONS[name](jnp.asarray(x))], [reference.ACTIVATIONS[name](x)])


@table(
    {
        'hidden': ({'hidden_dropout_rate': 1.0}, lambda params: params['layer/fc2/b'].value),
        'outputs': ({'dropout_rate': 1.0}, lambda params: jnp.zeros(3)),
    }
)
def test_mlp_drops_hidden_values_and_outputs_each_at_its_own_rate(row):
    rates, expected = row
    mlp, x = bx.Mlp(layer(), 6, 3, jnp.tanh, **rates), jnp.ones((2, 4))
    params = random_params(mlp, x, dtype=jnp.float32).merge(bx.Params(seed=0))
    y, _ = mlp(params, x, is_training=True)
    assert y.tolist() == [expected(params).tolist()] * 2


@pytest.mark.parametrize('shape', [(), (3,), (2, 3)])
def test_embed_looks_up_rows(x64, shape):
    ids = np.random.default_rng(0).integers(0, 7, shape)
    embed = bx.Embed(layer(), 7, 4)
    assert_agrees(lambda p: embed(p, jnp.asarray(ids)), lambda p: [reference.embed(p, ids)])


def test_embed_adds_up_the_gradients_of_a_row_seen_twice(x64):
    ids = np.array([1, 1, 4])
    embed = bx.Embed(layer(), 7, 4)
    assert_agrees(lambda p: embed(p, jnp.asarray(ids)), lambda p: [reference.embed(p, ids)])


@pytest.mark.parametrize('shape', [(4,), (3, 4), (2, 3, 4), (1, 1, 4)])
def test_embed_attends_to_every_row(x64, shape):
    embed = bx.Embed(layer(), 7, 4)
    assert_agrees(embed.attend, reference.attend, normal(*shape))


def test_embed_attends_to_the_table_first_for_one_row():
    embed, x = bx.Embed(layer(), 7, 4), jnp.ones((1, 1, 4))
    program = str(jax.make_jaxpr(embed.attend)(random_params(embed.attend, x, dtype=x.dtype), x))
    assert 'transpose' not in program
    assert 'f32[7,1] = dot_general' in program


def test_embed_gives_nan_for_ids_outside_the_table():
    embed = bx.Embed(layer(), 3, 2)
    params = bx.Params().set('layer/w', jnp.ones((3, 2)))
    rows, _ = embed(params, jnp.array([-1, 0, 2, 3]))
    assert np.isnan(rows).all(-1).tolist() == [True, False, False, True]


def test_sequential_applies_layers_and_functions_in_order(x64):
    net = layer()
    layers = [bx.Linear(net / 'a', 5), jnp.tanh, bx.LayerNorm(net / 'b'), bx.Linear(net / 'c', 2)]

    def expected(p, x):
        x = np.tanh(reference.linear(reference.below(p, 'a'), x))
        x = reference.layer_norm(reference.below(p, 'b'), x, 1e-5)
        return reference.linear(reference.below(p, 'c'), x)

    assert_agrees(bx.Sequential(net, layers), expected, normal(3, 4))


def test_sequential_tells_layers_that_take_it_whether_they_train():
    net = layer()
    inner = bx.Sequential(net / 'inner', [bx.Dropout(net / 'drop', 1.0)])
    both = bx.Sequential(net, [jnp.negative, inner])
    params = bx.Params(seed=0)
    assert both(params, jnp.ones(3))[0].tolist() == [-1, -1, -1]
    assert both(params, jnp.ones(3), is_training=True)[0].tolist() == [0, 0, 0]


def test_sequential_of_nothing_returns_its_inputs():
    outputs, _ = bx.Sequential(layer(), [])(bx.Params(), jnp.arange(3.0))
    assert outputs.tolist() == [0, 1, 2]


# Convolutions: shape, kernel_size, options.

CONVS = {
    '1d': ((2, 7, 4), 3, {}),
    '1d-no-bias': ((2, 7, 4), 3, {'use_bias': False}),
    '1d-valid-stride': ((2, 8, 4), 3, {'padding': 'VALID', 'stride': 2}),
    '1d-same-stride-even-size': ((2, 8, 4), 3, {'stride': 2}),
    '1d-even-kernel': ((2, 7, 4), 4, {}),
    '1d-stride-beyond-kernel': ((2, 8, 4), 2, {'stride': 3}),
    '1d-dilation': ((2, 9, 4), 3, {'dilation': 2}),
    '1d-int-padding': ((2, 7, 4), 3, {'padding': 2}),
    '1d-pair': ((2, 7, 4), 3, {'padding': ((2, 1),)}),
    '1d-depthwise': ((2, 7, 4), 3, {'groups': 4}),
    '1d-circular-even': ((2, 7, 4), 4, {'padding_mode': 'circular'}),
    '2d': ((2, 5, 4, 3), 3, {}),
    '2d-pointwise': ((2, 3, 4, 3), 1, {'use_bias': False}),
    '2d-pointwise-stride': ((2, 5, 4, 3), 1, {'stride': (2, 3), 'dilation': 2}),
    '2d-pointwise-padding': ((2, 3, 4, 3), 1, {'padding': (1, (0, 2)), 'stride': 2}),
    '2d-patches': ((2, 4, 6, 3), (2, 3), {'stride': (2, 3), 'padding': 'VALID'}),
    '2d-strides': ((2, 6, 5, 4), 3, {'stride': (2, 1)}),
    '2d-dilations': ((2, 6, 7, 4), (3, 2), {'dilation': (1, 3)}),
    '2d-stride-dilation': ((1, 8, 7, 2), 3, {'stride': 2, 'dilation': 2}),
    '2d-groups': ((2, 5, 4, 4), 3, {'groups': 2}),
    '2d-depthwise-multiplier': ((2, 5, 4, 4), 3, {'groups': 4, 'stride': 2}),
    '2d-even-kernel': ((2, 5, 6, 3), (2, 4), {}),
    '2d-even-kernel-stride': ((2, 5, 6, 3), 4, {'stride': 2}),
    '2d-int-and-pair': ((2, 5, 4, 3), 3, {'padding': (1, (0, 2))}),
    '2d-reflect': ((2, 5, 4, 3), 3, {'padding_mode': 'reflect'}),
    '2d-reflect-pairs': ((2, 5, 4, 3), 3, {'padding_mode': 'reflect', 'padding': ((3, 1), 2)}),
    '2d-replicate': ((2, 5, 4, 3), 4, {'padding_mode': 'replicate', 'stride': 2}),
    '2d-replicate-int': ((2, 3, 4, 3), 3, {'padding_mode': 'replicate', 'padding': 4}),
    '2d-circular': ((2, 5, 4, 4), 3, {'padding_mode': 'circular', 'dilation': 2, 'groups': 2}),
    '2d-circular-pairs': ((2, 5, 4, 3), 2, {'padding_mode': 'circular', 'padding': ((0, 1), 2)}),
    '3d': ((2, 3, 4, 3, 2), (3, 2, 3), {}),
    '3d-stride-groups': ((1, 4, 5, 3, 4), 3, {'stride': (2, 2, 1), 'groups': 2}),
    '3d-valid-dilation': ((1, 5, 4, 3, 2), 2, {'padding': 'VALID', 'dilation': (2, 1, 2)}),
    '3d-circular': ((1, 3, 4, 3, 2), 3, {'padding_mode': 'circular', 'use_bias': False}),
    '3d-mixed': ((1, 3, 4, 3, 2), 2, {'padding': (1, (0, 1), (2, 0))}),
}

TRANSPOSED = {
    '1d': ((2, 4, 4), 3, {}),
    '1d-stride': ((2, 4, 4), 3, {'stride': 2}),
    '1d-valid-stride': ((2, 4, 4), 3, {'stride': 2, 'padding': 'VALID'}),
    '1d-stride-beyond-kernel': ((2, 4, 4), 2, {'stride': 4}),
    '1d-stride-beyond-kernel-valid': ((2, 4, 4), 2, {'stride': 4, 'padding': 'VALID'}),
    '1d-output-padding': ((2, 4, 4), 3, {'stride': 2, 'padding': 1, 'output_padding': 1}),
    '1d-same-output-padding': ((2, 4, 4), 3, {'stride': 3, 'output_padding': 2}),
    '1d-far-output-padding': ((2, 4, 4), 2, {'stride': 4, 'padding': 'VALID', 'output_padding': 3}),
    '1d-dilation-output-padding': (
        (2, 4, 4),
        2,
        {'dilation': 3, 'padding': 2, 'output_padding': 2},
    ),
    '1d-padding-beyond-kernel': ((2, 6, 4), 2, {'padding': 2}),
    '2d': ((2, 3, 4, 3), 3, {}),
    '2d-upsample': ((2, 3, 2, 3), 4, {'stride': 2, 'padding': 1}),
    '2d-no-bias': ((2, 3, 4, 3), 2, {'stride': 2, 'use_bias': False}),
    '2d-strides': ((2, 3, 4, 3), 3, {'stride': (2, 1)}),
    '2d-even-kernel': ((2, 3, 4, 3), (2, 4), {}),
    '2d-dilations': ((2, 3, 4, 3), (3, 2), {'dilation': (1, 2), 'padding': 'VALID'}),
    '2d-same-dilation-stride': ((2, 3, 4, 3), 3, {'dilation': 2, 'stride': 2}),
    '2d-groups': ((2, 3, 4, 4), 3, {'groups': 2, 'stride': 2}),
    '2d-depthwise': ((2, 3, 2, 4), 3, {'groups': 4}),
    '2d-pairs': ((2, 3, 4, 3), 3, {'padding': ((2, 1), 0), 'output_padding': (0, 1), 'stride': 2}),
    '3d': ((1, 2, 3, 2, 2), 3, {}),
    '3d-stride-groups': ((1, 2, 2, 3, 4), 3, {'stride': (2, 1, 2), 'groups': 2}),
    '3d-mixed': ((1, 2, 3, 2, 2), 2, {'stride': 2, 'padding': (0, (1, 0), 1), 'output_padding': 1}),
}


@table(CONVS)
def test_conv_agrees(x64, row):
    shape, kernel_size, options = row
    conv = bx.Conv(layer(), 4, kernel_size, **options)
    assert_agrees(conv, functools.partial(reference.conv, **options), normal(*shape))


@table(TRANSPOSED)
def test_conv_transpose_agrees(x64, row):
    shape, kernel_size, options = row
    conv = bx.ConvTranspose(layer(), 4, kernel_size, **options)
    assert_agrees(conv, functools.partial(reference.conv_transpose, **options), normal(*shape))


@table({k: row for k, row in TRANSPOSED.items() if not {'output_padding', 'groups'} & {*row[2]}})
def test_conv_transpose_is_the_gradient_of_conv(x64, row):
    shape, kernel_size, options = row
    options, y = {**options, 'use_bias': False}, normal(*shape)
    transposed = bx.ConvTranspose(layer(), 4, kernel_size, **options)
    params = random_params(transposed, y)
    x, _ = transposed(params, jnp.asarray(y))
    w = jnp.swapaxes(params['layer/w'].value, -1, -2)
    conv = bx.Conv(layer(), shape[-1], kernel_size, **options)
    _, pull = jax.vjp(lambda x: conv(params.set('layer/w', w, strict=False), x)[0], x)
    close_all(pull(jnp.asarray(y)), [x])


# Pooling: shape, window, options.

POOLS = {
    '1d': ((2, 7, 3), 2, {}),
    '1d-overlapping': ((2, 7, 3), 3, {'stride': 1}),
    '1d-gaps': ((2, 8, 3), 2, {'stride': 3}),
    '2d': ((2, 4, 6, 3), 2, {}),
    '2d-same': ((2, 5, 6, 3), 3, {'stride': 2, 'padding': 'SAME'}),
    '2d-padding': ((2, 5, 6, 3), 3, {'stride': 2, 'padding': 1}),
    '2d-pairs': ((2, 5, 6, 3), (3, 2), {'stride': (2, 1), 'padding': ((0, 2), (1, 0))}),
    '2d-same-even-window': ((2, 5, 6, 3), 2, {'stride': 1, 'padding': 'SAME'}),
    '3d': ((1, 4, 3, 2, 3), 2, {'stride': 1, 'padding': (1, (0, 1), 0)}),
    '1d-wide': ((2, 12, 3), 9, {'stride': 2, 'padding': 4}),
}


@table(POOLS)
def test_max_pool_agrees(x64, row):
    shape, window, options = row
    assert_agrees(
        lambda params, x: (bx.max_pool(x, window, **options), params),
        lambda p, x: reference.max_pool(x, window, **options),
        normal(*shape),
    )


@pytest.mark.parametrize('counted', [True, False])
@table(POOLS)
def test_avg_pool_agrees(x64, row, counted):
    shape, window, options = row
    options = {**options, 'count_include_pad': counted}
    assert_agrees(
        lambda params, x: (bx.avg_pool(x, window, **options), params),
        lambda p, x: reference.avg_pool(x, window, **options),
        normal(*shape),
    )


def test_padding_never_wins_in_max_pool():
    pooled = bx.max_pool(-jnp.ones((1, 2, 2, 1)), 2, padding=1)
    assert (pooled == -1).all()


@table(POOLS)
def test_the_first_of_equal_values_has_the_gradient_of_max_pool(x64, row):
    shape, window, options = row
    assert_agrees(
        lambda params, x: (bx.max_pool(x, window, **options), params),
        lambda p, x: reference.max_pool(x, window, **options),
        np.round(normal(*shape)),
    )


def test_a_window_larger_than_the_inputs_fits_nowhere():
    assert bx.max_pool(jnp.ones((1, 2, 6, 3)), 3).shape == (1, 0, 2, 3)


@pytest.mark.parametrize('place', [0, 1, 2])
def test_max_pool_passes_on_nan(place):
    x = jnp.zeros((1, 3, 1)).at[0, place].set(jnp.nan)
    assert jnp.isnan(bx.max_pool(x, 3)).all()


# Normalization.

SHAPES = [(3, 6), (2, 3, 6), (2, 3, 2, 6), (2, 2, 3, 2, 6)]
AFFINE = {
    'no-scale': {'use_scale': False},
    'no-offset': {'use_offset': False},
    'neither': {'use_scale': False, 'use_offset': False},
    'large-eps': {'eps': 0.5},
}


def each_rank_and(options):
    """Every rank with the defaults, and every row of options at rank 3."""
    rows = [(shape, {}) for shape in SHAPES] + [((2, 3, 6), row) for row in options.values()]
    names = [f'rank{len(shape)}' for shape in SHAPES] + list(options)
    return table(dict(zip(names, rows)))


@each_rank_and(AFFINE)
def test_layer_norm_agrees(x64, row):
    shape, options = row
    expected = functools.partial(reference.layer_norm, eps=options.get('eps', 1e-5))
    assert_agrees(bx.LayerNorm(layer(), **options), expected, normal(*shape))


@each_rank_and({'no-scale': {'use_scale': False}, 'large-eps': {'eps': 0.5}})
def test_rms_norm_agrees(x64, row):
    shape, options = row
    expected = functools.partial(reference.rms_norm, eps=options.get('eps', 1e-6))
    assert_agrees(bx.RMSNorm(layer(), **options), expected, normal(*shape))


@pytest.mark.parametrize('shape', [(3, 4), (2, 3, 3, 4)])
@pytest.mark.usefixtures('x64')
def test_layer_scale_scales_each_channel(shape):
    assert_agrees(bx.LayerScale(layer()), lambda p, x: [x * p['scale']], normal(*shape))


def test_layer_scale_starts_small():
    params = bx.init(bx.LayerScale(layer(), 1e-3), jnp.ones((1, 2)))
    np.testing.assert_array_equal(params['layer/scale'].value, np.full(2, 1e-3, np.float32))


@each_rank_and({**AFFINE, 'one-group': {'groups': 1}, 'single-channels': {'groups': 6}})
def test_group_norm_agrees(x64, row):
    shape, options = row
    options = {'groups': 2, **options}
    expected = functools.partial(
        reference.group_norm, groups=options['groups'], eps=options.get('eps', 1e-5)
    )
    assert_agrees(bx.GroupNorm(layer(), **options), expected, normal(*shape))


@each_rank_and(AFFINE)
def test_batch_norm_agrees_with_stored_statistics(x64, row):
    shape, options = row
    expected = functools.partial(reference.batch_norm, eps=options.get('eps', 1e-5))
    assert_agrees(bx.BatchNorm(layer(), **options), expected, normal(*shape))


@each_rank_and(AFFINE)
def test_batch_norm_agrees_in_training(x64, row):
    shape, options = row
    norm = functools.partial(bx.BatchNorm(layer(), **options), is_training=True)
    expected = functools.partial(reference.batch_norm_training, eps=options.get('eps', 1e-5))
    assert_agrees(norm, expected, normal(*shape))


@pytest.mark.parametrize(
    ('shape', 'decay'), [*((shape, 0.9) for shape in SHAPES), ((2, 6), 0.0), ((2, 6), 1.0)]
)
def test_batch_norm_stores_the_mean_and_the_unbiased_variance(x64, shape, decay):
    norm, x = bx.BatchNorm(layer(), decay=decay), normal(*shape)
    params = random_params(norm, x)
    expected = reference.moved_statistics(by_name(params, numbers(params)), x, decay)
    _, params = norm(params, jnp.asarray(x), is_training=True)
    close_all([params[f'layer/{name}'].value for name in ('mean', 'var')], expected)


FROZEN_NORMS = {
    'frozen': ('**', {}, True),
    'without an offset': ('**', {'use_offset': False}, True),
    'half of it': ('**/scale', {}, False),
    'with no parameters': ('**', {'use_offset': False, 'use_scale': False}, False),
    'asked to move': ('**', {'freeze_statistics': False}, False),
}


@table(FROZEN_NORMS)
def test_a_frozen_batch_norm_keeps_its_statistics_and_uses_them(row, x64):
    where, options, is_kept = row
    norm, x = bx.BatchNorm(layer(), **options), jnp.asarray(normal(4, 6))
    params = random_params(norm, x).freeze(where)
    outputs, after = norm(params, x, is_training=True)
    kept = [np.array_equal(after[path].value, params[path].value) for path in after]
    assert all(kept) == is_kept
    assert np.array_equal(outputs, norm(params, x)[0]) == is_kept


def test_batch_norm_stores_nothing_outside_training(x64):
    norm, x = bx.BatchNorm(layer()), jnp.asarray(normal(4, 6))
    params = random_params(norm, x)
    assert norm(params, x)[1] is params


def test_batch_norm_statistics_pass_no_gradient_to_the_inputs(x64):
    norm, x = bx.BatchNorm(layer()), jnp.asarray(normal(4, 6))
    params = random_params(norm, x)

    def stored(x):
        _, after = norm(params, x, is_training=True)
        return after['layer/mean'].value + after['layer/var'].value

    assert (jax.jit(jax.jacobian(stored))(x) == 0).all()


def over_lanes(norm, axis_names):
    """`norm` in training over leading axes of lanes, statistics shared by `axis_names`."""

    def call(params, x):
        def lane(x):
            return norm(params, x, is_training=True)

        for name in reversed(axis_names):
            lane = jax.vmap(lane, axis_name=name, out_axes=(0, None))
        return lane(x)

    return call


@table({'one': ((4, 3, 5, 6), ('lanes',)), 'two': ((2, 3, 2, 5, 6), ('rows', 'lanes'))})
def test_batch_norm_over_lanes_is_that_of_the_whole_batch(x64, row):
    shape, axes = row
    norm = bx.BatchNorm(layer(), axis_name=axes[0] if len(axes) == 1 else axes)
    expected = functools.partial(reference.batch_norm_training, eps=1e-5)
    assert_agrees(over_lanes(norm, axes), expected, normal(*shape))


def test_batch_norm_over_lanes_stores_the_statistics_of_the_whole_batch(x64):
    call, x = over_lanes(bx.BatchNorm(layer(), axis_name='lanes'), ('lanes',)), normal(4, 3, 6)
    params = random_params(call, x)
    expected = reference.moved_statistics(by_name(params, numbers(params)), x, 0.9)
    _, params = call(params, jnp.asarray(x))
    close_all([params[f'layer/{name}'].value for name in ('mean', 'var')], expected)


# Attention. A mask that is all False for one query leaves it blind.

BLIND = np.tile(np.arange(5) < 3, (5, 1))
BLIND[4] = False
PADDED = (np.arange(5) < np.array([[3], [5]]))[:, None, None]
ATTENTION = {
    'plain': ({}, None),
    'causal': ({'is_causal': True}, None),
    'no-qkv-bias': ({'qkv_bias': False}, None),
    'scale': ({'scale': 0.3}, None),
    'padding': ({}, PADDED),
    'padding-causal': ({'is_causal': True}, PADDED),
    'blind-query': ({}, BLIND[None, None]),
    'mask-by-head': ({}, np.stack([BLIND, np.eye(5, dtype=bool)])[None]),
}


@table(ATTENTION)
def test_attention_agrees(x64, row):
    options, mask = row
    attention = bx.MultiHeadAttention(layer(), 6, 2, **options)
    kept = {name: value for name, value in options.items() if name != 'qkv_bias'}
    assert_agrees(
        lambda p, x: attention(p, x, None if mask is None else jnp.asarray(mask)),
        lambda p, x: reference.attention(p, x, 2, mask=True if mask is None else mask, **kept),
        normal(2, 5, 6),
    )


@pytest.mark.parametrize('chunks', [(4,), (1, 1, 1, 1), (1, 3)])
def test_attention_in_steps_is_that_of_the_whole_sequence(x64, chunks):
    attention = bx.MultiHeadAttention(layer(), 6, 2)

    def steps(params, x):
        state, outputs, start = attention.initial_state(2, 6, x.dtype), [], 0
        for size in chunks:
            position = jnp.full(2, start)
            now = x[:, start : start + size]
            (y, state), params = attention.step(params, now, state, position)
            outputs.append(y)
            start += size
        return jnp.concatenate(outputs, 1), params

    expected = functools.partial(reference.attention, heads=2, is_causal=True)
    assert_agrees(steps, expected, normal(2, 4, 6))


def test_attention_steps_know_the_position_of_each_sequence(x64):
    attention = bx.MultiHeadAttention(layer(), 6, 2)
    lengths = np.array([1, 3])

    def steps(params, x):
        state = attention.initial_state(2, 7, x.dtype)
        # Of the first sequence one token counts; what follows it is overwritten.
        (_, state), params = attention.step(params, x[:, :3], state, jnp.zeros(2, int))
        now = jnp.stack([row[n : n + 2] for row, n in zip(x, lengths)])
        (y, state), params = attention.step(params, now, state, jnp.asarray(lengths))
        return y, params

    def expected(p, x):
        whole = reference.attention(p, x, 2, is_causal=True)
        return [np.stack([row[n : n + 2] for row, n in zip(whole, lengths)])]

    assert_agrees(steps, expected, normal(2, 5, 6))


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('length', [1, 2])
def test_attention_steps_keep_no_token_past_the_room(x64, batch, length):
    attention = bx.MultiHeadAttention(layer(), 6, 2)
    x = jnp.asarray(normal(batch, 3, 6))
    params = random_params(attention, x)
    position = jnp.zeros(batch, int)
    (_, kept), _ = attention.step(params, x, attention.initial_state(batch, 3, x.dtype), position)
    past = jnp.full((batch, length, 6), jnp.nan)
    (_, after), _ = attention.step(params, past, kept, position + 3)
    assert kept.room == 3
    for before, now in zip(kept, after):
        assert np.array_equal(before[:, :3], now[:, :3])
        assert np.isfinite(now).all()


@pytest.mark.parametrize('is_stepped', [False, True])
def test_keys_may_be_the_only_ones_without_a_bias(x64, is_stepped):
    whole = bx.MultiHeadAttention(layer(), 6, 2, is_causal=True)
    some = bx.MultiHeadAttention(layer(), 6, 2, is_causal=True, k_bias=False)
    x = jnp.asarray(normal(2, 5, 6))

    def run(attention, params):
        if not is_stepped:
            return attention(params, x)[0]
        state = attention.initial_state(2, 5, x.dtype)
        return attention.step(params, x, state, jnp.zeros(2, int))[0][0]

    params, same = random_params(some, x), random_params(whole, x)
    assert params.keys() ^ same.keys() == {'layer/qv_bias', 'layer/qkv/b'}
    for path in params.keys() & same.keys():
        same = same.set(path, params[path].value)
    q, v = jnp.split(params['layer/qv_bias'].value, 2)
    same = same.set('layer/qkv/b', jnp.concatenate([q, jnp.zeros(6), v]))
    np.testing.assert_allclose(run(some, params), run(whole, same), atol=1e-12)


@pytest.mark.parametrize(
    ('run', 'k_bias'), [('whole', True), ('tapped', True), ('steps', True), ('steps', False)]
)
def test_heads_of_queries_may_share_keys_and_values(x64, run, k_bias):
    """Two and two of four: as if each had a copy of its own."""
    options = {'is_causal': True, 'k_bias': k_bias, 'rotary_pairs': 'halves'}
    shared = bx.MultiHeadAttention(layer(), 8, 4, kv_heads=2, **options)
    whole = bx.MultiHeadAttention(layer(), 8, 4, **options)
    x = jnp.asarray(normal(2, 5, 8))
    params, same = random_params(shared, x), random_params(whole, x)
    assert params['layer/qkv/w'].shape == (8, 16)
    wide = ('layer/qkv/w', 'layer/qkv/b', 'layer/qv_bias')
    for path in params.keys() & same.keys():
        value = params[path].value
        if path in wide:
            q, *others = jnp.split(value, [*range(8, value.shape[-1], 4)], axis=-1)
            copies = [
                jnp.repeat(part.reshape(*part.shape[:-1], 2, 2), 2, axis=-2).reshape(q.shape)
                for part in others
            ]
            value = jnp.concatenate([q, *copies], axis=-1)
        same = same.set(path, value)

    def outputs(attention, params):
        if run == 'whole':
            return attention(params, x, rotary=rotation(normal(5, 1), x.dtype))[0]
        if run == 'tapped':
            return bx.tap(attention, 'layer/attention_dropout')(params, x)[0]
        state = attention.initial_state(2, 5, x.dtype)
        (_, state), _ = attention.step(params, x[:, :3], state, jnp.zeros(2, int))
        return attention.step(params, x[:, 3:], state, jnp.full(2, 3))[0][0]

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-12),
        outputs(shared, params),
        outputs(whole, same),
    )


@pytest.mark.parametrize('pairs', ['halves', 'neighbours'])
def test_a_rotation_multiplies_complex_numbers(x64, pairs):
    x, angles = normal(2, 5, 3, 8), normal(5, 4)
    found = np.asarray(rotate(jnp.asarray(x), rotation(angles, np.float64), pairs))
    real, imaginary = ((slice(4), slice(4, 8)), (slice(0, 8, 2), slice(1, 8, 2)))[pairs != 'halves']
    turned = (x[..., real] + 1j * x[..., imaginary]) * np.exp(1j * angles)[None, :, None]
    np.testing.assert_allclose(found[..., real], turned.real, atol=1e-12)
    np.testing.assert_allclose(found[..., imaginary], turned.imag, atol=1e-12)


@pytest.mark.parametrize('pairs', ['halves', 'neighbours'])
def test_attention_under_rotations_depends_on_distances_alone(x64, pairs):
    attention = bx.MultiHeadAttention(layer(), 8, 2, rotary_pairs=pairs)
    x = jnp.asarray(normal(2, 5, 8))
    params = random_params(attention, x)

    def run(start):
        angles = (np.arange(5) + start)[:, None] * np.array([1.0, 0.1])
        return attention(params, x, rotary=rotation(angles, x.dtype))[0]

    np.testing.assert_allclose(run(0), run(7), atol=1e-12)
    plain = attention(params, x)[0]
    assert np.abs(run(0) - plain).max() > 1e-3
    at_rest = attention(params, x, rotary=rotation(np.zeros((5, 2)), x.dtype))[0]
    np.testing.assert_allclose(at_rest, plain, atol=1e-12)


def test_a_rotation_is_computed_in_float32_at_least():
    by = rotation(np.full((5, 4), 0.7), jnp.bfloat16)
    x = jnp.asarray(normal(1, 5, 1, 8), jnp.bfloat16)
    found = rotate(x, by, 'halves')
    assert (by.cos.dtype, found.dtype) == (jnp.float32, jnp.bfloat16)
    exact = rotate(x.astype(jnp.float32), by, 'halves').astype(jnp.bfloat16)
    assert (found == exact).all()


def test_unknown_pairs_of_a_rotation_are_refused():
    with pytest.raises(ValueError, match=r"'layer': expected rotary_pairs .* found 'thirds'"):
        bx.MultiHeadAttention(layer(), 8, 2, rotary_pairs='thirds')


# Recurrence: class, reference step, parts of the state.

RECURRENT = {
    'lstm': (bx.LSTM, reference.lstm_step, 2),
    'gru': (bx.GRU, reference.gru_step, 1),
}
RESETS = np.array([[0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0]], bool)


def as_state(parts):
    return bx.LSTMState(*parts) if len(parts) == 2 else parts[0]


def states(count):
    return [normal(3, 5, seed=20 + i) for i in range(count)]


def tagged(outputs):
    """(outputs, params) as `assert_agrees` takes them."""
    (sequence, state), params = outputs
    return [sequence, state], params


@pytest.mark.parametrize('resets', [None, RESETS], ids=['no-reset', 'resets'])
@table(RECURRENT)
def test_recurrent_sequence_agrees(x64, row, resets):
    cls, step, count = row
    core = cls(layer(), 5)
    is_reset = None if resets is None else jnp.asarray(resets)
    assert_agrees(
        lambda p, x, *parts: core(p, x, as_state(parts), is_reset),
        lambda p, x, *parts: reference.recurrent(step, p, x, parts, resets),
        normal(3, 4, 2),
        *states(count),
    )


@table(RECURRENT)
def test_recurrent_sequence_starts_from_zeros(x64, row):
    cls, step, count = row
    zeros = [np.zeros((3, 5))] * count
    assert_agrees(
        cls(layer(), 5),
        lambda p, x: reference.recurrent(step, p, x, zeros),
        normal(3, 4, 2),
    )


@pytest.mark.parametrize('resets', [None, RESETS[:, 0]], ids=['no-reset', 'resets'])
@table(RECURRENT)
def test_recurrent_step_agrees(x64, row, resets):
    cls, step, count = row
    core = cls(layer(), 5)
    is_reset = None if resets is None else jnp.asarray(resets)

    def expected(p, x, *parts):
        whole = None if resets is None else resets[:, None]
        outputs, *state = reference.recurrent(step, p, x[:, None], parts, whole)
        return [outputs[:, 0], *state]

    assert_agrees(
        lambda p, x, *parts: core.step(p, x, as_state(parts), is_reset),
        expected,
        normal(3, 2),
        *states(count),
    )


@table(RECURRENT)
def test_static_scan_is_dynamic_scan(x64, row):
    cls, _, count = row
    core, x = cls(layer(), 5), jnp.asarray(normal(3, 4, 2))
    params, state = random_params(core, x), as_state([jnp.asarray(s) for s in states(count)])
    static, dynamic = (
        scan(core, params, x, state, jnp.asarray(RESETS))[0]
        for scan in (bx.static_scan, bx.dynamic_scan)
    )
    close_all(jax.tree.leaves(static), [np.asarray(y) for y in jax.tree.leaves(dynamic)])


@table(RECURRENT)
def test_a_state_goes_in_and_comes_out(row):
    cls, _, count = row
    core, x = cls(layer(), 5), jnp.asarray(normal(3, 4, 2), jnp.bfloat16)
    params = random_params(core, x, dtype=jnp.bfloat16)
    state, same_params = core.initial_state(params, x)
    assert same_params is params
    leaves = jax.tree.leaves(state)
    assert [(s.shape, s.dtype.name, bool(s.any())) for s in leaves] == (
        [((3, 5), 'bfloat16', False)] * count
    )
    ((outputs, state), params) = core(params, x[:, :3], state)
    ((last, state), params) = core(params, x[:, 3:], state)
    ((expected, final), _) = core(params, x)
    close_all([outputs, last], [expected[:, :3], expected[:, 3:]])
    close_all(jax.tree.leaves(state), jax.tree.leaves(final))


@table(RECURRENT)
def test_a_step_without_a_state_is_refused(row):
    cls, _, _ = row
    with pytest.raises(ValueError, match=r"'layer': expected a state.*initial_state\(params"):
        cls(layer(), 5).step(bx.Params(0), jnp.ones((3, 2)), None)


@table(RECURRENT)
def test_a_sequence_of_no_steps_is_refused(row):
    cls, _, _ = row
    for is_static in (False, True):
        core = cls(bx.Graph(f'core{is_static}'), 5, is_static=is_static)
        with pytest.raises(ValueError, match='expected time steps, found inputs'):
            core(bx.Params(seed=0), jnp.ones((3, 0, 2)))


@table(RECURRENT)
def test_is_static_chooses_the_python_loop_and_may_be_set_later(x64, row):
    cls, _, _ = row
    core, x = cls(layer(), 5), jnp.asarray(normal(3, 4, 2))
    params = random_params(core, x)
    # A function each, for JAX knows one that it has traced again.
    assert 'scan' in str(jax.make_jaxpr(lambda p, x: core(p, x))(params, x))
    dynamic = core(params, x)[0]
    core.is_static = True
    assert 'scan' not in str(jax.make_jaxpr(lambda p, x: core(p, x))(params, x))
    close_all(jax.tree.leaves(core(params, x)[0]), jax.tree.leaves(dynamic))
    assert cls(bx.Graph('other'), 5, is_static=True).is_static


# Dropout.

DROPS = {'dropout': bx.Dropout, 'drop_path': bx.DropPath}


@table(DROPS)
def test_dropped_share_is_the_rate_and_the_rest_is_scaled(row):
    x = jnp.ones((10_000, 1))
    y, _ = row(layer(), 0.3)(bx.Params(seed=0), x, is_training=True)
    # Five standard deviations of the share of 10,000 draws.
    assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10_000)
    assert np.unique(y).tolist() == [0, np.float32(1 / 0.7)]


def test_drop_path_drops_whole_examples():
    y, _ = bx.DropPath(layer(), 0.5)(bx.Params(seed=0), jnp.ones((64, 3, 2)), is_training=True)
    shares = (y == 0).mean((1, 2))
    assert sorted(set(shares.tolist())) == [0, 1]


def test_dropout_drops_numbers_one_by_one():
    y, _ = bx.Dropout(layer(), 0.5)(bx.Params(seed=0), jnp.ones((64, 3, 2)), is_training=True)
    assert len(set((y == 0).mean((1, 2)).tolist())) > 2


@table(DROPS)
def test_rate_one_drops_everything(row):
    y, _ = row(layer(), 1.0)(bx.Params(seed=0), jnp.full((4, 3), jnp.inf), is_training=True)
    assert (y == 0).all()


@pytest.mark.parametrize(('rate', 'is_training'), [(0.0, True), (0.0, False), (0.7, False)])
@table(DROPS)
def test_nothing_is_dropped_at_rate_zero_or_outside_training(row, rate, is_training):
    x, params = jnp.ones((4, 3)), bx.Params(seed=0)
    y, after = row(layer(), rate)(params, x, is_training=is_training)
    assert y is x
    assert after is params


@table(DROPS)
def test_masks_follow_from_the_key_and_move_on_with_it(row):
    drop, x, params = row(layer(), 0.5), jnp.ones((64, 1)), bx.Params(seed=0)
    first, after = drop(params, x, is_training=True)
    again, _ = drop(params, x, is_training=True)
    second, _ = drop(after, x, is_training=True)
    other, _ = drop(bx.Params(seed=1), x, is_training=True)
    assert (first == again).all()
    assert (first != second).any()
    assert (first != other).any()


@table(DROPS)
def test_gradients_pass_where_inputs_do(row):
    drop, x = row(layer(), 0.5), jnp.full((64, 2), 3.0)
    y, pull = jax.vjp(lambda x: drop(bx.Params(seed=0), x, is_training=True)[0], x)
    assert (pull(jnp.ones_like(y))[0] == y / 3).all()


# Errors.

X = jnp.ones((2, 4, 4, 6))


def call(module, x=X, **options):
    return module(bx.Params(seed=0), x, **options)


PLAIN: Any = {'kernel_size': 3, 'w_init': jax.nn.initializers.zeros}


def bad_conv(**options):
    return call(bx.Conv(layer(), 4, **{**PLAIN, **options}))


def bad_transpose(**options):
    return call(bx.ConvTranspose(layer(), 4, **{**PLAIN, **options}))


ERRORS = {
    'conv-groups-inputs': (lambda: bad_conv(groups=4), "'layer'.*groups 4 must divide.*6 input"),
    'conv-groups-outputs': (lambda: bad_conv(groups=3), 'groups 3 must divide.*4 output'),
    'transpose-groups': (lambda: bad_transpose(groups=3), 'groups 3 must divide.*4 output'),
    'conv-padding': (lambda: bad_conv(padding='same'), "'SAME', 'VALID'.*found 'same'"),
    'transpose-padding': (lambda: bad_transpose(padding='FULL'), "'SAME', 'VALID'.*found 'FULL'"),
    'pool-padding': (lambda: bx.max_pool(X, 2, padding='full'), "'SAME', 'VALID'.*found 'full'"),
    'padding-rank': (lambda: bad_conv(padding=(1, 1, 1)), r'padding \(1, 1, 1\).*2 spatial axes'),
    'padding-mode': (lambda: bad_conv(padding_mode='mirror'), "'layer'.*reflect.*found 'mirror'"),
    'kernel-rank': (lambda: bad_conv(kernel_size=(3,)), r'kernel_size \(3,\).*2 spatial axes'),
    'transpose-kernel-rank': (
        lambda: bad_transpose(kernel_size=(3, 3, 3)),
        r'kernel_size \(3, 3, 3\).*2 spatial axes',
    ),
    'stride-rank': (lambda: bad_conv(stride=(1, 2, 1)), r'stride \(1, 2, 1\).*2 spatial axes'),
    'dilation-rank': (lambda: bad_conv(dilation=(1,)), r'dilation \(1,\).*2 spatial axes'),
    'window-rank': (lambda: bx.avg_pool(X, (2,)), r'window \(2,\).*2 spatial axes'),
    'no-spatial-axes': (lambda: call(bx.Conv(layer(), 4, 3), X[:, 0, 0]), '0 spatial axes'),
    'output-padding': (
        lambda: bad_transpose(stride=2, output_padding=2),
        "'layer'.*output_padding 2 must be less than stride 2",
    ),
    'group-norm-groups': (lambda: call(bx.GroupNorm(layer(), 4)), "'layer'.*groups 4.*6 channels"),
    'heads': (lambda: bx.MultiHeadAttention(layer(), 6, 4), "'layer'.*heads 4.*width 6"),
    'kv-heads': (
        lambda: bx.MultiHeadAttention(layer(), 6, 2, kv_heads=0),
        "'layer'.*kv_heads 0.*heads 2",
    ),
    'negative-rate': (lambda: bx.Dropout(layer(), -0.1), r"'layer'.*rate.*\[0, 1\].*-0.1"),
    'large-rate': (lambda: bx.DropPath(layer(), 1.5), r"'layer'.*rate.*\[0, 1\].*1.5"),
    'mlp-rate': (
        lambda: bx.Mlp(layer(), 2, 2, jnp.tanh, dropout_rate=2.0),
        "'layer/dropout'.*rate.*found 2.0",
    ),
    'mlp-hidden-rate': (
        lambda: bx.Mlp(layer(), 2, 2, jnp.tanh, hidden_dropout_rate=2.0),
        "'layer/hidden_dropout'.*rate.*found 2.0",
    ),
    'attention-rate': (
        lambda: bx.MultiHeadAttention(layer(), 6, 2, attention_dropout_rate=2.0),
        "'layer/attention_dropout'.*rate.*found 2.0",
    ),
    'single-value': (
        lambda: call(bx.BatchNorm(layer()), X[:1, 0, 0], is_training=True),
        r"'layer'.*more than one value per channel.*\(1, 6\)",
    ),
    'stored-shape': (
        lambda: bx.Linear(layer(), 3)(bx.Params().set('layer/w', jnp.ones((6, 2))), X),
        r"'layer/w'.*Linear expects shape \(6, 3\), found \(6, 2\)",
    ),
}


@table(ERRORS)
def test_mistakes_are_value_errors_that_say_what_was_found(row):
    mistake, message = row
    with pytest.raises(ValueError, match=message):
        mistake()


def test_sequential_refuses_what_it_cannot_call(monkeypatch):
    # The checker looks at one random item of a list, and would sometimes speak first.
    monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
    with pytest.raises(TypeError, match=r"layers\[1\] of 'layer' is not callable"):
        bx.Sequential(layer(), [jnp.tanh, 3])  # pyright: ignore[reportArgumentType]


WRONG_SHAPES = {
    'linear': lambda: call(bx.Linear(layer(), 3), jnp.ones(())),
    'linear-int': lambda: call(bx.Linear(layer(), 3), jnp.ones((2, 3), int)),
    'mlp': lambda: call(bx.Mlp(layer(), 3, 3, jnp.tanh), jnp.ones(())),
    'embed': lambda: call(bx.Embed(layer(), 3, 2), jnp.ones(2)),
    'attend': lambda: bx.Embed(layer(), 3, 2).attend(bx.Params(seed=0), jnp.ones(())),
    'conv': lambda: call(bx.Conv(layer(), 3, 3), jnp.ones(4)),
    'conv-transpose': lambda: call(bx.ConvTranspose(layer(), 3, 3), jnp.ones(4)),
    'layer-norm': lambda: call(bx.LayerNorm(layer()), jnp.ones(())),
    'rms-norm': lambda: call(bx.RMSNorm(layer()), jnp.ones(())),
    'group-norm': lambda: call(bx.GroupNorm(layer(), 1), jnp.ones(4)),
    'batch-norm': lambda: call(bx.BatchNorm(layer()), jnp.ones(4)),
    'attention': lambda: call(bx.MultiHeadAttention(layer(), 4, 2), jnp.ones((3, 4))),
    'attention-mask': lambda: call(
        bx.MultiHeadAttention(layer(), 4, 2), jnp.ones((2, 3, 4)), mask=jnp.ones((3, 3), bool)
    ),
    'lstm': lambda: call(bx.LSTM(layer(), 4), jnp.ones((2, 3))),
    'gru': lambda: call(bx.GRU(layer(), 4), jnp.ones((2, 3))),
    'resets': lambda: call(bx.GRU(layer(), 4), jnp.ones((2, 3, 1)), is_reset=jnp.ones(2, bool)),
    'drop-path': lambda: call(bx.DropPath(layer(), 0.5), jnp.ones(())),
    'max-pool': lambda: bx.max_pool(jnp.ones(4), 2),
    'avg-pool': lambda: bx.avg_pool(jnp.ones(4), 2),
}


@table(WRONG_SHAPES)
def test_wrong_shapes_are_type_errors(row):
    assert issubclass(jaxtyping.TypeCheckError, TypeError)
    with pytest.raises(jaxtyping.TypeCheckError):
        row()


# Low precision: inputs' shape, constructor.

LOW = {
    'linear': ((2, 3, 4), lambda g: bx.Linear(g, 3)),
    'mlp': ((2, 3, 4), lambda g: bx.Mlp(g, 5, 3, ACTIVATIONS['gelu'])),
    'conv': ((2, 5, 4, 4), lambda g: bx.Conv(g, 3, 3, stride=2)),
    'conv-reflect': ((2, 5, 4, 4), lambda g: bx.Conv(g, 3, 3, padding_mode='reflect')),
    'conv-transpose': ((2, 5, 4, 4), lambda g: bx.ConvTranspose(g, 3, 3, stride=2)),
    'layer-norm': ((2, 3, 4), bx.LayerNorm),
    'rms-norm': ((2, 3, 4), bx.RMSNorm),
    'layer-scale': ((2, 3, 4), bx.LayerScale),
    'group-norm': ((2, 3, 4), lambda g: bx.GroupNorm(g, 2)),
    'batch-norm': ((2, 3, 4), bx.BatchNorm),
    'batch-norm-training': ((2, 3, 4), lambda g: training(bx.BatchNorm(g))),
    'attention': ((2, 3, 4), lambda g: bx.MultiHeadAttention(g, 4, 2, is_causal=True)),
    'attention-training': (
        (2, 3, 4),
        lambda g: training(
            bx.MultiHeadAttention(g, 4, 2, attention_dropout_rate=0.1, dropout_rate=0.1)
        ),
    ),
    'dropout': ((2, 3), lambda g: training(bx.Dropout(g, 0.1))),
    'drop-path': ((2, 3), lambda g: training(bx.DropPath(g, 0.1))),
    'lstm': ((2, 3, 4), lambda g: bx.LSTM(g, 5)),
    'gru': ((2, 3, 4), lambda g: bx.GRU(g, 5)),
    'sequential': ((2, 4), lambda g: bx.Sequential(g, [bx.Linear(g / 'a', 3), jax.nn.relu])),
    'embed': ((2, 4), lambda g: bx.Embed(g, 5, 4).attend),
    'embed-ids': ((), lambda g: ids_of(bx.Embed(g, 5, 4))),
    'max-pool': ((2, 4, 4, 3), lambda g: lambda p, x: (bx.max_pool(x, 2, padding=1), p)),
    'avg-pool': ((2, 4, 4, 3), lambda g: lambda p, x: (bx.avg_pool(x, 2), p)),
    'avg-pool-uncounted': (
        (2, 4, 4, 3),
        lambda g: lambda p, x: (bx.avg_pool(x, 3, padding=1, count_include_pad=False), p),
    ),
}


def training(module):
    return functools.partial(module, is_training=True)


def ids_of(embed):
    return lambda params: embed(params, jnp.arange(3))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
@table(LOW)
def test_low_precision_in_is_low_precision_out(row, dtype):
    shape, build = row
    inputs = [jnp.asarray(normal(*shape), dtype)] if shape else []
    call = build(layer())
    params = bx.Params(seed=0).merge(random_params(call, *inputs, dtype=dtype)).finalize()
    outputs, after = jax.eval_shape(call, params, *inputs)
    assert {y.dtype for y in jax.tree.leaves(outputs)} == {jnp.dtype(dtype)}
    assert [p.dtype for p in after.values()] == [p.dtype for p in params.values()]


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_attention_steps_keep_low_precision(dtype):
    attention = bx.MultiHeadAttention(layer(), 4, 2)
    x = jnp.asarray(normal(2, 3, 4), dtype)
    params = random_params(attention, x, dtype=dtype)
    state = attention.initial_state(2, 5, x.dtype)
    (y, state), _ = jax.eval_shape(attention.step, params, x, state, jnp.zeros(2, int))
    assert {y.dtype, state.keys.dtype, state.values.dtype} == {jnp.dtype(dtype)}


def between_two():
    """256s and 258s: bfloat16 holds both, but not a mean between them."""
    return jnp.where(normal(4, 8, 32) < 0.5, 256, 258).astype(jnp.bfloat16)


def outlier():
    """A first number that is far from all others, which are far from zero."""
    return jnp.asarray(128 + normal(4, 8, 768)).at[..., 0].set(4096).astype(jnp.bfloat16)


def large():
    """Numbers whose squares are infinite in float16."""
    return jnp.asarray(400 * normal(4, 8, 32) + 500, jnp.float16)


NORMS = {
    'layer-norm': (bx.LayerNorm, reference.layer_norm, {'eps': 1e-5}),
    'rms-norm': (bx.RMSNorm, reference.rms_norm, {'eps': 1e-6}),
    'group-norm': (
        functools.partial(bx.GroupNorm, groups=4),
        reference.group_norm,
        {'groups': 4, 'eps': 1e-5},
    ),
    'batch-norm': (
        lambda g: training(bx.BatchNorm(g)),
        reference.batch_norm_training,
        {'eps': 1e-5},
    ),
}


@pytest.mark.parametrize('inputs', [between_two, outlier, large])
@table(NORMS)
def test_norms_compute_statistics_in_float32(row, inputs):
    build, expected, options = row
    call, x = build(layer()), inputs()
    params = random_params(call, x, dtype=x.dtype)
    p = by_name(params, [np.asarray(v, float) for v in jax.tree.leaves(params)])
    outputs, _ = jax.jit(call)(params, x)
    # One rounding of the outputs, no more.
    rounding = float(jnp.finfo(x.dtype).eps)
    np.testing.assert_allclose(
        np.asarray(outputs, float),
        expected(p, np.asarray(x, float), **options),
        rtol=rounding,
        atol=rounding,
    )


@pytest.mark.parametrize('core', [bx.LSTM, bx.GRU])
def test_low_precision_inputs_leave_the_state_of_a_loop_alone(core):
    with jax.numpy_dtype_promotion('standard'):
        module, x = core(layer(), 3), jnp.ones((2, 4, 5), jnp.bfloat16)
        (outputs, state), _ = module(bx.Params(seed=0), x)
    assert outputs.shape == (2, 4, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize('make', [bx.Conv, bx.ConvTranspose])
def test_convolutions_promote_as_matrix_products_do(make):
    module, x = make(layer(), 3, 2), jnp.ones((1, 4, 5), jnp.bfloat16)
    with jax.numpy_dtype_promotion('standard'):
        assert module(bx.Params(seed=0), x)[0].dtype == jnp.float32
    with pytest.raises(ValueError, match='promotion'):
        module(bx.Params(seed=0), x)


def test_a_constructor_that_refuses_leaves_its_node_free():
    node = layer()
    with pytest.raises(ValueError, match='heads 3 must divide'):
        bx.MultiHeadAttention(node, 8, 3)
    assert bx.MultiHeadAttention(node, 8, 2).path == 'layer'


MODULES = [
    kind for kind in vars(bx).values() if isinstance(kind, type) and issubclass(kind, bx.Module)
]


@pytest.mark.parametrize('kind', MODULES, ids=lambda kind: kind.__name__)
def test_help_says_what_a_call_does_and_names_its_defaults(kind):
    assert kind.__call__.__doc__
    assert ' at 0x' not in str(inspect.signature(kind))


@table(
    {
        'dropout': (lambda graph: bx.Dropout(graph, 0.5), (4, 6)),
        'drop path': (lambda graph: bx.DropPath(graph, 0.0), (4, 6)),
        'batch norm': (bx.BatchNorm, (4, 6)),
    }
)
def test_a_traced_is_training_is_refused_with_the_remedy(row, monkeypatch):
    make, shape = row
    model, x = make(layer()), jnp.ones(shape)
    params = random_params(model, x, dtype=jnp.float32).merge(bx.Params(0))
    # The checker would speak first.
    monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
    with pytest.raises(TypeError, match=r"jit\(model, static_argnames='is_training'\)"):
        jax.jit(model)(params, x, is_training=True)
    jax.jit(model, static_argnames='is_training')(params, x, is_training=True)


def test_batch_norm_keeps_the_digits_of_a_small_difference_from_a_large_mean():
    norm = bx.BatchNorm(layer(), use_scale=False, use_offset=False)
    entries = {'mean': jnp.full(1, 1000.0), 'var': jnp.full(1, 1e-4)}
    tag = {'tag': 'batch_stats'}
    params = bx.Params.from_entries(
        {f'layer/{name}': bx.Param(value, False, tag) for name, value in entries.items()}
    )
    x = jnp.asarray([[1000.01]], jnp.float32)
    expected = (np.float64(x[0, 0]) - 1000) / np.sqrt(1e-4 + 1e-5)
    np.testing.assert_allclose(norm(params, x)[0][0, 0], expected, rtol=1e-6)
