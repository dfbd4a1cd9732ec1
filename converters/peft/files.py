"""Adapters in the file layout of the `peft` library: folders that it saves and opens.

PEFT adapts modules, which it calls as the other library's live model does: adapter_config.json
says which, and adapter_model.safetensors holds 'base_model.model.<module>.lora_A.weight'
[rank, inputs] and '...lora_B.weight' [outputs, rank] for each of them. Modules that were trained
whole ('modules_to_save', mostly a new head) are there too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from blox.adapters import TAG, Adapter, adapter_entries, adapters, is_adapted, wider
from blox.atomic import atomic_write
from blox.converters.explanation import mismatched
from blox.converters.mapping.rules import Entry
from blox.converters.peft.config import Config, config_fields, read_config
from blox.converters.peft.modules import BASE, PREFIX, Modules, Site, module_of, peft_tables
from blox.converters.sources.source import Source, open_source
from blox.converters.tables import layouts
from blox.converters.target import table_of
from blox.param import Param
from blox.params import Params, restacked
from blox.tensorfile import fail, write_tensors
from blox.wording import misfits

_CONFIG = 'adapter_config.json'
_WEIGHTS = ('adapter_model.safetensors', 'adapter_model.bin')


def import_peft(folder: str | os.PathLike[str], model: Any, params: Params) -> Params:
    """Freeze `params`, and add to them the adapters of a folder that PEFT saved.

    The adapters can be trained as `bx.lora`'s. `params` must be those of the base that they were
    trained on: nothing in the folder tells.
    Modules that PEFT saved whole, such as a new head, replace ours and are trainable too. Where
    queries, keys and values are modules of their own, these parts of our fused weight are adapted.

    Raises CheckpointError that lists every name that is missing, unexpected or of another shape;
    for what plain adapters cannot express, such as DoRA; and for malformed files.
    """
    if is_adapted(params):
        raise ValueError('these Params have adapters already: bx.merge_lora(params) first')
    config = read_config(_found(Path(folder), _CONFIG))
    source = open_source(_found(Path(folder), *_WEIGHTS))
    fits = [_fit(source, config, Modules(model, t)) for t in peft_tables(model).values()]
    fit = max(fits, key=lambda fit: len(fit.shapes.keys() & source.tensors.keys()))
    if problems := fit.problems + _differences(source, fit):
        what = f'does not fit {type(model).__name__}: {"; ".join(problems)}'
        fail(source.path, what, most=50_000)
    given, params = params, params.freeze().unstack()
    for entry, keys in fit.saved:
        value = entry.via.forward([_array(source, key) for key in keys])
        params = params.set(entry.path, _replaced(params, entry, value), strict=False)
    added: dict[str, Param] = {}
    for module, site in fit.adapted.items():
        _check_base(source, params, module, site)
        a, b = site.ours(*(_array(source, key) for key in site.keys(module)))
        added |= adapter_entries(site.prefix, a, b, config.scale_of(module), site.start)
    params = params.merge(Params.from_entries(added, finalized=params.initialized))
    return restacked(params, given)


def export_peft(
    folder: str | os.PathLike[str],
    model: Any,
    params: Params,
    format: str = 'hf',
    base: str = '',
) -> None:
    """Write the adapters among `params` as a folder that PEFT opens, without their base.

    `format` says whose model the base is there: transformers' ('hf') or timm's ('timm'); `base`
    the repository or folder that PEFT may find it in. Whole modules that are trainable, such as a
    new head, go along. An adapter of a fused weight becomes one for each module of theirs, and
    adapters of its parts, where they have one module, become one of a higher rank.

    Raises ValueError, which names the path, for what PEFT cannot hold.
    """
    known = [name for name, table in layouts(model.path).items() if table.library]
    if format not in known:
        raise ValueError(f'{model.path!r} goes out as {", ".join(known)}, not {format!r}')
    modules, params = Modules(model, table_of(model, format)), params.unstack()
    adapted, saved = _adapted(modules, params), _saved(modules, params)
    tensors = {key: array for pair in adapted for key, array in zip(pair.keys, pair.arrays)}
    sizes = {pair.module: (len(pair.b), pair.scale) for pair in adapted}
    whole = sorted({module_of(name) for name in saved})
    config = {
        'peft_type': 'LORA',
        'task_type': modules.task(),
        'base_model_name_or_path': base or None,
        'fan_in_fan_out': any(pair.site.is_conv1d for pair in adapted),
        **config_fields(sizes, whole, modules.live().values()),
    }
    tensors |= {PREFIX + name: array for name, array in saved.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / _WEIGHTS[0], dict(sorted(tensors.items())), {'format': 'pt'})
    with atomic_write(folder / _CONFIG) as file:
        file.write((json.dumps(config, indent=2) + '\n').encode())


# Reading.


@dataclass
class _Fit:
    """The match of a file with a model.

    Attributes:
      adapted: modules with adapters, by their names in the file.
      saved: entries of modules that were trained whole, with their keys.
      shapes: those of all arrays that there should be, by key.
      problems: a clause for each part of the file that does not fit.
    """

    adapted: dict[str, Site] = field(default_factory=dict)
    saved: list[tuple[Entry, list[str]]] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def _found(folder: Path, *names: str) -> Path:
    """Return the first of `names` that is in the folder. CheckpointError if none is."""
    found = [folder / name for name in names if os.path.lexists(folder / name)]
    if not found:
        fail(folder, f'expected {" or ".join(names)}, as PEFT saves it, found none')
    return found[0]


def _fit(source: Source, config: Config, modules: Modules) -> _Fit:
    """Match what `config` says with a model, by one layout's names."""
    fit, spell = _Fit(), modules.speller(source.tensors)
    for entry in modules.entries.values():
        for rule, site in modules.sites(entry).items():
            module = next(filter(config.adapts, spell(rule)), '')
            refusal = modules.refusal(entry) if module else ''
            if refusal:
                fit.problems.append(f'{module}: PEFT adapts what {entry.path!r} cannot: {refusal}')
            elif module:
                fit.adapted[module] = site
                fit.shapes |= zip(site.keys(module), site.shapes(config.rank_of(module)))
        _fit_saved(fit, entry, spell, config, modules.tied(entry))
    return fit


