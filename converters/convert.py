"""Convert checkpoints of other libraries to Params."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blox.converters.explanation import SCREEN, Explanation, match
from blox.converters.mapping.rules import Entry, Table
from blox.converters.sources.source import Source
from blox.converters.sources.tensor import Tensor
from blox.converters.target import table_of
from blox.memory import aligned
from blox.param import Param
from blox.params import Params
from blox.settings import setting
from blox.tensorfile import fail, what_is_not_finite
from blox.wording import printable, some

# Copies and transposes are bound by memory: two threads keep it busy, more hold more of it.
_THREADS = 2
# Numbers that are copied at once: they are still in a core's cache when they are looked at.
_PIECE = 1 << 18
_LOG = logging.getLogger('blox')


def convert(
    source: str | os.PathLike[str] | Source,
    model: Any,
    *,
    dtype: Any = None,
    seed: int | jax.Array = 0,
    state: str = '',
) -> Params:
    """Make Params for a model of the zoo from a checkpoint that another library wrote.

    `source` is a folder of transformers, timm or open_clip, a .safetensors file, an index of shards,
    a .npz of Google's, or a torch file. Prefixes such as 'module.', which wrappers put before all
    names, are no part of them. Of a training checkpoint `state` names the state to take, such as
    'model_ema'; without it that is the plain one, as `open_source` says. `dtype` casts floating-point
    values; without it they keep theirs. The rng is made from `seed`.

    Raises CheckpointError before any data is read if names are missing, unexpected or of another
    shape: it counts all, and names the first of each, which `explain` does of all. It raises it too for
    NaN, infinity, a negative variance, tied weights that differ, and several dtypes for one array.
    """
    source, explanation, tensors, expected = match(source, model, state)
    if not explanation.ok:
        what = f'does not fit {type(model).__name__}: {explanation.summary}'
        fail(source.path, what, most=2 * SCREEN)
    table = table_of(model, explanation.layout)
    _check_tied(table, model.config, tensors, explanation)
    if heads := explanation.left_out:
        _LOG.warning('%s: left out a head: %s', source.path, printable(some(heads, 4)))
    # The largest first, while little else is in memory: so the peak is hardly above the result.
    entries = sorted(explanation.entries.values(), key=lambda e: -math.prod(e.shape))
    with ThreadPoolExecutor(_THREADS) as pool:
        # Settings in force in this thread alone, by a `with` block, are not the workers'.
        is_same = pool.submit(_settings).result() == _settings()
        values = list(
            (pool.map if is_same else map)(
                lambda entry: _value(entry, tensors, explanation.names, dtype), entries
            )
        )
    params = {
        entry.path: Param(value, expected[entry.path].trainable, expected[entry.path].metadata)
        for entry, value in zip(entries, values)
    }
    _check_variances(source.path, params)
    return Params.from_entries(params).merge(Params(seed)).finalize()


def _check_tied(
    table: Table, config: Any, tensors: Mapping[str, Tensor], explanation: Explanation
) -> None:
    """Raise CheckpointError unless names that stand for another parameter hold its very bits."""
    needed = {name for entry in explanation.entries.values() for name in entry.names}
    for name, other in table.tied(config).items():
        if name not in tensors or name in needed:
            continue
        a, b = tensors[name].read(), tensors[other].read()
        if a.dtype != b.dtype or a.shape != b.shape or a.tobytes() != b.tobytes():
            fail(
                explanation.path,
                f'expected the same values as in {explanation.names[other]!r}, to which the '
                'config ties it; found others',
                name,
            )


def _settings() -> tuple[Any, ...]:
    """Return the settings that decide where arrays are put, and in which dtype."""
    return setting('enable_x64'), setting('default_device')


def _value(
    entry: Entry, tensors: Mapping[str, Tensor], own: Mapping[str, str], dtype: Any
) -> jax.Array:
    """Make our array of an entry, on the device."""
    names, sources = [own[name] for name in entry.names], [tensors[name] for name in entry.names]
    arrays = [tensor.read() for tensor in sources]
    is_as_stored = len(arrays) == 1 and dtype in (None, arrays[0].dtype)
    if not is_as_stored:
        for name, tensor, array in zip(names, sources, arrays):
            _check_finite(tensor.file, name, array)
    if len({array.dtype for array in arrays}) > 1:
        arrays = _in_one_dtype(sources[0].file, names, arrays, dtype)
    array = entry.via.forward(arrays)
    array = _in_dtype(sources[0].file, names[0], array, dtype)
    array, is_finite = _own(array) if array.flags.c_contiguous else (array, False)
    if is_as_stored and not is_finite:
        _check_finite(sources[0].file, names[0], arrays[0])
    value = jax.device_put(array)
    value.block_until_ready()
    for tensor in sources:
        tensor.release()
    return value


def _own(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Copy an array so that JAX uses it in place on a CPU, and tell if its values are finite.

    A file's own memory will not do: it is rarely aligned, and others may write to the file.
    """
    copy = aligned(array.shape, array.dtype)
    source, target = array.reshape(-1), copy.reshape(-1)
    is_finite = True
    for start in range(0, source.size, _PIECE):
        piece = target[start : start + _PIECE]
        np.copyto(piece, source[start : start + _PIECE])
        is_finite = is_finite and not what_is_not_finite(piece)
    return copy, is_finite


def _check_finite(file: Path, name: str, array: np.ndarray) -> None:
    if found := what_is_not_finite(array):
        fail(file, f'expected finite values, found {found}', name)


def _in_one_dtype(
    file: Path, names: Sequence[str], arrays: Sequence[np.ndarray], dtype: Any
) -> list[np.ndarray]:
    """Return several arrays, which become one of ours, in the `dtype` that the caller chose."""
    if dtype is None:
        kinds = ', '.join(f'{name!r} {array.dtype}' for name, array in zip(names, arrays))
        what = (
            'expected one dtype of what becomes one array here; pass dtype=, as jnp.float32; found '
        )
        fail(file, f'{what}{kinds}')
    return [_in_dtype(file, name, array, dtype) for name, array in zip(names, arrays)]


def _in_dtype(file: Path, name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return `array` in `dtype`; without one as it is, if the device will hold just that."""
    if dtype is None:
        if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
            fail(
                file,
                f'JAX would cut {array.dtype} values short: pass dtype=jnp.float32, or turn on '
                'jax_enable_x64',
                name,
            )
        return array
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f'expected a floating-point dtype, found {dtype}')
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f'{dtype} takes jax_enable_x64, which is off')
    with np.errstate(over='ignore'):
        cast = array.astype(dtype, copy=False)
    narrower = jnp.finfo(cast.dtype).max < jnp.finfo(array.dtype).max
    if narrower and not np.isfinite(cast).all():
        fail(file, f'values are too large for {cast.dtype}', name)
    return cast


def _check_variances(path: Path, params: Mapping[str, Param]) -> None:
    for name, param in params.items():
        if param.is_state and name.endswith('/var') and bool((param.value < 0).any()):
            fail(path, f'expected variances of 0 or more for {name}, found negative ones')
