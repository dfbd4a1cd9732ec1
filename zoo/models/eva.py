"""EVA: vision transformers whose queries and keys are turned by where their patches are.

Papers: Fang et al., 2022 and 2023, "EVA" and "EVA-02" (arXiv:2211.07636, arXiv:2303.11331). References:
timm.models.eva, transformers.DINOv3ViTModel.

Among its configs are DINOv3 (arXiv:2508.10104), the towers of EVA-CLIP (arXiv:2303.15389), ViTs with rotary
positions (arXiv:2403.13298), Perception Encoders (arXiv:2504.13181), and Sapiens2 (arXiv:2604.21681).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import (
    ACTIVATIONS,
    Conv,
    Dropout,
    DropPath,
    LayerNorm,
    LayerScale,
    Linear,
    Mlp,
    MultiHeadAttention,
    RMSNorm,
)
from blox.layers.initializers import TruncatedNormal
from blox.layers.precision import widen
from blox.layers.rotary import PAIRS, Rotation, rotation
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config, heads_divide_width, patches_fit_image
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps
from blox.zoo.architecture.model import (
    ImageModel,
    block_steps,
    cast_like,
    check_size,
    drop_path_rates,
)
from blox.zoo.architecture.pooling import AttentionPool
from blox.zoo.architecture.resizing import resize_channels, resize_patches, resize_positions


@dataclass(frozen=True)
class EvaConfig(Config):
    """Choices that make an EVA.

    Attributes:
      image_size, patch_size: height and width; what patches leave of an image at its end is not seen.
      kv_heads: of each block, how many heads keys and values have, where several of queries share one;
        () where each has its own.
      mlp: 'plain', or 'gated' by its own first half (SwiGLU, if the activation is silu); 'gated_apart' is
        the same function, of files that have gate and value as two matrices.
      mlp_dim: how many hidden values go into the MLP's last layer.
      mlp_norm, attn_norm: whether MLP and attention normalize what goes into their last layers.
      qk_norm: whether queries and keys are normalized, by head.
      qkv_bias, k_bias: whether queries and values have biases, and keys too.
      qkv_apart: whether files have queries, keys and values as three matrices; timm's may.
      pool: 'cls' (the class token's output), 'avg' (the mean over patches) or 'map' (an attention pool
        over all tokens, with a learned query and a gelu MLP).
      pool_heads, pool_mlp_dim: heads and hidden values of a 'map' pool; 0 for others.
      class_token: whether a learned token stands before the patches.
      registers: how many more do, after it.
      positions: which tokens have a learned position besides: 'all', 'patches' or 'none'.
      rope: what turns queries and keys of patches: 'index', their rows and columns counted from
        `rope_offset`, 'mixed', the same, both at once, by learned frequencies of each block and head,
        'centered', their centres between -1 and 1 times 2 pi, or 'none'.
      rope_base: the lowest frequency is almost its inverse; the highest is 1.
      rope_grid: rows and columns that indices are scaled to; (0, 0) leaves them as they are.
      rope_order: whether rows turn the first half of a head, 'yx', or columns, 'xy'.
      rope_pairs: which numbers of a head are turned together: 'halves' or 'neighbours'.
      pre_norm: whether all tokens are normalized before the first block; then patches have no bias.
      final_norm: what the last norm is of: all 'tokens', the 'pooled' ones, or 'none' at all.
      post_norm: whether blocks normalize what they add instead of what they see.
      layer_scale: what each channel of what a block adds is multiplied by at first; 0 for no LayerScale.
      layer_scaled: whether what 'both' attention and MLP add is scaled so, or what the 'attention' does.
      norm: 'layer' or 'rms'.
      drop_path_rate: the last block's; it grows from 0 with depth.
      attention: 'auto', by the platform's own kernel where that is right, or 'exact'.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (16, 16)
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 768
    depth: int = 12
    heads: int = 12
    kv_heads: tuple[int, ...] = ()
    mlp: str = 'plain'
    mlp_dim: int = 3072
    mlp_norm: bool = False
    attn_norm: bool = False
    qk_norm: bool = False
    qkv_bias: bool = True
    k_bias: bool = False
    qkv_apart: bool = False
    pool: str = 'avg'
    pool_heads: int = 0
    pool_mlp_dim: int = 0
    class_token: bool = True
    registers: int = 0
    positions: str = 'all'
    rope: str = 'none'
    rope_base: float = 10_000.0
    rope_grid: tuple[int, int] = (0, 0)
    rope_offset: float = 0.0
    rope_order: str = 'yx'
    rope_pairs: str = 'neighbours'
    pre_norm: bool = False
    final_norm: str = 'tokens'
    post_norm: bool = False
    layer_scale: float = 0.0
    layer_scaled: str = 'both'
    norm: str = 'layer'
    activation: str = 'gelu'
    norm_eps: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    attention: str = 'auto'

    def conditions(self) -> Mapping[str, bool]:
        has_grid = len(self.rope_grid) == 2 and min(self.rope_grid) > 0
        return {
            **patches_fit_image(self),
            **heads_divide_width(self),
            "kv_heads that divide heads, one for each block, some of them fewer, without rope 'mixed'": (
                not self.kv_heads
                or (
                    len(self.kv_heads) == self.depth
                    and all(n > 0 and self.heads % n == 0 for n in self.kv_heads)
                    and {*self.kv_heads} != {self.heads}
                    and self.rope != 'mixed'
                )
            ),
            'no scan where kv_heads differ': not self.scan or len({*self.kv_heads}) < 2,
            "mlp 'plain', 'gated' or 'gated_apart'": self.mlp in ('plain', 'gated', 'gated_apart'),
            "mlp_norm with mlp 'plain' or 'gated_apart'": not self.mlp_norm or self.mlp != 'gated',
            'registers >= 0': self.registers >= 0,
            "pool 'avg', 'map', or 'cls' with a class_token": self.pool in ('avg', 'map')
            or (self.pool == 'cls' and self.class_token),
            "pool_heads that divide width, and pool_mlp_dim > 0, with pool 'map', else both 0": (
                self.pool_mlp_dim > 0 and self.pool_heads > 0 and self.width % self.pool_heads == 0
                if self.pool == 'map'
                else self.pool_heads == self.pool_mlp_dim == 0
            ),
            "positions 'all', 'patches' or 'none'": self.positions in ('all', 'patches', 'none'),
            f'rope one of {", ".join(_ROPES)}': self.rope in _ROPES,
            'heads of whole pairs for rows and for columns, where there is rope': self.rope
            == 'none'
            or self.width // self.heads % 4 == 0,
            'rope_base > 1': self.rope_base > 1,
            "no rope_offset with rope 'mixed'": self.rope != 'mixed' or not self.rope_offset,
            "rope_grid (0, 0), or two positive ints with rope 'index'": self.rope_grid == (0, 0)
            or (has_grid and self.rope == 'index'),
            "rope_order 'yx' or 'xy'": self.rope_order in ('yx', 'xy'),
            f'rope_pairs of {", ".join(PAIRS)}': self.rope_pairs in PAIRS,
            "final_norm 'tokens', 'pooled' or 'none'": self.final_norm
            in ('tokens', 'pooled', 'none'),
            'no layer_scale with post_norm': not (self.post_norm and self.layer_scale),
            "layer_scaled 'both', or 'attention' with layer_scale": self.layer_scaled == 'both'
            or (self.layer_scaled == 'attention' and self.layer_scale != 0),
            f'norm one of {", ".join(_NORMS)}': self.norm in _NORMS,
        }

    @property
    def grid(self) -> tuple[int, int]:
        """Return how many rows and columns of patches an image has."""
        (height, width), (rows, columns) = self.image_size, self.patch_size
        return height // rows, width // columns

    @property
    def prefix_length(self) -> int:
        """Count the learned tokens that stand before the patches."""
        return int(self.class_token) + self.registers

    def make_norm(self, graph: Graph) -> LayerNorm | RMSNorm:
        """Make a norm of the model's kind and eps."""
        return _NORMS[self.norm](graph, eps=self.norm_eps)


