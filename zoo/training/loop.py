"""The loop over a training's steps."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import tqdm

from blox.params import Params
from blox.zoo.training.data import Data, Example, batches_to_measure, training_batches
from blox.zoo.training.depth import decay_factors
from blox.zoo.training.descent import adamw
from blox.zoo.training.folder import Folder
from blox.zoo.training.interrupts import interrupts_held
from blox.zoo.training.plan import Plan
from blox.zoo.training.state import DivergedError, Epoch, State, best_of
from blox.zoo.training.step import Measured, averaged, divide, measure, train_step


def train(
    model: Any,
    params: Params,
    data: Data,
    plan: Plan,
    folder: Folder | None,
    on_epoch: Callable[[Epoch], None] | None,
) -> tuple[State, str]:
    """Take all steps that are left; return the last state, and what is wrong with the loss, or ''.

    A bar shows how far it is. Whatever ends it, the folder has the last state of use.
    """
    optimizer = adamw(plan.descent(decay_factors(model, params, plan.layer_decay)))
    state = first_state(params, plan, optimizer)
    if folder:
        state = folder.restore(state, plan.steps)
    latest = _Latest(state)
    left = states(model, params, data, plan, optimizer, latest)
    bar = tqdm.tqdm(total=plan.steps, initial=state.step, unit='step', leave=False, disable=None)
    try:
        with bar:
            bar.set_postfix_str('compiling')
            for state in left:
                if folder:
                    folder.keep_if_due(state)
                if bar.update(state.step - bar.n):
                    bar.set_postfix_str(_described(state, plan.scores), refresh=False)
                if on_epoch and state.ends_epoch:
                    on_epoch(state.history[-1])
    except DivergedError as error:
        return state, str(error)
    except BaseException:
        if folder:
            with contextlib.suppress(Exception):  # What ended the training tells more.
                folder.keep(latest.state)
        raise
    if folder:
        folder.keep(state)
    return state, ''


def first_state(params: Params, plan: Plan, optimizer: Any) -> State:
    """Return the state before the first step."""
    changing, _ = divide(params)
    optimized = optimizer.init(changing.split_trainable()[0])
    average = changing if plan.ema else Params.from_entries({}, finalized=True)
    return State(0, changing, optimized, jnp.zeros(3, jnp.float32), average, best=changing)


class _Latest:
    """The state after the last step that was taken, whatever has ended the training since.

    The ones before have given the memory of their optimizer's state to the next.
    """

    def __init__(self, state: State) -> None:
        self.state = state


def states(
    model: Any, params: Params, data: Data, plan: Plan, optimizer: Any, latest: _Latest
) -> Iterator[State]:
    """Yield the state after each step that is left, and keep it in `latest`."""
    _, frozen = divide(params)
    take = functools.partial(train_step, model, optimizer, way=plan.way)

    def with_epoch(state: State) -> State:
        state.check_finite()
        found = score(model, _measured(state, plan).merge(frozen), data, data.held_out, plan)
        return _with_epoch(state, found, plan)

    state = latest.state
    if state.step and _is_due(state, plan):  # It was kept while its epoch was scored.
        latest.state = with_epoch(state)
        yield latest.state
    batches = training_batches(data, plan.batch_size, plan.seed, latest.state.step)
    with contextlib.closing(batches):
        for batch in itertools.islice(batches, plan.steps - latest.state.step):
            if _has_lost_patience(latest.state, plan):
                return
            state = latest.state
            number = np.uint32(state.step)
            with interrupts_held():
                changing, optimized, measured = take(
                    state.params, state.optimizer, frozen, *batch, number
                )
                latest.state = state._replace(
                    step=state.step + 1,
                    params=changing,
                    optimizer=optimized,
                    totals=state.totals + measured,
                    average=_averaged(state, changing, plan),
                )
            if _is_due(latest.state, plan):
                latest.state = with_epoch(latest.state)
            yield latest.state


def _measured(state: State, plan: Plan) -> Params:
    """Return what is measured and kept of a state: its params, or their average."""
    return state.average if plan.ema else state.params


def _averaged(state: State, changing: Params, plan: Plan) -> Params:
    """Return the moving average after a step.

    While few were taken, its decay is less, as of TensorFlow's ExponentialMovingAverage with num_updates.
    """
    if not plan.ema:
        return state.average
    decay = min(plan.ema, (1 + state.step) / (10 + state.step))
    return averaged(state.average, changing, np.float32(decay))


def _is_due(state: State, plan: Plan) -> bool:
    """Tell whether the last step was the last of an epoch, which is not in the history yet."""
    return state.step == plan.end(len(state.history) + 1)


def _has_lost_patience(state: State, plan: Plan) -> bool:
    """Tell whether the last epochs, as many as the plan's patience, were no better than one before."""
    if not plan.patience or not state.history:
        return False
    return len(state.history) - best_of(state.history, plan.choose_by).epoch >= plan.patience


def score(
    model: Any, params: Params, data: Data, examples: Sequence[Example], plan: Plan
) -> Measured:
    """Return the means over some of the data's examples."""
    batches = batches_to_measure(data, examples, plan.batch_size)
    return measure(model, params, batches, plan.dtype, plan.scores, plan.choose_by)


def _with_epoch(state: State, held_out: Measured, plan: Plan) -> State:
    """Add the epoch that ends here to the history, and keep it if it is the best so far."""
    number = len(state.history) + 1
    if not math.isfinite(held_out.loss):
        raise DivergedError(f'the held-out loss is not finite after epoch {number}')
    loss, accuracy, count = np.asarray(state.totals, np.float64).tolist()
    row = Epoch(number, state.step, loss / count, accuracy / count, *held_out)
    history = (*state.history, row)
    is_best = row is best_of(history, plan.choose_by)
    return state._replace(
        totals=jnp.zeros_like(state.totals),
        best=_measured(state, plan) if is_best else state.best,
        history=history,
    )


def _described(state: State, scores: str) -> str:
    """Say loss and accuracy of the epoch so far, and how the last one measured."""
    loss, accuracy, count = np.asarray(state.totals).tolist()
    parts = [f'loss {loss / count:.3f}{_percent(accuracy / count, scores)}'] if count else []
    if state.history:
        row = state.history[-1]
        parts.append(f'held out {row.held_out_loss:.3f}{_percent(row.held_out_accuracy, scores)}')
    return '; '.join(parts)


def _percent(accuracy: float, scores: str) -> str:
    return '' if scores == 'none' else f', {accuracy:.1%}'
