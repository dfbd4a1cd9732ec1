"""Published checkpoints to Params and back: convert, explain, export."""

from __future__ import annotations

import functools
import json
import math
import mmap
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blox.adapters import is_adapted
from blox.atomic import atomic_write
from blox.converters.configs import write_config
from blox.converters.mapping.rules import Entry, Table, plan, respell
from blox.converters.sources.source import Source, open_source
from blox.converters.sources.stacked import unstacked
from blox.converters.sources.tensor import Tensor
from blox.converters.tables import layouts
from blox.graph import Graph
from blox.module import spec
from blox.param import Param
from blox.params import Params
from blox.tensorfile import ALIGNMENT, fail, write_tensors
from blox.wording import misfits

# Copies and transposes are bound by memory: two threads keep it busy, more hold more of it.
_THREADS = 2


@dataclass(frozen=True)
class Explanation:
    """What of a checkpoint maps to what of a model; `str` of it is a table.

    Attributes:
      layout: whose names these are: 'hf', 'timm', 'google' or 'big_vision'.
      entries: for each path of ours the names it is made of, with shapes.
      names: the checkpoint's own spelling of each name that was found.
      missing: names that a path needs and the checkpoint lacks.
      unexpected: names that no path needs.
      mismatched: what is wrong with names that are there: shape, dtype.
      ignored: names that are there and change nothing.
    """

    path: Path
    layout: str
    entries: Mapping[str, Entry]
    names: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every path is covered and nothing is left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def problems(self) -> list[str]:
        """One clause for each name that is missing, unexpected or mismatched."""
        return misfits(self.missing, self.unexpected, self.mismatched)

    def fields(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            'path': str(self.path),
            'layout': self.layout,
            'ok': self.ok,
            'entries': [
                {
                    'ours': entry.path,
                    'shape': list(entry.shape),
                    'theirs': [self.names.get(name) for name in entry.names],
                    'shapes': [list(shape) for shape in entry.shapes],
                }
                for entry in self.entries.values()
            ],
            'missing': list(self.missing),
            'unexpected': list(self.unexpected),
            'mismatched': list(self.mismatched),
            'ignored': list(self.ignored),
        }

    def __str__(self) -> str:
        rows = [
            (
                f'{entry.path} {list(entry.shape)}',
                ', '.join(self.names.get(name, f'{name} (missing)') for name in entry.names),
            )
            for entry in self.entries.values()
        ]
        width = max(len(ours) for ours, _ in rows)
        lines = [f'{ours:<{width}}  <-  {theirs}' for ours, theirs in rows]
        lines += [f'ignored: {name}' for name in self.ignored]
        lines += [f'problem: {problem}' for problem in self.problems]
        return '\n'.join([f'{self.path}: {len(rows)} paths from layout {self.layout!r}', *lines])


def explain(source: str | os.PathLike[str] | Source, model: Any) -> Explanation:
    """How a checkpoint would fit a model of the zoo, from its header alone."""
    return _explain(_as_source(source), model)[0]


def convert(
    source: str | os.PathLike[str] | Source,
    model: Any,
    *,
    dtype: Any = None,
    seed: int | jax.Array = 0,
) -> Params:
    """Params for a model of the zoo, of a checkpoint that another library wrote.

    `source` is a folder of transformers or timm, a .safetensors file, an index of shards, a
    .npz of Google's, or a torch file. `dtype` casts floating-point values; without it they keep
    theirs. The rng is made from `seed`.

    Raises CheckpointError that lists every name that is missing, unexpected or of another shape,
    before any data is read; and for NaN, infinity, a negative variance, and tied weights that differ.
    """
    source = _as_source(source)
    explanation, tensors, expected = _explain(source, model)
    if explanation.problems:
        what = f'does not fit {type(model).__name__}: {"; ".join(explanation.problems)}'
        fail(source.path, what, most=50_000)
    _check_tied(_table(model, explanation.layout), tensors, explanation)
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


