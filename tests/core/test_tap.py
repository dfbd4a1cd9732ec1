"""The tap: outputs of inner modules, by path, under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import tiny
from helpers import normal
from small_models import inputs_for, model_of, random_params

import blox as bx


class Twice(bx.Module):
    """Calls one layer two times."""

    def __init__(self, graph):
        super().__init__(graph)
        self.layer = bx.Linear(graph.child('layer'), 3)

    def __call__(self, params, x):
        x, params = self.layer(params, x)
        return self.layer(params, x)


@pytest.fixture
def net():
    graph = bx.Graph('net')
    layers = [bx.Linear(graph / 'hidden', 5), jnp.tanh, bx.Linear(graph / 'readout', 2)]
    model = bx.Sequential(graph / 'mlp', layers)
    x = jnp.asarray(normal(4, 3), jnp.float32)
    return model, bx.init(model, x), x


def test_it_gives_what_inner_modules_gave(net):
    model, params, x = net
    (outputs, taps), after = bx.tap(model, '**')(params, x)
    hidden, _ = model.layers[0](params, x)
    assert list(taps) == ['net/hidden', 'net/readout', 'net/mlp']
    np.testing.assert_array_equal(taps['net/hidden'], hidden)
    np.testing.assert_array_equal(outputs, model(params, x)[0])
    np.testing.assert_array_equal(taps['net/mlp'], outputs)
    assert jax.tree.structure(after) == jax.tree.structure(params)


def test_the_order_of_calls_survives_jit(net):
    model, params, x = net
    (_, taps), _ = jax.jit(bx.tap(model, '**'))(params, x)
    assert list(taps) == ['net/hidden', 'net/readout', 'net/mlp']


def test_the_model_stays_as_it_is(net):
    model, params, x = net
    kinds = [type(module) for _, module in model.graph.root.walk()]
    bx.tap(model, '**')(params, x)
    assert [type(module) for _, module in model.graph.root.walk()] == kinds


def test_a_module_called_twice_is_there_twice():
    model = Twice(bx.Graph('net'))
    params = bx.init(model, jnp.ones((1, 3)))
    (outputs, taps), _ = bx.tap(model, 'net/layer')(params, jnp.ones((1, 3)))
    assert list(taps) == ['net/layer', 'net/layer#2']
    np.testing.assert_array_equal(taps['net/layer#2'], outputs)


def test_the_gradient_by_a_delta_is_that_by_the_activation(net):
    model, params, x = net
    tapped = bx.tap(model, 'net/hidden')

    def score(deltas):
        (outputs, _), _ = tapped(params, x, deltas=deltas)
        return outputs[:, 1].sum()

    found = jax.grad(score)({'net/hidden': jnp.zeros((4, 5))})['net/hidden']
    hidden, _ = model.layers[0](params, x)
    expected = jax.grad(lambda h: model.layers[2](params, jnp.tanh(h))[0][:, 1].sum())(hidden)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize('transform', [jax.jit, jax.checkpoint])
def test_transformations_apply(net, transform):
    model, params, x = net
    (_, expected), _ = bx.tap(model, 'net/hidden')(params, x)
    (_, taps), _ = transform(bx.tap(model, 'net/hidden'))(params, x)
    np.testing.assert_allclose(taps['net/hidden'], expected['net/hidden'], rtol=1e-6)


def test_examples_map_one_by_one(net):
    model, params, x = net
    lanes = jax.vmap(bx.tap(model, 'net/hidden'), in_axes=(None, 0), out_axes=(0, None))
    (_, taps), _ = lanes(params, x)
    (_, expected), _ = bx.tap(model, 'net/hidden')(params, x)
    np.testing.assert_allclose(taps['net/hidden'], expected['net/hidden'], rtol=1e-6)


@pytest.mark.parametrize('family', ['vit', 'resnet'])
def test_blocks_under_checkpoint_are_seen(family):
    config = tiny(family, remat=True)
    model, params, (x,) = model_of(config), random_params(config), inputs_for(config)
    trainable, rest = params.split_trainable()
    inner = next(p for p, _ in model.graph.walk() if p.endswith(('block1/mlp', '/conv2')))

    def total(trainable):
        (_, taps), _ = bx.tap(model, inner)(trainable.merge(rest), x)
        return taps[inner].sum()

    gradients = jax.jit(jax.grad(total))(trainable)
    norms = [float(jnp.abs(g.value).max()) for p, g in gradients.items() if p.startswith(inner)]
    assert max(norms) > 0


def test_attention_maps_sum_to_one():
    model, params = bx.zoo.load('vit-digits')
    (_, taps), _ = bx.tap(model, '**/attention_dropout')(params, jnp.ones((2, 8, 8, 1)))
    assert list(taps) == [f'vit/block{i}/attn/attention_dropout' for i in range(6)]
    for weights in taps.values():
        assert weights.shape == (2, 4, 17, 17)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


def test_what_is_not_there_is_refused(net):
    model, params, x = net
    with pytest.raises(ValueError, match='matches none of 3 paths'):
        bx.tap(model, 'net/hiden')
    with pytest.raises(ValueError, match=r'deltas for net/readout: expected .* net/hidden'):
        bx.tap(model, 'net/hidden')(params, x, deltas={'net/readout': x})
