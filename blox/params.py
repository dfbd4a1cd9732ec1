"""Param and Params: all state of a model in one flat, immutable mapping.

Params is a single pytree node. Its children are the values alone; paths, trainable flags and
metadata are one interned structure, compared by identity, so that a jitted call costs
what it costs for a plain list and never retraces for an equal tree.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import math
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from blox import paths
from blox.paths import Where

RNG = 'rng'
BATCH_STATS = 'batch_stats'
STATE_TAGS = (RNG, BATCH_STATS)


@dataclasses.dataclass(frozen=True)
class Param:
    """One entry of Params.

    Attributes:
      value: an array; for the entry 'rng' the pair (key, counter).
      trainable: whether `split_trainable` counts it among the trainable ones.
      metadata: names to hashable values. Its 'tag' tells state from parameters: entries
        tagged 'rng' or 'batch_stats' are never unfrozen, nor counted by `num_params`.
    """

    value: Any
    trainable: bool = True
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.value),) if isinstance(self.value, tuple) else tuple(self.value.shape)

    @property
    def dtype(self) -> Any:
        return np.dtype(object) if isinstance(self.value, tuple) else self.value.dtype

    @property
    def is_state(self) -> bool:
        """Whether this is state that a model updates itself, by its metadata's 'tag'."""
        return self.metadata.get('tag') in STATE_TAGS

    @property
    def size(self) -> int:
        """How many numbers the value holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the value's numbers; 0 for the rng."""
        return 0 if isinstance(self.value, tuple) else self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        flags = '' if self.trainable else ', trainable=False'
        metadata = f', metadata={dict(self.metadata)}' if self.metadata else ''
        return f'Param({_describe(self.value)}{flags}{metadata})'


Metadata = tuple[tuple[str, Any], ...]


class _Structure:
    """Everything about Params but the values. One object for each distinct content."""

    __slots__ = ('__weakref__', 'finalized', 'index', 'metadata', 'paths', 'trainable')
    _interned: ClassVar[weakref.WeakValueDictionary[Any, _Structure]] = (
        weakref.WeakValueDictionary()
    )

    paths: tuple[str, ...]
    trainable: tuple[bool, ...]
    metadata: tuple[Metadata, ...]
    finalized: bool

    @classmethod
    def of(
        cls,
        paths: tuple[str, ...],
        trainable: tuple[bool, ...],
        metadata: tuple[Metadata, ...],
        finalized: bool,
    ) -> _Structure:
        key = (paths, trainable, _typed(metadata), finalized)
        structure = cls._interned.get(key)
        if structure is None:
            structure = object.__new__(cls)
            structure.paths = paths
            structure.trainable = trainable
            structure.metadata = metadata
            structure.finalized = finalized
            structure.index = {path: i for i, path in enumerate(paths)}
            structure = cls._interned.setdefault(key, structure)
        return structure

    def replace(self, **changes: Any) -> _Structure:
        fields = ('paths', 'trainable', 'metadata', 'finalized')
        return _Structure.of(*(changes.get(name, getattr(self, name)) for name in fields))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Structure.of, (self.paths, self.trainable, self.metadata, self.finalized)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Structure:
        return self

    def __repr__(self) -> str:
        return f'Structure({len(self.paths)} paths)'


def _typed(value: Any) -> Any:
    """`value` with its types, since 1, 1.0 and True are equal and hash alike."""
    if isinstance(value, tuple):
        return tuple(_typed(item) for item in value)
    return type(value), value


def _freeze_metadata(path: str, metadata: Mapping[str, Any]) -> Metadata:
    def freeze(value: Any) -> Any:
        return tuple(freeze(item) for item in value) if isinstance(value, list | tuple) else value

    frozen = tuple(sorted((name, freeze(value)) for name, value in metadata.items()))
    try:
        hash(frozen)
    except TypeError:
        raise TypeError(
            f'metadata of {path!r} must map names to hashable values, found {dict(metadata)}'
        ) from None
    return frozen


