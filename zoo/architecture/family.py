"""Families of architectures: how a name or a file's header leads to a config and a model."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from blox import paths
from blox.graph import Graph
from blox.initialization import spec
from blox.param import RNG
from blox.wording import some
from blox.zoo.architecture.config import Config
from blox.zoo.architecture.model import ZooModel
from blox.zoo.architecture.validation import expect_names


class Head(NamedTuple):
    """The part of a model that is made for one set of classes.

    Attributes:
      field: the config's field that says how many classes there are; 0 for no head.
      pattern: a pattern of its parameters' paths.
    """

    field: str
    pattern: str


class Resized(NamedTuple):
    """A parameter whose shape follows config fields.

    Attributes:
      path: the parameter's path.
      fields: those whose other value changes its shape.
      fit: makes it of another shape: `(value, stored config, wanted config, layout of the
        source) -> value`.
    """

    path: str
    fields: tuple[str, ...]
    fit: Callable[[np.ndarray, Any, Any, str], np.ndarray]


class Family(NamedTuple):
    """One architecture: a file of `zoo.models` calls this FAMILY.

    Attributes:
      name: the root of the models' graph paths.
      task: what its models are for, by the Hub's names where it has one: 'image-classification',
        'text-generation'. A config with a field `task` says itself what its model is for.
      config: a frozen dataclass with every choice that changes the function.
      model: made by `model(graph, config)`.
      variants: published sizes by name.
      head: what a caller's other number of classes starts anew; None if there is none.
      parts: what a caller's other value of a config field starts anew or leaves out, by field: a
        pattern of paths. The head is one of them.
      resized: what callers' other values of config fields resize, one after the other.
      one_size: whether its models take images of their config's `image_size` alone.
    """

    name: str
    task: str
    config: type[Any]
    model: type[ZooModel]
    variants: Mapping[str, Any]
    head: Head | None = None
    parts: Mapping[str, str] = {}
    resized: tuple[Resized, ...] = ()
    one_size: bool = False

    def build(self, config: Any) -> ZooModel:
        """Make the model of `config`, at a graph root that has the family's name."""
        return self.model(Graph(self.name), config)

    def parse_config(self, fields: Mapping[str, Any]) -> Any:
        """Make a config of all fields that a file's header has.

        Raises ValueError that names missing and unknown fields.
        """
        names = {field.name for field in dataclasses.fields(self.config)}
        names -= {*self.config.RUN_FIELDS}
        expect_names(f'{self.name} config', names, fields)
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()
        }
        return self.config(**values)

    def task_of(self, config: Any) -> str:
        """Return what a model of `config` is for."""
        return getattr(config, 'task', self.task)

    @property
    def fresh(self) -> dict[str, str]:
        """Return patterns of what a caller's other value of a field starts anew, by field."""
        return {**({self.head.field: self.head.pattern} if self.head else {}), **self.parts}

    def count_classes(self, config: Any) -> int:
        """Return how many classes a model of `config` tells apart, 0 without a head."""
        return getattr(config, self.head.field) if self.head else 0

    def override(self, config: Any, overrides: Mapping[str, Any]) -> Any:
        """Return `config` with some fields changed; one int stands for equal ones.

        Another task has no classes until they are named. An unknown field is a TypeError that
        lists the known.
        """
        names = [field.name for field in dataclasses.fields(self.config)]
        unknown = sorted(set(overrides) - set(names))
        if unknown:
            meant = [
                f'{own} is called {name}' for own in unknown if (name := _CALLED.get(own)) in names
            ]
            raise TypeError(
                f'{self.name} has no config field {", ".join(unknown)}; '
                f'{"".join(f"{text} here; " for text in meant)}it has {", ".join(names)}'
            )
        values = {name: _like_field(getattr(config, name), v) for name, v in overrides.items()}
        if self.head and values.get('task', self.task_of(config)) != self.task_of(config):
            values = {self.head.field: 0, **values}
        return dataclasses.replace(config, **values)


def check_family(family: Any) -> None:
    """Raise TypeError or ValueError unless a family can make a model of its first variant.

    No numbers are drawn.
    """
    if not isinstance(family, Family):
        raise TypeError(f'expected a bx.zoo.Family, found {type(family).__name__}')
    name = family.name
    if not isinstance(name, str) or not name.isidentifier() or name == RNG:
        raise ValueError(f'expected a name of letters, digits and underscores, found {name!r}')
    if not isinstance(family.variants, Mapping):
        raise TypeError(f'{name}: expected variants by name, found {family.variants!r}')
    if odd := [key for key in family.variants if not _is_variant(key)]:
        raise ValueError(
            f'{name}: expected names of variants without spaces and slashes, such as {name}-small, found {odd}'
        )
    for kind, base in ((family.config, Config), (family.model, ZooModel)):
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise TypeError(f'{name}: expected a subclass of {base.__name__}, found {kind!r}')
    if wrong := [key for key, one in family.variants.items() if type(one) is not family.config]:
        raise TypeError(
            f'{name}: expected variants of {family.config.__name__}, others are {wrong}'
        )
    fields = {field.name for field in dataclasses.fields(family.config)}
    named = {*family.fresh, *(field for one in family.resized for field in one.fields)}
    if missing := sorted(named - fields):
        raise ValueError(f'{name}: {family.config.__name__} has no field {", ".join(missing)}')
    config = next(iter(family.variants.values()), None)
    if config is None:
        raise ValueError(f'{name}: expected one variant or more, such as {{"{name}-small": ...}}')
    model = family.build(config)
    there = spec(model, *model.example_inputs())
    for pattern in family.fresh.values():
        if not any(paths.matches(pattern, path) for path in there):
            raise ValueError(f'{name}: {pattern} matches none of {some(list(there), 5)}')


def _is_variant(key: Any) -> bool:
    return isinstance(key, str) and key.isprintable() and bool(key) and not {*key} & {*' /'}


# What transformers and timm call our fields.
_CALLED = {
    'num_labels': 'num_classes',
    'img_size': 'image_size',
    'in_chans': 'in_channels',
    'num_channels': 'in_channels',
    'n_positions': 'context',
    'max_position_embeddings': 'context',
    **dict.fromkeys(('embed_dim', 'hidden_size', 'n_embd'), 'width'),
    **dict.fromkeys(('num_hidden_layers', 'n_layer'), 'depth'),
    **dict.fromkeys(('num_attention_heads', 'num_heads', 'n_head'), 'heads'),
    **dict.fromkeys(('intermediate_size', 'n_inner'), 'mlp_dim'),
    'hidden_dropout_prob': 'dropout_rate',
    'attention_probs_dropout_prob': 'attention_dropout_rate',
    'gradient_checkpointing': 'remat',
}


def _like_field(current: Any, value: Any) -> Any:
    """Return `value` as a config has it: lists as tuples, one int for equal ones, NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(current, tuple) and isinstance(value, int):
        return (value,) * len(current)
    return tuple(value) if isinstance(value, list) else value
