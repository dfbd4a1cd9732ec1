"""DINOv3, as transformers has it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from blox.converters.mapping.fields import PAIR, Field, Via, fixed
from blox.converters.mapping.libraries import TRANSFORMERS
from blox.converters.mapping.parts import (
    ACTIVATION,
    NHWC,
    SCALE,
    dense,
    hf_header,
    merged,
    norm,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO
from blox.converters.sources.source import Source
from blox.converters.tables.eva.parts import BLOCK, apart, scales, tokens
from blox.tensorfile import fail

_REGISTERS = 'embeddings.register_tokens'


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.DINOv3ViTModel on disk."""
    theirs = 'layer.{i}'
    gate_and_value = (f'{theirs}.mlp.gate_proj', f'{theirs}.mlp.up_proj')
    return (
        *tokens(config, 'embeddings.cls_token', _REGISTERS),
        *dense('eva/patch_embed', 'embeddings.patch_embeddings', HWIO),
        *norm(f'{BLOCK}/norm1', f'{theirs}.norm1'),
        *apart(config, f'{theirs}.attention'),
        *dense(f'{BLOCK}/attn/proj', f'{theirs}.attention.o_proj'),
        *norm(f'{BLOCK}/norm2', f'{theirs}.norm2'),
        *(
            dense(f'{BLOCK}/mlp/fc1', f'{theirs}.mlp.up_proj')
            if config.mlp == 'plain'
            else merged(f'{BLOCK}/mlp/fc1', gate_and_value)
        ),
        *dense(f'{BLOCK}/mlp/fc2', f'{theirs}.mlp.down_proj'),
        *scales(config, f'{theirs}.layer_scale1.lambda1', f'{theirs}.layer_scale2.lambda1'),
        *norm('eva/norm', 'norm'),
    )


_LAYERS = (
    Rule('eva/patch_embed', 'embeddings.patch_embeddings', NHWC),
    *(
        Rule(f'{BLOCK}/{ours}', f'layer.{{i}}.{theirs}')
        for ours, theirs in {
            'norm1': 'norm1',
            'attn': 'attention',
            'ls1': 'layer_scale1',
            'norm2': 'norm2',
            'mlp': 'mlp',
            'ls2': 'layer_scale2',
        }.items()
    ),
    Rule(BLOCK, 'layer.{i}'),
    Rule('eva/norm', 'norm'),
)


def _read_key_bias(value: bool, known: Mapping[str, Any]) -> bool:
    if value and not known['qkv_bias']:
        raise ValueError('no bias of keys alone')
    return value


def _write_key_bias(value: bool, known: Mapping[str, Any]) -> bool:
    return value and known['qkv_bias']


_GATED = Via(
    lambda is_gated, known: 'gated_apart' if is_gated else 'plain',
    lambda mlp, known: mlp != 'plain',
)
_FIELDS = (
    Field('image_size', 'image_size', 224, PAIR),
    Field('patch_size', 'patch_size', 16, PAIR),
    Field('in_channels', 'num_channels', 3),
    Field('width', 'hidden_size', 384),
    Field('depth', 'num_hidden_layers', 12),
    Field('heads', 'num_attention_heads', 6),
    Field('mlp', 'use_gated_mlp', False, _GATED),
    Field('mlp_dim', 'intermediate_size', 1536),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    Field('qkv_bias', ('query_bias', 'value_bias'), True),
    Field('k_bias', 'key_bias', False, Via(_read_key_bias, _write_key_bias)),
    Field('registers', 'num_register_tokens', 0),
    Field('rope_base', 'rope_theta', 100.0),
    Field('layer_scale', 'layerscale_value', 1.0, SCALE),
    Field('norm_eps', 'layer_norm_eps', 1e-5),
    Field('attention_dropout_rate', 'attention_dropout', 0.0),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(proj_bias=True, mlp_bias=True),
)
# What all models of that class have.
_ONLY: Mapping[str, Any] = {
    'num_classes': 0,
    'kv_heads': (),
    'mlp_norm': False,
    'attn_norm': False,
    'qk_norm': False,
    'pool': 'cls',
    'class_token': True,
    'positions': 'none',
    'rope': 'centered',
    'rope_grid': (0, 0),
    'rope_offset': 0.0,
    'rope_order': 'yx',
    'rope_pairs': 'halves',
    'pre_norm': False,
    'final_norm': 'tokens',
    'post_norm': False,
    'layer_scaled': 'both',
    'norm': 'layer',
    'dropout_rate': 0.0,
}


def _read_beside(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json does not say. CheckpointError for other registers than it says."""
    registers = source.tensors.get(_REGISTERS)
    # A name alone, as when we look at what we write, has no shape.
    if registers is not None and registers.shape[1:2] not in ((), (ours['registers'],)):
        fail(
            source.path,
            f'config.json: expected num_register_tokens as many as {_REGISTERS} of '
            f'{tuple(registers.shape)} has, found {ours["registers"]}',
        )
    return dict(_ONLY)


def _pretraining(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return zeros for the token that stands for hidden patches in pretraining.

    Where there are no registers, transformers wants an empty array of them all the same.
    """
    token = np.zeros_like(values['embeddings.cls_token'])
    empty = {} if _REGISTERS in values else {_REGISTERS: token[:, :0]}
    return {'embeddings.mask_token': token, **empty}


TABLES = {
    'hf': Table(
        hf,
        limits={name: (value,) for name, value in _ONLY.items()},
        layers=lambda config: _LAYERS,
        facts={},
        library=TRANSFORMERS,
        kinds=('dinov3_vit',),
        fields=_FIELDS,
        # They have a say in training, or in what a backbone for other models shows.
        neutral=('pos_embed_(shift|jitter|rescale)', 'apply_layernorm', 'reshape_hidden_states'),
        beside=_read_beside,
        # How matrices lie in timm's files, and a bias that keys have only where others do.
        unsaid=lambda config: ('mlp', 'qkv_apart', *(() if config.qkv_bias else ('k_bias',))),
        header=hf_header('dinov3_vit', 'DINOv3ViTModel', 'DINOv3ViTModel'),
        spellings=((r'^model\.(?=layer\.)', ''),),
        live=((r'^(?=layer\.)', 'model.'),),
        ignored=(r'embeddings\.mask_token',),
        buffers=_pretraining,
    ),
}
