"""Places that stand for a catalog entry."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blox.converters.target import model_spec
from blox.params import Params
from blox.wording import differences, some
from blox.zoo.architecture.fit import shapes
from blox.zoo.catalog.card import Card
from blox.zoo.loading.place import Place
from blox.zoo.models import families


class Named(Place):
    """A place whose model must be of the entry's size; its card gets the `fields` that it lacks."""

    def __init__(self, place: Place, entry: Card, fields: Sequence[str]) -> None:
        self._place, self._entry, self._fields = place, entry, fields

    def _read_card(self) -> Card:
        self._check_same([] if self.family == self._entry.family else [self._other_family()])
        found = self._place.card
        if found.config != self._entry.config:
            self._check_same(differences(_body(self._entry), _body(found), 'shape'))
        missing = [field for field in self._fields if not getattr(found, field)]
        known = {field: getattr(self._entry, field) for field in missing}
        return dataclasses.replace(found, name=self._entry.name, **known)

    def _other_family(self) -> str:
        return f'expected family {self._entry.family!r}, found {self.family!r}'

    def _check_same(self, wrong: Sequence[str]) -> None:
        if wrong:
            raise ValueError(
                f'{self._entry.name!r} and the weights from {str(self)!r} are of '
                f'different models: {some(wrong, 8, "; ")}'
            )

    def __str__(self) -> str:
        return str(self._place)

    def read(self, model: Any, dtype: Any = None) -> Params:
        return self._place.read(model, dtype)

    def check(self) -> None:
        self._place.check()

    @property
    def folder(self) -> Path:
        return self._place.folder

    @property
    def family(self) -> str:
        return self._place.family

    @property
    def layout(self) -> str:
        return self._place.layout

    @property
    def is_own(self) -> bool:
        return self._place.is_own


def _body(one: Card) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a card's model, its head apart."""
    family = families()[one.family]
    params = model_spec(family.build(one.config))
    if family.head and family.count_classes(one.config):
        params = params.partition(family.head.pattern)[1]
    return shapes(params)