_NORMS: Mapping[str, Callable[..., LayerNorm | RMSNorm]] = {'layer': LayerNorm, 'rms': RMSNorm}
_ROPES = ('index', 'mixed', 'centered', 'none')
_trunc_normal = TruncatedNormal(0.02)


@dataclass(frozen=True)
class MixedFrequencies:
    """Draws frequencies [2, depth, heads, pairs]: half of them across the others, in a random direction."""

    base: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw a direction for each block and head from `key`."""
        _, depth, heads, pairs = shape
        size = jnp.asarray(self.base ** -(np.arange(pairs // 2) / (pairs // 2)), dtype)
        direction = 2 * jnp.pi * jax.random.uniform(key, (depth, heads, 1), dtype)
        angles = (direction, direction + jnp.pi / 2)
        axes = ([size[None, None] * wave(a) for a in angles] for wave in (jnp.cos, jnp.sin))
        return jnp.stack([jnp.concatenate(parts, -1) for parts in axes])


def mixed_angles(
    config: EvaConfig, frequencies: Float[Array, '2 depth heads pairs']
) -> Float[Array, 'depth tokens heads pairs']:
    """Return by how much each pair of each head's numbers is turned: not at all for learned tokens."""
    first, second = _grid_places(config)
    wide = widen(frequencies)
    angles = sum(
        jnp.asarray(places, wide.dtype)[None, :, None, None] * wide[i][:, None]
        for i, places in enumerate((first.reshape(-1), second.reshape(-1)))
    )
    return jnp.pad(angles, ((0, 0), (config.prefix_length, 0), (0, 0), (0, 0)))