class Params(Mapping[str, Param]):
    """Immutable mapping from path to Param; every change returns a new Params.

    >>> params = Params(seed=42).set('net/w', jnp.ones((2, 3)))
    >>> params['net/w']
    Param(float32[2,3])
    >>> params.num_params
    6
    """

    __slots__ = ('__weakref__', '_structure', '_values')
    _values: tuple[Any, ...]
    _structure: _Structure

    def __init__(self, seed: int | jax.Array | None = None) -> None:
        """Params that hold only an rng made from `seed`, an int or a JAX key; without one, nothing."""
        entries = {}
        if seed is not None:
            value = (_as_key(seed), jnp.zeros((), jnp.uint32))
            entries[RNG] = Param(value, trainable=False, metadata={'tag': RNG})
        made = Params.from_entries(entries)
        _set_values(self, made._values)
        _set_structure(self, made._structure)

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any], *, finalized: bool = False) -> Params:
        """Params of a mapping from path to Param, or to a bare array (trainable, no metadata)."""
        ordered = sorted(entries, key=paths.natural_key)
        params = [_as_param(path, entries[path]) for path in ordered]
        structure = _Structure.of(
            tuple(ordered),
            tuple(param.trainable for param in params),
            tuple(_freeze_metadata(p, param.metadata) for p, param in zip(ordered, params)),
            finalized,
        )
        return _make(structure, tuple(param.value for param in params))

    # Mapping access.

    def __getitem__(self, path: str) -> Param:
        structure = self._structure
        i = structure.index.get(path)
        if i is None:
            self._raise_unknown(path)
        return Param(self._values[i], structure.trainable[i], dict(structure.metadata[i]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._structure.paths)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, path: object) -> bool:
        return path in self._structure.index

    # Equality of arrays is ambiguous, so Params compare by identity, as modules do.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f'Params is immutable; use params.set(path, value), not .{name} =')

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self._structure, self._values)

    def _raise_unknown(self, path: object) -> NoReturn:
        near = ', '.join(paths.nearest(str(path), self)) or 'none'
        hint = '' if not self.initialized else '; Params are finalized and take no new paths'
        raise KeyError(f'no parameter {path!r} among {len(self)}; nearest: {near}{hint}')

    # Changing entries.

    def set(self, path: str, value: Any, *, strict: bool = True) -> Params:
        """Params with `value` at `path`.

        `value` is an array, which keeps the entry's flags and metadata, or a Param, which
        replaces them. A stored entry keeps its shape, else ValueError, and its dtype, to
        which `value` is cast; with `strict=False` it takes those of `value`.
        After `finalize()` an unknown path is a KeyError.
        """
        structure = self._structure
        i = structure.index.get(path)
        if i is None:
            if structure.finalized:
                self._raise_unknown(path)
            return self._insert(path, _as_param(path, value))
        param = value if isinstance(value, Param) else Param(value)
        new = _as_param(path, param).value
        if strict:
            new = _like(path, self._values[i], new)
        if isinstance(value, Param):
            structure = structure.replace(
                trainable=_replaced(structure.trainable, i, param.trainable),
                metadata=_replaced(structure.metadata, i, _freeze_metadata(path, param.metadata)),
            )
        return _make(structure, _replaced(self._values, i, new))

    def _insert(self, path: str, param: Param) -> Params:
        structure = self._structure
        i = bisect.bisect(structure.paths, paths.natural_key(path), key=paths.natural_key)

        def grown(items: tuple[Any, ...], item: Any) -> tuple[Any, ...]:
            return (*items[:i], item, *items[i:])

        return _make(
            _Structure.of(
                grown(structure.paths, path),
                grown(structure.trainable, param.trainable),
                grown(structure.metadata, _freeze_metadata(path, param.metadata)),
                structure.finalized,
            ),
            grown(self._values, param.value),
        )

    def cast(self, dtype: Any, where: Where = '**') -> Params:
        """Params whose floating-point values that `where` names have `dtype`."""
        selected = self._select(where)
        return _make(
            self._structure,
            tuple(
                _cast(value, dtype) if path in selected and _is_floating(value) else value
                for path, value in zip(self, self._values)
            ),
        )

    # Dividing and joining.

    def partition(self, where: Where) -> tuple[Params, Params]:
        """Two Params: the entries that `where` names, and the rest. `merge` undoes it."""
        selected = self._select(where)
        return self._take(selected), self._take(frozenset(self) - selected)

    def split_trainable(self) -> tuple[Params, Params]:
        """Two Params: trainable entries, and the rest (rng, batch statistics, frozen weights)."""
        structure = self._structure
        chosen = frozenset(p for p, flag in zip(structure.paths, structure.trainable) if flag)
        return self._take(chosen), self._take(frozenset(self) - chosen)

    def merge(self, other: Params) -> Params:
        """The entries of both. Where both have a path, `other`'s value is `set` on this one's."""
        if not isinstance(other, Params):
            raise TypeError(f'merge expects Params, found {type(other).__name__}')
        mine, theirs = self._structure, other._structure
        joined = _join(mine, theirs)
        values = dict(zip(mine.paths, self._values))
        for path, value in zip(theirs.paths, other._values):
            values[path] = _like(path, values[path], value) if path in values else value
        return _make(joined, tuple(values[path] for path in joined.paths))

    def _take(self, chosen: frozenset[str]) -> Params:
        structure = _subset(self._structure, chosen)
        index = self._structure.index
        return _make(structure, tuple(self._values[index[path]] for path in structure.paths))

    def _select(self, where: Where) -> frozenset[str]:
        return paths.select(where, self.items())

    # Flags.

    def freeze(self, where: Where = '**') -> Params:
        """Params whose entries that `where` names are not trainable."""
        return self._flagged(where, False)

    def unfreeze(self, where: Where = '**') -> Params:
        """Params whose entries that `where` names are trainable, state (the rng, batch statistics) apart."""
        return self._flagged(where, True)

    def _flagged(self, where: Where, trainable: bool) -> Params:
        selected = self._select(where)
        flags = tuple(
            (trainable and not param.is_state) if path in selected else param.trainable
            for path, param in self.items()
        )
        return _make(self._structure.replace(trainable=flags), self._values)

    def finalize(self) -> Params:
        """Params that take no new paths."""
        return _make(self._structure.replace(finalized=True), self._values)

    @property
    def initialized(self) -> bool:
        """Whether `finalize` was called."""
        return self._structure.finalized

    # Randomness.

    def next_key(self) -> tuple[jax.Array, Params]:
        """A fresh key, `fold_in(master_key, counter)`, and Params with the counter moved on."""
        key, counter = self._rng()
        return jax.random.fold_in(key, counter), self._counted()

    def initial_key(self, path: str) -> tuple[jax.Array, Params]:
        """The key of the initial value at `path`, and Params with the counter moved on.

        It depends on the master key and the path alone, so neither the order of calls nor
        other parameters have a say in it.
        """
        key, _ = self._rng()
        digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
        for word in (digest[:4], digest[4:]):
            key = jax.random.fold_in(key, np.uint32(int.from_bytes(word, 'big')))
        return key, self._counted()

    def fold_rng(self, data: Any) -> Params:
        """Params with `data`, an integer, folded into the master key.

        Under `vmap` or `shard_map`, fold in the lane's index to give each lane its own
        stream, and undo it with `unfold_rng` so that what comes back is the same in all lanes:

        >>> def lane(params, index):
        ...     key, folded = params.fold_rng(index).next_key()
        ...     return jax.random.uniform(key), folded.unfold_rng(params)
        >>> noise, params = jax.vmap(lane, in_axes=(None, 0), out_axes=(0, None))(
        ...     Params(seed=0), jnp.arange(3))
        >>> len(set(noise.tolist())), int(params['rng'].value[1])
        (3, 1)
        """
        key, counter = self._rng()
        return self.set(RNG, (jax.random.fold_in(key, data), counter))

    def unfold_rng(self, original: Params) -> Params:
        """Params with the master key of `original` and this one's counter."""
        return self.set(RNG, (original._rng()[0], self._rng()[1]))

    def _rng(self) -> tuple[jax.Array, jax.Array]:
        i = self._structure.index.get(RNG)
        if i is None:
            raise KeyError(
                "no 'rng' among these Params: start from Params(seed=...), "
                'or merge the part that holds it'
            )
        return self._values[i]

    def _counted(self) -> Params:
        key, counter = self._rng()
        i = self._structure.index[RNG]
        return _make(self._structure, _replaced(self._values, i, (key, counter + np.uint32(1))))

    # Size and looks.

    @property
    def num_params(self) -> int:
        """How many numbers the parameters hold, frozen ones included, state left out."""
        return sum(param.size for param in self.values() if not param.is_state)

    @property
    def nbytes(self) -> int:
        """Bytes of all values but the rng."""
        return sum(param.nbytes for param in self.values())

    def __repr__(self) -> str:
        state = 'finalized' if self.initialized else 'open'
        head = f'Params({len(self)} entries, {self.num_params:,} parameters, {state})'
        width = max((len(path) for path in self), default=0)
        lines = [f'  {path:<{width}}  {repr(param)[6:-1]}' for path, param in self.items()]
        if len(lines) > 40:
            lines[20:-20] = [f'  ... {len(lines) - 40} more ...']
        return '\n'.join([head, *lines])


