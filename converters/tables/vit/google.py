"""ViT, as .npz files of Google's vision_transformer and big_vision have it."""

from typing import Any

from blox.converters.mapping.rules import Respelling, Rule, Table
from blox.converters.mapping.transforms import IDENTITY, join_axes, merge, prepend_zeros
from blox.converters.tables.vit.parts import PLAIN, has_two_heads, tokens


def google(config: Any) -> tuple[Rule, ...]:
    """Map to flax's names in google-research/vision_transformer, with an axis for heads."""
    return (
        Rule('vit/pos_embed', 'Transformer/posembed_input/pos_embedding'),
        *_flax(config),
    )


def big_vision(config: Any) -> tuple[Rule, ...]:
    """Map to the names of google-research/big_vision, which adds no position to the class token."""
    via = prepend_zeros(axis=1) if config.class_token else IDENTITY
    return (Rule('vit/pos_embed', 'pos_embedding', via), *_flax(config))


def _flax(config: Any) -> tuple[Rule, ...]:
    block, ours = 'Transformer/encoderblock_{i}', 'vit/block{i}'
    attention = f'{block}/MultiHeadDotProductAttention_0'
    parts = tuple(f'{attention}/{name}' for name in ('query', 'key', 'value'))
    # q, k and v: kernels [width, heads, head_dim], biases [heads, head_dim].
    kernels, biases = tuple(f'{p}/kernel' for p in parts), tuple(f'{p}/bias' for p in parts)
    qkv_w = join_axes(1, config.heads) >> merge(axis=1)
    qkv_b = join_axes(0, config.heads) >> merge(axis=0)
    return (
        *tokens(config, 'cls', 'dist'),
        *_flax_dense('vit/patch_embed', 'embedding'),
        *_flax_norm(f'{ours}/norm1', f'{block}/LayerNorm_0'),
        Rule(f'{ours}/attn/qkv/w', kernels, qkv_w),
        *((Rule(f'{ours}/attn/qkv/b', biases, qkv_b),) if config.qkv_bias else ()),
        Rule(f'{ours}/attn/proj/w', f'{attention}/out/kernel', join_axes(0, config.heads)),
        Rule(f'{ours}/attn/proj/b', f'{attention}/out/bias'),
        *_flax_norm(f'{ours}/norm2', f'{block}/LayerNorm_1'),
        *_flax_dense(f'{ours}/mlp/fc1', f'{block}/MlpBlock_0/Dense_0'),
        *_flax_dense(f'{ours}/mlp/fc2', f'{block}/MlpBlock_0/Dense_1'),
        *_flax_norm('vit/norm', 'Transformer/encoder_norm'),
        *(_flax_dense('vit/pre_logits', 'pre_logits') if config.pre_logits else ()),
        *(_flax_dense('vit/head', 'head') if config.num_classes else ()),
        *(_flax_dense('vit/head_dist', 'head_dist') if has_two_heads(config) else ()),
    )


def _flax_dense(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f'{ours}/w', f'{theirs}/kernel'), Rule(f'{ours}/b', f'{theirs}/bias')


def _flax_norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f'{ours}/scale', f'{theirs}/scale'), Rule(f'{ours}/offset', f'{theirs}/bias')


_FLAX_SPELLINGS: tuple[Respelling, ...] = (
    (r'^opt/target/', ''),
    (r'^params/', ''),
    (r'^img/', ''),
    (r'/LayerNorm_2/', '/LayerNorm_1/'),
    (r'/MultiHeadDotProductAttention_1/', '/MultiHeadDotProductAttention_0/'),
    (r'/MlpBlock_3/', '/MlpBlock_0/'),
)
_FLAX: dict[str, Any] = {
    'limits': PLAIN,
    'spellings': _FLAX_SPELLINGS,
    'stacked': 'Transformer/encoderblock/',
    # Google's code approximates gelu, so the same weights are another function than in timm.
    'facts': {'activation': 'gelu_tanh', 'norm_eps': 1e-6},
}


TABLES = {
    'google': Table(google, **_FLAX),
    'big_vision': Table(big_vision, **_FLAX),
}
