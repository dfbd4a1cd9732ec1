"""Multi-head self-attention (Vaswani et al., 2017, arXiv:1706.03762)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from blox.graph import Graph
from blox.layers.attend import causal_mask, exact, fused_or_exact, sum_weighed, weigh
from blox.layers.dropout import Dropout
from blox.layers.initializers import LecunNormal, Zeros
from blox.layers.linear import Linear
from blox.layers.precision import widen
from blox.layers.rotary import PAIRS, Rotation, rotate
from blox.module import Initializer, Module
from blox.params import Params
from blox.wording import counted

IMPLEMENTATIONS = ('auto', 'exact')


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far, with room for more.

    Rows are the heads of the first sequence, then those of the second, and so on. The place
    after the room takes what does not fit, and is never read.
    """

    # With batch and heads apart XLA's CPU backend copies the whole cache for every token: it fuses
    # the write into the reshape before the product, and so makes two of it.
    keys: Float[Array, 'rows places head_dim']
    values: Float[Array, 'rows places head_dim']

    @property
    def room(self) -> int:
        """Return how many tokens of each sequence it keeps at most."""
        return self.keys.shape[1] - 1


class MultiHeadAttention(Module):
    """Self-attention of `heads` heads; `qkv` is one projection to queries, keys and values.

    Attributes:
      kv_heads: how many heads keys and values have, each for as many heads of queries one after another
        (grouped-query attention, arXiv:2305.13245); as many as queries if None.
      is_causal: each position sees itself and those before it.
      scale: what inner products are multiplied by; 1 / sqrt(head_dim) if None.
      k_bias: whether keys have a bias where queries and values do, as `qkv_bias` says.
      rotary_pairs: which numbers of a head a rotation turns together: 'halves' or 'neighbours'.
      qk_norm: makes the norms of queries and of keys, [..., head_dim], from their graphs, such as
        `bx.RMSNorm`; none by default.
      norm: makes one of what the heads give, [..., width], before the last projection.
      implementation: 'auto' takes the platform's fused kernel where it is right: that of cuDNN on
        NVIDIA GPUs from Ampere on, and the TPU's for long sequences, both in half precision.
        'exact' never does, which programs need that are differentiated forwards, or exported
        with jax.export under its promise of compatibility.

    A mask is True where a query may see a key and broadcasts to [batch, heads, queries, keys];
    a query that may see none sees all of them alike. Softmax is computed in float32 at least.

    A fused kernel has no weights to show or to drop: where `attention_dropout` is active, or is
    replaced by what looks at them, as `bx.tap` does, the exact path is taken, as in `step`.
    """

    def __init__(
        self,
        graph: Graph,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        is_causal: bool = False,
        qkv_bias: bool = True,
        k_bias: bool = True,
        proj_bias: bool = True,
        rotary_pairs: str = 'halves',
        qk_norm: Callable[[Graph], Module] | None = None,
        norm: Callable[[Graph], Module] | None = None,
        scale: float | None = None,
        implementation: str = 'auto',
        attention_dropout_rate: float = 0.0,
        dropout_rate: float = 0.0,
        qkv_init: Initializer = LecunNormal(),
        proj_init: Initializer = LecunNormal(),
    ) -> None:
        if heads < 1 or width % heads:
            raise ValueError(f'{graph.path!r}: heads {heads} must divide the width {width}')
        kv_heads = heads if kv_heads is None else kv_heads
        if kv_heads < 1 or heads % kv_heads:
            raise ValueError(f'{graph.path!r}: kv_heads {kv_heads} must divide heads {heads}')
        if implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f'{graph.path!r}: expected implementation {" or ".join(IMPLEMENTATIONS)}, '
                f'found {implementation!r}'
            )
        if rotary_pairs not in PAIRS:
            raise ValueError(
                f'{graph.path!r}: expected rotary_pairs {" or ".join(PAIRS)}, found {rotary_pairs!r}'
            )
        super().__init__(graph)
        self.width = width
        self.heads = heads
        self.kv_heads = kv_heads
        self.is_causal = is_causal
        self.qkv_bias = qkv_bias
        self.k_bias = k_bias
        self.rotary_pairs = rotary_pairs
        self.head_dim = width // heads
        self.kv_width = kv_heads * self.head_dim
        self.scale = scale
        self.implementation = implementation
        node = graph.child('qkv')
        size = width + 2 * self.kv_width
        self.qkv = Linear(node, size, use_bias=qkv_bias and k_bias, w_init=qkv_init)
        self.q_norm = qk_norm(graph.child('q_norm')) if qk_norm else None
        self.k_norm = qk_norm(graph.child('k_norm')) if qk_norm else None
        self.norm = norm(graph.child('norm')) if norm else None
        self.proj = Linear(graph.child('proj'), width, use_bias=proj_bias, w_init=proj_init)
        self.attention_dropout = Dropout(graph.child('attention_dropout'), attention_dropout_rate)
        self.dropout = Dropout(graph.child('dropout'), dropout_rate)

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, 'batch length width'],
        mask: Bool[Array, '#batch #heads #length length'] | None = None,
        rotary: Rotation | None = None,
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        """Attend over [batch, length, width], which is the shape of the outputs too.

        Queries and keys are turned by `rotary`, if there is one, after their norms.
        """
        (q, k, v), params = self._project(params, inputs)
        if rotary is not None:
            self._check_rotary(rotary, inputs.shape[1])
            q, k = (rotate(x, rotary, self.rotary_pairs) for x in (q, k))
        if self.kv_heads < self.heads:
            k, v = (jnp.repeat(x, self.heads // self.kv_heads, axis=2) for x in (k, v))
        scale = self._scale
        if not isinstance(scale, float | int):
            # `bx.scan` gives it where blocks differ in it, and kernels take no such number.
            q, scale = q * scale.astype(q.dtype), 1.0
        if self._uses_weights(is_training):
            if self.is_causal:
                causal = causal_mask(inputs.shape[1])
                mask = causal if mask is None else mask & causal
            weights = weigh(q, k, mask, scale)
            weights, params = self.attention_dropout(params, weights, is_training=is_training)
            return self._merge(params, sum_weighed(weights, v), is_training)
        attend = fused_or_exact if self.implementation == 'auto' else exact
        x = attend(q, k, v, mask, is_causal=self.is_causal, scale=scale)
        return self._merge(params, x, is_training)

    def initial_state(self, batch_size: int, room: int, dtype: Any) -> KVCache:
        """Return an empty cache for `room` tokens."""
        shape = (batch_size * self.kv_heads, room + 1, self.head_dim)
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
        room are not kept. Nothing is turned by rotary positions here.
        """
        batch, length, _ = inputs.shape
        (q, k, v), params = self._project(params, inputs)
        # Batch and heads in one, as the cache has them; the queries of a group one after another.
        rows = batch * self.kv_heads
        q, k, v = (x.swapaxes(1, 2).reshape(rows, -1, self.head_dim) for x in (q, k, v))
        places = position[:, None] + jnp.arange(length, dtype=position.dtype)[None]
        places = jnp.repeat(places, self.kv_heads, axis=0)
        state = KVCache(*(_write(old, new, places, batch) for old, new in zip(state, (k, v))))
        # Keys first: so the product reads them as they lie, and they are not transposed for it.
        logits = widen(jnp.einsum('rkd,rqd->rkq', state.keys, q * self._scale)).swapaxes(1, 2)
        keys = jnp.arange(state.room + 1, dtype=position.dtype)
        places = jnp.tile(places, (1, self.heads // self.kv_heads))
        mask = keys[None, None] <= jnp.minimum(places, state.room - 1)[:, :, None]
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
        x = jax.nn.softmax(logits).astype(v.dtype) @ state.values
        x = x.reshape(batch, self.heads, length, self.head_dim).swapaxes(1, 2)
        outputs, params = self._merge(params, x, is_training=False)
        return (outputs, state), params

    def _project(
        self, params: Params, inputs: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Params]:
        qkv, params = self._qkv(params, inputs)
        ends = (self.width, self.width + self.kv_width)
        q, k, v = (
            part.reshape(*inputs.shape[:2], heads, self.head_dim)
            for part, heads in zip(
                jnp.split(qkv, ends, axis=-1), (self.heads, self.kv_heads, self.kv_heads)
            )
        )
        (q, k), params = self._normalize(params, q, k)
        return (q, k, v), params

    def _qkv(self, params: Params, inputs: jax.Array) -> tuple[jax.Array, Params]:
        qkv, params = self.qkv(params, inputs)
        if self.qkv_bias and not self.k_bias:
            size = self.width + self.kv_width
            b, params = self.get_param(params, 'qv_bias', (size,), Zeros())
            q, v = jnp.split(b, [self.width])
            qkv = qkv + jnp.concatenate([q, jnp.zeros_like(v), v])[None, None]
        return qkv, params

    def _normalize(
        self, params: Params, q: jax.Array, k: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Params]:
        if self.q_norm is not None and self.k_norm is not None:
            q, params = self.q_norm(params, q)
            k, params = self.k_norm(params, k)
        return (q, k), params

    def _check_rotary(self, rotary: Rotation, length: int) -> None:
        """Raise ValueError for what would not broadcast, or should not."""
        pairs, found = self.head_dim / 2, {rotary.cos.shape, rotary.sin.shape}
        wanted: list[tuple[float, ...]] = [(length, pairs)]
        if self.kv_heads == self.heads:
            wanted.append((length, self.heads, pairs))
        if found not in [{shape} for shape in wanted]:
            raise ValueError(
                f'{self.path!r} expects a rotation of {counted(length, "place")}, and of half of the '
                f'{counted(self.head_dim, "number")} of a head, {" or ".join(map(str, wanted))}, '
                f'found one of {rotary.cos.shape}'
            )

    def _merge(self, params: Params, x: jax.Array, is_training: bool) -> tuple[jax.Array, Params]:
        x = x.reshape(*x.shape[:2], self.width)
        if self.norm is not None:
            x, params = self.norm(params, x)
        x, params = self.proj(params, x)
        return self.dropout(params, x, is_training=is_training)

    def _uses_weights(self, is_training: bool) -> bool:
        """Tell whether `attention_dropout` does anything, or is replaced by what looks at weights."""
        dropout = self.attention_dropout
        return type(dropout) is not Dropout or dropout.is_active(is_training)

    @property
    def _scale(self) -> float | jax.Array:
        return self.head_dim**-0.5 if self.scale is None else self.scale


def _write(cache: jax.Array, new: jax.Array, places: jax.Array, batch: int) -> jax.Array:
    """Return `cache` with `new` at each row's own places, and what does not fit nowhere."""
    last = cache.shape[1] - 1
    # Zeros take the place of what does not fit: of NaN, weights of 0 would make NaN.
    new = jnp.where(places[..., None] < last, new, 0).astype(cache.dtype)
    places = jnp.minimum(places, last)
    if batch == new.shape[1] == 1:
        return jax.lax.dynamic_update_slice_in_dim(cache, new, places[0, 0], axis=1)
    rows = jnp.arange(len(cache), dtype=places.dtype)[:, None]
    return cache.at[rows, places].set(new)
