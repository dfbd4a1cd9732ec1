"""ConvNeXt: a convolutional network in the manner of transformers, and its second version.

Papers: Liu et al., 2022, "A ConvNet for the 2020s" (arXiv:2201.03545); Woo et al., 2023, "ConvNeXt
V2: Co-designing and Scaling ConvNets with Masked Autoencoders" (arXiv:2301.00808). References:
timm.models.convnext, transformers.ConvNextForImageClassification and ConvNextV2.

Supported: all published sizes; layer scale (V1), global response normalization (V2), both or
none; another eps for the last norm, as in transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import ACTIVATIONS, Conv, DropPath, LayerNorm, LayerScale, Linear, Sequential
from blox.layers.initializers import TruncatedNormal, Zeros
from blox.layers.precision import widen
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps
from blox.zoo.architecture.model import ImageModel, cast_like, drop_path_rates, run_blocks
from blox.zoo.architecture.resizing import resize_channels


@dataclass(frozen=True)
class ConvNeXtConfig(Config):
    """Choices that make a ConvNeXt.

    Attributes:
      image_size: height and width of the images it was made for; others work too.
      patch_size: kernel and stride of the stem's convolution.
      depths, widths: blocks and channels of each stage.
      activation: 'gelu' (exact) in all published checkpoints.
      layer_scale: whether blocks end with a learned scale of each channel (V1).
      grn: whether blocks have global response normalization (V2).
      norm_eps: the eps of all norms but the last.
      head_eps: the eps of the last norm; 1e-12 in transformers, as `norm_eps` in timm.
      conv_mlp: whether timm's files hold the blocks' dense layers as 1x1 convolutions; it is no
        other function.
      drop_path_rate: the last block's; it grows from 0 with depth.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (4, 4)
    in_channels: int = 3
    num_classes: int = 1000
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    activation: str = 'gelu'
    layer_scale: bool = True
    grn: bool = False
    norm_eps: float = 1e-6
    head_eps: float = 1e-6
    conv_mlp: bool = False
    drop_path_rate: float = 0.0

    def conditions(self) -> Mapping[str, bool]:
        return {'as many depths as widths': len(self.depths) == len(self.widths)}


_trunc_normal = TruncatedNormal(0.02)


class GlobalResponseNorm(Module):
    """A scale of each channel: its norm over the image, relative to the mean of all channels' norms."""

    def __call__(
        self, params: Params, x: Float[Array, 'batch height width channels']
    ) -> tuple[Float[Array, 'batch height width channels'], Params]:
        squared = jnp.square(widen(x)).sum((1, 2), keepdims=True)
        # The square root of the larger one: that of zero has no gradient.
        norms = jnp.sqrt(jnp.maximum(squared, 1e-30))
        relative = (norms / (norms.mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)
        shape, zeros = x.shape[-1:], Zeros()
        scale, params = self.get_param(params, 'scale', shape, zeros)
        offset, params = self.get_param(params, 'offset', shape, zeros)
        return x + x * relative * scale[None, None, None] + offset[None, None, None], params


class Block(Module):
    """A depthwise 7x7 convolution, then two dense layers over the channels, around a shortcut."""

    def __init__(
        self, graph: Graph, config: ConvNeXtConfig, width: int, *, drop_path_rate: float
    ) -> None:
        super().__init__(graph)
        self.activation = ACTIVATIONS[config.activation]
        self.conv_dw = Conv(
            graph.child('conv_dw'), width, 7, padding=3, groups=width, w_init=_trunc_normal
        )
        self.norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)
        mlp = graph.child('mlp')
        self.fc1 = Linear(mlp.child('fc1'), 4 * width, w_init=_trunc_normal)
        self.grn = GlobalResponseNorm(mlp.child('grn')) if config.grn else None
        self.fc2 = Linear(mlp.child('fc2'), width, w_init=_trunc_normal)
        self.scale = LayerScale(graph.child('scale'), 1e-6) if config.layer_scale else None
        self.drop_path = DropPath(graph.child('drop_path'), drop_path_rate)

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, 'batch height width channels'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch height width channels'], Params]:
        x, params = self.conv_dw(params, inputs)
        x, params = self.norm(params, x)
        x, params = self.fc1(params, x)
        x = self.activation(x)
        if self.grn is not None:
            x, params = self.grn(params, x)
        x, params = self.fc2(params, x)
        if self.scale is not None:
            x, params = self.scale(params, x)
        x, params = self.drop_path(params, x, is_training=is_training)
        return inputs + x, params