def export(
    path: str | os.PathLike[str],
    model: Any,
    params: Params,
    format: str = 'hf',
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes the folder that transformers ('hf') or timm ('timm') opens: weights and config.json.

    torchvision reads the weights of a ResNet in format 'timm'. `extra` has more files: names to
    texts, or to JSON; the fields of its config.json are added to ours. Raises ValueError where
    the other library cannot express the model.
    """
    table = _table(model, format)
    if table.library is None:
        raise ValueError(f'{type(model).__name__} cannot be exported as {format!r}')
    config = write_config(table, model.config)
    values = external(model, params, format)
    files = {**table.companions(model.config), **(extra or {})}
    files['config.json'] = _joined(config, files.get('config.json', {}))
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / 'model.safetensors', values, {'format': 'pt'})
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + '\n'
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def _joined(fields: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` with more, those inside of objects too."""
    inner = {
        name: {**fields[name], **value}
        for name, value in more.items()
        if isinstance(value, Mapping)
        and isinstance(fields.get(name), Mapping)
        # Labels are a whole, not an addition.
        and name not in ('id2label', 'label2id')
    }
    return {**fields, **more, **inner}


def external(model: Any, params: Params, format: str) -> dict[str, np.ndarray]:
    """The arrays that `export` writes, views of the params' values where possible."""
    if is_adapted(params):
        raise ValueError(
            'these Params have adapters: bx.merge_lora(params) makes them plain, '
            'bx.converters.export_peft writes them alone'
        )
    table = _table(model, format)
    published = table.published(model.config)
    values: dict[str, np.ndarray] = {}
    for entry in plan(table.rules(model.config), model_spec(model)).values():
        array = np.asarray(params[entry.path].value)
        if array.shape != entry.shape:
            raise ValueError(f'{entry.path!r}: expected {entry.shape}, found {array.shape}')
        arrays = entry.via.inverse(array, len(entry.names))
        values |= {respell(name, published): part for name, part in zip(entry.names, arrays)}
    return dict(sorted((values | table.buffers(values)).items()))


def model_spec(model: Any) -> Params:
    """Shapes and dtypes of the Params of a model of the zoo, without computing them."""
    return _spec(type(model), model.path, model.config)


@functools.lru_cache(maxsize=16)
def _spec(kind: Any, path: str, config: Any) -> Params:
    """Tracing takes longer than all else about a header, and is asked for more than once."""
    model = kind(Graph(path), config)
    return spec(model, *model.example_inputs())


def _as_source(source: str | os.PathLike[str] | Source) -> Source:
    return source if isinstance(source, Source) else open_source(source)


def _table(model: Any, layout: str) -> Table:
    known = layouts(model.path)
    if layout not in known:
        raise ValueError(f'{model.path!r} has the layouts {", ".join(known)}, not {layout!r}')
    return known[layout]


def _explain(source: Source, model: Any) -> tuple[Explanation, dict[str, Tensor], Params]:
    """The explanation, the tensors by the rules' own names, and the model's spec."""
    expected = model_spec(model)
    fits = [_fit(source, layout, model, expected) for layout in layouts(model.path)]
    # Where no name fits, as under a strange prefix, errors are in the spelling that config.json says.
    told = 'timm' if 'architecture' in source.config else 'hf'
    explanation, tensors = max(fits, key=lambda fit: (len(fit[0].names), fit[0].layout == told))
    return explanation, tensors, expected


def _fit(
    source: Source, layout: str, model: Any, expected: Params
) -> tuple[Explanation, dict[str, Tensor]]:
    """How well the names and shapes of `source` fit one layout."""
    table = _table(model, layout)
    if table.stacked and any(table.stacked in name for name in source.tensors):
        source = unstacked(source, table.stacked)
    tensors, own, doubled = _respelled(source, table.spellings)
    entries = plan(table.rules(model.config), expected)
    shapes = {n: s for entry in entries.values() for n, s in zip(entry.names, entry.shapes)}
    loose = [name for name in tensors if name not in shapes]
    ignored = [name for name in loose if table.ignores(name) or name in (table.tied or {})]
    published = table.published(model.config)
    explanation = Explanation(
        source.path,
        layout,
        entries,
        {name: own[name] for name in shapes if name in own},
        tuple(respell(name, published) for name in shapes if name not in tensors),
        tuple(own[name] for name in loose if name not in ignored),
        tuple(doubled + mismatched(tensors, shapes, own)),
        tuple(own[name] for name in ignored),
    )
    return explanation, tensors


def _respelled(
    source: Source, spellings: Iterable[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Tensors by the rules' names, the checkpoint's own names, and names that fall together."""
    tensors: dict[str, Tensor] = {}
    own: dict[str, str] = {}
    doubled = []
    for name, tensor in source.tensors.items():
        ours = respell(name, spellings)
        if ours in own:
            doubled.append(f'{name!r} and {own[ours]!r}: two for one parameter')
        tensors[ours], own[ours] = tensor, name
    return tensors, own, doubled


def mismatched(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    own: Mapping[str, str],
) -> list[str]:
    """Write a clause for each tensor, by its own name, of another shape or kind than expected."""
    found = {name: tensors[name] for name in shapes if name in tensors}
    return [
        f'{own[name]}: expected shape {shapes[name]}, found {tensor.shape}'
        for name, tensor in found.items()
        if tensor.shape != shapes[name]
    ] + [
        f'{own[name]}: expected a floating-point dtype, found {tensor.dtype}'
        for name, tensor in found.items()
        if not jnp.issubdtype(tensor.dtype, jnp.floating)
    ]


def _check_tied(table: Table, tensors: Mapping[str, Tensor], explanation: Explanation) -> None:
    """Names that stand for another parameter must hold its very bits."""
    needed = {name for entry in explanation.entries.values() for name in entry.names}
    for name, other in (table.tied or {}).items():
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
    """What decides where arrays are put, and in which dtype."""
    return tuple(getattr(jax.config, f'jax_{name}') for name in ('enable_x64', 'default_device'))


def _value(
    entry: Entry, tensors: Mapping[str, Tensor], own: Mapping[str, str], dtype: Any
) -> jax.Array:
    """Our array of an entry, on the device."""
    names, sources = [own[name] for name in entry.names], [tensors[name] for name in entry.names]
    arrays = [tensor.read() for tensor in sources]
    for name, tensor, array in zip(names, sources, arrays):
        _check_finite(tensor.file, name, array)
    array = entry.via.forward(arrays)
    array = _in_dtype(sources[0].file, names[0], array, dtype)
    value = jax.device_put(_own(array) if array.flags.c_contiguous else array)
    value.block_until_ready()
    for tensor in sources:
        tensor.release()
    return value


def _own(array: np.ndarray) -> np.ndarray:
    """A copy that JAX uses in place on a CPU.

    A file's own memory will not do: it is rarely aligned, and others may write to the file.
    """
    # Of large arrays NumPy asks for huge pages, and where memory is in pieces waits for them.
    memory = np.frombuffer(mmap.mmap(-1, array.nbytes + ALIGNMENT), np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def _check_finite(file: Path, name: str, array: np.ndarray) -> None:
    # A sum is the fastest look at all values; one of finite ones may overflow, so look again then.
    with np.errstate(all='ignore'):
        if not np.isfinite(array.sum(dtype=_sum_dtype(array))) and not np.isfinite(array).all():
            found = 'NaN' if np.isnan(array).any() else 'infinity'
            fail(file, f'expected finite values, found {found}', name)


def _sum_dtype(array: np.ndarray) -> Any:
    return array.dtype if array.dtype.itemsize > 2 else np.float32


def _in_dtype(file: Path, name: str, array: np.ndarray, dtype: Any) -> np.ndarray:
    """`array` in `dtype`, or as it is, if that is exactly what the device will hold."""
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
