"""Entries of blocks that are alike as one entry, with a leading axis that counts the blocks.

'net/block0/w', 'net/block1/w' and so on, [inputs, outputs] each, are stacked as 'net/block*/w', [blocks,
inputs, outputs], whose metadata say which blocks they are: {'stacked': (first, last + 1)}.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from blox.memory import aligned
from blox.param import Param, describe
from blox.paths import nearest
from blox.wording import counted, some

STACKED = 'stacked'
INDEX = '{i}'


def stack(entries: dict[str, Param], pattern: str, first: int = 0) -> None:
    """Stack, in `entries`, those of the blocks from `first` on that `pattern` names.

    Each is taken out as soon as it is copied, so that memory never holds all of them twice.
    Raises ValueError where blocks differ.
    """
    for path, own in _groups(entries, pattern, first).items():
        one = entries[own[0]]
        if STACKED in one.metadata:
            raise ValueError(
                f'{own[0]!r} is stacked already: blocks inside of blocks stay in a loop'
            )
        for name in own[1:]:
            if (wrong := _kind(entries[name])) != _kind(one):
                raise ValueError(
                    f'{pattern!r}: blocks to stack must be alike, found {name} {wrong} '
                    f'and {own[0]} {_kind(one)}'
                )
        value = _joined([entries.pop(name).value for name in own])
        metadata = {**one.metadata, STACKED: (first, first + len(own))}
        entries[path] = Param(value, one.trainable, metadata)


def unstack(entries: Mapping[str, Param]) -> Iterator[tuple[str, Param]]:
    """Yield the entries of each block in the place of stacked ones, and all others."""
    for path, param in entries.items():
        names = members(path, param.metadata)
        if not names:
            yield path, param
            continue
        for name, value in zip(names, parts(param.value, len(names))):
            yield name, member(param, value)


def members(path: str, metadata: Mapping[str, Any]) -> list[str]:
    """Return the paths that a stacked entry stands for; none for another entry."""
    indices = range(*metadata[STACKED]) if STACKED in metadata else ()
    return [path.replace('*', str(i), 1) for i in indices]


def member(stacked: Param, value: Any) -> Param:
    """Return one of the entries that a stacked one stands for."""
    metadata = {name: x for name, x in stacked.metadata.items() if name != STACKED}
    return dataclasses.replace(stacked, value=value, metadata=metadata)


def part(value: Any, i: int) -> Any:
    """Return the value of one block, of a spec too."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape[1:], value.dtype)
    # Labels of parameters hold for all blocks.
    return jax.lax.index_in_dim(value, i, keepdims=False) if hasattr(value, 'shape') else value


def parts(value: Any, count: int) -> list[Any]:
    """Return the values of all blocks: on a CPU the same memory, as far as it is aligned."""
    if not _is_on_cpu(value):
        return [part(value, i) for i in range(count)]
    (device,) = value.devices()
    return [jax.device_put(own, device) for own in np.asarray(value)]


def _groups(entries: Mapping[str, Param], pattern: str, first: int) -> dict[str, list[str]]:
    """Return, for each entry to be, the paths of those that it is stacked of, in order."""
    if pattern.count(INDEX) != 1 or '*' in pattern:
        raise ValueError(
            f'{pattern!r} names no blocks to stack: expected {INDEX} once where their numbers are, '
            "as in 'net/block{i}'"
        )
    before, after = map(re.escape, pattern.split(INDEX))
    numbered = re.compile(f'({before})(0|[1-9][0-9]*)({after}(?:/.*)?)')
    found: dict[str, dict[int, str]] = {}
    for path in entries:
        match = numbered.fullmatch(path)
        if match and int(match[2]) >= first:
            found.setdefault(f'{match[1]}*{match[3]}', {})[int(match[2])] = path
    if not found:
        near = ', '.join(nearest(pattern, entries)) or 'none'
        paths = counted(len(entries), 'path')
        raise ValueError(f'{pattern!r} matches none of {paths}; nearest: {near}')
    last = max(max(paths) for paths in found.values())
    expected = range(first, last + 1)
    missing = [
        path.replace('*', str(i), 1)
        for path, own in found.items()
        for i in expected
        if i not in own
    ]
    if missing:
        raise ValueError(
            f'{pattern!r}: blocks to stack, {first} to {last}, must be alike; missing: '
            f'{some(missing, 4)}'
        )
    return {path: [own[i] for i in expected] for path, own in found.items()}


def _kind(param: Param) -> str:
    """Describe what must be the same in all blocks."""
    metadata = f', metadata={dict(param.metadata)}' if param.metadata else ''
    return f'{describe(param.value)}, trainable={param.trainable}{metadata}'


def _joined(values: Sequence[Any]) -> Any:
    """Return values with a leading axis, in memory of their own."""
    shape = (len(values), *values[0].shape)
    if isinstance(values[0], jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(shape, values[0].dtype)
    if not all(map(_is_on_cpu, values)):
        return jnp.stack(values)
    # JAX would first copy each with an axis more, which takes twice the memory and time.
    joined = aligned(shape, values[0].dtype)
    for i, value in enumerate(values):
        joined[i] = value
    (device,) = values[0].devices()
    return jax.device_put(joined, device)


def _is_on_cpu(value: Any) -> bool:
    """Tell whether this is an array in the memory of one CPU device, and no tracer."""
    if isinstance(value, Tracer) or not isinstance(value, jax.Array):
        return False
    devices = value.devices()
    return len(devices) == 1 and all(device.platform == 'cpu' for device in devices)
