"""Blocks of vision transformers that are put together otherwise than the usual ones.

Each is made as those are: of its graph, a ViT's config, its index and its rate of stochastic depth.
References: timm.models.vision_transformer, timm.layers.DiffAttention.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import ACTIVATIONS, Dropout, DropPath, LayerScale, Linear, RMSNorm
from blox.layers.attend import exact, fused_or_exact, sum_weighed, weigh
from blox.layers.initializers import Constant, Normal, Ones, TruncatedNormal, Zeros
from blox.layers.precision import widen
from blox.module import Module
from blox.params import Params

_trunc_normal = TruncatedNormal(0.02)


class _Heads(Module):
    """What all attention of projected queries and keys has: their norms, and dropout of its weights."""

    def __init__(self, graph: Graph, config: Any) -> None:
        super().__init__(graph)
        self.heads = config.heads
        has_norms = config.qk_norm
        self.q_norm = config.make_norm(graph.child('q_norm')) if has_norms else None
        self.k_norm = config.make_norm(graph.child('k_norm')) if has_norms else None
        self.dropout = Dropout(graph.child('dropout'), config.attention_dropout_rate)

    def _normalize(
        self, params: Params, q: jax.Array, k: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], Params]:
        if self.q_norm is not None and self.k_norm is not None:
            q, params = self.q_norm(params, q)
            k, params = self.k_norm(params, k)
        return (q, k), params


class Heads(_Heads):
    """Attention of what one projection made: queries, keys and values side by side."""

    def __init__(self, graph: Graph, config: Any) -> None:
        super().__init__(graph, config)
        self.implementation = config.attention

    def __call__(
        self, params: Params, qkv: Float[Array, 'batch tokens three_widths'], *, is_training: bool
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        shape = (*qkv.shape[:2], self.heads, qkv.shape[-1] // (3 * self.heads))
        q, k, v = (part.reshape(shape) for part in jnp.split(qkv, 3, axis=-1))
        (q, k), params = self._normalize(params, q, k)
        scale = shape[-1] ** -0.5
        if self.dropout.is_active(is_training):
            weights, params = self.dropout(params, weigh(q, k, None, scale), is_training=True)
            x = sum_weighed(weights, v)
        else:
            attend = fused_or_exact if self.implementation == 'auto' else exact
            x = attend(q, k, v, None, is_causal=False, scale=scale)
        return x.reshape(*shape[:2], -1), params


class DifferentialHeads(_Heads):
    """Attention less another one, both of the same values (Ye et al., 2024, arXiv:2410.05258).

    Queries and keys of a head are halved, one half for each.
    """

    def __init__(self, graph: Graph, config: Any, index: int) -> None:
        super().__init__(graph, config)
        # How much of the second is taken away at first.
        self.start = 0.8 - 0.6 * math.exp(-0.3 * index)
        self.norm = RMSNorm(graph.child('norm'), eps=1e-5)

    def __call__(
        self, params: Params, qkv: Float[Array, 'batch tokens three_widths'], *, is_training: bool
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        width = qkv.shape[-1] // 3
        size = width // (2 * self.heads)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        halves = (*qkv.shape[:2], self.heads, 2, size)
        (q, k), params = self._normalize(params, q.reshape(halves), k.reshape(halves))
        v = v.reshape(*qkv.shape[:2], self.heads, 2 * size)
        both = []
        for i in range(2):
            weights = weigh(q[:, :, :, i], k[:, :, :, i], None, size**-0.5)
            weights, params = self.dropout(params, weights, is_training=is_training)
            both.append(sum_weighed(weights, v))
        share, params = self._share(params, size)
        x, params = self.norm(params, both[0] - share.astype(v.dtype) * both[1])
        x = x * jnp.asarray(1 - self.start, x.dtype)
        return x.reshape(*qkv.shape[:2], width), params

    def _share(self, params: Params, size: int) -> tuple[jax.Array, Params]:
        """Return how much of the second attention is taken away, a number."""
        logs = []
        for i in (1, 2):
            q, params = self.get_param(params, f'lambda_q{i}', (size,), Normal(0.1))
            k, params = self.get_param(params, f'lambda_k{i}', (size,), Normal(0.1))
            logs.append((widen(q) * widen(k)).sum())
        return jnp.exp(logs[0]) - jnp.exp(logs[1]) + self.start, params


class DifferentialAttention(Module):
    """Differential attention between two projections."""

    def __init__(self, graph: Graph, config: Any, index: int) -> None:
        super().__init__(graph)
        width = config.width
        self.qkv = Linear(
            graph.child('qkv'), 3 * width, use_bias=config.qkv_bias, w_init=_trunc_normal
        )
        self.heads = DifferentialHeads(graph.child('heads'), config, index)
        self.norm = config.make_norm(graph.child('norm')) if config.inner_norms else None
        self.proj = Linear(
            graph.child('proj'), width, use_bias=config.proj_bias, w_init=_trunc_normal
        )
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        x, params = self.qkv(params, x)
        x, params = self.heads(params, x, is_training=is_training)
        if self.norm is not None:
            x, params = self.norm(params, x)
        x, params = self.proj(params, x)
        return self.dropout(params, x, is_training=is_training)


class PostNormBlock(Module):
    """A block whose branches are normalized at their end (Liu et al., 2021, arXiv:2111.09883)."""

    def __init__(self, graph: Graph, config: Any, index: int, *, drop_path_rate: float) -> None:
        super().__init__(graph)
        # Such a norm starts as a LayerScale does.
        start = Constant(config.layer_scale) if config.layer_scale else Ones()
        self.attn = config.make_attention(graph.child('attn'), index)
        self.norm1 = config.make_norm(graph.child('norm1'), scale_init=start)
        self.drop_path1 = DropPath(graph.child('drop_path1'), drop_path_rate)
        self.mlp = config.make_mlp(graph.child('mlp'))
        self.norm2 = config.make_norm(graph.child('norm2'), scale_init=start)
        self.drop_path2 = DropPath(graph.child('drop_path2'), drop_path_rate)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        y, params = self.attn(params, x, is_training=is_training)
        y, params = self.norm1(params, y)
        y, params = self.drop_path1(params, y, is_training=is_training)
        x = x + y
        y, params = self.mlp(params, x, is_training=is_training)
        y, params = self.norm2(params, y)
        y, params = self.drop_path2(params, y, is_training=is_training)
        return x + y, params


class Branch(Module):
    """What a block adds: a layer of its normalized inputs, scaled."""

    def __init__(
        self,
        graph: Graph,
        config: Any,
        layer: Callable[[Graph], Module],
        *,
        drop_path_rate: float,
    ) -> None:
        super().__init__(graph)
        self.norm = config.make_norm(graph.child('norm'))
        self.layer = layer(graph.child('layer'))
        scale = config.layer_scale
        self.ls = LayerScale(graph.child('ls'), scale) if scale else None
        self.drop_path = DropPath(graph.child('drop_path'), drop_path_rate)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        x, params = self.norm(params, x)
        x, params = self.layer(params, x, is_training=is_training)
        if self.ls is not None:
            x, params = self.ls(params, x)
        return self.drop_path(params, x, is_training=is_training)


class ParallelBlock(Module):
    """Two attentions side by side, then two MLPs (Touvron et al., 2022, arXiv:2203.09795)."""

    def __init__(self, graph: Graph, config: Any, index: int, *, drop_path_rate: float) -> None:
        super().__init__(graph)

        def branches(name: str, layer: Callable[[Graph], Module]) -> list[Branch]:
            return [
                Branch(graph.child(f'{name}{i}'), config, layer, drop_path_rate=drop_path_rate)
                for i in range(2)
            ]

        self.attns = branches('attn', lambda graph: config.make_attention(graph, index))
        self.mlps = branches('mlp', config.make_mlp)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        for first, second in (self.attns, self.mlps):
            y, params = first(params, x, is_training=is_training)
            z, params = second(params, x, is_training=is_training)
            x = x + (y + z)
        return x, params


class WideBlock(Module):
    """Attention and MLP side by side, of one projection (Dehghani et al., 2023, arXiv:2302.05442).

    Where attention is differential, one projection makes an output of both.
    """

    def __init__(self, graph: Graph, config: Any, index: int, *, drop_path_rate: float) -> None:
        super().__init__(graph)
        self.width, self.heads, self.mlp_dim = config.width, config.heads, config.mlp_dim
        self.use_bias, self.activation = config.qkv_bias, ACTIVATIONS[config.activation]
        self.norm = config.make_norm(graph.child('norm'))
        self.proj = Linear(
            graph.child('proj'),
            self.mlp_dim + 3 * self.width,
            use_bias=self.use_bias,
            w_init=_trunc_normal,
        )
        node = graph.child('heads')
        self.attend = (
            DifferentialHeads(node, config, index) if config.differential else Heads(node, config)
        )
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)
        outs = ('out',) if config.differential else ('attn_out', 'mlp_out')
        self.outs = [
            Linear(graph.child(name), self.width, use_bias=config.proj_bias, w_init=_trunc_normal)
            for name in outs
        ]
        scale = config.layer_scale
        self.ls = LayerScale(graph.child('ls'), scale) if scale else None
        self.drop_path = DropPath(graph.child('drop_path'), drop_path_rate)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        y, params = self.norm(params, x)
        y, params = self.proj(params, y)
        hidden, qkv = y[..., : self.mlp_dim], y[..., self.mlp_dim :]
        if not self.use_bias:
            b, params = self.get_param(params, 'mlp_bias', (self.mlp_dim,), Zeros())
            hidden = hidden + b[None, None]
        y, params = self.attend(params, qkv, is_training=is_training)
        hidden, params = self.dropout(params, self.activation(hidden), is_training=is_training)
        parts = [y, hidden] if len(self.outs) == 2 else [jnp.concatenate([y, hidden], axis=-1)]
        y = jnp.zeros_like(x)
        for out, part in zip(self.outs, parts):
            part, params = out(params, part)
            y = y + part
        if self.ls is not None:
            y, params = self.ls(params, y)
        y, params = self.drop_path(params, y, is_training=is_training)
        return x + y, params
