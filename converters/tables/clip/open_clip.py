"""CLIP and SigLIP, as open_clip has them: with image towers of its own, or with ViTs of timm."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from blox.converters.mapping.fields import (
    PAIR,
    Field,
    Via,
    fixed,
    is_number,
    one_of,
    read_fields,
    times,
)
from blox.converters.mapping.libraries import OPEN_CLIP, nested, timm_names
from blox.converters.mapping.parts import NHWC, dense, norm
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO, T
from blox.converters.tables.clip.parts import FORMS, ROW
from blox.converters.tables.vit.timm import TABLES as VIT
from blox.wording import some


def own(config: Any) -> tuple[Rule, ...]:
    """Map to the names of open_clip.CLIP, whose texts have no prefix."""
    return (
        Rule('clip/image/cls_token', 'visual.class_embedding', ROW >> ROW),
        Rule('clip/image/pos_embed', 'visual.positional_embedding', ROW),
        *dense('clip/image/patch_embed', 'visual.conv1', HWIO, bias=False),
        *norm('clip/image/pre_norm', 'visual.ln_pre'),
        *_blocks('clip/image', 'visual.transformer'),
        *norm('clip/image/norm', 'visual.ln_post'),
        Rule('clip/image_proj/w', 'visual.proj'),
        *_text(config),
    )


def trunk(config: Any) -> tuple[Rule, ...]:
    """Map to the names of open_clip.CustomTextCLIP with a ViT of timm, less those of texts' prefix."""
    return (
        *(
            dataclasses.replace(
                rule,
                ours=rule.ours.replace('vit/', 'clip/image/', 1),
                theirs=tuple(f'visual.trunk.{name}' for name in rule.external),
            )
            for rule in VIT['timm'].rules(config.image)
        ),
        *_text(config),
    )


def _text(config: Any) -> tuple[Rule, ...]:
    """Map the text tower, whose projection is a layer where it has a bias, and what makes logits."""
    proj = 'clip/text/proj'
    return (
        Rule('clip/text/token_embed/w', 'token_embedding.weight'),
        Rule('clip/text/pos_embed/w', 'positional_embedding'),
        *_blocks('clip/text', 'transformer'),
        *norm('clip/text/norm', 'ln_final'),
        *(
            dense(proj, 'text_projection')
            if config.text_bias
            else (Rule(f'{proj}/w', 'text_projection'),)
        ),
        Rule('clip/logit_scale', 'logit_scale'),
        *((Rule('clip/logit_bias', 'logit_bias'),) if config.logit_bias else ()),
    )


def _blocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    block, layer = f'{ours}/block{{i}}', f'{theirs}.resblocks.{{i}}'
    return (
        *norm(f'{block}/norm1', f'{layer}.ln_1'),
        Rule(f'{block}/attn/qkv/w', f'{layer}.attn.in_proj_weight', T),
        Rule(f'{block}/attn/qkv/b', f'{layer}.attn.in_proj_bias'),
        *dense(f'{block}/attn/proj', f'{layer}.attn.out_proj'),
        *norm(f'{block}/norm2', f'{layer}.ln_2'),
        *dense(f'{block}/mlp/fc1', f'{layer}.mlp.c_fc'),
        *dense(f'{block}/mlp/fc2', f'{layer}.mlp.c_proj'),
    )


def _block_layers(ours: str, theirs: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(f'{ours}/block{{i}}{ours_part}', f'{theirs}.resblocks.{{i}}{theirs_part}')
        for ours_part, theirs_part in {
            '/norm1': '.ln_1',
            '/attn': '.attn',
            '/norm2': '.ln_2',
            '/mlp': '.mlp',
            '': '',
        }.items()
    )


_TEXT_LAYERS = (
    Rule('clip/text/token_embed', 'token_embedding'),
    *_block_layers('clip/text', 'transformer'),
    Rule('clip/text/norm', 'ln_final'),
)
_OWN_LAYERS = (
    Rule('clip/image/patch_embed', 'visual.conv1', NHWC),
    Rule('clip/image/pre_norm', 'visual.ln_pre'),
    *_block_layers('clip/image', 'visual.transformer'),
    *_TEXT_LAYERS,
)
_TRUNK_LAYERS = (
    Rule('clip/image/patch_embed', 'visual.trunk.patch_embed.proj', NHWC),
    Rule('clip/image/block{i}', 'visual.trunk.blocks.{i}'),
    Rule('clip/image/norm', 'visual.trunk.norm'),
    Rule('clip/image/pool', 'visual.trunk.attn_pool'),
    *_TEXT_LAYERS,
)

# Settings.


def _read_eps(value: Any, known: Mapping[str, Any]) -> float:
    said = value or {}
    if not isinstance(said, Mapping) or set(said) - {'eps'} or not is_number(said.get('eps', 0)):
        raise ValueError('eps alone, a number')
    return float(said.get('eps', 1e-5))


