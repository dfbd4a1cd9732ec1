"""Rules from graph paths to external names, and the plan that they make for a model.

A table is target-driven: the model's own spec says which paths there are, each must be matched by
exactly one rule, and the external names and shapes follow from it. So what is missing, ambiguous,
doubled or dead is found with no checkpoint at all.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from blox.converters.mapping.fields import Field
from blox.converters.mapping.libraries import Library
from blox.converters.mapping.transforms import IDENTITY, Transform
from blox.converters.sources.source import Source
from blox.param import RNG
from blox.params import Params

# A regular expression and what takes its place.
Respelling: TypeAlias = tuple[str, str]

_FIELD = re.compile(r'\{(\w+?)(?:-(\d+))?\}')


@dataclass(frozen=True)
class Rule:
    """One mapping of names: `ours` is made of `theirs` through `via`.

    `ours` is a path in which `{i}` stands for a number. The same fields, or `{i-1}` for one
    less, stand in `theirs`, a name or several that make one array of ours.
    """

    ours: str
    theirs: str | tuple[str, ...]
    via: Transform = IDENTITY

    def match(self, path: str) -> dict[str, int] | None:
        """Return the numbers that the fields stand for in `path`, None if it does not match."""
        found = _compile(self.ours).fullmatch(path)
        return {field: int(value) for field, value in found.groupdict().items()} if found else None

    def names(self, fields: Mapping[str, int]) -> tuple[str, ...]:
        """Return the external names with the fields filled in."""
        return tuple(
            _FIELD.sub(lambda m: str(fields[m[1]] - int(m[2] or 0)), name) for name in self.external
        )

    @property
    def external(self) -> tuple[str, ...]:
        """External names, with fields for numbers."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@functools.cache
def _compile(ours: str) -> re.Pattern[str]:
    # Every second part is the name of a field. Numbers have no leading zeros.
    parts = re.split(r'\{(\w+)\}', ours)
    return re.compile(
        ''.join(
            f'(?P<{part}>0|[1-9][0-9]*)' if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        )
    )


@dataclass(frozen=True)
class Table:
    """One layout of a family: how its checkpoints name parameters, and its configs settings.

    Attributes:
      rules: those of a model's config: which parameters there are depends on it.
      limits: of fields of our config, the values with which the layout can hold a model; of others, all.
      library: who writes config.json; None where weights come alone.
      kinds: what config.json calls models of the family: transformers' model_type, timm's class.
      fields: its settings, one by one, in the order of reading.
      neutral: other settings that change no output, as regular expressions.
      beside: fields of our config that the names of the weights and the files beside config.json
        tell, of an open folder and the fields read so far; `task` is among them if a caller wants
        one.
      header: config.json of our config and the settings that `fields` made of it.
      unsaid: fields of our config that theirs need not have, for they change no output of a model of
        this config, as `remat` does not.
      companions: other JSON files that the library wants beside config.json, of our config.
      facts: fields of our config that hold for all checkpoints of this layout, where none of
        its files says more: an eps, an activation.
      said: fields of our config that a training checkpoint of this layout says beside its weights, {}
        for one of another; ValueError for what no model of ours has.
      layers: from paths of modules to the names of the library's modules, spelled as in `rules`,
        whose outputs are equal up to `via`; for comparisons layer by layer.
      spellings: how other files of this layout spell what `rules` names, applied in order.
      published: how the library itself spells `rules`' names when it saves a model of a config.
      live: how the library's live modules spell what is published, applied in order.
      stacked: a prefix of names whose arrays hold all blocks along their first axis; the
        blocks' own names have `_0`, `_1`, ... before its last '/'.
      ignored: names that do not change the function, as regular expressions.
      heads: names of heads, which a model of another task does without, as regular expressions.
      buffers: those of the ignored that the library wants to find, of what is exported by name.
      zeros: names that an open checkpoint may lack, all of them together, as regular expressions: a model
        that was made without them computes what one does with zeros there.
      tied: names that may be absent in a model of a config, and those whose bits they must have;
        either may stand for both.
    """

    rules: Callable[[Any], tuple[Rule, ...]]
    limits: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    library: Library | None = None
    kinds: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    neutral: tuple[str, ...] = ()
    beside: Callable[[Source, Mapping[str, Any]], dict[str, Any]] = lambda source, ours: {}
    header: Callable[[Any, Mapping[str, Any]], dict[str, Any]] = lambda config, theirs: {**theirs}
    unsaid: Callable[[Any], tuple[str, ...]] = lambda config: ()
    companions: Callable[[Any], dict[str, Any]] = lambda config: {}
    facts: Mapping[str, Any] | None = None
    said: Callable[[Source], dict[str, Any]] = lambda source: {}
    layers: Callable[[Any], tuple[Rule, ...]] = lambda config: ()
    spellings: tuple[Respelling, ...] = ()
    published: Callable[[Any], tuple[Respelling, ...]] = lambda config: ()
    live: tuple[Respelling, ...] = ()
    stacked: str = ''
    ignored: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    buffers: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = lambda values: {}
    zeros: Callable[[Source], tuple[str, ...]] = lambda source: ()
    tied: Callable[[Any], Mapping[str, str]] = lambda config: {}

    def beyond(self, config: Any) -> dict[str, Any]:
        """Return the fields of a config, with their values, that this layout cannot hold."""
        found = {name: getattr(config, name) for name in self.limits}
        return {name: value for name, value in found.items() if value not in self.limits[name]}

    def ignores(self, name: str) -> bool:
        """Return whether an external name that no rule has may be there."""
        return self.is_head(name) or any(re.fullmatch(pattern, name) for pattern in self.ignored)

    def is_head(self, name: str) -> bool:
        """Return whether an external name is of a head."""
        return any(re.fullmatch(pattern, name) for pattern in self.heads)


def respell(name: str, respellings: Iterable[Respelling]) -> str:
    """Return `name` with each regular expression's first match replaced."""
    for pattern, replacement in respellings:
        name = re.sub(pattern, replacement, name, count=1)
    return name


def respell_module(name: str, respellings: Iterable[Respelling]) -> str:
    """Respell the name of a module; respellings are made for names of parameters."""
    return respell(f'{name}.weight', respellings).removesuffix('.weight')


@dataclass(frozen=True)
class Entry:
    """One path of ours: the external arrays that it is made of, with their shapes."""

    path: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    via: Transform


def plan(rules: tuple[Rule, ...], spec: Params) -> dict[str, Entry]:
    """Return an entry for each path of `spec` but the rng.

    Raises ValueError that lists every path that no rule or several match, every external name
    that two paths claim, and every rule that matches nothing.
    """
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    used: set[Rule] = set()
    owners: dict[str, str] = {}
    for path, param in spec.items():
        if path == RNG:
            continue
        matching = [(rule, fields) for rule in rules if (fields := rule.match(path)) is not None]
        used.update(rule for rule, _ in matching)
        if len(matching) != 1:
            found = ', '.join(repr(rule.ours) for rule, _ in matching) or 'none'
            problems.append(f'{path!r}: expected one rule, found {found}')
            continue
        ((rule, fields),) = matching
        names = rule.names(fields)
        problems += [f'{n!r}: claimed by {owners[n]!r} and {path!r}' for n in names if n in owners]
        owners.update(dict.fromkeys(names, path))
        shapes = tuple(rule.via.external_shapes(param.shape, len(names)))
        entries[path] = Entry(path, param.shape, names, shapes, rule.via)
    problems += [f'rule {rule.ours!r}: matches no path' for rule in rules if rule not in used]
    if problems:
        raise ValueError('; '.join(problems))
    return entries
