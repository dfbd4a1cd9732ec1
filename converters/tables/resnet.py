"""ResNet: torchvision and timm, which share their names, and transformers."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from blox.converters.rules import Rule, Table
from blox.converters.sources.source import Source
from blox.converters.tables.common import (
    HF_FIXED,
    HF_NEUTRAL,
    NHWC,
    Fields,
    conv_norm,
    count_labels,
    dense,
    hf_labels,
)
from blox.converters.tables.timm import pretrained_config, read_timm

_BLOCK = 'resnet/stage{s}/block{b}'


def timm(config: Any) -> tuple[Rule, ...]:
    """torchvision.models.resnet and timm.models.resnet."""
    convs = [
        rule
        for i in _convs(config)
        for rule in conv_norm(
            f'{_BLOCK}/conv{i}', f'layer{{s}}.{{b}}.conv{i}', f'layer{{s}}.{{b}}.bn{i}'
        )
    ]
    shortcut = conv_norm(
        f'{_BLOCK}/shortcut', 'layer{s}.{b}.downsample.0', 'layer{s}.{b}.downsample.1'
    )
    return (
        *conv_norm('resnet/stem', 'conv1', 'bn1'),
        *convs,
        *(shortcut if _has_shortcuts(config) else ()),
        *(dense('resnet/head', 'fc') if config.num_classes else ()),
    )


def hf(config: Any) -> tuple[Rule, ...]:
    """transformers.ResNetModel: names without the prefix 'resnet.'."""
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
    return range(1, 3 if config.block == 'basic' else 4)


def _has_shortcuts(config: Any) -> bool:
    """Whether any block has one: where there are several stages, their first blocks do."""
    return len(config.depths) > 1 or config.stem_width != _outputs(config)[0]


def _outputs(config: Any) -> list[int]:
    """Channels that each stage gives."""
    return [width * (1 if config.block == 'basic' else 4) for width in config.widths]


def _timm_layers(config: Any) -> tuple[Rule, ...]:
    block = 'layer{s}.{b}'
    return (
        Rule('resnet/stem', 'bn1', NHWC),
        *(Rule(f'{_BLOCK}/conv{i}', f'{block}.bn{i}', NHWC) for i in _convs(config)),
        Rule(f'{_BLOCK}/shortcut', f'{block}.downsample', NHWC),
        Rule(_BLOCK, block, NHWC),
        *((Rule('resnet/head', 'fc'),) if config.num_classes else ()),
    )


def _hf_layers(config: Any) -> tuple[Rule, ...]:
    prefix = 'resnet.' if config.num_classes else ''
    block = f'{prefix}encoder.stages.{{s-1}}.layers.{{b}}'
    convs = (
        Rule(f'{_BLOCK}/conv{i}', f'{block}.layer.{i - 1}.normalization', NHWC)
        for i in _convs(config)
    )
    return (
        Rule('resnet/stem', f'{prefix}embedder.embedder.normalization', NHWC),
        *convs,
        Rule(f'{_BLOCK}/shortcut', f'{block}.shortcut', NHWC),
        Rule(_BLOCK, block, NHWC),
        *((Rule('resnet/head', 'classifier.1'),) if config.num_classes else ()),
    )


def _counters(names: Iterable[str]) -> dict[str, np.ndarray]:
    """torch's count of training batches, which has no say while momentum is a number."""
    statistics = (name for name in names if name.endswith('.running_mean'))
    return {
        name.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
        for name in statistics
    }


