"""What is ConvNeXt's alone: response normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blox as bx
from blox.zoo.models.convnext import GlobalResponseNorm


def test_channels_of_zeros_have_a_gradient():
    norm = GlobalResponseNorm(bx.Graph('grn'))
    images = jnp.ones((1, 2, 2, 3)).at[..., 0].set(0)
    params = bx.init(norm, images).set('grn/scale', jnp.ones(3))

    def loss(images, params):
        outputs, _ = norm(params, images)
        return jnp.square(outputs).sum()

    assert np.isfinite(jax.grad(loss)(images, params)).all()


def test_images_too_small_for_its_stages_are_refused():
    model = bx.zoo.create('convnext-atto', depths=1, image_size=32)
    params = bx.spec(model, *model.example_inputs())
    jax.eval_shape(model, params, jnp.zeros((1, 32, 33, 3)))
    with pytest.raises(ValueError, match=r'nothing left for stage4 of images of \(31, 64\)'):
        jax.eval_shape(model, params, jnp.zeros((1, 31, 64, 3)))
