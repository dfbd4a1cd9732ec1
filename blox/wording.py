"""Wording that messages everywhere share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def some(texts: Sequence[Any], most: int = 10, separator: str = ', ') -> str:
    """Join the first few of several texts, and say how many more there are.

    >>> some(['a', 'b', 'c', 'd'], 2)
    'a, b, and 2 more'
    """
    more = [f'and {len(texts) - most} more'] if len(texts) > most else []
    return separator.join([*map(str, texts[:most]), *more])


def printable(value: object) -> str:
    r"""Write a text, path or error on one line that any terminal takes as it is.

    >>> printable('two\nlines')
    'two\\nlines'
    """
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode()
        for char in str(value)
    )


def printable_lines(value: object) -> str:
    r"""Write a text as `printable` does, but with its own lines and tabs.

    >>> printable_lines('red:\t\x1b[31m')
    'red:\t\\x1b[31m'
    """
    return ''.join(char if char in '\n\t' else printable(char) for char in str(value))


def cut(text: str, most: int) -> str:
    """Return the first `most` characters of a text, and dots if there are more."""
    return text if len(text) <= most else f'{text[:most]}...'


def misfits(
    missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[str] = ()
) -> list[str]:
    """Write a clause for each name that is missing or unexpected; those of the rest are given."""
    return [
        *(f'{name}: missing' for name in missing),
        *(f'{name!r}: unexpected' for name in unexpected),
        *mismatched,
    ]


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], what: str = '') -> list[str]:
    """Write a clause for each name that is missing, unexpected, or has another value.

    `what` says what the values are, of which no more than the start is shown.

    >>> differences({'w': (2, 3), 'b': (3,)}, {'w': (2, 2), 'c': (3,)}, 'shape')
    ['b: missing', "'c': unexpected", 'w: expected shape (2, 3), found (2, 2)']
    """
    start = f'{what} ' if what else ''
    return misfits(
        (name for name in expected if name not in found),
        (name for name in found if name not in expected),
        (
            f'{name}: expected {start}{cut(str(value), 40)}, found {cut(str(found[name]), 40)}'
            for name, value in expected.items()
            if name in found and found[name] != value
        ),
    )


def counted(count: int | str, one: str, many: str = '') -> str:
    """Write a number, as it is given, before what it counts or what is said of so many.

    >>> counted(1, 'image'), counted('1,540', 'token'), counted(2, 'entry', 'entries')
    ('1 image', '1,540 tokens', '2 entries')
    """
    return f'{count} {one if str(count) == "1" else many or f"{one}s"}'


def format_bytes(count: float) -> str:
    """Write a number of bytes with its unit.

    >>> format_bytes(132), format_bytes(1540), format_bytes(102228128)
    ('132.0 B', '1.5 KB', '97.5 MB')
    """
    for unit in ('B', 'KB', 'MB', 'GB'):
        if count < 1024:
            return f'{count:.1f} {unit}'
        count /= 1024
    return f'{count:.1f} TB'


def format_count(count: int) -> str:
    """Write a large number in few characters.

    >>> format_count(950), format_count(22_713_216), format_count(6_716_030_976)
    ('950', '22.7M', '6.7B')
    """
    for unit, size in (('B', 10**9), ('M', 10**6), ('K', 10**3)):
        if count >= size:
            return f'{count / size:.1f}{unit}'
    return str(count)


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of texts below each other, two spaces between the columns.

    >>> print(in_columns([('a', 'bcd'), ('ef', 'g')]))
    a   bcd
    ef  g
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ('  '.join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows)
    return '\n'.join(line.rstrip() for line in lines)
