"""ResNet: torchvision and timm, which share their names, and transformers."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from blox.converters.mapping.fields import TUPLE, Field, Via, fixed, one_of, stages
from blox.converters.mapping.libraries import TIMM, TRANSFORMERS
from blox.converters.mapping.parts import (
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

_BLOCK = 'resnet/stage{s}/block{b}'


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to the names of torchvision.models.resnet and timm.models.resnet."""
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
    return range(1, 3 if config.block == 'basic' else 4)


def _has_shortcuts(config: Any) -> bool:
    """Return whether any block has one: where there are several stages, their first blocks do."""
    return len(config.depths) > 1 or config.stem_width != _outputs(config)[0]


def _outputs(config: Any) -> list[int]:
    """Return the channels that each stage gives."""
    return [width * (1 if config.block == 'basic' else 4) for width in config.widths]


_TIMM_LAYERS = (
    Rule('resnet/stem', 'bn1', NHWC),
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
_TIMM_FIELDS = (
    *TIMM_IMAGES,
    Field(
        'block', 'block', 'Bottleneck', one_of({'Bottleneck': 'bottleneck', 'BasicBlock': 'basic'})
    ),
    Field('depths', 'layers', [3, 4, 6, 3], stages(4)),
    Field('widths', 'channels', [64, 128, 256, 512], stages(4)),
    Field('groups', 'cardinality', 1),
    Field('group_width', 'base_width', 64),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(
        global_pool='avg',
        stem_type='',
        output_stride=32,
        replace_stem_pool=False,
        block_reduce_first=1,
        down_kernel_size=1,
        avg_down=False,
        act_layer='relu',
        norm_layer='batchnorm2d',
        aa_layer=None,
        drop_rate=0.0,
        drop_block_rate=0.0,
        block_args=None,
    ),
)


TABLES = {
    'timm': Table(
        timm,
        layers=lambda config: _TIMM_LAYERS,
        ignored=(r'.*\.num_batches_tracked',),
        buffers=_counters,
        library=TIMM,
        kinds=('ResNet',),
        fields=_TIMM_FIELDS,
        # Without a deep stem timm's stem is 64 wide whatever stem_width says.
        neutral=('stem_width', 'zero_init_last'),
        header=timm_header(
            'conv1',
            'fc',
            lambda config: _outputs(config)[-1],
            implied=('block', 'img_size'),
        ),
    ),
    'hf': Table(
        hf,
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
