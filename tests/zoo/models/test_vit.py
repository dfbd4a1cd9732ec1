"""ViT: what its options do, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import tiny
from small_models import forward, inputs_for, model_of, random_params

from blox import tap


def vit(**fields):
    return model_of(tiny('vit', **fields))


def test_vit_refuses_other_image_sizes():
    model = vit()
    with pytest.raises(ValueError, match=r"'vit' expects images of \(8, 12\), found \(12, 12\)"):
        model(random_params(model.config), jnp.zeros((1, 12, 12, 3)))


@pytest.mark.parametrize(
    ('options', 'tokens'),
    [
        ({}, 7),
        ({'pool': 'avg', 'class_token': False}, 6),
        ({'image_size': (8, 24), 'patch_size': (4, 2)}, 25),
    ],
    ids=str,
)
def test_vit_has_a_position_for_each_patch_and_the_class_token(options, tokens):
    assert random_params(vit(**options).config)['vit/pos_embed'].shape == (1, tokens, 8)


def test_vit_exact_and_tanh_gelu_differ():
    models = [vit(activation=name) for name in ('gelu', 'gelu_tanh')]
    params, (images,) = random_params(models[0].config), inputs_for(models[0].config)
    exact, approximate = (forward(model.config)(params, images)[0] for model in models)
    assert 0 < np.abs(exact - approximate).max() < 0.1


def test_drop_path_grows_with_depth():
    model = vit(depth=3, drop_path_rate=0.6)
    params, (images,) = random_params(model.config), inputs_for(model.config, batch=400)
    tapped = jax.jit(functools.partial(tap(model, '**/drop_path?'), is_training=True))
    (_, taps), _ = tapped(params, images)
    dropped = [float((x == 0).all((1, 2)).mean()) for x in taps.values()]
    assert dropped == pytest.approx([0, 0, 0.3, 0.3, 0.6, 0.6], abs=0.1)
