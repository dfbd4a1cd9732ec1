"""Pools over a transformer's tokens, and what is made of the pooled."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blox.graph import Graph
from blox.layers import ACTIVATIONS, Linear, Mlp
from blox.layers.attend import exact
from blox.layers.initializers import TruncatedNormal
from blox.layers.precision import widen
from blox.module import Module
from blox.params import Params

_trunc_normal = TruncatedNormal(0.02)


class AttentionPool(Module):
    """A learned query that attends to all tokens, and a residual MLP of what it found.

    Attributes:
      norm: makes the norm before the MLP from its graph.
    """

    def __init__(
        self,
        graph: Graph,
        width: int,
        heads: int,
        mlp_dim: int,
        *,
        activation: str,
        norm: Callable[[Graph], Module],
    ) -> None:
        super().__init__(graph)
        self.width, self.heads = width, heads
        self.qkv = Linear(graph.child('qkv'), 3 * width, w_init=_trunc_normal)
        self.proj = Linear(graph.child('proj'), width, w_init=_trunc_normal)
        self.norm = norm(graph.child('norm'))
        self.mlp = Mlp(
            graph.child('mlp'),
            mlp_dim,
            width,
            ACTIVATIONS[activation],
            fc1_init=_trunc_normal,
            fc2_init=_trunc_normal,
        )

    def __call__(
        self, params: Params, tokens: Float[Array, 'batch tokens width']
    ) -> tuple[Float[Array, 'batch width'], Params]:
        latent, params = self.get_param(params, 'latent', (1, 1, self.width), _trunc_normal)
        latent = latent + jnp.zeros_like(tokens[:, :1])
        # One projection of all, of whose outputs a third is not used: it is one layer in many.
        qkv, params = self.qkv(params, jnp.concatenate([latent, tokens], axis=1))
        shape = (*qkv.shape[:2], self.heads, self.width // self.heads)
        q, k, v = (part.reshape(shape) for part in jnp.split(qkv, 3, axis=-1))
        x = exact(q[:, :1], k[:, 1:], v[:, 1:], None, is_causal=False, scale=shape[-1] ** -0.5)
        x, params = self.proj(params, x.reshape(-1, self.width))
        y, params = self.norm(params, x)
        y, params = self.mlp(params, y)
        return x + y, params


def picked(
    x: Float[Array, 'batch length width'], places: Int[Array, ' batch']
) -> Float[Array, 'batch width']:
    """Return the state at one place of each sequence."""
    return jnp.take_along_axis(x, places[:, None, None], axis=1)[:, 0]


def normalized(x: Float[Array, 'batch width']) -> Float[Array, 'batch width']:
    """Divide `x` by its length, or by 1e-12 if that is less, as torch's `normalize` does."""
    wide = widen(x)
    # The square root of the larger one: that of zero has no gradient.
    squared = jnp.maximum(jnp.square(wide).sum(-1, keepdims=True), 1e-24)
    return (wide / jnp.sqrt(squared)).astype(x.dtype)
