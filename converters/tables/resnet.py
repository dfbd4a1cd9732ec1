"""ResNet: torchvision and timm, which share their names, and transformers."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from blox.converters.mapping.fields import TUPLE, Field, Via, fixed, one_of, stages
from blox.converters.mapping.libraries import PRUNED_WIDTHS, TIMM, TRANSFORMERS
from blox.converters.mapping.parts import (
    FROM_CONV,
    NHWC,
    TIMM_IMAGES,
    conv_norm,
    dense,
    hf_header,
    read_classes,
    timm_header,
    under,
)
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import transpose

_BLOCK = 'resnet/stage{s}/block{b}'


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to the names of torchvision.models.resnet and timm.models.resnet."""
    block = 'layer{s}.{b}'
    # Where shortcuts pool, that is the first of their modules.
    first = 1 if config.shortcut_pool else 0
    layers = {
        **_timm_stem(config),
        **{f'{_BLOCK}/conv{i}': (f'{block}.conv{i}', f'{block}.bn{i}') for i in _convs(config)},
    }
    if config.stem_pool == 'conv':
        layers['resnet/stem_pool'] = 'maxpool.0', 'maxpool.1'
    if _has_shortcuts(config):
        shortcut = f'{block}.downsample'
        layers[f'{_BLOCK}/shortcut'] = f'{shortcut}.{first}', f'{shortcut}.{first + 1}'
    return (
        *(
            rule
            for ours, theirs in layers.items()
            for rule in conv_norm(ours, *theirs, statistics=config.norm == 'batch')
        ),
        *_timm_attention(config, f'{block}.se'),
        *(dense('resnet/head', 'fc') if config.num_classes else ()),
    )


def _timm_stem(config: Any) -> dict[str, tuple[str, str]]:
    """Return timm's names of the stem's convolutions and their norms."""
    if not config.stem.startswith('deep'):
        return {'resnet/stem': ('conv1', 'bn1')}
    return {
        'resnet/stem': ('conv1.0', 'conv1.1'),
        'resnet/stem2': ('conv1.3', 'conv1.4'),
        'resnet/stem3': ('conv1.6', 'bn1'),
    }


def _timm_attention(config: Any, theirs: str) -> tuple[Rule, ...]:
    if config.channel_attention == 'se':
        return (
            *dense(f'{_BLOCK}/se/fc1', f'{theirs}.fc1', FROM_CONV),
            *dense(f'{_BLOCK}/se/fc2', f'{theirs}.fc2', FROM_CONV),
        )
    if config.channel_attention == 'eca':
        # [outputs, inputs, places]
        return dense(f'{_BLOCK}/eca/conv', f'{theirs}.conv', transpose(2, 1, 0), bias=False)
    return ()


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.ResNetModel, without the prefix 'resnet.'."""
    layer = 'encoder.stages.{s-1}.layers.{b}'

    def pair_of(name: str) -> tuple[str, str]:
        return f'{name}.convolution', f'{name}.normalization'

    convs = [
        rule
        for i in _convs(config)
        for rule in conv_norm(f'{_BLOCK}/conv{i}', *pair_of(f'{layer}.layer.{i - 1}'))
    ]
    shortcut = conv_norm(f'{_BLOCK}/shortcut', *pair_of(f'{layer}.shortcut'))
    return (
        *conv_norm('resnet/stem', *pair_of('embedder.embedder')),
        *convs,
        *(shortcut if _has_shortcuts(config) else ()),
        *(dense('resnet/head', 'classifier.1') if config.num_classes else ()),
    )


def _convs(config: Any) -> range:
    return range(1, 4 if 'bottleneck' in config.blocks else 3)


def _has_shortcuts(config: Any) -> bool:
    """Return whether any block has one: where there are several stages, their first blocks do."""
    return len(config.depths) > 1 or config.stem_width != config.outputs[0]


def _timm_layers(config: Any) -> tuple[Rule, ...]:
    return (
        *(Rule(ours, norm, NHWC) for ours, (_, norm) in _timm_stem(config).items()),
        *_TIMM_LAYERS,
    )


_TIMM_LAYERS = (
    Rule(f'{_BLOCK}/conv{{i}}', 'layer{s}.{b}.bn{i}', NHWC),
    Rule(f'{_BLOCK}/shortcut', 'layer{s}.{b}.downsample', NHWC),
    Rule(_BLOCK, 'layer{s}.{b}', NHWC),
    Rule('resnet/head', 'fc'),
)
_HF_LAYERS = (
    Rule('resnet/stem', 'embedder.embedder.normalization', NHWC),
    Rule(f'{_BLOCK}/conv{{i}}', 'encoder.stages.{s-1}.layers.{b}.layer.{i-1}.normalization', NHWC),
    Rule(f'{_BLOCK}/shortcut', 'encoder.stages.{s-1}.layers.{b}.shortcut', NHWC),
    Rule(_BLOCK, 'encoder.stages.{s-1}.layers.{b}', NHWC),
    Rule('resnet/head', 'classifier.1'),
)


def _counters(names: Iterable[str]) -> dict[str, np.ndarray]:
    """Make torch's counts of training batches, which have no say while momentum is a number."""
    statistics = (name for name in names if name.endswith('.running_mean'))
    return {
        name.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
        for name in statistics
    }


