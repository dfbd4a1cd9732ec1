"""CSV files of images or texts to fine-tune on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blox.wording import printable
from blox.zoo.datasets.tables import FILE, LABEL, OTHER_TEXT, TEXT, Table, check_rows, read_table
from blox.zoo.datasets.targets import read_targets
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import TextPreprocessor
from blox.zoo.training.augment import Augmentation
from blox.zoo.training.data import Data
from blox.zoo.training.dividing import described, divided
from blox.zoo.training.image_data import Examples, Images, fingerprint_of_files, image_data
from blox.zoo.training.text_data import text_data


def image_table(
    path: str | os.PathLike[str],
    prepare: ImagePreprocessor,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    flip: bool = False,
    labels: Sequence[str] = (),
    augmentation: Augmentation = Augmentation(),
) -> Data:
    """Read a CSV file of images and of what is right of each.

    The first line names the columns. `file` (or path, image, filename, file_name) names an image from the
    table's folder on. What is right of it is in one of these:
    `label` (or class, target, category): one class;
    `labels` (or tags, classes): any number of classes, divided by | or ;
    all other columns, where there are two or more of 0 and 1 alone: a class each, there or not;
    all other columns, of other numbers: values to be predicted, best of about the size of 1; where a
    cell is empty nothing is known.
    A column `split` may say train, val or test of each row; without val the fraction `holdout` of train is
    held out, drawn with `seed`: of one class each, of each class.

    The rest is as in `image_folder`. `load_for_classes(NAME, data.labels, scores=data.scores)` gives a model.

    Raises ValueError for other tables, and names all files that cannot be read.
    """
    table = _table(path, FILE)
    column = table.require('file', FILE)
    targets = read_targets(table, (column,), labels)
    files = [table.path.parent / cell for cell in table.column(column)]
    parts = divided(printable(table.path), targets, holdout, seed)
    examples = Examples(*([(files[i], targets.rows[i]) for i in part] for part in parts))
    return image_data(
        examples,
        prepare,
        Images(targets.labels, augmentation, flip, targets.scores),
        counts=targets.counts(parts[0]),
        fingerprint=fingerprint_of_files(table.path.parent, examples, prepare),
        summary=described(printable(table.path.name), targets, parts, 'images'),
    )


def text_table(
    path: str | os.PathLike[str],
    prepare: TextPreprocessor,
    config: Any,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    labels: Sequence[str] = (),
) -> Data:
    """Read a CSV file of texts and of what is right of each, for a model of this config.

    The first line names the columns: `text` (or sentence, premise), and `text2` (or sentence2, hypothesis)
    where two go together; what is right is said as in `image_table`. All texts are made as long as the
    longest, which `prepare` cuts to its `max_tokens`.

    Raises ValueError for other tables, and for texts that the model cannot take.
    """
    table = _table(path, (*TEXT, *OTHER_TEXT))
    first = table.require('text', TEXT)
    second = table.find(OTHER_TEXT, (first,))
    inputs = (first, second) if second else (first,)
    targets = read_targets(table, inputs, labels)
    columns = [table.column(name) for name in inputs]
    texts = list(zip(*columns)) if second else columns[0]
    return text_data(printable(table.path), texts, targets, prepare, config, holdout, seed)  # type: ignore[arg-type]


def _table(path: str | os.PathLike[str], known: Sequence[str]) -> Table:
    table = read_table(Path(path), {*known, *LABEL})
    check_rows(table)
    return table
