"""Activation functions by the names that configs use."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp


def gelu(x: jax.Array) -> jax.Array:
    """Return x times the normal distribution function of x, exactly (by erf)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """Return gelu's approximation by tanh, which GPT-2 and Google's ViT code use."""
    return jax.nn.gelu(x, approximate=True)


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    'gelu': gelu,
    'gelu_tanh': gelu_tanh,
    'relu': jax.nn.relu,
    'silu': jax.nn.silu,
    'tanh': jnp.tanh,
}
