"""What tables say of their examples: a class, several, or values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blox.wording import printable, some
from blox.zoo.datasets.folders import VALIDATION
from blox.zoo.datasets.tables import LABEL, PARTS, SPLIT, Table

_SEVERAL = ('labels', 'tags', 'classes')
# Values are float32.
LARGEST = float(np.finfo(np.float32).max)


class Targets(NamedTuple):
    """What is right of each example of a table.

    Attributes:
      labels: names of the classes, or of the values.
      scores: what logits are to be: '' for one class, 'sigmoid' for several, 'none' for values.
      rows: of each example its class, int32 [], or values of all labels, float32 [labels].
      parts: indices of examples by part, 'training', 'held_out', 'test'; all are in training where the
        table does not say it.
    """

    labels: tuple[str, ...]
    scores: str
    rows: list[np.ndarray]
    parts: Mapping[str, list[int]]

    def counts(self, examples: Sequence[int]) -> tuple[int, ...]:
        """Count how many of some examples have each class; () of values."""
        if self.scores == 'none' or not examples:
            return ()
        rows = np.stack([self.rows[i] for i in examples])
        found = (rows > 0.5).sum(0) if rows.ndim == 2 else np.bincount(rows, None, len(self.labels))
        return tuple(map(int, found))


def read_targets(
    table: Table, inputs: Sequence[str], labels: Sequence[str] = (), scores: str = ''
) -> Targets:
    """Read the targets of a table from the columns beside its `inputs` and 'split'.

    A column label (or class, target, category) has one class of each row; labels (or tags, classes) any
    number, divided by | or ; or both. Without these, all other columns are numbers: of 0 and 1 alone, and
    two columns or more, each is a class that a row has or not; others are values, empty cells unknown.
    `labels`, if classes have the same names, gives their order. With `scores`, those of a model, 'sigmoid' or
    'none', columns of numbers are that, and some of its `labels` stand for all. Raises ValueError for other tables.
    """
    parts = _parts(table)
    single, several = table.find(LABEL, inputs), table.find(_SEVERAL, inputs)
    if single and several:
        raise ValueError(
            f'{str(table.path)!r}: expected a column {single} or {several}, found both'
        )
    if single:
        cells = [cell.strip() for cell in table.column(single)]
        return class_targets(cells, ordered(printable(table.path), cells, labels), parts)
    if several:
        lists = [_names(cell) for cell in table.column(several)]
        every = [name for names in lists for name in names]
        if scores and {*every} <= {*labels}:
            return several_targets(lists, tuple(labels), parts)
        return several_targets(lists, ordered(printable(table.path), every, labels), parts)
    # A column without a name counts rows, as pandas writes them.
    names = [name for name in table.names if name.lower() not in (*inputs, SPLIT, '')]
    values = _numbers(table, names)
    # A cell that is empty is one of which nothing is known.
    is_of_classes = len(names) > 1 and (np.isin(values, (0, 1)) | np.isnan(values)).all()
    kind = scores or ('sigmoid' if is_of_classes else 'none')
    return Targets(tuple(names), kind, list(values), parts)


def class_targets(
    cells: Sequence[str], labels: tuple[str, ...], parts: Mapping[str, list[int]]
) -> Targets:
    """Return the targets of examples that have one class each."""
    places = {label: np.asarray(i, np.int32) for i, label in enumerate(labels)}
    return Targets(labels, '', [places[cell] for cell in cells], parts)


def several_targets(
    lists: Sequence[Collection[str]], labels: tuple[str, ...], parts: Mapping[str, list[int]]
) -> Targets:
    """Return the targets of examples that have any number of classes."""
    rows = [np.array([label in names for label in labels], np.float32) for names in lists]
    return Targets(labels, 'sigmoid', rows, parts)


def _names(cell: str) -> set[str]:
    return {name for part in cell.split('|') for name in map(str.strip, part.split(';')) if name}


def ordered(path: str, names: Iterable[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Return the classes in their order. ValueError for less than two, and names that are none."""
    found = sorted({*names})
    if strange := [name for name in found if not name or not name.isprintable()]:
        raise ValueError(
            f'{path!r}: expected names of classes that can be printed, found {strange[0]!r}'
        )
    if len(found) < 2:
        raise ValueError(f'{path!r}: expected two classes or more, found {some(found) or "none"}')
    return tuple(labels) if sorted(labels) == found else tuple(found)


def _numbers(table: Table, names: Sequence[str]) -> np.ndarray:
    """Return the numbers in some columns, [rows, columns], NaN for empty cells."""
    if not names or len({name.lower() for name in names}) < len(names):
        raise ValueError(
            f'{str(table.path)!r}: expected a column label, or labels, or columns of numbers with '
            f'names of their own, found {some(table.head)}'
        )
    found = np.full((len(table.rows), len(names)), np.nan, np.float32)
    for j, name in enumerate(names):
        for i, cell in enumerate(table.column(name.lower())):
            if cell.strip():
                found[i, j] = _number(table.path, name, i + 1, cell)
    if (empty := np.isnan(found).all(1)).any():
        raise ValueError(
            f'{str(table.path)!r}: expected a number in row {int(empty.argmax()) + 1}, found none'
        )
    return found


def _number(path: Path, name: str, row: int, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise ValueError(
            f'{str(path)!r}: expected a finite number in column {printable(name)} of row {row}, found '
            f'{cell[:30]!r}; classes are in a column label, or labels'
        )
    return value


def _parts(table: Table) -> dict[str, list[int]]:
    """Return the indices of rows by the part that the column 'split' says."""
    found: dict[str, list[int]] = {'training': [], 'held_out': [], 'test': []}
    if not table.find((SPLIT,)):
        return {**found, 'training': [*range(len(table.rows))]}
    for i, cell in enumerate(table.column(SPLIT)):
        part = PARTS.get(cell.strip().lower())
        if part is None:
            raise ValueError(
                f'{str(table.path)!r}: expected train, {", ".join(VALIDATION)} or test in column split of '
                f'row {i + 1}, found {cell[:30]!r}'
            )
        found[part].append(i)
    return found
