"""Params: all state of a model in one flat, immutable mapping.

Params is a single pytree node. Its children are the values alone; paths, trainable flags and
metadata are one interned structure, compared by identity, so that a jitted call costs
what it costs for a plain list and never retraces for an equal tree.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from blox import paths, stacking
from blox.param import (
    RNG,
    Param,
    as_param,
    cast_value,
    is_floating,
    like,
)
from blox.paths import Where
from blox.settings import setting
from blox.structure import Structure, freeze_metadata, inserted, join, replaced, subset
from blox.wording import counted

# 'lane' in ASCII.
_LANE = np.uint32(0x6C616E65)


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
    _structure: Structure

    def __init__(self, seed: int | jax.Array | None = None) -> None:
        """Hold only an rng made from `seed`, an int or a JAX key; without one, nothing."""
        entries = {}
        if seed is not None:
            # zeros and asarray compile a program, for 0.04 to 0.15 s at a process's first Params.
            value = (as_key(seed), jax.device_put(np.uint32(0)))
            entries[RNG] = Param(value, trainable=False, metadata={'tag': RNG})
        made = Params.from_entries(entries)
        _set_values(self, made._values)
        _set_structure(self, made._structure)

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any], *, finalized: bool = False) -> Params:
        """Make Params of a mapping from path to Param or bare array (trainable, no metadata)."""
        ordered = sorted(entries, key=paths.natural_key)
        params = [as_param(path, entries[path]) for path in ordered]
        structure = Structure.of(
            tuple(ordered),
            tuple(param.trainable for param in params),
            tuple(freeze_metadata(p, param.metadata) for p, param in zip(ordered, params)),
            finalized,
        )
        return _make(structure, tuple(param.value for param in params))

    # Mapping access.

    def __getitem__(self, path: str) -> Param:
        structure = self._structure
        i = structure.index.get(path)
        if i is None:
            return self._member(path)
        return Param(self._values[i], structure.trainable[i], dict(structure.metadata[i]))

    def _member(self, path: str) -> Param:
        """Return a block's own part of a stacked entry."""
        if path not in self._structure.members:
            self._raise_unknown(path)
        i, k = self._structure.members[path]
        stacked = self[self._structure.paths[i]]
        return stacking.member(stacked, stacking.part(stacked.value, k))

    def get(self, path: str, default: Any = None) -> Any:
        """Return the Param at `path`, or `default`."""
        # Mapping's own `get` would look for the nearest paths of what is not there.
        if path in self:
            return self[path]
        return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._structure.paths)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, path: object) -> bool:
        return path in self._structure.index or path in self._structure.members

    # Equality of arrays is ambiguous, so Params compare by identity, as modules do.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f'Params is immutable; use params.set(path, value), not .{name} =')

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self._structure, self._values)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        # NumPy would make an array of the paths.
        raise TypeError(
            'Params are no array but a mapping: params[path].value is one, and jax.tree.map goes over all'
        )

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        """Show what treescope shows of a dictionary."""
        from treescope.repr_lib import render_dictionary_wrapper

        return render_dictionary_wrapper(Params, dict(self), path, subtree_renderer)

    def _raise_unknown(self, path: object) -> NoReturn:
        near = ', '.join(paths.nearest(str(path), self)) or 'none'
        hint = '' if not self.initialized else '; Params are finalized and take no new paths'
        raise KeyError(f'no parameter {path!r} among {len(self)}; nearest: {near}{hint}')

    # Changing entries.

    def set(self, path: str, value: Any, *, strict: bool = True) -> Params:
        """Return Params with `value` at `path`.

        `value` is an array, which keeps the entry's flags and metadata, or a Param, which
        replaces them. A stored entry keeps its shape, else ValueError, and its dtype, to
        which `value` is cast; with `strict=False` it takes those of `value`.
        After `finalize()` an unknown path is a KeyError.
        """
        structure = self._structure
        i = structure.index.get(path)
        if i is None:
            if path in structure.members:
                return self._set_member(path, value)
            if structure.finalized:
                self._raise_unknown(path)
            return self._insert(path, as_param(path, value))
        param = value if isinstance(value, Param) else Param(value)
        new = as_param(path, param).value
        if strict:
            new = like(path, self._values[i], new)
        if isinstance(value, Param):
            structure = structure.replace(
                trainable=replaced(structure.trainable, i, param.trainable),
                metadata=replaced(structure.metadata, i, freeze_metadata(path, param.metadata)),
            )
        return _make(structure, replaced(self._values, i, new))

    def _set_member(self, path: str, value: Any) -> Params:
        """Return Params with `value` in a block's own part of a stacked entry."""
        i, k = self._structure.members[path]
        stored = self._member(path)
        param = value if isinstance(value, Param) else dataclasses.replace(stored, value=value)
        if (param.trainable, dict(param.metadata)) != (stored.trainable, dict(stored.metadata)):
            raise ValueError(
                f'{path!r} is stacked with those of other blocks, whose flag and metadata it shares: '
                f'set those of {self._structure.paths[i]!r}, or params.unstack() first'
            )
        new = like(path, stored.value, as_param(path, param).value)
        return _make(self._structure, replaced(self._values, i, self._values[i].at[k].set(new)))

    def _insert(self, path: str, param: Param) -> Params:
        structure = self._structure
        i = bisect.bisect(structure.paths, paths.natural_key(path), key=paths.natural_key)
        metadata = freeze_metadata(path, param.metadata)
        structure = structure.insert(i, path, param.trainable, metadata)
        return _make(structure, inserted(self._values, i, param.value))

    def cast(self, dtype: Any, where: Where = '**') -> Params:
        """Cast the floating-point values that `where` names to `dtype`, a floating-point one.

        Batch statistics are values like others: name the rest to keep those that still move in
        float32.
        """
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f'expected a floating-point dtype, found {dtype}')
        selected = self._select(where)
        return _make(
            self._structure,
            tuple(
                cast_value(value, dtype) if path in selected and is_floating(value) else value
                for path, value in zip(self, self._values)
            ),
        )

    # Blocks that are alike.

    def stack(self, pattern: str, first: int = 0) -> Params:
        """Stack what the blocks have in common: 'net/block{i}' makes entries 'net/block*/...'.

        Values get a leading axis, one place for each block from `first` on; ValueError unless all
        these have the same paths, shapes, dtypes, flags and metadata. `bx.scan` runs such blocks. A
        block's own path still leads to its part of a value, but it is the stacked entry that is
        partitioned, frozen and counted. `unstack` undoes it.

        >>> params = Params(0).set('net/block0/w', jnp.ones(3)).set('net/block1/w', jnp.zeros(3))
        >>> params = params.stack('net/block{i}')
        >>> params['net/block*/w'], params['net/block1/w']
        (Param(float32[2,3], metadata={'stacked': (0, 2)}), Param(float32[3]))
        """
        return stacked_as(dict(self.items()), [(pattern, first)], finalized=self.initialized)

    def unstack(self) -> Params:
        """Give each block its own entries again, as before `stack`."""
        if not self._structure.members:
            return self
        entries = dict(stacking.unstack(self))
        return Params.from_entries(entries, finalized=self.initialized)

    # Dividing and joining.

    def partition(self, where: Where) -> tuple[Params, Params]:
        """Divide into the entries that `where` names, and the rest. `merge` undoes it."""
        selected = self._select(where)
        return self._take(selected), self._take(frozenset(self) - selected)

    def split_trainable(self) -> tuple[Params, Params]:
        """Divide into trainable entries, and the rest (rng, batch statistics, frozen weights)."""
        structure = self._structure
        chosen = frozenset(p for p, flag in zip(structure.paths, structure.trainable) if flag)
        return self._take(chosen), self._take(frozenset(self) - chosen)

    def merge(self, other: Params) -> Params:
        """Join the entries of both; where both have a path, `other`'s value, flag and metadata count.

        Its value must have the shape of this one's, and is cast to its dtype, as by `set`. The
        result is finalized if both are: merging is how paths are added on purpose.
        """
        if not isinstance(other, Params):
            raise TypeError(f'merge expects Params, found {type(other).__name__}')
        mine, theirs = self._structure, other._structure
        joined = join(mine, theirs)
        if twice := [path for path in joined.members if path in joined.index]:
            raise ValueError(f'{twice[0]!r} would be there twice: stacked, and of its own')
        values = dict(zip(mine.paths, self._values))
        for path, value in zip(theirs.paths, other._values):
            values[path] = like(path, values[path], value) if path in values else value
        return _make(joined, tuple(values[path] for path in joined.paths))

    def _take(self, chosen: frozenset[str]) -> Params:
        structure = subset(self._structure, chosen)
        index = self._structure.index
        return _make(structure, tuple(self._values[index[path]] for path in structure.paths))

    def _select(self, where: Where) -> frozenset[str]:
        return paths.select(where, self.items())

    # Flags.

    def freeze(self, where: Where = '**') -> Params:
        """Make the entries that `where` names not trainable."""
        return self._flagged(where, False)

    def unfreeze(self, where: Where = '**') -> Params:
        """Make the entries that `where` names trainable, but no state (rng, batch statistics)."""
        return self._flagged(where, True)

    def _flagged(self, where: Where, trainable: bool) -> Params:
        selected = self._select(where)
        flags = tuple(
            (trainable and not param.is_state) if path in selected else param.trainable
            for path, param in self.items()
        )
        return _make(self._structure.replace(trainable=flags), self._values)

    def finalize(self) -> Params:
        """Return Params that take no new paths."""
        return _make(self._structure.replace(finalized=True), self._values)

    @property
    def initialized(self) -> bool:
        """True after `finalize`."""
        return self._structure.finalized

    # Randomness.

    def next_key(self) -> tuple[jax.Array, Params]:
        """Return a fresh key, `fold_in(master_key, counter)`, and Params whose counter moved on."""
        key, counter = self._rng()
        return jax.random.fold_in(key, counter), self.counted()

    def initial_key(self, path: str) -> tuple[jax.Array, Params]:
        """Return the key of the initial value at `path`, and Params with the counter moved on.

        It depends on the master key and the path alone, so neither the order of calls nor
        other parameters have a say in it.
        """
        key, _ = self._rng()
        return fold_path(key, path_words(path)), self.counted()

    def fold_rng(self, data: Any) -> Params:
        """Fold `data`, an integer, into the master key.

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
        # Without a word of its own, lane d's master key would be the key that next_key gives at d.
        lane = jax.random.fold_in(jax.random.fold_in(key, _LANE), data)
        return self.set(RNG, (lane, counter))

    def unfold_rng(self, original: Params) -> Params:
        """Restore the master key of `original`, and keep this one's counter."""
        return self.set(RNG, (original._rng()[0], self._rng()[1]))

    def _rng(self) -> tuple[jax.Array, jax.Array]:
        i = self._structure.index.get(RNG)
        if i is None:
            raise KeyError(
                "no 'rng' among these Params: start from Params(seed=...), "
                'or merge the part that holds it'
            )
        return self._values[i]

    def counted(self) -> Params:
        """Return Params whose counter moved on by one, as by any request for a key."""
        key, counter = self._rng()
        i = self._structure.index[RNG]
        return _make(self._structure, replaced(self._values, i, (key, counter + np.uint32(1))))

    # Size and looks.

    @property
    def num_params(self) -> int:
        """The number of numbers in all parameters, frozen ones included, state left out."""
        return sum(param.size for param in self.values() if not param.is_state)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the floating-point values; of several, the one that JAX promotes them to."""
        dtypes = {p.dtype for p in self.values() if jnp.issubdtype(p.dtype, jnp.floating)}
        if not dtypes:
            raise ValueError(
                f'no floating-point values among {counted(len(self), "entry", "entries")}'
            )
        return jnp.result_type(*dtypes)

    @property
    def nbytes(self) -> int:
        """Bytes of all values but the rng."""
        return sum(param.nbytes for param in self.values())

    def __repr__(self) -> str:
        state = 'finalized' if self.initialized else 'open'
        entries = counted(len(self), 'entry', 'entries')
        head = f'Params({entries}, {counted(f"{self.num_params:,}", "parameter")}, {state})'
        width = max((len(path) for path in self), default=0)
        lines = [f'  {path:<{width}}  {repr(param)[6:-1]}' for path, param in self.items()]
        if len(lines) > 40:
            lines[20:-20] = [f'  ... {len(lines) - 40} more ...']
        return '\n'.join([head, *lines])


def stacked_as(
    entries: dict[str, Param], stacks: Sequence[tuple[str, int]], *, finalized: bool = True
) -> Params:
    """Make Params of `entries`, with blocks stacked by pattern and first number.

    Stacked entries are taken out of `entries`: where nobody else holds them, memory has no
    more than one stack twice.
    """
    for pattern, first in stacks:
        stacking.stack(entries, pattern, first)
    return Params.from_entries(entries, finalized=finalized)


def restacked(params: Params, like: Params) -> Params:
    """Return `params` with those blocks stacked that are stacked in `like`."""
    stacks = stacks_of(like)
    if not stacks:
        return params
    return stacked_as(dict(params.items()), stacks, finalized=params.initialized)


def stacks_of(params: Params) -> list[tuple[str, int]]:
    """Return pattern and first number of the blocks that are stacked in `params`."""
    stacks = {
        (path.partition('*')[0] + stacking.INDEX, param.metadata[stacking.STACKED][0])
        for path, param in params.items()
        if stacking.STACKED in param.metadata
    }
    return sorted(stacks)


# Writing through the slots' descriptors gets past Params.__setattr__ and is as fast as can be.
_set_values = Params.__dict__['_values'].__set__
_set_structure = Params.__dict__['_structure'].__set__


def _make(structure: Structure, values: Any) -> Params:
    params = object.__new__(Params)
    _set_values(params, values)
    _set_structure(params, structure)
    return params


def _flatten(params: Params) -> tuple[tuple[Any, ...], Structure]:
    return params._values, params._structure


def _flatten_with_keys(params: Params) -> tuple[list[tuple[Any, Any]], Structure]:
    keys = map(jax.tree_util.DictKey, params._structure.paths)
    return list(zip(keys, params._values)), params._structure


jax.tree_util.register_pytree_with_keys(Params, _flatten_with_keys, _make, _flatten)


def path_words(path: str) -> np.ndarray:
    """Return a stable hash of a path: two uint32."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    return np.frombuffer(digest, '>u4').astype(np.uint32)


