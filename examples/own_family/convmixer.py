"""ConvMixer: patches, and convolutions over them.

Paper: Trockman and Kolter, 2022, "Patches Are All You Need?" (arXiv:2201.09792).
"""

from dataclasses import dataclass

import jax

import blox as bx


@dataclass(frozen=True)
class ConvMixerConfig(bx.zoo.Config):
    """Choices that make a ConvMixer: all that changes its function."""

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (7, 7)
    in_channels: int = 3
    num_classes: int = 1000
    width: int = 768
    depth: int = 32
    kernel_size: int = 7
    norm_eps: float = 1e-5


class ConvNorm(bx.Module):
    """A convolution, a gelu, a batch norm."""

    def __init__(
        self, graph: bx.Graph, channels: int, size: tuple[int, int], *, eps: float, **options
    ) -> None:
        super().__init__(graph)
        self.conv = bx.Conv(graph / 'conv', channels, size, **options)
        self.norm = bx.BatchNorm(graph / 'norm', eps=eps)

    def __call__(self, params: bx.Params, x: jax.Array, *, is_training: bool):
        x, params = self.conv(params, x)
        return self.norm(params, jax.nn.gelu(x, approximate=False), is_training=is_training)


class Block(bx.Module):
    """Mixes places channel by channel, then channels place by place."""

    def __init__(self, graph: bx.Graph, config: ConvMixerConfig) -> None:
        super().__init__(graph)
        width, eps, kernel = config.width, config.norm_eps, (config.kernel_size,) * 2
        self.places = ConvNorm(
            graph / 'places', width, kernel, eps=eps, padding='SAME', groups=width
        )
        self.channels = ConvNorm(graph / 'channels', width, (1, 1), eps=eps)

    def __call__(self, params: bx.Params, x: jax.Array, *, is_training: bool):
        y, params = self.places(params, x, is_training=is_training)
        return self.channels(params, x + y, is_training=is_training)


class ConvMixer(bx.zoo.ImageModel):
    """A classifier of images."""

    def __init__(self, graph: bx.Graph, config: ConvMixerConfig) -> None:
        super().__init__(graph, config)
        patch = config.patch_size
        self.stem = ConvNorm(graph / 'stem', config.width, patch, eps=config.norm_eps, stride=patch)
        self.blocks = [Block(graph / f'block{i}', config) for i in range(config.depth)]
        if config.num_classes:
            self.head = bx.Linear(graph / 'head', config.num_classes)

    def _steps(self, params: bx.Params, images: jax.Array, is_training: bool):
        x, params = self.stem(params, images, is_training=is_training)
        yield 'stem', x, params
        for block in self.blocks:
            x, params = block(params, x, is_training=is_training)
            yield block.graph.name, x, params
        x = x.mean((1, 2))
        yield 'pre_logits', x, params
        if self.config.num_classes:
            logits, params = self.head(params, x)
            yield 'logits', logits, params

    def feature_info(self) -> tuple[bx.zoo.Feature, ...]:
        """Return 'stem', 'block0' and so on, which are maps, and 'pre_logits'."""
        names = ['stem', *(block.graph.name for block in self.blocks)]
        width, strides = self.config.width, self.config.patch_size
        maps = [bx.zoo.Feature(name, width, strides) for name in names]
        return (*maps, bx.zoo.Feature('pre_logits', width))


FAMILY = bx.zoo.Family(
    'convmixer',
    'image-classification',
    ConvMixerConfig,
    ConvMixer,
    variants={
        'convmixer-768-32': ConvMixerConfig(),
        'convmixer-1024-20': ConvMixerConfig(
            width=1024, depth=20, kernel_size=9, patch_size=(14, 14)
        ),
    },
    head=bx.zoo.Head('num_classes', 'convmixer/head/*'),
)
