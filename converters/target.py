"""A model as the target of a conversion: its shapes and dtypes, and its tables."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from blox.converters.mapping.rules import Table
from blox.converters.tables import layouts
from blox.graph import Graph
from blox.initialization import spec
from blox.params import Params


def model_spec(model: Any) -> Params:
    """Return shapes and dtypes of a model's Params, without computing them.

    Each block has entries of its own, as in files, though the model may scan them.
    """
    return _spec(type(model), model.path, dataclasses.replace(model.config, scan=False))


@functools.lru_cache(maxsize=16)
def _spec(kind: Any, path: str, config: Any) -> Params:
    # Tracing takes longer than all else about a header, and is asked for more than once.
    model = kind(Graph(path), config)
    return spec(model, *model.example_inputs())


def table_of(model: Any, layout: str) -> Table:
    """Return the table of a model's family for a layout.

    The first layout of a library stands for all that it has in the family: of these the one that can hold
    the model is taken. ValueError says what of the model's config none can hold, and lists the layouts that can.
    """
    known = layouts(model.path)
    if layout not in known:
        raise ValueError(f'{model.path!r} has the layouts {", ".join(known)}, not {layout!r}')
    nearest = min(meant(model, layout), key=lambda name: len(known[name].beyond(model.config)))
    if beyond := known[nearest].beyond(model.config):
        found = ', '.join(f'{name} {value!r}' for name, value in beyond.items())
        able = ', '.join(layouts_of(model))
        raise ValueError(
            f'no {nearest!r} checkpoint of {model.path!r} has {found}; {able} may have'
        )
    return known[nearest]


def meant(model: Any, layout: str) -> list[str]:
    """Return the layouts of a model's family that `layout` stands for: of a library's first one, all of its."""
    known = layouts(model.path)
    library = known[layout].library
    alike = [name for name, table in known.items() if library and table.library is library]
    return alike if layout in alike[:1] else [layout]


def layouts_of(model: Any) -> list[str]:
    """Return the layouts of a model's family that can hold it."""
    return [name for name, table in layouts(model.path).items() if not table.beyond(model.config)]
