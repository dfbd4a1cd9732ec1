"""Intermediates against those that timm and transformers give, in float64."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, pair, plain, torch

from blox import tap
from blox.zoo.comparing.parity import reference_inputs
from blox.zoo.comparing.widening import widen_reference


@pytest.fixture
def both(request, x64, tmp_path):
    """A reference in float64, and our side of it."""
    made = pair(CASES[request.param], tmp_path)
    reference = widen_reference(copy.deepcopy(made.reference).double())
    return made, reference, made.params.cast(jnp.float64)


def on(names):
    return pytest.mark.parametrize('both', names, indirect=True)


def assert_equal(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * abs(expected).max())


@on([*plain('timm'), 'resnet timm bottleneck', 'vit timm avg, no class token'])
def test_maps_are_those_of_timm(both):
    made, reference, params = both
    known = [feature for feature in made.model.feature_info() if feature.strides]
    with torch.no_grad():
        expected = reference.forward_intermediates(
            *reference_inputs(made.inputs, torch.float64), intermediates_only=True
        )
    indices = range(len(known))
    (images,) = map(jnp.asarray, made.inputs)
    found, _ = jax.jit(lambda p, x: made.model.feature_maps(p, x, list(indices)))(params, images)
    assert len(expected) == len(found)
    for i in indices:
        assert_equal(np.moveaxis(found[i], -1, 1), expected[i].numpy())
    info = getattr(reference, 'feature_info', [])
    assert [(f.channels, f.strides[0]) for f in known] == [
        (entry['num_chs'], entry['reduction']) for entry in info
    ]


@on(['vit hf', 'gpt2', 'bert'])
def test_states_are_the_hidden_states_of_transformers(both):
    made, reference, params = both
    with torch.no_grad():
        outputs = reference(
            *reference_inputs(made.inputs, torch.float64), output_hidden_states=True
        )
    found, _ = made.model.features(params, *map(jnp.asarray, made.inputs))
    normalized = found.pop('norm', None)
    first, *blocks, last = found
    # transformers' last state of GPT-2 is the normalized one.
    names = [first, *blocks[:-1], last if made.case.family == 'gpt2' else blocks[-1]]
    assert len(outputs.hidden_states) == len(names)
    for name, expected in zip(names, outputs.hidden_states):
        assert_equal(found[name], expected.numpy())
    if made.case.family == 'vit':
        with torch.no_grad():
            states = reference.vit(*reference_inputs(made.inputs, torch.float64))
        assert_equal(normalized, states.last_hidden_state.numpy())


# Not of its ViT, which rounds the softmax to float32.
@on(['gpt2', 'bert'])
def test_attention_maps_are_those_of_transformers(both):
    made, reference, params = both
    reference.set_attn_implementation('eager')
    with torch.no_grad():
        outputs = reference(*reference_inputs(made.inputs, torch.float64), output_attentions=True)
    tapped = tap(made.model, '**/attention_dropout')
    (_, taps), _ = tapped(params, *map(jnp.asarray, made.inputs))
    assert len(taps) == len(outputs.attentions)
    for found, expected in zip(taps.values(), outputs.attentions):
        assert_equal(found, expected.numpy())
