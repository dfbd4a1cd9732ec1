"""Every layer agrees with its counterpart in torch, in outputs and in gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import layer, normal, random_params, table

import blox as bx
from blox.layers import ACTIVATIONS

torch: Any = pytest.importorskip('torch')
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures('x64')


def close(found, expected):
    np.testing.assert_allclose(
        np.asarray(found), expected.detach().numpy(), rtol=1e-12, atol=1e-12, strict=True
    )


def assert_agrees(call, expected, *inputs):
    """`call(params, *inputs)` and `expected(p, *inputs)` have equal outputs and gradients.

    `p` maps names below the layer's path to tensors. Gradients are those of a randomly weighted
    sum of the outputs, with respect to every trainable parameter and every input.
    """
    trainable, rest = random_params(call, *inputs).split_trainable()

    def compute(trainable, inputs):
        return jax.tree.leaves(call(trainable.merge(rest), *inputs)[0])

    def program(trainable, inputs, weights):
        outputs, pull = jax.vjp(compute, trainable, inputs)
        return outputs, jax.tree.leaves(pull(weights))

    point = [torch.from_numpy(np.array(x)).requires_grad_() for x in jax.tree.leaves(trainable)]
    xs = [torch.from_numpy(x).requires_grad_() for x in inputs]
    p = dict(zip(trainable, point)) | dict(zip(rest, map(tensor, jax.tree.leaves(rest))))
    wanted = expected({path.removeprefix('layer/'): x for path, x in p.items()}, *xs)
    weights = [normal(*y.shape, seed=7) / np.sqrt(y.numel()) for y in wanted]
    wanted_gradients = torch.autograd.grad(wanted, point + xs, list(map(tensor, weights)))
    found, gradients = jax.jit(program)(trainable, inputs, weights)
    assert len(found) == len(wanted)
    for one, other in zip([*found, *gradients], [*wanted, *wanted_gradients]):
        close(one, other)


def tensor(array):
    return torch.from_numpy(np.array(array))


def channels_first(x):
    return x.movedim(-1, 1)


def channels_last(x):
    return x.movedim(1, -1)


# Convolutions: shape, kernel_size, options of ours, options of torch where they differ.

CONVS = {
    '1d': ((2, 7, 4), 3, {'padding': 1}),
    '1d-same': ((2, 7, 4), 4, {'padding': 'SAME'}, {'padding': 'same'}),
    '1d-valid-stride': ((2, 8, 4), 3, {'padding': 'VALID', 'stride': 2}, {'padding': 0}),
    '1d-stride-beyond-kernel': ((2, 8, 4), 2, {'padding': 1, 'stride': 3}),
    '2d': ((2, 5, 4, 3), 3, {'padding': 1}),
    '2d-no-bias': ((2, 5, 4, 3), 3, {'padding': 1, 'use_bias': False}),
    '2d-strides': ((2, 6, 5, 4), (3, 2), {'padding': (1, 0), 'stride': (2, 1)}),
    '2d-dilations': ((2, 7, 8, 4), 3, {'padding': (2, 1), 'dilation': (2, 3)}),
    '2d-same-dilation': ((2, 5, 6, 4), 3, {'dilation': 2}, {'padding': 'same'}),
    '2d-groups': ((2, 5, 4, 4), 3, {'padding': 1, 'groups': 2}),
    '2d-depthwise': ((2, 5, 4, 4), 3, {'padding': 1, 'groups': 4, 'stride': 2}),
    '2d-patches': ((2, 4, 6, 3), 2, {'padding': 'VALID', 'stride': 2}, {'padding': 0}),
    '2d-reflect': ((2, 5, 4, 3), 3, {'padding': (2, 1), 'padding_mode': 'reflect'}),
    '2d-replicate': ((2, 5, 4, 3), 3, {'padding': 2, 'padding_mode': 'replicate', 'stride': 2}),
    '2d-circular': ((2, 5, 4, 3), 3, {'padding': (1, 2), 'padding_mode': 'circular'}),
    '3d': ((2, 3, 4, 3, 4), 3, {'padding': 1, 'stride': (1, 2, 1), 'groups': 2}),
    '3d-circular': ((1, 3, 4, 3, 2), 3, {'padding': 1, 'padding_mode': 'circular'}),
}

TRANSPOSED = {
    '1d': ((2, 4, 4), 3, {'padding': 'VALID'}, {'padding': 0}),
    '1d-stride': ((2, 4, 4), 3, {'padding': 1, 'stride': 2, 'output_padding': 1}),
    '1d-stride-beyond-kernel': (
        (2, 4, 4),
        2,
        {'padding': 0, 'stride': 4, 'output_padding': 3},
    ),
    '2d': ((2, 3, 4, 3), 4, {'padding': 1, 'stride': 2}),
    '2d-no-bias': ((2, 3, 4, 3), 2, {'padding': 0, 'stride': 2, 'use_bias': False}),
    '2d-dilation': ((2, 3, 4, 3), 3, {'padding': 2, 'dilation': 2, 'output_padding': 1}),
    '2d-groups': ((2, 3, 4, 4), 3, {'padding': (1, 0), 'stride': (2, 1), 'groups': 2}),
    '2d-same': ((2, 3, 4, 3), 3, {}, {'padding': 1}),
    '3d': ((1, 2, 3, 2, 4), 3, {'padding': 1, 'stride': (1, 2, 1), 'groups': 2}),
}


def options_of_torch(options, instead=()):
    kept = {name: value for name, value in options.items() if name != 'use_bias'}
    return {'bias': options.get('use_bias', True), **kept, **dict(instead)}


def convolve(cls, w, p, x, kernel_size, options):
    """The torch module `cls` with the weight `w`; channels last outside."""
    inputs, outputs = x.shape[-1], 4
    module = cls(inputs, outputs, kernel_size, **options).double()
    weights = {'weight': w} | ({'bias': p['b']} if 'b' in p else {})
    return [channels_last(torch.func.functional_call(module, weights, channels_first(x)))]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@table(CONVS)
def test_conv_agrees(row):
    shape, kernel_size, options, *instead = row
    cls = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[len(shape) - 3]
    theirs = options_of_torch(options, *instead)

    def expected(p, x):
        # [*kernel, inputs, outputs] to [outputs, inputs, *kernel]
        w = p['w'].movedim((-1, -2), (0, 1))
        return convolve(cls, w, p, x, kernel_size, theirs)

    assert_agrees(bx.Conv(layer(), 4, kernel_size, **options), expected, normal(*shape))


@table(TRANSPOSED)
def test_conv_transpose_agrees(row):
    shape, kernel_size, options, *instead = row
    cls = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    theirs = options_of_torch(options, *instead)
    groups = options.get('groups', 1)

    def expected(p, x):
        # [*kernel, inputs / groups, outputs] to [inputs, outputs / groups, *kernel]
        w = torch.cat(p['w'].movedim((-2, -1), (0, 1)).chunk(groups, 1), 0)
        return convolve(cls[len(shape) - 3], w, p, x, kernel_size, theirs)

    conv = bx.ConvTranspose(layer(), 4, kernel_size, **options)
    assert_agrees(conv, expected, normal(*shape))


# Pooling: shape, window, options.

POOLS = {
    '1d': ((2, 7, 3), 2, {}),
    '1d-overlapping': ((2, 7, 3), 3, {'stride': 1, 'padding': 1}),
    '2d': ((2, 4, 6, 3), 2, {}),
    '2d-padding': ((2, 5, 6, 3), 3, {'stride': 2, 'padding': 1}),
    '2d-pairs': ((2, 5, 6, 3), (3, 2), {'stride': (2, 1), 'padding': (1, 0)}),
    '3d': ((1, 4, 3, 2, 3), 2, {'stride': 1, 'padding': 1}),
}


def pooled(functions, options, x, window):
    pool = functions[x.ndim - 3]
    return [channels_last(pool(channels_first(x), window, **options))]


@table(POOLS)
def test_max_pool_agrees(row):
    shape, window, options = row
    assert_agrees(
        lambda params, x: (bx.max_pool(x, window, **options), params),
        lambda p, x: pooled((F.max_pool1d, F.max_pool2d, F.max_pool3d), options, x, window),
        normal(*shape),
    )


@pytest.mark.parametrize('counted', [True, False])
@table(POOLS)
def test_avg_pool_agrees(row, counted):
    shape, window, options = row
    options = {**options, 'count_include_pad': counted}
    assert_agrees(
        lambda params, x: (bx.avg_pool(x, window, **options), params),
        lambda p, x: pooled((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), options, x, window),
        normal(*shape),
    )


# Normalization.

AFFINE = {
    'both': {},
    'no-offset': {'use_offset': False},
    'neither': {'use_scale': False, 'use_offset': False, 'eps': 0.1},
}


@table(AFFINE)
def test_layer_norm_agrees(row):
    def expected(p, x):
        return [F.layer_norm(x, (6,), p.get('scale'), p.get('offset'), row.get('eps', 1e-5))]

    assert_agrees(bx.LayerNorm(layer(), **row), expected, normal(2, 3, 6))


@table({'scale': {}, 'no-scale': {'use_scale': False, 'eps': 0.1}})
def test_rms_norm_agrees(row):
    def expected(p, x):
        return [F.rms_norm(x, (6,), p.get('scale'), row.get('eps', 1e-6))]

    assert_agrees(bx.RMSNorm(layer(), **row), expected, normal(2, 3, 6))


@table(AFFINE)
def test_group_norm_agrees(row):
    def expected(p, x):
        rest = p.get('scale'), p.get('offset'), row.get('eps', 1e-5)
        return [channels_last(F.group_norm(channels_first(x), 3, *rest))]

    assert_agrees(bx.GroupNorm(layer(), 3, **row), expected, normal(2, 3, 4, 6))


@pytest.mark.parametrize('is_training', [True, False])
@table(AFFINE)
def test_batch_norm_agrees(row, is_training):
    def expected(p, x):
        mean, var = p['mean'].clone(), p['var'].clone()
        rest = p.get('scale'), p.get('offset'), is_training, 0.1, row.get('eps', 1e-5)
        return [channels_last(F.batch_norm(channels_first(x), mean, var, *rest))]

    norm = functools.partial(bx.BatchNorm(layer(), **row), is_training=is_training)
    assert_agrees(norm, expected, normal(2, 3, 4, 6))


@pytest.mark.parametrize('momentum', [0.1, 0.7])
def test_batch_norm_stores_the_same_statistics_after_three_steps(momentum):
    norm = bx.BatchNorm(layer(), decay=1 - momentum)
    params = random_params(norm, normal(2, 3, 6))
    mean, var = (tensor(params[f'layer/{name}'].value) for name in ('mean', 'var'))
    for step in range(3):
        x = normal(2, 3, 6, seed=step)
        _, params = norm(params, jnp.asarray(x), is_training=True)
        F.batch_norm(channels_first(tensor(x)), mean, var, training=True, momentum=momentum)
    close(params['layer/mean'].value, mean)
    close(params['layer/var'].value, var)


# Attention, recurrence, dense layers.

PADDED = (np.arange(5) < np.array([[3], [5]]))[:, None, None]
ATTENTION = {
    'plain': ({}, None),
    'causal': ({'is_causal': True}, None),
    'no-qkv-bias': ({'qkv_bias': False}, None),
    'scale': ({'scale': 0.3}, None),
    'padding': ({}, PADDED),
    'padding-causal': ({'is_causal': True}, PADDED),
}


def attend(p, x, mask, is_causal=False, qkv_bias=True, scale=None):
    """torch's attention between its linear maps, two heads of width 3."""
    qkv = F.linear(x, p['qkv/w'].T, p['qkv/b'] if qkv_bias else None)
    # [3, batch, heads, length, head_dim]
    q, k, v = qkv.unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
    allowed = None if mask is None else tensor(mask)
    if mask is not None and is_causal:
        allowed, is_causal = allowed & torch.ones(5, 5).tril().bool(), False
    mixed = F.scaled_dot_product_attention(
        q, k, v, attn_mask=allowed, is_causal=is_causal, scale=scale
    )
    return [F.linear(mixed.transpose(1, 2).flatten(2), p['proj/w'].T, p['proj/b'])]