def _fit_saved(
    fit: _Fit, entry: Entry, spell: Callable[[str], list[str]], config: Config, tied: str
) -> None:
    """Add an entry to `fit` if it lies in modules that were trained whole."""
    found = [next(filter(config.saves, spell(module_of(name))), '') for name in entry.names]
    if not any(found):
        return
    if tied or not all(found) or entry.path.endswith(('/mean', '/var')):
        why = tied or 'we take all of a weight, and no batch statistics'
        fit.problems.append(f'modules_to_save: {entry.path!r} cannot come from there: {why}')
        return
    keys = [f'{PREFIX}{m}.{name.rpartition(".")[2]}' for m, name in zip(found, entry.names)]
    fit.saved.append((entry, keys))
    fit.shapes |= zip(keys, entry.shapes)


def _differences(source: Source, fit: _Fit) -> list[str]:
    """Write a clause for each array that is missing, unexpected, or of another shape or kind."""
    tensors, bases = source.tensors, {f'{PREFIX}{module}.{BASE}' for module in fit.adapted}
    return misfits(
        (key for key in fit.shapes if key not in tensors),
        (key for key in tensors if key not in {*fit.shapes, *bases}),
        mismatched(tensors, fit.shapes, {key: key for key in tensors}),
    )


def _array(source: Source, key: str) -> np.ndarray:
    array = source.tensors[key].read()
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        fail(source.path, f'JAX would cut {array.dtype} short: turn on jax_enable_x64', key)
    if not np.isfinite(array).all():
        fail(source.path, 'expected finite values, found NaN or infinity', key)
    return array


def _replaced(params: Params, entry: Entry, value: np.ndarray) -> Param:
    """Return a trainable parameter of another value, in the dtype of more bits."""
    param = _fitting(params, entry)
    dtype = wider(value.dtype, param.dtype)
    return Param(value.astype(dtype), True, param.metadata)


def _fitting(params: Params, entry: Entry) -> Param:
    param = params[entry.path]
    if param.shape != entry.shape:
        raise ValueError(f'{entry.path!r}: expected {entry.shape}, found {param.shape}')
    return param


def _check_base(source: Source, params: Params, module: str, site: Site) -> None:
    """Raise CheckpointError if PEFT saved another value of the base than `params` have."""
    value, key = np.asarray(_fitting(params, site.entry).value), f'{PREFIX}{module}.{BASE}'
    ours = site.entry.via.inverse(value, len(site.entry.names))[site.place]
    if key in source.tensors and not np.array_equal(_array(source, key), ours):
        fail(source.path, f'expected the base, {site.entry.path!r}, found other values', key)


