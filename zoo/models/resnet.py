"""ResNet: deep residual networks for images.

Papers: He et al., 2015, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385);
Xie et al., 2016, ResNeXt (arXiv:1611.05431); Zagoruyko and Komodakis, 2016, wide ResNets
(arXiv:1605.07146); Hu et al., 2017, SENet (arXiv:1709.01507); He et al., 2018, ResNet-C and -D
(arXiv:1812.01187); Wang et al., 2019, ECA-Net (arXiv:1910.03151); Zhang, 2019, blur pooling
(arXiv:1904.11486); Aflalo et al., 2020, pruned ones (arXiv:2002.08258); Bello et al., 2021,
ResNet-RS (arXiv:2103.07579). References:
torchvision.models.resnet, timm.models.resnet.
"""

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import BatchNorm, Conv, DropPath, GroupNorm, Linear, avg_pool, max_pool
from blox.layers.initializers import VarianceScaling
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps
from blox.zoo.architecture.model import ImageModel, cast_like, drop_path_rates, run_blocks
from blox.zoo.architecture.resizing import resize_channels


@dataclass(frozen=True)
class ResNetConfig(Config):
    """Choices that make a ResNet.

    Attributes:
      image_size: height and width of the images it was made for; others work too.
      block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1, four times wider outputs); or one for
        each stage, as 'basic,bottleneck'.
      depths: blocks in each stage; `widths` are the channels of their 3x3 at base width 64.
      groups, group_width: those of the bottleneck's 3x3, which has
        `width * group_width // 64 * groups` channels.
      reduce_first: how many times narrower the first convolution of a block is.
      pruned_widths: channels of the convolutions of all blocks, one after another, where pruning left
        fewer than `widths` say; () where it did not.
      stem: 'imagenet' (7x7 of stride 2, then a pool of stride 2), 'deep' (three 3x3 instead of the
        7x7), 'deep_tiered' (the same, the first with three quarters of the second's channels) or
        'small' (one 3x3, no pool).
      stem_width: channels of the stem's outputs; the first two of a deep one have half as many.
      stem_pool: 'max' (3x3) or 'conv' (a 3x3 convolution of stride 2, as ResNet-RS has).
      stride_on: 'conv2' (v1.5; the only 3x3 of a bottleneck) or 'conv1' (v1): which convolution has
        the stride.
      antialias: what takes the stride in a convolution's place, after its relu, and in the stem's
        pool: 'avg' (the mean of 2x2), 'blur' (a binomial filter of 3x3), or 'none'.
      shortcut_kernel, shortcut_pool: the size of a strided shortcut's convolution; whether the mean of
        2x2 takes its stride, as in ResNet-D.
      channel_attention: what weighs the channels at the end of a block: 'se', 'eca' or 'none'.
      se_ratio: hidden channels of 'se' by channels, made a multiple of 8.
      norm: 'batch' or 'group' (of 32 groups).
      bn_eps: of norms of both kinds.
      bn_decay: the decay of batch statistics, 1 minus torch's momentum.
      drop_path_rate: the last block's; it grows from 0 with depth.
    """

    image_size: tuple[int, int] = (224, 224)
    in_channels: int = 3
    num_classes: int = 1000
    block: str = 'bottleneck'
    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    group_width: int = 64
    reduce_first: int = 1
    pruned_widths: tuple[int, ...] = ()
    stem: str = 'imagenet'
    stem_width: int = 64
    stem_pool: str = 'max'
    stride_on: str = 'conv2'
    antialias: str = 'none'
    shortcut_kernel: int = 1
    shortcut_pool: bool = False
    channel_attention: str = 'none'
    se_ratio: float = 1 / 16
    norm: str = 'batch'
    bn_eps: float = 1e-5
    bn_decay: float = 0.9
    drop_path_rate: float = 0.0

    def conditions(self) -> Mapping[str, bool]:
        is_plain = self.groups == 1 and self.group_width == 64
        inner_widths = [
            self.inner_width(kind, width) for kind, width in zip(self.blocks, self.widths)
        ]
        return {
            "block 'basic' or 'bottleneck', or for stages that differ one for each": {*self.blocks}
            <= {*_BLOCKS}
            and len(self.blocks) == len(self.depths)
            and (',' not in self.block or len({*self.blocks}) > 1),
            'as many depths as widths': len(self.depths) == len(self.widths),
            'stem_width > 0': self.stem_width > 0,
            'groups and group_width only with bottlenecks': 'basic' not in self.blocks or is_plain,
            'groups and group_width that leave each 3x3 some channels': self.groups > 0
            and min(self.widths) * self.group_width >= 64,
            'reduce_first that divides each 3x3 and leaves its groups some channels': all(
                min(self.reduce_first, self.groups) > 0
                and width % (self.reduce_first * self.groups) == 0
                for width in inner_widths
            ),
            'pruned_widths for each convolution, the last ones of a stage alike, with none of what divides '
            'or weighs channels': not self.pruned_widths or self._is_pruning(),
            'no scan with pruned_widths': not (self.scan and self.pruned_widths),
            "stem 'imagenet', 'deep', 'deep_tiered' or 'small'": self.stem
            in ('imagenet', 'deep', 'deep_tiered', 'small'),
            'an even stem_width of at least 8 with a deep stem': not self.stem.startswith('deep')
            or (self.stem_width >= 8 and self.stem_width % 2 == 0),
            "stem_pool 'max', or 'conv' without antialias and small stem": self.stem_pool == 'max'
            or (self.stem_pool == 'conv' and self.antialias == 'none' and self.stem != 'small'),
            "stride_on 'conv1' or 'conv2'": self.stride_on in ('conv1', 'conv2'),
            f'antialias of {", ".join(_SHRINK)}': self.antialias in _SHRINK,
            'shortcut_kernel 1 or 3': self.shortcut_kernel in (1, 3),
            "channel_attention 'none', 'se' or 'eca'": self.channel_attention
            in ('none', 'se', 'eca'),
            "se_ratio in (0, 1], other than 1/16 only with channel_attention 'se'": 0
            < self.se_ratio
            <= 1
            and (self.channel_attention == 'se' or self.se_ratio == 1 / 16),
            "norm 'batch', or 'group' with widths that 32 divides": self.norm == 'batch'
            or (
                self.norm == 'group'
                and all(
                    width % (32 * self.reduce_first) == 0
                    for width in (self.stem_width, *self.widths, *inner_widths)
                )
            ),
            '0 <= bn_decay <= 1': 0 <= self.bn_decay <= 1,
        }

    @property
    def blocks(self) -> tuple[str, ...]:
        """Return the kind of each stage's blocks."""
        kinds = tuple(self.block.split(','))
        return kinds * len(self.depths) if len(kinds) == 1 else kinds

    def inner_width(self, kind: str, width: int) -> int:
        """Return the channels of the 3x3 in a stage of this width."""
        return width if kind == 'basic' else width * self.group_width // 64 * self.groups

    def conv_widths(self) -> list[list[tuple[int, ...]]]:
        """Return the channels of each convolution of each block of each stage."""
        pruned = iter(self.pruned_widths)
        stages = []
        for kind, depth, width in zip(self.blocks, self.depths, self.widths):
            inner = self.inner_width(kind, width)
            whole = (inner // self.reduce_first, inner)
            whole += (width * Bottleneck.expansion,) if kind == 'bottleneck' else ()
            stages.append(
                [tuple(itertools.islice(pruned, len(whole))) or whole for _ in range(depth)]
            )
        return stages

    @property
    def outputs(self) -> tuple[int, ...]:
        """Return the channels that each stage gives."""
        return tuple(blocks[-1][-1] for blocks in self.conv_widths())

    def _is_pruning(self) -> bool:
        """Return whether pruned_widths says of each block what one without other options needs."""
        others = (self.groups, self.group_width, self.reduce_first, self.norm)
        if others != (1, 64, 1, 'batch') or self.channel_attention == 'se':
            return False
        count = sum(
            depth * (3 if kind == 'bottleneck' else 2)
            for kind, depth in zip(self.blocks, self.depths)
        )
        ends_alike = all(len({convs[-1] for convs in blocks}) == 1 for blocks in self.conv_widths())
        return len(self.pruned_widths) == count and min(self.pruned_widths) > 0 and ends_alike


# He initialization for the outputs' side, as in the paper and torchvision.
_he_normal = VarianceScaling(2.0, 'fan_out', 'normal')

_Image = Float[Array, 'batch height width channels']


class ConvNorm(Module):
    """A convolution without bias and the normalization that follows it.

    With `antialias`, what comes after takes the stride: `shrink`.
    """

    def __init__(
        self,
        graph: Graph,
        config: ResNetConfig,
        output_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        antialias: str = 'none',
    ) -> None:
        super().__init__(graph)
        self.output_channels = output_channels
        self.antialias = antialias if stride > 1 else 'none'
        self.conv = Conv(
            graph.child('conv'),
            output_channels,
            kernel_size,
            stride=stride if self.antialias == 'none' else 1,
            padding=kernel_size // 2,
            groups=groups,
            use_bias=False,
            w_init=_he_normal,
        )
        if config.norm == 'batch':
            self.norm = BatchNorm(graph.child('norm'), decay=config.bn_decay, eps=config.bn_eps)
        else:
            self.norm = GroupNorm(graph.child('norm'), 32, eps=config.bn_eps)

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch height width inputs'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch new_height new_width outputs'], Params]:
        x, params = self.conv(params, x)
        if isinstance(self.norm, GroupNorm):
            return self.norm(params, x)
        return self.norm(params, x, is_training=is_training)

    def shrink(self, x: jax.Array) -> jax.Array:
        """Take the stride that the convolution did not."""
        return _SHRINK[self.antialias](x)


