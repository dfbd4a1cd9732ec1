"""Models are copied, pickled, and sent to other processes."""

import copy
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal

import blox as bx
from blox.converters.target import model_spec
from blox.layers import initializers
from blox.zoo.models import families

# Another process knows nothing but what it is sent, and the modules that it imports.
RECEIVER = """
import pickle, sys
model, params, inputs = pickle.load(sys.stdin.buffer)
outputs, _ = model(params, inputs)
pickle.dump((repr(model), outputs), sys.stdout.buffer)
"""
MINE = """
import jax
import blox as bx
from blox.layers.initializers import Normal

class Mine(bx.Module):
    def __init__(self, graph, size, activations=(jax.nn.relu, jax.nn.silu)):
        super().__init__(graph)
        self.size = size
        self.activations = list(activations)
        self.hidden = bx.Linear(graph / 'hidden', size, w_init=Normal(0.3))
        self.rest = bx.Sequential(graph / 'rest', [jax.nn.relu, bx.Linear(graph / 'out', size)])

    def __call__(self, params, inputs):
        x, params = self.hidden(params, inputs)
        for activation in self.activations:
            x = activation(x)
        return self.rest(params, x)
"""


def program(model):
    """What `model` computes, as a static argument of a jitted function."""
    call = jax.jit(lambda model, params, *inputs: model(params, *inputs), static_argnums=0)
    return call.lower(model, model_spec(model), *model.example_inputs()).as_text()


@pytest.mark.parametrize('family', families().values(), ids=families())
def test_a_pickled_model_is_the_same_function(family):
    model = family.build(next(iter(family.variants.values())))
    made = pickle.loads(pickle.dumps(model))
    assert made is not model
    assert repr(made) == repr(model)
    assert [path for path, _ in made.graph.walk()] == [path for path, _ in model.graph.walk()]
    assert program(made) == program(model)


def test_a_pickled_model_with_its_params_gives_the_same_outputs():
    images = jnp.asarray(normal(2, 16, 16, 1), jnp.float32)
    model, params = bx.zoo.load('resnet-digits')
    again, restored = pickle.loads(pickle.dumps((model, params)))
    np.testing.assert_array_equal(again(restored, images)[0], model(params, images)[0])


@pytest.mark.parametrize('make', [copy.copy, copy.deepcopy])
def test_copies_compute_the_same(make):
    net, inputs = bx.Graph('net'), jnp.ones((2, 3))
    model = bx.Sequential(net, [bx.Linear(net / 'hidden', 4), jax.nn.relu])
    params = bx.init(model, inputs)
    np.testing.assert_array_equal(make(model)(params, inputs)[0], model(params, inputs)[0])


def test_a_deep_copy_has_a_graph_of_its_own():
    model = bx.Linear(bx.Graph('net') / 'head', 3)
    assert copy.deepcopy(model).graph.root is not model.graph.root
    assert copy.deepcopy(model).graph.module is not model
    assert copy.copy(model).graph is model.graph


def test_a_module_of_our_own_runs_in_another_process(tmp_path, monkeypatch):
    (tmp_path / 'mine.py').write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    import mine  # type: ignore[import-not-found]

    model, inputs = mine.Mine(bx.Graph('net'), 4), jnp.ones((2, 3))
    params = bx.init(model, inputs)
    receiver = subprocess.run(
        [sys.executable, '-c', RECEIVER],
        input=pickle.dumps((model, params, inputs)),
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    shown, outputs = pickle.loads(receiver.stdout)
    np.testing.assert_array_equal(outputs, model(params, inputs)[0])
    assert shown == repr(model) == "Mine('net', size=4, activations=[relu, silu])"


JAX_NAMES = {
    initializers.Zeros(): jax.nn.initializers.zeros,
    initializers.Ones(): jax.nn.initializers.ones,
    initializers.Normal(0.02): jax.nn.initializers.normal(0.02),
    initializers.TruncatedNormal(0.02): jax.nn.initializers.truncated_normal(0.02),
    initializers.VarianceScaling(2.0, 'fan_out', 'normal'): jax.nn.initializers.variance_scaling(
        2.0, 'fan_out', 'normal'
    ),
    initializers.LecunNormal(): jax.nn.initializers.lecun_normal(),
}


@pytest.mark.parametrize('ours', JAX_NAMES, ids=repr)
def test_initial_values_are_those_of_jax(ours):
    for dtype in (jnp.float32, jnp.bfloat16):
        found = ours(jax.random.key(1), (3, 4, 5), dtype)
        expected = JAX_NAMES[ours](jax.random.key(1), (3, 4, 5), dtype)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)


def test_initializers_have_names_that_help_shows():
    layer = bx.Linear(bx.Graph('net'), 3, w_init=initializers.Normal(0.02))
    assert repr(layer) == "Linear('net', output_size=3, w_init=Normal(stddev=0.02))"
    assert repr(bx.Linear(bx.Graph('net'), 3, w_init=initializers.LecunNormal())) == (
        "Linear('net', output_size=3)"
    )
