"""ConvNeXt and ConvNeXt V2: timm and transformers."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from blox.converters.mapping.fields import PAIR, TUPLE, Field, Via, fixed, one_of, pair_of, stages
from blox.converters.mapping.libraries import TIMM, TRANSFORMERS
from blox.converters.mapping.parts import (
    ACTIVATION,
    FROM_CONV,
    NHWC,
    TIMM_ACTIVATION,
    TIMM_IMAGES,
    dense,
    hf_header,
    live_names,
    norm,
    published_names,
    read_classes,
    timm_header,
    under,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO, IDENTITY, T, Transform, join_axes
from blox.converters.sources.source import Source

_STAGE, _BLOCK = 'convnext/stage{s}', 'convnext/stage{s}/block{b}'
# Prefixes of a later stage's downsampling, and of a block.
_TIMM = 'stages.{s-1}.downsample', 'stages.{s-1}.blocks.{b}'
_HF = 'encoder.stages.{s-1}.downsampling_layer', 'encoder.stages.{s-1}.layers.{b}'
_ONE = join_axes(axis=0, first=1)
# Vectors as maps [1, 1, 1, channels].
_FROM_MAP = _ONE >> _ONE >> _ONE


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to the names of timm.models.convnext."""
    mlp = FROM_CONV if config.conv_mlp else T
    return _rules(config, *_TIMM, lambda timm, hf: timm, mlp, IDENTITY)


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers' ConvNextModel and ConvNextV2Model, without their prefix."""
    return _rules(config, *_HF, lambda timm, hf: hf, T, _FROM_MAP)


def _rules(
    config: Any,
    down: str,
    block: str,
    pick: Callable[[str, str], str],
    mlp: Transform,
    grn: Transform,
) -> tuple[Rule, ...]:
    """Map our names to timm's, left, or to those of transformers, right."""
    # Where timm's stem has its second convolution; an activation between them is counted too.
    second = {'patch': 0, 'overlap_act': 2}.get(config.stem, 1)
    scale = Rule(f'{_BLOCK}/scale/scale', f'{block}.{pick("gamma", "layer_scale_parameter")}')
    own_norm = functools.partial(norm, offset=config.norm == 'layer')
    head_norm = pick('norm_pre' if config.final_norm == 'map' else 'head.norm', 'layernorm')
    downsample = (
        *own_norm(f'{_STAGE}/downsample/norm', f'{down}.0'),
        *dense(f'{_STAGE}/downsample/conv', f'{down}.1', HWIO),
    )
    return (
        *dense('convnext/stem/conv', pick('stem.0', 'embeddings.patch_embeddings'), HWIO),
        *(dense('convnext/stem/conv2', f'stem.{second}', HWIO) if second else ()),
        *own_norm('convnext/stem/norm', pick(f'stem.{second + 1}', 'embeddings.layernorm')),
        *(downsample if len(config.depths) > 1 else ()),
        *dense(f'{_BLOCK}/conv_dw', f'{block}.{pick("conv_dw", "dwconv")}', HWIO),
        *own_norm(f'{_BLOCK}/norm', f'{block}.{pick("norm", "layernorm")}'),
        *dense(f'{_BLOCK}/mlp/fc1', f'{block}.{pick("mlp.fc1", "pwconv1")}', mlp),
        *(
            norm(f'{_BLOCK}/mlp/grn', f'{block}.{pick("mlp.grn", "grn")}', grn)
            if config.grn
            else ()
        ),
        *dense(f'{_BLOCK}/mlp/fc2', f'{block}.{pick("mlp.fc2", "pwconv2")}', mlp),
        *((scale,) if config.layer_scale else ()),
        *own_norm('convnext/norm', head_norm),
        *(dense('convnext/pre_logits', 'head.pre_logits.fc') if config.head_hidden else ()),
        *(dense('convnext/head', pick('head.fc', 'classifier')) if config.num_classes else ()),
    )