def _grid_places(config: EvaConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return where patches are, [rows, columns], along the axis that comes first and along the other."""
    rows, columns = np.meshgrid(_places(config, 0), _places(config, 1), indexing='ij')
    return (rows, columns) if config.rope_order == 'yx' else (columns, rows)


def rope_angles(config: EvaConfig) -> Float[np.ndarray, 'tokens pairs']:
    """Return by how much each pair of a head's numbers is turned, in radians: not at all for learned tokens.

    Places are rounded to float32, as timm and transformers do, frequencies are not.
    """
    pairs = config.width // config.heads // 4
    frequencies = config.rope_base ** -(np.arange(pairs) / pairs)
    if config.rope == 'centered':
        frequencies = 2 * math.pi * frequencies
    # [rows, columns, 2, pairs]
    angles = np.stack(_grid_places(config), -1)[..., None] * frequencies
    patches = angles.reshape(-1, 2 * pairs)
    return np.concatenate([np.zeros((config.prefix_length, 2 * pairs)), patches])


def _places(config: EvaConfig, axis: int) -> Float[np.ndarray, ' patches']:
    """Return the places of patches down an image, or across."""
    count, wanted = config.grid[axis], config.rope_grid[axis]
    places = np.arange(count, dtype=np.float32)
    if config.rope == 'centered':
        return 2 * ((places + 0.5 + config.rope_offset) / count) - 1
    places = places + config.rope_offset
    return places / count * wanted if wanted else places


class Block(Module):
    """A pre-norm transformer block."""

    def __init__(
        self, graph: Graph, config: EvaConfig, index: int, *, drop_path_rate: float
    ) -> None:
        super().__init__(graph)
        # A float, for blocks that differ in it run under one scan.
        self.index = float(index) if config.rope == 'mixed' else None
        self.norm1 = config.make_norm(graph.child('norm1'))
        self.attn = MultiHeadAttention(
            graph.child('attn'),
            config.width,
            config.heads,
            kv_heads=config.kv_heads[index] if config.kv_heads else None,
            implementation=config.attention,
            qkv_bias=config.qkv_bias,
            k_bias=config.k_bias,
            rotary_pairs=config.rope_pairs,
            qk_norm=config.make_norm if config.qk_norm else None,
            norm=config.make_norm if config.attn_norm else None,
            attention_dropout_rate=config.attention_dropout_rate,
            dropout_rate=config.dropout_rate,
            qkv_init=_trunc_normal,
            proj_init=_trunc_normal,
        )
        self.norm2 = config.make_norm(graph.child('norm2'))
        self.mlp = Mlp(
            graph.child('mlp'),
            config.mlp_dim,
            config.width,
            ACTIVATIONS[config.activation],
            is_gated=config.mlp != 'plain',
            norm=config.make_norm if config.mlp_norm else None,
            hidden_dropout_rate=config.dropout_rate,
            dropout_rate=config.dropout_rate,
            fc1_init=_trunc_normal,
            fc2_init=_trunc_normal,
        )
        self.ls1 = self.ls2 = None
        if config.layer_scale:
            self.ls1 = LayerScale(graph.child('ls1'), config.layer_scale)
            if config.layer_scaled == 'both':
                self.ls2 = LayerScale(graph.child('ls2'), config.layer_scale)
        self.drop_path1 = DropPath(graph.child('drop_path1'), drop_path_rate)
        self.drop_path2 = DropPath(graph.child('drop_path2'), drop_path_rate)

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch tokens width'],
        rotary: Rotation | None,
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        y, params = self.norm1(params, x)
        y, params = self.attn(params, y, rotary=self._own(rotary), is_training=is_training)
        if self.ls1 is not None:
            y, params = self.ls1(params, y)
        y, params = self.drop_path1(params, y, is_training=is_training)
        x = x + y
        y, params = self.norm2(params, x)
        y, params = self.mlp(params, y, is_training=is_training)
        if self.ls2 is not None:
            y, params = self.ls2(params, y)
        y, params = self.drop_path2(params, y, is_training=is_training)
        return x + y, params

    def _own(self, rotary: Rotation | None) -> Rotation | None:
        """Return this block's part of a rotation that each block has its own of."""
        if self.index is None or rotary is None:
            return rotary
        index = jnp.asarray(self.index).astype(jnp.int32)
        return Rotation(*(jnp.take(table, index, axis=0) for table in rotary))


class PostNormBlock(Block):
    """A transformer block that normalizes what attention and MLP add, instead of what they see."""

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch tokens width'],
        rotary: Rotation | None,
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        y, params = self.attn(params, x, rotary=self._own(rotary), is_training=is_training)
        y, params = self.norm1(params, y)
        y, params = self.drop_path1(params, y, is_training=is_training)
        x = x + y
        y, params = self.mlp(params, x, is_training=is_training)
        y, params = self.norm2(params, y)
        y, params = self.drop_path2(params, y, is_training=is_training)
        return x + y, params


class Eva(ImageModel):
    """Images [batch, height, width, channels] to logits [batch, num_classes].

    With `num_classes=0` there is no head, and the outputs are the pooled features.
    """

    config: EvaConfig

    def __init__(self, graph: Graph, config: EvaConfig) -> None:
        super().__init__(graph, config)
        self.patch_embed = Conv(
            graph.child('patch_embed'),
            config.width,
            config.patch_size,
            stride=config.patch_size,
            padding='VALID',
            use_bias=not config.pre_norm,
        )
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)
        if config.pre_norm:
            self.pre_norm = config.make_norm(graph.child('pre_norm'))
        block = PostNormBlock if config.post_norm else Block
        self.blocks = [
            block(graph.child(f'block{i}'), config, i, drop_path_rate=rate)
            for i, rate in enumerate(drop_path_rates(config.drop_path_rate, config.depth))
        ]
        if config.final_norm != 'none':
            self.norm = config.make_norm(graph.child('norm'))
        if config.pool == 'map':
            self.pool = AttentionPool(
                graph.child('pool'),
                config.width,
                config.pool_heads,
                config.pool_mlp_dim,
                activation='gelu',
                norm=config.make_norm,
            )
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes, w_init=_trunc_normal)

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        config = self.config
        x, params = self._embed(params, cast_like(images, params, f'{self.patch_embed.path}/w'))
        x, params = self.dropout(params, x, is_training=is_training)
        if config.pre_norm:
            x, params = self.pre_norm(params, x)
        yield 'patch_embed', x, params
        rotary, params = self._rotary(params, x)
        x, params = yield from block_steps(
            self.blocks, config, params, x, rotary, is_training=is_training
        )
        if config.final_norm == 'tokens':
            x, params = self.norm(params, x)
            yield 'norm', x, params
        match config.pool:
            case 'cls':
                x = x[:, 0]
            case 'avg':
                x = x[:, config.prefix_length :].mean(1)
            case 'map':
                x, params = self.pool(params, x)
        if config.final_norm == 'pooled':
            x, params = self.norm(params, x)
        yield 'pre_logits', x, params
        if config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def _rotary(self, params: Params, x: jax.Array) -> tuple[Rotation | None, Params]:
        config = self.config
        match config.rope:
            case 'none':
                return None, params
            case 'mixed':
                shape = (2, config.depth, config.heads, config.width // config.heads // 2)
                init = MixedFrequencies(config.rope_base)
                frequencies, params = self.get_param(params, 'rope_freqs', shape, init)
                return rotation(mixed_angles(config, frequencies), x.dtype), params
        return rotation(rope_angles(config), x.dtype), params

    def _embed(
        self, params: Params, images: Float[Array, 'batch height width channels']
    ) -> tuple[Float[Array, 'batch tokens features'], Params]:
        config = self.config
        check_size(self, images)
        x, params = self.patch_embed(params, images)
        x = x.reshape(x.shape[0], -1, config.width)  # [batch, patches, width]
        if config.positions == 'patches':
            x, params = self._add_positions(params, x)
        prefix = []
        for name, count in {'cls_token': config.class_token, 'reg_token': config.registers}.items():
            if count:
                shape = (1, int(count), config.width)
                token, params = self.get_param(params, name, shape, _trunc_normal)
                # Made of x, it is sharded as x is.
                prefix.append(token + jnp.zeros_like(x[:, :1]))
        x = jnp.concatenate([*prefix, x], axis=1)
        return self._add_positions(params, x) if config.positions == 'all' else (x, params)

    def _add_positions(
        self, params: Params, x: Float[Array, 'batch tokens features']
    ) -> tuple[Float[Array, 'batch tokens features'], Params]:
        shape = (1, x.shape[1], self.config.width)
        pos_embed, params = self.get_param(params, 'pos_embed', shape, _trunc_normal)
        return x + pos_embed, params

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'patch_embed', 'block0' and so on, whose tokens are a map, and 'pre_logits'.

        Before the latter comes 'norm', all tokens normalized, unless the pooled ones are.
        """
        width, strides = self.config.width, self.config.patch_size
        blocks = (Feature(f'block{i}', width, strides) for i in range(self.config.depth))
        norm = (Feature('norm', width),) * (self.config.final_norm == 'tokens')
        return (Feature('patch_embed', width), *blocks, *norm, Feature('pre_logits', width))

    def _as_map(self, x: Float[Array, 'batch tokens width']) -> jax.Array:
        patches = x[:, self.config.prefix_length :]
        return patches.reshape(x.shape[0], *self.config.grid, self.config.width)


def _dinov3(width: int, depth: int, heads: int, **more: Any) -> EvaConfig:
    fields: dict[str, Any] = {
        'image_size': (256, 256),
        'num_classes': 0,
        'width': width,
        'depth': depth,
        'heads': heads,
        'mlp_dim': 4 * width,
        'qkv_bias': False,
        'pool': 'cls',
        'registers': 4,
        'positions': 'none',
        'rope': 'centered',
        'rope_base': 100.0,
        'rope_pairs': 'halves',
        'layer_scale': 1e-5,
        'norm_eps': 1e-5,
    }
    return EvaConfig(**{**fields, **more})


def _eva02(width: int, depth: int, heads: int, mlp_dim: int, **more: Any) -> EvaConfig:
    fields: dict[str, Any] = {
        'image_size': (336, 336),
        'patch_size': (14, 14),
        'width': width,
        'depth': depth,
        'heads': heads,
        'mlp': 'gated',
        'mlp_dim': mlp_dim,
        'activation': 'silu',
        'rope': 'index',
        'rope_grid': (16, 16),
        'final_norm': 'pooled',
    }
    return EvaConfig(**{**fields, **more})


_GATED: dict[str, Any] = {'mlp': 'gated_apart', 'activation': 'silu'}
_LARGER: dict[str, Any] = {
    **_GATED,
    'image_size': (448, 448),
    'mlp_norm': True,
    'qkv_apart': True,
}

VARIANTS = {
    'dinov3-small': _dinov3(384, 12, 6),
    'dinov3-small-plus': _dinov3(384, 12, 6, **_GATED),
    'dinov3-base': _dinov3(768, 12, 12),
    'dinov3-large': _dinov3(1024, 24, 16),
    'dinov3-huge-plus': _dinov3(1280, 32, 20, **_GATED),
    'dinov3-7b': _dinov3(4096, 40, 32, **_GATED, mlp_dim=8192),
    'eva02-tiny': _eva02(192, 12, 3, 512),
    'eva02-small': _eva02(384, 12, 6, 1024),
    'eva02-base': _eva02(768, 12, 12, 2048, **_LARGER),
    'eva02-large': _eva02(1024, 24, 16, 2730, **_LARGER),
}

FAMILY = Family(
    'eva',
    'image-classification',
    EvaConfig,
    Eva,
    VARIANTS,
    head=Head('num_classes', 'eva/head/*'),
    resized=(
        Resized('eva/pos_embed', ('image_size', 'patch_size'), resize_positions),
        Resized('eva/patch_embed/w', ('in_channels',), resize_channels),
        Resized('eva/patch_embed/w', ('patch_size',), resize_patches),
    ),
    one_size=True,
)
