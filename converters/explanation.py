"""Compare a checkpoint's header with what a model needs, name by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from blox.converters.mapping.rules import Entry, plan, respell
from blox.converters.sources.source import Source, open_source
from blox.converters.sources.stacked import unstacked
from blox.converters.sources.tensor import Tensor
from blox.converters.tables import layouts
from blox.converters.target import model_spec, table_of
from blox.params import Params
from blox.tensorfile import holds_weights
from blox.wording import misfits


@dataclass(frozen=True)
class Explanation:
    """A match of a checkpoint's names with a model's paths; `str` of it is a table.

    Attributes:
      layout: whose names these are: 'hf', 'timm', 'google' or 'big_vision'.
      entries: the names that each path of ours is made of, with shapes.
      names: the checkpoint's own spelling of each name that was found.
      missing: names that a path needs and the checkpoint lacks.
      unexpected: names that no path needs.
      mismatched: a clause for each name whose shape or dtype is wrong.
      ignored: names that are there and change nothing.
      left_out: those of the ignored that are a head's, which the model does without.
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

    @property
    def ok(self) -> bool:
        """True if every path is covered and nothing is left over."""
        return not (self.missing or self.unexpected or self.mismatched)

    @property
    def problems(self) -> list[str]:
        """One clause for each name that is missing, unexpected or mismatched."""
        return misfits(self.missing, self.unexpected, self.mismatched)

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
        return '\n'.join([f'{self.path}: {len(rows)} paths from layout {self.layout!r}', *lines])


def explain(source: str | os.PathLike[str] | Source, model: Any) -> Explanation:
    """Show how a checkpoint would fit a model of the zoo, by its header alone.

    `source` is what `convert` takes. Raises CheckpointError for a malformed file.
    """
    return match(source, model).explanation


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


def match(source: str | os.PathLike[str] | Source, model: Any) -> Match:
    """Open a checkpoint, and match it with a model by the layout whose names fit best."""
    source = source if isinstance(source, Source) else open_source(source)
    expected = model_spec(model)
    fits = [_fit(source, layout, model, expected) for layout in layouts(model.path)]
    # Where no name fits, as under a strange prefix, errors are in the spelling that config.json says.
    told = 'timm' if 'architecture' in source.config else 'hf'
    explanation, tensors = max(fits, key=lambda fit: (len(fit[0].names), fit[0].layout == told))
    return Match(source, explanation, tensors, expected)


def _fit(
    source: Source, layout: str, model: Any, expected: Params
) -> tuple[Explanation, dict[str, Tensor]]:
    """Match the names and shapes of `source` with one layout."""
    table = table_of(model, layout)
    if table.stacked and any(table.stacked in name for name in source.tensors):
        source = unstacked(source, table.stacked)
    tensors, own, doubled = _respelled(source, table.spellings)
    entries = plan(table.rules(model.config), expected)
    shapes = {n: s for entry in entries.values() for n, s in zip(entry.names, entry.shapes)}
    tied = table.tied(model.config)
    for name, other in tied.items():
        # Some keep only the other name of weights that are tied.
        if name in tensors and name not in shapes and other in shapes and other not in tensors:
            tensors[other], own[other] = tensors.pop(name), own.pop(name)
    loose = [name for name in tensors if name not in shapes]
    ignored = [name for name in loose if table.ignores(name) or name in tied]
    heads = [name for name in ignored if table.is_head(name) and name not in tied]
    published = table.published(model.config)
    explanation = Explanation(
        source.path,
        layout,
        entries,
        {name: own[name] for name in shapes if name in own},
        tuple(respell(name, published) for name in shapes if name not in tensors),
        tuple(own[name] for name in loose if name not in ignored),
        tuple(doubled + mismatched(tensors, shapes, own)),
        tuple(own[name] for name in ignored),
        tuple(own[name] for name in heads),
    )
    return explanation, tensors


def _respelled(
    source: Source, spellings: Iterable[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return tensors and their own names by the rules' names, and a clause for names that collide."""
    tensors: dict[str, Tensor] = {}
    own: dict[str, str] = {}
    doubled = []
    for name, tensor in source.tensors.items():
        ours = respell(name, spellings)
        if ours in own:
            doubled.append(f'{name!r} and {own[ours]!r}: two for one parameter')
        tensors[ours], own[ours] = tensor, name
    return tensors, own, doubled


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
