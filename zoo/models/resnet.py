"""ResNet: deep residual networks for images.

Papers: He et al., 2015, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385);
Xie et al., 2016, ResNeXt (arXiv:1611.05431); Zagoruyko and Komodakis, 2016, wide ResNets
(arXiv:1605.07146). Reference: torchvision.models.resnet.

Supported: basic and bottleneck blocks, widened and grouped 3x3 convolutions, the stride on the
3x3 (v1.5, torchvision, timm) or on the first 1x1 (v1, the paper, Hugging Face's
`downsample_in_bottleneck`), and a plain 3x3 stem for small images.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import BatchNorm, Conv, DropPath, Linear, max_pool
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
      block: 'basic' (two 3x3) or 'bottleneck' (1x1, 3x3, 1x1, four times wider outputs).
      depths: blocks in each stage; `widths` are the channels of their 3x3 at base width 64.
      groups, group_width: those of the bottleneck's 3x3, which has
        `width * group_width // 64 * groups` channels.
      stem: 'imagenet' (7x7 of stride 2, then 3x3 max-pool of stride 2) or 'small' (3x3).
      stride_on: 'conv2' (v1.5) or 'conv1' (v1): which convolution of a bottleneck has the stride.
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
    stem: str = 'imagenet'
    stem_width: int = 64
    stride_on: str = 'conv2'
    bn_eps: float = 1e-5
    bn_decay: float = 0.9
    drop_path_rate: float = 0.0

    def conditions(self) -> Mapping[str, bool]:
        is_plain = self.groups == 1 and self.group_width == 64
        return {
            "block 'basic' or 'bottleneck'": self.block in ('basic', 'bottleneck'),
            'as many depths as widths': len(self.depths) == len(self.widths),
            'stem_width > 0': self.stem_width > 0,
            'groups and group_width only with bottlenecks': self.block == 'bottleneck' or is_plain,
            'groups and group_width that leave each 3x3 some channels': self.groups > 0
            and min(self.widths) * self.group_width >= 64,
            "stem 'imagenet' or 'small'": self.stem in ('imagenet', 'small'),
            "stride_on 'conv1' or 'conv2'": self.stride_on in ('conv1', 'conv2'),
            '0 <= bn_decay <= 1': 0 <= self.bn_decay <= 1,
        }


# He initialization for the outputs' side, as in the paper and torchvision.
_he_normal = VarianceScaling(2.0, 'fan_out', 'normal')


class ConvNorm(Module):
    """A convolution without bias and the batch normalization that follows it."""

    def __init__(
        self,
        graph: Graph,
        config: ResNetConfig,
        output_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(graph)
        self.output_channels = output_channels
        self.conv = Conv(
            graph.child('conv'),
            output_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            use_bias=False,
            w_init=_he_normal,
        )
        self.norm = BatchNorm(graph.child('norm'), decay=config.bn_decay, eps=config.bn_eps)

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch height width inputs'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch new_height new_width outputs'], Params]:
        x, params = self.conv(params, x)
        return self.norm(params, x, is_training=is_training)


class Residual(Module):
    """Convolutions with relus between them, around a shortcut."""

    convs: tuple[ConvNorm, ...]
    shortcut: ConvNorm | None
    drop_path: DropPath

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, 'batch height width inputs'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch new_height new_width outputs'], Params]:
        x, params = self.convs[0](params, inputs, is_training=is_training)
        for conv in self.convs[1:]:
            x, params = conv(params, jax.nn.relu(x), is_training=is_training)
        x, params = self.drop_path(params, x, is_training=is_training)
        if self.shortcut is not None:
            inputs, params = self.shortcut(params, inputs, is_training=is_training)
        return jax.nn.relu(x + inputs), params


class BasicBlock(Residual):
    """Two 3x3 convolutions."""

    expansion = 1

    def __init__(
        self,
        graph: Graph,
        config: ResNetConfig,
        width: int,
        *,
        stride: int,
        has_shortcut: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__(graph)
        self.convs = (
            ConvNorm(graph.child('conv1'), config, width, 3, stride=stride),
            ConvNorm(graph.child('conv2'), config, width, 3),
        )
        self.shortcut = _shortcut(graph, config, width, stride) if has_shortcut else None
        self.drop_path = DropPath(graph.child('drop_path'), drop_path_rate)


class Bottleneck(Residual):
    """1x1 to fewer channels, 3x3, 1x1 to four times as many."""

    expansion = 4

    def __init__(
        self,
        graph: Graph,
        config: ResNetConfig,
        width: int,
        *,
        stride: int,
        has_shortcut: bool,
        drop_path_rate: float,
    ) -> None:
        super().__init__(graph)
        inner, outer = width * config.group_width // 64 * config.groups, width * self.expansion
        first, second = (stride, 1) if config.stride_on == 'conv1' else (1, stride)
        groups = config.groups
        self.convs = (
            ConvNorm(graph.child('conv1'), config, inner, 1, stride=first),
            ConvNorm(graph.child('conv2'), config, inner, 3, stride=second, groups=groups),
            ConvNorm(graph.child('conv3'), config, outer, 1),
        )
        self.shortcut = _shortcut(graph, config, outer, stride) if has_shortcut else None
        self.drop_path = DropPath(graph.child('drop_path'), drop_path_rate)


def _shortcut(graph: Graph, config: ResNetConfig, width: int, stride: int) -> ConvNorm:
    return ConvNorm(graph.child('shortcut'), config, width, 1, stride=stride)


_BLOCKS = {'basic': BasicBlock, 'bottleneck': Bottleneck}


class ResNet(ImageModel):
    """Images [batch, height, width, channels] to logits [batch, num_classes].

    With `num_classes=0` there is no head, and the outputs are the pooled features.
    """

    config: ResNetConfig

    def __init__(self, graph: Graph, config: ResNetConfig) -> None:
        super().__init__(graph, config)
        small = config.stem == 'small'
        self.stem = ConvNorm(
            graph.child('stem'),
            config,
            config.stem_width,
            3 if small else 7,
            stride=1 if small else 2,
        )
        self.stages = self._stages()
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes)

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        images = cast_like(images, params, f'{self.stem.path}/conv/w')
        x, params = self.stem(params, images, is_training=is_training)
        x = jax.nn.relu(x)
        yield 'stem', x, params
        if self.config.stem == 'imagenet':
            x = max_pool(x, 3, stride=2, padding=1)
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

    def _stages(self) -> list[list[BasicBlock | Bottleneck]]:
        config, block = self.config, _BLOCKS[self.config.block]
        rates = iter(drop_path_rates(config.drop_path_rate, sum(config.depths)))
        channels = config.stem_width
        stages = []
        for s, (depth, width) in enumerate(zip(config.depths, config.widths)):
            node = self.graph.child(f'stage{s + 1}')
            blocks = []
            for b in range(depth):
                stride = 2 if b == 0 and s > 0 else 1
                blocks.append(
                    block(
                        node.child(f'block{b}'),
                        config,
                        width,
                        stride=stride,
                        has_shortcut=stride > 1 or channels != width * block.expansion,
                        drop_path_rate=next(rates),
                    )
                )
                channels = width * block.expansion
            stages.append(blocks)
        return stages

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'stem', 'stage1' and so on, which are maps, and 'pre_logits'."""
        config = self.config
        stride, later = (2, 2) if config.stem == 'imagenet' else (1, 1)
        found = [Feature('stem', config.stem_width, (stride, stride))]
        for s, width in enumerate(config.widths):
            stride *= later if s == 0 else 2
            channels = width * _BLOCKS[config.block].expansion
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
    resized={'in_channels': Resized('resnet/stem/conv/w', resize_channels)},
)