_EPS = Via(_read_eps, lambda eps, known: None if eps == 1e-5 else {'eps': eps}, takes_any=True)
_TANH = {'approximate': 'tanh'}


def _activation(tower: str, part: str) -> tuple[Field, ...]:
    """Describe an activation: quick_gelu for both towers, or the exact gelu unless it is told otherwise."""
    ours = f'{tower}_activation'

    def read(value: Any, known: Mapping[str, Any]) -> str:
        if not value or value == {'approximate': 'none'}:
            return known[ours]
        if value != _TANH or known[ours] != 'gelu':
            raise ValueError(f'{_TANH}, and no quick_gelu')
        return 'gelu_tanh'

    quick = Via(
        lambda value, known: 'quick_gelu' if value else 'gelu',
        lambda value, known: value == 'quick_gelu',
    )
    more = Via(read, lambda value, known: _TANH if value == 'gelu_tanh' else None, takes_any=True)
    return (
        Field(ours, 'quick_gelu', False, quick),
        Field(ours, f'{part}.act_kwargs', None, more),
    )


_NOT = Via(lambda value, known: not value, lambda value, known: not value)
_BIAS = Via(
    lambda value, known: value is not None,
    lambda value, known: -10.0 if value else None,
    takes_any=True,
)
_END = Via(
    lambda end, known: end if known['text_pool'] == 'end' else -1,
    lambda end, known: max(end, 0) if known['text_pool'] == 'end' else 2,
)


def _positive(width: int) -> int:
    if width < 1:
        raise ValueError('a positive integer')
    return width


_HEADS = Via(
    lambda width, known: known['image_width'] // _positive(width),
    lambda heads, known: known['image_width'] // heads,
)
# What no model of ours has, in any part.
_PLAIN: Mapping[str, Any] = {
    'ls_init_value': None,
    'block_type': None,
    'qk_norm': False,
    'scaled_cosine_attn': False,
    'scale_heads': False,
    'scale_attn_inner': False,
    'scale_attn': False,
    'scale_fc': False,
    'final_ln_after_pool': False,
}


def _of(part: str, **values: Any) -> tuple[Field, ...]:
    return fixed(**{f'{part}.{name}': value for name, value in values.items()})


_TEXT_FIELDS = (
    Field('embed_dim', 'embed_dim', 512),
    Field('context', 'text_cfg.context_length', 77),
    Field('vocab_size', 'text_cfg.vocab_size', 49408),
    Field('text_width', 'text_cfg.width', 512),
    Field('text_depth', 'text_cfg.layers', 12),
    Field('text_heads', 'text_cfg.heads', 8),
    Field('text_mlp_dim', 'text_cfg.mlp_ratio', 4.0, times('text_width')),
    *_activation('text', 'text_cfg'),
    Field('text_norm_eps', 'text_cfg.norm_kwargs', None, _EPS),
    Field('text_causal', 'text_cfg.no_causal_mask', False, _NOT),
    Field(
        'text_pool',
        'text_cfg.pool_type',
        'argmax',
        one_of({'argmax': 'highest', 'eos': 'end', 'last': 'last'}),
    ),
    Field('end_token', 'text_cfg.eos_id', 2, _END),
    Field('text_bias', 'text_cfg.proj_bias', False),
    Field('logit_bias', 'init_logit_bias', None, _BIAS),
    *_of('text_cfg', **_PLAIN, embed_cls=False, proj_type='linear', hf_model_name=None),
    *fixed(nonscalar_logit_scale=False),
)
_OWN_FIELDS = (
    Field('image_size', 'vision_cfg.image_size', 224, PAIR),
    Field('patch_size', 'vision_cfg.patch_size', 16, PAIR),
    Field('image_width', 'vision_cfg.width', 768),
    Field('image_depth', 'vision_cfg.layers', 12),
    Field('image_heads', 'vision_cfg.head_width', 64, _HEADS),
    Field('image_mlp_dim', 'vision_cfg.mlp_ratio', 4.0, times('image_width')),
    *_activation('image', 'vision_cfg'),
    Field('image_norm_eps', 'vision_cfg.norm_kwargs', None, _EPS),
    *_of(
        'vision_cfg',
        **_PLAIN,
        attentional_pool=False,
        no_ln_pre=False,
        pos_embed_type='learnable',
        pool_type='tok',
        timm_model_name=None,
    ),
    *_TEXT_FIELDS,
)

# ViTs of timm.

# Fields of a ViT's config, by those of ours that they are.
_TOWER = {
    'patch_size': 'patch_size',
    'in_channels': 'in_channels',
    'image_width': 'width',
    'image_depth': 'depth',
    'image_heads': 'heads',
    'image_mlp_dim': 'mlp_dim',
    'image_activation': 'activation',
    'image_norm_eps': 'norm_eps',
}


