"""CLIP and SigLIP: a tower for images and one for texts, whose embeddings lie in one space.

Papers: Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision"
(arXiv:2103.00020); Zhai et al., 2023, "Sigmoid Loss for Language Image Pre-Training" (arXiv:2303.15343);
Tschannen et al., 2025, "SigLIP 2" (arXiv:2502.14786). References: transformers.CLIPModel and
SiglipModel, open_clip.

Supported: image towers that are ViTs, with a class token or an attention pool; text towers that read
forwards or both ways; embeddings with and without projections; the scale and the bias of similarities.
SigLIP 2 is here in its fixed sizes. An image tower alone, without its projection, is a ViT.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blox.graph import Graph
from blox.layers import ACTIVATIONS, Embed, LayerNorm, Linear, Mlp, MultiHeadAttention
from blox.layers.initializers import Constant, Normal
from blox.layers.precision import widen
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config, heads_divide_width, patches_fit_image
from blox.zoo.architecture.family import Family, Resized
from blox.zoo.architecture.features import Feature, Steps, collect, finish, named
from blox.zoo.architecture.model import ZooModel, block_steps, check_tokens
from blox.zoo.architecture.pooling import normalized, picked
from blox.zoo.architecture.resizing import (
    interpolate_positions,
    resize_channels,
    resize_patches,
    resize_positions,
    resize_rows,
)
from blox.zoo.models.vit import ViT, ViTConfig


@dataclass(frozen=True)
class CLIPConfig(Config):
    """Choices that make a CLIP. What begins with `image_` or `text_` is of one tower alone.

    Attributes:
      image_size, patch_size: height and width.
      image_pool: 'cls' (a class token's output, normalized; all tokens are so before the first block,
        as CLIP has it), or 'map' (an attention pool, and no class token, as SigLIP has it).
      image_projection: whether the pooled image is projected to the embedding; without it that is as
        wide as the tower.
      embed_dim: the width of embeddings.
      vocab_size, context: how many tokens there are, and how many of them a text may have.
      text_causal: whether each token sees only those before it.
      text_pool: which token's output stands for a text: the first 'end' token's, that of the 'highest'
        id, which is the end's in CLIP's own vocabulary, or the 'last' one's, whatever it is.
        Where what fills a text up is seen so, or by all tokens, texts are of one length, the `context`.
      end_token: the id of the 'end'; -1 in other pools.
      text_bias: whether the projection of texts has a bias.
      logit_bias: whether similarities have one: pairs are then judged each by itself, by a sigmoid,
        and else by a softmax over all texts.
      image_activation, text_activation: 'quick_gelu' in OpenAI's weights, 'gelu' in most of LAION's,
        'gelu_tanh' in SigLIP's.
      attention: 'auto', by the platform's own kernel where that is right, or 'exact'.
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: tuple[int, int] = (32, 32)
    in_channels: int = 3
    image_width: int = 768
    image_depth: int = 12
    image_heads: int = 12
    image_mlp_dim: int = 3072
    image_activation: str = 'quick_gelu'
    image_norm_eps: float = 1e-5
    image_pool: str = 'cls'
    image_projection: bool = True
    embed_dim: int = 512
    vocab_size: int = 49408
    context: int = 77
    text_width: int = 512
    text_depth: int = 12
    text_heads: int = 8
    text_mlp_dim: int = 2048
    text_activation: str = 'quick_gelu'
    text_norm_eps: float = 1e-5
    text_causal: bool = True
    text_pool: str = 'highest'
    end_token: int = -1
    text_bias: bool = False
    logit_bias: bool = False
    attention_dropout_rate: float = 0.0
    attention: str = 'auto'

    def conditions(self) -> Mapping[str, bool]:
        return {
            **patches_fit_image(self),
            **heads_divide_width(self, 'image_'),
            **heads_divide_width(self, 'text_'),
            f'image_pool one of {", ".join(_IMAGE_FORMS)}': self.image_pool in _IMAGE_FORMS,
            'embed_dim > 0': self.embed_dim > 0,
            'embed_dim that is image_width without an image_projection': self.image_projection
            or self.embed_dim == self.image_width,
            "text_pool 'end', 'highest' or 'last'": self.text_pool in ('end', 'highest', 'last'),
            "end_token in the vocabulary for text_pool 'end', -1 for others": -1
            < self.end_token
            < self.vocab_size
            if self.text_pool == 'end'
            else self.end_token == -1,
        }

    @property
    def image(self) -> ViTConfig:
        """The config of the image tower."""
        return ViTConfig(
            self.image_size,
            self.patch_size,
            self.in_channels,
            num_classes=0,
            width=self.image_width,
            depth=self.image_depth,
            heads=self.image_heads,
            mlp_dim=self.image_mlp_dim,
            activation=self.image_activation,
            norm_eps=self.image_norm_eps,
            **_IMAGE_FORMS[self.image_pool],
            attention_dropout_rate=self.attention_dropout_rate,
            attention=self.attention,
            remat=self.remat,
            scan=self.scan,
        )

    @property
    def text_length(self) -> int:
        """How many tokens each text is filled up to, where they are seen; 0 where its own will do."""
        is_seen = self.text_pool == 'last' or not self.text_causal
        return self.context if is_seen else 0

    @property
    def scores(self) -> str:
        """What makes probabilities of logits: 'sigmoid' or 'softmax'."""
        return 'sigmoid' if self.logit_bias else 'softmax'