# Writing through the slots' descriptors gets past Params.__setattr__ and is as fast as can be.
_set_values = Params.__dict__['_values'].__set__
_set_structure = Params.__dict__['_structure'].__set__


def _make(structure: _Structure, values: Any) -> Params:
    params = object.__new__(Params)
    _set_values(params, values)
    _set_structure(params, structure)
    return params


def _flatten(params: Params) -> tuple[tuple[Any, ...], _Structure]:
    return params._values, params._structure


def _flatten_with_keys(params: Params) -> tuple[list[tuple[Any, Any]], _Structure]:
    keys = map(jax.tree_util.DictKey, params._structure.paths)
    return list(zip(keys, params._values)), params._structure


jax.tree_util.register_pytree_with_keys(Params, _flatten_with_keys, _make, _flatten)


def _replaced(items: tuple[Any, ...], i: int, item: Any) -> tuple[Any, ...]:
    return (*items[:i], item, *items[i + 1 :])


def _subset(structure: _Structure, chosen: frozenset[str]) -> _Structure:
    kept = [i for i, path in enumerate(structure.paths) if path in chosen]
    return _Structure.of(
        tuple(structure.paths[i] for i in kept),
        tuple(structure.trainable[i] for i in kept),
        tuple(structure.metadata[i] for i in kept),
        structure.finalized,
    )


