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
from blox.zoo.training.folder import Folder
from blox.zoo.training.interrupts import interrupts_held
from blox.zoo.training.plan import Plan
from blox.zoo.training.state import DivergedError, Epoch, State, best_of
from blox.zoo.training.step import adamw, divide, measure, train_step


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
    state = first_state(params, plan)
    if folder:
        state = folder.restore(state, plan.steps)
    latest = _Latest(state)
    left = states(model, params, data, plan, latest)
    bar = tqdm.tqdm(total=plan.steps, initial=state.step, unit='step', leave=False, disable=None)
    try:
        with bar:
            for state in left:
                if folder:
                    folder.keep_if_due(state)
                if bar.update(state.step - bar.n):
                    bar.set_postfix_str(_described(state), refresh=False)
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


def first_state(params: Params, plan: Plan) -> State:
    """Return the state before the first step."""
    changing, _ = divide(params)
    optimized = _optimizer(plan).init(changing.split_trainable()[0])
    return State(0, changing, optimized, jnp.zeros(3, jnp.float32), best=changing)


class _Latest:
    """The state after the last step that was taken, whatever has ended the training since.

    The ones before have given the memory of their optimizer's state to the next.
    """

    def __init__(self, state: State) -> None:
        self.state = state


def states(model: Any, params: Params, data: Data, plan: Plan, latest: _Latest) -> Iterator[State]:
    """Yield the state after each step that is left, and keep it in `latest`."""
    _, frozen = divide(params)
    state = latest.state
    dtype, optimizer = plan.dtype or None, _optimizer(plan)
    take = functools.partial(
        train_step, dtype=dtype, freeze_statistics=plan.freeze_statistics, scores=plan.scores
    )

    def with_epoch(state: State) -> State:
        state.check_finite()
        found = score(model, state.params.merge(frozen), data, data.held_out, plan)
        return _with_epoch(state, *found, by_accuracy=bool(data.labels))

    if state.step and _is_due(state, plan):  # It was kept while its epoch was scored.
        latest.state = with_epoch(state)
        yield latest.state
    batches = training_batches(data, plan.batch_size, plan.seed, state.step)
    with contextlib.closing(batches):
        for batch in itertools.islice(batches, plan.steps - state.step):
            state = latest.state
            number = np.uint32(state.step)
            with interrupts_held():
                changing, optimized, measured = take(
                    model, optimizer, state.params, state.optimizer, frozen, *batch, number
                )
                latest.state = state._replace(
                    step=state.step + 1,
                    params=changing,
                    optimizer=optimized,
                    totals=state.totals + measured,
                )
            if _is_due(latest.state, plan):
                latest.state = with_epoch(latest.state)
            yield latest.state


def _is_due(state: State, plan: Plan) -> bool:
    """Tell whether the last step was the last of an epoch, which is not in the history yet."""
    return state.step == plan.end(len(state.history) + 1)


def score(
    model: Any, params: Params, data: Data, examples: Sequence[Example], plan: Plan
) -> tuple[float, float]:
    """Return the mean loss and accuracy over some of the data's examples."""
    batches = batches_to_measure(data, examples, plan.batch_size)
    return measure(model, params, batches, plan.dtype or None, plan.scores)


def _optimizer(plan: Plan) -> Any:
    return adamw(plan.learning_rate, plan.steps)


def _with_epoch(
    state: State, held_out_loss: float, held_out_accuracy: float, *, by_accuracy: bool
) -> State:
    """Add the epoch that ends here to the history, and keep it if it is the best so far."""
    number = len(state.history) + 1
    if not math.isfinite(held_out_loss):
        raise DivergedError(f'the held-out loss is not finite after epoch {number}')
    loss, accuracy, count = np.asarray(state.totals, np.float64).tolist()
    means = loss / count, accuracy / count
    row = Epoch(number, state.step, *means, held_out_loss, held_out_accuracy)
    history = (*state.history, row)
    is_best = row is best_of(history, by_accuracy)
    return state._replace(
        totals=jnp.zeros_like(state.totals),
        best=state.params if is_best else state.best,
        history=history,
    )


def _described(state: State) -> str:
    """Say loss and accuracy of the epoch so far, and how the last one measured."""
    loss, accuracy, count = np.asarray(state.totals).tolist()
    parts = [f'loss {loss / count:.3f}, accuracy {accuracy / count:.1%}'] if count else []
    if state.history:
        row = state.history[-1]
        parts.append(f'held out {row.held_out_loss:.3f}, {row.held_out_accuracy:.1%}')
    return '; '.join(parts)
