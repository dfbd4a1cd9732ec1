"""The library as it was first described: each snippet runs as written."""

import re

import jax
import jax.numpy as jnp
import pytest

import blox as bx


class CustomLinear(bx.Module):
    def __init__(self, graph: bx.Graph, output_size: int) -> None:
        super().__init__(graph)
        self.output_size = output_size

    def __call__(self, params: bx.Params, inputs: jax.Array) -> tuple[jax.Array, bx.Params]:
        w_shape = (inputs.shape[-1], self.output_size)
        w, params = self.get_param(params, 'w', w_shape, jax.nn.initializers.glorot_uniform())
        b_shape = (self.output_size,)
        b, params = self.get_param(params, 'b', b_shape, jax.nn.initializers.zeros)
        return inputs @ w + b, params


class CustomMLP(bx.Module):
    def __init__(self, graph: bx.Graph, hidden_size: int, output_projection: bx.Module) -> None:
        super().__init__(graph)
        self.hidden_proj = CustomLinear(graph.child('hidden'), hidden_size)
        self.output_projection = output_projection

    def __call__(self, params: bx.Params, inputs: jax.Array) -> tuple[jax.Array, bx.Params]:
        x, params = self.hidden_proj(params, inputs)
        x = jax.nn.relu(x)
        outputs, params = self.output_projection(params, x)
        return outputs, params


@pytest.fixture(autouse=True)
def _users_settings():
    """Users run with JAX's own defaults for promotion."""
    with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
        yield


@pytest.fixture
def net():
    graph = bx.Graph('net')
    readout = CustomLinear(graph.child('readout'), output_size=1)
    model = CustomMLP(graph.child('mlp'), hidden_size=32, output_projection=readout)
    inputs = jnp.ones((1, 10))
    params = bx.Params(seed=42)
    outputs, params = model(params, inputs)
    return graph, model, params.finalize(), inputs, outputs


def test_the_graph_and_its_sizes_are_displayed(net, capsys):
    graph, _, params, _, _ = net
    bx.display(graph, params)
    shown = capsys.readouterr().out
    for line in (
        r'^net: Graph # Param: 385 \(1.5 KB\)\($',
        r'^  rng=Param\[N\]\(',
        r'^  readout=CustomLinear # Param: 33 \(132.0 B\)\($',
        r'^  mlp=CustomMLP # Param: 352 \(1.4 KB\)\($',
        r'^    hidden=CustomLinear # Param: 352 \(1.4 KB\)\($',
        r'^      output_size=32,$',
        r'^    output_projection=<CustomLinear at net/readout>,$',
    ):
        assert re.search(line, shown, re.MULTILINE), line


def test_the_rng_is_shown_as_a_pair(net):
    rng = net[2]['rng']
    assert (rng.shape, rng.dtype, rng.metadata) == ((2,), object, {'tag': 'rng'})


def test_a_training_step_lowers_the_loss(net):
    _, model, params, inputs, _ = net
    targets = jnp.full((1, 1), 3.0)

    @jax.jit
    def train_step(params, inputs, targets):
        trainable, non_trainable = params.split_trainable()

        def loss_fn(t, nt):
            predictions, new_params = model(t.merge(nt), inputs)
            loss = jnp.mean((predictions - targets) ** 2)
            _, new_non_trainable = new_params.split_trainable()
            return loss, new_non_trainable

        grads, new_non_trainable = jax.grad(loss_fn, has_aux=True)(trainable, non_trainable)
        new_trainable = jax.tree.map(lambda w, g: w - 0.01 * g, trainable, grads)
        return new_trainable.merge(new_non_trainable)

    def loss(params):
        return float(jnp.mean((model(params, inputs)[0] - targets) ** 2))

    trained = train_step(params, inputs, targets)
    assert loss(trained) < loss(params)
    assert trained._structure is params._structure


def test_new_parameters_are_refused_once_finalized(net):
    graph, _, params, inputs, _ = net
    late = CustomLinear(graph.child('late'), output_size=1)
    with pytest.raises(KeyError, match='net/late/w'):
        late(params, inputs)
