"""What is ConvNeXt's alone: response normalization."""

import jax
import jax.numpy as jnp
import numpy as np

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
