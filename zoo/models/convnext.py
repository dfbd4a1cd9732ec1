"""ConvNeXt: a convolutional network in the manner of transformers, and its second version.

Papers: Liu et al., 2022, "A ConvNet for the 2020s" (arXiv:2201.03545); Woo et al., 2023, "ConvNeXt
V2: Co-designing and Scaling ConvNets with Masked Autoencoders" (arXiv:2301.00808). References:
timm.models.convnext, transformers.ConvNextForImageClassification and ConvNextV2.

Supported: all published sizes; layer scale (V1), global response normalization (V2), both or
none; another eps for the last norm, as in transformers; and timm's own stems, norms, kernels and heads.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import (
    ACTIVATIONS,
    Conv,
    DropPath,
    LayerNorm,
    LayerScale,
    Linear,
    RMSNorm,
    Sequential,
)
from blox.layers.initializers import Ones, TruncatedNormal, Zeros
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
      stem: 'patch' (one convolution), 'overlap' (two 3x3 ones of stride 2), 'overlap_tiered' (the first
        of them with half the channels) or 'overlap_act' (an activation between them).
      patch_size: kernel and stride of a 'patch' stem's convolution; (4, 4) with the others.
      depths, widths, kernel_sizes: blocks, channels and depthwise kernels of each stage.
      activation: 'gelu' (exact) in all published checkpoints.
      layer_scale: whether blocks end with a learned scale of each channel (V1).
      grn: whether blocks have global response normalization (V2).
      norm: 'layer', 'rms', or 'simple' (`SimpleNorm`).
      norm_eps: the eps of all norms but the last.
      final_norm: whether the last norm is of the 'pooled' features, or of the 'map' before the pool.
      head_hidden: width of a gelu layer between the last norm and the head; 0 for none.
      head_eps: the eps of the last norm; 1e-12 in transformers, as `norm_eps` in timm.
      conv_mlp: whether timm's files hold the blocks' dense layers as 1x1 convolutions; it is no
        other function.
      drop_path_rate: the last block's; it grows from 0 with depth.
    """

    image_size: tuple[int, int] = (224, 224)
    stem: str = 'patch'
    patch_size: tuple[int, int] = (4, 4)
    in_channels: int = 3
    num_classes: int = 1000
    depths: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    kernel_sizes: tuple[int, ...] = (7, 7, 7, 7)
    activation: str = 'gelu'
    layer_scale: bool = True
    grn: bool = False
    norm: str = 'layer'
    norm_eps: float = 1e-6
    final_norm: str = 'pooled'
    head_hidden: int = 0
    head_eps: float = 1e-6
    conv_mlp: bool = False
    drop_path_rate: float = 0.0

    def conditions(self) -> Mapping[str, bool]:
        counts = {len(self.depths), len(self.widths), len(self.kernel_sizes)}
        return {
            'as many depths as widths and kernel_sizes': len(counts) == 1,
            'odd and positive kernel_sizes': all(
                size > 0 and size % 2 == 1 for size in self.kernel_sizes
            ),
            f'stem {", ".join(map(repr, _STEMS))}': self.stem in _STEMS,
            "patch_size (4, 4) where stem is not 'patch'": self.stem == 'patch'
            or self.patch_size == (4, 4),
            f'norm {", ".join(map(repr, _NORMS))}': self.norm in _NORMS,
            "final_norm 'pooled', or 'map' without head_hidden": self.final_norm == 'pooled'
            or (self.final_norm == 'map' and not self.head_hidden),
            'head_hidden >= 0': self.head_hidden >= 0,
        }

    def make_norm(self, graph: Graph, eps: float | None = None) -> Module:
        """Make a norm of the kind that the model has, of `norm_eps` unless told otherwise."""
        return _NORMS[self.norm](graph, eps=self.norm_eps if eps is None else eps)


_trunc_normal = TruncatedNormal(0.02)


class SimpleNorm(Module):
    """Divides by the standard deviation of the last axis, as a sample's, and takes no mean away."""

    def __init__(self, graph: Graph, *, eps: float = 1e-6) -> None:
        super().__init__(graph)
        self.eps = eps

    def __call__(
        self, params: Params, x: Float[Array, '*batch width']
    ) -> tuple[Float[Array, '*batch width'], Params]:
        scale, params = self.get_param(params, 'scale', x.shape[-1:], Ones())
        wide = widen(x)
        wide = wide * jax.lax.rsqrt(wide.var(-1, keepdims=True, ddof=1) + self.eps)
        return (wide * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype), params


