"""CLIP and SigLIP, as transformers has them."""

from collections.abc import Callable, Mapping
from typing import Any

from blox.converters.mapping.fields import Field, Via, fixed, pair_of
from blox.converters.mapping.heads import architectures
from blox.converters.mapping.libraries import TRANSFORMERS, nested
from blox.converters.mapping.parts import ACTIVATION_OF_TORCH, NHWC, dense, merged, norm
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO, T, squeeze
from blox.converters.sources.source import Source
from blox.converters.tables.clip.parts import FORMS, ROW


def clip(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.CLIPModel."""
    image = 'vision_model'
    return (
        Rule('clip/image/cls_token', f'{image}.embeddings.class_embedding', ROW >> ROW),
        *norm('clip/image/pre_norm', f'{image}.pre_layrnorm'),
        *_towers(patch_bias=False),
        *dense('clip/image_proj', 'visual_projection', bias=False),
        *dense('clip/text/proj', 'text_projection', bias=False),
        Rule('clip/logit_scale', 'logit_scale'),
    )


def siglip(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.SiglipModel."""
    pool, head = 'clip/image/pool', 'vision_model.head'
    return (
        *_towers(patch_bias=True),
        Rule(f'{pool}/latent', f'{head}.probe'),
        Rule(f'{pool}/qkv/w', f'{head}.attention.in_proj_weight', T),
        Rule(f'{pool}/qkv/b', f'{head}.attention.in_proj_bias'),
        *dense(f'{pool}/proj', f'{head}.attention.out_proj'),
        *norm(f'{pool}/norm', f'{head}.layernorm'),
        *dense(f'{pool}/mlp/fc1', f'{head}.mlp.fc1'),
        *dense(f'{pool}/mlp/fc2', f'{head}.mlp.fc2'),
        *dense('clip/text/proj', 'text_model.head'),
        Rule('clip/logit_scale', 'logit_scale', squeeze(0)),
        Rule('clip/logit_bias', 'logit_bias', squeeze(0)),
    )


def _towers(*, patch_bias: bool) -> tuple[Rule, ...]:
    """Map what both models call the same."""
    image, text = 'vision_model', 'text_model'
    patch = f'{image}.embeddings.patch_embedding'
    return (
        *dense('clip/image/patch_embed', patch, HWIO, bias=patch_bias),
        Rule('clip/image/pos_embed', f'{image}.embeddings.position_embedding.weight', ROW),
        *_blocks('clip/image', image),
        *norm('clip/image/norm', f'{image}.post_layernorm'),
        Rule('clip/text/token_embed/w', f'{text}.embeddings.token_embedding.weight'),
        Rule('clip/text/pos_embed/w', f'{text}.embeddings.position_embedding.weight'),
        *_blocks('clip/text', text),
        *norm('clip/text/norm', f'{text}.final_layer_norm'),
    )


def _blocks(ours: str, theirs: str) -> tuple[Rule, ...]:
    block, layer = f'{ours}/block{{i}}', f'{theirs}.encoder.layers.{{i}}'
    parts = tuple(f'{layer}.self_attn.{name}_proj' for name in 'qkv')
    return (
        *norm(f'{block}/norm1', f'{layer}.layer_norm1'),
        *merged(f'{block}/attn/qkv', parts),
        *dense(f'{block}/attn/proj', f'{layer}.self_attn.out_proj'),
        *norm(f'{block}/norm2', f'{layer}.layer_norm2'),
        *dense(f'{block}/mlp/fc1', f'{layer}.mlp.fc1'),
        *dense(f'{block}/mlp/fc2', f'{layer}.mlp.fc2'),
    )


_TOWER_LAYERS = (
    Rule('clip/image/patch_embed', 'vision_model.embeddings.patch_embedding', NHWC),
    Rule('clip/text/token_embed', 'text_model.embeddings.token_embedding'),
    *(
        Rule(f'clip/{ours}/block{{i}}{ours_part}', f'{theirs}.encoder.layers.{{i}}{theirs_part}')
        for ours, theirs in {'image': 'vision_model', 'text': 'text_model'}.items()
        for ours_part, theirs_part in {
            '/norm1': '.layer_norm1',
            '/attn': '.self_attn',
            '/norm2': '.layer_norm2',
            '/mlp': '.mlp',
            '': '',
        }.items()
    ),
    Rule('clip/image/norm', 'vision_model.post_layernorm'),
    Rule('clip/text/norm', 'text_model.final_layer_norm'),
)
_CLIP_LAYERS = (
    *_TOWER_LAYERS,
    Rule('clip/image/pre_norm', 'vision_model.pre_layrnorm'),
    Rule('clip/image_proj', 'visual_projection'),
    Rule('clip/text/proj', 'text_projection'),
)
_SIGLIP_LAYERS = (
    *_TOWER_LAYERS,
    Rule('clip/image/pool', 'vision_model.head'),
    Rule('clip/text/proj', 'text_model.head'),
)

_SQUARE = pair_of(lambda height, width: height == width, 'a square, the only form there')


def _fields(
    patch: int, text: tuple[int, int, int], vocab: int, context: int, activation: str, eps: float
) -> tuple[Field, ...]:
    """Describe both towers' settings by the defaults of transformers' classes."""
    width, mlp_dim, heads = text
    sizes = {'image': (768, 3072, 12), 'text': (width, mlp_dim, heads)}
    return (
        Field('image_size', 'vision_config.image_size', 224, _SQUARE),
        Field('patch_size', 'vision_config.patch_size', patch, _SQUARE),
        Field('in_channels', 'vision_config.num_channels', 3),
        Field('vocab_size', 'text_config.vocab_size', vocab),
        Field('context', 'text_config.max_position_embeddings', context),
        *(
            field
            for ours, theirs in {'image': 'vision_config', 'text': 'text_config'}.items()
            for field in (
                Field(f'{ours}_width', f'{theirs}.hidden_size', sizes[ours][0]),
                Field(f'{ours}_mlp_dim', f'{theirs}.intermediate_size', sizes[ours][1]),
                Field(f'{ours}_heads', f'{theirs}.num_attention_heads', sizes[ours][2]),
                Field(f'{ours}_depth', f'{theirs}.num_hidden_layers', 12),
                Field(
                    f'{ours}_activation', f'{theirs}.hidden_act', activation, ACTIVATION_OF_TORCH
                ),
                Field(f'{ours}_norm_eps', f'{theirs}.layer_norm_eps', eps),
            )
        ),
        Field(
            'attention_dropout_rate',
            ('text_config.attention_dropout', 'vision_config.attention_dropout'),
            0.0,
        ),
    )


# The id that early files call the end, whatever it is: texts are pooled at their highest id.
_ANY_END = 2
_END = 'text_config.eos_token_id'


def _write_end(end: int, known: Mapping[str, Any]) -> int:
    if end == _ANY_END:
        raise ValueError(f'another id, for {_ANY_END} stands for the highest one there')
    return _ANY_END if known['text_pool'] == 'highest' else end


_CLIP_FIELDS = (
    *_fields(32, (512, 2048, 8), 49408, 77, 'quick_gelu', 1e-5),
    Field('embed_dim', 'projection_dim', 512),
    Field(
        'text_pool',
        _END,
        49407,
        Via(
            lambda end, known: 'highest' if end == _ANY_END else 'end',
            lambda pool, known: _write_end(known['end_token'], known),
        ),
    ),
    Field(
        'end_token', _END, 49407, Via(lambda end, known: -1 if end == _ANY_END else end, _write_end)
    ),
)
_SIGLIP_FIELDS = (
    *_fields(16, (768, 3072, 12), 32000, 64, 'gelu_pytorch_tanh', 1e-6),
    Field('embed_dim', 'text_config.projection_size', lambda known: known['text_width']),
    *fixed(**{'vision_config.vision_use_head': True}),
)


def _header(kind: str, name: str) -> Callable[[Any, Mapping[str, Any]], dict[str, Any]]:
    def header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
        parts = {f'{part}_config.model_type': f'{kind}_{part}_model' for part in ('text', 'vision')}
        made = nested({**parts, **theirs})
        return {'architectures': [f'{name}Model'], 'model_type': kind, **made}

    return header


def _beside(name: str, form: Mapping[str, Any]) -> Callable[[Source, Any], dict[str, Any]]:
    """Add what a kind stands for; ValueError for a folder with a head on its towers."""

    def beside(source: Source, ours: Any) -> dict[str, Any]:
        found = architectures(source.config)
        if found and found[0] != f'{name}Model':
            expected = f'{name}Model, both towers without a head'
            raise ValueError(f'architectures {found[0]!r} (expected {expected})')
        return {**form}

    return beside


def _table(
    kind: str,
    name: str,
    rules: Callable[[Any], tuple[Rule, ...]],
    layers: tuple[Rule, ...],
    fields: tuple[Field, ...],
    **limits: tuple[Any, ...],
) -> Table:
    form = FORMS[kind]
    return Table(
        rules,
        limits={**{field: (value,) for field, value in form.items()}, **limits},
        layers=lambda config: layers,
        library=TRANSFORMERS,
        kinds=(kind,),
        fields=fields,
        # They speak of training's start; of towers alone; a dropout that no code reads.
        neutral=(
            'initializer_factor',
            r'(text|vision)_config\.(initializer_factor|projection_dim|dropout)',
            '(text|vision)_config_dict',
            'logit_scale_init_value',
        ),
        beside=_beside(name, form),
        header=_header(kind, name),
        # Positions in order, in early files.
        ignored=(r'(text|vision)_model\.embeddings\.position_ids',),
    )


TABLES = {
    'hf': _table('clip', 'CLIP', clip, _CLIP_LAYERS, _CLIP_FIELDS, text_pool=('end', 'highest')),
    'siglip': _table('siglip', 'Siglip', siglip, _SIGLIP_LAYERS, _SIGLIP_FIELDS, end_token=(-1,)),
}
