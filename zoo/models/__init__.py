"""Architectures, one family a file, each with a FAMILY at its bottom; and those of other packages."""

import functools
import importlib
import logging
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from blox.module import Module
from blox.zoo.architecture.family import Family, check_family

_LOG = logging.getLogger('blox')
# The group of entry points by which packages name their families.
_GROUP = 'blox.families'

_registered: dict[str, Family] = {}
# Not empty while packages are imported, which may register what they name.
_loading: list[bool] = []


@functools.cache
def families() -> Mapping[str, Family]:
    """Return all families by name: one for each file in this folder, and those of others."""
    return {**_own(), **_of_packages(), **_registered}


@functools.cache
def _own() -> Mapping[str, Family]:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    modules = (importlib.import_module(f'{__name__}.{name}') for name in names)
    return {module.FAMILY.name: module.FAMILY for module in modules}


@functools.cache
def _of_packages() -> Mapping[str, Family]:
    """Return the families that installed packages name; what is wrong with one is logged."""
    found: dict[str, Family] = {}
    _loading.append(True)
    try:
        for point in entry_points(group=_GROUP):
            try:
                family = point.load()
                _check_new(family, found)
            except Exception as error:
                _LOG.warning('%s: the family %s cannot be used: %s', _GROUP, point.value, error)
                continue
            found[family.name] = family
    finally:
        _loading.pop()
    return found


def register(family: Any) -> None:
    """Make an architecture of your own known to `create`, `load`, `save` and all commands.

    Files that `save` wrote of it open where it is registered, or where a package is installed that names
    it in the group of entry points 'blox.families', which needs no call. Registered again, as a notebook's
    cell does it, it takes the place of what had its name.

    Raises ValueError for names or a model that another family has, and for a family whose first variant makes no
    model.
    """
    packages = {} if _loading else _of_packages()
    if family in packages.values():
        return
    others = {
        name: other for name, other in _registered.items() if name != getattr(family, 'name', '')
    }
    _check_new(family, {**packages, **others})
    _registered[family.name] = family
    families.cache_clear()


def _check_new(family: Any, others: Mapping[str, Family]) -> None:
    taken = {**_own(), **others}
    if isinstance(family, Family) and family.name in taken:
        raise ValueError(f'a family {family.name!r} is there already: give yours another name')
    check_family(family)
    names = {name for other in taken.values() for name in other.variants}
    if both := sorted(names & {*family.variants}):
        raise ValueError(f'variants {both} are of other families: give yours other names')
    if same := [other.name for other in taken.values() if other.model is family.model]:
        raise ValueError(f'{family.model.__name__} is the model of family {same[0]!r} already')


def family_of(model: Module) -> Family:
    """Return the family that `model` is of. TypeError if it is none of the zoo's."""
    for family in families().values():
        if type(model) is family.model:
            return family
    raise TypeError(
        f'{type(model).__name__} is not a model of the zoo: {", ".join(families())}; '
        'bx.zoo.register(FAMILY) adds one of your own'
    )
