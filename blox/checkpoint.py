"""Params as one self-describing .safetensors file, and back."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blox.param import RNG, Param
from blox.params import Params
from blox.stacking import STACKED
from blox.tensorfile import DIGESTS, TensorFile, fail, parse_json, write_tensors

# The header's metadata entry that holds what tensors cannot: flags, metadata, the kind of rng.
_KEY = 'blox.params'
RNG_TENSORS = _RNG_KEY, _RNG_COUNTER = f'{RNG}/key', f'{RNG}/counter'


def save(
    path: str | os.PathLike[str],
    params: Params,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write Params with their flags, metadata and rng to one safetensors file.

    The file takes the place of an old one at once and whole, or not at all. The same Params
    give the same bytes; stacked blocks are written one by one. `metadata` is more strings for the
    file's header, which has the SHA-256 of each tensor too.

    >>> import tempfile, blox as bx
    >>> params = bx.init(bx.Linear(bx.Graph('head'), 3), jnp.ones((1, 2)), seed=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bx.save(f'{folder}/head.safetensors', params)
    ...     restored = bx.load(f'{folder}/head.safetensors')
    >>> restored
    Params(3 entries, 9 parameters, finalized)
      head/b  float32[3]
      head/w  float32[2,3]
      rng     (key<fry>[], uint32[]), trainable=False, metadata={'tag': 'rng'}
    """
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        raise TypeError('these Params are a spec: they have shapes, but no values to save')
    params = params.unstack()
    tensors = {name: param.value for name, param in params.items() if name != RNG}
    description: dict[str, Any] = {
        'finalized': params.initialized,
        'frozen': [name for name, param in params.items() if not param.trainable],
        'metadata': {
            name: _jsonable(name, param) for name, param in params.items() if param.metadata
        },
    }
    for name, what in ((_KEY, 'flags'), (DIGESTS, 'digests')):
        if metadata and name in metadata:
            raise ValueError(f'metadata {name!r} is where the file keeps {what}; choose another')
    if RNG in params:
        key, counter = params[RNG].value
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        description['rng'] = str(jax.random.key_impl(key)) if typed else None
        for name in RNG_TENSORS:
            if name in tensors:
                raise ValueError(f'{name!r} is where the file keeps the rng; rename that module')
        tensors[_RNG_KEY] = jax.random.key_data(key) if typed else key
        tensors[_RNG_COUNTER] = counter
    text = json.dumps(description, separators=(',', ':'), sort_keys=True)
    write_tensors(path, tensors, {**(metadata or {}), _KEY: text}, digests=True)


def load(path: str | os.PathLike[str], *, copy: bool = False, check: bool = False) -> Params:
    """Read Params from a safetensors file.

    On CPU the arrays are the mapped file's own memory, read when first used; the file must not
    be overwritten in place while they live (`save` never does). `copy=True` reads it all
    now. A file that `save` did not write gives finalized Params with its tensors' names for
    paths, the floating-point ones trainable.

    `check=True` reads it all too, and compares each tensor with the SHA-256 that `save` kept of it.

    Raises CheckpointError, which names file, tensor, expected and found, for a malformed file.
    """
    file = TensorFile(path)
    if check:
        file.check_digests()
    return params_of(file, copy=copy)


def params_of(file: TensorFile, *, copy: bool = False) -> Params:
    """Return the Params in an open file; see `load`."""
    if RNG in file:
        fail(file.path, f'expected the rng as {_RNG_KEY!r} and {_RNG_COUNTER!r}', RNG)
    for name, info in file.tensors.items():
        if jax.dtypes.canonicalize_dtype(info.dtype) != info.dtype:
            fail(
                file.path,
                f'{info.dtype} would lose bits: set jax_enable_x64, or convert the file',
                name,
            )
    # One by one, so that no more than one of the copies is there twice.
    values = {name: jax.device_put(np.array(view) if copy else view) for name, view in file.items()}
    if _KEY not in file.metadata:
        entries = {
            name: Param(value, trainable=bool(jnp.issubdtype(value.dtype, jnp.floating)))
            for name, value in values.items()
        }
        return _from_entries(file.path, entries, finalized=True)
    description = _description(file)
    if 'rng' in description:
        values[RNG] = _restored_rng(file.path, values, description['rng'])
    frozen, metadata = set(description['frozen']), description['metadata']
    if stacked := [name for name, said in metadata.items() if STACKED in said]:
        fail(file.path, 'expected entries of each block, found stacked ones', stacked[0])
    unknown = (frozen | set(metadata)) - set(values)
    if unknown:
        fail(file.path, f'{_KEY}: expected paths of tensors, found {sorted(unknown)}')
    entries = {
        name: Param(value, name not in frozen, metadata.get(name, {}))
        for name, value in values.items()
    }
    return _from_entries(file.path, entries, finalized=description['finalized'])


def check_described(file: TensorFile) -> None:
    """Raise CheckpointError if a file does not say what its Params are, as `save` does."""
    if _KEY not in file.metadata:
        fail(file.path, f'expected {_KEY!r} in its header, as bx.save writes it, found none')


def _from_entries(path: Path, entries: dict[str, Param], *, finalized: bool) -> Params:
    try:
        return Params.from_entries(entries, finalized=finalized)
    except (TypeError, ValueError) as error:
        fail(path, str(error))


def _description(file: TensorFile) -> dict[str, Any]:
    """Read and check the header's account of flags and metadata."""
    description = parse_json(file.path, file.metadata[_KEY], _KEY)
    frozen, metadata = description.get('frozen'), description.get('metadata')
    sound = (
        set(description) - {'rng'} == {'finalized', 'frozen', 'metadata'}
        and isinstance(description['finalized'], bool)
        and isinstance(frozen, list)
        and all(isinstance(name, str) for name in frozen)
        and isinstance(metadata, dict)
        and all(isinstance(entry, dict) for entry in metadata.values())
    )
    if not sound:
        fail(file.path, f'{_KEY}: expected finalized, frozen and metadata, found {description}')
    return description


def _restored_rng(path: Path, values: dict[str, jax.Array], impl: Any) -> tuple[Any, Any]:
    """Take the rng's two tensors out of `values`."""
    try:
        key, counter = values.pop(_RNG_KEY), values.pop(_RNG_COUNTER)
        # Params that were made under vmap have a key, and perhaps a counter, for each lane.
        if key.dtype != np.uint32 or key.ndim == 0:
            raise ValueError(f'expected a key of uint32 words, found {key.dtype}{key.shape}')
        if counter.dtype != np.uint32 or counter.shape not in ((), key.shape[:-1]):
            raise ValueError(f'expected a uint32 counter, found {counter.dtype}{counter.shape}')
        return (key if impl is None else jax.random.wrap_key_data(key, impl=impl)), counter
    except KeyError as error:
        fail(path, f'the rng cannot be restored: expected a tensor {error}, found none')
    except (TypeError, ValueError) as error:
        fail(path, f'the rng cannot be restored: {error}')


def _jsonable(path: str, param: Param) -> dict[str, Any]:
    """Return the metadata, if JSON gives back the very same."""
    metadata = dict(param.metadata)
    if not all(type(name) is str and _is_plain(value) for name, value in metadata.items()):
        raise ValueError(f'metadata of {path!r} cannot be saved as JSON: {metadata}')
    return metadata


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (str, bool, int)
