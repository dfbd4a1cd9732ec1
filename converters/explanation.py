"""Compare a checkpoint's header with what a model needs, name by name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blox.converters.mapping.libraries import library_of
from blox.converters.mapping.rules import Entry, Respelling, plan, respell
from blox.converters.sources.source import Source, open_source
from blox.converters.sources.stacked import unstacked
from blox.converters.sources.states import is_counter, prefixes
from blox.converters.sources.tensor import Tensor
from blox.converters.target import layouts_of, model_spec, table_of
from blox.params import Params
from blox.tensorfile import holds_weights
from blox.wording import counted, cut, misfits

# Characters that fit on a screen; how many problems of each kind are shown there at most, and how long
# one may be.
SCREEN = 1_600
_FIRST = 5
_LONGEST = 250


@dataclass(frozen=True)
class Explanation:
    """A match of a checkpoint's names with a model's paths; `str` of it is a table.

    Attributes:
      layout: whose names these are: 'hf', 'timm', 'google' and so on.
      entries: the names that each path of ours is made of, with shapes.
      names: the checkpoint's own spelling of each name that was found.
      missing: names that a path needs and the checkpoint lacks, spelled as it spells others.
      unexpected: names that no path needs.
      mismatched: a clause for each name whose shape or dtype is wrong.
      ignored: names that are there and change nothing.
      left_out: those of the ignored that are a head's, which the model does without.
      prefix: what all of the checkpoint's names start with.
      library: the one that opens folders of this layout, '' where weights come alone.
    """

    path: Path
    layout: str
    entries: Mapping[str, Entry]
    names: Mapping[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    ignored: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    prefix: str = ''
    library: str = ''

    @property
    def ok(self) -> bool:
        """True if every path is covered and nothing is left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def problems(self) -> list[str]:
        """One clause for each name that is missing, unexpected or mismatched."""
        return misfits(self.missing, self.unexpected, self.mismatched)

    @property
    def summary(self) -> str:
        """The nearest layout, the first problems of each kind, and how many more there are."""
        for count in range(_FIRST, 1, -1):
            if len(text := self._summary(count)) <= SCREEN:
                return text
        return self._summary(1)

    def _summary(self, count: int) -> str:
        """Return a summary with up to `count` problems of each kind."""
        kinds = {
            'missing': misfits(self.missing, ()),
            'unexpected': misfits((), self.unexpected),
            'of another shape or dtype': self.mismatched,
        }
        clauses = [
            text
            for kind, found in kinds.items()
            for text in (
                *(cut(clause, _LONGEST) for clause in found[:count]),
                *([f'and {len(found) - count} more {kind}'] if len(found) > count else []),
            )
        ]
        if any(len(found) > count for found in kinds.values()):
            clauses.append('bx.converters.explain and `blox explain` show all')
        needed = sum(len(entry.names) for entry in self.entries.values())
        under = f', all under {cut(repr(self.prefix), _LONGEST)}' if self.prefix else ''
        layout = f'{self.layout!r}{f" of {self.library}" if self.library else ""}'
        nearest = f'the nearest layout is {layout}, of whose {counted(needed, "name")} it has'
        return f'{nearest} {len(self.names)}{under}: {"; ".join(clauses)}'

    def fields(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            'path': str(self.path),
            'layout': self.layout,
            'ok': self.ok,
            'entries': [
                {
                    'ours': entry.path,
                    'shape': list(entry.shape),
                    'theirs': [self.names.get(name) for name in entry.names],
                    'shapes': [list(shape) for shape in entry.shapes],
                }
                for entry in self.entries.values()
            ],
            'missing': list(self.missing),
            'unexpected': list(self.unexpected),
            'mismatched': list(self.mismatched),
            'ignored': list(self.ignored),
        }

    def __str__(self) -> str:
        rows = [
            (
                f'{entry.path} {list(entry.shape)}',
                ', '.join(self.names.get(name, f'{name} (missing)') for name in entry.names),
            )
            for entry in self.entries.values()
        ]
        width = max(len(ours) for ours, _ in rows)
        lines = [f'{ours:<{width}}  <-  {theirs}' for ours, theirs in rows]
        lines += [f'ignored: {name}' for name in self.ignored]
        lines += [f'problem: {problem}' for problem in self.problems]
        return '\n'.join(
            [f'{self.path}: {counted(len(rows), "path")} from layout {self.layout!r}', *lines]
        )


def explain(source: str | os.PathLike[str] | Source, model: Any, *, state: str = '') -> Explanation:
    """Show how a checkpoint would fit a model of the zoo, by its header alone.

    `source` and `state` are what `convert` takes. Raises CheckpointError for a malformed file.
    """
    return match(source, model, state).explanation


class Match(NamedTuple):
    """An open checkpoint and what it is to become.

    Attributes:
      tensors: those of the checkpoint, by the rules' own names.
      expected: the model's spec.
    """

    source: Source
    explanation: Explanation
    tensors: Mapping[str, Tensor]
    expected: Params


def match(source: str | os.PathLike[str] | Source, model: Any, state: str = '') -> Match:
    """Open a checkpoint, and match it with a model by the layout whose names and shapes fit best."""
    if isinstance(source, Source) and state:
        raise ValueError(f'state={state!r} is of a path: pass it to open_source, found a Source')
    source = source if isinstance(source, Source) else open_source(source, state)
    expected = model_spec(model)
    fits = [_fit(source, layout, model, expected) for layout in layouts_of(model)]
    # Where no name fits, as under a strange prefix, errors are in the spelling that config.json says.
    told = library_of(source.config)

    def rank(fit: tuple[Explanation, Mapping[str, Tensor]]) -> tuple[int, int, bool]:
        found, _ = fit
        # nanoGPT's names are transformers', and only shapes tell which they are.
        return len(found.names), -len(found.mismatched), found.library == told.name

    explanation, tensors = max(fits, key=rank)
    return Match(source, explanation, tensors, expected)


