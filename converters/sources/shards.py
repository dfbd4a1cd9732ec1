"""Open indexes of shards: tensors in several files, and which is in which."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from blox.converters.sources.container import open_file
from blox.converters.sources.files import inside, read_json
from blox.converters.sources.tensor import Tensor
from blox.tensorfile import fail

# The end of an index's name.
INDEX = '.index.json'
_SHARD = re.compile(r'(.+)-\d+-of-(\d+)(\.\w+)')


def open_shards(path: Path) -> dict[str, Tensor]:
    """Return the tensors of all shards that an index names, each in the shard it says.

    Raises CheckpointError, which names the index, if a shard is missing or holds other tensors.
    """
    index = read_json(path)
    where = index.get('weight_map') if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where:
        fail(path, 'expected a weight_map from tensor names to files, found none')
    for name, shard in where.items():
        if not isinstance(shard, str):
            fail(path, f'expected the name of a file in weight_map, found {shard!r}', name)
    shards = {name: _shard(path, name) for name in sorted(set(where.values()))}
    _check_generation(path, shards)
    tensors: dict[str, Tensor] = {}
    for shard, file in shards.items():
        found = open_file(file).tensors
        expected = {name for name, place in where.items() if place == shard}
        if found.keys() != expected:
            missing, more = sorted(expected - found.keys()), sorted(found.keys() - expected)
            fail(path, f'{shard!r}: not found there {missing}, not in the index {more}')
        tensors.update(found)
    _check_total(path, index, tensors)
    return tensors


def _shard(index: Path, name: str) -> Path:
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    is_name = PurePosixPath(name).name == name and '\\' not in name and name.isprintable()
    if not is_name or not name.endswith(suffix) or name.endswith(INDEX):
        fail(index, f'expected names of {suffix} files in the same folder, found {name!r}')
    shard = inside(index, index.parent, name)
    if not os.path.lexists(shard):
        fail(index, f'expected its shards beside it, found no {name!r}')
    return shard


def _check_total(path: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    metadata = index.get('metadata', {})
    if not isinstance(metadata, dict):
        fail(path, f'expected metadata to be an object, found {type(metadata).__name__}')
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in tensors.values())
    total = metadata.get('total_size', size)
    # torch's files hold tied tensors once, its totals now once and now twice; and older versions
    # of transformers count a bool as an eighth of a byte.
    is_exact = all(t.dtype != np.bool_ for t in tensors.values())
    if total != size and is_exact and path.name.endswith('.safetensors' + INDEX):
        fail(path, f'expected total_size {size}, the bytes of all tensors, found {total!r}')


def _check_generation(path: Path, shards: Iterable[str]) -> None:
    """Raise CheckpointError unless all shards are of one save, and all of that save's are there."""
    matches = [m for m in map(_SHARD.fullmatch, shards) if m]
    totals = {(m[1], m[3]): m[2] for m in matches}
    mixed = [m[0] for m in matches if totals[m[1], m[3]] != m[2]]
    strays = [
        file.name
        for file in path.parent.iterdir()
        if (m := _SHARD.fullmatch(file.name)) and (m[1], m[3]) in totals and m[0] not in shards
    ]
    if mixed or strays:
        fail(path, f'expected shards of one save, found also {", ".join(sorted(mixed + strays))}')
