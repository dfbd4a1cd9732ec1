"""What a folder that timm saved says of its model, whatever the family."""

from collections.abc import Mapping
from typing import Any

from blox.converters.sources.source import Source
from blox.converters.tables.common import Fields

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
    pretrained = Fields(top if is_old else _object(top, 'pretrained_cfg'))
    channels, *size = pretrained.take('input_size', [3, 224, 224]) or [3]
    pool = {'global_pool': top['global_pool']} if top.get('global_pool') else {}
    arguments = Fields(pool | _object(top, 'model_args'))
    classes = top.get('num_classes', pretrained.take('num_classes', 1000))
    common = {
        'num_classes': arguments.take('num_classes', classes),
        'in_channels': arguments.take('in_chans', channels),
        'image_size': arguments.pair('img_size', size),
    }
    arguments.problems += pretrained.problems
    return architecture, arguments, common


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object that a field is; an empty one where it is absent or null."""
    found = fields.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f'expected {name} to be an object, found {found!r}')
    return dict(found)


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
