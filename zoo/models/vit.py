"""ViT: the vision transformer, and what grew out of it.

Paper: Dosovitskiy et al., 2020, "An Image is Worth 16x16 Words" (arXiv:2010.11929). References:
timm.models.vision_transformer, transformers.ViTForImageClassification, google-research/vision_transformer.

Among its configs are DeiT (a second token and head; arXiv:2012.12877) and DeiT III (LayerScale; arXiv:2204.07118),
the image towers of CLIP (a norm before the blocks; arXiv:2103.00020) and SigLIP (a learned query pools;
arXiv:2303.15343), DINOv2 (arXiv:2304.07193) and register tokens (arXiv:2309.16588), AIMv2 (RMSNorm, SwiGLU;
arXiv:2411.14402) and BEiT-3 (norms inside of attention and MLP; arXiv:2208.10442).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
    LayerScale,
    Linear,
    Mlp,
    MultiHeadAttention,
    RMSNorm,
)
from blox.layers.initializers import TruncatedNormal, Zeros
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.blocks import (
    DifferentialAttention,
    ParallelBlock,
    PostNormBlock,
    WideBlock,
)
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
class ViTConfig(Config):
    """Choices that make a ViT.

    Attributes:
      image_size, patch_size: height and width; what patches leave of an image at its end is not seen.
      mlp: 'plain', or 'gated' by its own first half (SwiGLU, if the activation is silu); 'gated_apart' is
        the same function, of files that have gate and value as two matrices.
      mlp_dim: how many hidden values go into the MLP's last layer.
      pool: 'cls' (the class token's output), 'avg' (the mean over patches), 'cls_avg' (one beside the
        other, twice as wide) or 'map' (an attention pool over patches, with a learned query and an MLP).
      pool_prefix: whether the pool sees the learned tokens too.
      class_token: whether a learned token stands before the patches.
      registers: how many more do, after it.
      distilled: whether a second one stands after it, with a head of its own; outputs are the mean
        of both heads', features that of both tokens'.
      positions: which tokens have a position of their own: 'all', all but registers ('class'), or
        'patches' alone.
      patch_norm, pre_norm: whether patches are normalized before they get positions, and all tokens
        before the first block; with the latter, patches have no bias.
      final_norm: what the last norm is of: all 'tokens', the 'pooled' ones, or 'none' at all.
      pre_logits: width of a tanh layer before the head; 0 for none.
      block: 'plain'; 'post_norm' (branches are normalized at their end), 'parallel' (two attentions and two
        MLPs side by side) or 'wide' (attention and MLP side by side, of one projection).
      differential: whether attention is the difference of two.
      layer_scale: what each channel of what a block adds is multiplied by at first; 0 for no LayerScale.
      qkv_bias, proj_bias: whether queries, keys and values have biases, and the blocks' other layers.
      qk_norm: whether queries and keys are normalized, by head.
      inner_norms: whether attention and MLP normalize what goes into their last layers.
      activation: 'gelu' (exact; timm, Hugging Face), 'gelu_tanh' (Google's own code), 'quick_gelu'
        (OpenAI's CLIP), or another of `ACTIVATIONS`.
      norm: 'layer' or 'rms'.
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
    mlp: str = 'plain'
    mlp_dim: int = 3072
    pool: str = 'cls'
    pool_prefix: bool = False
    class_token: bool = True
    registers: int = 0
    distilled: bool = False
    positions: str = 'all'
    patch_norm: bool = False
    pre_norm: bool = False
    final_norm: str = 'tokens'
    pre_logits: int = 0
    block: str = 'plain'
    differential: bool = False
    layer_scale: float = 0.0
    qkv_bias: bool = True
    proj_bias: bool = True
    qk_norm: bool = False
    inner_norms: bool = False
    activation: str = 'gelu'
    norm: str = 'layer'
    norm_eps: float = 1e-6
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    attention: str = 'auto'

    def conditions(self) -> Mapping[str, bool]:
        is_deit = self.pool == 'cls' and self.positions == 'all' and self.final_norm != 'pooled'
        is_deit &= not (self.pre_logits or self.registers)
        return {
            **patches_fit_image(self),
            **heads_divide_width(self),
            "mlp 'plain', 'gated' or 'gated_apart'": self.mlp in ('plain', 'gated', 'gated_apart'),
            "mlp 'plain' with pool 'map'": self.mlp == 'plain' or self.pool != 'map',
            'pre_logits >= 0': self.pre_logits >= 0,
            'registers >= 0': self.registers >= 0,
            "pool 'avg', 'map', or 'cls' or 'cls_avg' with a class token": self.pool
            in ('avg', 'map')
            or (self.pool in ('cls', 'cls_avg') and self.class_token),
            "pool_prefix with pool 'avg' or 'map'": self.pool in ('avg', 'map')
            or not self.pool_prefix,
            "pool 'cls', positions 'all', final_norm of no 'pooled', no pre_logits and no registers "
            'where distilled': is_deit or not self.distilled,
            "positions 'all', 'patches', or 'class' with class_token and registers": self.positions
            in ('all', 'patches')
            or (self.positions == 'class' and self.class_token and self.registers > 0),
            "final_norm 'tokens', 'pooled' or 'none'": self.final_norm
            in ('tokens', 'pooled', 'none'),
            "norm 'layer' or 'rms'": self.norm in _NORMS,
            f'block one of {", ".join(_BLOCKS)}': self.block in _BLOCKS,
            "mlp 'plain' and no inner_norms in a block 'wide'": self.block != 'wide'
            or (self.mlp == 'plain' and not self.inner_norms),
            'twice the heads that divide width where attention is differential': not self.differential
            or self.width % (2 * self.heads) == 0,
        }

    @property
    def prefix_tokens(self) -> Mapping[str, int]:
        """Names of the learned tokens that stand before the patches, and how many each has."""
        counts = {'cls_token': self.class_token, 'dist_token': self.distilled}
        counts |= {'reg_token': self.registers}
        return {name: int(count) for name, count in counts.items() if count}

    @property
    def prefix_length(self) -> int:
        """Count the learned tokens that stand before the patches."""
        return sum(self.prefix_tokens.values())

    def make_norm(self, graph: Graph, **options: Any) -> LayerNorm | RMSNorm:
        """Make a norm of the kind that the model has."""
        return _NORMS[self.norm](graph, eps=self.norm_eps, **options)

    def make_attention(self, graph: Graph, index: int) -> Module:
        """Make the attention of a block."""
        if self.differential:
            return DifferentialAttention(graph, self, index)
        return MultiHeadAttention(
            graph,
            self.width,
            self.heads,
            implementation=self.attention,
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            qk_norm=self.make_norm if self.qk_norm else None,
            norm=self.make_norm if self.inner_norms else None,
            attention_dropout_rate=self.attention_dropout_rate,
            dropout_rate=self.dropout_rate,
            qkv_init=_trunc_normal,
            proj_init=_trunc_normal,
        )

    def make_mlp(self, graph: Graph) -> Mlp:
        """Make the MLP of a block."""
        return Mlp(
            graph,
            self.mlp_dim,
            self.width,
            ACTIVATIONS[self.activation],
            is_gated=self.mlp != 'plain',
            norm=self.make_norm if self.inner_norms else None,
            use_bias=self.proj_bias,
            hidden_dropout_rate=self.dropout_rate,
            dropout_rate=self.dropout_rate,
            fc1_init=_trunc_normal,
            fc2_init=_trunc_normal,
        )


# The learned tokens that have positions.
_PLACED = {'all': ('cls_token', 'dist_token', 'reg_token'), 'class': ('cls_token',), 'patches': ()}
_NORMS: Mapping[str, Callable[..., LayerNorm | RMSNorm]] = {'layer': LayerNorm, 'rms': RMSNorm}
_trunc_normal = TruncatedNormal(0.02)


class Block(Module):
    """A pre-norm transformer block."""

    def __init__(
        self, graph: Graph, config: ViTConfig, index: int, *, drop_path_rate: float
    ) -> None:
        super().__init__(graph)
        self.norm1 = config.make_norm(graph.child('norm1'))
        self.attn = config.make_attention(graph.child('attn'), index)
        self.norm2 = config.make_norm(graph.child('norm2'))
        self.mlp = config.make_mlp(graph.child('mlp'))
        has_scale = config.layer_scale != 0
        self.ls1 = LayerScale(graph.child('ls1'), config.layer_scale) if has_scale else None
        self.ls2 = LayerScale(graph.child('ls2'), config.layer_scale) if has_scale else None
        self.drop_path1 = DropPath(graph.child('drop_path1'), drop_path_rate)
        self.drop_path2 = DropPath(graph.child('drop_path2'), drop_path_rate)

    def __call__(
        self, params: Params, x: Float[Array, 'batch tokens width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch tokens width'], Params]:
        y, params = self.norm1(params, x)
        y, params = self.attn(params, y, is_training=is_training)
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


_BLOCKS: Mapping[str, Callable[..., Module]] = {
    'plain': Block,
    'post_norm': PostNormBlock,
    'parallel': ParallelBlock,
    'wide': WideBlock,
}


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
            use_bias=not config.pre_norm,
        )
        if config.patch_norm:
            self.patch_norm = config.make_norm(graph.child('patch_norm'))
        self.dropout = Dropout(graph.child('dropout'), config.dropout_rate)
        if config.pre_norm:
            self.pre_norm = config.make_norm(graph.child('pre_norm'))
        self.blocks = [
            _BLOCKS[config.block](graph.child(f'block{i}'), config, i, drop_path_rate=rate)
            for i, rate in enumerate(drop_path_rates(config.drop_path_rate, config.depth))
        ]
        if config.final_norm != 'none':
            self.norm = config.make_norm(graph.child('norm'))
        if config.pool == 'map':
            self.pool = AttentionPool(
                graph.child('pool'),
                config.width,
                config.heads,
                config.mlp_dim,
                activation=config.activation,
                norm=config.make_norm,
            )
        if config.pre_logits:
            self.pre_logits = Linear(graph.child('pre_logits'), config.pre_logits)
        if config.num_classes:
            self.head = Linear(graph.child('head'), config.num_classes, w_init=Zeros())
        if config.num_classes and config.distilled:
            self.head_dist = Linear(graph.child('head_dist'), config.num_classes, w_init=Zeros())

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        config = self.config
        x, params = self._embed(params, cast_like(images, params, f'{self.patch_embed.path}/w'))
        x, params = self.dropout(params, x, is_training=is_training)
        if config.pre_norm:
            x, params = self.pre_norm(params, x)
        yield 'patch_embed', x, params
        x, params = yield from block_steps(self.blocks, config, params, x, is_training=is_training)
        if config.final_norm == 'tokens':
            x, params = self.norm(params, x)
            yield 'norm', x, params
        tokens = x
        x, params = self._pooled(params, tokens)
        if config.final_norm == 'pooled':
            x, params = self.norm(params, x)
        if config.pre_logits:
            x, params = self.pre_logits(params, x)
            x = jnp.tanh(x)
        yield 'pre_logits', x, params
        if config.num_classes and config.distilled:
            x, params = self.head(params, tokens[:, 0])
            y, params = self.head_dist(params, tokens[:, 1])
            yield 'logits', (x + y) / 2, params
        elif config.num_classes:
            x, params = self.head(params, x)
            yield 'logits', x, params

    def _embed(
        self, params: Params, images: Float[Array, 'batch height width channels']
    ) -> tuple[Float[Array, 'batch tokens features'], Params]:
        config = self.config
        check_size(self, images)
        x, params = self.patch_embed(params, images)
        x = x.reshape(x.shape[0], -1, config.width)  # [batch, patches, width]
        if config.patch_norm:
            x, params = self.patch_norm(params, x)
        placed, others = [], []
        for name, count in config.prefix_tokens.items():
            token, params = self.get_param(params, name, (1, count, config.width), _trunc_normal)
            has_position = name in _PLACED[config.positions]
            # Made of x, it is sharded as x is.
            (placed if has_position else others).append(token + jnp.zeros_like(x[:, :1]))
        x = jnp.concatenate([*placed, x], axis=1)
        shape = (1, x.shape[1], config.width)
        pos_embed, params = self.get_param(params, 'pos_embed', shape, _trunc_normal)
        x = x + pos_embed
        if others:
            x = jnp.concatenate([x[:, : len(placed)], *others, x[:, len(placed) :]], axis=1)
        return x, params

    def _pooled(
        self, params: Params, tokens: Float[Array, 'batch tokens width']
    ) -> tuple[Float[Array, 'batch features'], Params]:
        config = self.config
        first = tokens[:, :2].mean(1) if config.distilled else tokens[:, 0]
        seen = tokens if config.pool_prefix else tokens[:, config.prefix_length :]
        match config.pool:
            case 'cls':
                return first, params
            case 'cls_avg':
                return jnp.concatenate([first, seen.mean(1)], axis=-1), params
            case 'map':
                return self.pool(params, seen)
        return seen.mean(1), params

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'patch_embed', 'block0' and so on, whose tokens are a map, and 'pre_logits'.

        Before the latter comes 'norm', all tokens normalized, unless the pooled ones are.
        """
        width, strides = self.config.width, self.config.patch_size
        blocks = (Feature(f'block{i}', width, strides) for i in range(self.config.depth))
        pooled = width * (2 if self.config.pool == 'cls_avg' else 1)
        last = Feature('pre_logits', self.config.pre_logits or pooled)
        norm = (Feature('norm', width),) * (self.config.final_norm == 'tokens')
        return (Feature('patch_embed', width), *blocks, *norm, last)

    def _as_map(self, x: Float[Array, 'batch tokens width']) -> jax.Array:
        rows, columns = (n // p for n, p in zip(self.config.image_size, self.config.patch_size))
        patches = x[:, self.config.prefix_length :]
        return patches.reshape(x.shape[0], rows, columns, self.config.width)


def _size(width: int, depth: int, heads: int, patch: int, **more: Any) -> ViTConfig:
    sizes = {'width': width, 'depth': depth, 'heads': heads, 'mlp_dim': 4 * width}
    return ViTConfig(**{**sizes, 'patch_size': (patch, patch), **more})


_DINOV2 = {'image_size': (518, 518), 'num_classes': 0, 'layer_scale': 1e-5}

VARIANTS = {
    **{f'vit-ti{patch}': _size(192, 12, 3, patch) for patch in (8, 16, 32)},
    **{f'vit-s{patch}': _size(384, 12, 6, patch) for patch in (8, 16, 32)},
    **{f'vit-b{patch}': _size(768, 12, 12, patch) for patch in (8, 16, 32)},
    **{f'vit-l{patch}': _size(1024, 24, 16, patch) for patch in (8, 14, 16, 32)},
    **{f'vit-h{patch}': _size(1280, 32, 16, patch) for patch in (14, 16, 32)},
    'dinov2-small': _size(384, 12, 6, 14, **_DINOV2),
    'dinov2-base': _size(768, 12, 12, 14, **_DINOV2),
    'dinov2-large': _size(1024, 24, 16, 14, **_DINOV2),
    'dinov2-giant': _size(
        1536, 40, 24, 14, **_DINOV2, mlp='gated', mlp_dim=4096, activation='silu'
    ),
}

FAMILY = Family(
    'vit',
    'image-classification',
    ViTConfig,
    ViT,
    VARIANTS,
    head=Head('num_classes', 'vit/head*/*'),
    resized=(
        Resized('vit/pos_embed', ('image_size', 'patch_size'), resize_positions),
        Resized('vit/patch_embed/w', ('in_channels',), resize_channels),
        Resized('vit/patch_embed/w', ('patch_size',), resize_patches),
    ),
    one_size=True,
)