def _layers(stem: str, down: str, block: str, conv_dw: str, head: str = '') -> tuple[Rule, ...]:
    return (
        Rule('convnext/stem', stem, NHWC),
        Rule(f'{_STAGE}/downsample', down, NHWC),
        Rule(f'{_BLOCK}/conv_dw', f'{block}.{conv_dw}', NHWC),
        Rule(_BLOCK, block, NHWC),
        *((Rule('convnext/head', head),) if head else ()),
    )


def _started(none: float | None) -> Via:
    """Translate the start of layer scale, or `none`, to whether there is one."""
    read = lambda start, known: start is not None and (none is None or start > none)  # noqa: E731
    write = lambda has, known: 1e-6 if has else none  # noqa: E731
    return Via(read, write, takes_null=True)


def _start(known: Mapping[str, Any]) -> float:
    return 0.0 if known['grn'] else 1e-6


_STEMS = ('patch', 'overlap', 'overlap_tiered', 'overlap_act')
# By timm's names, of which those with '2d' are of the same norm; the first of several is written.
_NORMS: Mapping[str | None, str] = {
    'layernorm': 'layer',
    'layernorm2d': 'layer',
    None: 'layer',
    'rmsnorm2d': 'rms',
    'rmsnorm': 'rms',
    'simplenorm': 'simple',
    'simplenorm2d': 'simple',
}

# With others timm's first stage has a stride too, or its last one dilation in the place of a stride.
_PATCHES = pair_of(
    lambda height, width: height == width and height in (1, *range(3, 8)),
    '1, or an integer from 3 to 7',
)


def _read_kernels(sizes: Any, known: Mapping[str, Any]) -> tuple[int, ...]:
    # timm takes one size for all four stages, or four.
    found = [sizes] * 4 if type(sizes) is int else sizes
    if not isinstance(found, list | tuple) or [type(size) for size in found] != [int] * 4:
        raise ValueError('an odd integer, or 4 of them')
    return tuple(found)


_KERNELS = Via(
    _read_kernels,
    lambda sizes, known: sizes[0] if len({*sizes}) == 1 else list(sizes),
    takes_any=True,
)


def _read_hidden(size: Any, known: Mapping[str, Any]) -> int:
    if size is not None and type(size) is not int:
        raise ValueError('a width, or null')
    return size or 0


_HIDDEN = Via(_read_hidden, lambda size, known: size or None)
_TIMM_FIELDS = (
    *TIMM_IMAGES,
    Field('patch_size', 'patch_size', 4, _PATCHES),
    Field('depths', 'depths', [3, 3, 9, 3], stages(4)),
    Field('widths', 'dims', [96, 192, 384, 768], stages(4)),
    Field('kernel_sizes', 'kernel_sizes', 7, _KERNELS),
    Field('stem', 'stem_type', 'patch', one_of({name: name for name in _STEMS})),
    Field('activation', 'act_layer', 'gelu', TIMM_ACTIVATION),
    Field('norm', 'norm_layer', None, one_of(_NORMS)),
    Field('final_norm', 'head_norm_first', False, one_of({False: 'pooled', True: 'map'})),
    Field('head_hidden', 'head_hidden_size', None, _HIDDEN),
    Field('layer_scale', 'ls_init_value', 1e-6, _started(None)),
    Field('grn', 'use_grn', False),
    Field(('norm_eps', 'head_eps'), 'norm_eps', 1e-6),
    Field('conv_mlp', 'conv_mlp', False),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(global_pool='avg', output_stride=32, conv_bias=True, drop_rate=0.0),
)
_HF_FIELDS = (
    Field('grn', 'model_type', 'convnext', one_of({'convnext': False, 'convnextv2': True})),
    Field('image_size', 'image_size', 224, PAIR),
    Field('patch_size', 'patch_size', 4, PAIR),
    Field('in_channels', 'num_channels', 3),
    Field('depths', 'depths', [3, 3, 9, 3], TUPLE),
    Field('widths', 'hidden_sizes', [96, 192, 384, 768], TUPLE),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    Field('layer_scale', 'layer_scale_init_value', _start, _started(0.0)),
    Field('head_eps', 'layer_norm_eps', 1e-12),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    Field((), 'num_stages', lambda known: len(known['depths'])),
)


def _model_type(config: Any) -> str:
    return 'convnextv2' if config.grn else 'convnext'