@table(ATTENTION)
def test_attention_agrees(row):
    options, mask = row
    attention = bx.MultiHeadAttention(layer(), 6, 2, **options)
    assert_agrees(
        lambda p, x: attention(p, x, None if mask is None else jnp.asarray(mask)),
        lambda p, x: attend(p, x, mask, **options),
        normal(2, 5, 6),
    )


def run(module, p, x, state):
    """A torch recurrent module with our weights; torch has a second bias for the LSTM too."""
    hidden_bias = p.get('hidden/b', torch.zeros_like(p['inputs/b']))
    weights = {
        'weight_ih_l0': p['inputs/w'].T,
        'weight_hh_l0': p['hidden/w'].T,
        'bias_ih_l0': p['inputs/b'],
        'bias_hh_l0': hidden_bias,
    }
    return torch.func.functional_call(module, weights, (x, state))


def test_lstm_agrees():
    lstm, module = bx.LSTM(layer(), 5), torch.nn.LSTM(2, 5, batch_first=True).double()

    def expected(p, x, hidden, cell):
        outputs, (hidden, cell) = run(module, p, x, (hidden[None], cell[None]))
        return [outputs, hidden[0], cell[0]]

    assert_agrees(
        lambda p, x, *state: lstm(p, x, bx.LSTMState(*state)),
        expected,
        normal(3, 4, 2),
        normal(3, 5, seed=1),
        normal(3, 5, seed=2),
    )


