"""What a folder that timm saved says of its model, whatever the family."""

from collections.abc import Mapping
from typing import Any

from blox.converters.sources import Source
from blox.converters.tables.common import Fields, pair

_TOP = frozenset(
    {
        'architecture',
        'global_pool',
        'label_descriptions',
        'label_names',
        'model_args',
        'num_classes',
        'num_features',
        'pretrained_cfg',
    }
)


def read_timm(
    source: Source, family: str, architectures: Mapping[str, Any]
) -> tuple[str, Fields, dict[str, Any]]:
    """The architecture's name, the arguments that it was made with, and what all families share.

    Of what stands in several places, timm takes `model_args` first, then the top, then
    `pretrained_cfg`.
    """
    top = source.config
    architecture = str(top.get('architecture'))
    if architecture not in architectures:
        known = ', '.join(architectures)
        raise ValueError(f'expected a {family} architecture of {known}, found {architecture!r}')
    # Old files have the fields of pretrained_cfg at the top.
    is_old = 'pretrained_cfg' not in top
    if not is_old:
        Fields(top).finish(_TOP)
    pretrained = top if is_old else top['pretrained_cfg']
    input_size = pretrained.get('input_size') or [3, 224, 224]
    pool = {'global_pool': top['global_pool']} if top.get('global_pool') else {}
    arguments = Fields(pool | (top.get('model_args') or {}))
    classes = top.get('num_classes', pretrained.get('num_classes', 1000))
    common = {
        'num_classes': arguments.take('num_classes', classes),
        'in_channels': arguments.take('in_chans', input_size[0]),
        'image_size': pair(arguments.take('img_size', list(input_size[1:]))),
    }
    return architecture, arguments, common


def pretrained_config(
    config: Any, first_conv: str, classifier: str, *, fixed_size: bool
) -> dict[str, Any]:
    """The part of a config.json that timm calls pretrained_cfg, preprocessing apart."""
    return {
        'custom_load': False,
        'input_size': [config.in_channels, *config.image_size],
        'fixed_input_size': fixed_size,
        'num_classes': config.num_classes,
        'pool_size': None,
        'first_conv': first_conv,
        'classifier': classifier,
    }
