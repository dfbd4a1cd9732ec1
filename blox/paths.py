"""Patterns over paths: 'vit/block*/attn/**' names a part of a model.

A path is segments joined by '/'. In a pattern, `*` stands for any text inside one segment, `?` for
one character, `[abc]` for one of a set, `[!abc]` for one that is not in it, and a
segment `**` for any number of whole segments, none included.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from blox.wording import counted

if TYPE_CHECKING:
    from blox.param import Param

Where: TypeAlias = 'str | Sequence[str] | Callable[[str, Param], bool]'
NaturalKey: TypeAlias = tuple[tuple[str | int, ...], ...]

_DIGITS = re.compile(r'(\d+)')


@functools.lru_cache(maxsize=2**16)
def natural_key(path: str) -> tuple[NaturalKey, str]:
    """Return a sort key that puts 'block2' before 'block10', segment by segment.

    >>> sorted(['net/block10/w', 'net/block2/w', 'net/b'], key=natural_key)
    ['net/b', 'net/block2/w', 'net/block10/w']
    """
    # re.split alternates text and digits and starts with text, so like is only compared with like.
    # The path itself decides between 'block2' and 'block02'.
    segments = tuple(
        tuple(int(part) if part.isdecimal() else part for part in _DIGITS.split(segment))
        for segment in path.split('/')
    )
    return segments, path


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not pattern or '' in pattern.split('/'):
        raise ValueError(
            f'{pattern!r} is not a path pattern: expected non-empty segments joined by '
            "'/', such as 'net/block*/w'"
        )
    segments = ['(?:[^/]+/)*' if s == '**' else _segment(s) + '/' for s in pattern.split('/')]
    try:
        return re.compile(''.join(segments))
    except re.error as error:
        raise ValueError(f'{pattern!r} is not a path pattern: {error}') from None


def _segment(glob: str) -> str:
    """Translate one segment of a pattern to a regular expression."""
    out, position = [], 0
    while position < len(glob):
        char = glob[position]
        negated = glob.startswith('[!', position)
        closing = glob.find(']', position + 2 + negated) if char == '[' else -1
        if closing > 0:
            # Only '-' has a meaning inside of a set; a set never holds the '/' between segments.
            body = re.sub(r'([\\^\[\]&~|])', r'\\\1', glob[position + 1 + negated : closing])
            out.append(f'[^/{body}]' if negated else f'(?!/)[{body}]')
            position = closing
        else:
            out.append({'*': '[^/]*', '?': '[^/]'}.get(char, re.escape(char)))
        position += 1
    return ''.join(out)


def matches(pattern: str, path: str) -> bool:
    """Tell whether `path` as a whole fits `pattern`.

    >>> matches('vit/block*/attn/**', 'vit/block3/attn/qkv/w')
    True
    >>> matches('vit/block*/w', 'vit/block3/attn/qkv/w')
    False
    >>> matches('**/w', 'vit/head/w')
    True
    """
    # Patterns are compiled with a '/' after each segment, so that '**' needs no special cases.
    return _compile(pattern).fullmatch(path + '/') is not None


def nearest(path: str, paths: Iterable[str]) -> list[str]:
    """Return up to three of `paths` that look most like `path`, for error messages."""
    return difflib.get_close_matches(path, list(paths), n=3, cutoff=0.5)


def select(where: Where, entries: 'Iterable[tuple[str, Param]]') -> frozenset[str]:
    """Return the paths among `entries` that `where` names.

    `where` is a pattern, several of them, or a predicate `(path, param) -> bool`.
    A pattern that matches none of them is a ValueError, for a misspelt one would otherwise
    do nothing in silence; a predicate may be false everywhere.
    """
    entries = list(entries)
    if callable(where):
        return frozenset(path for path, param in entries if where(path, param))
    selected: set[str] = set()
    paths = [path for path, _ in entries]
    for pattern in [where] if isinstance(where, str) else where:
        found = [path for path in paths if matches(pattern, path)]
        if not found and paths:
            hint = ', '.join(nearest(pattern, paths) or paths[:3])
            if any('*' in path for path in paths):
                hint += '; stacked blocks are one entry, which params.unstack() divides'
            raise ValueError(
                f'pattern {pattern!r} matches none of {counted(len(paths), "path")}; '
                f'nearest: {hint}'
            )
        selected.update(found)
    return frozenset(selected)
