"""All that a training needs to go on after any of its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from blox.params import Params


class Epoch(NamedTuple):
    """A row of history: means over an epoch's batches, and over the held-out examples after it.

    `score` is that of the held-out examples by which the best epoch is chosen.
    """

    epoch: int
    step: int
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float
    score: float


class State(NamedTuple):
    """All that it takes to go on.

    Attributes:
      step: how many were taken.
      params: what training changes: the trainable ones and batch statistics.
      optimizer: its own state, about the trainable ones alone.
      totals: loss and accuracy of the epoch's batches so far, and how many these are.
      average: the moving average of `params`, empty where none is kept.
      best: `params`, or their average, after the best epoch so far; those of the start while none has ended.
      history: a row for each epoch that has ended.
    """

    step: int
    params: Params
    optimizer: Any
    totals: jax.Array
    average: Params
    best: Params
    history: tuple[Epoch, ...] = ()

    @property
    def ends_epoch(self) -> bool:
        """Tell whether the last step was the last of its epoch."""
        return bool(self.history) and self.history[-1].step == self.step

    def check_finite(self) -> None:
        """Raise DivergedError unless the loss of this epoch so far is finite."""
        if not math.isfinite(float(self.totals[0])):
            raise DivergedError(f'the loss is not finite at step {self.step}')


class DivergedError(ValueError):
    """The loss is not finite, and never will be again."""


def best_of(history: Sequence[Epoch], choose_by: str) -> Epoch:
    """Return the epoch of the best score, the lowest if that is the loss; of equals that of the lowest loss."""
    sign = -1 if choose_by == 'loss' else 1
    return max(history, key=lambda x: (sign * x.score, -x.held_out_loss))
