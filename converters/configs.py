"""Translate configs of other libraries to ours and back, by a table's fields."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blox.converters.mapping.fields import read_fields, write_fields
from blox.converters.mapping.libraries import (
    TIMM,
    Library,
    library_of,
    timm_names,
    timm_version,
)
from blox.converters.mapping.rules import Table
from blox.converters.sources.source import Source
from blox.converters.sources.tensor import Tensor
from blox.converters.tables import families, layouts
from blox.tensorfile import fail


class Identity(NamedTuple):
    """The family that a config.json is of, and the layout of the weights beside it."""

    family: str
    layout: str


def identify(path: Path, config: Mapping[str, Any]) -> Identity:
    """Find the family and the layout that a config.json speaks of.

    Raises CheckpointError, which names `path` and lists what is known, for any other.
    """
    if not config:
        fail(
            path,
            'expected a folder with a config.json of transformers or timm, or an '
            'open_clip_config.json; for weights alone '
            "name the model that they are of: bx.zoo.load('resnet50', source=PATH)",
        )
    library = library_of(config)
    known = {kind: one for one, table in _tables(library) for kind in table.kinds}
    try:
        name = library.kind(config)
    except ValueError as error:
        fail(path, f'{library.config}: {error}')
    if library is not TIMM:
        if name not in known:
            what = f'expected model_type {", ".join(sorted(known))} in {library.config}'
            fail(path, f'{what}, found {name!r}')
        return known[name]
    if name not in timm_names():
        fail(path, f'timm {timm_version()} has no architecture {name!r}, which config.json names')
    kind = timm_names()[name].kind
    if kind not in known:
        what = f'expected a timm architecture of class {", ".join(sorted(known))} in config.json'
        fail(path, f'{what}, found {name!r}, which is a {kind}')
    return known[kind]


def _tables(library: Library) -> list[tuple[Identity, Table]]:
    """Return all families' tables of a library."""
    return [
        (Identity(family, layout), table)
        for family in families()
        for layout, table in layouts(family).items()
        if table.library is library
    ]


def read_config(table: Table, source: Source, task: str = '') -> dict[str, Any]:
    """Return our config's fields of a folder, for a `task` of ours if it has a head for that.

    Without that head they are the fields of the body alone; '' stands for what the folder is of.
    Raises ValueError that lists all settings that no model of ours has.
    """
    library = _library(table)
    theirs = library.flatten(source.config)
    try:
        ours = read_fields(table.fields, theirs, _is_neutral(table))
    except ValueError as error:
        name = library.kind(source.config)
        owner = f"{library.name}'" if library.name.endswith('s') else f"{library.name}'s"
        needs = f"{owner} {name} needs what blox's {table.kinds[0]} lacks"
        raise ValueError(f'{needs}: {error}') from error
    return ours | table.beside(source, {**ours, 'task': task} if task else ours)


def _is_neutral(table: Table) -> Callable[[str, Any], bool]:
    """Tell which settings change no output, by the table and by its library."""
    library = _library(table)
    return lambda name, value: (
        any(re.fullmatch(pattern, name) for pattern in table.neutral)
        or library.is_neutral(name, value)
    )


def write_config(table: Table, config: Any) -> dict[str, Any]:
    """Return the config.json of our config.

    It is read back: what does not come out as it went in, their library cannot express, and a
    ValueError names it.
    """
    library = _library(table)
    known = _fields(config)
    try:
        theirs = write_fields(table.fields, known)
        made = table.header(config, theirs)
        if library is TIMM:
            made = {'architecture': _timm_architecture(table, known, made['model_args']), **made}
        _check_expressed(table, config, made)
    except ValueError as error:
        kind = type(config).__name__.removesuffix('Config')
        raise ValueError(f'{library.name} cannot express this {kind}: {error}') from error
    return made


def _check_expressed(table: Table, config: Any, made: Mapping[str, Any]) -> None:
    """Raise ValueError unless a folder with this config.json would give the config again."""
    back = _read_back(table, config, made)
    wrong = [
        f'{name} {value!r}, which would be {back[name]!r} there'
        for name, value in _fields(config).items()
        if name not in (*table.unsaid(config), *config.RUN_FIELDS) and back[name] != value
    ]
    if wrong:
        raise ValueError('; '.join(wrong))


def _read_back(table: Table, config: Any, made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the config that a folder with this config.json would give."""
    names = (name for rule in table.rules(config) for name in rule.external)
    hollow = Tensor(np.dtype(np.float32), (), lambda: np.zeros((), np.float32), Path())
    source = Source(Path(), dict.fromkeys(names, hollow), made, table.companions(config))
    return _fields(dataclasses.replace(type(config)(), **read_config(table, source)))


def _timm_architecture(table: Table, known: Mapping[str, Any], arguments: Mapping[str, Any]) -> str:
    """Return the timm name that fits best: in what no argument says, then in all, then the shortest."""
    implied = {f.ours for f in table.fields if f.ours and not {*f.names} & {*arguments}}

    def rank(name: str, ours: Mapping[str, Any]) -> tuple[int, int, int, str]:
        same = {field for field, value in ours.items() if known[field] == value}
        return -len(same & implied), -len(same), len(name), name

    return min(rank(*item) for item in _timm_configs(table.kinds).items())[-1]


@functools.cache
def _timm_configs(kinds: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return our fields of each timm name of these classes that we have."""
    (table,) = (table for _, table in _tables(TIMM) if table.kinds == kinds)
    found = {}
    for name, (kind, arguments) in timm_names().items():
        if kind in kinds and arguments is not None:
            with contextlib.suppress(ValueError):
                found[name] = read_fields(table.fields, arguments, _is_neutral(table))
    return found


def _library(table: Table) -> Library:
    if table.library is None:
        raise ValueError('these weights come without a config, and none is written for them')
    return table.library


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
