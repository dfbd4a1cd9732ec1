"""ViT: transformers, timm, and the .npz files of Google's vision_transformer and big_vision."""

import math
import re
from typing import Any

from blox.converters.rules import Respelling, Rule, Table
from blox.converters.sources.source import Source
from blox.converters.tables.common import (
    HF_FIXED,
    HF_NEUTRAL,
    NHWC,
    Fields,
    count_labels,
    dense,
    hf_activation,
    hf_labels,
    norm,
    qkv,
)
from blox.converters.tables.timm import pretrained_config, read_timm
from blox.converters.transforms import HWIO, IDENTITY, join_axes, merge, prepend_zeros


def hf(config: Any) -> tuple[Rule, ...]:
    """transformers.ViTModel on disk: names without the prefix 'vit.'."""
    layer = 'encoder.layer.{i}'
    parts = tuple(f'{layer}.attention.attention.{name}' for name in ('query', 'key', 'value'))
    return (
        *_class_token(config, 'embeddings.cls_token'),
        Rule('vit/pos_embed', 'embeddings.position_embeddings'),
        *dense('vit/patch_embed', 'embeddings.patch_embeddings.projection', HWIO),
        *norm('vit/block{i}/norm1', f'{layer}.layernorm_before'),
        *qkv('vit/block{i}/attn/qkv', parts, bias=config.qkv_bias),
        *dense('vit/block{i}/attn/proj', f'{layer}.attention.output.dense'),
        *norm('vit/block{i}/norm2', f'{layer}.layernorm_after'),
        *dense('vit/block{i}/mlp/fc1', f'{layer}.intermediate.dense'),
        *dense('vit/block{i}/mlp/fc2', f'{layer}.output.dense'),
        *norm('vit/norm', 'layernorm'),
        *(dense('vit/pre_logits', 'pooler.dense') if config.pre_logits else ()),
        *(dense('vit/head', 'classifier') if config.num_classes else ()),
    )


def timm(config: Any) -> tuple[Rule, ...]:
    """timm.models.vision_transformer; average-pooled ones call the last norm `fc_norm`."""
    return (
        *_class_token(config, 'cls_token'),
        Rule('vit/pos_embed', 'pos_embed'),
        *dense('vit/patch_embed', 'patch_embed.proj', HWIO),
        *norm('vit/block{i}/norm1', 'blocks.{i}.norm1'),
        *dense('vit/block{i}/attn/qkv', 'blocks.{i}.attn.qkv', bias=config.qkv_bias),
        *dense('vit/block{i}/attn/proj', 'blocks.{i}.attn.proj'),
        *norm('vit/block{i}/norm2', 'blocks.{i}.norm2'),
        *dense('vit/block{i}/mlp/fc1', 'blocks.{i}.mlp.fc1'),
        *dense('vit/block{i}/mlp/fc2', 'blocks.{i}.mlp.fc2'),
        *norm('vit/norm', 'fc_norm' if config.pool == 'avg' else 'norm'),
        *(dense('vit/pre_logits', 'pre_logits.fc') if config.pre_logits else ()),
        *(dense('vit/head', 'head') if config.num_classes else ()),
    )


def google(config: Any) -> tuple[Rule, ...]:
    """google-research/vision_transformer: flax's names, a kernel axis for each head."""
    return (
        Rule('vit/pos_embed', 'Transformer/posembed_input/pos_embedding'),
        *_flax(config),
    )


def big_vision(config: Any) -> tuple[Rule, ...]:
    """google-research/big_vision, which adds no position to the class token."""
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
        *_class_token(config, 'cls'),
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
    )


def _class_token(config: Any, name: str) -> tuple[Rule, ...]:
    return (Rule('vit/cls_token', name),) if config.class_token else ()


def _flax_dense(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f'{ours}/w', f'{theirs}/kernel'), Rule(f'{ours}/b', f'{theirs}/bias')


def _flax_norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f'{ours}/scale', f'{theirs}/scale'), Rule(f'{ours}/offset', f'{theirs}/bias')


def _hf_layers(config: Any) -> tuple[Rule, ...]:
    prefix = 'vit.' if config.num_classes else ''
    block = f'{prefix}layers.{{i}}'
    return (
        Rule('vit/patch_embed', f'{prefix}embeddings.patch_embeddings.projection', NHWC),
        Rule('vit/block{i}/norm1', f'{block}.layernorm_before'),
        Rule('vit/block{i}/attn', f'{block}.attention'),
        Rule('vit/block{i}/norm2', f'{block}.layernorm_after'),
        Rule('vit/block{i}/mlp', f'{block}.mlp'),
        Rule('vit/block{i}', block),
        *((Rule('vit/head', 'classifier'),) if config.num_classes else ()),
    )