class ConvNeXt(ImageModel):
    """Images [batch, height, width, channels] to logits [batch, num_classes].

    With `num_classes=0` there is no head, and the outputs are the pooled features.
    """

    config: ConvNeXtConfig

    def __init__(self, graph: Graph, config: ConvNeXtConfig) -> None:
        super().__init__(graph, config)
        stem = graph.child('stem')
        conv = _patches(stem.child('conv'), config.widths[0], config.patch_size)
        norm = LayerNorm(stem.child('norm'), eps=config.norm_eps)
        self.stem = Sequential(stem, [conv, norm])
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        # The stem goes before the first stage, these before the others.
        self.downsamples: list[Sequential] = []
        self.stages: list[list[Block]] = []
        for s, (depth, width) in enumerate(zip(config.depths, config.widths)):
            node = graph.child(f'stage{s + 1}')
            if s:
                self.downsamples.append(_downsample(node.child('downsample'), config, width))
            self.stages.append(
                [
                    Block(node.child(f'block{b}'), config, width, drop_path_rate=next(rates))
                    for b in range(depth)
                ]
            )
        self.norm = LayerNorm(graph.child('norm'), eps=config.head_eps)
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes, w_init=_trunc_normal)

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        images = cast_like(images, params, f'{self.stem.path}/conv/w')
        x, params = self.stem(params, images)
        for s, blocks in enumerate(self.stages):
            if s:
                down = self.downsamples[s - 1 : s]
                x, params = run_blocks(down, self.config, params, x, is_training=is_training)
            x, params = run_blocks(blocks, self.config, params, x, is_training=is_training)
            yield f'stage{s + 1}', x, params
        x, params = self.norm(params, x.mean((1, 2)))
        yield 'pre_logits', x, params
        if self.config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'stage1' and so on, which are maps, and 'pre_logits'."""
        widths, (down, across) = self.config.widths, self.config.patch_size
        strides = [(down << s, across << s) for s in range(len(widths))]
        maps = (Feature(f'stage{s + 1}', width, strides[s]) for s, width in enumerate(widths))
        return (*maps, Feature('pre_logits', widths[-1]))


def _downsample(graph: Graph, config: ConvNeXtConfig, width: int) -> Sequential:
    norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)
    return Sequential(graph, [norm, _patches(graph.child('conv'), width, (2, 2))])


def _patches(graph: Graph, width: int, size: tuple[int, int]) -> Conv:
    return Conv(graph, width, size, stride=size, padding='VALID', w_init=_trunc_normal)


def _size(depths: tuple[int, ...], width: int, **fields: Any) -> ConvNeXtConfig:
    widths = tuple(width << s for s in range(len(depths)))
    return ConvNeXtConfig(depths=depths, widths=widths, **fields)


# timm's files of the small sizes hold dense layers as convolutions.
_SIZES = {
    'atto': _size((2, 2, 6, 2), 40, conv_mlp=True),
    'femto': _size((2, 2, 6, 2), 48, conv_mlp=True),
    'pico': _size((2, 2, 6, 2), 64, conv_mlp=True),
    'nano': _size((2, 2, 8, 2), 80, conv_mlp=True),
    'tiny': _size((3, 3, 9, 3), 96),
    'small': _size((3, 3, 27, 3), 96),
    'base': _size((3, 3, 27, 3), 128),
    'large': _size((3, 3, 27, 3), 192),
    'xlarge': _size((3, 3, 27, 3), 256),
    'xxlarge': _size((3, 4, 30, 3), 384, norm_eps=1e-5, head_eps=1e-5),
    'huge': _size((3, 3, 27, 3), 352),
}

VARIANTS = {
    **{f'convnext-{size}': config for size, config in _SIZES.items() if size != 'huge'},
    **{
        f'convnextv2-{size}': replace(config, grn=True, layer_scale=False)
        for size, config in _SIZES.items()
        if 'xlarge' not in size
    },
}

FAMILY = Family(
    'convnext',
    'image-classification',
    ConvNeXtConfig,
    ConvNeXt,
    VARIANTS,
    head=Head('num_classes', 'convnext/head/*'),
    resized={'in_channels': Resized('convnext/stem/conv/w', resize_channels)},
)