def _read_hf(source: Source) -> dict[str, Any]:
    fields = Fields(source.config)
    block = fields.take('layer_type', 'bottleneck')
    reduction = 4 if block == 'bottleneck' else 1
    outputs = fields.take('hidden_sizes', [256, 512, 1024, 2048])
    if any(channels % reduction for channels in outputs):
        fields.problems.append(f'hidden_sizes that 4 divides, found {outputs}')
    in_bottleneck = fields.take('downsample_in_bottleneck', False)
    has_head = any(name.startswith('classifier.') for name in source.tensors)
    ours = {
        'in_channels': fields.take('num_channels', 3),
        'num_classes': count_labels(source.config) if has_head else 0,
        'block': block,
        'depths': tuple(fields.take('depths', [3, 4, 6, 3])),
        'widths': tuple(channels // reduction for channels in outputs),
        'stem_width': fields.take('embedding_size', 64),
        'stride_on': 'conv1' if in_bottleneck else 'conv2',
    }
    fields.expect({**HF_FIXED, 'hidden_act': 'relu', 'downsample_in_first_stage': False})
    fields.finish(HF_NEUTRAL | {'tie_word_embeddings'})
    return ours


def _write_hf(config: Any) -> dict[str, Any]:
    _check_export(
        'transformers',
        config,
        {'groups': 1, 'group_width': 64, 'stem': 'imagenet', 'bn_eps': 1e-5, 'bn_decay': 0.9},
    )
    head = 'ResNetForImageClassification' if config.num_classes else 'ResNetModel'
    return {
        'architectures': [head],
        'model_type': 'resnet',
        'num_channels': config.in_channels,
        'embedding_size': config.stem_width,
        'hidden_sizes': _outputs(config),
        'depths': list(config.depths),
        'layer_type': config.block,
        'hidden_act': 'relu',
        'downsample_in_first_stage': False,
        'downsample_in_bottleneck': config.stride_on == 'conv1',
        **(hf_labels(config.num_classes) if config.num_classes else {}),
    }


def _check_export(library: str, config: Any, fixed: Mapping[str, Any]) -> None:
    other = {name: getattr(config, name) for name, value in fixed.items()}
    wrong = {name: value for name, value in other.items() if value != fixed[name]}
    if wrong:
        expected = {name: fixed[name] for name in wrong}
        raise ValueError(f'{library} has only ResNets with {expected}, found {wrong}')


def _size(block: str, *depths: int, **fields: Any) -> dict[str, Any]:
    return {'block': block, 'depths': depths, 'groups': 1, 'group_width': 64, **fields}


ARCHITECTURES = {
    'resnet18': _size('basic', 2, 2, 2, 2),
    'resnet34': _size('basic', 3, 4, 6, 3),
    'resnet26': _size('bottleneck', 2, 2, 2, 2),
    'resnet50': _size('bottleneck', 3, 4, 6, 3),
    'resnet101': _size('bottleneck', 3, 4, 23, 3),
    'resnet152': _size('bottleneck', 3, 8, 36, 3),
    'wide_resnet50_2': _size('bottleneck', 3, 4, 6, 3, group_width=128),
    'wide_resnet101_2': _size('bottleneck', 3, 4, 23, 3, group_width=128),
    'resnext50_32x4d': _size('bottleneck', 3, 4, 6, 3, groups=32, group_width=4),
    'resnext101_32x4d': _size('bottleneck', 3, 4, 23, 3, groups=32, group_width=4),
    'resnext101_32x8d': _size('bottleneck', 3, 4, 23, 3, groups=32, group_width=8),
    'resnext101_32x16d': _size('bottleneck', 3, 4, 23, 3, groups=32, group_width=16),
    'resnext101_32x32d': _size('bottleneck', 3, 4, 23, 3, groups=32, group_width=32),
    'resnext101_64x4d': _size('bottleneck', 3, 4, 23, 3, groups=64, group_width=4),
}


def _read_timm(source: Source) -> dict[str, Any]:
    architecture, arguments, common = read_timm(source, 'resnet', ARCHITECTURES)
    base = ARCHITECTURES[architecture]
    ours = {
        **common,
        'block': base['block'],
        'depths': tuple(arguments.take('layers', base['depths'])),
        'widths': tuple(arguments.take('channels', (64, 128, 256, 512))),
        'groups': arguments.take('cardinality', base['groups']),
        'group_width': arguments.take('base_width', base['group_width']),
        'drop_path_rate': arguments.take('drop_path_rate', 0.0),
    }
    arguments.expect(
        {
            'global_pool': 'avg',
            'stem_type': '',
            'output_stride': 32,
            'replace_stem_pool': False,
            'block_reduce_first': 1,
            'down_kernel_size': 1,
            'avg_down': False,
            'act_layer': 'relu',
            'norm_layer': 'batchnorm2d',
            'aa_layer': None,
            'drop_rate': 0.0,
            'drop_block_rate': 0.0,
            'block_args': None,
        }
    )
    # Without a deep stem timm's stem is 64 wide whatever stem_width says.
    arguments.finish(frozenset({'stem_width', 'zero_init_last'}))
    return ours


def _write_timm(config: Any) -> dict[str, Any]:
    fixed = {'stem': 'imagenet', 'stem_width': 64, 'bn_eps': 1e-5, 'bn_decay': 0.9}
    if config.block == 'bottleneck':
        fixed['stride_on'] = 'conv2'
    _check_export('timm', config, fixed)
    own = {
        name
        for name, fields in ARCHITECTURES.items()
        if all(getattr(config, field) == value for field, value in fields.items())
    }
    architecture = min(own, default='resnet18' if config.block == 'basic' else 'resnet50')
    return {
        'architecture': architecture,
        'num_classes': config.num_classes,
        'num_features': _outputs(config)[-1],
        'global_pool': 'avg',
        'model_args': {
            'num_classes': config.num_classes,
            'in_chans': config.in_channels,
            'layers': list(config.depths),
            'channels': list(config.widths),
            'cardinality': config.groups,
            'base_width': config.group_width,
            'drop_path_rate': config.drop_path_rate,
        },
        'pretrained_cfg': pretrained_config(config, 'conv1', 'fc', fixed_size=False),
    }


TABLES = {
    'timm': Table(
        timm,
        layers=_timm_layers,
        ignored=(r'.*\.num_batches_tracked',),
        buffers=_counters,
        architectures=ARCHITECTURES,
        read_config=_read_timm,
        write_config=_write_timm,
    ),
    'hf': Table(
        hf,
        layers=_hf_layers,
        spellings=((r'^resnet\.', ''),),
        published=lambda config: ((r'^(?!classifier\.)', 'resnet.'),) if config.num_classes else (),
        ignored=(r'.*\.num_batches_tracked',),
        buffers=_counters,
        read_config=_read_hf,
        write_config=_write_hf,
    ),
}