_NORMS: Mapping[str, Callable[..., Module]] = {
    'layer': LayerNorm,
    'rms': RMSNorm,
    'simple': SimpleNorm,
}
_STEMS = ('patch', 'overlap', 'overlap_tiered', 'overlap_act')


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
    """A depthwise convolution, then two dense layers over the channels, around a shortcut."""

    def __init__(
        self,
        graph: Graph,
        config: ConvNeXtConfig,
        width: int,
        kernel_size: int,
        *,
        drop_path_rate: float,
    ) -> None:
        super().__init__(graph)
        self.activation = ACTIVATIONS[config.activation]
        self.conv_dw = Conv(
            graph.child('conv_dw'),
            width,
            kernel_size,
            padding=kernel_size // 2,
            groups=width,
            w_init=_trunc_normal,
        )
        self.norm = config.make_norm(graph.child('norm'))
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
        self.stem = _stem(graph.child('stem'), config)
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        # The stem goes before the first stage, these before the others.
        self.downsamples: list[Sequential] = []
        self.stages: list[list[Block]] = []
        stages = zip(config.depths, config.widths, config.kernel_sizes)
        for s, (depth, width, size) in enumerate(stages):
            node = graph.child(f'stage{s + 1}')
            if s:
                self.downsamples.append(_downsample(node.child('downsample'), config, width))
            self.stages.append(
                [
                    Block(node.child(f'block{b}'), config, width, size, drop_path_rate=next(rates))
                    for b in range(depth)
                ]
            )
        self.norm = config.make_norm(graph.child('norm'), eps=config.head_eps)
        if config.head_hidden:
            node = graph.child('pre_logits')
            self.pre_logits = Linear(node, config.head_hidden, w_init=_trunc_normal)
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes, w_init=_trunc_normal)

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        images = cast_like(images, params, f'{self.stem.path}/conv/w')
        x, params = self.stem(params, images)
        for s, blocks in enumerate(self.stages):
            if s:
                # What an odd side has too much is left out.
                if min(x.shape[1:3]) < 2:
                    raise ValueError(
                        f'{self.path!r} has nothing left for stage{s + 1} of images of '
                        f'{images.shape[1:3]}: expected larger ones'
                    )
                down = self.downsamples[s - 1 : s]
                x, params = run_blocks(down, self.config, params, x, is_training=is_training)
            x, params = run_blocks(blocks, self.config, params, x, is_training=is_training)
            yield f'stage{s + 1}', x, params
        if self.config.final_norm == 'map':
            x, params = self.norm(params, x)
            x = x.mean((1, 2))
        else:
            x, params = self.norm(params, x.mean((1, 2)))
        if self.config.head_hidden:
            x, params = self.pre_logits(params, x)
            x = ACTIVATIONS['gelu'](x)
        yield 'pre_logits', x, params
        if self.config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'stage1' and so on, which are maps, and 'pre_logits'."""
        widths, (down, across) = self.config.widths, self.config.patch_size
        strides = [(down << s, across << s) for s in range(len(widths))]
        maps = (Feature(f'stage{s + 1}', width, strides[s]) for s, width in enumerate(widths))
        return (*maps, Feature('pre_logits', self.config.head_hidden or widths[-1]))


def _stem(graph: Graph, config: ConvNeXtConfig) -> Sequential:
    """Make the convolutions to a quarter of the image's size, or to patches, and a norm."""
    width, conv, norm = config.widths[0], graph.child('conv'), config.make_norm(graph.child('norm'))
    if config.stem == 'patch':
        return Sequential(graph, [_patches(conv, width, config.patch_size), norm])
    first = _half(width) if config.stem == 'overlap_tiered' else width
    options = {'stride': 2, 'padding': 1, 'w_init': _trunc_normal}
    between = [ACTIVATIONS[config.activation]] if config.stem == 'overlap_act' else []
    convs = [Conv(conv, first, 3, **options), Conv(graph.child('conv2'), width, 3, **options)]
    return Sequential(graph, [convs[0], *between, convs[1], norm])


def _half(width: int) -> int:
    """Return half of a width, as a multiple of 8 that is no more than a tenth below it."""
    half = width // 2
    rounded = max(8, (half + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * half else rounded


def _downsample(graph: Graph, config: ConvNeXtConfig, width: int) -> Sequential:
    norm = config.make_norm(graph.child('norm'))
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
    resized=(Resized('convnext/stem/conv/w', ('in_channels',), resize_channels),),
)