def _reduction(known: Mapping[str, Any]) -> int:
    return 4 if known['block'] == 'bottleneck' else 1


def _read_widths(outputs: list[int], known: Mapping[str, Any]) -> tuple[int, ...]:
    if any(channels % _reduction(known) for channels in outputs):
        raise ValueError('channels that 4 divides')
    return tuple(channels // _reduction(known) for channels in outputs)


def _write_widths(widths: tuple[int, ...], known: Mapping[str, Any]) -> list[int]:
    return [width * _reduction(known) for width in widths]


_HF_FIELDS = (
    Field('in_channels', 'num_channels', 3),
    Field(
        'block', 'layer_type', 'bottleneck', one_of({'bottleneck': 'bottleneck', 'basic': 'basic'})
    ),
    Field('depths', 'depths', [3, 4, 6, 3], TUPLE),
    Field('widths', 'hidden_sizes', [256, 512, 1024, 2048], Via(_read_widths, _write_widths)),
    Field('stem_width', 'embedding_size', 64),
    Field('stride_on', 'downsample_in_bottleneck', False, one_of({False: 'conv2', True: 'conv1'})),
    *fixed(hidden_act='relu', downsample_in_first_stage=False),
)


_BLOCKS = one_of({'Bottleneck': 'bottleneck', 'BasicBlock': 'basic'})


def _read_block(value: Any, known: Mapping[str, Any]) -> str:
    """Return the kind of all blocks, or of each stage's."""
    kinds = value if isinstance(value, list) and len(value) == 4 else [value]
    found = [_BLOCKS.read(kind, known) for kind in kinds]
    return ','.join(found) if len({*found}) > 1 else found[0]


def _write_block(block: str, known: Mapping[str, Any]) -> str | list[str]:
    kinds = [_BLOCKS.write(kind, known) for kind in block.split(',')]
    return kinds[0] if len(kinds) == 1 else kinds


def _is_deep(known: Mapping[str, Any]) -> bool:
    return known['stem'].startswith('deep')


# Only a deep stem has the width that timm's `stem_width` says, of its first convolutions.
_STEM_WIDTH = Via(
    lambda width, known: 2 * width if _is_deep(known) else 64,
    lambda width, known: width // 2 if _is_deep(known) else 64,
)


_SE_RATIO = 1 / 16


def _read_attention(value: Any) -> tuple[str, float]:
    """Return what weighs the channels, and how narrow it becomes."""
    layer = value.get('attn_layer') if isinstance(value, Mapping) and len(value) < 2 else value
    if layer in (None, 'se', 'eca'):
        return layer or 'none', _SE_RATIO
    if isinstance(layer, Mapping) and layer.get('name') == 'SEModule':
        ratio = layer.get('rd_ratio')
        if isinstance(ratio, float) and len(layer) == 2:
            return 'se', ratio
    raise ValueError("{'attn_layer': ...} of 'se', 'eca' or an SEModule")


def _write_attention(value: Any, known: Mapping[str, Any]) -> dict[str, str] | None:
    """Return timm's arguments of blocks, None if only an architecture's name says them."""
    name = known['channel_attention']
    if known['se_ratio'] != _SE_RATIO:
        return None
    return {} if name == 'none' else {'attn_layer': name}


_ATTENTION_KIND = Via(lambda value, known: _read_attention(value)[0], _write_attention)
_ATTENTION_RATIO = Via(lambda value, known: _read_attention(value)[1], _write_attention)


_TIMM_FIELDS = (
    *TIMM_IMAGES,
    Field('block', 'block', 'Bottleneck', Via(_read_block, _write_block, takes_any=True)),
    Field('depths', 'layers', [3, 4, 6, 3], stages(4)),
    Field('widths', 'channels', [64, 128, 256, 512], stages(4)),
    Field('groups', 'cardinality', 1),
    Field('group_width', 'base_width', 64),
    Field('reduce_first', 'block_reduce_first', 1),
    Field('pruned_widths', PRUNED_WIDTHS, [], TUPLE),
    # It says that there are such widths, which stand elsewhere.
    Field((), 'pruned', lambda known: bool(known['pruned_widths'])),
    Field(
        'stem',
        'stem_type',
        '',
        one_of({'': 'imagenet', 'deep': 'deep', 'deep_tiered': 'deep_tiered'}),
    ),
    Field('stem_width', 'stem_width', 64, _STEM_WIDTH),
    Field('stem_pool', 'replace_stem_pool', False, one_of({False: 'max', True: 'conv'})),
    Field(
        'antialias',
        'aa_layer',
        None,
        one_of({None: 'none', 'AvgPool2d': 'avg', 'BlurPool2d': 'blur'}),
    ),
    Field('shortcut_kernel', 'down_kernel_size', 1),
    Field('shortcut_pool', 'avg_down', False),
    Field('channel_attention', 'block_args', None, _ATTENTION_KIND),
    Field('se_ratio', 'block_args', None, _ATTENTION_RATIO),
    Field(
        'norm',
        'norm_layer',
        'batchnorm2d',
        one_of({'batchnorm2d': 'batch', 'batchnorm': 'batch', 'groupnorm': 'group'}),
    ),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(
        global_pool='avg',
        output_stride=32,
        act_layer='relu',
        drop_rate=0.0,
        drop_block_rate=0.0,
    ),
)
TABLES = {
    'timm': Table(
        timm,
        layers=_timm_layers,
        ignored=(r'.*\.num_batches_tracked',),
        buffers=_counters,
        library=TIMM,
        kinds=('ResNet',),
        fields=_TIMM_FIELDS,
        neutral=('zero_init_last',),
        header=timm_header(
            lambda config: _timm_stem(config)['resnet/stem'][0],
            'fc',
            lambda config: config.outputs[-1],
            # These are classes of timm's code, which its config.json cannot say.
            implied=('img_size', 'block', 'aa_layer', PRUNED_WIDTHS),
        ),
    ),
    'hf': Table(
        hf,
        limits={
            'block': ('basic', 'bottleneck'),
            'reduce_first': (1,),
            'pruned_widths': ((),),
            'stem': ('imagenet', 'small'),
            'stem_pool': ('max',),
            'shortcut_kernel': (1,),
            'channel_attention': ('none',),
            'norm': ('batch',),
        },
        layers=lambda config: _HF_LAYERS,
        spellings=((r'^resnet\.', ''),),
        published=under('resnet'),
        ignored=(r'.*\.num_batches_tracked',),
        buffers=_counters,
        library=TRANSFORMERS,
        kinds=('resnet',),
        fields=_HF_FIELDS,
        beside=read_classes,
        header=hf_header('resnet', 'ResNetForImageClassification', 'ResNetModel'),
        unsaid=lambda config: ('image_size', 'drop_path_rate'),
    ),
}
