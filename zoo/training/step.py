"""One step of training and one of measuring, as pure functions."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from blox.labels import spread
from blox.param import BATCH_STATS
from blox.params import Params
from blox.stacking import STACKED
from blox.zoo.training.data import IGNORED, Pair


def divide(params: Params) -> tuple[Params, Params]:
    """Split into what training changes, batch statistics included, and the rest."""
    return params.partition(lambda _, p: p.trainable or p.metadata.get('tag') == BATCH_STATS)


@functools.cache
def adamw(rate: float, steps: int, weight_decay: float = 0.05) -> Any:
    """Make AdamW with a warmup over a tenth of the steps and a cosine to zero; vectors do not decay.

    The same arguments give the same object, and so the same compiled programs.
    """
    warmup = min(steps // 10, 500)
    schedule = optax.warmup_cosine_decay_schedule(rate / (warmup + 1), rate, warmup, steps + 1)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, weight_decay=weight_decay, mask=_decays),
    )


def _decays(params: Params) -> Params:
    """Tell of each value whether it is more than a vector; of stacked ones, each block's own."""
    axes = {path: len(p.shape) - (STACKED in p.metadata) for path, p in params.items()}
    return spread(params, {path: count > 1 for path, count in axes.items()})


@functools.partial(
    jax.jit,
    static_argnames=('model', 'optimizer', 'dtype', 'freeze_statistics', 'scores'),
    donate_argnames='optimized',
)
def train_step(
    model: Any,
    optimizer: Any,
    params: Params,
    optimized: Any,
    frozen: Params,
    inputs: jax.Array,
    targets: jax.Array,
    step: jax.Array,
    *,
    dtype: Any = None,
    freeze_statistics: bool = True,
    scores: str = 'softmax',
) -> tuple[Params, Any, jax.Array]:
    """Return the params and the optimizer's state after a step, and its loss, accuracy, and 1.

    The model computes in `dtype`, unless that is None; parameters and optimizer keep their own.
    Gradients are taken with respect to the trainable ones of `params` alone; the others are batch
    statistics. Those of norms that are frozen move only without `freeze_statistics`. What is drawn
    depends on the rng in `frozen` and on `step`. The memory of `optimized` is given away; that of
    `params` is not, for they may be the caller's, or the best so far.
    """
    trainable, stats = params.split_trainable()

    def loss_fn(trainable: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
        whole = trainable.merge(stats).merge(frozen.fold_rng(step))
        # Norms go by the flags that they see; what gets a gradient is decided already.
        whole = whole if freeze_statistics else whole.unfreeze()
        logits, new = model(_computing_in(whole, dtype), *_all(inputs), is_training=True)
        loss, accuracy, _ = measures(logits.astype(jnp.float32), targets, scores)
        moved = stats.merge(new.partition(lambda path, _: path in stats)[0])
        return loss, (jnp.stack([loss, accuracy, jnp.ones_like(loss)]), moved)

    grads, (measured, stats) = jax.grad(loss_fn, has_aux=True)(trainable)
    with jax.numpy_dtype_promotion('standard'):  # optax promotes.
        updates, optimized = optimizer.update(grads, optimized, trainable)
    trainable = jax.tree.map(lambda w, u: w + u.astype(w.dtype), trainable, updates)
    return trainable.merge(stats), optimized, measured


@functools.partial(jax.jit, static_argnames=('model', 'dtype', 'scores'))
def measure_step(
    model: Any,
    params: Params,
    inputs: jax.Array,
    targets: jax.Array,
    *,
    dtype: Any = None,
    scores: str = 'softmax',
) -> jax.Array:
    """Return the `measures` of one batch, the model running as in evaluation."""
    logits, _ = model(_computing_in(params, dtype), *_all(inputs))
    return measures(logits.astype(jnp.float32), targets, scores)


def measure(
    model: Any,
    params: Params,
    batches: Iterable[Pair],
    dtype: Any = None,
    scores: str = 'softmax',
) -> tuple[float, float]:
    """Return the mean loss and accuracy over all targets of `batches`."""
    total = np.zeros(3)
    for inputs, targets in batches:
        found = measure_step(model, params, inputs, targets, dtype=dtype, scores=scores)
        loss, accuracy, count = np.asarray(found, np.float64)
        total += (loss * count, accuracy * count, count)
    return float(total[0] / total[2]), float(total[1] / total[2])


def measures(logits: jax.Array, targets: jax.Array, scores: str = 'softmax') -> jax.Array:
    """Return the mean loss, the accuracy, and the number of targets that count.

    Targets are classes, IGNORED where they do not count, or floating-point values of each class, those
    that are NaN left out. The loss is what `scores` are trained by: the cross entropy of a 'softmax', the
    binary one of each 'sigmoid', the squared error if they are 'none', which have no accuracy.
    """
    are_classes = jnp.issubdtype(targets.dtype, jnp.integer)
    counted = targets != IGNORED if are_classes else ~jnp.isnan(targets).all(-1)
    if are_classes and scores == 'softmax':
        loss, right = _cross_entropy(logits, targets), logits.argmax(-1) == targets
    else:
        values = _values(logits, targets) if are_classes else targets.astype(logits.dtype)
        known = counted[..., None] & ~jnp.isnan(values)
        loss, right = _value_loss(logits, jnp.where(known, values, 0), known, scores)
        if are_classes and logits.shape[-1] > 1:
            right = (logits.argmax(-1) == targets).astype(jnp.float32)
    means = (_mean(x.astype(jnp.float32), counted) for x in (loss, right))
    return jnp.stack([*means, counted.sum().astype(jnp.float32)])


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the loss of each target; something finite for those that do not count."""
    picked = jnp.maximum(targets, 0)[..., None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), picked, -1)[..., 0]


def _values(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the values of classes: 1 for the one, 0 for the others; a single class's own, 0 or 1."""
    count = logits.shape[-1]
    if count == 1:
        return targets[..., None].astype(logits.dtype)
    return jax.nn.one_hot(targets, count, dtype=logits.dtype)


def _value_loss(
    logits: jax.Array, values: jax.Array, known: jax.Array, scores: str
) -> tuple[jax.Array, jax.Array]:
    """Return the loss of each row of values, and how right the logits are, between 0 and 1.

    Both are means over the values that are known.
    """
    counts = known.astype(logits.dtype)
    share = counts / jnp.maximum(counts.sum(-1, keepdims=True), 1)
    match scores:
        case 'softmax':
            loss = -(values * jax.nn.log_softmax(logits)).sum(-1)
            return loss, (logits.argmax(-1) == values.argmax(-1)).astype(jnp.float32)
        case 'sigmoid':
            loss = ((jax.nn.softplus(logits) - values * logits) * share).sum(-1)
            return loss, (((logits > 0) == (values > 0.5)).astype(logits.dtype) * share).sum(-1)
    return (jnp.square(logits - values) * share).sum(-1), jnp.zeros(logits.shape[:-1])


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Average over the targets that count."""
    counts = counted.astype(values.dtype)
    # A target that does not count may have no finite loss.
    return jnp.where(counted, values, 0).sum() / jnp.maximum(counts.sum(), 1)


def _all(inputs: Any) -> tuple[jax.Array, ...]:
    """Return a model's inputs: one array, or several as a tuple."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _computing_in(params: Params, dtype: Any) -> Params:
    """Cast weights to `dtype`; batch statistics stay as they are."""
    if dtype is None:
        return params
    return params.cast(dtype, lambda _, param: not param.is_state)
