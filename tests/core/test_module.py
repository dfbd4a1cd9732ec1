"""Module: parameters by graph path; init and spec."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table

import blox as bx


class Affine(bx.Module):
    """Two parameters of a layer of our own."""

    def __init__(self, graph: bx.Graph, size: int, dtype=jnp.float32) -> None:
        super().__init__(graph)
        self.size = size
        self.dtype = dtype

    def __call__(self, params, inputs):
        shape = (inputs.shape[-1], self.size)
        w, params = self.get_param(params, 'w', shape, jax.nn.initializers.normal(), self.dtype)
        return inputs @ w, params


def layer(name: str = 'net', **kwargs) -> Affine:
    return Affine(bx.Graph(name), 3, **kwargs)


def test_get_param_makes_a_parameter_once():
    model, inputs = layer(), jnp.ones((1, 2))
    _, params = model(bx.Params(seed=0), inputs)
    _, again = model(params, inputs)
    assert list(params) == ['net/w', 'rng']
    assert int(again['rng'].value[1]) == 1
    assert again._structure is params._structure


def test_a_missing_parameter_of_finalized_params_is_a_key_error():
    with pytest.raises(KeyError, match=r"'other/w'.*nearest"):
        layer('other')(bx.init(layer(), jnp.ones((1, 2))), jnp.ones((1, 2)))


@pytest.mark.parametrize('finalize', [True, False])
def test_another_shape_is_a_value_error(finalize):
    _, params = layer()(bx.Params(seed=0), jnp.ones((1, 2)))
    params = params.finalize() if finalize else params
    with pytest.raises(ValueError, match=r"'net/w': Affine expects shape \(5, 3\), found \(2, 3\)"):
        layer()(params, jnp.ones((1, 5)))


def test_set_param_replaces_a_value():
    model = layer()
    params = bx.init(model, jnp.ones((1, 2)))
    changed = model.set_param(params, 'w', jnp.zeros((2, 3)))
    assert not changed['net/w'].value.any()
    assert changed._structure is params._structure


def test_get_param_takes_flags_and_dtype():
    model = layer(dtype=jnp.bfloat16)
    value, params = model.get_param(
        bx.Params(seed=0), 'ema', (2,), jax.nn.initializers.zeros, jnp.float16, False, {'a': 1}
    )
    param = params['net/ema']
    assert (value.dtype, param.trainable, param.metadata) == (jnp.float16, False, {'a': 1})


def test_renaming_one_layer_changes_no_other_initial_value():
    def build(name):
        net = bx.Graph('net')
        return bx.Sequential(net, [bx.Linear(net / name, 4), bx.Linear(net / 'last', 2)])

    one, two = (bx.init(build(name), jnp.ones((1, 3)), seed=1) for name in ('a', 'b'))
    assert jnp.array_equal(one['net/last/w'].value, two['net/last/w'].value)
    assert not jnp.array_equal(one['net/a/w'].value, two['net/b/w'].value)


def test_init_is_what_a_call_makes():
    model, inputs = layer(), jnp.ones((1, 2))
    _, called = model(bx.Params(seed=4), inputs)
    made = bx.init(model, inputs, seed=4)
    assert made.initialized
    # One program rounds a few values otherwise than operations one by one.
    np.testing.assert_allclose(made['net/w'].value, called['net/w'].value, rtol=1e-6)
    assert int(made['rng'].value[1]) == 1


def test_init_takes_shapes_for_inputs_and_a_key_for_a_seed():
    shape = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    one = bx.init(layer(), shape, seed=jax.random.key(4))
    two = bx.init(layer(), jnp.ones((1, 2)), seed=4)
    assert jnp.array_equal(one['net/w'].value, two['net/w'].value)


def test_init_computes_no_outputs():
    size = 64
    model, inputs = bx.Linear(bx.Graph('net'), size), jnp.ones((size, size))
    program = jax.jit(lambda: bx.init(model, inputs)).lower().compile().as_text()
    assert ' dot(' not in str(program)


def test_spec_has_the_structure_of_init_and_allocates_nothing():
    huge = bx.Linear(bx.Graph('net'), 10**9)
    spec = bx.spec(huge, jax.ShapeDtypeStruct((1, 10**6), jnp.float32))
    assert spec['net/w'].shape == (10**6, 10**9)
    assert spec.num_params == 10**15 + 10**9
    made = bx.init(layer(), jnp.ones((1, 2)))
    assert bx.spec(layer(), jnp.ones((1, 2)))._structure is made._structure


def test_the_base_class_computes_nothing():
    with pytest.raises(NotImplementedError, match='Module defines no __call__'):
        bx.Module(bx.Graph('net'))(bx.Params())


def test_repr_shows_what_differs_from_the_defaults():
    graph = bx.Graph('net')
    assert repr(bx.Linear(graph / 'a', 3)) == "Linear('net/a', output_size=3)"
    assert repr(bx.Linear(graph / 'b', 3, use_bias=False)) == (
        "Linear('net/b', output_size=3, use_bias=False)"
    )


def test_init_with_another_seed_runs_the_same_program():
    traces = []

    class Counting(Affine):
        def __call__(self, params, inputs):
            traces.append(1)
            return super().__call__(params, inputs)

    model = Counting(bx.Graph('net'), 3)
    first = bx.init(model, jnp.ones((1, 2)), seed=0)
    before = len(traces)
    other = bx.init(model, jnp.ones((1, 2)), seed=1)
    assert len(traces) == before
    assert not jnp.array_equal(first['net/w'].value, other['net/w'].value)


# What init tells of a model that loses parameters or returns no pair.


class Wrapped(bx.Module):
    """A module around two layers, whose call is given."""

    def __init__(self, graph, call):
        super().__init__(graph)
        self.call = call
        self.a, self.b = bx.Linear(graph / 'a', 3), bx.Linear(graph / 'b', 3)

    def __call__(self, params, inputs):
        return self.call(self, params, inputs)


def forgets(self, params, inputs):
    y, _ = self.a(params, inputs)
    return self.b(params, y)


def forgets_all(self, params, inputs):
    return self.a(params, inputs)[0], params


def remembers(self, params, inputs):
    y, params = self.a(params, inputs)
    z, _ = self.a(params, inputs)  # The second time it makes no parameters.
    return y + z, params


@pytest.mark.parametrize('make', [bx.init, bx.spec])
@pytest.mark.parametrize('call', [forgets, forgets_all])
def test_parameters_that_are_not_passed_on_are_named(make, call):
    model = Wrapped(bx.Graph('net'), call)
    with pytest.raises(ValueError, match=r'Wrapped .*net/a/w.* pass on .*y, params = layer'):
        make(model, jnp.ones((1, 3)))


@pytest.mark.parametrize('make', [bx.init, bx.spec])
@pytest.mark.parametrize(
    'call',
    [
        lambda self, params, inputs: self.a(params, inputs)[0],
        lambda self, params, inputs: (*self.a(params, inputs), 0),
        lambda self, params, inputs: self.a(params, inputs)[::-1],
    ],
    ids=['outputs alone', 'three', 'the other way round'],
)
def test_a_call_that_returns_no_pair_is_told_the_contract(make, call):
    model = Wrapped(bx.Graph('net'), call)
    with pytest.raises(TypeError, match=r'Wrapped must return \(outputs, params\).*found'):
        make(model, jnp.ones((1, 3)))


class NoPair(bx.Module):
    """A module that forgets what modules return."""

    def __init__(self, graph, result):
        super().__init__(graph)
        self.linear = bx.Linear(graph.child('linear'), 3)
        self.result = result

    def __call__(self, params, x):
        y, params = self.linear(params, x)
        return self.result(y, params)


class Outer(bx.Module):
    """A module that calls one of those."""

    def __init__(self, graph, result):
        super().__init__(graph)
        self.inner = NoPair(graph.child('inner'), result)

    def __call__(self, params, x):
        y, params = self.inner(params, x)
        return y, params


RESULTS = {
    'outputs alone': (lambda y, params: y, 'found .*Tracer'),
    'three': (lambda y, params: (y, y, params), 'found tuple'),
    'nothing': (lambda y, params: None, 'found NoneType'),
    'the other way round': (lambda y, params: (params, y), 'found tuple'),
}


@table(RESULTS)
def test_a_module_inside_that_returns_no_pair_is_named(row):
    result, found = row
    model = Outer(bx.Graph('outer'), result)
    for call in (bx.init, bx.spec):
        with pytest.raises(
            TypeError, match=rf"NoPair 'outer/inner' must return \(outputs, params\).*{found}"
        ):
            call(model, jnp.ones((2, 4)))


def test_an_error_of_another_kind_stays_what_it_is():
    def wrong(y, params):
        raise ValueError('something else')

    with pytest.raises(ValueError, match=r'^something else'):
        bx.init(Outer(bx.Graph('outer'), wrong), jnp.ones((2, 4)))


def test_a_layer_may_be_called_twice():
    params = bx.init(Wrapped(bx.Graph('net'), remembers), jnp.ones((1, 3)))
    assert list(params) == ['net/a/b', 'net/a/w', 'rng']


# Values that are drawn by kind are those that one program draws.


class Deep(bx.Module):
    """Many layers alike, and what a model may do with its values as it starts."""

    def __init__(self, graph, start=lambda module, params: params):
        super().__init__(graph)
        self.start = start
        self.layers = [bx.Linear(graph / f'layer{i}', 4) for i in range(6)]
        self.norm = bx.BatchNorm(graph / 'norm')

    def __call__(self, params, inputs, *, is_training=False):
        x = inputs
        for linear in self.layers:
            x, params = linear(params, x)
        x, params = self.norm(params, x, is_training=is_training)
        return x, self.start(self, params)


def doubles(module, params):
    return module.layers[0].set_param(params, 'w', 2 * params['net/layer0/w'].value)


KEYS = (jax.random.key, jax.random.PRNGKey)
STARTS = {
    'left as they are': lambda module, params: params,
    'changed': doubles,
    'counted': lambda module, params: params.next_key()[1],
    'of another key': lambda module, params: params.fold_rng(1),
    'cast': lambda module, params: params.cast(jnp.bfloat16, '**/b'),
}


@pytest.mark.parametrize(
    ('start', 'key'),
    [*((start, 7) for start in STARTS), *(('left as they are', make(7)) for make in KEYS)],
    ids=[*STARTS, *(make.__name__ for make in KEYS)],
)
def test_init_gives_what_a_first_call_gives(start, key):
    model, x = Deep(bx.Graph('net'), STARTS[start]), jnp.ones((2, 4))
    called = jax.jit(model)(bx.Params(key), x)[1].finalize()
    made = bx.init(model, x, seed=key)
    assert jax.tree.structure(made) == jax.tree.structure(called)
    for path, param in called.items():
        if path == 'rng':
            found, expected = (p['rng'].value for p in (made, called))
            first, second = (jax.random.key_data(key) for key, _ in (found, expected))
            assert jnp.array_equal(first, second)
            assert int(found[1]) == int(expected[1])
        else:
            assert made[path].dtype == param.dtype
            np.testing.assert_allclose(made[path].value, param.value, rtol=2e-6)


def test_init_gives_what_a_call_with_another_key_in_between_gives():
    class Folded(Deep):
        def __call__(self, params, inputs, *, is_training=False):
            x, folded = super().__call__(params.fold_rng(5), inputs)
            return x, folded.unfold_rng(params)

    model, x = Folded(bx.Graph('net')), jnp.ones((2, 4))
    called, made = model(bx.Params(3), x)[1], bx.init(model, x, seed=3)
    np.testing.assert_allclose(made['net/layer1/w'].value, called['net/layer1/w'].value, rtol=2e-6)


@pytest.mark.parametrize('start', ['left as they are', 'changed'])
def test_a_model_may_start_another_in_its_call(start):
    inner = Deep(bx.Graph('net'), STARTS[start])
    layer = bx.Linear(bx.Graph('own'), 4)

    def outer(params, x):
        others = bx.init(inner, x, seed=5)
        y, _ = layer(bx.Params(6), x)  # Of Params that are nobody's but its own.
        return inner(others, y)[0], params.set('outer/sum', others['net/layer0/w'].value.sum())

    x = jnp.ones((2, 4))
    expected = bx.init(inner, x, seed=5)['net/layer0/w'].value.sum()
    made = bx.init(outer, x)
    assert list(made) == ['outer/sum', 'rng']
    np.testing.assert_allclose(made['outer/sum'].value, expected, rtol=1e-5)


def test_no_tracers_are_kept():
    with jax.checking_leaks():
        bx.init(Deep(bx.Graph('net')), jnp.ones((2, 4)))


def test_an_initializer_without_a_hash_will_do():
    class Odd:
        def __hash__(self):
            raise TypeError('no hash')

        def __call__(self, key, shape, dtype):
            return jnp.full(shape, 3, dtype)

    net = bx.Graph('net')
    model = bx.Sequential(net, [bx.Linear(net / f'{i}', 2, w_init=Odd()) for i in range(4)])
    assert (bx.init(model, jnp.ones((1, 2)))['net/3/w'].value == 3).all()
