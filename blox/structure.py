"""Structure: everything about Params but their values, one object for each distinct content."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from blox import paths
from blox.stacking import members
from blox.wording import counted

Metadata: TypeAlias = tuple[tuple[str, Any], ...]


_lock = threading.Lock()


class Structure:
    """Paths, trainable flags and metadata, in natural order of the paths.

    Interned, and so compared and hashed by identity: what JAX does at every call with the static
    part of a pytree costs nothing.
    """

    __slots__ = (
        '__weakref__',
        '_members',
        '_typed',
        'finalized',
        'index',
        'metadata',
        'paths',
        'trainable',
    )
    _interned: ClassVar[weakref.WeakValueDictionary[Any, Structure]] = weakref.WeakValueDictionary()

    paths: tuple[str, ...]
    trainable: tuple[bool, ...]
    metadata: tuple[Metadata, ...]
    finalized: bool
    _typed: tuple[Any, ...]
    _members: dict[str, tuple[int, int]] | None

    @classmethod
    def of(
        cls,
        paths: tuple[str, ...],
        trainable: tuple[bool, ...],
        metadata: tuple[Metadata, ...],
        finalized: bool,
        typed: tuple[Any, ...] | None = None,
    ) -> Structure:
        """Return the one structure of this content; `typed` is its metadata with types, if known."""
        typed = tuple(map(_typed, metadata)) if typed is None else typed
        key = (paths, trainable, typed, finalized)
        structure = cls._interned.get(key)
        if structure is None:
            structure = object.__new__(cls)
            structure.paths = paths
            structure.trainable = trainable
            structure.metadata = metadata
            structure.finalized = finalized
            structure.index = {path: i for i, path in enumerate(paths)}
            structure._typed = typed
            structure._members = None
            # Two threads may have come here with the same content; one object must win.
            with _lock:
                structure = cls._interned.setdefault(key, structure)
        return structure

    @property
    def members(self) -> dict[str, tuple[int, int]]:
        """Where each parameter of stacked blocks is: the entry's place, and the block's in it."""
        if self._members is None:
            self._members = {
                path: (i, k)
                for i, metadata in enumerate(self.metadata)
                if metadata
                for k, path in enumerate(members(self.paths[i], dict(metadata)))
            }
        return self._members

    def insert(self, i: int, path: str, trainable: bool, metadata: Metadata) -> Structure:
        """Return this structure with one more path, before that at index `i`.

        A model that is initialized does so for each parameter, so nothing is worked out anew.
        """
        made = Structure.of(
            inserted(self.paths, i, path),
            inserted(self.trainable, i, trainable),
            inserted(self.metadata, i, metadata),
            self.finalized,
            inserted(self._typed, i, _typed(metadata)),
        )
        if not self.members and not members(path, dict(metadata)):
            made._members = {}
        return made

    def replace(self, **changes: Any) -> Structure:
        """Return this structure with some fields changed."""
        fields = ('paths', 'trainable', 'metadata', 'finalized')
        return Structure.of(*(changes.get(name, getattr(self, name)) for name in fields))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.paths, self.trainable, self.metadata, self.finalized)

    def __deepcopy__(self, memo: dict[int, Any]) -> Structure:
        return self

    def __repr__(self) -> str:
        trainable = sum(self.trainable)
        return f'Structure({counted(len(self.paths), "path")}, {trainable} of them trainable)'


def _made(*content: Any) -> Structure:
    """Return what `Structure.of` does: a function of a module, which every kind of pickle finds again."""
    return Structure.of(*content)


def _typed(value: Any) -> Any:
    """Return `value` with its types, since 1, 1.0 and True are equal and hash alike."""
    if isinstance(value, tuple):
        return tuple(_typed(item) for item in value)
    return type(value), value


def freeze_metadata(path: str, metadata: Mapping[str, Any]) -> Metadata:
    """Return `metadata` as sorted pairs, lists as tuples. TypeError for unhashable values."""
    frozen = tuple(sorted((name, _as_tuples(value)) for name, value in metadata.items()))
    try:
        hash(frozen)
    except TypeError:
        raise TypeError(
            f'metadata of {path!r} must map names to hashable values, found {dict(metadata)}'
        ) from None
    return frozen


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def subset(structure: Structure, chosen: frozenset[str]) -> Structure:
    """Return the part of `structure` whose paths are among `chosen`."""
    kept = [i for i, path in enumerate(structure.paths) if path in chosen]
    return Structure.of(
        tuple(structure.paths[i] for i in kept),
        tuple(structure.trainable[i] for i in kept),
        tuple(structure.metadata[i] for i in kept),
        structure.finalized,
    )


def join(mine: Structure, theirs: Structure) -> Structure:
    """Join the paths of both; where both have one, the flag and metadata of `theirs` count."""
    entries = {
        path: (trainable, metadata)
        for structure in (mine, theirs)
        for path, trainable, metadata in zip(
            structure.paths, structure.trainable, structure.metadata
        )
    }
    ordered = sorted(entries, key=paths.natural_key)
    return Structure.of(
        tuple(ordered),
        tuple(entries[path][0] for path in ordered),
        tuple(entries[path][1] for path in ordered),
        mine.finalized and theirs.finalized,
    )


def replaced(items: tuple[Any, ...], i: int, item: Any) -> tuple[Any, ...]:
    """Return `items` with another one at index `i`."""
    return (*items[:i], item, *items[i + 1 :])


def inserted(items: tuple[Any, ...], i: int, item: Any) -> tuple[Any, ...]:
    """Return `items` with one more before index `i`."""
    return (*items[:i], item, *items[i:])