def _timm_layers(config: Any) -> tuple[Rule, ...]:
    names = ('norm1', 'attn', 'norm2', 'mlp')
    return (
        Rule('vit/patch_embed', 'patch_embed.proj', NHWC),
        *(Rule(f'vit/block{{i}}/{name}', f'blocks.{{i}}.{name}') for name in names),
        Rule('vit/block{i}', 'blocks.{i}'),
        *((Rule('vit/head', 'head'),) if config.num_classes else ()),
    )


def _read_hf(source: Source) -> dict[str, Any]:
    fields = Fields(source.config)
    width = fields.take('hidden_size', 768)
    has_head = any(name.startswith('classifier.') for name in source.tensors)
    has_pooler = any(name.endswith('pooler.dense.weight') for name in source.tensors)
    pooled = fields.take('pooler_output_size', width)
    ours = {
        'image_size': fields.pair('image_size', 224),
        'patch_size': fields.pair('patch_size', 16),
        'in_channels': fields.take('num_channels', 3),
        'num_classes': count_labels(source.config) if has_head else 0,
        'width': width,
        'depth': fields.take('num_hidden_layers', 12),
        'heads': fields.take('num_attention_heads', 12),
        'mlp_dim': fields.take('intermediate_size', 3072),
        'pre_logits': pooled if has_pooler and not has_head else 0,
        'qkv_bias': fields.take('qkv_bias', True),
        'activation': fields.activation('hidden_act', 'gelu'),
        'norm_eps': fields.take('layer_norm_eps', 1e-12),
        'dropout_rate': fields.take('hidden_dropout_prob', 0.0),
        'attention_dropout_rate': fields.take('attention_probs_dropout_prob', 0.0),
    }
    fields.expect({**HF_FIXED, 'pooler_act': 'tanh'})
    fields.finish(HF_NEUTRAL | {'tie_word_embeddings'})
    return ours


def _write_hf(config: Any) -> dict[str, Any]:
    if config.pool != 'cls' or (config.pre_logits and config.num_classes):
        raise ValueError(
            "transformers has only ViTs with pool 'cls', and with either pre_logits or num_classes"
            f'; found pool {config.pool!r}, pre_logits {config.pre_logits}, '
            f'num_classes {config.num_classes}'
        )
    return {
        'architectures': ['ViTForImageClassification' if config.num_classes else 'ViTModel'],
        'model_type': 'vit',
        'image_size': _int_or_list(config.image_size),
        'patch_size': _int_or_list(config.patch_size),
        'num_channels': config.in_channels,
        'hidden_size': config.width,
        'num_hidden_layers': config.depth,
        'num_attention_heads': config.heads,
        'intermediate_size': config.mlp_dim,
        'pooler_output_size': config.pre_logits or config.width,
        'pooler_act': 'tanh',
        'qkv_bias': config.qkv_bias,
        'hidden_act': hf_activation(config.activation),
        'layer_norm_eps': config.norm_eps,
        'hidden_dropout_prob': config.dropout_rate,
        'attention_probs_dropout_prob': config.attention_dropout_rate,
        **(hf_labels(config.num_classes) if config.num_classes else {}),
    }


def _int_or_list(size: tuple[int, int]) -> int | list[int]:
    return size[0] if size[0] == size[1] else list(size)


_SIZES = {
    'tiny': {'width': 192, 'depth': 12, 'heads': 3},
    'small': {'width': 384, 'depth': 12, 'heads': 6},
    'base': {'width': 768, 'depth': 12, 'heads': 12},
    'large': {'width': 1024, 'depth': 24, 'heads': 16},
    'huge': {'width': 1280, 'depth': 32, 'heads': 16},
}
ARCHITECTURES = {
    f'{family}_{size}_patch{patch}_{image}': {**fields, 'patch': patch}
    for family, sizes in (('vit', tuple(_SIZES)), ('deit', ('tiny', 'small', 'base')))
    for size, fields in ((size, _SIZES[size]) for size in sizes)
    for patch in (8, 14, 16, 32)
    for image in (224, 384)
}


def _read_timm(source: Source) -> dict[str, Any]:
    architecture, arguments, common = read_timm(source, 'vit', ARCHITECTURES)
    base = ARCHITECTURES[architecture]
    width = arguments.take('embed_dim', base['width'])
    pool = arguments.take('global_pool', 'token')
    if pool not in ('token', 'avg'):
        arguments.problems.append(f"global_pool 'token' or 'avg', found {pool!r}")
    rates = [arguments.take(f'{name}_drop_rate', 0.0) for name in ('pos', 'proj')]
    if rates[0] != rates[1]:
        arguments.problems.append(f'pos_drop_rate equal to proj_drop_rate, found {rates}')
    activation = arguments.take('act_layer', 'gelu')
    ours = {
        **common,
        'patch_size': arguments.pair('patch_size', base['patch']),
        'width': width,
        'depth': arguments.take('depth', base['depth']),
        'heads': arguments.take('num_heads', base['heads']),
        'mlp_dim': int(width * arguments.take('mlp_ratio', 4.0)),
        'pool': 'avg' if pool == 'avg' else 'cls',
        'class_token': arguments.take('class_token', True),
        'qkv_bias': arguments.take('qkv_bias', True),
        'activation': activation,
        'norm_eps': 1e-6,
        'dropout_rate': rates[0],
        'attention_dropout_rate': arguments.take('attn_drop_rate', 0.0),
        'drop_path_rate': arguments.take('drop_path_rate', 0.0),
    }
    arguments.expect(_TIMM_FIXED | {'fc_norm': pool == 'avg'})
    arguments.finish(_TIMM_NEUTRAL)
    return ours


