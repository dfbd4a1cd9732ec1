"""The choices that decide a training's result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from blox.params import Params
from blox.wording import some
from blox.zoo.evaluating.metrics import BY_CLASS
from blox.zoo.training.data import Data
from blox.zoo.training.descent import SCHEDULES, Descent
from blox.zoo.training.losses import Loss
from blox.zoo.training.mixing import Mixing
from blox.zoo.training.step import Way

# What a warmup takes where nothing is asked for, as a share of the steps, and at most.
_WARMUP, _MOST_WARMUP = 0.1, 500


class Plan(NamedTuple):
    """The choices that decide a training's result, its model and data apart.

    Attributes:
      examples: how many there are to train on.
      warmup: the steps in which the learning rate rises.
      dtype: what the model computes in; '' for what its parameters have.
      scores: what the model's logits are trained to be, as a card says it.
      choose_by: the name of the held-out score of the best epoch.
      patience: the epochs without a better one after which training ends; 0 for all epochs.
      ema: the decay of the moving average that is measured and kept; 0 for none.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    dtype: str
    examples: int
    warmup: int
    freeze_statistics: bool = True
    scores: str = 'softmax'
    schedule: str = 'cosine'
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    patience: int = 0
    choose_by: str = 'accuracy'

    def end(self, epoch: int) -> int:
        """Return the step at which an epoch has ended."""
        return epoch * self.examples // self.batch_size

    @property
    def steps(self) -> int:
        """Count the steps of the whole training."""
        return self.end(self.epochs)

    @property
    def way(self) -> Way:
        """Return what is the same in each step."""
        loss = Loss(self.scores, self.label_smoothing, self.class_weights)
        return Way(loss, Mixing(self.mixup, self.cutmix), self.dtype, self.freeze_statistics)

    def descent(self, factors: tuple[tuple[str, tuple[float, ...]], ...]) -> Descent:
        """Return how steps are taken."""
        rate, warmup = self.learning_rate, self.warmup
        return Descent(rate, self.steps, warmup, self.schedule, self.weight_decay, factors)


def make_plan(
    params: Params,
    data: Data,
    *,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    warmup: float | None,
    class_weights: Sequence[float] | str,
    choose_by: str | None,
    dtype: Any,
    scores: str,
    **choices: Any,
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
        epochs=epochs if epochs is not None else _epochs(data, max(batch_size, 1)),
        batch_size=batch_size,
        learning_rate=learning_rate if learning_rate is not None else _learning_rate(size),
        dtype=str(jnp.dtype(dtype)) if dtype is not None else '',
        examples=count,
        warmup=0,
        scores=scores,
        class_weights=_class_weights(class_weights, data, scores),
        choose_by=choose_by if choose_by is not None else choices_of(data, scores)[0],
        **choices,
    )
    _check(plan, data)
    if warmup is None:
        return plan._replace(warmup=min(int(_WARMUP * plan.steps), _MOST_WARMUP))
    if not 0 <= warmup < 1:
        raise ValueError(f'expected warmup as a share of the steps below 1, found {warmup}')
    return plan._replace(warmup=int(warmup * plan.steps))


def choices_of(data: Data, scores: str) -> tuple[str, ...]:
    """Return the names of the scores that an epoch may be chosen by, the usual one first."""
    if not data.labels:
        return ('loss', 'accuracy')
    if scores == 'none':
        return ('loss',)
    # Of labels each by itself, to find them all would be the best recall.
    several = data.scores == 'sigmoid'
    return ('accuracy', 'loss', 'macro_f1') if several else ('accuracy', 'loss', *BY_CLASS)


def _check(plan: Plan, data: Data) -> None:
    """Raise ValueError for numbers out of range, and for choices that are none."""
    sound = (
        all(type(x) is int and x > 0 for x in (plan.epochs, plan.batch_size))
        and 0 < plan.learning_rate < math.inf
    )
    if not sound or not 0 <= plan.seed < 2**32:
        raise ValueError(
            'expected positive epochs, batch_size and learning_rate, and a seed below 2**32; '
            f'found {plan.epochs}, {plan.batch_size}, {plan.learning_rate} and {plan.seed}'
        )
    names = choices_of(data, plan.scores)
    is_of_classes = bool(data.labels) and plan.scores != 'none'
    wanted = {
        f'schedule one of {", ".join(SCHEDULES)}': plan.schedule in SCHEDULES,
        'weight_decay a number, 0 or more': 0 <= plan.weight_decay < math.inf,
        'layer_decay a number, above 0 and at most 1': 0 < plan.layer_decay <= 1,
        'label_smoothing a number, 0 or more and below 1': 0 <= plan.label_smoothing < 1,
        'mixup a number, 0 or more': 0 <= plan.mixup < math.inf,
        'cutmix a number, 0 or more': 0 <= plan.cutmix < math.inf,
        'ema a decay, 0 or more and below 1': 0 <= plan.ema < 1,
        'patience a whole number of epochs, 0 or more': type(plan.patience) is int
        and plan.patience >= 0,
        f'choose_by one of {", ".join(names)}': plan.choose_by in names,
        'label_smoothing where there are classes': not plan.label_smoothing or is_of_classes,
        'mixup and cutmix of images with classes': not plan.way.mixing.is_on or is_of_classes,
    }
    if wrong := [what for what, holds in wanted.items() if not holds]:
        named = [field for field in plan._fields if field in wrong[0].split()]
        found = ', '.join(f'{getattr(plan, field)!r}' for field in named)
        raise ValueError(f'expected {wrong[0]}, found {found}')


def _class_weights(wanted: Sequence[float] | str, data: Data, scores: str) -> tuple[float, ...]:
    """Return a weight for each class: of 'balanced', one that makes up for how often it is there."""
    if isinstance(wanted, str):
        if wanted != 'balanced':
            raise ValueError(f"expected class_weights as numbers or 'balanced', found {wanted!r}")
        return _balanced(data, scores)
    weights = tuple(map(float, wanted))
    if not weights:
        return ()
    if not data.labels or scores == 'none':
        raise ValueError('expected no class_weights, for these data have no classes')
    sound = all(0 <= x < math.inf for x in weights) and any(weights)
    if len(weights) != len(data.labels) or not sound:
        raise ValueError(
            f'expected class_weights of {len(data.labels)} classes, 0 or more and not all 0, found {wanted}'
        )
    return weights


def _balanced(data: Data, scores: str) -> tuple[float, ...]:
    """Return weights inverse to counts: scikit-learn's of a softmax, negatives to positives of sigmoids."""
    counts, total = data.counts, len(data.training)
    # What is always there, or never, has nothing to be balanced with.
    odd = [
        x for x, count in zip(data.labels, counts) if not count or (data.scores and count == total)
    ]
    if scores == 'none' or not counts or odd:
        why = f'none with or without {some(odd)}' if odd else 'no counts'
        raise ValueError(f"expected data that count each class for 'balanced', found {why}")
    if scores == 'sigmoid':
        return tuple((total - count) / count for count in counts)
    return tuple(total / (len(counts) * count) for count in counts)


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
