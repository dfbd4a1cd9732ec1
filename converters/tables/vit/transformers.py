"""ViT and DINOv2, as transformers has them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from blox.converters.mapping.fields import PAIR, Field, Via, fixed, pair_of
from blox.converters.mapping.heads import architectures
from blox.converters.mapping.libraries import TRANSFORMERS
from blox.converters.mapping.parts import (
    ACTIVATION,
    NHWC,
    SCALE,
    dense,
    hf_header,
    live_names,
    merged,
    norm,
    published_names,
    read_classes,
    under,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO
from blox.converters.sources.source import Source
from blox.converters.tables.vit.parts import COMMON, PLAIN, heads, scales, tokens


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.ViTModel on disk, without the prefix 'vit.'."""
    layer = 'encoder.layer.{i}'
    return (
        *_hf_body(config, 'layernorm_before', 'layernorm_after'),
        *tokens(config, 'embeddings.cls_token', 'embeddings.distillation_token'),
        *dense('vit/block{i}/mlp/fc1', f'{layer}.intermediate.dense'),
        *dense('vit/block{i}/mlp/fc2', f'{layer}.output.dense'),
        *(dense('vit/pre_logits', 'pooler.dense') if config.pre_logits else ()),
        *heads(config, 'classifier', 'distillation_classifier'),
    )


