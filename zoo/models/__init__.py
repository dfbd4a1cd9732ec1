"""Architectures, one family a file, each with a FAMILY at its bottom."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping

from blox.module import Module
from blox.zoo.architecture.family import Family


@functools.cache
def families() -> Mapping[str, Family]:
    """Return all families by name: one for each file in this folder."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = (importlib.import_module(f'{__name__}.{name}') for name in names)
    return {module.FAMILY.name: module.FAMILY for module in modules}


def family_of(model: Module) -> Family:
    """Return the family that `model` is of. TypeError if it is none of the zoo's."""
    for family in families().values():
        if type(model) is family.model:
            return family
    raise TypeError(f'{type(model).__name__} is not a model of the zoo: {", ".join(families())}')
