"""Module: parameters by graph path; init and spec."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    first, other = (bx.init(model, jnp.ones((1, 2)), seed=seed) for seed in (0, 1))
    assert len(traces) == 1
    assert not jnp.array_equal(first['net/w'].value, other['net/w'].value)
