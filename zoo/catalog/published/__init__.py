"""Published checkpoints, as literal rows: one family of architectures a file, each with its ROWS.

A name is an architecture, then who trained it or how, then what sets it apart from its siblings:
lowercase, joined by hyphens, a part left out where it is the plain one. A name may be an
architecture's too: it then has these weights. Facts of sources in timm's layout are timm 1.0.31's;
which commit a source is at is not among them.
"""

import functools
import importlib
import pkgutil

from blox.zoo.catalog.published.row import Published


@functools.cache
def published() -> dict[str, Published]:
    """Return the rows of all files in this folder by name."""
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != 'row')
    files = (importlib.import_module(f'{__name__}.{name}') for name in names)
    return {row.name: row for file in files for row in file.ROWS}
