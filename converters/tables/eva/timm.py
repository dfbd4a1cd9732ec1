"""EVA, as timm has it."""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.fields import PAIR, Field, Via, fixed, is_number, one_of, times
from blox.converters.mapping.libraries import TIMM
from blox.converters.mapping.parts import (
    NHWC,
    TIMM_IMAGES,
    dense,
    merged,
    norm_of,
    read_layer_scale,
    read_timm_norm,
    timm_header,
    timm_pool,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO
from blox.converters.tables.eva.parts import BLOCK, apart, qv_bias, scales, tokens


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to timm's names; what is normalized after pooling is so by `fc_norm`."""
    theirs = 'blocks.{i}'
    last_norm = {'tokens': 'norm', 'pooled': 'fc_norm'}.get(config.final_norm, '')
    own_norm = norm_of(config)
    attention_norms = (*(('q_norm', 'k_norm') * config.qk_norm), *(('norm',) * config.attn_norm))
    return (
        *tokens(config, 'cls_token', 'reg_token'),
        *((Rule('eva/pos_embed', 'pos_embed'),) if config.positions != 'none' else ()),
        *((Rule('eva/rope_freqs', 'rope.freqs'),) if config.rope == 'mixed' else ()),
        *dense('eva/patch_embed', 'patch_embed.proj', HWIO, bias=not config.pre_norm),
        *(own_norm('eva/pre_norm', 'norm_pre') if config.pre_norm else ()),
        *own_norm(f'{BLOCK}/norm1', f'{theirs}.norm1'),
        *(apart if config.qkv_apart else _fused)(config, f'{theirs}.attn'),
        *(
            rule
            for name in attention_norms
            for rule in own_norm(f'{BLOCK}/attn/{name}', f'{theirs}.attn.{name}')
        ),
        *dense(f'{BLOCK}/attn/proj', f'{theirs}.attn.proj'),
        *own_norm(f'{BLOCK}/norm2', f'{theirs}.norm2'),
        *(
            merged(f'{BLOCK}/mlp/fc1', (f'{theirs}.mlp.fc1_g', f'{theirs}.mlp.fc1_x'))
            if config.mlp == 'gated_apart'
            else dense(f'{BLOCK}/mlp/fc1', f'{theirs}.mlp.fc1')
        ),
        *(own_norm(f'{BLOCK}/mlp/norm', f'{theirs}.mlp.norm') if config.mlp_norm else ()),
        *dense(f'{BLOCK}/mlp/fc2', f'{theirs}.mlp.fc2'),
        *scales(config, 'blocks.{i}.gamma_1', 'blocks.{i}.gamma_2'),
        *(own_norm('eva/norm', last_norm) if last_norm else ()),
        *(timm_pool('eva/pool', own_norm) if config.pool == 'map' else ()),
        *(dense('eva/head', 'head') if config.num_classes else ()),
    )


def _fused(config: Any, theirs: str) -> tuple[Rule, ...]:
    """Map queries, keys and values of one matrix; where keys have no bias, the others' are apart."""
    has_bias = config.qkv_bias and config.k_bias
    return (
        *dense(f'{BLOCK}/attn/qkv', f'{theirs}.qkv', bias=has_bias),
        *qv_bias(config, (f'{theirs}.q_bias', f'{theirs}.v_bias')),
    )


_LAYERS = (
    Rule('eva/patch_embed', 'patch_embed.proj', NHWC),
    *(Rule(f'{BLOCK}/{n}', f'blocks.{{i}}.{n}') for n in ('norm1', 'attn', 'norm2', 'mlp')),
    Rule('eva/pre_norm', 'norm_pre'),
    Rule(BLOCK, 'blocks.{i}'),
    Rule('eva/pool', 'attn_pool'),
    Rule('eva/head', 'head'),
)

# timm's gated MLP has gate and value as two matrices where it has a norm; in blocks with norms before, also
# where its width is to be a multiple of something.


def _read_mlp(is_gated: bool, known: Mapping[str, Any]) -> str:
    return ('gated_apart' if known['mlp_norm'] else 'gated') if is_gated else 'plain'


def _read_aligned_mlp(align_to: int, known: Mapping[str, Any]) -> str:
    if align_to < 0:
        raise ValueError('0 or more')
    is_apart = align_to and known['mlp'] == 'gated' and not known['post_norm']
    return 'gated_apart' if is_apart else known['mlp']


def _read_aligned_dim(align_to: int, known: Mapping[str, Any]) -> int:
    is_aligned = align_to > 0 and known['mlp'] == 'gated_apart'
    return known['mlp_dim'] + (-known['mlp_dim'] % align_to if is_aligned else 0)


def _write_align_to(value: Any, known: Mapping[str, Any]) -> int:
    if known['mlp'] != 'gated_apart' or known['mlp_norm']:
        return 0
    if known['post_norm']:
        raise ValueError("'gated', which timm has with post_norm")
    # Any divisor says that they are apart; timm's own names have mostly 8.
    return 8 if known['mlp_dim'] % 8 == 0 else 1


def _write_timm_activation(name: str, known: Mapping[str, Any]) -> bool:
    expected = 'gelu' if known['mlp'] == 'plain' else 'silu'
    if name != expected:
        raise ValueError(f'{expected}, which such an MLP has there')
    return known['mlp'] != 'plain'


# Which tokens the last norm is of: timm says apart of each whether it is, and leaves it to the pool.


def _check_flag(value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise ValueError('true, false or null')


def _read_fc_norm(value: Any, known: Mapping[str, Any]) -> str:
    _check_flag(value)
    is_pooled = known['pool'] == 'avg' if value is None else value
    return 'pooled' if is_pooled else 'tokens'


def _read_last_norm(value: Any, known: Mapping[str, Any]) -> str:
    _check_flag(value)
    is_pooled = known['final_norm'] == 'pooled'
    if value and is_pooled:
        raise ValueError('one norm after the blocks, of the tokens or of the pooled ones')
    return known['final_norm'] if value is None or value != is_pooled else 'none'


def _read_rope(name: str, known: Mapping[str, Any]) -> str:
    return 'none' if known['rope'] == 'none' else _ROPES.read(name, known)


def _read_pool_heads(count: Any, known: Mapping[str, Any]) -> int:
    if count is not None and type(count) is not int:
        raise ValueError('an integer, or null')
    return (count or known['heads']) if known['pool'] == 'map' else 0


def _read_pool_dim(ratio: Any, known: Mapping[str, Any]) -> int:
    if ratio is not None and not is_number(ratio):
        raise ValueError('a finite number, or null')
    if known['pool'] != 'map':
        return 0
    # That of the blocks' MLPs, as it is before it is aligned.
    return _RATIO.read(ratio, known) if ratio else known['mlp_dim']


def _write_pool_dim(mlp_dim: int, known: Mapping[str, Any]) -> float | None:
    return _RATIO.write(mlp_dim, known) if mlp_dim else None


def _or_none(value: Any, known: Mapping[str, Any]) -> Any:
    return value or None


def _write_rope(name: str, known: Mapping[str, Any]) -> str:
    return 'cat' if name == 'none' else _ROPES.write(name, known)


def _read_rope_grid(value: Any, known: Mapping[str, Any]) -> tuple[int, int]:
    if value is None or known['rope'] != 'index':
        return 0, 0
    rows, columns = PAIR.read(value, known)
    if min(rows, columns) < 1:
        raise ValueError('one positive integer or two')
    return rows, columns


def _read_scale(value: Any, known: Mapping[str, Any]) -> float:
    start = read_layer_scale(value, known)
    if known['post_norm']:
        return 0.0  # Such blocks have none there, whatever they are told.
    if value == 0:
        raise ValueError('a number other than 0, or null')
    return start


def _read_norm(value: Any) -> tuple[str, float]:
    """Return kind and eps of norms."""
    if not (value is None or isinstance(value, Mapping)):
        raise ValueError("a norm that the architecture's name says")
    return read_timm_norm(value)


def _read_kv_heads(value: Any, known: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the heads of keys and values, () where all blocks have as many as of queries."""
    if isinstance(value, list) and len(value) != known['depth']:
        raise ValueError('one number, null, or one of these for each block')
    counts = value if isinstance(value, list) else [value]
    if any(type(n) not in (int, type(None)) for n in counts):
        raise ValueError('integers or null')
    heads = tuple(n or known['heads'] for n in counts)
    if {*heads} == {known['heads']}:
        return ()
    if not _may_share(known):
        raise ValueError(f'{known["heads"]} or null: others {_SHARING}')
    # A depth that no model has is refused as such, not here.
    return heads if isinstance(value, list) else heads * min(known['depth'], 257)


def _write_kv_heads(value: tuple[int, ...], known: Mapping[str, Any]) -> list[int] | None:
    if value and not _may_share(known):
        raise ValueError(f'(): others {_SHARING}')
    # What is not said would be as the architecture's name says, for as many blocks.
    return list(value) or ([known['heads']] * known['depth'] if _may_share(known) else None)


_SHARING = "go with attn_type 'rope', qkv_fused false and use_post_norm false"


def _may_share(known: Mapping[str, Any]) -> bool:
    """Return whether blocks may have keys and values of fewer heads there."""
    return known['k_bias'] and known['qkv_apart'] and not known['post_norm']


def _write_qk_norm(value: bool, known: Mapping[str, Any]) -> bool:
    if value and known['post_norm']:
        raise ValueError('False, which blocks have there with post_norm')
    return value


_SCALED = Via(
    lambda value, known: 'attention' if value and known['layer_scale'] else 'both',
    lambda scaled, known: scaled == 'attention',
)


def _unwritten(value: Any, known: Mapping[str, Any]) -> None:
    """Leave to the architecture's name what no argument can say."""


_RATIO = times('width')
_ROPES = one_of({'cat': 'index', 'mixed': 'mixed', 'dinov3': 'centered'})
_FIELDS = (
    *TIMM_IMAGES,
    Field('patch_size', 'patch_size', 16, PAIR),
    Field('width', 'embed_dim', 768),
    Field('depth', 'depth', 12),
    Field('heads', 'num_heads', 12),
    Field('pool', 'global_pool', 'avg', one_of({'avg': 'avg', 'token': 'cls', 'map': 'map'})),
    Field('pool_heads', 'attn_pool_num_heads', None, Via(_read_pool_heads, _or_none)),
    Field('post_norm', 'use_post_norm', False),
    Field('mlp_norm', 'scale_mlp', False),
    Field('mlp', 'swiglu_mlp', False, Via(_read_mlp, lambda mlp, known: mlp != 'plain')),
    Field('mlp', 'swiglu_align_to', 0, Via(_read_aligned_mlp, _write_align_to)),
    Field('mlp_dim', 'mlp_ratio', 4.0, _RATIO),
    Field('pool_mlp_dim', 'attn_pool_mlp_ratio', None, Via(_read_pool_dim, _write_pool_dim)),
    Field('mlp_dim', 'swiglu_align_to', 0, Via(_read_aligned_dim, _write_align_to)),
    Field(
        'activation',
        'swiglu_mlp',
        False,
        Via(lambda gated, known: 'silu' if gated else 'gelu', _write_timm_activation),
    ),
    Field('attn_norm', 'scale_attn_inner', False),
    Field('qk_norm', 'qk_norm', False, Via(write=_write_qk_norm)),
    Field('qkv_bias', 'qkv_bias', True),
    Field('k_bias', 'attn_type', 'eva', one_of({'eva': False, 'rope': True})),
    Field('qkv_apart', 'qkv_fused', True, one_of({True: False, False: True})),
    Field('kv_heads', 'num_kv_heads', None, Via(_read_kv_heads, _write_kv_heads)),
    Field('class_token', 'class_token', True),
    Field('registers', 'num_reg_tokens', 0),
    Field(
        'positions',
        'no_embed_class',
        False,
        Via(
            lambda value, known: 'patches' if value else 'all',
            lambda positions, known: positions == 'patches',
        ),
    ),
    Field(
        'positions',
        'use_abs_pos_emb',
        True,
        Via(
            lambda value, known: known['positions'] if value else 'none',
            lambda positions, known: positions != 'none',
        ),
    ),
    Field(
        'rope',
        'use_rot_pos_emb',
        False,
        Via(lambda value, known: 'index' if value else 'none', lambda rope, known: rope != 'none'),
    ),
    Field('rope', 'rope_type', 'cat', Via(_read_rope, _write_rope)),
    Field('rope_base', 'rope_temperature', 10000.0),
    Field(
        'rope_grid',
        'ref_feat_shape',
        None,
        Via(_read_rope_grid, lambda grid, known: list(grid) if any(grid) else None),
    ),
    Field('rope_offset', 'rope_grid_offset', 0.0),
    Field('rope_order', 'rope_grid_indexing', 'ij', one_of({'ij': 'yx', 'xy': 'xy'})),
    Field('rope_pairs', 'rope_rotate_half', False, one_of({False: 'neighbours', True: 'halves'})),
    Field('pre_norm', 'use_pre_transformer_norm', False),
    Field(
        'final_norm',
        'use_fc_norm',
        None,
        Via(_read_fc_norm, lambda name, known: name == 'pooled', takes_null=True),
    ),
    Field(
        'final_norm',
        'use_post_transformer_norm',
        None,
        Via(_read_last_norm, lambda name, known: name == 'tokens', takes_null=True),
    ),
    Field('layer_scale', 'init_values', None, Via(_read_scale, _or_none)),
    Field('layer_scaled', 'attn_only_layer_scale', False, _SCALED),
    # It takes no name of a norm there: the architecture's own says which.
    Field('norm', 'norm_layer', None, Via(lambda value, known: _read_norm(value)[0], _unwritten)),
    Field(
        'norm_eps', 'norm_layer', None, Via(lambda value, known: _read_norm(value)[1], _unwritten)
    ),
    Field('dropout_rate', ('pos_drop_rate', 'proj_drop_rate'), 0.0),
    Field('attention_dropout_rate', 'attn_drop_rate', 0.0),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(
        drop_rate=0.0,
        dynamic_img_pad=False,
        patch_drop_rate=0.0,
    ),
)

TABLES = {
    'timm': Table(
        timm,
        layers=lambda config: _LAYERS,
        facts={},
        library=TIMM,
        kinds=('Eva',),
        fields=_FIELDS,
        # They have a say in training, or for images of other sizes, which ours refuses.
        neutral=(
            r'rope_(shift|jitter|rescale)_coords',
            'dynamic_img_size',
            'head_init_scale',
            'rope_mrope_section',
        ),
        header=timm_header(
            'patch_embed.proj', 'head', lambda config: config.width, fixed_size=True, implied=()
        ),
        # What older files keep of what is computed, or of pretraining.
        ignored=(r'rope\.(periods|bands|pos_embed.*)', 'mask_token'),
    ),
}
