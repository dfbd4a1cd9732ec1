"""Swin: timm and transformers."""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.fields import PAIR, TUPLE, Field, Via, fixed
from blox.converters.mapping.libraries import TIMM, TRANSFORMERS
from blox.converters.mapping.parts import (
    ACTIVATION,
    NHWC,
    TIMM_IMAGES,
    dense,
    hf_header,
    live_names,
    merged,
    norm,
    published_names,
    read_classes,
    timm_header,
    under,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO, IDENTITY, split_axis
from blox.wording import counted

_STAGE, _BLOCK = 'swin/stage{s}', 'swin/stage{s}/block{b}'
_TIMM_BLOCK, _HF_BLOCK = 'layers.{s-1}.blocks.{b}', 'encoder.layers.{s-1}.blocks.{b}'


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to timm's names, whose later stages begin with their downsampling."""
    return (
        *dense('swin/patch_embed', 'patch_embed.proj', HWIO),
        *norm('swin/patch_norm', 'patch_embed.norm'),
        *_downsample(config, 'layers.{s-1}.downsample'),
        *norm(f'{_BLOCK}/norm1', f'{_TIMM_BLOCK}.norm1'),
        *dense(f'{_BLOCK}/attn/qkv', f'{_TIMM_BLOCK}.attn.qkv', bias=config.qkv_bias),
        Rule(f'{_BLOCK}/attn/bias', f'{_TIMM_BLOCK}.attn.relative_position_bias_table'),
        *dense(f'{_BLOCK}/attn/proj', f'{_TIMM_BLOCK}.attn.proj'),
        *norm(f'{_BLOCK}/norm2', f'{_TIMM_BLOCK}.norm2'),
        *dense(f'{_BLOCK}/mlp/fc1', f'{_TIMM_BLOCK}.mlp.fc1'),
        *dense(f'{_BLOCK}/mlp/fc2', f'{_TIMM_BLOCK}.mlp.fc2'),
        *norm('swin/norm', 'norm'),
        *(dense('swin/head', 'head.fc') if config.num_classes else ()),
    )


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.SwinModel on disk, without the prefix 'swin.'.

    Its stages end with the downsampling to the next one.
    """
    attention = f'{_HF_BLOCK}.attention.self'
    parts = tuple(f'{attention}.{name}' for name in ('query', 'key', 'value'))
    return (
        *dense('swin/patch_embed', 'embeddings.patch_embeddings.projection', HWIO),
        *norm('swin/patch_norm', 'embeddings.norm'),
        *_downsample(config, 'encoder.layers.{s-2}.downsample'),
        *norm(f'{_BLOCK}/norm1', f'{_HF_BLOCK}.layernorm_before'),
        *merged(f'{_BLOCK}/attn/qkv', parts, bias=config.qkv_bias),
        Rule(f'{_BLOCK}/attn/bias', f'{attention}.relative_position_bias_table'),
        *dense(f'{_BLOCK}/attn/proj', f'{_HF_BLOCK}.attention.output.dense'),
        *norm(f'{_BLOCK}/norm2', f'{_HF_BLOCK}.layernorm_after'),
        *dense(f'{_BLOCK}/mlp/fc1', f'{_HF_BLOCK}.intermediate.dense'),
        *dense(f'{_BLOCK}/mlp/fc2', f'{_HF_BLOCK}.output.dense'),
        *norm('swin/norm', 'layernorm'),
        *(dense('swin/head', 'classifier') if config.num_classes else ()),
    )


def _downsample(config: Any, theirs: str) -> tuple[Rule, ...]:
    if len(config.depths) == 1:
        return ()
    return (
        *norm(f'{_STAGE}/downsample/norm', f'{theirs}.norm'),
        *dense(f'{_STAGE}/downsample/reduction', f'{theirs}.reduction', bias=False),
    )


def _layers(
    config: Any, stage: str, names: Mapping[str, str], flat: tuple[str, ...]
) -> tuple[Rule, ...]:
    """Pair the layers of blocks; those in `flat` have positions in a row there, where ours are maps."""
    return tuple(
        Rule(
            f'swin/stage{s + 1}/block{{b}}{ours}',
            f'{stage.format(s=s)}.blocks.{{b}}{theirs}',
            split_axis(1, config.map_size(s)[0]) if ours in flat else IDENTITY,
        )
        for s in range(len(config.depths))
        for ours, theirs in names.items()
    )


def _timm_layers(config: Any) -> tuple[Rule, ...]:
    names = {name: name.replace('/', '.') for name in ('', '/norm1', '/norm2', '/mlp')}
    return (
        Rule('swin/patch_embed', 'patch_embed.proj', NHWC),
        *_layers(config, 'layers.{s}', names, ('/norm2', '/mlp')),
        *((Rule(f'{_STAGE}/downsample', 'layers.{s-1}.downsample'),) if config.depths[1:] else ()),
        Rule('swin/norm', 'norm'),
        *((Rule('swin/head', 'head.fc'),) if config.num_classes else ()),
    )


def _hf_layers(config: Any) -> tuple[Rule, ...]:
    names = {
        '': '',
        '/norm1': '.layernorm_before',
        '/norm2': '.layernorm_after',
        '/mlp': '.mlp',
    }
    return (
        Rule('swin/patch_embed', 'embeddings.patch_embeddings.projection', NHWC),
        *_layers(config, 'encoder.layers.{s}', names, tuple(names)),
        Rule('swin/norm', 'layernorm', split_axis(1, config.map_size(len(config.depths) - 1)[0])),
        *((Rule('swin/head', 'classifier'),) if config.num_classes else ()),
    )


def _read_windows(found: Any, known: Mapping[str, Any]) -> tuple[int, ...]:
    count = len(known['depths'])
    is_list = isinstance(found, list | tuple)
    # Two numbers are height and width of all windows, however many stages there are.
    is_pair = is_list and len(found) == 2 and all(type(side) is int for side in found)
    windows = found if is_list and not is_pair else [found] * count
    squares = [(side, side) if type(side) is int else side for side in windows]
    are_squares = all(
        isinstance(side, list | tuple) and len(side) == 2 and side[0] == side[1] for side in squares
    )
    if not are_squares or len(squares) != count:
        raise ValueError(
            f'the side of square windows, or one for each of {counted(count, "stage")}'
        )
    return tuple(side for side, _ in squares)


def _write_windows(sides: tuple[int, ...], known: Mapping[str, Any]) -> int | list[Any]:
    if len({*sides}) == 1:
        return sides[0]
    return [[side, side] for side in sides] if len(sides) == 2 else list(sides)


_WINDOWS = Via(_read_windows, _write_windows, takes_any=True)
_TIMM_FIELDS = (
    *TIMM_IMAGES,
    Field('patch_size', 'patch_size', 4, PAIR),
    Field('width', 'embed_dim', 96),
    Field('depths', 'depths', [2, 2, 6, 2], TUPLE),
    Field('stage_heads', 'num_heads', [3, 6, 12, 24], TUPLE),
    Field('windows', 'window_size', 7, _WINDOWS),
    Field('mlp_ratio', 'mlp_ratio', 4.0),
    Field('qkv_bias', 'qkv_bias', True),
    Field('dropout_rate', 'proj_drop_rate', 0.0),
    Field('attention_dropout_rate', 'attn_drop_rate', 0.0),
    Field('drop_path_rate', 'drop_path_rate', 0.1),
    *fixed(global_pool='avg', head_dim=None, always_partition=False, drop_rate=0.0),
)


def _check_tiled(sides: tuple[int, ...], known: Mapping[str, Any]) -> tuple[int, ...]:
    """Return windows if maps are tiled by them, and both sides of a map or none of them are longer."""
    if min((*known['image_size'], *known['patch_size'], *sides), default=0) < 1:
        return sides  # The config says which of them is wrong.
    sizes = [n // patch for n, patch in zip(known['image_size'], known['patch_size'])]
    for s, side in enumerate(sides):
        size = [-(-n // (1 << s)) for n in sizes]
        if any(n % side for n in size) or (size[0] > side) != (size[1] > side):
            raise ValueError(
                f'windows that tile maps of {tuple(size)} in stage {s + 1}, for transformers pads and '
                'shifts others in its own way'
            )
    return sides


_TILED = Via(
    lambda side, known: _check_tiled((side,) * len(known['depths']), known),
    lambda sides, known: _one(_check_tiled(sides, known)),
)


def _one(sides: tuple[int, ...]) -> int:
    if len({*sides}) != 1:
        raise ValueError('one side of windows for all stages')
    return sides[0]


_HF_FIELDS = (
    Field('image_size', 'image_size', 224, PAIR),
    Field('patch_size', 'patch_size', 4, PAIR),
    Field('in_channels', 'num_channels', 3),
    Field('width', 'embed_dim', 96),
    Field('depths', 'depths', [2, 2, 6, 2], TUPLE),
    Field('stage_heads', 'num_heads', [3, 6, 12, 24], TUPLE),
    Field('windows', 'window_size', 7, _TILED),
    Field('mlp_ratio', 'mlp_ratio', 4.0),
    Field('qkv_bias', 'qkv_bias', True),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    Field('norm_eps', 'layer_norm_eps', 1e-5),
    Field('dropout_rate', 'hidden_dropout_prob', 0.0),
    Field('attention_dropout_rate', 'attention_probs_dropout_prob', 0.0),
    Field('drop_path_rate', 'drop_path_rate', 0.1),
    Field((), 'hidden_size', lambda known: known['width'] << max(len(known['depths']) - 1, 0)),
    Field((), 'num_layers', lambda known: len(known['depths'])),
    *fixed(use_absolute_embeddings=False, path_norm=True),
)
# On disk, and as transformers 5 calls its live modules; it can save by those names too.
_HF_RENAMED = (
    ('attention.self.query', 'attention.q_proj'),
    ('attention.self.key', 'attention.k_proj'),
    ('attention.self.value', 'attention.v_proj'),
    (
        'attention.self.relative_position_bias_table',
        'attention.relative_position_bias.relative_position_bias_table',
    ),
    ('attention.output.dense', 'attention.o_proj'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)

TABLES = {
    'timm': Table(
        timm,
        limits={'activation': ('gelu',)},
        library=TIMM,
        kinds=('SwinTransformer',),
        fields=_TIMM_FIELDS,
        # They have a say in training's start, or for images of other sizes, which ours refuses.
        neutral=('weight_init', 'strict_img_size', 'dynamic_img_size'),
        header=timm_header(
            'patch_embed.proj',
            'head.fc',
            lambda config: config.width << len(config.depths) - 1,
            fixed_size=True,
            implied=(),
        ),
        facts={'activation': 'gelu', 'norm_eps': 1e-5},
        layers=_timm_layers,
    ),
    'hf': Table(
        hf,
        library=TRANSFORMERS,
        kinds=('swin',),
        fields=_HF_FIELDS,
        beside=read_classes,
        header=hf_header('swin', 'SwinForImageClassification', 'SwinModel'),
        facts={'activation': 'gelu', 'norm_eps': 1e-5},
        layers=_hf_layers,
        spellings=((r'^swin\.', ''), *published_names(_HF_RENAMED)),
        published=under('swin'),
        live=live_names(_HF_RENAMED),
        # What older files keep of what is computed.
        ignored=(r'.*\.relative_position_index', r'.*\.attn_mask'),
    ),
}
