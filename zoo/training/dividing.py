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
    """Return the rows to train on, to hold out, and to test, in their order.

    Raises ValueError for no rows to train on, and for a class that has too few of them.
    """
    training, held_out, test = targets.parts.values()
    if not training:
        raise ValueError(
            f'{name!r}: expected rows to train on, found none that is said to be of train'
        )
    groups = _by_class(targets, training)
    least = 1 if held_out else 2
    if few := [label for label, own in groups.items() if len(own) < least]:
        why = '' if held_out else ', for one is held out'
        what = 'values' if targets.scores == 'none' else 'every class'
        raise ValueError(
            f'{name!r}: expected {least} or more rows of {what} to train on{why}; found fewer'
            + (f' of {some(few)}' if '' not in few else '')
            + (
                '; numbers to be predicted are in a column of another name'
                if _are_numbers(few)
                else ''
            )
        )
    if held_out:
        return training, held_out, test
    check_fraction(holdout)
    rng = np.random.default_rng(seed)
    chosen = {
        own[i]
        for own in groups.values()
        for i in rng.permutation(len(own))[: min(max(round(holdout * len(own)), 1), len(own) - 1)]
    }
    return [i for i in training if i not in chosen], sorted(chosen), test


def _by_class(targets: Targets, rows: Sequence[int]) -> dict[str, list[int]]:
    """Return rows of one class each by it; all others as one group."""
    if targets.scores:
        return {'': list(rows)}
    groups: dict[str, list[int]] = {label: [] for label in targets.labels}
    for i in rows:
        groups[targets.labels[int(targets.rows[i])]].append(i)
    return groups


def _are_numbers(labels: Sequence[str]) -> bool:
    """Tell whether labels look like numbers that are no classes."""
    return any('.' in label and label.replace('.', '', 1).lstrip('-').isdigit() for label in labels)


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
