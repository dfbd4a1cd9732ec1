"""CSV files of images or texts to fine-tune on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blox.wording import printable, some
from blox.zoo.datasets.tables import FILE, LABEL, OTHER_TEXT, TEXT, Table, check_rows, read_table
from blox.zoo.datasets.targets import Targets, read_targets
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import TextPreprocessor, pad, trouble
from blox.zoo.training.augment import Augmentation
from blox.zoo.training.data import Data, check_fraction
from blox.zoo.training.image_data import Examples, Images, image_data

_Part = list[int]


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
    parts = _divided(table.path, targets, holdout, seed)
    examples = Examples(*([(files[i], targets.rows[i]) for i in part] for part in parts))
    return image_data(
        examples,
        prepare,
        Images(table.path.parent, targets.labels, augmentation, flip, targets.scores),
        counts=targets.counts(parts[0]),
        summary=_summary(table.path, targets, parts, 'images'),
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
    encoded = prepare.encode(texts)  # type: ignore[arg-type]
    if wrong := [
        f'row {i + 1}: {why}' for i, x in enumerate(encoded) if (why := trouble(x, config))
    ]:
        raise ValueError(f'{str(table.path)!r}: {some(wrong)}')
    parts = _divided(table.path, targets, holdout, seed)
    length = prepare.padding.length or -(-max(len(text.ids) for text in encoded) // 8) * 8
    length = min(length, config.context)

    def read(i: int, rng: np.random.Generator | None) -> tuple[Any, np.ndarray]:
        batch = pad([encoded[i]], 1, length, prepare.padding)
        return type(batch)(*(array[0] for array in batch)), targets.rows[i]

    identity = repr([(x.ids, x.types, y.tolist()) for x, y in zip(encoded, targets.rows)])
    return Data(
        *parts[:2],
        read,
        targets.labels,
        hashlib.sha256(f'{parts}{length}{identity}'.encode()).hexdigest(),
        _summary(table.path, targets, parts, f'texts of up to {length} tokens'),
        parts[2],
        targets.scores,
        targets.counts(parts[0]),
    )


def _table(path: str | os.PathLike[str], known: Sequence[str]) -> Table:
    table = read_table(Path(path), {*known, *LABEL})
    check_rows(table)
    return table


def _divided(path: Path, targets: Targets, holdout: float, seed: int) -> tuple[_Part, _Part, _Part]:
    """Return the rows to train on, to hold out, and to test, in their order."""
    training, held_out, test = targets.parts.values()
    if not held_out:
        check_fraction(holdout)
        rng = np.random.default_rng(seed)
        for rows in _strata(path, targets, training):
            count = min(max(round(holdout * len(rows)), 1), len(rows) - 1)
            held_out = [*held_out, *(rows[i] for i in rng.permutation(len(rows))[:count])]
        training = sorted({*training} - {*held_out})
    return training, sorted(held_out), test


def _strata(path: Path, targets: Targets, rows: Sequence[int]) -> list[list[int]]:
    """Divide rows of one class each by it. ValueError for one that no row would be left of, or none."""
    groups = {'all': list(rows)}
    if not targets.scores:
        classes = [int(targets.rows[i]) for i in rows]
        groups = {
            label: [i for i, own in zip(rows, classes) if own == place]
            for place, label in enumerate(targets.labels)
        }
    if few := [name for name, own in groups.items() if len(own) < 2]:
        raise ValueError(
            f'{str(path)!r}: expected two rows to train on or more of every class, for one is held out; '
            f'found fewer of {some(few)}'
        )
    return [*groups.values()]


def _summary(path: Path, targets: Targets, parts: tuple[_Part, ...], what: str) -> str:
    kind = {
        '': f'of {len(targets.labels)} classes',
        'sigmoid': f'of any of {len(targets.labels)} classes',
        'none': f'with values: {some(targets.labels, 5)}',
    }[targets.scores]
    counts = [len(part) for part in parts]
    tested = f'; {counts[2]} of test are scored once, at the end' if counts[2] else ''
    return f'{printable(path.name)}: {sum(counts)} {what} {kind}, {counts[1]} held out{tested}'
