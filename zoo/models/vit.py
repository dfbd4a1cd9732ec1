"""ViT: the vision transformer.

Paper: Dosovitskiy et al., 2020, "An Image is Worth 16x16 Words" (arXiv:2010.11929). References:
timm.models.vision_transformer, transformers.ViTForImageClassification, google-research/vision_transformer.

Supported: class-token and average-pooled heads (the latter normalizes after pooling, as timm's
`fc_norm` does), a tanh pre-logits layer (the in21k checkpoints), a second token and head (DeiT's
distillation, arXiv:2012.12877), exact and tanh gelu, qkv bias or none, any image and patch size.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers import (
    ACTIVATIONS,
    Conv,
    Dropout,
    DropPath,
    LayerNorm,
    Linear,
    Mlp,
    MultiHeadAttention,
)
from blox.layers.initializers import TruncatedNormal, Zeros
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config, heads_divide_width, patches_tile_image
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps
from blox.zoo.architecture.model import ImageModel, block_steps, cast_like, drop_path_rates
from blox.zoo.architecture.resizing import resize_channels, resize_positions


@dataclass(frozen=True)
class ViTConfig(Config):
    """Choices that make a ViT.

    Attributes:
      image_size, patch_size: height and width; the patches tile the image.
      pool: 'cls' (the class token's output) or 'avg' (the mean over patches, normalized after).
      class_token: whether a learned token stands before the patches.
      distilled: whether a second one stands after it, with a head of its own; outputs are the mean
        of both heads', features that of both tokens'.
      pre_logits: width of a tanh layer before the head; 0 for none.
      activation: 'gelu' (exact; timm, Hugging Face) or 'gelu_tanh' (Google's own code).
      norm_eps: 1e-6 in timm and Google's code, 1e-12 in Hugging Face's.
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
    mlp_dim: int = 3072
    pool: str = 'cls'
    class_token: bool = True
    distilled: bool = False
    pre_logits: int = 0
    qkv_bias: bool = True
    activation: str = 'gelu'
    norm_eps: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    attention: str = 'auto'

    def conditions(self) -> Mapping[str, bool]:
        return {
            **patches_tile_image(self),
            **heads_divide_width(self),
            'pre_logits >= 0': self.pre_logits >= 0,
            "pool 'avg', or 'cls' with a class token": self.pool == 'avg'
            or (self.pool == 'cls' and self.class_token),
            "pool 'cls' and no pre_logits where distilled": not self.distilled
            or (self.pool == 'cls' and not self.pre_logits),
        }

    @property
    def prefix_tokens(self) -> tuple[str, ...]:
        """Names of the learned tokens that stand before the patches."""
        return ('cls_token',) * self.class_token + ('dist_token',) * self.distilled


_trunc_normal = TruncatedNormal(0.02)


class Block(Module):
    """A pre-norm transformer block."""

    def __init__(self, graph: Graph, config: ViTConfig, *, drop_path_rate: float) -> None:
        super().__init__(graph)
        self.norm1 = LayerNorm(graph.child('norm1'), eps=config.norm_eps)
        self.attn = MultiHeadAttention(
            graph.child('attn'),
            config.width,
            config.heads,
            implementation=config.attention,
            qkv_bias=config.qkv_bias,
            attention_dropout_rate=config.attention_dropout_rate,
            dropout_rate=config.dropout_rate,
            qkv_init=_trunc_normal,
            proj_init=_trunc_normal,
        )
        self.norm2 = LayerNorm(graph.child('norm2'), eps=config.norm_eps)
        self.mlp = Mlp(
            graph.child('mlp'),
            config.mlp_dim,
            config.width,
            ACTIVATIONS[config.activation],
            hidden_dropout_rate=config.dropout_rate,
            dropout_rate=config.dropout_rate,
            fc1_init=_trunc_normal,
            fc2_init=_trunc_normal,
        )
        self.drop_path1 = DropPath(graph.child('drop_path1'), drop_path_rate)
        self.drop_path2 = DropPath(graph.child('drop_path2'), drop_path_rate)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        y, params = self.norm1(params, x)
        y, params = self.attn(params, y, is_training=is_training)
        y, params = self.drop_path1(params, y, is_training=is_training)
        x = x + y
        y, params = self.norm2(params, x)
        y, params = self.mlp(params, y, is_training=is_training)
        y, params = self.drop_path2(params, y, is_training=is_training)
        return x + y, params


class ViT(ImageModel):
    """Images [batch, height, width, channels] to logits [batch, num_classes].

    With `num_classes=0` there is no head, and the outputs are the pooled features.
    """

    config: ViTConfig

    def __init__(self, graph: Graph, config: ViTConfig) -> None:
        super().__init__(graph, config)
        self.patch_embed = Conv(
            graph.child('patch_embed'),
            config.width,
            config.patch_size,
            stride=config.patch_size,
            padding='VALID',
        )
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)
        self.blocks = [
            Block(graph.child(f'block{i}'), config, drop_path_rate=rate)
            for i, rate in enumerate(drop_path_rates(config.drop_path_rate, config.depth))
        ]
        self.norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)
        if config.pre_logits:
            self.pre_logits = Linear(graph.child('pre_logits'), config.pre_logits)
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes, w_init=Zeros())
        if config.num_classes and config.distilled:
            self.head_dist = Linear(graph.child('head_dist'), config.num_classes, w_init=Zeros())

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        x, params = self._embed(params, cast_like(images, params, f'{self.patch_embed.path}/w'))
        x, params = self.dropout(params, x, is_training=is_training)
        yield 'patch_embed', x, params
        x, params = yield from block_steps(
            self.blocks, self.config, params, x, is_training=is_training
        )
        if self.config.pool == 'cls':
            x, params = self.norm(params, x)
            yield 'norm', x, params
        tokens = x
        if self.config.distilled:
            x = tokens[:, :2].mean(1)
        elif self.config.pool == 'cls':
            x = tokens[:, 0]
        else:
            patches = tokens[:, len(self.config.prefix_tokens) :]
            x, params = self.norm(params, patches.mean(1))
        if self.config.pre_logits:
            x, params = self.pre_logits(params, x)
            x = jnp.tanh(x)
        yield 'pre_logits', x, params
        if self.config.num_classes and self.config.distilled:
            x, params = self.head(params, tokens[:, 0])
            y, params = self.head_dist(params, tokens[:, 1])
            yield 'logits', (x + y) / 2, params
        elif self.config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def _embed(
        self, params: Params, images: Float[Array, 'batch height width channels']
    ) -> tuple[Float[Array, 'batch tokens features'], Params]:
        config = self.config
        if images.shape[1:3] != config.image_size:
            raise ValueError(
                f'{self.path!r} expects images of {config.image_size}, found {images.shape[1:3]}'
            )
        x, params = self.patch_embed(params, images)
        x = x.reshape(x.shape[0], -1, config.width)  # [batch, patches, width]
        tokens = []
        for name in config.prefix_tokens:
            token, params = self.get_param(params, name, (1, 1, config.width), _trunc_normal)
            # Made of x, it is sharded as x is.
            tokens.append(token + jnp.zeros_like(x[:, :1]))
        x = jnp.concatenate([*tokens, x], axis=1)
        shape = (1, x.shape[1], config.width)
        pos_embed, params = self.get_param(params, 'pos_embed', shape, _trunc_normal)
        return x + pos_embed, params

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'patch_embed', 'block0' and so on, whose tokens are a map, and 'pre_logits'.

        Before the latter comes 'norm', all tokens normalized, where the class token is pooled.
        """
        width, strides = self.config.width, self.config.patch_size
        blocks = (Feature(f'block{i}', width, strides) for i in range(self.config.depth))
        last = Feature('pre_logits', self.config.pre_logits or width)
        norm = (Feature('norm', width),) * (self.config.pool == 'cls')
        return (Feature('patch_embed', width), *blocks, *norm, last)

    def _as_map(self, x: Float[Array, 'batch tokens width']) -> jax.Array:
        rows, columns = (n // p for n, p in zip(self.config.image_size, self.config.patch_size))
        patches = x[:, len(self.config.prefix_tokens) :]
        return patches.reshape(x.shape[0], rows, columns, self.config.width)


def _size(width: int, depth: int, heads: int, patch: int) -> ViTConfig:
    return ViTConfig(
        width=width, depth=depth, heads=heads, mlp_dim=4 * width, patch_size=(patch, patch)
    )


VARIANTS = {
    **{f'vit-ti{patch}': _size(192, 12, 3, patch) for patch in (8, 16, 32)},
    **{f'vit-s{patch}': _size(384, 12, 6, patch) for patch in (8, 16, 32)},
    **{f'vit-b{patch}': _size(768, 12, 12, patch) for patch in (8, 16, 32)},
    **{f'vit-l{patch}': _size(1024, 24, 16, patch) for patch in (8, 14, 16, 32)},
    **{f'vit-h{patch}': _size(1280, 32, 16, patch) for patch in (14, 16, 32)},
}

FAMILY = Family(
    'vit',
    'image-classification',
    ViTConfig,
    ViT,
    VARIANTS,
    head=Head('num_classes', 'vit/head*/*'),
    resized={
        'image_size': Resized('vit/pos_embed', resize_positions),
        'in_channels': Resized('vit/patch_embed/w', resize_channels),
    },
)
