"""Weights of other libraries: folders that say what model they are of, and weights alone."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blox import converters, paths
from blox.converters.sources.source import CONFIGS, Source, config_in
from blox.param import RNG
from blox.params import Params
from blox.tensorfile import fail
from blox.zoo.architecture.family import Family
from blox.zoo.catalog.card import Card
from blox.zoo.loading import foreign
from blox.zoo.loading.place import LocalPlace
from blox.zoo.models import families


class ForeignFolder(LocalPlace):
    """A folder that transformers, timm or open_clip saved, read for a task if it has a head for that.

    `origin` has fields of its card that it lacks.
    """

    def __init__(
        self, path: Path, name: str, task: str = '', origin: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(path)
        self._name, self._task, self._origin = name, task, origin or {}

    def _read_card(self) -> Card:
        found = foreign.read_card(self.source, self._name, self._task)
        return dataclasses.replace(found, **self._origin)

    @property
    def is_bare(self) -> bool:
        return not config_in(name for name in CONFIGS if (self._path / name).exists())

    @property
    def layout(self) -> str:
        return '' if self.is_bare else self.card.layout

    def read(self, model: Any, dtype: Any = None) -> Params:
        return _convert(self.source, model, dtype)


class BareWeights(LocalPlace):
    """Weights alone, which are those of a catalog entry's architecture."""

    def __init__(self, path: Path, entry: Card, state: str = '') -> None:
        super().__init__(path, state)
        self._entry = entry

    def _read_card(self) -> Card:
        return _card_of(self.source, self._entry)

    def read(self, model: Any, dtype: Any = None) -> Params:
        return _convert(self.source, model, dtype)


def _convert(source: Source, model: Any, dtype: Any) -> Params:
    params = converters.convert(source, model, dtype=dtype)
    return params.partition(lambda path, _: path != RNG)[0]


def _card_of(source: Source, entry: Card) -> Card:
    """Return the card of weights alone, those of a catalog entry's architecture.

    Its sizes are the entry's, unless a training checkpoint says others.
    """
    family = families()[entry.family]
    tables = converters.layouts(family.name)
    try:
        said = {name: x for table in tables.values() for name, x in table.said(source).items()}
        config = family.override(entry.config, said)
    except ValueError as error:
        fail(source.path, str(error))
    explanation = converters.explain(source, family.build(config))
    facts = tables[explanation.layout].facts or {}
    config = family.override(config, {**facts, **_classes(source, explanation, family)})
    # Of what the entry says only this holds for weights of whatever origin.
    return Card(
        entry.name,
        entry.family,
        config,
        family.task_of(config),
        paper=entry.paper,
        # How torchvision prepares images differs by weights, of which none says so itself.
        preprocessor=None if explanation.layout == 'torchvision' else entry.preprocessor,
        tokenizer=entry.tokenizer,
        layout=explanation.layout,
    )


def _classes(source: Source, explanation: converters.Explanation, family: Family) -> dict[str, int]:
    """Return the classes of weights alone: as many as the head's bias, 0 without a head."""
    head = family.head
    for path, entry in explanation.entries.items():
        if head and path.endswith('/b') and paths.matches(head.pattern, path):
            name = explanation.names.get(entry.names[0])
            return {head.field: source.tensors[name].shape[0] if name else 0}
    return {}