@functools.cache
def _towers() -> dict[str, dict[str, Any]]:
    """Return, by name, the fields of all of timm's ViTs that are image towers of ours."""
    table = VIT['timm']
    is_neutral = lambda name, value: any(re.fullmatch(p, name) for p in table.neutral)  # noqa: E731
    forms = []
    for name, (kind, arguments) in timm_names().items():
        if kind not in table.kinds or arguments is None or arguments.get('global_pool') != 'map':
            continue
        try:
            fields = read_fields(table.fields, {**arguments, 'num_classes': 0}, is_neutral)
        except ValueError:
            continue
        tower = {ours: fields.pop(theirs) for ours, theirs in _TOWER.items()}
        forms.append((name, tower, fields))
    plain = next(fields for name, _, fields in forms if name == 'vit_base_patch16_siglip_224')
    return {name: tower for name, tower, fields in forms if fields == plain}


def _of_tower(ours: str) -> Via:
    """Read a field of ours from the name of timm's tower, and write the name of the one that has all."""

    def read(name: Any, known: Mapping[str, Any]) -> Any:
        if not isinstance(name, str) or name not in _towers():
            raise ValueError(f'one of timm with an attention pool: {some([*_towers()], 3)}')
        return _towers()[name][ours]

    def write(value: Any, known: Mapping[str, Any]) -> str:
        name, tower = _nearest_tower(known)
        if value != tower[ours]:
            raise ValueError(f"{tower[ours]!r} as timm's nearest tower, {name}, has it")
        return name

    return Via(read, write, takes_any=True)


def _nearest_tower(known: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of timm's tower that is most like ours, and its fields."""
    # A name says the size of images at its end.
    towers = {
        name: {**tower, 'image_size': 2 * (int(name.rpartition('_')[2]),)}
        for name, tower in _towers().items()
    }
    return max(towers.items(), key=lambda item: sum(known[n] == x for n, x in item[1].items()))


def _write_size(size: tuple[int, int], known: Mapping[str, Any]) -> Any:
    _of_tower('image_size').write(size, known)
    return PAIR.write(size, known)


_NAME = 'vision_cfg.timm_model_name'
_TRUNK_FIELDS = (
    Field('image_size', 'vision_cfg.image_size', 224, dataclasses.replace(PAIR, write=_write_size)),
    *(Field(ours, _NAME, None, _of_tower(ours)) for ours in _TOWER),
    *_of('vision_cfg', timm_pool='map', timm_proj='none', timm_proj_bias=False),
    *_TEXT_FIELDS,
)


def _header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in theirs.items() if value is not None}
    if _NAME in given:
        pool = {'vision_cfg.timm_pool': 'map', 'vision_cfg.timm_proj': 'none'}
        given |= {**pool, 'custom_text': True}
    return {'model_cfg': nested(given), 'preprocess_cfg': {}}


_NAMES: Mapping[str, Any] = {
    'library': OPEN_CLIP,
    'spellings': ((r'^text\.', ''),),
    'header': _header,
    # They speak of tokenizers, of training and its start, of what is returned beside embeddings.
    'neutral': (
        'custom_text',
        'init_logit_scale',
        'output_dict',
        r'text_cfg\.(hf_\w+|tokenizer_\w+|pad_id|output_tokens)',
        r'vision_cfg\.(patch_dropout|output_tokens|attn_pooler_\w+|timm_drop|timm_drop_path)',
        r'vision_cfg\.timm_(model_pretrained|pool|proj|proj_bias)',
    ),
    # Numbers that OpenAI's own files hold beside the weights.
    'ignored': ('input_resolution', 'context_length', 'vocab_size', 'attn_mask'),
}


def _table(rules: Callable[[Any], tuple[Rule, ...]], kind: str, form: str, **more: Any) -> Table:
    image = {name: FORMS[form][name] for name in ('image_pool', 'image_projection')}
    return Table(
        rules,
        kinds=(kind,),
        limits={name: (value,) for name, value in image.items()},
        beside=lambda source, ours: image,
        **_NAMES,
        **more,
    )


# Names below 'text.', as its class for other text towers has them.
_CUSTOM_TEXT = ((r'^(?!visual\.|logit_)', 'text.'),)
TABLES = {
    'open_clip': _table(own, 'CLIP', 'clip', layers=lambda config: _OWN_LAYERS, fields=_OWN_FIELDS),
    'open_clip_timm': _table(
        trunk,
        'CLIP of timm',
        'siglip',
        layers=lambda config: _TRUNK_LAYERS,
        fields=_TRUNK_FIELDS,
        published=lambda config: _CUSTOM_TEXT,
    ),
}