def _fit(
    source: Source, layout: str, model: Any, expected: Params
) -> tuple[Explanation, dict[str, Tensor]]:
    """Match the names and shapes of `source` with one layout."""
    table = table_of(model, layout)
    if table.stacked and any(table.stacked in name for name in source.tensors):
        source = unstacked(source, table.stacked)
    entries = plan(table.rules(model.config), expected)
    shapes = {n: s for entry in entries.values() for n, s in zip(entry.names, entry.shapes)}
    # Names as they are go first: of several that fit as well, max takes the first.
    tensors, own, doubled, outside, prefix = max(
        (_respelled(source, p, table.spellings) for p in prefixes(source.tensors, source.prefix)),
        key=lambda found: len(shapes.keys() & found.tensors.keys()),
    )
    tied = table.tied(model.config)
    for name, other in tied.items():
        # Some keep only the other name of weights that are tied.
        if name in tensors and name not in shapes and other in shapes and other not in tensors:
            tensors[other], own[other] = tensors.pop(name), own.pop(name)
    zeros = _zeros(table.zeros(source), tensors, shapes, own)
    tensors, own = tensors | zeros, own | {name: f'{name} (zeros)' for name in zeros}
    loose = [name for name in tensors if name not in shapes]
    # What has no values changes no function.
    ignored = [n for n in loose if table.ignores(n) or n in tied or 0 in tensors[n].shape]
    heads = [name for name in ignored if table.is_head(name) and name not in tied]
    counters = [name for name in outside if is_counter(name.removeprefix(source.prefix))]
    names = {name: own[name] for name in shapes if name in own}
    published = table.published(model.config)
    spell = _speller(names, (published, (*published, *table.live), (), table.live), prefix)
    explanation = Explanation(
        source.path,
        layout,
        entries,
        names,
        tuple(spell(name) for name in shapes if name not in tensors),
        tuple(own[name] for name in loose if name not in ignored)
        + tuple(name for name in outside if name not in counters),
        tuple(doubled + mismatched(tensors, shapes, own)),
        (*(own[name] for name in ignored), *counters),
        tuple(own[name] for name in heads),
        _common_prefix(source.tensors),
        table.library.name if table.library else '',
    )
    return explanation, tensors


def _zeros(
    patterns: Sequence[str],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    own: Mapping[str, str],
) -> dict[str, Tensor]:
    """Return zeros for the names of these patterns, if none of them is there and all else fits."""
    names = [name for name in shapes if any(re.fullmatch(pattern, name) for pattern in patterns)]
    fits = {*shapes} - {*names} <= tensors.keys() and not mismatched(tensors, shapes, own)
    if not fits or any(name in tensors for name in names):
        return {}
    first = next(iter(tensors.values()))
    return {
        name: Tensor(first.dtype, shape, partial(np.zeros, shape, first.dtype), first.file)
        for name, shape in shapes.items()
        if name in names
    }


class _Names(NamedTuple):
    """Tensors and their own names by the rules' names, below a prefix.

    Attributes:
      doubled: a clause for names that collide.
      outside: names without the prefix.
    """

    tensors: dict[str, Tensor]
    own: dict[str, str]
    doubled: list[str]
    outside: list[str]
    prefix: str


def _respelled(source: Source, prefix: str, spellings: Iterable[Respelling]) -> _Names:
    """Name tensors as the rules do."""
    found = _Names({}, {}, [], [], prefix)
    for name, tensor in source.tensors.items():
        if not name.startswith(prefix):
            found.outside.append(name)
            continue
        ours = respell(name.removeprefix(prefix), spellings)
        if ours in found.own:
            found.doubled.append(f'{name!r} and {found.own[ours]!r}: two for one parameter')
        found.tensors[ours], found.own[ours] = tensor, name
    return found


def _speller(
    own: Mapping[str, str], ways: Sequence[tuple[Respelling, ...]], prefix: str
) -> Callable[[str], str]:
    """Return how a checkpoint would spell a rule's name: as it does most of its `own`.

    In the first way, below `prefix`, where it has none.
    """
    found: Counter[tuple[str, int]] = Counter()
    for name, theirs in own.items():
        for i, way in enumerate(ways):
            if theirs.endswith(spelled := respell(name, way)):
                found[theirs.removesuffix(spelled), i] += 1
    ((start, i), _), *_ = found.most_common(1) or [((prefix, 0), 0)]
    return lambda name: start + respell(name, ways[i])


def _common_prefix(names: Iterable[str]) -> str:
    """Return what all names start with, up to a dot or slash."""
    # What the first and the last have in common, all between have too.
    names = [*names]
    first, last = min(names, default=''), max(names, default='')
    length = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    return first[: max(first.rfind('.', 0, length), first.rfind('/', 0, length)) + 1]


def mismatched(
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    own: Mapping[str, str],
) -> list[str]:
    """Write a clause for each tensor, by its own name, of another shape or kind than expected."""
    found = {name: tensors[name] for name in shapes if name in tensors}
    return [
        f'{own[name]}: expected shape {shapes[name]}, found {tensor.shape}'
        for name, tensor in found.items()
        if tensor.shape != shapes[name]
    ] + [
        f'{own[name]}: expected a floating-point dtype of 16 bits or more, found {tensor.dtype}'
        for name, tensor in found.items()
        if not holds_weights(tensor.dtype)
    ]