_TIMM_FIXED = {
    'drop_rate': 0.0,
    'dynamic_img_pad': False,
    'embed_norm_layer': None,
    'final_norm': True,
    'init_values': None,
    'no_embed_class': False,
    'norm_layer': None,
    'patch_drop_rate': 0.0,
    'pool_include_prefix': False,
    'pos_embed': 'learn',
    'pre_norm': False,
    'proj_bias': True,
    'qk_norm': False,
    'reg_tokens': 0,
    'scale_attn_norm': False,
    'scale_mlp_norm': False,
}
# They have a say in training's start, or for images of other sizes, which ours refuses.
_TIMM_NEUTRAL = frozenset({'dynamic_img_size', 'fix_init', 'strict_img_size', 'weight_init'})


def _write_timm(config: Any) -> dict[str, Any]:
    if config.norm_eps != 1e-6 or config.pre_logits:
        raise ValueError(
            'timm has only ViTs with norm_eps 1e-6 and without pre_logits, '
            f'found norm_eps {config.norm_eps}, pre_logits {config.pre_logits}'
        )
    ratio = config.mlp_dim / config.width
    if int(config.width * ratio) != config.mlp_dim:
        ratio = math.nextafter(ratio, math.inf)
    pool = 'token' if config.pool == 'cls' else 'avg'
    return {
        'architecture': 'vit_base_patch16_224',
        'num_classes': config.num_classes,
        'num_features': config.width,
        'global_pool': pool,
        'model_args': {
            'img_size': list(config.image_size),
            'patch_size': list(config.patch_size),
            'in_chans': config.in_channels,
            'num_classes': config.num_classes,
            'global_pool': pool,
            'embed_dim': config.width,
            'depth': config.depth,
            'num_heads': config.heads,
            'mlp_ratio': ratio,
            'qkv_bias': config.qkv_bias,
            'class_token': config.class_token,
            'act_layer': config.activation,
            'pos_drop_rate': config.dropout_rate,
            'proj_drop_rate': config.dropout_rate,
            'attn_drop_rate': config.attention_dropout_rate,
            'drop_path_rate': config.drop_path_rate,
        },
        'pretrained_cfg': pretrained_config(config, 'patch_embed.proj', 'head', fixed_size=True),
    }


# On disk, and as transformers 5 calls its live modules; it can save by those names too.
_HF_RENAMED = (
    ('encoder.layer.', 'layers.'),
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)
_FLAX_SPELLINGS: tuple[Respelling, ...] = (
    (r'^opt/target/', ''),
    (r'^params/', ''),
    (r'^img/', ''),
    (r'/LayerNorm_2/', '/LayerNorm_1/'),
    (r'/MultiHeadDotProductAttention_1/', '/MultiHeadDotProductAttention_0/'),
    (r'/MlpBlock_3/', '/MlpBlock_0/'),
)
_FLAX: dict[str, Any] = {
    'spellings': _FLAX_SPELLINGS,
    'stacked': 'Transformer/encoderblock/',
    # Google's code approximates gelu, so the same weights are another function than in timm.
    'facts': {'activation': 'gelu_tanh', 'norm_eps': 1e-6},
}

TABLES = {
    'hf': Table(
        hf,
        layers=_hf_layers,
        spellings=((r'^vit\.', ''), *((re.escape(new), old) for old, new in _HF_RENAMED)),
        published=lambda config: ((r'^(?!classifier\.)', 'vit.'),) if config.num_classes else (),
        live=tuple((re.escape(old), new) for old, new in _HF_RENAMED),
        facts={'activation': 'gelu', 'norm_eps': 1e-12},
        read_config=_read_hf,
        write_config=_write_hf,
    ),
    'timm': Table(
        timm,
        layers=_timm_layers,
        facts={'activation': 'gelu', 'norm_eps': 1e-6},
        architectures=ARCHITECTURES,
        read_config=_read_timm,
        write_config=_write_timm,
    ),
    'google': Table(google, **_FLAX),
    'big_vision': Table(big_vision, **_FLAX),
}
