"""Which rows are trained on, which are held out, and how that is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from blox.wording import counted, some
from blox.zoo.datasets.targets import Targets
from blox.zoo.training.data import check_fraction

Part: TypeAlias = list[int]


def divided(name: str, targets: Targets, holdout: float, seed: int) -> tuple[Part, Part, Part]:
    """Return the rows to train on, to hold out, and to test, in their order."""
    training, held_out, test = targets.parts.values()
    if not held_out:
        check_fraction(holdout)
        rng = np.random.default_rng(seed)
        for rows in _strata(name, targets, training):
            count = min(max(round(holdout * len(rows)), 1), len(rows) - 1)
            held_out = [*held_out, *(rows[i] for i in rng.permutation(len(rows))[:count])]
        training = sorted({*training} - {*held_out})
    return training, sorted(held_out), test


def _strata(name: str, targets: Targets, rows: Sequence[int]) -> list[list[int]]:
    """Divide rows of one class each by it. ValueError for one that no row would be left of, or none."""
    groups = {'all': list(rows)}
    if not targets.scores:
        classes = [int(targets.rows[i]) for i in rows]
        groups = {
            label: [i for i, own in zip(rows, classes) if own == place]
            for place, label in enumerate(targets.labels)
        }
    if few := [label for label, own in groups.items() if len(own) < 2]:
        raise ValueError(
            f'{name!r}: expected two rows to train on or more of every class, for one is held out; '
            f'found fewer of {some(few)}'
        )
    return [*groups.values()]


def described(name: str, targets: Targets, parts: tuple[Part, ...], what: str) -> str:
    """Say how many examples there are, of what, and how many are held out."""
    classes = counted(len(targets.labels), 'class', 'classes')
    kind = {
        '': f'of {classes}',
        'sigmoid': f'of any of {classes}',
        'none': f'with values: {some(targets.labels, 5)}',
    }[targets.scores]
    counts = [len(part) for part in parts]
    tested = f'; {counts[2]} of test are scored once, at the end' if counts[2] else ''
    return f'{name}: {sum(counts)} {what} {kind}, {counts[1]} held out{tested}'
