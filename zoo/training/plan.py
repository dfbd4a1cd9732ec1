"""The choices that decide a training's result."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp

from blox.params import Params
from blox.zoo.training.data import Data


class Plan(NamedTuple):
    """The choices that decide a training's result, its model and data apart.

    Attributes:
      examples: how many there are to train on.
      dtype: what the model computes in; '' for what its parameters have.
      freeze_statistics: whether batch statistics of norms that are frozen stay as they are.
      scores: what the model's logits are trained to be, as a card says it.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    dtype: str
    examples: int
    freeze_statistics: bool = True
    scores: str = 'softmax'

    def end(self, epoch: int) -> int:
        """Return the step at which an epoch has ended."""
        return epoch * self.examples // self.batch_size

    @property
    def steps(self) -> int:
        """Count the steps of the whole training."""
        return self.end(self.epochs)


def make_plan(
    params: Params,
    data: Data,
    *,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
    dtype: Any,
    freeze_statistics: bool,
    scores: str,
) -> Plan:
    """Choose what suits the data and the parameters wherever nothing was asked for."""
    count, size = len(data.training), params.split_trainable()[0].num_params
    if not count or not len(data.held_out) or not size:
        raise ValueError(
            'expected examples to train on, others to measure with, and parameters to train; '
            f'found {count}, {len(data.held_out)} and {size}'
        )
    batch_size = min(batch_size if batch_size is not None else _batch_size(data), count)
    plan = Plan(
        epochs if epochs is not None else _epochs(data, max(batch_size, 1)),
        batch_size,
        learning_rate if learning_rate is not None else _learning_rate(size),
        seed,
        str(jnp.dtype(dtype)) if dtype is not None else '',
        count,
        freeze_statistics,
        scores,
    )
    sound = plan.epochs > 0 and plan.batch_size > 0 and 0 < plan.learning_rate < math.inf
    if not sound or not 0 <= seed < 2**32:
        raise ValueError(
            'expected positive epochs, batch_size and learning_rate, and a seed below 2**32; '
            f'found {plan}'
        )
    return plan


def _batch_size(data: Data) -> int:
    """Choose a power of two, at most a quarter of the examples."""
    most = 32 if data.labels else 8
    quarter = len(data.training) // 4
    return min(most, max(4, 1 << max(quarter.bit_length() - 1, 0)))


def _epochs(data: Data, batch_size: int) -> int:
    """Choose so many that about a thousand steps are taken; a text is soon learnt by heart."""
    least, most = (3, 100) if data.labels else (2, 10)
    return min(max(round(1000 * batch_size / len(data.training)), least), most)


def _learning_rate(size: int) -> float:
    """Choose 1e-2 for a thousand parameters, 1e-3 for a million, 1e-4 for a hundred million."""
    ratio = 1e6 / size
    return 1e-3 * min(ratio ** (1 / 3), ratio ** (1 / 2))