def _blur(x: _Image) -> jax.Array:
    """Smooth by 1, 2, 1 along both axes, borders reflected, and keep every second place."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')
    for axis in (1, 2):
        left, middle, right = (
            jax.lax.slice_in_dim(x, start, x.shape[axis] - 2 + start, 2, axis) for start in range(3)
        )
        x = (left + 2 * middle + right) / 4
    return x


def _average(x: _Image) -> jax.Array:
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(
            "antialias 'avg' takes maps of even height and width, as of images whose sides 32 divides; "
            f'found {x.shape[1:3]}'
        )
    return avg_pool(x, 2)


_SHRINK = {'none': lambda x: x, 'avg': _average, 'blur': _blur}


class SqueezeExcite(Module):
    """Weighs channels by a small network of their means."""

    def __init__(self, graph: Graph, channels: int, ratio: float) -> None:
        super().__init__(graph)
        hidden = max(8, int(channels * ratio + 4) // 8 * 8)
        self.fc1 = Linear(graph.child('fc1'), hidden)
        self.fc2 = Linear(graph.child('fc2'), channels)

    def __call__(self, params: Params, x: _Image) -> tuple[_Image, Params]:
        y, params = self.fc1(params, x.mean((1, 2)))
        y, params = self.fc2(params, jax.nn.relu(y))
        return x * jax.nn.sigmoid(y)[:, None, None], params


class EfficientChannelAttention(Module):
    """Weighs each channel by the means of its neighbours, the more the more channels there are."""

    def __init__(self, graph: Graph, channels: int) -> None:
        super().__init__(graph)
        reach = int((math.log2(channels) + 1) / 2)
        size = max(3, reach if reach % 2 else reach + 1)
        self.conv = Conv(graph.child('conv'), 1, size, padding=size // 2, use_bias=False)

    def __call__(self, params: Params, x: _Image) -> tuple[_Image, Params]:
        y, params = self.conv(params, x.mean((1, 2))[:, :, None])
        return x * jax.nn.sigmoid(y[:, None, None, :, 0]), params


class Residual(Module):
    """Convolutions with relus between them, around a shortcut.

    `width` is the stage's, `channels` are those of each convolution.
    """

    expansion: int
    convs: tuple[ConvNorm, ...]

    def __init__(
        self,
        graph: Graph,
        config: ResNetConfig,
        width: int,
        channels: tuple[int, ...],
        *,
        stride: int,
        has_shortcut: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__(graph)
        self.convs = self._convs(config, channels, stride)
        self.attention = None
        if config.channel_attention == 'se':
            self.attention = SqueezeExcite(graph.child('se'), channels[-1], config.se_ratio)
        elif config.channel_attention == 'eca':
            # Pruning leaves its reach as it was.
            whole = width * self.expansion
            self.attention = EfficientChannelAttention(graph.child('eca'), whole)
        self.drop_path = DropPath(graph.child('drop_path'), drop_path_rate)
        self.pools_shortcut = config.shortcut_pool and stride > 1
        self.shortcut = None
        if has_shortcut:
            size, step = (
                (1, 1) if stride == 1 or config.shortcut_pool else (config.shortcut_kernel, 2)
            )
            node = graph.child('shortcut')
            self.shortcut = ConvNorm(node, config, channels[-1], size, stride=step)

    def _convs(
        self, config: ResNetConfig, channels: tuple[int, ...], stride: int
    ) -> tuple[ConvNorm, ...]:
        raise NotImplementedError

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, 'batch height width inputs'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch new_height new_width outputs'], Params]:
        x, params = self.convs[0](params, inputs, is_training=is_training)
        for before, conv in zip(self.convs, self.convs[1:]):
            x = before.shrink(jax.nn.relu(x))
            x, params = conv(params, x, is_training=is_training)
        if self.attention is not None:
            x, params = self.attention(params, x)
        x, params = self.drop_path(params, x, is_training=is_training)
        if self.shortcut is not None:
            if self.pools_shortcut:
                inputs = _halved(inputs)
            inputs, params = self.shortcut(params, inputs, is_training=is_training)
        return jax.nn.relu(x + inputs), params


def _halved(x: _Image) -> jax.Array:
    """Return the means of 2x2 places, of fewer at the end of odd sides."""
    pads = tuple((0, size % 2) for size in x.shape[1:3])
    return avg_pool(x, 2, padding=pads, count_include_pad=False)


def _conv_norm(
    graph: Graph, config: ResNetConfig, name: str, channels: int, size: int, **options: int
) -> ConvNorm:
    """Make a convolution of a block."""
    node = graph.child(name)
    return ConvNorm(node, config, channels, size, antialias=config.antialias, **options)


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def _convs(
        self, config: ResNetConfig, channels: tuple[int, ...], stride: int
    ) -> tuple[ConvNorm, ...]:
        make = functools.partial(_conv_norm, self.graph, config)
        return make('conv1', channels[0], 3, stride=stride), make('conv2', channels[1], 3)


class Bottleneck(Residual):
    """1x1 to fewer channels, 3x3, 1x1 to four times as many."""

    expansion = 4

    def _convs(
        self, config: ResNetConfig, channels: tuple[int, ...], stride: int
    ) -> tuple[ConvNorm, ...]:
        make = functools.partial(_conv_norm, self.graph, config)
        first, second = (stride, 1) if config.stride_on == 'conv1' else (1, stride)
        return (
            make('conv1', channels[0], 1, stride=first),
            make('conv2', channels[1], 3, stride=second, groups=config.groups),
            make('conv3', channels[2], 1),
        )


_BLOCKS = {'basic': BasicBlock, 'bottleneck': Bottleneck}


class ResNet(ImageModel):
    """Images [batch, height, width, channels] to logits [batch, num_classes].

    With `num_classes=0` there is no head, and the outputs are the pooled features.
    """

    config: ResNetConfig

    def __init__(self, graph: Graph, config: ResNetConfig) -> None:
        super().__init__(graph, config)
        self.stem = self._stem()
        if config.stem_pool == 'conv':
            node = graph.child('stem_pool')
            self.stem_pool = ConvNorm(node, config, config.stem_width, 3, stride=2)
        self.stages = self._stages()
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes)

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        x = cast_like(images, params, f'{self.stem[0].path}/conv/w')
        for conv in self.stem:
            x, params = conv(params, x, is_training=is_training)
            x = jax.nn.relu(x)
        yield 'stem', x, params
        if self.config.stem != 'small':
            x, params = self._pooled_stem(params, x, is_training)
        for s, blocks in enumerate(self.stages):
            # The first has a stride, a shortcut, or other channels; those after it are alike.
            for alike in (blocks[:1], blocks[1:]):
                x, params = run_blocks(alike, self.config, params, x, is_training=is_training)
            yield f'stage{s + 1}', x, params
        x = x.mean((1, 2))
        yield 'pre_logits', x, params
        if self.config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def _stem(self) -> list[ConvNorm]:
        config, width = self.config, self.config.stem_width
        half = width // 2
        sizes = {
            'imagenet': ((width, 7),),
            'small': ((width, 3),),
            'deep': ((half, 3), (half, 3), (width, 3)),
            'deep_tiered': ((half // 4 * 3, 3), (half, 3), (width, 3)),
        }
        convs = []
        for i, (channels, size) in enumerate(sizes[config.stem]):
            node = self.graph.child(f'stem{i + 1}' if i else 'stem')
            stride = 2 if i == 0 and config.stem != 'small' else 1
            convs.append(ConvNorm(node, config, channels, size, stride=stride))
        return convs

    def _pooled_stem(
        self, params: Params, x: _Image, is_training: bool
    ) -> tuple[jax.Array, Params]:
        config = self.config
        if config.stem_pool == 'conv':
            x, params = self.stem_pool(params, x, is_training=is_training)
            return jax.nn.relu(x), params
        if config.antialias == 'avg':
            return avg_pool(x, 2), params
        if config.antialias == 'blur':
            return _blur(max_pool(x, 3, stride=1, padding=1)), params
        return max_pool(x, 3, stride=2, padding=1), params

    def _stages(self) -> list[list[BasicBlock | Bottleneck]]:
        config = self.config
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        inputs = config.stem_width
        stages = []
        for s, all_channels in enumerate(config.conv_widths()):
            node, block = self.graph.child(f'stage{s + 1}'), _BLOCKS[config.blocks[s]]
            blocks = []
            for b, channels in enumerate(all_channels):
                stride = 2 if b == 0 and s > 0 else 1
                blocks.append(
                    block(
                        node.child(f'block{b}'),
                        config,
                        config.widths[s],
                        channels,
                        stride=stride,
                        has_shortcut=stride > 1 or inputs != channels[-1],
                        drop_path_rate=next(rates),
                    )
                )
                inputs = channels[-1]
            stages.append(blocks)
        return stages

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'stem', 'stage1' and so on, which are maps, and 'pre_logits'."""
        config = self.config
        stride, later = (1, 1) if config.stem == 'small' else (2, 2)
        found = [Feature('stem', config.stem_width, (stride, stride))]
        for s, channels in enumerate(config.outputs):
            stride *= later if s == 0 else 2
            found.append(Feature(f'stage{s + 1}', channels, (stride, stride)))
        return (*found, Feature('pre_logits', found[-1].channels))


_50, _101, _152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)

VARIANTS = {
    'resnet18': ResNetConfig(block='basic', depths=(2, 2, 2, 2)),
    'resnet26': ResNetConfig(depths=(2, 2, 2, 2)),
    'resnet34': ResNetConfig(block='basic', depths=_50),
    'resnet50': ResNetConfig(depths=_50),
    'resnet101': ResNetConfig(depths=_101),
    'resnet152': ResNetConfig(depths=_152),
    'wide-resnet50-2': ResNetConfig(depths=_50, group_width=128),
    'wide-resnet101-2': ResNetConfig(depths=_101, group_width=128),
    'resnext50-32x4d': ResNetConfig(depths=_50, groups=32, group_width=4),
    'resnext101-32x8d': ResNetConfig(depths=_101, groups=32, group_width=8),
    'resnext101-64x4d': ResNetConfig(depths=_101, groups=64, group_width=4),
}

FAMILY = Family(
    'resnet',
    'image-classification',
    ResNetConfig,
    ResNet,
    VARIANTS,
    head=Head('num_classes', 'resnet/head/*'),
    resized=(Resized('resnet/stem/conv/w', ('in_channels',), resize_channels),),
)
