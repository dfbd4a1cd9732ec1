"""JAX's transformations of a layer compute what plain calls of it do, Params included."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, random_params
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import blox as bx
from blox.layers import ACTIVATIONS

pytestmark = pytest.mark.usefixtures('x64')

close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12, strict=True)

TOKENS = (4, 3, 6)
IMAGES = (4, 5, 4, 6)
MASK = np.tril(np.ones((3, 3), bool))[None, None]


def training(module):
    return functools.partial(module, is_training=True)


def function(pool, **options):
    """A function of inputs alone, as a call that takes Params and gives them back."""
    return lambda g: lambda params, x: (pool(x, **options), params)


def embed(g):
    module = bx.Embed(g, 5, 3)
    return lambda params, x: module(params, jnp.abs(3 * x).astype(int) % 5)


def masked(g):
    attention = bx.MultiHeadAttention(g, 6, 2)
    return lambda params, x: attention(params, x, jnp.asarray(MASK))


def cached(g):
    attention = bx.MultiHeadAttention(g, 6, 2)

    def call(params, x):
        state = attention.initial_state(len(x), 5, x.dtype)
        position = (x[:, 0, 0] > 0).astype(int)
        (y, state), params = attention.step(params, x, state, position)
        return (y, state), params

    return call


def with_state(g):
    lstm = bx.LSTM(g, 5)
    return lambda params, x, *state: lstm(params, x, bx.LSTMState(*state))


def with_resets(g):
    gru = bx.GRU(g, 5)
    return lambda params, x, state: gru(params, x, state, x[..., 0] > 0)


def unrolled(g):
    gru = bx.GRU(g, 5)
    return lambda params, x, state: bx.static_scan(gru, params, x, state)


def net(g, axis_name=()):
    layers = [
        bx.Conv(g / 'conv', 4, 3),
        bx.BatchNorm(g / 'norm', axis_name=axis_name),
        jax.nn.relu,
        functools.partial(jnp.mean, axis=(1, 2)),
        bx.Linear(g / 'head', 3),
    ]
    return bx.Sequential(g, layers)


# Constructor, then shapes of the inputs, whose first axis is the batch.
INFERENCE = {
    'linear': (lambda g: bx.Linear(g, 3), TOKENS),
    'mlp': (lambda g: bx.Mlp(g, 5, 3, ACTIVATIONS['gelu']), TOKENS),
    'embed': (embed, (4, 3)),
    'attend': (lambda g: bx.Embed(g, 5, 6).attend, TOKENS),
    'sequential': (net, IMAGES),
    'conv': (lambda g: bx.Conv(g, 4, 3, stride=2, groups=2), IMAGES),
    'conv-circular': (lambda g: bx.Conv(g, 4, 3, padding_mode='circular'), IMAGES),
    'conv-transpose': (lambda g: bx.ConvTranspose(g, 4, 3, stride=2), IMAGES),
    'max-pool': (function(bx.max_pool, window=2), IMAGES),
    'avg-pool': (function(bx.avg_pool, window=2), IMAGES),
    'avg-pool-uncounted': (
        function(bx.avg_pool, window=3, padding=1, count_include_pad=False),
        IMAGES,
    ),
    'layer-norm': (bx.LayerNorm, TOKENS),
    'rms-norm': (bx.RMSNorm, TOKENS),
    'layer-scale': (bx.LayerScale, TOKENS),
    'group-norm': (lambda g: bx.GroupNorm(g, 2), IMAGES),
    'batch-norm': (bx.BatchNorm, IMAGES),
    'attention': (lambda g: bx.MultiHeadAttention(g, 6, 2, is_causal=True), TOKENS),
    'attention-mask': (masked, TOKENS),
    'attention-step': (cached, TOKENS),
    'lstm': (lambda g: bx.LSTM(g, 5), TOKENS),
    'lstm-state': (with_state, TOKENS, (4, 5), (4, 5)),
    'gru': (lambda g: bx.GRU(g, 5), TOKENS),
    'gru-resets': (with_resets, TOKENS, (4, 5)),
    'gru-static-scan': (unrolled, TOKENS, (4, 5)),
    'dropout': (lambda g: bx.Dropout(g, 0.5), TOKENS),
    'drop-path': (lambda g: bx.DropPath(g, 0.5), TOKENS),
}
RANDOM = {
    'dropout-training': (lambda g: training(bx.Dropout(g, 0.5)), (4, 5, 6)),
    'drop-path-training': (lambda g: training(bx.DropPath(g, 0.5)), (32, 2)),
    'mlp-training': (
        lambda g: training(bx.Mlp(g, 5, 3, jnp.tanh, hidden_dropout_rate=0.3, dropout_rate=0.5)),
        (4, 5, 6),
    ),
    'attention-training': (
        lambda g: training(
            bx.MultiHeadAttention(g, 6, 2, attention_dropout_rate=0.2, dropout_rate=0.5)
        ),
        (4, 5, 6),
    ),
}
STATISTICS = {
    'batch-norm-training': (lambda g: training(bx.BatchNorm(g)), IMAGES),
    'sequential-training': (lambda g: training(net(g)), IMAGES),
}
CASES = INFERENCE | RANDOM | STATISTICS


@functools.cache
def example(name, lanes=0):
    """(call, params, inputs) of a case; with `lanes`, inputs have that many in front."""
    build, *shapes = CASES[name]
    call = build(bx.Graph('layer'))
    single = [normal(*shape, seed=9) for shape in shapes]
    several = [normal(lanes, *shape, seed=9) for shape in shapes]
    inputs = [jnp.asarray(x) for x in (several if lanes else single)]
    return call, bx.Params(seed=3).merge(random_params(call, *single)).finalize(), inputs


def numbers(tree):
    """Leaves as NumPy arrays, keys as the words they are made of."""
    leaves = jax.tree.leaves(tree)
    is_key = [jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    return [np.asarray(jax.random.key_data(x) if k else x) for x, k in zip(leaves, is_key)]


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(numbers(found), numbers(expected)):
        close(one, other)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@functools.cache
def plain(name):
    call, params, inputs = example(name)
    return call(params, *inputs)


def each_lane(call, params, inputs):
    """What calls on one lane after another return, stacked."""
    # Compiled for speed: `test_jit_agrees` compares it with the plain call.
    call = jax.jit(call)
    return stacked([call(params, *lane) for lane in zip(*inputs)])


def loss(outputs):
    return sum(jnp.sin(y).sum() for y in jax.tree.leaves(outputs))


def gradients(call, params, inputs):
    """((loss, params), gradients of it) with respect to trainable Params and inputs."""

    def loss_and_params(trainable, rest, inputs):
        outputs, params = call(trainable.merge(rest), *inputs)
        return loss(outputs), params

    gradient = jax.value_and_grad(loss_and_params, argnums=(0, 2), has_aux=True)
    return jax.jit(gradient)(*params.split_trainable(), inputs)


@functools.cache
def plain_gradients(name):
    return gradients(*example(name))


def sharded(call, count):
    """`call` on four devices, each with its part of the batch and all Params."""
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
    specs = (P(), *[P('data')] * count)
    return jax.shard_map(call, mesh=mesh, in_specs=specs, out_specs=(P('data'), P()))


@pytest.mark.parametrize('name', CASES)
def test_params_come_back_in_the_structure_they_went_in(name):
    params, after = example(name)[1], plain(name)[1]
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert [p.dtype for p in after.values()] == [p.dtype for p in params.values()]


@pytest.mark.parametrize('name', CASES)
def test_jit_agrees(name):
    call, params, inputs = example(name)
    assert_same(jax.jit(call)(params, *inputs), plain(name))


@pytest.mark.parametrize('name', CASES)
def test_eval_shape_agrees(name):
    call, params, inputs = example(name)
    found, expected = jax.eval_shape(call, params, *inputs), plain(name)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize('name', CASES)
def test_grad_agrees(name):
    _, params, inputs = example(name)
    (value, after), gradient = plain_gradients(name)
    outputs, expected = plain(name)
    assert_same((value, after), (loss(outputs), expected))
    trainable, _ = params.split_trainable()
    assert jax.tree.structure(gradient) == jax.tree.structure((trainable, inputs))
    assert all(np.isfinite(x).all() for x in numbers(gradient))


@pytest.mark.parametrize('name', CASES)
def test_checkpoint_agrees(name):
    call, params, inputs = example(name)
    assert_same(gradients(jax.checkpoint(call), params, inputs), plain_gradients(name))


@pytest.mark.parametrize('name', INFERENCE | RANDOM)
def test_vmap_over_inputs_agrees_and_leaves_params_without_lanes(name):
    call, params, inputs = example(name, lanes=3)
    in_axes = (None, *[0] * len(inputs))
    outputs, after = jax.jit(jax.vmap(call, in_axes, out_axes=(0, None)))(params, *inputs)
    expected, moved = each_lane(call, params, inputs)
    assert_same((outputs, after), (expected, jax.tree.map(lambda x: x[0], moved)))


@pytest.mark.parametrize('name', STATISTICS)
def test_vmap_over_inputs_gives_each_lane_its_own_statistics(name):
    call, params, inputs = example(name, lanes=3)
    found = jax.jit(jax.vmap(call, (None, 0)))(params, *inputs)
    assert_same(found, each_lane(call, params, inputs))


@pytest.mark.parametrize('name', CASES)
def test_scan_that_carries_params_agrees_with_a_loop(name):
    call, params, inputs = example(name, lanes=3)

    def body(params, now):
        outputs, params = call(params, *now)
        return params, outputs

    found = jax.jit(lambda params, inputs: jax.lax.scan(body, params, inputs))(params, inputs)
    outputs, step = [], jax.jit(body)
    for now in zip(*inputs):
        params, output = step(params, now)
        outputs.append(output)
    assert_same(found, (params, stacked(outputs)))


@pytest.mark.parametrize('name', INFERENCE)
def test_shard_map_over_the_batch_agrees(name):
    call, params, inputs = example(name)
    assert_same(jax.jit(sharded(call, len(inputs)))(params, *inputs), plain(name))


@pytest.mark.parametrize('name', ['linear', 'conv', 'attention', 'lstm-state', 'sequential'])
def test_gradients_through_shard_map_agree(name):
    call, params, inputs = example(name)
    found = gradients(sharded(call, len(inputs)), params, inputs)
    assert_same(found, plain_gradients(name))


# Batch statistics over lanes and devices.


def whole_and_shared(axis_name):
    """The same layers twice: with the statistics of their own batch, and of all lanes."""
    whole, params, (x,) = example('sequential-training')
    return whole, training(net(bx.Graph('layer'), axis_name=axis_name)), params, x


def test_batch_norm_under_vmap_is_that_of_the_whole_batch():
    whole, shared, params, x = whole_and_shared('lanes')
    lanes = jax.vmap(shared, (None, 0), (0, None), axis_name='lanes')
    outputs, after = jax.jit(lanes)(params, x.reshape(2, 2, *x.shape[1:]))
    assert_same((outputs.reshape(4, -1), after), whole(params, x))


def test_batch_norm_under_shard_map_is_that_of_the_whole_batch():
    whole, shared, params, x = whole_and_shared('data')
    assert_same(jax.jit(sharded(shared, 1))(params, x), whole(params, x))


def test_gradients_of_batch_norm_under_shard_map_are_those_of_the_whole_batch():
    whole, shared, params, x = whole_and_shared('data')
    found = gradients(sharded(shared, 1), params, [x])
    assert_same(found, gradients(whole, params, [x]))


# Random masks over lanes and devices. All lanes have equal inputs, so outputs tell masks.


def folded(call):
    def lane(params, x, index):
        outputs, after = call(params.fold_rng(index), x)
        return outputs, after.unfold_rng(params)

    return lane


def lane_by_lane(call, params, x):
    """Plain calls with the rng folded by hand."""
    return jnp.stack([call(params.fold_rng(i), x)[0] for i in range(4)])


def on_devices(call):
    """`call` in four lanes of `shard_map`, each with all of `x`, outputs stacked."""

    def lane(params, x, *index):
        outputs, params = call(params, x[0], *(i[0] for i in index))
        return outputs[None], params

    return lambda params, *inputs: jax.jit(sharded(lane, len(inputs)))(params, *inputs)


def on_lanes(call):
    return lambda params, *inputs: jax.jit(
        jax.vmap(call, (None, *[0] * len(inputs)), out_axes=(0, None))
    )(params, *inputs)


LANES: Any = pytest.mark.parametrize('spread', [on_lanes, on_devices])


@LANES
@pytest.mark.parametrize('name', RANDOM)
def test_without_fold_rng_all_lanes_share_a_mask(name, spread):
    call, params, (x,) = example(name)
    outputs, after = spread(call)(params, jnp.stack([x] * 4))
    expected, moved = call(params, x)
    assert_same((outputs, after), (jnp.stack([expected] * 4), moved))


@LANES
@pytest.mark.parametrize('name', RANDOM)
def test_fold_rng_gives_each_lane_its_own_mask_and_unfold_rng_one_params(name, spread):
    call, params, (x,) = example(name)
    outputs, after = spread(folded(call))(params, jnp.stack([x] * 4), jnp.arange(4))
    assert len({y.tobytes() for y in np.asarray(outputs)}) == 4
    assert_same((outputs, after), (lane_by_lane(call, params, x), call(params, x)[1]))


def test_fold_rng_takes_the_index_of_a_device():
    call, params, (x,) = example('dropout-training')

    def lane(params, x):
        outputs, params = folded(call)(params, x[0], jax.lax.axis_index('data'))
        return outputs[None], params

    outputs, after = jax.jit(sharded(lane, 1))(params, jnp.stack([x] * 4))
    assert_same((outputs, after), (lane_by_lane(call, params, x), call(params, x)[1]))