def dinov2(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.Dinov2Model on disk, without the prefix 'dinov2.'.

    Gate and value of a gated MLP are one matrix there, as published, or two, as live modules have them.
    """
    ours, mlp = 'vit/block{i}/mlp', 'encoder.layer.{i}.mlp'
    if config.mlp == 'gated_apart':
        fc1 = merged(f'{ours}/fc1', (f'{mlp}.gate_proj', f'{mlp}.up_proj'))
    else:
        fc1 = dense(f'{ours}/fc1', f'{mlp}.{"fc1" if config.mlp == "plain" else "weights_in"}')
    fc2 = {'plain': 'fc2', 'gated': 'weights_out', 'gated_apart': 'down_proj'}[config.mlp]
    return (
        *_hf_body(config, 'norm1', 'norm2'),
        *tokens(config, 'embeddings.cls_token', '', 'embeddings.register_tokens'),
        *fc1,
        *dense(f'{ours}/fc2', f'{mlp}.{fc2}'),
        *scales(config, 'encoder.layer.{i}.layer_scale{n}.lambda1'),
        *heads(config, 'classifier'),
    )


def _hf_body(config: Any, norm1: str, norm2: str) -> tuple[Rule, ...]:
    """Map what all of transformers' models call the same."""
    layer = 'encoder.layer.{i}'
    parts = tuple(f'{layer}.attention.attention.{name}' for name in ('query', 'key', 'value'))
    return (
        Rule('vit/pos_embed', 'embeddings.position_embeddings'),
        *dense('vit/patch_embed', 'embeddings.patch_embeddings.projection', HWIO),
        *norm('vit/block{i}/norm1', f'{layer}.{norm1}'),
        *merged('vit/block{i}/attn/qkv', parts, bias=config.qkv_bias),
        *dense('vit/block{i}/attn/proj', f'{layer}.attention.output.dense'),
        *norm('vit/block{i}/norm2', f'{layer}.{norm2}'),
        *norm('vit/norm', 'layernorm'),
    )


_DINOV2: Mapping[str, tuple[Any, ...]] = {
    **COMMON,
    'pool': ('cls', 'cls_avg'),
    'class_token': (True,),
    'distilled': (False,),
    'final_norm': ('tokens',),
    'pre_logits': (0,),
}
_HF_LAYERS = (
    Rule('vit/patch_embed', 'embeddings.patch_embeddings.projection', NHWC),
    Rule('vit/block{i}/norm1', 'encoder.layer.{i}.layernorm_before'),
    Rule('vit/block{i}/attn', 'encoder.layer.{i}.attention'),
    Rule('vit/block{i}/norm2', 'encoder.layer.{i}.layernorm_after'),
    Rule('vit/block{i}/mlp', 'encoder.layer.{i}.mlp'),
    Rule('vit/block{i}', 'encoder.layer.{i}'),
    Rule('vit/head', 'classifier'),
)
_DINOV2_LAYERS = (
    Rule('vit/patch_embed', 'embeddings.patch_embeddings.projection', NHWC),
    Rule('vit/block{i}/attn', 'encoder.layer.{i}.attention'),
    *(
        Rule(f'vit/block{{i}}/{ours}', f'encoder.layer.{{i}}.{theirs}')
        for ours, theirs in {
            'norm1': 'norm1',
            'ls1': 'layer_scale1',
            'norm2': 'norm2',
            'mlp': 'mlp',
            'ls2': 'layer_scale2',
        }.items()
    ),
    Rule('vit/block{i}', 'encoder.layer.{i}'),
    Rule('vit/head', 'classifier'),
)


def _read_heads(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return which of a head and a pooler the weights have; with a head, no pooler is run."""
    classes = read_classes(source, ours)
    is_pooled = any(name.endswith('pooler.dense.weight') for name in source.tensors)
    pre_logits = ours['pre_logits'] if is_pooled and not classes['num_classes'] else 0
    return {**classes, 'pre_logits': pre_logits}


_HF_FIELDS = (
    Field('image_size', 'image_size', 224, PAIR),
    Field('patch_size', 'patch_size', 16, PAIR),
    Field('in_channels', 'num_channels', 3),
    Field('width', 'hidden_size', 768),
    Field('depth', 'num_hidden_layers', 12),
    Field('heads', 'num_attention_heads', 12),
    Field('mlp_dim', 'intermediate_size', 3072),
    Field(
        'pre_logits',
        'pooler_output_size',
        lambda known: known['width'],
        Via(write=lambda size, known: size or known['width']),
    ),
    Field('qkv_bias', 'qkv_bias', True),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    Field('norm_eps', 'layer_norm_eps', 1e-12),
    Field('dropout_rate', 'hidden_dropout_prob', 0.0),
    Field('attention_dropout_rate', 'attention_probs_dropout_prob', 0.0),
    *fixed(pooler_act='tanh'),
)
# It takes the root of how many positions there are for the sides of their grid.
_SQUARE = pair_of(
    lambda height, width: height == width, 'a square, for transformers resizes positions of others'
)


def _gated_dim(hidden: int) -> int:
    """Return the width of a gated MLP where a plain one has `hidden`: two thirds, a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8


def _read_whole_ratio(ratio: int, known: Mapping[str, Any]) -> int:
    hidden = known['width'] * ratio
    return hidden if known['mlp'] == 'plain' else _gated_dim(hidden)


def _write_whole_ratio(mlp_dim: int, known: Mapping[str, Any]) -> int:
    for ratio in range(1, 2 * mlp_dim // known['width'] + 2):
        if _read_whole_ratio(ratio, known) == mlp_dim:
            return ratio
    raise ValueError('what a whole ratio to the width gives')


def _read_dinov2_activation(name: str, known: Mapping[str, Any]) -> str:
    return ACTIVATION.read(name, known) if known['mlp'] == 'plain' else 'silu'


def _write_dinov2_activation(name: str, known: Mapping[str, Any]) -> str:
    if known['mlp'] != 'plain' and name != 'silu':
        raise ValueError('silu, which a gated MLP has there whatever hidden_act says')
    return ACTIVATION.write(name, known) if known['mlp'] == 'plain' else 'gelu'


def _check_registers(count: int, known: Mapping[str, Any]) -> int:
    if count < 1:
        raise ValueError('one or more; without registers it is a dinov2')
    return count


_REGISTERS = Via(_check_registers, _check_registers)


def _dinov2_fields(patch_size: int, *more: Field) -> tuple[Field, ...]:
    return (
        Field('image_size', 'image_size', 224, _SQUARE),
        Field('patch_size', 'patch_size', patch_size, PAIR),
        Field('in_channels', 'num_channels', 3),
        Field('width', 'hidden_size', 768),
        Field('depth', 'num_hidden_layers', 12),
        Field('heads', 'num_attention_heads', 12),
        Field(
            'mlp',
            'use_swiglu_ffn',
            False,
            Via(
                lambda is_gated, known: 'gated' if is_gated else 'plain',
                lambda mlp, known: mlp != 'plain',
            ),
        ),
        Field('mlp_dim', 'mlp_ratio', 4, Via(_read_whole_ratio, _write_whole_ratio)),
        *more,
        Field('layer_scale', 'layerscale_value', 1.0, SCALE),
        Field('qkv_bias', 'qkv_bias', True),
        Field(
            'activation',
            'hidden_act',
            'gelu',
            Via(_read_dinov2_activation, _write_dinov2_activation),
        ),
        Field('norm_eps', 'layer_norm_eps', 1e-6),
        Field('dropout_rate', 'hidden_dropout_prob', 0.0),
        Field('attention_dropout_rate', 'attention_probs_dropout_prob', 0.0),
        Field('drop_path_rate', 'drop_path_rate', 0.0),
    )


def _read_dinov2(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the weights tell: a head sees class token and patches; where positions are, how MLPs lie."""
    classes = read_classes(source, ours)
    is_apart = any('.mlp.gate_proj.' in name for name in source.tensors)
    # It may have no classes, and pool for a head all the same.
    is_classifier = any(name.endswith('Classification') for name in architectures(source.config))
    return {
        **classes,
        'pool': 'cls_avg' if classes['num_classes'] or is_classifier else 'cls',
        'positions': 'class' if ours.get('registers') else 'all',
        'mlp': 'gated_apart' if is_apart and ours['mlp'] == 'gated' else ours['mlp'],
    }


def _mask_token(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return zeros for the token that stands for hidden patches in pretraining, which we do without."""
    return {
        name.replace('cls_token', 'mask_token'): np.zeros_like(array[0])
        for name, array in values.items()
        if name.endswith('embeddings.cls_token')
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
_DINOV2_RENAMED = tuple(names for names in _HF_RENAMED if names[0].startswith('attention.'))


def _is_classifier(config: Any) -> bool:
    """Tell whether a model pools for a head, though that may have no classes."""
    return config.pool == 'cls_avg'


def _dinov2_table(
    kind: str, name: str, limits: Mapping[str, tuple[Any, ...]], fields: tuple[Field, ...]
) -> Table:
    return Table(
        dinov2,
        limits={**_DINOV2, **limits},
        layers=lambda config: _DINOV2_LAYERS,
        spellings=((rf'^{kind}\.', ''), *published_names(_DINOV2_RENAMED)),
        published=under(kind, _is_classifier),
        live=live_names(_DINOV2_RENAMED),
        facts={'activation': 'gelu', 'norm_eps': 1e-6},
        library=TRANSFORMERS,
        kinds=(kind,),
        fields=fields,
        # They speak of training's start, and of what a backbone for other models shows.
        neutral=('use_mask_token', 'apply_layernorm', 'reshape_hidden_states'),
        beside=_read_dinov2,
        header=hf_header(kind, f'{name}ForImageClassification', f'{name}Model', _is_classifier),
        ignored=(r'embeddings\.mask_token',),
        buffers=_mask_token,
    )


TABLES = {
    'hf': Table(
        hf,
        limits=PLAIN,
        layers=lambda config: _HF_LAYERS,
        spellings=((r'^vit\.', ''), *published_names(_HF_RENAMED)),
        published=under('vit'),
        live=live_names(_HF_RENAMED),
        facts={'activation': 'gelu', 'norm_eps': 1e-12},
        library=TRANSFORMERS,
        kinds=('vit',),
        fields=_HF_FIELDS,
        beside=_read_heads,
        header=hf_header('vit', 'ViTForImageClassification', 'ViTModel'),
        unsaid=lambda config: ('drop_path_rate',),
    ),
    'dinov2': _dinov2_table(
        'dinov2', 'Dinov2', {'registers': (0,), 'positions': ('all',)}, _dinov2_fields(14)
    ),
    'dinov2_with_registers': _dinov2_table(
        'dinov2_with_registers',
        'Dinov2WithRegisters',
        {'positions': ('class',)},
        _dinov2_fields(16, Field('registers', 'num_register_tokens', 4, _REGISTERS)),
    ),
}
