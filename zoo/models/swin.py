"""Swin: a transformer whose attention stays in windows, shifted by half in every second block.

Paper: Liu et al., 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows"
(arXiv:2103.14030). References: timm.models.swin_transformer, transformers.SwinForImageClassification.

Supported: the first version, with windows that differ by stage (Swin-S3; arXiv:2111.14725), windows
larger than the map, and maps that windows do not tile, as timm has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import ACTIVATIONS, Conv, Dropout, DropPath, LayerNorm, Linear, Mlp
from blox.layers.initializers import TruncatedNormal
from blox.layers.precision import widen
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps
from blox.zoo.architecture.model import (
    ImageModel,
    cast_like,
    check_size,
    drop_path_rates,
    run_blocks,
)
from blox.zoo.architecture.resizing import resize_channels


@dataclass(frozen=True)
class SwinConfig(Config):
    """Choices that make a Swin.

    Attributes:
      image_size, patch_size: height and width; patches tile the image. Maps that windows do not tile are
        shifted and then padded, as timm does it; transformers pads first.
      width: channels of the first stage; each later one has twice as many.
      depths, stage_heads, windows: blocks, heads, and the side of windows of each stage. Where a side
        of the stage's map is no longer than that, the window is as long as the map, and is not shifted.
      mlp_ratio: hidden values of an MLP for each of its outputs.
      norm_eps: the eps of the blocks' norms and of the last one; that of patches and of what is downsampled
        is always 1e-5, as transformers has it.
      drop_path_rate: the last block's; it grows from 0 with depth.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (4, 4)
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    stage_heads: tuple[int, ...] = (3, 6, 12, 24)
    windows: tuple[int, ...] = (7, 7, 7, 7)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    activation: str = 'gelu'
    norm_eps: float = 1e-5
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.1

    def conditions(self) -> Mapping[str, bool]:
        counts = {len(self.depths), len(self.stage_heads), len(self.windows)}
        sizes = zip(self.image_size, self.patch_size)
        return {
            'patch_size that divides image_size': all(image % patch == 0 for image, patch in sizes),
            'as many depths as stage_heads and windows': len(counts) == 1,
            'positive windows': min(self.windows, default=0) > 0,
            'stage_heads that divide the width of their stage': all(
                heads > 0 and (self.width << s) % heads == 0
                for s, heads in enumerate(self.stage_heads)
            ),
            'mlp_ratio that makes a hidden value': int(self.width * self.mlp_ratio) > 0,
        }

    def map_size(self, stage: int) -> tuple[int, int]:
        """Return height and width of a stage's map, counted from 0."""
        height, width = (image // patch for image, patch in zip(self.image_size, self.patch_size))
        # Each stage halves it; what an odd side leaves over becomes a position too.
        return -(-height // (1 << stage)), -(-width // (1 << stage))


_trunc_normal = TruncatedNormal(0.02)


class WindowAttention(Module):
    """Self-attention in each window, with a learned bias for each offset from query to key."""

    def __init__(
        self, graph: Graph, config: SwinConfig, width: int, heads: int, window: tuple[int, int]
    ) -> None:
        super().__init__(graph)
        self.heads, self.window = heads, window
        self.qkv = Linear(
            graph.child('qkv'), 3 * width, use_bias=config.qkv_bias, w_init=_trunc_normal
        )
        self.proj = Linear(graph.child('proj'), width, w_init=_trunc_normal)
        rate = config.attention_dropout_rate
        self.attention_dropout = Dropout(graph.child('attention_dropout'), rate)
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch windows area width'],
        mask: Float[Array, 'windows area area'] | None,
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch windows area width'], Params]:
        """Attend; `mask` is added to the logits of each window."""
        qkv, params = self.qkv(params, x)
        shape = (*x.shape[:3], self.heads, x.shape[3] // self.heads)
        q, k, v = (part.reshape(shape) for part in jnp.split(qkv, 3, axis=-1))
        logits = widen(jnp.einsum('bnqhd,bnkhd->bnhqk', q * shape[-1] ** -0.5, k))
        rows, columns = self.window
        offsets = (2 * rows - 1) * (2 * columns - 1)
        table, params = self.get_param(params, 'bias', (offsets, self.heads), _trunc_normal)
        bias = jnp.moveaxis(table[_offsets(self.window)], -1, 0)
        logits = logits + bias[None, None].astype(logits.dtype)
        if mask is not None:
            logits = logits + mask[None, :, None].astype(logits.dtype)
        weights = jax.nn.softmax(logits).astype(v.dtype)
        weights, params = self.attention_dropout(params, weights, is_training=is_training)
        x, params = self.proj(params, jnp.einsum('bnhqk,bnkhd->bnqhd', weights, v).reshape(x.shape))
        return self.dropout(params, x, is_training=is_training)


def _offsets(window: tuple[int, int]) -> np.ndarray:
    """Return the row of the table of biases for each query and key of a window, [area, area]."""
    rows, columns = np.divmod(np.arange(window[0] * window[1]), window[1])
    down = rows[:, None] - rows[None] + window[0] - 1
    across = columns[:, None] - columns[None] + window[1] - 1
    return down * (2 * window[1] - 1) + across


class Block(Module):
    """A pre-norm transformer block over a map; `shifted` is 1 where its windows are, else 0."""

    def __init__(
        self,
        graph: Graph,
        config: SwinConfig,
        stage: int,
        *,
        shifted: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__(graph)
        width, side = config.width << stage, config.windows[stage]
        size = config.map_size(stage)
        self.window = (min(side, size[0]), min(side, size[1]))
        self.shift = (side // 2 if size[0] > side else 0, side // 2 if size[1] > side else 0)
        # A float, for `bx.scan` runs blocks that differ in such numbers as one.
        self.shifted = shifted
        self.norm1 = LayerNorm(graph.child('norm1'), eps=config.norm_eps)
        heads = config.stage_heads[stage]
        self.attn = WindowAttention(graph.child('attn'), config, width, heads, self.window)
        self.norm2 = LayerNorm(graph.child('norm2'), eps=config.norm_eps)
        self.mlp = Mlp(
            graph.child('mlp'),
            int(width * config.mlp_ratio),
            width,
            ACTIVATIONS[config.activation],
            hidden_dropout_rate=config.dropout_rate,
            dropout_rate=config.dropout_rate,
            fc1_init=_trunc_normal,
            fc2_init=_trunc_normal,
        )
        self.drop_path1 = DropPath(graph.child('drop_path1'), drop_path_rate)
        self.drop_path2 = DropPath(graph.child('drop_path2'), drop_path_rate)

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch height width channels'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch height width channels'], Params]:
        y, params = self.norm1(params, x)
        y, params = self._attend(params, y, is_training)
        y, params = self.drop_path1(params, y, is_training=is_training)
        x = x + y
        y, params = self.norm2(params, x)
        y, params = self.mlp(params, y, is_training=is_training)
        y, params = self.drop_path2(params, y, is_training=is_training)
        return x + y, params

    def _attend(
        self, params: Params, x: Float[Array, 'batch height width channels'], is_training: bool
    ) -> tuple[Float[Array, 'batch height width channels'], Params]:
        height, width = x.shape[1:3]
        (rows, columns), shift = self.window, self._shift()
        if shift is not None:
            x = _roll(x, -shift[0], -shift[1])
        padding = ((0, 0), (0, -height % rows), (0, -width % columns), (0, 0))
        x = jnp.pad(x, padding)
        size = x.shape[1], x.shape[2]
        mask = None if shift is None else _mask(size, self.window, shift)
        x, params = self.attn(params, _cut(x, self.window), mask, is_training=is_training)
        x = _join(x, self.window, size)[:, :height, :width]
        return (x if shift is None else _roll(x, *shift)), params

    def _shift(self) -> tuple[Any, Any] | None:
        """Return by how much windows are shifted down and across, None if they are not."""
        if isinstance(self.shifted, float | int):
            return self.shift if self.shifted and any(self.shift) else None
        # `bx.scan` gives the number as an array.
        down, across = ((self.shifted * shift).astype(jnp.int32) for shift in self.shift)
        return down, across


def _roll(x: jax.Array, down: Any, across: Any) -> jax.Array:
    return jnp.roll(jnp.roll(x, down, axis=1), across, axis=2)


def _cut(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Cut maps [batch, height, width, channels] into windows [batch, windows, area, channels]."""
    (rows, columns), (batch, height, width, channels) = window, x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, rows * columns, channels)


def _join(x: jax.Array, window: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Join windows to maps of a size."""
    (rows, columns), (height, width) = window, size
    batch, channels = x.shape[0], x.shape[-1]
    x = x.reshape(batch, height // rows, width // columns, rows, columns, channels)
    return x.swapaxes(2, 3).reshape(batch, height, width, channels)


def _mask(
    size: tuple[int, int], window: tuple[int, int], shift: tuple[Any, Any]
) -> Float[Array, 'windows area area']:
    """Return -100 where query and key of a shifted window were no neighbours before the shift."""
    rows, columns = (_regions(*along) for along in zip(size, window, shift))
    regions = _cut((3 * rows[:, None] + columns[None])[None, :, :, None], window)[0, :, :, 0]
    return jnp.where(regions[:, :, None] == regions[:, None], 0.0, -100.0)


def _regions(length: int, side: int, shift: Any) -> jax.Array:
    """Number the places along a side: 0 before the last window, in it 1, and 2 where they came from the start."""
    places = jnp.arange(length, dtype=jnp.int32)
    is_last, is_moved = places >= length - side, places >= length - shift
    return is_last.astype(jnp.int32) + is_moved.astype(jnp.int32)


class Downsample(Module):
    """A norm and a dense layer of each 2x2 positions together, to twice the channels."""

    def __init__(self, graph: Graph, width: int) -> None:
        super().__init__(graph)
        self.norm = LayerNorm(graph.child('norm'), eps=1e-5)
        node = graph.child('reduction')
        self.reduction = Linear(node, width, use_bias=False, w_init=_trunc_normal)

    def __call__(
        self, params: Params, x: Float[Array, 'batch height width channels']
    ) -> tuple[Float[Array, 'batch rows columns features'], Params]:
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # Of each four the lower neighbour comes before the right one.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        x, params = self.norm(params, x)
        return self.reduction(params, x)


class Swin(ImageModel):
    """Images [batch, height, width, channels] to logits [batch, num_classes].

    With `num_classes=0` there is no head, and the outputs are the pooled features.
    """

    config: SwinConfig

    def __init__(self, graph: Graph, config: SwinConfig) -> None:
        super().__init__(graph, config)
        self.patch_embed = Conv(
            graph.child('patch_embed'),
            config.width,
            config.patch_size,
            stride=config.patch_size,
            padding='VALID',
        )
        self.patch_norm = LayerNorm(graph.child('patch_norm'), eps=1e-5)
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        # The first stage has none, and these go before the others.
        self.downsamples: list[Downsample] = []
        self.stages: list[list[Block]] = []
        for s, depth in enumerate(config.depths):
            node = graph.child(f'stage{s + 1}')
            if s:
                down = Downsample(node.child('downsample'), config.width << s)
                self.downsamples.append(down)
            self.stages.append(
                [
                    Block(
                        node.child(f'block{b}'),
                        config,
                        s,
                        shifted=float(b % 2),
                        drop_path_rate=next(rates),
                    )
                    for b in range(depth)
                ]
            )
        self.norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes, w_init=_trunc_normal)

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        check_size(self, images)
        images = cast_like(images, params, f'{self.patch_embed.path}/w')
        x, params = self.patch_embed(params, images)
        x, params = self.patch_norm(params, x)
        x, params = self.dropout(params, x, is_training=is_training)
        for s, blocks in enumerate(self.stages):
            if s:
                x, params = self.downsamples[s - 1](params, x)
            x, params = run_blocks(blocks, self.config, params, x, is_training=is_training)
            yield f'stage{s + 1}', x, params
        x, params = self.norm(params, x)
        x = x.mean((1, 2))
        yield 'pre_logits', x, params
        if self.config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'stage1' and so on, which are maps, and 'pre_logits'."""
        width, (down, across) = self.config.width, self.config.patch_size
        count = len(self.config.depths)
        maps = (
            Feature(f'stage{s + 1}', width << s, (down << s, across << s)) for s in range(count)
        )
        return (*maps, Feature('pre_logits', width << count - 1))


def _size(width: int, depth: int, heads: int, **fields: Any) -> SwinConfig:
    stage_heads = tuple(heads << s for s in range(4))
    depths = (2, 2, depth, 2)
    return SwinConfig(width=width, depths=depths, stage_heads=stage_heads, **fields)


_384 = {'image_size': (384, 384), 'windows': (12, 12, 12, 12)}

VARIANTS = {
    'swin-tiny': _size(96, 6, 3),
    'swin-small': _size(96, 18, 3),
    'swin-base': _size(128, 18, 4),
    'swin-large': _size(192, 18, 6),
    'swin-base-384': _size(128, 18, 4, **_384),
    'swin-large-384': _size(192, 18, 6, **_384),
    'swin-s3-tiny': _size(96, 6, 3, windows=(7, 7, 14, 7)),
    'swin-s3-small': _size(96, 18, 3, windows=(14, 14, 14, 7)),
    'swin-s3-base': _size(96, 30, 3, windows=(7, 7, 14, 7)),
}

FAMILY = Family(
    'swin',
    'image-classification',
    SwinConfig,
    Swin,
    VARIANTS,
    head=Head('num_classes', 'swin/head/*'),
    resized=(Resized('swin/patch_embed/w', ('in_channels',), resize_channels),),
    one_size=True,
)