def test_gru_agrees():
    gru, module = bx.GRU(layer(), 5), torch.nn.GRU(2, 5, batch_first=True).double()

    def expected(p, x, hidden):
        outputs, hidden = run(module, p, x, hidden[None])
        return [outputs, hidden[0]]

    assert_agrees(gru, expected, normal(3, 4, 2), normal(3, 5, seed=1))


@pytest.mark.parametrize('use_bias', [True, False])
def test_linear_agrees(use_bias):
    assert_agrees(
        bx.Linear(layer(), 5, use_bias=use_bias),
        lambda p, x: [F.linear(x, p['w'].T, p.get('b'))],
        normal(2, 3, 4),
    )


def test_embed_agrees():
    embed, ids = bx.Embed(layer(), 7, 4), np.array([[1, 1], [6, 0]])
    assert_agrees(
        lambda params: embed(params, jnp.asarray(ids)),
        lambda p: [F.embedding(tensor(ids), p['w'])],
    )


TORCH_ACTIVATIONS = {
    'gelu': F.gelu,
    'gelu_tanh': functools.partial(F.gelu, approximate='tanh'),
    'relu': F.relu,
    # As transformers and timm write it.
    'quick_gelu': lambda x: x * torch.sigmoid(1.702 * x),
    'silu': F.silu,
    'tanh': torch.tanh,
}


def test_every_activation_has_a_counterpart():
    assert set(TORCH_ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_activations_agree(name):
    assert_agrees(
        lambda params, x: (ACTIVATIONS[name](x), params),
        lambda p, x: [TORCH_ACTIVATIONS[name](x)],
        np.linspace(-12, 12, 50),
    )


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_mlp_agrees(name):
    def expected(p, x):
        hidden = TORCH_ACTIVATIONS[name](F.linear(x, p['fc1/w'].T, p['fc1/b']))
        return [F.linear(hidden, p['fc2/w'].T, p['fc2/b'])]

    assert_agrees(bx.Mlp(layer(), 6, 3, ACTIVATIONS[name]), expected, normal(2, 5, 4))
