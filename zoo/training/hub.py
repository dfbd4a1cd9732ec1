"""Datasets of Hugging Face's `datasets` to fine-tune on, as that library gives them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blox.wording import some
from blox.zoo.datasets.tables import LABEL, OTHER_TEXT, TEXT
from blox.zoo.datasets.targets import PARTS, Targets, class_targets, several_targets
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
        known = {name: split for name, split in splits.items() if name in PARTS}
        if not any(PARTS[name] == 'training' for name in known):
            raise ValueError(f'expected a split train, found {some([*splits])}')
        self.splits = list(known.values())
        self.features: Mapping[str, Any] = self.splits[0].features
        self.parts: dict[str, list[int]] = {'training': [], 'held_out': [], 'test': []}
        start = 0
        for name, split in known.items():
            self.parts[PARTS[name]] += range(start, start + len(split))
            start += len(split)
        prints = [getattr(split, '_fingerprint', '') for split in self.splits]
        self.fingerprint = repr((prints, self.parts))

    def column(self, what: str, wanted: str, known: Sequence[str]) -> str:
        """Return the name of a column: the one wanted, or a known one. ValueError for none."""
        names = [wanted] if wanted else known
        found = next((name for name in names if name in self.features), '')
        if not found and (wanted or what):
            raise ValueError(
                f'expected a column {wanted or what}, found {some([*self.features])}: name it with {what}='
            )
        return found

    def cells(self, column: str) -> list[Any]:
        """Return all values of a column."""
        return [cell for split in self.splits for cell in split[column]]

    def sources(self, column: str) -> list[Any]:
        """Return a function for each row that gives its image."""
        return [
            functools.partial(_cell, split, i, column)
            for split in self.splits
            for i in range(len(split))
        ]

    def targets(self, label: str, labels: Sequence[str]) -> Targets:
        """Return what the column says: a class of each row, or several, or a value."""
        column = self.column('label', label, (*LABEL, 'labels'))
        feature, cells = self.features[column], self.cells(column)
        inner = getattr(feature, 'feature', feature)
        names = getattr(inner, 'names', None)
        if names:
            known = tuple(labels) if sorted(labels) == sorted(names) else tuple(names)
            if inner is not feature:
                lists = [[names[i] for i in cell] for cell in cells]
                return several_targets(lists, known, self.parts)
            # A class below zero stands for one that is not told, as of the tests of benchmarks.
            told = {part: [i for i in rows if cells[i] >= 0] for part, rows in self.parts.items()}
            return class_targets([names[max(cell, 0)] for cell in cells], known, told)
        if str(getattr(inner, 'dtype', '')).startswith('float'):
            rows = [np.atleast_1d(np.asarray(cell, np.float32)) for cell in cells]
            count = len(rows[0])
            names = (column,) if count == 1 else tuple(f'{column}{i}' for i in range(count))
            return Targets(names, 'none', rows, self.parts)
        texts = [str(cell) for cell in cells]
        return class_targets(texts, tuple(labels) or tuple(sorted({*texts})), self.parts)


def _cell(split: Any, i: int, column: str) -> Any:
    return split[i][column]


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
    class, target, category, labels). A ClassLabel or a text is one class of each image, a list of
    ClassLabels several, a floating-point number or a list of them values. Of a DatasetDict the splits
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
