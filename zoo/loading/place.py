"""Places of models, and what each knows of itself."""

import abc
import functools
from pathlib import Path
from typing import Any

from blox.converters.sources.source import Source, open_source
from blox.params import Params
from blox.zoo.catalog.card import Card


class Place(abc.ABC):
    """Where a model lies: it knows the model's card, and how its weights are read.

    Nothing is opened or downloaded before it is asked for, and then it is kept.
    """

    @functools.cached_property
    def card(self) -> Card:
        """Return the card of the model that lies here."""
        return self._read_card()

    @functools.cached_property
    def source(self) -> Source:
        """Open the names, shapes and files that another library saved here."""
        return open_source(self.folder)

    @abc.abstractmethod
    def _read_card(self) -> Card: ...

    @abc.abstractmethod
    def read(self, model: Any, dtype: Any = None) -> Params:
        """Return Params without an rng for the card's model, in `dtype` or as they are stored."""

    @property
    @abc.abstractmethod
    def folder(self) -> Path:
        """Return the folder or file on this machine; a repository's is downloaded."""

    def check(self) -> None:
        """Raise CheckpointError unless a file of our own holds what was saved.

        What another library saved is checked whenever it is read.
        """
        return

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def family(self) -> str:
        """Return the name of the model's family: for a repository, without its weights."""
        return self.card.family

    @property
    def layout(self) -> str:
        """Return the layout of the library that opens the folder: 'hf', 'timm' and so on, '' if none does."""
        return ''

    @property
    def is_own(self) -> bool:
        """Return whether blox saved what lies here."""
        return False

    @property
    def is_bare(self) -> bool:
        """Return whether these are weights alone, which do not say what model they are of."""
        return False


class LocalPlace(Place):
    """A folder or file on this machine; `state` names one of a training checkpoint's."""

    def __init__(self, path: Path, state: str = '') -> None:
        self._path, self._state = path, state

    @property
    def folder(self) -> Path:
        return self._path

    @functools.cached_property
    def source(self) -> Source:
        return open_source(self._path, self._state)
