"""What tests must be told of each family: plain data, a module a family, found by being there.

A new family is one new file here; all general tests run over it. It may have

  TINY          fields of a small config: the tests' own model. Every library can say it,
                if not in each of its layouts.
  FITTED        changes of TINY that make it a model of a layout that cannot hold TINY, by layout.
  ODD           changes of it that no published variant has, in parameters: each is converted
                in all layouts that can hold it and run. The first is the most different, and trained too.
  TOLD          changes of settings that some library's config.json can say.
  BROKEN        fields that make no model, and the condition that the error names; what fields of
                one name have in common is tested without.
  NUM_PARAMS    as the reference library counts them, by variant.
  REFERENCES    how reference libraries make small models, by name: see tests/libraries.py.
                The first of each layout is the plain one. 'x' of family f is the case 'f x'.
  FULL_SIZE     the same, for published sizes that parity is shown of, by their papers' names.
  GOLDEN        references that tests/golden/make.py keeps the outputs of, by layout.
  PREFIX        what names of weights in transformers' files may start with, or not.
  SOURCES       patterns of the catalog's sources, with the name in the catalog that each gives,
                in which \\1 is what the pattern matched, and how many there are.
  HONOURED      pairs of fields of a library's config.json and of ours, by layout.
  REFUSED       fields of a library's config.json that are refused by name, by layout.
  WHOLE         layouts of which there are published sizes alone: no small model is written in them.
  LACKS         changes that a library cannot express, and what an export says, by layout.

TINY, NUM_PARAMS and REFERENCES must be there; a name that is misspelt is an error.
"""

import functools
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from libraries import Reference

from blox.converters import layouts
from blox.zoo.models import families

Fields = Mapping[str, Any]


class Declared(NamedTuple):
    """What a module here says; see above."""

    name: str
    tiny: Fields
    num_params: Mapping[str, int]
    references: Mapping[str, Reference]
    fitted: Mapping[str, Fields] = {}
    odd: Sequence[Fields] = ()
    told: Sequence[Fields] = ()
    broken: Sequence[tuple[Fields, str]] = ()
    full_size: Mapping[str, Reference] = {}
    golden: Mapping[str, Reference] = {}
    prefix: str = ''
    sources: Mapping[str, tuple[str, int]] = {}
    honoured: Mapping[str, Sequence[tuple[Fields, Fields]]] = {}
    refused: Mapping[str, Fields] = {}
    whole: Sequence[str] = ()
    lacks: Mapping[str, Sequence[tuple[Fields, str]]] = {}


@functools.cache
def declared() -> Mapping[str, Declared]:
    """Return what is told of all families, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = {name: vars(importlib.import_module(f'{__name__}.{name}')) for name in names}
    return {
        name: Declared(
            name, **{key.lower(): said[key] for key in said if key.isupper() and key[0] != '_'}
        )
        for name, said in modules.items()
    }


def tiny(family: str, **fields: Any) -> Any:
    """Return the config that a family's tests use, with some fields changed."""
    return families()[family].config(**{**declared()[family].tiny, **fields})


def fitted(family: str, layout: str, **fields: Any) -> Any:
    """Return the config that tests of a layout use, with some fields changed."""
    return tiny(family, **{**declared()[family].fitted.get(layout, {}), **fields})


def small() -> dict[str, Any]:
    """Return all small configs by name: the tiny ones, and those that are odd."""
    return {
        f'{name}-{odd or "tiny"}': tiny(name, **odd)
        for name, said in declared().items()
        for odd in ({}, *said.odd)
    }


def small_by_layout() -> list[tuple[str, str]]:
    """Return the names of all small configs, each with every layout that can hold it."""
    return [
        (name, layout)
        for name, config in small().items()
        for layout, table in layouts(family_of(config).name).items()
        if not table.beyond(config)
    ]


def build(config: Any) -> Any:
    """Return the model of a config of any family."""
    return family_of(config).build(config)


def family_of(config: Any) -> Any:
    """Return the family that a config is of."""
    return next(family for family in families().values() if type(config) is family.config)


def libraries_of(family: str) -> dict[str, Any]:
    """Return the tables of layouts that a library of torch reads and writes, of small models too."""
    whole = declared()[family].whole
    return {
        layout: table
        for layout, table in layouts(family).items()
        if table.library and layout not in whole
    }


def every_library() -> list[tuple[str, str]]:
    """Return all pairs of a family and a layout that has a library."""
    return [(family, layout) for family in declared() for layout in libraries_of(family)]