# Writing.


class _Pair(NamedTuple):
    """The adapter of one module, by its live name: our a and b, and their scale."""

    module: str
    site: Site
    a: np.ndarray
    b: np.ndarray
    scale: float

    @property
    def keys(self) -> list[str]:
        """Names of the two arrays in the file."""
        return self.site.keys(self.module)

    @property
    def arrays(self) -> list[np.ndarray]:
        """The two arrays as PEFT has them."""
        return self.site.theirs(self.a, self.b)


def _adapted(modules: Modules, params: Params) -> list[_Pair]:
    """Return the adapter of each module that is adapted. ValueError if there is none."""
    own = [path for path, param in params.items() if param.metadata.get('tag') == TAG]
    if not own:
        raise ValueError(
            'these Params have no adapters to export: bx.lora(params, where) adds some'
        )
    paths = sorted({path.rpartition(f'_{TAG}_')[0] for path in own})
    if strays := [path for path in paths if path not in modules.entries]:
        raise ValueError(f'{modules.model!r} has no {", ".join(strays)}, which is adapted')
    live, pairs = modules.live(), []
    for entry in map(modules.entries.__getitem__, paths):
        _fitting(params, entry)
        if refusal := modules.refusal(entry):
            raise ValueError(f'PEFT has no adapter for {entry.path!r}: {refusal}')
        for module, site in modules.sites(entry).items():
            parts = [part for part in adapters(params, entry.path) if _overlap(part, site)]
            if parts:
                pairs.append(_Pair(live[module], site, *_joined(parts, site)))
    return pairs


def _overlap(adapter: Adapter, site: Site) -> bool:
    stop = adapter.start + adapter.b.shape[1]
    return adapter.start < site.start + site.outputs and site.start < stop


def _joined(parts: Sequence[Adapter], site: Site) -> tuple[np.ndarray, np.ndarray, float]:
    """Join adapters of parts of a module's outputs into one of all, with zeros between them."""
    scale, *others = {part.scale for part in parts}
    if others:
        raise ValueError(
            f'PEFT has one scale for a module, and {site.entry.path!r} has adapters of scales '
            f'{", ".join(str(part.scale) for part in parts)} that would be one'
        )
    a = np.concatenate([np.asarray(part.a) for part in parts], -1)
    b = np.zeros((a.shape[-1], site.outputs), parts[0].b.dtype)
    row = 0
    for part in parts:
        columns = np.asarray(part.b)[:, max(site.start - part.start, 0) :][:, : site.outputs]
        column = max(part.start - site.start, 0)
        b[row : row + len(columns), column : column + columns.shape[1]] = columns
        row += len(columns)
    return a, b, scale


def _saved(modules: Modules, params: Params) -> dict[str, np.ndarray]:
    """Return the arrays of modules that are trainable as a whole, by their live names."""
    live, arrays = modules.live(), {}
    for entry in _trainable(modules, params):
        parts = entry.via.inverse(np.asarray(params[entry.path].value), len(entry.names))
        for name, part in zip(entry.names, parts):
            arrays[f'{live[module_of(name)]}.{name.rpartition(".")[2]}'] = part
    return arrays


def _trainable(modules: Modules, params: Params) -> list[Entry]:
    """Return the entries that are trainable. ValueError unless they make up modules."""
    entries = modules.entries.values()
    found = [entry for entry in entries if _fitting(params, entry) and params[entry.path].trainable]
    whole = {module_of(name) for entry in found for name in entry.names}
    for entry in entries:
        inside = whole & {module_of(name) for name in entry.names}
        is_found, why = entry in found, modules.tied(entry)
        if is_found and not all(name.endswith(('.weight', '.bias')) for name in entry.names):
            why = 'no module of theirs is this alone'
        if is_found and any(adapters(params, entry.path)):
            why = 'it is adapted, and PEFT does one or the other'
        if is_found and why:
            raise ValueError(f'PEFT cannot save {entry.path!r}: {why}; freeze it')
        if inside and not is_found:
            raise ValueError(
                f'PEFT saves modules whole: {", ".join(sorted(inside))} is trainable, '
                f'{entry.path!r} is not'
            )
    return found
