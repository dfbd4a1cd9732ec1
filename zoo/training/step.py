"""One step of training and one of measuring, as pure functions of Params."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blox.param import BATCH_STATS
from blox.params import Params
from blox.zoo.training.data import IGNORED, Pair


class State(NamedTuple):
    """What a step of training changes.

    Attributes:
      trainable: the parameters that are trained.
      stats: batch statistics.
      optimizer: its state, about `trainable` alone.
      totals: loss and accuracy of the epoch's batches so far, and how many these are.
    """

    trainable: Params
    stats: Params
    optimizer: Any
    totals: jax.Array


def divide(params: Params) -> tuple[Params, Params, Params]:
    """What is trained, batch statistics, and the rest, which no step changes."""
    trainable, rest = params.split_trainable()
    stats, frozen = rest.partition(lambda _, p: p.metadata.get('tag') == BATCH_STATS)
    return trainable, stats, frozen


@functools.cache
def adamw(rate: float, steps: int, weight_decay: float) -> Any:
    """AdamW with a warmup over a tenth of the steps and a cosine to zero; vectors do not decay.

    The same arguments give the same object, and so the same compiled programs.
    """
    warmup = min(steps // 10, 500)
    schedule = optax.warmup_cosine_decay_schedule(rate / (warmup + 1), rate, warmup, steps + 1)
    decays = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=weight_decay, mask=decays),
    )


def start(trainable: Params, stats: Params, optimizer: Any) -> State:
    """The state before the first step."""
    return State(trainable, stats, optimizer.init(trainable), jnp.zeros(3, jnp.float32))


@functools.partial(jax.jit, static_argnames=('model', 'optimizer', 'dtype', 'is_training'))
def train_step(
    model: Any,
    optimizer: Any,
    state: State,
    frozen: Params,
    inputs: jax.Array,
    targets: jax.Array,
    step: jax.Array,
    *,
    dtype: Any = None,
    is_training: bool = True,
) -> State:
    """The state after one step.

    The model computes in `dtype`, unless that is None; parameters and optimizer keep their own.
    Gradients are taken with respect to the trainable parameters alone. What is drawn depends on the
    rng in `frozen` and on `step`.
    """

    def loss_fn(trainable: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
        params = trainable.merge(state.stats).merge(frozen.fold_rng(step))
        logits, new = model(_computing_in(params, dtype), inputs, is_training=is_training)
        loss, accuracy, _ = measures(logits.astype(jnp.float32), targets)
        stats = state.stats.merge(new.partition(lambda path, _: path in state.stats)[0])
        return loss, (jnp.stack([loss, accuracy, jnp.ones_like(loss)]), stats)

    grads, (totals, stats) = jax.grad(loss_fn, has_aux=True)(state.trainable)
    with jax.numpy_dtype_promotion('standard'):  # optax promotes.
        updates, optimized = optimizer.update(grads, state.optimizer, state.trainable)
    trainable = jax.tree.map(lambda w, u: w + u.astype(w.dtype), state.trainable, updates)
    return State(trainable, stats, optimized, state.totals + totals)


@functools.partial(jax.jit, static_argnames=('model', 'dtype'))
def measure_step(
    model: Any,
    state: State,
    frozen: Params,
    inputs: jax.Array,
    targets: jax.Array,
    *,
    dtype: Any = None,
) -> jax.Array:
    """The `measures` of one batch, the model running as in evaluation."""
    params = state.trainable.merge(state.stats).merge(frozen)
    logits, _ = model(_computing_in(params, dtype), inputs)
    return measures(logits.astype(jnp.float32), targets)


def measure(
    model: Any, state: State, frozen: Params, batches: Iterable[Pair], dtype: Any = None
) -> tuple[float, float]:
    """Mean loss and accuracy over all targets of `batches`."""
    total = np.zeros(3)
    for inputs, targets in batches:
        found = measure_step(model, state, frozen, inputs, targets, dtype=dtype)
        loss, accuracy, count = np.asarray(found, np.float64)
        total += (loss * count, accuracy * count, count)
    return float(total[0] / total[2]), float(total[1] / total[2])


def measures(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean loss, accuracy, and the number of targets that count."""
    right = (logits.argmax(-1) == targets).astype(jnp.float32)
    loss = _mean(_cross_entropy(logits, targets), targets)
    return jnp.stack([loss, _mean(right, targets), (targets != IGNORED).sum().astype(jnp.float32)])


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Of each target; of those that do not count, something finite."""
    picked = jnp.maximum(targets, 0)[..., None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), picked, -1)[..., 0]


def _mean(values: jax.Array, targets: jax.Array) -> jax.Array:
    """Over the targets that count."""
    counts = (targets != IGNORED).astype(values.dtype)
    return (values * counts).sum() / jnp.maximum(counts.sum(), 1)


def _computing_in(params: Params, dtype: Any) -> Params:
    """Weights in `dtype`; batch statistics stay as they are."""
    if dtype is None:
        return params
    return params.cast(dtype, lambda _, param: not param.is_state)