def _join(mine: _Structure, theirs: _Structure) -> _Structure:
    entries = {
        path: (trainable, metadata)
        for structure in (mine, theirs)
        for path, trainable, metadata in zip(
            structure.paths, structure.trainable, structure.metadata
        )
    }
    ordered = sorted(entries, key=paths.natural_key)
    return _Structure.of(
        tuple(ordered),
        tuple(entries[path][0] for path in ordered),
        tuple(entries[path][1] for path in ordered),
        mine.finalized and theirs.finalized,
    )


def _as_key(seed: Any) -> jax.Array:
    """The JAX key that `seed` is, or that is made from it when it is an integer."""
    if isinstance(seed, jax.Array | np.ndarray) and (
        jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) or seed.ndim == 1
    ):
        return jnp.asarray(seed)
    if isinstance(seed, bool) or not jnp.issubdtype(jnp.result_type(seed), jnp.integer):
        raise TypeError(f'a seed is an integer or a JAX key, not {seed!r}')
    return jax.random.key(seed)


def _as_param(path: str, value: Any) -> Param:
    """`value` as a Param of a JAX array, with `path` checked."""
    if not isinstance(path, str) or '' in path.split('/'):
        raise ValueError(f"a path is non-empty names joined by '/', not {path!r}")
    param = value if isinstance(value, Param) else Param(value)
    value = param.value
    if isinstance(value, tuple) and path == RNG and len(value) == 2:
        return param
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return param
    try:
        return dataclasses.replace(param, value=jnp.asarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f'{path!r} takes an array, found {type(value).__name__}') from error


def _like(path: str, stored: Any, new: Any) -> Any:
    """`new`, cast to the dtype of `stored` whose place it takes; ValueError unless it fits."""
    if isinstance(stored, tuple):
        if not isinstance(new, tuple):
            raise ValueError(f'{path!r}: expected a (key, counter) pair, found {_describe(new)}')
        return new
    if tuple(new.shape) != tuple(stored.shape):
        raise ValueError(f'{path!r}: expected shape {stored.shape}, found {new.shape}')
    if _kind(new) > _kind(stored):
        raise ValueError(f'{path!r}: expected dtype {stored.dtype}, found {new.dtype}')
    return _cast(new, stored.dtype)


def _kind(value: Any) -> int:
    """Position of a dtype in the order bool, integer, floating, complex (keys come last)."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, k in enumerate(kinds) if jnp.issubdtype(value.dtype, k)), len(kinds))


def _cast(value: Any, dtype: Any) -> Any:
    if value.dtype == dtype:
        return value
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape, dtype, sharding=value.sharding)
    return value.astype(dtype)


def _is_floating(value: Any) -> bool:
    return not isinstance(value, tuple) and jnp.issubdtype(value.dtype, jnp.floating)


def _describe(value: Any) -> str:
    """'float32[2,3]' for an array, '(key<fry>[], uint32[])' for the rng."""
    if isinstance(value, tuple):
        return f'({", ".join(map(_describe, value))})'
    if not hasattr(value, 'dtype'):
        return repr(value)
    return f'{value.dtype}[{",".join(map(str, value.shape))}]'
