"""Models whose scores each stand for themselves: any number of classes of an example, or values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blox.wording import printable, some
from blox.zoo.catalog.card import Card
from blox.zoo.datasets.tables import FILE, LABEL, OTHER_TEXT, TEXT, check_rows, of_part, read_table
from blox.zoo.datasets.targets import read_targets
from blox.zoo.evaluating.metrics import macro_f1, of_classes
from blox.zoo.evaluating.report import Evaluation
from blox.zoo.models import families


class Rated(NamedTuple):
    """Inputs of a model, and what is right of each.

    Attributes:
      files, texts: one of these is empty.
      targets: of each input a value of each label, [labels], NaN where nothing is known.
    """

    files: list[Path]
    texts: list[str] | list[tuple[str, str]]
    names: list[str]
    targets: list[np.ndarray]
    note: str


class Several(NamedTuple):
    """An example, the classes that it has, and those that were found, divided by |."""

    name: str
    labels: str
    predicted: str


class Valued(NamedTuple):
    """An example's value by name, and what was found."""

    name: str
    label: str
    value: float
    predicted: float


def is_rated(path: Path, card: Card) -> bool:
    """Tell whether data are a table without a column of one class each, for a model of several or of values."""
    if card.scores not in ('sigmoid', 'none') or path.is_dir():
        return False
    return not read_table(path, {*FILE, *TEXT, *LABEL}).find(LABEL)


def rated(path: Path, card: Card, *, of_images: bool) -> Rated:
    """Read a table as fine-tuning reads it, its test or val part. ValueError for labels of another model."""
    table = of_part(read_table(path, {*FILE} if of_images else {*TEXT, *OTHER_TEXT}))
    check_rows(table)
    first = table.require('file', FILE) if of_images else table.require('text', TEXT)
    second = '' if of_images else table.find(OTHER_TEXT, (first,))
    inputs = (first, second) if second else (first,)
    targets = read_targets(table, inputs, card.labels, card.scores)
    is_of_classes = card.scores == 'sigmoid'
    # A model without labels gives values in the order of the columns.
    labels = card.labels or targets.labels
    count = families()[card.family].count_classes(card.config)
    if targets.scores != card.scores or {*targets.labels} - {*labels} or len(labels) != count:
        kind = 'any number of the classes' if is_of_classes else 'the values'
        raise ValueError(
            f'{str(path)!r}: expected {kind} {some(card.labels, 5) or count}, as {card.name!r} gives them, found '
            f'{some(targets.labels, 5)}'
        )
    # A class that no row has is none of theirs; a value that no column has is not known.
    rows = np.full((len(table.rows), count), 0.0 if is_of_classes else np.nan, np.float32)
    rows[:, [labels.index(label) for label in targets.labels]] = np.stack(targets.rows)
    columns = [table.column(name) for name in inputs]
    texts = [] if of_images else list(zip(*columns)) if second else columns[0]
    files = [path.parent / cell for cell in columns[0]] if of_images else []
    names = columns[0] if not second else [' | '.join(cells) for cells in zip(*columns)]
    return Rated(files, texts, names, list(rows), printable(path))


def report(
    card: Card, data: Rated, logits: Mapping[int, Sequence[float]], left_out: int
) -> Evaluation:
    """Make the evaluation of what a model gives of each example that could be read."""
    order = sorted(logits)
    found = np.array([logits[i] for i in order])
    right = np.stack([data.targets[i] for i in order]).astype(np.float64)
    names = [data.names[i] for i in order]
    made = _of_classes if card.scores == 'sigmoid' else _of_values
    return made(card, data.note, names, right, found, left_out)


def _of_classes(
    card: Card, note: str, names: list[str], right: np.ndarray, logits: np.ndarray, left_out: int
) -> Evaluation:
    known, there, said = ~np.isnan(right), right > 0.5, logits > 0
    said = said & known
    both, found, all_there = (x.sum(0).astype(float) for x in (said & there, said, there))
    classes = of_classes(both, found, all_there, card.labels)
    agree = (said == there) | ~known
    figures = {
        'accuracy': float(agree[known].mean()),
        'exact_match': float(agree.all(1).mean()),
        'macro_f1': macro_f1(both, found, all_there, of_all=True),
    }
    items = tuple(
        Several(name, _joined(card.labels, t), _joined(card.labels, s))
        for name, t, s in zip(names, there, said)
    )
    return Evaluation(
        card.task, note, len(names), left_out, figures, classes, labels=card.labels, items=items
    )


def _joined(labels: Sequence[str], has: np.ndarray) -> str:
    return '|'.join(label for label, one in zip(labels, has) if one)


def _of_values(
    card: Card, note: str, names: list[str], right: np.ndarray, found: np.ndarray, left_out: int
) -> Evaluation:
    errors = found - right
    known = ~np.isnan(right).all(0)
    spread = np.nanvar(right[:, known], axis=0)
    # Of a value that never changes nothing is explained.
    explained = 1 - np.nanmean(errors[:, known] ** 2, axis=0) / np.where(spread > 0, spread, np.nan)
    figures = {
        'mean_squared_error': float(np.nanmean(errors**2)),
        'mean_absolute_error': float(np.nanmean(abs(errors))),
        **({'r2': float(np.nanmean(explained))} if (spread > 0).any() else {}),
    }
    items = tuple(
        Valued(name, label, float(x), float(y))
        for name, row, values in zip(names, right, found)
        for label, x, y in zip(card.labels or map(str, range(len(row))), row, values)
        if not np.isnan(x)
    )
    return Evaluation(card.task, note, len(names), left_out, figures, items=items)
