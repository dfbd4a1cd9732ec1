r"""Judge a stranger's regular expression before Oniguruma, which backtracks, runs it.

Understood is the part of its syntax that published tokenizers use; the rest (references, recursion,
inline options, `\K`) is refused. An expression passes if the time that it takes grows with the
text and no faster. The exception are runs of like characters, of which an expression may try every
end: `\s+(?!\S)` and `\p{Lu}*\p{Ll}+` do. The square of a run is little, for runs end with words.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from tokenizers import Regex, normalizers

MAX_LENGTH = 2000
_MAX_DEPTH = 16
# The longest published ones have 70 characters and classes to match, in 50 ways.
_MAX_SIZE = 1000
_MAX_WAYS = 256

_ATOM = re.compile(
    r'\\[pP]\{\^?\w+\}|\\x\{[0-9a-fA-F]+\}|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}'
    r'|\\[sSdDwWhHnrtfv]|\\[^A-Za-z0-9]|[^\\^$|?*+()\[{]',
    re.DOTALL,
)
_ANCHOR = re.compile(r'\\[bBAzZ]|[\^$]')
_GROUP = re.compile(r'\((?:\?(?:[im]*(?:-[im]+)?:|>|=|!|<=|<!))?')
_REPEAT = re.compile(r'([?*+])[?+]?|\{([0-9]{1,4})(,?)([0-9]{0,4})\}')
# What goes on to a closing bracket: texts do not open many that they never close.
_BRACKETED = re.compile(r'\\\[\[\^\\\]\][*+]\\?\]|<\[\^>\][*+]>')
_SPACE = re.compile(r'\\[snrt]|\s|\[(\\[snrt]| )+\]')


class _Part(NamedTuple):
    """What a part of an expression may match, and at which cost."""

    # Characters that it matches at least; atoms, as often as they are repeated; ways to match.
    least: int = 1
    size: int = 1
    ways: int = 1
    # Repetitions without end; those of them that may run for nothing, for what follows fails.
    loops: int = 0
    wasted: int = 0
    # Kinds of characters: a run of 'space', of a 'word', or of 'any'.
    kinds: frozenset[str] = frozenset()
    may_fail: bool = True
    # It matches the same number of characters, tried once.
    is_fixed: bool = True


def least_match(expression: str) -> int:
    """Return how many characters the expression matches at least. ValueError if it is refused."""
    if len(expression) > MAX_LENGTH:
        raise ValueError(f'expected at most {MAX_LENGTH} characters, found {len(expression)}')
    start = 4 if expression.startswith('(?i)') else 0
    part, end = _alternatives(expression, start, 0)
    if end < len(expression):
        raise ValueError('a bracket closes that was not opened')
    if part.size > _MAX_SIZE:
        raise ValueError(f'expected {_MAX_SIZE} characters to match or less, found {part.size}')
    if part.ways > _MAX_WAYS:
        raise ValueError(f'expected {_MAX_WAYS} ways to match or less, found {part.ways}')
    return min(part.least, 1) if start else part.least


def _alternatives(text: str, at: int, depth: int) -> tuple[_Part, int]:
    if depth > _MAX_DEPTH:
        raise ValueError(f'expected groups at most {_MAX_DEPTH} deep')
    part, at = _sequence(text, at, depth)
    parts = [part]
    while text.startswith('|', at):
        part, at = _sequence(text, at + 1, depth)
        parts.append(part)
    if len(parts) == 1:
        return part, at
    return _Part(
        min(part.least for part in parts),
        sum(part.size for part in parts),
        sum(part.ways for part in parts),
        max(part.loops for part in parts),
        max(part.wasted for part in parts),
        _kinds(parts),
        all(part.may_fail for part in parts),
        is_fixed=False,
    ), at


def _sequence(text: str, at: int, depth: int) -> tuple[_Part, int]:
    parts = []
    while at < len(text) and text[at] not in '|)':
        part, end = _atom(text, at, depth)
        part, at = _repeated(text, end, part)
        parts.append(part)
    # Once nothing can fail any more, no loop was for nothing, and the text moves on by it.
    last = max((i for i, part in enumerate(parts) if part.may_fail), default=-1)
    before = parts[: max(last, 0)]
    again = sum(part.loops for part in before)
    wasted = max((part.wasted + again * (i == last) for i, part in enumerate(parts)), default=0)
    if wasted > 1:
        raise ValueError('what may fail follows several repetitions without end')
    if any(part.loops and _runs_on(part) for part in before):
        raise ValueError('what may fail follows a repetition that runs on through words and spaces')
    return _Part(
        sum(part.least for part in parts),
        sum(part.size for part in parts),
        math.prod(part.ways for part in parts),
        sum(part.loops for part in parts),
        wasted,
        _kinds(parts),
        any(part.may_fail for part in parts),
        all(part.is_fixed for part in parts),
    ), at


def _kinds(parts: Iterable[_Part]) -> frozenset[str]:
    return frozenset().union(*(part.kinds for part in parts))


def _runs_on(part: _Part) -> bool:
    return len(part.kinds) > 1 or 'any' in part.kinds


def _atom(text: str, at: int, depth: int) -> tuple[_Part, int]:
    if found := _BRACKETED.match(text, at):
        return _Part(2, 3, loops=1, kinds=frozenset({'any'}), is_fixed=False), found.end()
    if text.startswith('[', at):
        end = _class_end(text, at)
        return _Part(kinds=frozenset({_kind(text[at:end])})), end
    if found := _ATOM.match(text, at):
        return _Part(kinds=frozenset({_kind(found[0])})), found.end()
    if found := _ANCHOR.match(text, at):
        return _Part(least=0), found.end()
    if not (found := _GROUP.match(text, at)):
        raise ValueError(f'{text[at : at + 6]!r} is not understood')
    part, at = _alternatives(text, found.end(), depth + 1)
    if not text.startswith(')', at):
        raise ValueError('a bracket opens that is not closed')
    if 'i' in found[0]:  # One ß is ss.
        part = part._replace(least=min(part.least, 1))
    if found[0][-1] in '=!':
        # It is tried anew at every place, for it moves the text on by nothing.
        if part.loops > 1 or (part.loops and ('<' in found[0] or _runs_on(part))):
            raise ValueError('what is looked for ahead or behind goes on without end')
        part = part._replace(least=0, wasted=part.loops, may_fail=True, is_fixed=False)
    return part, at + 1


def _repeated(text: str, at: int, part: _Part) -> tuple[_Part, int]:
    if not (found := _REPEAT.match(text, at)):
        return part, at
    if found.end() < len(text) and text[found.end()] in '?*+{':
        raise ValueError(f'{text[at : at + 6]!r} is not understood')
    least = int(found[2] or found[1] == '+')
    most = 1 if found[1] == '?' else int(found[4] or least) if found[2] else None
    if found[3] and not found[4]:
        most = None
    if most is not None and most < least:
        raise ValueError(f'{found[0]!r} is not understood')
    if (least, most) == (0, 1):
        return part._replace(
            least=0, ways=part.ways + 1, may_fail=False, is_fixed=False
        ), found.end()
    if not part.is_fixed or not part.least:
        raise ValueError('what may match in several ways, or nothing, is repeated')
    return _Part(
        part.least * least,
        part.size * (most or max(least, 1)),
        1 if most is None else most - least + 1,
        loops=int(most is None),
        kinds=part.kinds,
        may_fail=least > 0,
        is_fixed=least == most,
    ), found.end()


def _class_end(text: str, at: int) -> int:
    """Return where the class that begins at `at`, with those inside of it, has ended."""
    depth = 0
    while at < len(text):
        if text[at] == '[':
            depth += 1
            if re.compile(r'\[\^?\]').match(text, at):
                raise ValueError(f'{text[at : at + 6]!r} is not understood')
        depth -= text[at] == ']'
        at += 2 if text[at] == '\\' else 1
        if not depth:
            return at
    raise ValueError('a bracket opens that is not closed')


def _kind(atom: str) -> str:
    """Return whether a run of what matches is of 'space', of a 'word' or line, or of 'any'."""
    if _SPACE.fullmatch(atom):
        return 'space'
    try:
        kept = normalizers.Replace(Regex(atom), '').normalize_str(' \n')
    except Exception as error:  # The library has no class of its own.
        raise ValueError(str(error)) from error
    return 'word' if kept == ' \n' else 'any'
