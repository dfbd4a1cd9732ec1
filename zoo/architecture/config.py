"""The base of all configs: fields of one name have one meaning, and so one condition, everywhere."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from blox.converters.mapping.fields import is_number
from blox.layers import ACTIVATIONS
from blox.layers.attention import IMPLEMENTATIONS
from blox.zoo.architecture.validation import expect

_KINDS = {
    bool: 'true or false',
    int: 'an integer below 2**31',
    float: 'a finite number',
    str: 'a text',
    tuple: 'a sequence of integers below 2**31',
}


@dataclass(frozen=True)
class Config:
    """Choices that make a model: every field has a value, and a default of its type.

    A family's config adds its fields, and in `conditions` what must hold of them together.

    Attributes:
      remat: whether a gradient computes blocks again instead of keeping their inner values.
      scan: whether blocks that are alike run under one `bx.scan`, their parameters stacked.

    RUN_FIELDS, where a config has them, say how a model runs and not what it computes: no file holds
    them.
    """

    RUN_FIELDS: ClassVar[tuple[str, ...]] = ('remat', 'scan', 'attention')

    remat: bool = dataclasses.field(default=False, kw_only=True)
    scan: bool = dataclasses.field(default=False, kw_only=True)

    def __init_subclass__(cls) -> None:
        # In the class itself, where dataclass leaves it alone.
        cls.__repr__ = Config.__repr__

    def __repr__(self) -> str:
        """Return the call that makes this config: fields with their default are left out."""
        fields = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
        said = (f'{field.name}={value!r}' for field, value in fields if value != field.default)
        return f'{type(self).__name__}({", ".join(said)})'

    def __post_init__(self) -> None:
        """Raise ValueError that names what does not hold.

        Conditions are looked at only if every field has its type.
        """
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        wrong = [
            f'{name} {_KINDS[type(default)]}'
            for name, default in fields.items()
            if not _is_like(getattr(self, name), default)
        ]
        wrong = wrong or [
            f'{name} {clause}'
            for name in fields
            for clause, holds in (_condition(name),)
            if not holds(getattr(self, name))
        ]
        holds = dict.fromkeys(wrong, False) or self.conditions()
        for name, default in fields.items():
            # What reads it elsewhere may be stricter, or have no room for such an integer.
            if not wrong and type(default) is float:
                object.__setattr__(self, name, float(getattr(self, name)))
        expect(type(self).__name__, vars(self), holds)

    def computes_as(self, other: Any) -> bool:
        """Return whether another config differs in no more than how models run and are trained."""
        apart = {*self.RUN_FIELDS, 'bn_decay'}
        names = [name for name in vars(self) if name not in apart and not name.endswith('_rate')]
        return type(self) is type(other) and all(
            getattr(self, name) == getattr(other, name) for name in names
        )

    def conditions(self) -> Mapping[str, bool]:
        """Return what must hold of fields together, in words, and whether it does."""
        return {}


def _is_like(value: Any, default: Any) -> bool:
    """Return whether `value` has the type of `default`; an int may stand for a float.

    An empty tuple is one of integers.
    """
    if type(default) is tuple:
        one = default[0] if default else 0
        return type(value) is tuple and all(_is_like(item, one) for item in value)
    if type(default) is int:
        # Larger ones overflow somewhere on the way to a shape, each time in another place.
        return type(value) is int and abs(value) < 2**31
    return is_number(value) if type(default) is float else type(value) is type(default)


_Condition = tuple[str, Callable[[Any], bool]]

_SIZE: _Condition = ('> 0', lambda size: size > 0)
_COUNT: _Condition = ('>= 0', lambda count: count >= 0)
_PAIR: _Condition = ('of two positive ints', lambda pair: len(pair) == 2 and min(pair) > 0)
_RATE: _Condition = ('in [0, 1)', lambda rate: 0 <= rate < 1)
_ANY: _Condition = ('', lambda value: True)

_CONDITIONS: Mapping[str, _Condition] = {
    'attention': (f'of {", ".join(IMPLEMENTATIONS)}', lambda name: name in IMPLEMENTATIONS),
    'activation': (f'of {", ".join(ACTIVATIONS)}', lambda name: name in ACTIVATIONS),
    'context': _SIZE,
    'depth': ('in [1, 256]', lambda depth: 0 < depth <= 256),
    'depths': (
        'positive, of at most 256 blocks',
        lambda depths: min(depths, default=0) > 0 and sum(depths) <= 256,
    ),
    'heads': _SIZE,
    'image_size': _PAIR,
    'in_channels': _SIZE,
    'mlp_dim': _SIZE,
    'num_classes': _COUNT,
    'patch_size': _PAIR,
    'token_types': _SIZE,
    'vocab_size': _SIZE,
    'width': _SIZE,
    'widths': ('positive', lambda widths: min(widths, default=0) > 0),
}


# What a field's name begins with if it is of one of two towers.
_TOWERS = re.compile('^(image|text)_')


def _condition(name: str) -> _Condition:
    """Return what must hold of a field of this name."""
    if name.endswith('_rate'):
        return _RATE
    if name.endswith('_eps'):
        return _SIZE
    return _CONDITIONS.get(name) or _CONDITIONS.get(_TOWERS.sub('', name), _ANY)


def heads_divide_width(config: Any, tower: str = '') -> dict[str, bool]:
    """Return the condition that all transformers share; `tower` is what their fields begin with."""
    heads, width = f'{tower}heads', f'{tower}width'
    return {f'{heads} that divide {width}': getattr(config, width) % getattr(config, heads) == 0}


def patches_fit_image(config: Any) -> dict[str, bool]:
    """Return the condition of models that cut images into patches."""
    sizes = zip(config.image_size, config.patch_size)
    return {'patch_size that fits into image_size': all(patch <= image for image, patch in sizes)}
