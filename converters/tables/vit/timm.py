"""ViT, and all that grew out of it, as timm has it."""

from collections.abc import Callable, Mapping
from typing import Any

from blox.converters.mapping.fields import PAIR, Field, Via, fixed, one_of, times
from blox.converters.mapping.libraries import DISTILLED, TIMM
from blox.converters.mapping.parts import (
    NHWC,
    TIMM_ACTIVATION,
    TIMM_IMAGES,
    TIMM_NORM_EPS,
    TIMM_NORM_KIND,
    dense,
    merged,
    norm,
    norm_of,
    read_class,
    read_layer_scale,
    read_timm_norm,
    timm_header,
    timm_pool,
    write_timm_norm,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO
from blox.converters.tables.vit.parts import heads, scales, tokens


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to timm's names; what is normalized after pooling is so by `fc_norm`."""
    own_norm = norm_of(config)
    last_norm = {'tokens': 'norm', 'pooled': 'fc_norm'}.get(config.final_norm, '')
    return (
        *tokens(config, 'cls_token', 'dist_token', 'reg_token'),
        Rule('vit/pos_embed', 'pos_embed'),
        *dense('vit/patch_embed', 'patch_embed.proj', HWIO, bias=not config.pre_norm),
        *(own_norm('vit/patch_norm', 'patch_embed.norm') if config.patch_norm else ()),
        *(own_norm('vit/pre_norm', 'norm_pre') if config.pre_norm else ()),
        *_BLOCKS[config.block](config),
        *(own_norm('vit/norm', last_norm) if last_norm else ()),
        *(timm_pool('vit/pool', own_norm) if config.pool == 'map' else ()),
        *(dense('vit/pre_logits', 'pre_logits.fc') if config.pre_logits else ()),
        *heads(config, 'head', 'head_dist'),
    )


def _block(config: Any) -> tuple[Rule, ...]:
    """Map a block as most models have it."""
    ours, theirs = 'vit/block{i}', 'blocks.{i}'
    own_norm = norm_of(config)
    return (
        *own_norm(f'{ours}/norm1', f'{theirs}.norm1'),
        *_attention(config, f'{ours}/attn', f'{theirs}.attn'),
        *own_norm(f'{ours}/norm2', f'{theirs}.norm2'),
        *_mlp(config, f'{ours}/mlp', f'{theirs}.mlp'),
        *(scales(config, 'blocks.{i}.ls{n}.gamma') if config.block == 'plain' else ()),
    )


def _parallel(config: Any) -> tuple[Rule, ...]:
    """Map a block of two attentions and two MLPs side by side."""
    ours, theirs = 'vit/block{i}', 'blocks.{i}'
    own_norm = norm_of(config)
    kinds = {'attn': ('attns', 'attn', _attention), 'mlp': ('ffns', 'mlp', _mlp)}
    return tuple(
        rule
        for name, (branches, layer, rules) in kinds.items()
        for branch, its in ((f'{ours}/{name}{{n}}', f'{theirs}.{branches}.{{n}}'),)
        for rule in (
            *own_norm(f'{branch}/norm', f'{its}.norm'),
            *rules(config, f'{branch}/layer', f'{its}.{layer}'),
            *((Rule(f'{branch}/ls/scale', f'{its}.ls.gamma'),) if config.layer_scale else ()),
        )
    )


def _wide(config: Any) -> tuple[Rule, ...]:
    """Map a block whose attention and MLP are of one projection."""
    ours, theirs = 'vit/block{i}', 'blocks.{i}'
    names = ('out',) if config.differential else ('attn_out', 'mlp_out')
    return (
        *norm_of(config)(f'{ours}/norm', f'{theirs}.in_norm'),
        *dense(f'{ours}/proj', f'{theirs}.in_proj', bias=config.qkv_bias),
        *(() if config.qkv_bias else (Rule(f'{ours}/mlp_bias', f'{theirs}.mlp_bias'),)),
        *_heads(config, f'{ours}/heads', theirs),
        *(
            rule
            for name in names
            for rule in dense(f'{ours}/{name}', f'{theirs}.{name}_proj', bias=config.proj_bias)
        ),
        *((Rule(f'{ours}/ls/scale', f'{theirs}.ls.gamma'),) if config.layer_scale else ()),
    )


_BLOCKS: Mapping[str, Callable[[Any], tuple[Rule, ...]]] = {
    'plain': _block,
    'post_norm': _block,
    'parallel': _parallel,
    'wide': _wide,
}


def _attention(config: Any, ours: str, theirs: str) -> tuple[Rule, ...]:
    inner = (f'{ours}/norm', f'{theirs}.norm')
    return (
        *dense(f'{ours}/qkv', f'{theirs}.qkv', bias=config.qkv_bias),
        *_heads(config, f'{ours}/heads' if config.differential else ours, theirs),
        *(norm_of(config)(*inner) if config.inner_norms else ()),
        *dense(f'{ours}/proj', f'{theirs}.proj', bias=config.proj_bias),
    )


def _heads(config: Any, ours: str, theirs: str) -> tuple[Rule, ...]:
    """Map the norms of queries and keys, and what differential attention has besides."""
    norms = ('q_norm', 'k_norm') * config.qk_norm
    vectors = tuple(f'lambda_{x}{n}' for x in 'qk' for n in (1, 2)) * config.differential
    return (
        *(rule for name in norms for rule in norm_of(config)(f'{ours}/{name}', f'{theirs}.{name}')),
        *(Rule(f'{ours}/{name}', f'{theirs}.{name}') for name in vectors),
        *(norm(f'{ours}/norm', f'{theirs}.sub_norm', offset=False) if config.differential else ()),
    )


def _mlp(config: Any, ours: str, theirs: str) -> tuple[Rule, ...]:
    """Map an MLP; gate and value of its first layer may be two matrices there."""
    fc1, has_bias = f'{ours}/fc1', config.proj_bias
    if config.mlp == 'gated_apart':
        first = merged(fc1, (f'{theirs}.fc1_g', f'{theirs}.fc1_x'), bias=has_bias)
    else:
        first = dense(fc1, f'{theirs}.fc1', bias=has_bias)
    inner = (f'{ours}/norm', f'{theirs}.norm')
    return (
        *first,
        *(norm_of(config)(*inner) if config.inner_norms else ()),
        *dense(f'{ours}/fc2', f'{theirs}.fc2', bias=has_bias),
    )


_TIMM_LAYERS = (
    Rule('vit/patch_embed', 'patch_embed.proj', NHWC),
    *(Rule(f'vit/block{{i}}/{n}', f'blocks.{{i}}.{n}') for n in ('norm1', 'attn', 'norm2', 'mlp')),
    Rule('vit/block{i}/attn{n}', 'blocks.{i}.attns.{n}'),
    Rule('vit/block{i}/mlp{n}', 'blocks.{i}.ffns.{n}'),
    Rule('vit/block{i}/norm', 'blocks.{i}.in_norm'),
    Rule('vit/block{i}/proj', 'blocks.{i}.in_proj'),
    Rule('vit/pre_norm', 'norm_pre'),
    Rule('vit/block{i}', 'blocks.{i}'),
    Rule('vit/pool', 'attn_pool'),
    Rule('vit/head', 'head'),
    Rule('vit/head_dist', 'head_dist'),
)
# Classes of timm's code, which its config.json cannot say: the name of the architecture does.
_MLP_LAYERS: Mapping[str, Any] = {
    'gated': {'name': 'GluMlp', 'act_layer': 'SiLU', 'gate_last': False},
    'gated_apart': 'SwiGLU',
}
_WIDE, _DIFFERENTIAL = 'ParallelScalingBlock', 'DiffParallelScalingBlock'
_BLOCK_KINDS: Mapping[str | None, str] = {
    None: 'plain',
    'ResPostBlock': 'post_norm',
    'ParallelThingsBlock': 'parallel',
    _WIDE: 'wide',
    _DIFFERENTIAL: 'wide',
}


def _read_block(value: Any, known: Mapping[str, Any]) -> str:
    if value not in _BLOCK_KINDS:
        raise ValueError(f'one of {", ".join(filter(None, _BLOCK_KINDS))}')
    return _BLOCK_KINDS[value]


def _read_differential(value: Any, known: Mapping[str, Any]) -> bool:
    """Tell what a block's class says, which does not look at the kind of attention if it is wide."""
    is_wide = known['block'] == 'wide'
    return value == _DIFFERENTIAL if is_wide else known['differential']


def _write_attention(value: bool, known: Mapping[str, Any]) -> str:
    return 'diff' if value and known['block'] != 'wide' else 'attn'


def _write_layer_scale(value: float, known: Mapping[str, Any]) -> float | None:
    # A wide block takes every number for the start of one, 0 too.
    return None if known['block'] == 'wide' and not value else value


_ATTENTION_KINDS = one_of({'attn': False, 'diff': True})


def _read_patch_norm(value: Any, known: Mapping[str, Any]) -> bool:
    if value is not None and read_timm_norm(value) != (known['norm'], known['norm_eps']):
        raise ValueError(f'the norm of the blocks, {known["norm"]!r} of eps {known["norm_eps"]}')
    return value is not None


_PATCH_NORM = Via(
    _read_patch_norm, lambda value, known: write_timm_norm(value, known) if value else None
)
_MLP_LAYER = Via(
    lambda value, known: 'plain' if value is None else read_class(_MLP_LAYERS, value),
    lambda value, known: None,
)


def _halves(known: Mapping[str, Any]) -> int:
    """Count the parts that the outputs of an MLP's first layer have, by which timm counts its width."""
    return 2 if known['mlp'] == 'gated' else 1


def _read_mlp_dim(ratio: float, known: Mapping[str, Any]) -> int:
    return _RATIO.read(ratio, known) // _halves(known)


def _write_mlp_dim(mlp_dim: int, known: Mapping[str, Any]) -> float:
    return _RATIO.write(mlp_dim * _halves(known), known)


_RATIO = times('width')
# Which tokens the last norm is of: timm says apart whether there is one, and whether it comes after the
# pool, as it does before averaging unless told otherwise.
_FINAL_NORM = Via(
    lambda value, known: 'tokens' if value else 'none', lambda value, known: value != 'none'
)


def _read_fc_norm(value: bool | None, known: Mapping[str, Any]) -> str:
    is_pooled = known['pool'] == 'avg' if value is None else value
    return 'pooled' if is_pooled and known['final_norm'] != 'none' else known['final_norm']


_FC_NORM = Via(_read_fc_norm, lambda value, known: value == 'pooled', takes_null=True)


def _read_positions(value: bool, known: Mapping[str, Any]) -> str:
    return 'patches' if value else 'all'


def _write_positions(positions: str, known: Mapping[str, Any]) -> bool:
    if positions == 'class':
        raise ValueError(
            "'all' or 'patches': with registers timm adds the class token's position to cls_token"
        )
    return positions == 'patches'


_TIMM_FIELDS = (
    *TIMM_IMAGES,
    Field('patch_size', 'patch_size', 16, PAIR),
    Field('width', 'embed_dim', 768),
    Field('depth', 'depth', 12),
    Field('heads', 'num_heads', 12),
    Field('mlp', 'mlp_layer', None, _MLP_LAYER),
    Field('block', 'block_fn', None, Via(_read_block, lambda value, known: None, takes_null=True)),
    Field('differential', 'attn_layer', 'attn', Via(_ATTENTION_KINDS.read, _write_attention)),
    Field(
        'differential',
        'block_fn',
        None,
        Via(_read_differential, lambda value, known: None, takes_null=True),
    ),
    Field('mlp_dim', 'mlp_ratio', 4.0, Via(_read_mlp_dim, _write_mlp_dim)),
    Field('pool', 'global_pool', 'token', one_of({'token': 'cls', 'avg': 'avg', 'map': 'map'})),
    Field('pool_prefix', 'pool_include_prefix', False),
    Field('class_token', 'class_token', True),
    Field('registers', 'reg_tokens', 0),
    # No argument, but a class of its own.
    Field('distilled', DISTILLED, False),
    Field('positions', 'no_embed_class', False, Via(_read_positions, _write_positions)),
    Field('norm', 'norm_layer', None, TIMM_NORM_KIND),
    Field('norm_eps', 'norm_layer', None, TIMM_NORM_EPS),
    Field('patch_norm', 'embed_norm_layer', None, _PATCH_NORM),
    Field('pre_norm', 'pre_norm', False),
    Field('final_norm', 'final_norm', True, _FINAL_NORM),
    Field('final_norm', 'fc_norm', lambda known: known['pool'] == 'avg', _FC_NORM),
    Field(
        'layer_scale',
        'init_values',
        None,
        Via(read_layer_scale, _write_layer_scale),
    ),
    Field('qkv_bias', 'qkv_bias', True),
    Field('proj_bias', 'proj_bias', True),
    Field('qk_norm', 'qk_norm', False),
    Field('inner_norms', ('scale_attn_norm', 'scale_mlp_norm'), False),
    Field('activation', 'act_layer', 'gelu', TIMM_ACTIVATION),
    Field('dropout_rate', ('pos_drop_rate', 'proj_drop_rate'), 0.0),
    Field('attention_dropout_rate', 'attn_drop_rate', 0.0),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(
        drop_rate=0.0,
        dynamic_img_pad=False,
        patch_drop_rate=0.0,
        pos_embed='learn',
    ),
)


def _timm_header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    made = timm_header(
        'patch_embed.proj',
        'head',
        lambda config: config.width,
        fixed_size=True,
        implied=(DISTILLED,),
    )(config, theirs)
    if config.distilled:
        made['pretrained_cfg']['classifier'] = ['head', 'head_dist']
    return made


TABLES = {
    'timm': Table(
        timm,
        layers=lambda config: _TIMM_LAYERS,
        facts={'activation': 'gelu', 'norm_eps': 1e-6},
        library=TIMM,
        kinds=('VisionTransformer', 'VisionTransformerDistilled'),
        fields=_TIMM_FIELDS,
        # They have a say in training's start, or for images of other sizes, which ours refuses.
        neutral=('dynamic_img_size', 'fix_init', 'strict_img_size', 'weight_init'),
        header=_timm_header,
    ),
}
