"""Families of architectures: how a name or a file's header leads to a config and a model."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from blox.graph import Graph
from blox.params import Params
from blox.wording import misfits


class Family(NamedTuple):
    """One architecture: a file of `zoo.models` calls this FAMILY.

    Attributes:
      name: the root of the models' graph paths.
      task: 'image-classification', 'text-generation' or 'sentence-embedding'.
      config: a frozen dataclass with every choice that changes the function.
      model: made by `model(graph, config)`.
      variants: published sizes by name.
      fresh: config fields that a caller may change at loading, each with the pattern of the
        parameters that then start anew.
      adapted: others, each with the path of a parameter and the function that makes it fit:
        `(value, stored config, wanted config, layout of the source) -> value`.
    """

    name: str
    task: str
    config: type[Any]
    model: type[Any]
    variants: Mapping[str, Any]
    fresh: Mapping[str, str]
    adapted: Mapping[str, tuple[str, Callable[..., np.ndarray]]] = {}

    def build(self, config: Any) -> Any:
        """The model of `config`, at a graph root that has the family's name."""
        return self.model(Graph(self.name), config)

    def parse_config(self, fields: Mapping[str, Any]) -> Any:
        """A config of all of its fields, as a file's header has them.

        Raises ValueError that names missing and unknown fields.
        """
        names = {field.name for field in dataclasses.fields(self.config)}
        if wrong := misfits(sorted(names - set(fields)), sorted(set(fields) - names)):
            raise ValueError(f'{self.name} config: {"; ".join(wrong)}')
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return self.config(**values)

    def override(self, config: Any, overrides: Mapping[str, Any]) -> Any:
        """`config` with some fields changed; one int stands for a pair of equal ones.

        An unknown field is a TypeError that lists the known.
        """
        names = [field.name for field in dataclasses.fields(self.config)]
        unknown = sorted(set(overrides) - set(names))
        if unknown:
            raise TypeError(
                f'{self.name} has no config field {", ".join(unknown)}; it has {", ".join(names)}'
            )
        values = {name: _like_field(getattr(config, name), v) for name, v in overrides.items()}
        return dataclasses.replace(config, **values)


def _like_field(current: Any, value: Any) -> Any:
    """`value` as a config has it: lists as tuples, one int for a pair, NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(current, tuple) and isinstance(value, int):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


_KINDS = {
    bool: 'true or false',
    int: 'an integer below 2**31',
    float: 'a finite number',
    str: 'a text',
    tuple: 'a sequence of integers below 2**31',
}


def check(config: Any, conditions: Callable[[Any], Mapping[str, bool]]) -> None:
    """Raises ValueError that names what does not hold of a config's fields.

    Every field must have the type of its default, numbers must be finite, and the `conditions`,
    which are looked at only then, must hold.
    """
    wrong = [
        f'{field.name} {_KINDS[type(field.default)]}'
        for field in dataclasses.fields(config)
        if not _is_like(getattr(config, field.name), field.default)
    ]
    wrong = wrong or [name for name, holds in conditions(config).items() if not holds]
    if wrong:
        raise ValueError(f'{type(config).__name__}: expected {"; ".join(wrong)}; found {config}')


def _is_like(value: Any, default: Any) -> bool:
    """Whether `value` has the type of `default`; an int may stand for a float."""
    if type(default) is tuple:
        return type(value) is tuple and all(_is_like(item, default[0]) for item in value)
    if type(default) is int:
        # Larger ones overflow somewhere on the way to a shape, each time in another place.
        return type(value) is int and abs(value) < 2**31
    if type(default) is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is type(default)


def cast_like(inputs: jax.Array, params: Params, path: str) -> jax.Array:
    """`inputs` in the dtype of the parameter at `path`, once that exists.

    Weights decide what a model computes in: bfloat16 ones take float32 images.
    """
    return inputs.astype(params[path].dtype) if path in params else inputs