def _hf_header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    name = 'ConvNextV2' if config.grn else 'ConvNext'
    header = hf_header(_model_type(config), f'{name}ForImageClassification', f'{name}Model')
    # The second version knows no layer scale.
    known = {k: v for k, v in theirs.items() if not (config.grn and 'scale' in k)}
    return header(config, {**known, 'num_stages': len(config.depths)})


def _read_beside(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    return {**read_classes(source, ours), 'kernel_sizes': (7,) * len(ours['depths'])}


_DINOV3_FIELDS = (
    Field('image_size', 'image_size', 224, PAIR),
    Field('in_channels', 'num_channels', 3),
    Field('depths', 'depths', [3, 3, 9, 3], TUPLE),
    Field('widths', 'hidden_sizes', [96, 192, 384, 768], TUPLE),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    # There is one whatever its start.
    Field(
        'layer_scale',
        'layer_scale_init_value',
        1e-6,
        Via(lambda start, known: True, lambda has, known: 1e-6),
    ),
    Field(('norm_eps', 'head_eps'), 'layer_norm_eps', 1e-6),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
)
# As transformers' ConvNextModel calls what its DINOv3ConvNextModel calls otherwise.
_DINOV3_RENAMED = (
    ('embeddings.patch_embeddings', 'stages.0.downsample_layers.0'),
    ('embeddings.layernorm', 'stages.0.downsample_layers.1'),
    ('encoder.stages.', 'stages.'),
    ('downsampling_layer.', 'downsample_layers.'),
    ('.dwconv', '.depthwise_conv'),
    ('.pwconv', '.pointwise_conv'),
    ('layer_scale_parameter', 'gamma'),
    ('layernorm', 'layer_norm'),
)


def _read_dinov3(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    return {'num_classes': 0, 'kernel_sizes': (7,) * len(ours['depths'])}


_HF_LIMITS: Mapping[str, tuple[Any, ...]] = {
    'stem': ('patch',),
    'norm': ('layer',),
    'final_norm': ('pooled',),
    'head_hidden': (0,),
}

TABLES = {
    'timm': Table(
        timm,
        library=TIMM,
        kinds=('ConvNeXt',),
        fields=_TIMM_FIELDS,
        neutral=('head_init_scale',),
        header=timm_header('stem.0', 'head.fc', lambda config: config.widths[-1]),
        facts={'norm_eps': 1e-6, 'head_eps': 1e-6},
        layers=lambda config: _layers('stem', *_TIMM, 'conv_dw', 'head.fc'),
    ),
    'hf': Table(
        hf,
        limits=_HF_LIMITS,
        library=TRANSFORMERS,
        kinds=('convnext', 'convnextv2'),
        fields=_HF_FIELDS,
        beside=_read_beside,
        header=_hf_header,
        unsaid=lambda config: ('conv_mlp',),
        facts={'norm_eps': 1e-6, 'head_eps': 1e-12},
        layers=lambda config: _layers('embeddings', f'{_HF[0]}.1', _HF[1], 'dwconv', 'classifier'),
        spellings=((r'^convnext(v2)?\.', ''),),
        published=under(_model_type),
    ),
    'dinov3_convnext': Table(
        hf,
        limits={
            **_HF_LIMITS,
            'patch_size': ((4, 4),),
            'layer_scale': (True,),
            'grn': (False,),
            'num_classes': (0,),
        },
        library=TRANSFORMERS,
        kinds=('dinov3_convnext',),
        fields=_DINOV3_FIELDS,
        beside=_read_dinov3,
        header=hf_header('dinov3_convnext', 'DINOv3ConvNextModel', 'DINOv3ConvNextModel'),
        unsaid=lambda config: ('conv_mlp',),
        facts={'norm_eps': 1e-6, 'head_eps': 1e-6},
        layers=lambda config: _layers('embeddings.layernorm', f'{_HF[0]}.1', _HF[1], 'dwconv'),
        spellings=((r'^model\.(?=stages\.)', ''), *published_names(_DINOV3_RENAMED)),
        published=lambda config: live_names(_DINOV3_RENAMED),
        live=((r'^(?=stages\.)', 'model.'),),
    ),
}
