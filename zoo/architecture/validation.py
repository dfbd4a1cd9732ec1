"""Refuse fields that are missing, unknown or wrong, all of them in one error."""

from collections.abc import Collection, Mapping
from typing import Any

from blox.wording import misfits


def expect(source: str, fields: Mapping[str, Any], holds: Mapping[str, bool]) -> None:
    """Raise ValueError with all clauses that do not hold, and what was found in the fields they name."""
    wrong = [clause for clause, is_so in holds.items() if not is_so]
    if wrong:
        named = {word for clause in wrong for word in clause.split()} & fields.keys()
        found = {name: value for name, value in fields.items() if name in named} or dict(fields)
        start = f'{source}: ' if source else ''
        raise ValueError(f'{start}expected {"; ".join(wrong)}; found {found}')


def expect_names(source: str, names: Collection[str], fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless `fields` has exactly these names."""
    if wrong := misfits(sorted({*names} - {*fields}), sorted({*fields} - {*names})):
        start = f'{source}: ' if source else ''
        raise ValueError(f'{start}{"; ".join(wrong)}')