_IMAGE_FORMS: Mapping[str, Mapping[str, Any]] = {
    'cls': {'pool': 'cls', 'pre_norm': True, 'final_norm': 'pooled'},
    'map': {'pool': 'map', 'class_token': False},
}


class CLIPOutputs(NamedTuple):
    """Outputs of a CLIP for a batch of images and one of texts.

    Attributes:
      logits: how alike each image and text are, as trained: the scaled cosine of their embeddings,
        and the bias if there is one.
      image_embedding, text_embedding: of length 1.
    """

    logits: Float[Array, 'images texts']
    image_embedding: Float[Array, 'images embed']
    text_embedding: Float[Array, 'texts embed']


class Block(Module):
    """A pre-norm transformer block of the text tower."""

    def __init__(self, graph: Graph, config: CLIPConfig) -> None:
        super().__init__(graph)
        width = config.text_width
        residual_init = Normal((2 * width * config.text_depth) ** -0.5)
        self.norm1 = LayerNorm(graph.child('norm1'), eps=config.text_norm_eps)
        self.attn = MultiHeadAttention(
            graph.child('attn'),
            width,
            config.text_heads,
            implementation=config.attention,
            is_causal=config.text_causal,
            attention_dropout_rate=config.attention_dropout_rate,
            qkv_init=Normal(width**-0.5),
            proj_init=residual_init,
        )
        self.norm2 = LayerNorm(graph.child('norm2'), eps=config.text_norm_eps)
        self.mlp = Mlp(
            graph.child('mlp'),
            config.text_mlp_dim,
            width,
            ACTIVATIONS[config.text_activation],
            fc1_init=Normal((2 * width) ** -0.5),
            fc2_init=residual_init,
        )

    def __call__(
        self, params: Params, x: Float[Array, 'batch length width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        y, params = self.norm1(params, x)
        y, params = self.attn(params, y, is_training=is_training)
        x = x + y
        y, params = self.norm2(params, x)
        y, params = self.mlp(params, y, is_training=is_training)
        return x + y, params


class TextTower(Module):
    """Token ids [batch, length] to embeddings [batch, embed_dim]."""

    def __init__(self, graph: Graph, config: CLIPConfig) -> None:
        super().__init__(graph)
        self.config = config
        width = config.text_width
        self.token_embed = Embed(
            graph.child('token_embed'), config.vocab_size, width, w_init=Normal(0.02)
        )
        self.pos_embed = Embed(graph.child('pos_embed'), config.context, width, w_init=Normal(0.01))
        self.blocks = [Block(graph.child(f'block{i}'), config) for i in range(config.text_depth)]
        self.norm = LayerNorm(graph.child('norm'), eps=config.text_norm_eps)
        self.proj = Linear(
            graph.child('proj'),
            config.embed_dim,
            use_bias=config.text_bias,
            w_init=Normal(width**-0.5),
        )

    def _steps(self, params: Params, tokens: jax.Array, is_training: bool) -> Steps:
        if tokens.ndim != 2:
            raise ValueError(f'{self.path!r} expects ids [texts, length], found {tokens.shape}')
        check_tokens(self, tokens)
        x, params = self.token_embed(params, tokens)
        places, params = self.pos_embed(params, jnp.arange(tokens.shape[1])[None])
        x = x + places
        yield 'embed', x, params
        x, params = yield from block_steps(
            self.blocks, self.config, params, x, is_training=is_training
        )
        x, params = self.norm(params, x)
        yield 'norm', x, params
        x, params = self.proj(params, self._pooled(x, tokens))
        yield 'embedding', x, params

    def __call__(
        self, params: Params, tokens: Int[Array, 'batch length'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch embed'], Params]:
        return finish(self._steps(params, tokens, is_training))

    def _pooled(
        self, x: Float[Array, 'batch length width'], tokens: Int[Array, 'batch length']
    ) -> Float[Array, 'batch width']:
        match self.config.text_pool:
            case 'end':
                return picked(x, (tokens == self.config.end_token).argmax(1))
            case 'highest':
                return picked(x, tokens.argmax(1))
        return x[:, -1]


class CLIP(ZooModel):
    """Images [images, height, width, channels] and ids [texts, length] to CLIPOutputs.

    `encode_image` and `encode_text` run one tower, and `similarity` makes logits of embeddings. There
    may be more texts than images, or fewer: logits are of all pairs.

    Where texts are pooled at their end token, one without it is pooled at its first token, as the
    references do: `bx.zoo.text_preprocessor` puts it there, and fills texts up where they must be.
    """

    config: CLIPConfig
    takes = ('images', 'tokens')

    def __init__(self, graph: Graph, config: CLIPConfig) -> None:
        super().__init__(graph, config)
        self.image = ViT(graph.child('image'), config.image)
        if config.image_projection:
            self.image_proj = Linear(
                graph.child('image_proj'),
                config.embed_dim,
                use_bias=False,
                w_init=Normal(config.image_width**-0.5),
            )
        self.text = TextTower(graph.child('text'), config)

    def _steps(
        self, params: Params, images: jax.Array, tokens: jax.Array, is_training: bool
    ) -> Steps:
        x, params = yield from named('image/', self._image_steps(params, images, is_training))
        y, params = yield from named('text/', self.text._steps(params, tokens, is_training))
        x, y = normalized(x), normalized(y)
        logits, params = self.similarity(params, x, y)
        yield 'logits', CLIPOutputs(logits, x, y), params

    def _image_steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        x, params = yield from named('', self.image._steps(params, images, is_training))
        if self.config.image_projection:
            x, params = self.image_proj(params, x)
        yield 'embedding', x, params

    def __call__(
        self,
        params: Params,
        images: Float[Array, 'images height width channels'],
        tokens: Int[Array, 'texts length'],
        *,
        is_training: bool = False,
    ) -> tuple[CLIPOutputs, Params]:
        """Return logits and embeddings; what goes in and what comes out is as the class says."""
        return finish(self._steps(params, images, tokens, is_training))

    def encode_image(
        self,
        params: Params,
        images: Float[Array, 'images height width channels'],
        *,
        normalize: bool = False,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'images embed'], Params]:
        """Return embeddings of images, of length 1 if they are to be normalized."""
        x, params = finish(self._image_steps(params, images, is_training))
        return normalized(x) if normalize else x, params

    def encode_text(
        self,
        params: Params,
        tokens: Int[Array, 'texts length'],
        *,
        normalize: bool = False,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'texts embed'], Params]:
        """Return embeddings of texts, of length 1 if they are to be normalized."""
        x, params = self.text(params, tokens, is_training=is_training)
        return normalized(x) if normalize else x, params

    def similarity(
        self,
        params: Params,
        image_embedding: Float[Array, 'images embed'],
        text_embedding: Float[Array, 'texts embed'],
    ) -> tuple[Float[Array, 'images texts'], Params]:
        """Return logits of all pairs of embeddings of length 1."""
        scale, params = self.get_param(params, 'logit_scale', (), Constant(math.log(1 / 0.07)))
        x, y = widen(image_embedding), widen(text_embedding)
        logits = jnp.exp(widen(scale)) * (x @ y.T)
        if self.config.logit_bias:
            bias, params = self.get_param(params, 'logit_bias', (), Constant(-10.0))
            logits = logits + widen(bias)
        return logits.astype(image_embedding.dtype), params

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return shape and dtype of a batch of one image, and of one text of one token."""
        images = self.image.example_inputs()
        return (*images, jax.ShapeDtypeStruct((1, 1), jnp.int32))

    def feature_info(self) -> tuple[Feature, ...]:
        """Return the image tower's, as a ViT has them, and those of the text tower.

        They are named 'image/block0' and so on, and 'text/embed', 'text/block0' and so on, 'text/norm';
        at the end of each tower is an 'embedding'.
        """
        config = self.config
        images = self.image.feature_info()
        texts = ('embed', *(f'block{i}' for i in range(config.text_depth)), 'norm')
        return (
            *(feature._replace(name=f'image/{feature.name}') for feature in images),
            Feature('image/embedding', config.embed_dim),
            *(Feature(f'text/{name}', config.text_width) for name in texts),
            Feature('text/embedding', config.embed_dim),
        )

    def features(
        self,
        params: Params,
        images: Float[Array, 'images height width channels'],
        tokens: Int[Array, 'texts length'],
        names: Any = None,
    ) -> tuple[dict[str, jax.Array], Params]:
        """Return intermediates by name, as `feature_info` lists them; all if `names` is None.

        Nothing is run that comes after the last of `names`: of one tower alone, `model.image` gives
        the features of its own Params' part.
        """
        return collect(self._steps(params, images, tokens, False), self.feature_info(), names)


def _clip(patch: int, image: int, text: int, **more: Any) -> CLIPConfig:
    """Return the config of a published CLIP, by the widths of its towers."""
    sizes = {'image_width': image, 'image_mlp_dim': 4 * image, 'image_heads': image // 64}
    sizes |= {'text_width': text, 'text_mlp_dim': 4 * text, 'text_heads': text // 64}
    return CLIPConfig(**{**sizes, 'patch_size': (patch, patch), 'embed_dim': text, **more})


_LARGE = {'image_depth': 24}
_HUGE = {'image_depth': 32, 'image_heads': 16, 'text_depth': 24}


def _siglip(patch: int, width: int, **more: Any) -> CLIPConfig:
    """Return the config of a published SigLIP, whose towers are equal unless more is said."""
    sizes = {
        f'{tower}_{name}': size
        for tower in ('image', 'text')
        for name, size in {'width': width, 'mlp_dim': 4 * width, 'heads': width // 64}.items()
    }
    sigmoid = {
        **{f'{tower}_activation': 'gelu_tanh' for tower in ('image', 'text')},
        **{f'{tower}_norm_eps': 1e-6 for tower in ('image', 'text')},
        'image_pool': 'map',
        'image_projection': False,
        'vocab_size': 32000,
        'context': 64,
        'text_causal': False,
        'text_pool': 'last',
        'text_bias': True,
        'logit_bias': True,
    }
    return CLIPConfig(
        **{**sizes, **sigmoid, 'patch_size': (patch, patch), 'embed_dim': width, **more}
    )


_DEPTHS = {'image_depth': 24, 'text_depth': 24}
_SO400M = {
    **{f'{tower}_depth': 27 for tower in ('image', 'text')},
    **{f'{tower}_heads': 16 for tower in ('image', 'text')},
    **{f'{tower}_mlp_dim': 4304 for tower in ('image', 'text')},
}
_GIANT = {
    'image_depth': 40,
    'image_heads': 16,
    'image_mlp_dim': 6144,
    **{f'text_{name}': _SO400M[f'text_{name}'] for name in ('depth', 'heads', 'mlp_dim')},
    'text_width': 1152,
}
_SIGLIP2 = {'vocab_size': 256000}

VARIANTS = {
    'clip-b32': _clip(32, 768, 512),
    'clip-b16': _clip(16, 768, 512),
    'clip-l14': _clip(14, 1024, 768, **_LARGE),
    'clip-l14-336': _clip(14, 1024, 768, **_LARGE, image_size=(336, 336)),
    'clip-h14': _clip(
        14,
        1280,
        1024,
        **_HUGE,
        **{f'{tower}_activation': 'gelu' for tower in ('image', 'text')},
    ),
    'siglip-b16': _siglip(16, 768),
    'siglip-l16': _siglip(16, 1024, **_DEPTHS, image_size=(256, 256)),
    'siglip-so400m': _siglip(14, 1152, **_SO400M, image_size=(384, 384)),
    'siglip2-b16': _siglip(16, 768, **_SIGLIP2),
    'siglip2-l16': _siglip(16, 1024, **_DEPTHS, **_SIGLIP2, image_size=(256, 256)),
    'siglip2-so400m': _siglip(14, 1152, **_SO400M, **_SIGLIP2),
    'siglip2-giant': _siglip(16, 1536, **_GIANT, **_SIGLIP2, image_size=(256, 256)),
}

FAMILY = Family(
    'clip',
    'zero-shot-image-classification',
    CLIPConfig,
    CLIP,
    VARIANTS,
    resized=(
        Resized('clip/image/pos_embed', ('image_size', 'patch_size'), resize_positions),
        Resized('clip/image/patch_embed/w', ('in_channels',), resize_channels),
        Resized('clip/image/patch_embed/w', ('patch_size',), resize_patches),
        Resized('clip/text/token_embed/w', ('vocab_size',), resize_rows),
        Resized('clip/text/pos_embed/w', ('context',), interpolate_positions),
    ),
    one_size=True,
)
