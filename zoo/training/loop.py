"""A training as the sequence of its positions, one for each step."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import tqdm

from blox.param import BATCH_STATS
from blox.params import Params
from blox.zoo.training import step as training
from blox.zoo.training.data import Data, held_out_batches, training_batches
from blox.zoo.training.resuming import Best, DivergedError, Epoch, Folder, Position, check_finite
from blox.zoo.training.step import State

_WEIGHT_DECAY = 0.05


class Plan(NamedTuple):
    """The choices of a training that decide its result."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    dtype: str

    def end(self, epoch: int, count: int) -> int:
        """The step at which an epoch over `count` examples has ended."""
        return epoch * count // self.batch_size

    def last(self, data: Data) -> int:
        """The step at which the training has ended."""
        return self.end(self.epochs, len(data.training))


class Run(NamedTuple):
    """What stays the same all through a training."""

    model: Any
    data: Data
    plan: Plan
    frozen: Params
    optimizer: Any
    is_training: bool

    @classmethod
    def of(cls, model: Any, params: Params, data: Data, plan: Plan) -> Run:
        optimizer = training.adamw(plan.learning_rate, plan.last(data), _WEIGHT_DECAY)
        frozen = training.divide(params)[2]
        return cls(model, data, plan, frozen, optimizer, _learns_statistics(params))

    def first(self, params: Params) -> Position:
        """The position before the first step."""
        trainable, stats, _ = training.divide(params)
        return Position(0, training.start(trainable, stats, self.optimizer))

    def positions(self, position: Position) -> Iterator[Position]:
        """Those after `position`: one for each step."""
        data, plan = self.data, self.plan
        batches = training_batches(data, plan.batch_size, plan.seed, position.step)
        with contextlib.closing(batches):
            for step in range(position.step, plan.last(data)):
                state = self._step(position.state, *next(batches), step)
                position = position._replace(step=step + 1, state=state)
                if position.step == plan.end(len(position.history) + 1, len(data.training)):
                    position = self._measured(position)
                yield position

    def _step(self, state: State, inputs: Any, targets: Any, step: int) -> State:
        return training.train_step(
            self.model,
            self.optimizer,
            state,
            self.frozen,
            inputs,
            targets,
            np.uint32(step),
            dtype=self.plan.dtype or None,
            is_training=self.is_training,
        )

    def _measured(self, position: Position) -> Position:
        """The position with the epoch that ends there in its history, and kept if it is the best."""
        check_finite(position)
        state, history = position.state, position.history
        loss, accuracy, count = np.asarray(state.totals, np.float64).tolist()
        batches = held_out_batches(self.data, self.plan.batch_size)
        dtype = self.plan.dtype or None
        measured = training.measure(self.model, state, self.frozen, batches, dtype)
        row = Epoch(len(history) + 1, position.step, loss / count, accuracy / count, *measured)
        if not math.isfinite(row.held_out_loss):
            raise DivergedError(f'the held-out loss is not finite after epoch {row.epoch}')
        history = (*history, row)
        rank = _by_accuracy if self.data.labels else _by_loss
        state = state._replace(totals=jnp.zeros_like(state.totals))
        position = position._replace(state=state, history=history)
        if row is not max(history, key=rank):
            return position
        return position._replace(best=Best(state.trainable, state.stats), best_epoch=row.epoch)


def _learns_statistics(params: Params) -> bool:
    """Whether layers shall behave as in training: not where only frozen ones hold batch statistics."""
    layers = {_parent(path) for path, p in params.items() if p.metadata.get('tag') == BATCH_STATS}
    return not layers or any(p.trainable and _parent(path) in layers for path, p in params.items())


def _parent(path: str) -> str:
    return path.rpartition('/')[0]


def _by_accuracy(row: Epoch) -> tuple[float, float]:
    return row.held_out_accuracy, -row.held_out_loss


def _by_loss(row: Epoch) -> float:
    return -row.held_out_loss


def train(
    run: Run, position: Position, folder: Folder | None, on_epoch: Callable[[Epoch], None] | None
) -> tuple[Position, str]:
    """The last position, and what was wrong with the loss, if it ended there for that.

    A bar shows how far it is. Whatever ends it before, the folder has the position.
    """
    begun, total = position.step, run.plan.last(run.data)
    bar = tqdm.tqdm(total=total, initial=begun, unit='step', leave=False, disable=None)
    try:
        with bar:
            for latest in run.positions(position):
                position = latest
                if folder:
                    folder.keep_if_due(position)
                if bar.update():
                    bar.set_postfix_str(_described(position), refresh=False)
                if on_epoch and position.ends_epoch:
                    on_epoch(position.history[-1])
    except DivergedError as error:
        return position, str(error)
    except BaseException:
        if folder:
            with contextlib.suppress(Exception):  # What ended the training tells more.
                folder.keep(position)
        raise
    return position, ''


def _described(position: Position) -> str:
    """Loss and accuracy of the epoch so far, or of the last one, and how the latter measured."""
    loss, accuracy, count = np.asarray(position.state.totals).tolist()
    parts = [f'loss {loss / count:.3f}, accuracy {accuracy / count:.1%}'] if count else []
    if position.history:
        row = position.history[-1]
        parts.append(f'held out {row.held_out_loss:.3f}, {row.held_out_accuracy:.1%}')
    return '; '.join(parts)
