"""Blocks run by one scan: as in a loop, but for the time that it takes to compile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, table

import blox as bx
from blox.layers.initializers import Ones


class Block(bx.Module):
    """A linear layer, a batch norm and a dropout around a shortcut."""

    def __init__(self, graph, rate=0.0, width=4, activation=jnp.tanh):
        super().__init__(graph)
        self.activation = activation
        self.linear = bx.Linear(graph / 'linear', width)
        self.norm = bx.BatchNorm(graph / 'norm')
        self.dropout = bx.Dropout(graph / 'dropout', rate)

    def __call__(self, params, x, factor=1.0, *, is_training=False):
        y, params = self.linear(params, x)
        y, params = self.norm(params, self.activation(y), is_training=is_training)
        y, params = self.dropout(params, y, is_training=is_training)
        return x + y * factor, params


class Net(bx.Module):
    """Blocks in a loop, or under a scan."""

    def __init__(self, graph, blocks, *, scanned=True, remat=False):
        super().__init__(graph)
        self.blocks, self.scanned, self.remat = blocks, scanned, remat

    def __call__(self, params, x, *args, **kwargs):
        if self.scanned:
            return bx.scan(self.blocks, params, x, *args, remat=self.remat, **kwargs)
        for block in self.blocks:
            x, params = block(params, x, *args, **kwargs)
        return x, params


def net(depth=5, rates=(0.0,) * 99, **options):
    graph = bx.Graph('net')
    return Net(graph, [Block(graph / f'block{i}', rates[i]) for i in range(depth)], **options)


X = jnp.asarray(normal(6, 4), jnp.float32)
RISING = [0.0, 0.1, 0.2, 0.3, 0.4]


def assert_close(a, b, **bounds):
    assert list(a) == list(b)
    for path in a:
        if path == 'rng':
            assert int(a[path].value[1]) == int(b[path].value[1])
        else:
            np.testing.assert_allclose(a[path].value, b[path].value, **bounds, err_msg=path)


@table(
    {
        'evaluation': ({}, {}),
        'training': ({'is_training': True}, {}),
        'remat': ({'is_training': True}, {'remat': True}),
    }
)
def test_it_gives_what_a_loop_gives(x64, row):
    options, how = row
    loop, scanned = net(rates=RISING, scanned=False), net(rates=RISING, **how)
    params, x = bx.init(loop, X).cast(jnp.float64), X.astype(jnp.float64)
    stacked = params.stack('net/block{i}')

    def loss(trainable, rest, model):
        y, after = model(trainable.merge(rest), x, 0.5, **options)
        return (y**3).sum(), (y, after)

    grad = functools.partial(jax.grad, has_aux=True)
    expected, (y, after) = grad(loss)(*params.split_trainable(), loop)
    found, (scanned_y, scanned_after) = grad(loss)(*stacked.split_trainable(), scanned)
    np.testing.assert_allclose(scanned_y, y, rtol=1e-12)
    assert_close(found.unstack(), expected, rtol=1e-10, atol=1e-12)
    assert_close(scanned_after.unstack(), after, rtol=1e-12)


def test_initial_values_are_those_of_a_loop():
    expected = bx.init(net(scanned=False), X, seed=3)
    found = bx.init(net(), X, seed=3)
    assert found['net/block*/linear/w'].shape == (5, 4, 4)
    assert_close(found.unstack(), expected, rtol=0)
    assert jax.tree.structure(bx.spec(net(), X)) == jax.tree.structure(found)


def test_a_first_call_without_init_makes_stacked_entries():
    y, params = net()(bx.Params(3), X)
    expected = bx.init(net(), X, seed=3)
    assert_close(params.finalize(), expected, rtol=0)
    np.testing.assert_allclose(net()(params, X)[0], y, atol=1e-5)


def test_a_program_does_not_grow_with_depth():
    def size(depth):
        model = net(depth)
        params = bx.spec(model, X)
        return str(jax.make_jaxpr(model)(params, X)).count('\n')

    assert size(9) == size(3)


def test_only_what_blocks_change_comes_out_anew():
    model = net()
    params = bx.init(model, X)
    program = jax.make_jaxpr(lambda p: model(p, X, is_training=True)[1])(params)
    (scan,) = [e for e in program.eqns if e.primitive.name == 'scan']
    shapes = [v.aval.shape for v in scan.outvars if v.aval.shape[:1] == (5,)]
    assert shapes == [(5, 4), (5, 4)]  # mean and var


def test_blocks_are_tapped_one_by_one():
    loop, scanned = net(scanned=False), net()
    params = bx.init(loop, X)
    (y, expected), _ = bx.tap(loop, 'net/block*/linear')(params, X)
    (z, found), after = bx.tap(scanned, 'net/block*/linear')(params.stack('net/block{i}'), X)
    np.testing.assert_array_equal(z, y)
    assert list(found) == list(expected)
    for path in found:
        np.testing.assert_array_equal(found[path], expected[path])
    assert list(after) == list(params.stack('net/block{i}'))


def test_vmap_and_jit_apply():
    model = net()
    params = bx.init(model, X)
    batched = jax.jit(jax.vmap(model, in_axes=(None, 0), out_axes=(0, None)))
    found, _ = batched(params, jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(found[1], model(params, 2 * X)[0], rtol=1e-5)


def test_blocks_without_parameters_run_too():
    graph = bx.Graph('net')
    blocks = [bx.Dropout(graph / f'block{i}', 0.5) for i in range(3)]
    params = bx.Params(0).finalize()
    found, after = bx.scan(blocks, params, X, is_training=True)
    expected = X
    for block in blocks:
        expected, params = block(params, expected, is_training=True)
    np.testing.assert_array_equal(found, expected)
    assert int(after['rng'].value[1]) == int(params['rng'].value[1]) == 3


def test_a_rate_of_one_that_is_scanned_has_a_gradient():
    graph = bx.Graph('net')
    blocks = [bx.Dropout(graph / f'block{i}', rate) for i, rate in enumerate((0.0, 1.0))]
    call = lambda x: bx.scan(blocks, bx.Params(0).finalize(), x, is_training=True)[0].sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(call)(X), 0)


def blocks_that(change):
    graph = bx.Graph('net')
    return [Block(graph / 'block0'), change(graph / 'block1')]


@table(
    {
        'sizes': (lambda g: Block(g, width=3), r"output_size of '/linear' is 4 and 3"),
        'functions': (
            lambda g: Block(g, activation=jnp.sin),
            "activation of 'each' is tanh and sin",
        ),
        'classes': (lambda g: bx.Linear(g, 4), "the class of 'each' is Block and Linear"),
    }
)
def test_blocks_that_differ_are_refused(row):
    other, message = row
    with pytest.raises(ValueError, match=f"'net/block0' and 'net/block1' cannot run .* {message}"):
        bx.scan(blocks_that(other), bx.Params(0), X)


class Pair(bx.Module):
    """Calls what it is given, in that order."""

    def __init__(self, graph, make):
        super().__init__(graph)
        self.parts = make(graph)

    def __call__(self, params, x):
        for layer, factor in self.parts:
            y, params = layer(params, x)
            x = x + y * factor
        return x, params


def two(graph):
    return bx.Linear(graph / 'a', 4), bx.Linear(graph / 'b', 4)


@table(
    {
        'numbers in a list': lambda g, i: [(bx.Linear(g / 'a', 4), float(i))],
        'another order': lambda g, i: [(layer, 1.0) for layer in two(g)[:: 1 - 2 * i]],
        'other modules': lambda g, i: [(bx.Linear(g.root / f'outside{i}', 4), 1.0)],
    }
)
def test_blocks_that_differ_in_what_they_call_are_refused(row):
    graph = bx.Graph('net')
    blocks = [
        Pair(graph / f'block{i}', functools.partial(lambda g, i: row(g, i), i=i)) for i in range(2)
    ]
    with pytest.raises(ValueError, match="cannot run under one scan: parts of 'each' is"):
        bx.scan(blocks, bx.Params(0), X)


def test_one_module_may_serve_all_blocks():
    graph = bx.Graph('net')
    shared = bx.Linear(graph / 'shared', 4)
    blocks = [
        Pair(graph / f'block{i}', lambda g: [(bx.Linear(g / 'a', 4), 1.0), (shared, 1.0)])
        for i in range(3)
    ]
    params = bx.init(lambda p, x: bx.scan(blocks, p, x), X)
    assert 'net/shared/w' in list(params)
    expected, own = X, params.unstack()
    for block in blocks:
        expected, own = block(own, expected)
    np.testing.assert_allclose(bx.scan(blocks, params, X)[0], expected, rtol=1e-5)


class Scaled(bx.Module):
    """Adds its inputs times a number of its own."""

    def __init__(self, graph, factor):
        super().__init__(graph)
        self.factor = factor

    def __call__(self, params, x):
        return x + x * self.factor, params


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32, jnp.float64])
def test_numbers_that_differ_leave_the_dtype_as_it_is(x64, dtype):
    graph = bx.Graph('net')
    blocks = [Scaled(graph / f'block{i}', 0.5**i) for i in range(3)]
    found, _ = bx.scan(blocks, bx.Params(0).finalize(), X.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, X.astype(dtype) * jnp.asarray(3.75, dtype), rtol=1e-2)


def test_blocks_that_are_stacked_in_part_are_refused():
    model = net()
    params = bx.init(model, X)
    own = params.unstack()
    for part in ('net/block*/norm/scale', 'net/block*/linear/w'):
        some = params.partition(part)[1].merge(own.partition(part)[0])
        with pytest.raises(ValueError, match=r'is there by itself beside stacked entries'):
            model(some, X)
    adapted = bx.lora(own, 'net/block*/linear/w', rank=1).partition('**/*lora*')[0]
    with pytest.raises(ValueError, match=r'block0/linear/w_lora_a. is there by itself'):
        model(params.merge(adapted), X)


def test_blocks_inside_of_blocks_stay_in_a_loop():
    graph = bx.Graph('net')

    class Outer(bx.Module):
        def __init__(self, graph):
            super().__init__(graph)
            self.inner = [bx.Linear(graph / f'sub{j}', 4) for j in range(2)]

        def __call__(self, params, x):
            return bx.scan(self.inner, params, x)

    blocks = [Outer(graph / f'block{i}') for i in range(2)]
    with pytest.raises(ValueError, match=r'is stacked already: blocks inside of blocks'):
        bx.init(lambda p, x: bx.scan(blocks, p, x), X)


def test_params_that_are_not_stacked_are_refused():
    params = bx.init(net(scanned=False), X)
    with pytest.raises(ValueError, match=r"params.stack\('net/block{i}'\), or load the model"):
        net()(params, X)
    with pytest.raises(ValueError, match='expected blocks 0 to 2, found 0 to 4'):
        net(3)(params.stack('net/block{i}'), X)


def test_blocks_that_are_not_numbered_on_are_refused():
    graph = bx.Graph('net')
    for names in (('a', 'b'), ('block0', 'block2')):
        blocks = [bx.Linear(graph / name, 4) for name in names]
        with pytest.raises(ValueError, match='expected blocks whose paths count on'):
            bx.scan(blocks, bx.Params(0), X)
    with pytest.raises(ValueError, match='found none'):
        bx.scan([], bx.Params(0), X)


class Leaking(bx.Module):
    """Changes what is not its own."""

    def __call__(self, params, x):
        own, params = self.get_param(params, 'w', (4,), Ones())
        return x + own[None], params.set('net/other', own)


def test_a_block_that_changes_what_is_not_its_own_is_refused():
    graph = bx.Graph('net')
    blocks = [Leaking(graph / f'block{i}') for i in range(2)]
    entries = {'net/other': jnp.ones(4), **{f'net/block{i}/w': jnp.ones(4) for i in range(2)}}
    params = bx.Params.from_entries(entries, finalized=True).stack('net/block{i}')
    with pytest.raises(ValueError, match='it returns net/other changed, which is not its own'):
        bx.scan(blocks, params, X)