def fold_path(key: jax.Array, words: Any) -> jax.Array:
    """Return the key of the initial value at the path that has this hash."""
    return jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])


def as_key(seed: Any) -> jax.Array:
    """Return `seed` if it is a JAX key, or the key made from it if it is an integer."""
    if isinstance(seed, jax.Array | np.ndarray) and (
        jnp.issubdtype(seed.dtype, jax.dtypes.prng_key) or seed.ndim == 1
    ):
        return jnp.asarray(seed)
    if isinstance(seed, bool) or not jnp.issubdtype(jnp.result_type(seed), jnp.integer):
        raise TypeError(f'a seed is an integer or a JAX key, not {seed!r}')
    try:
        return _quick_key(seed) if type(seed) is int else jax.random.key(seed)
    except OverflowError as error:
        raise ValueError(f'a seed has at most 64 bits, found {seed}') from error


def _quick_key(seed: int) -> jax.Array:
    """Return `jax.random.key(seed)`: by Threefry it is the seed's bits, and takes no program.

    JAX compiles some, for 0.1 s at a process's first key.
    """
    if setting('default_prng_impl') != 'threefry2x32' or setting('random_seed_offset'):
        return jax.random.key(seed)
    high, low = divmod(int(np.int64(seed)) % 2**64, 2**32)
    words = np.array([high if setting('enable_x64') else 0, low], np.uint32)
    return jax.random.wrap_key_data(jax.device_put(words), impl='threefry2x32')
