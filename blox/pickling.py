"""Pickling what a module keeps, compiled JAX functions such as `jax.nn.relu` included.

Pickle finds a plain function again by its name. It does not look for the name of a compiled one,
but for that of the function inside, which is no longer there under it.
"""

import pkgutil
import types
from typing import Any, NamedTuple


class _Name(NamedTuple):
    """The name that a function is found by, in its place."""

    text: str


def packed(value: Any) -> Any:
    """Replace compiled functions by their names, in lists and tuples too."""
    if type(value) in (list, tuple):
        return type(value)(map(packed, value))
    if not callable(value) or isinstance(value, type | types.FunctionType):
        return value
    # Instances of classes have no qualified name.
    text = f'{getattr(value, "__module__", "")}:{getattr(value, "__qualname__", "")}'
    try:
        return _Name(text) if pkgutil.resolve_name(text) is value else value
    except (AttributeError, ImportError, ValueError):
        return value


def unpacked(value: Any) -> Any:
    """Replace names by the functions that they are of; undoes `packed`."""
    if type(value) in (list, tuple):
        return type(value)(map(unpacked, value))
    return pkgutil.resolve_name(value.text) if isinstance(value, _Name) else value
