"""Tables of names and settings: one family of architectures a file, with TABLES at its bottom."""

import importlib
import pkgutil
from collections.abc import Mapping

from blox.converters.mapping.rules import Table


def families() -> list[str]:
    """Return the families that have tables, one for each file in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def layouts(family: str) -> Mapping[str, Table]:
    """Return a family's tables by the name of their layout: 'hf', 'timm', ..."""
    name = f'{__name__}.{family}'
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(
            f'no other library is known to have the family {family!r}: there is no table for it'
        ) from None
    return found.TABLES
