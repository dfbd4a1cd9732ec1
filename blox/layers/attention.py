"""Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from blox.graph import Graph
from blox.layers.dropout import Dropout
from blox.layers.initializers import LecunNormal
from blox.layers.linear import Linear
from blox.layers.precision import widen
from blox.module import Initializer, Module
from blox.params import Params


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, with room for more."""

    keys: Float[Array, 'batch room heads head_dim']
    values: Float[Array, 'batch room heads head_dim']


class MultiHeadAttention(Module):
    """Self-attention of `heads` heads; `qkv` is one projection to queries, keys and values.

    Attributes:
      is_causal: each position sees itself and those before it.
      scale: what inner products are multiplied by; 1 / sqrt(head_dim) if None.

    A mask is True where a query may see a key and broadcasts to [batch, heads, queries, keys];
    a query that may see none sees all of them alike. Softmax is computed in float32 at least.
    """

    def __init__(
        self,
        graph: Graph,
        width: int,
        heads: int,
        *,
        is_causal: bool = False,
        qkv_bias: bool = True,
        scale: float | None = None,
        attention_dropout_rate: float = 0.0,
        dropout_rate: float = 0.0,
        qkv_init: Initializer = LecunNormal(),
        proj_init: Initializer = LecunNormal(),
    ) -> None:
        if heads < 1 or width % heads:
            raise ValueError(f'{graph.path!r}: heads {heads} must divide the width {width}')
        super().__init__(graph)
        self.width = width
        self.heads = heads
        self.is_causal = is_causal
        self.qkv_bias = qkv_bias
        self.head_dim = width // heads
        self.scale = scale
        self.qkv = Linear(graph.child('qkv'), 3 * width, use_bias=qkv_bias, w_init=qkv_init)
        self.proj = Linear(graph.child('proj'), width, w_init=proj_init)
        self.attention_dropout = Dropout(graph.child('attention_dropout'), attention_dropout_rate)
        self.dropout = Dropout(graph.child('dropout'), dropout_rate)

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, 'batch length width'],
        mask: Bool[Array, '#batch #heads #length length'] | None = None,
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        """Attend over [batch, length, width], which is the shape of the outputs too."""
        (q, k, v), params = self._project(params, inputs)
        if self.is_causal:
            causal = jnp.tril(jnp.ones((1, 1, inputs.shape[1], inputs.shape[1]), bool))
            mask = causal if mask is None else mask & causal
        return self._attend(params, q, k, v, mask, is_training)

    def initial_state(self, batch_size: int, room: int, dtype: Any) -> KVCache:
        """Return an empty cache for `room` tokens."""
        shape = (batch_size, room, self.heads, self.head_dim)
        return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def step(
        self,
        params: Params,
        inputs: Float[Array, 'batch length width'],
        state: KVCache,
        position: Int[Array, ' batch'],
    ) -> tuple[tuple[Float[Array, 'batch length width'], KVCache], Params]:
        """Let the next `length` tokens attend to those in the cache and, causally, to themselves.

        `position` is how many tokens of each sequence the cache holds. Tokens past its
        room are not kept.
        """
        (q, k, v), params = self._project(params, inputs)
        state = KVCache(_write(state.keys, k, position), _write(state.values, v, position))
        queries = position[:, None] + jnp.arange(inputs.shape[1], dtype=position.dtype)[None]
        keys = jnp.arange(state.keys.shape[1], dtype=position.dtype)
        mask = keys[None, None, None] <= queries[:, None, :, None]
        outputs, params = self._attend(params, q, state.keys, state.values, mask, False)
        return (outputs, state), params

    def _project(
        self, params: Params, inputs: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Params]:
        qkv, params = self.qkv(params, inputs)
        # [batch, length, 3, heads, head_dim]
        qkv = qkv.reshape(*inputs.shape[:2], 3, self.heads, self.head_dim)
        return (qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]), params

    def _attend(
        self,
        params: Params,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: jax.Array | None,
        is_training: bool,
    ) -> tuple[jax.Array, Params]:
        scale = self.head_dim**-0.5 if self.scale is None else self.scale
        logits = widen(jnp.einsum('bqhd,bkhd->bhqk', q * scale, k))
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        weights = jax.nn.softmax(logits).astype(v.dtype)
        weights, params = self.attention_dropout(params, weights, is_training=is_training)
        x = jnp.einsum('bhqk,bkhd->bqhd', weights, v)
        x, params = self.proj(params, x.reshape(*x.shape[:2], self.width))
        return self.dropout(params, x, is_training=is_training)


def _write(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """Return `cache` with `new` at each sequence's own position."""
    batch = jnp.arange(cache.shape[0])[:, None]
    places = position[:, None] + jnp.arange(new.shape[1], dtype=position.dtype)[None]
    return cache.at[batch, places].set(new.astype(cache.dtype), mode='drop')
