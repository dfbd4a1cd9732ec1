"""Find what changed between two checkpoints, by path."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from blox.param import RNG, Param, describe
from blox.params import Params
from blox.paths import natural_key
from blox.statistics import pieces
from blox.wording import counted
from blox.zoo.catalog.card import Card
from blox.zoo.loading.places import resolve
from blox.zoo.models import families

Comparable: TypeAlias = 'str | os.PathLike[str] | Params'

# Fields of a card, beside its config, that change what the model is used for.
_USES = ('labels', 'preprocessor', 'tokenizer')


class Change(NamedTuple):
    """The difference of two parameters at one path; `str` of it is a table's row without the path.

    Attributes:
      kind: the first of 'only in a', 'only in b', 'shape', 'dtype' and 'value' that fits.
      a, b: dtype and shape, such as 'float32[2,3]'; '' where there is none.
      relative: ||b - a|| / ||a||, None where there are no two arrays of one shape.
      largest: the largest |b - a|, None as well.
      nonfinite: how many of the places that differ are NaN or Inf in a, b or both; the norms
        leave all such places out.
    """

    path: str
    kind: str
    a: str
    b: str
    relative: float | None = None
    largest: float | None = None
    nonfinite: int = 0

    @property
    def severity(self) -> tuple[bool, int, float]:
        """Rank: first what has no norms, then by NaN and Inf, then by relative norm."""
        return self.relative is None, self.nonfinite, self.relative or 0.0

    def __str__(self) -> str:
        types = self.a if self.a == self.b else ' -> '.join(filter(None, (self.a, self.b)))
        if self.relative is None:
            return f'{self.kind}: {types}'
        row = f'{self.relative:8.1e}  {self.largest:8.1e}'
        row += f'  {types}' if self.kind == 'dtype' else ''
        return row + (f'  NaN or Inf: {self.nonfinite:,}' if self.nonfinite else '')


class Difference(NamedTuple):
    """The result of `diff`; `str` of it is a table.

    Attributes:
      names, families: those of a and of b; the family of Params is ''.
      config: fields that differ, with their values in a and in b.
      uses: which of labels, preprocessor and tokenizer differ.
      changes: one for each path where something differs, in the order of paths.
      identical: how many paths have the same shape, dtype and numbers.
      omitted: how many changes `top` left out.
    """

    names: tuple[str, str]
    families: tuple[str, str]
    config: Mapping[str, tuple[Any, Any]]
    uses: tuple[str, ...]
    changes: tuple[Change, ...]
    identical: int
    omitted: int = 0

    @property
    def same(self) -> bool:
        """True if nothing differs; names, provenance and trainable flags do not count."""
        return not (self.unlike or self.config or self.uses or self.changes)

    @property
    def unlike(self) -> bool:
        """True for models of different families, which have no paths in common."""
        return all(self.families) and len({*self.families}) == 2

    def top(self, count: int) -> 'Difference':
        """Return the same with so many of the changes, the largest first."""
        ranked = sorted(self.changes, key=lambda change: change.severity, reverse=True)
        omitted = self.omitted + len(ranked[count:])
        return self._replace(changes=tuple(ranked[:count]), omitted=omitted)

    def fields(self) -> dict[str, Any]:
        """Return all of it as JSON has it, an infinite norm as null."""
        fields = {'same': self.same, **self._asdict()}
        fields['changes'] = [change._asdict() for change in self.changes]
        for change in fields['changes']:
            infinite = [name for name in ('relative', 'largest') if change[name] == math.inf]
            change.update(dict.fromkeys(infinite))
        return fields

    def __str__(self) -> str:
        lines = [
            f'{side}: {name}{f" ({family})" if family else ""}'
            for side, name, family in zip('ab', self.names, self.families)
        ]
        if self.unlike:
            return '\n'.join([*lines, 'models of different families: nothing to compare'])
        lines += [f'config {field}: {a} -> {b}' for field, (a, b) in self.config.items()]
        lines += [f'{name}: not the same' for name in self.uses]
        lines += _rows(self.changes)
        changed = len(self.changes) + self.omitted
        differ = counted(changed, 'differs', 'differ')
        same = counted(self.identical, 'is the same', 'are the same')
        return '\n'.join([*lines, f'parameters: {differ}, {same}'])


def diff(a: Comparable, b: Comparable) -> Difference:
    """Compare a with b: parameters by path, config, labels, preprocessor, tokenizer.

    Each is what `load` takes first, or Params; a spec is a TypeError. Numbers are compared as
    float64, one parameter after the other; two NaN are the same, and so are 0 and -0.

    >>> import blox as bx
    >>> _, params = bx.zoo.load('vit-digits')
    >>> print(diff('vit-digits', params.set('vit/head/w', 2 * params['vit/head/w'].value)))
    a: vit-digits (vit)
    b: Params
    path        relative   largest
    vit/head/w   1.0e+00   1.5e-01
    parameters: 1 differs, 79 are the same
    """
    (card_a, params_a), (card_b, params_b) = _open(a), _open(b)
    paths = sorted({*params_a, *params_b} - {RNG}, key=natural_key)
    found = [_change(path, params_a.get(path), params_b.get(path)) for path in paths]
    changes = tuple(change for change in found if change)
    return Difference(
        names=(_name(a), _name(b)),
        families=(card_a.family if card_a else '', card_b.family if card_b else ''),
        config=_config(card_a, card_b) if card_a and card_b else {},
        uses=_uses(card_a, card_b) if card_a and card_b else (),
        changes=changes,
        identical=len(found) - len(changes),
    )


def _name(one: Comparable) -> str:
    return 'Params' if isinstance(one, Params) else str(one)


def _open(one: Comparable) -> tuple[Card | None, Params]:
    if not isinstance(one, Params):
        found = resolve(one)
        return found.card, found.read(families()[found.card.family].build(found.card.config))
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(one)):
        raise TypeError(
            'these Params are a spec, with no values to compare: bx.init or bx.zoo.load give some'
        )
    return None, one.unstack()


def _config(a: Card, b: Card) -> dict[str, tuple[Any, Any]]:
    """Return the fields of two configs that differ; none of different families."""
    if a.family != b.family:
        return {}
    names = [field.name for field in dataclasses.fields(a.config)]
    pairs = {name: (getattr(a.config, name), getattr(b.config, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _uses(a: Card, b: Card) -> tuple[str, ...]:
    return tuple(name for name in _USES if getattr(a, name) != getattr(b, name))


def _change(path: str, a: Param | None, b: Param | None) -> Change | None:
    """Return the row of one path, None if nothing differs."""
    types = (describe(a.value) if a else ''), (describe(b.value) if b else '')
    if a is None or b is None:
        return Change(path, 'only in b' if a is None else 'only in a', *types)
    if a.shape != b.shape:
        return Change(path, 'shape', *types)
    relative, largest, nonfinite = _distance(np.asarray(a.value), np.asarray(b.value))
    if a.dtype == b.dtype and not (largest or nonfinite):
        return None
    kind = 'value' if a.dtype == b.dtype else 'dtype'
    return Change(path, kind, *types, relative, largest, nonfinite)


def _distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float, int]:
    """Return ||b - a|| / ||a|| and the largest |b - a|, both of finite numbers.

    The third number says at how many places others differ.
    """
    norm = squares = largest = 0.0
    nonfinite = 0
    # Numbers beyond 1e154 have infinite squares.
    with np.errstate(over='ignore', invalid='ignore'):
        for piece_a, piece_b in zip(pieces(a), pieces(b)):
            x, y = (piece.astype(np.float64, casting='same_kind') for piece in (piece_a, piece_b))
            finite = np.isfinite(x) & np.isfinite(y)
            if not finite.all():
                same = finite | (x == y) | (np.isnan(x) & np.isnan(y))
                nonfinite += int(np.count_nonzero(~same))
                x, y = x[finite], y[finite]
            away = y - x
            norm += float(np.square(x).sum())
            squares += float(np.square(away).sum())
            largest = max(largest, float(abs(away).max(initial=0)))
    if not norm:
        return (math.inf if largest else 0.0), largest, nonfinite
    return math.sqrt(squares / norm), largest, nonfinite


def _rows(changes: Sequence[Change]) -> list[str]:
    """Return the table's header and rows, with the relatively largest change marked."""
    if not changes:
        return []
    width = max(len(change.path) for change in changes)
    numbers = [change for change in changes if change.relative is not None]
    largest = max(numbers, key=lambda change: change.severity, default=None)
    rows = [f'{"path":<{width}}  {"relative":>8}  {"largest":>8}']
    for change in changes:
        mark = '  <- largest' if change is largest and len(numbers) > 1 else ''
        rows.append(f'{change.path:<{width}}  {change}{mark}')
    return rows
