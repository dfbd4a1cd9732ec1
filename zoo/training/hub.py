"""Datasets of Hugging Face's `datasets` to fine-tune on, as that library gives them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from blox.wording import some
from blox.zoo.datasets.tables import LABEL, OTHER_TEXT, PARTS, TEXT
from blox.zoo.datasets.targets import (
    LARGEST,
    Targets,
    class_targets,
    ordered,
    several_targets,
)
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import TextPreprocessor
from blox.zoo.training.augment import Augmentation
from blox.zoo.training.data import Data
from blox.zoo.training.dividing import described, divided
from blox.zoo.training.image_data import Examples, Images, image_data
from blox.zoo.training.text_data import text_data

_IMAGE = ('image', 'img', 'picture')


class _Rows:
    """The rows of all splits of a dataset, one after the other."""

    def __init__(self, dataset: Any) -> None:
        splits = dataset if isinstance(dataset, Mapping) else {'train': dataset}
        self.splits = {name: split for name, split in splits.items() if name in PARTS}
        for split in self.splits.values():
            if not (hasattr(split, 'select_columns') and hasattr(split, '__len__')):
                raise TypeError(
                    'expected a datasets.Dataset, or a DatasetDict of some, found '
                    f'{type(split).__name__}; one that streams is no such: load it without streaming=True'
                )
        if not any(PARTS[name] == 'training' for name in self.splits):
            raise ValueError(f'expected a split train, found {some([*splits])}')
        self.parts: dict[str, list[int]] = {'training': [], 'held_out': [], 'test': []}
        start = 0
        for name, split in self.splits.items():
            self.parts[PARTS[name]] += range(start, start + len(split))
            start += len(split)
        prints = [getattr(split, '_fingerprint', '') for split in self.splits.values()]
        self.fingerprint = repr((prints, self.parts))

    def column(self, what: str, wanted: str, known: Sequence[str]) -> str:
        """Return the name of a column: the one wanted, or a known one. ValueError for none."""
        first = next(iter(self.splits.values()))
        found = next((x for x in ([wanted] if wanted else known) if x in first.features), '')
        if not found and (wanted or what):
            raise ValueError(
                f'expected a column {wanted or what}, found {some([*first.features])}: name it with {what}='
            )
        for name, split in self.splits.items():
            if found and found not in split.features:
                columns = some([*split.features])
                raise ValueError(f'split {name}: expected a column {found}, found {columns}')
        return found

    def cells(self, column: str) -> list[Any]:
        """Return all values of a column."""
        return [cell for split in self.splits.values() for cell in split[column]]

    def sources(self, column: str) -> list[Callable[[], Any]]:
        """Return a function for each row that gives its image."""
        # Of one column alone, for a row is decoded as a whole.
        narrow = {name: split.select_columns([column]) for name, split in self.splits.items()}
        return [
            functools.partial(_image, name, split, i, column)
            for name, split in narrow.items()
            for i in range(len(split))
        ]

    def targets(self, label: str, labels: Sequence[str]) -> Targets:
        """Return what the column says: a class of each row, or several, or values."""
        column = self.column('label', label, (*LABEL, 'labels'))
        cells = [
            _named(split, column, cell) for split in self.splits.values() for cell in split[column]
        ]
        kinds = {_kind(cell) for cell in cells if cell is not None}
        if len(kinds) > 1 or not kinds <= {'class', 'classes', 'value', 'values'}:
            raise ValueError(
                f'column {column}: expected a class in each row, or a list of them, or numbers, found '
                f'{" and ".join(sorted(kinds))}'
            )
        kind = kinds.pop() if kinds else 'nothing'
        if kind in ('value', 'values'):
            return self._values(column, cells)
        own = _class_names(self.splits.values(), column)
        if kind == 'classes':
            self._check_known(column, cells)
            every = own or ordered(f'column {column}', (x for cell in cells for x in cell), ())
            return several_targets(cells, _in_order(every, labels), self.parts)
        # A class that is not told is left out, as of the tests of benchmarks.
        told = {
            part: [i for i in rows if cells[i] is not None] for part, rows in self.parts.items()
        }
        if not own:
            self._check_known(column, cells)
        every = own or ordered(f'column {column}', filter(None, cells), ())
        return class_targets([cell or every[0] for cell in cells], _in_order(every, labels), told)

    def _values(self, column: str, cells: Sequence[Any]) -> Targets:
        self._check_known(column, cells)
        widths = {np.size(cell) for cell in cells}
        if len(widths) > 1:
            raise ValueError(
                f'column {column}: expected as many numbers in each row, found {widths}'
            )
        rows = [np.atleast_1d(np.asarray(cell, np.float64)) for cell in cells]
        for i, row in enumerate(rows):
            if np.isnan(row).all() or (abs(row) > LARGEST).any():
                raise ValueError(
                    f'column {column}, row {i + 1}: expected finite numbers, found {row}'
                )
        count = widths.pop()
        names = (column,) if count == 1 else tuple(f'{column}{i}' for i in range(count))
        return Targets(names, 'none', [row.astype(np.float32) for row in rows], self.parts)

    def _check_known(self, column: str, cells: Sequence[Any]) -> None:
        if None in cells:
            raise ValueError(
                f'column {column}, row {cells.index(None) + 1}: expected a label, found none'
            )


def _named(split: Any, column: str, cell: Any) -> Any:
    """Return a cell with the names of its classes; None for a class that is not told."""
    feature = split.features[column]
    names = getattr(getattr(feature, 'feature', feature), 'names', None)
    if isinstance(cell, list):
        found = [names[x] if names and x is not None and x >= 0 else x for x in cell]
        if names and not all(isinstance(x, str) for x in found):
            raise ValueError(f'column {column}: expected classes in each list, found {cell}')
        return (
            found if all(type(x) is float for x in found) and found else [_text(x) for x in found]
        )
    if cell is None or (names and cell < 0):
        return None
    return names[cell] if names else cell if isinstance(cell, float) else _text(cell)


def _text(value: Any) -> Any:
    """Return a class as a text, if it is a text, an integer or a bool."""
    return str(value) if isinstance(value, str | int) else value


def _kind(cell: Any) -> str:
    if isinstance(cell, list):
        if cell and all(type(x) is float for x in cell):
            return 'values'
        return 'classes' if all(isinstance(x, str) for x in cell) else 'a list of others'
    return {str: 'class', float: 'value'}.get(type(cell), type(cell).__name__)


def _class_names(splits: Iterable[Any], column: str) -> tuple[str, ...]:
    """Return the classes of all splits, () where they have no names. ValueError where they differ."""
    found: list[tuple[str, ...]] = []
    for split in splits:
        feature = split.features[column]
        found.append(tuple(getattr(getattr(feature, 'feature', feature), 'names', None) or ()))
    if len({frozenset(names) for names in found}) > 1:
        raise ValueError(f'column {column}: expected the same classes in all splits, found {found}')
    return found[0]


def _in_order(names: tuple[str, ...], labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels) if sorted(labels) == sorted(names) else names


def _image(name: str, split: Any, i: int, column: str) -> Any:
    """Return an image as a preprocessor takes it."""
    found = split[i][column]
    if isinstance(found, dict):  # Not decoded.
        found = found.get('bytes') or found.get('path')
    if found is None:
        raise ValueError(
            f'split {name}, row {i + 1}: expected an image in column {column}, found none'
        )
    return found


def image_dataset(
    dataset: Any,
    prepare: ImagePreprocessor,
    *,
    image: str = '',
    label: str = '',
    holdout: float = 0.1,
    seed: int = 0,
    flip: bool = False,
    labels: Sequence[str] = (),
    augmentation: Augmentation = Augmentation(),
) -> Data:
    """Read a `datasets.Dataset` or `DatasetDict` of images and of what is right of each.

    `image` and `label` name the columns; without them these are image (or img, picture), and label (or
    class, target, category, labels). A ClassLabel, a text or an integer is one class of each image, a list of
    them several, a floating-point number or a list of them values. Of a DatasetDict the splits
    train, validation and test are taken; without a validation the fraction `holdout` is held out. The rest
    is as in `image_folder`, but images are decoded as they are needed.

    Raises ValueError for columns and splits that are not there.
    """
    rows = _Rows(dataset)
    column = rows.column('image', image, _IMAGE)
    targets, sources = rows.targets(label, labels), rows.sources(column)
    parts = divided('dataset', targets, holdout, seed)
    return image_data(
        Examples(*([(sources[i], targets.rows[i]) for i in part] for part in parts)),
        prepare,
        Images(targets.labels, augmentation, flip, targets.scores),
        counts=targets.counts(parts[0]),
        fingerprint=repr((rows.fingerprint, column, label, holdout, seed)),
        summary=described('dataset', targets, parts, 'images'),
    )


def text_dataset(
    dataset: Any,
    prepare: TextPreprocessor,
    config: Any,
    *,
    text: str = '',
    text2: str = '',
    label: str = '',
    holdout: float = 0.1,
    seed: int = 0,
    labels: Sequence[str] = (),
) -> Data:
    """Read a `datasets.Dataset` or `DatasetDict` of texts and of what is right of each.

    `text`, `text2` and `label` name the columns; without the former they are found by their usual names,
    as in `text_table`, which this is like; columns and splits are as in `image_dataset`.
    """
    rows = _Rows(dataset)
    first = rows.column('text', text, TEXT)
    second = rows.column('', text2, [name for name in OTHER_TEXT if name != first])
    columns = [rows.cells(name) for name in filter(None, (first, second))]
    texts = list(zip(*columns)) if second else columns[0]
    targets = rows.targets(label, labels)
    return text_data('dataset', texts, targets, prepare, config, holdout, seed)
