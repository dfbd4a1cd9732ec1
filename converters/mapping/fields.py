"""Fields of configs: one description of each, read in both directions.

A Rule says which of their arrays make one of ours; a Field says which of their settings is one of
ours. A setting that no Field names must have the value that their library takes for granted.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from blox.wording import counted

# Fields of our config that are known so far, or all of them.
Known = Mapping[str, Any]


@dataclass(frozen=True)
class Via:
    """Translate a value: `read` from theirs to ours, `write` from ours to theirs.

    Both take the value and our other fields, and raise ValueError that says what they expect:
    the rest of a message '... (expected one of 1, 2)'.
    `read` gets values of the type of the field's default, of any type if it `takes_any`; null
    stands for the default, unless it `takes_null`.
    """

    read: Callable[[Any, Known], Any] = lambda value, known: value
    write: Callable[[Any, Known], Any] = lambda value, known: value
    takes_any: bool = False
    takes_null: bool = False


SAME = Via()


@dataclass(frozen=True)
class Field:
    """One setting: `ours` is `theirs`, through `via`.

    Several of ours, or several of theirs, are equal on the other side. One of theirs that says
    several things has a Field for each of ours; one of ours that several of theirs decide has one for
    each of these, and the last one read or written counts. Without `ours`, every model of ours has
    what `default` says.

    Attributes:
      default: what theirs is where their config is silent, or a function of our fields before this
        one.
    """

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    default: Any
    via: Via = SAME

    def read(self, theirs: Known, known: Known) -> dict[str, Any]:
        """Return ours of their config. ValueError says what was found and what is expected."""
        default = self.default(known) if callable(self.default) else self.default
        values = {
            name: _value(name, theirs.get(name, default), default, self.via) for name in self.names
        }
        first = _one_value(values)
        if not self.ours and not equal(first, default):
            raise _unlike(self.names[0], first, repr(default))
        try:
            value = self.via.read(first, known)
        except ValueError as error:
            raise _unlike(self.names[0], first, error) from error
        return dict.fromkeys(_tuple(self.ours), value)

    def write(self, config: Known) -> dict[str, Any]:
        """Return theirs of our config. ValueError says what they cannot express."""
        if not self.ours:
            return {}
        ours = _tuple(self.ours)
        first = _one_value({name: config[name] for name in ours})
        try:
            value = self.via.write(first, config)
        except ValueError as error:
            raise _unlike(ours[0], first, error) from error
        return dict.fromkeys(self.names, value)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of their settings."""
        return _tuple(self.theirs)


def fixed(**values: Any) -> tuple[Field, ...]:
    """Make a Field for each setting of theirs that has this value in every model of ours."""
    return tuple(Field((), name, value) for name, value in values.items())


def read_fields(
    fields: Iterable[Field], theirs: Mapping[str, Any], is_neutral: Callable[[str, Any], bool]
) -> dict[str, Any]:
    """Return our fields of an external config.

    Raises ValueError that lists every setting that no model of ours has, with its value: those
    that a Field refuses, and all that no Field names, `is_neutral` ones apart.
    """
    left, ours, problems = dict(theirs), {}, []
    for field in fields:
        try:
            ours |= field.read(theirs, ours)
        except ValueError as error:
            problems.append(str(error))
        except KeyError:  # A field before this one, which it depends on, was refused.
            pass
        left = {name: value for name, value in left.items() if name not in field.names}
    problems += [
        f'{name} {value!r}' for name, value in sorted(left.items()) if not is_neutral(name, value)
    ]
    if problems:
        raise ValueError(', '.join(dict.fromkeys(problems)))
    return ours


def write_fields(fields: Iterable[Field], config: Known) -> dict[str, Any]:
    """Return the external fields of our config. ValueError lists what they cannot express."""
    theirs, problems = {}, []
    for field in fields:
        try:
            theirs |= field.write(config)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(', '.join(dict.fromkeys(problems)))
    return theirs


def _one_value(values: Mapping[str, Any]) -> Any:
    """Return the one value of all names. ValueError if there are several."""
    first, *others = values.values()
    if any(value != first for value in others):
        found = ' and '.join(f'{name} {value!r}' for name, value in values.items())
        raise ValueError(f'{found} (expected equal ones)')
    return first


def _unlike(name: str, found: Any, expected: object) -> ValueError:
    return ValueError(f'{name} {found!r} (expected {expected})')


def _tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _value(name: str, value: Any, default: Any, via: Via) -> Any:
    """Check the type of a value; null stands for the default, but is no false."""
    if value is None and via.takes_null:
        return None
    if value is None and not isinstance(default, bool):
        return default
    if default is not None and not via.takes_any and not _is_like(value, default):
        raise _unlike(name, value, f'one like {default!r}')
    return value


def _is_like(value: Any, default: Any) -> bool:
    """Return whether `value` has the type of `default`; an int may stand for a float.

    An empty list is one of integers.
    """
    if isinstance(default, list | tuple):
        one = default[0] if default else 0
        return isinstance(value, list | tuple) and all(_is_like(item, one) for item in value)
    return is_number(value) if type(default) is float else type(value) is type(default)


def is_number(value: Any) -> bool:
    """Return whether `value` is a finite float, or an integer that may stand for one."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def equal(a: Any, b: Any) -> bool:
    """Return whether two settings say the same; True is not 1 in a config."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


# Translations that several tables need.


def one_of(values: Mapping[Any, Any]) -> Via:
    """Translate by a table from theirs to ours; of several of theirs the first is written."""

    def pick(table: Mapping[Any, Any], value: Any) -> Any:
        try:
            return table[value]
        except (KeyError, TypeError):
            known = ', '.join(map(repr, table))
            raise ValueError(f'one of {known}' if len(table) > 1 else known) from None

    back = {ours: theirs for theirs, ours in reversed(list(values.items()))}
    return Via(lambda value, known: pick(values, value), lambda value, known: pick(back, value))


def _read_pair(value: Any, known: Known) -> tuple[int, int]:
    size = [value, value] if type(value) is int else value
    if not isinstance(size, list | tuple) or [type(n) for n in size] != [int, int]:
        raise ValueError('one integer or two')
    return size[0], size[1]


# Height and width: theirs may be one integer for both.
PAIR = Via(
    _read_pair, lambda size, known: size[0] if size[0] == size[1] else list(size), takes_any=True
)


def pair_of(holds: Callable[[int, int], bool], expected: str) -> Via:
    """Translate height and width as PAIR does, where something holds of them."""

    def check(size: Any, known: Known) -> tuple[int, int]:
        height, width = _read_pair(size, known)
        if not holds(height, width):
            raise ValueError(expected)
        return height, width

    write = lambda size, known: PAIR.write(check(size, known), known)  # noqa: E731
    return Via(check, write, takes_any=True)


TUPLE = Via(lambda values, known: tuple(values), lambda values, known: list(values))


def stages(count: int) -> Via:
    """Translate a list of one value for each stage, where theirs have this many."""

    def check(values: Any, known: Known) -> Any:
        if len(values) != count:
            raise ValueError(counted(count, 'stage'))
        return values

    return Via(lambda v, known: tuple(check(v, known)), lambda v, known: list(check(v, known)))


def times(name: str) -> Via:
    """Translate a ratio of theirs to our field `name` into the product."""

    def write(product: int, known: Known) -> float:
        ratio = product / known[name]
        # Rounded up where their product, rounded down, would miss ours.
        return ratio if int(known[name] * ratio) == product else math.nextafter(ratio, math.inf)

    return Via(lambda ratio, known: int(known[name] * ratio), write)
