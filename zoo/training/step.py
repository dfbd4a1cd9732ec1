"""One step of training and one of measuring, as pure functions."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blox.param import BATCH_STATS
from blox.params import Params
from blox.zoo.evaluating.metrics import BY_CLASS
from blox.zoo.inputs.text import TextBatch
from blox.zoo.training.data import Pair
from blox.zoo.training.losses import Loss, class_counts, measures
from blox.zoo.training.mixing import Mixing, mix


def divide(params: Params) -> tuple[Params, Params]:
    """Split into what training changes, batch statistics included, and the rest."""
    return params.partition(lambda _, p: p.trainable or p.metadata.get('tag') == BATCH_STATS)


class Way(NamedTuple):
    """What of a training is the same in each of its steps.

    Attributes:
      dtype: what the model computes in; '' for what its parameters have.
      freeze_statistics: whether batch statistics of norms that are frozen stay as they are.
    """

    loss: Loss = Loss()
    mixing: Mixing = Mixing()
    dtype: str = ''
    freeze_statistics: bool = True


@functools.partial(
    jax.jit, static_argnames=('model', 'optimizer', 'way'), donate_argnames='optimized'
)
def train_step(
    model: Any,
    optimizer: Any,
    params: Params,
    optimized: Any,
    frozen: Params,
    inputs: Any,
    targets: jax.Array,
    step: jax.Array,
    *,
    way: Way = Way(),
) -> tuple[Params, Any, jax.Array]:
    """Return the params and the optimizer's state after a step, and its loss, accuracy, and 1.

    Gradients are taken with respect to the trainable ones of `params` alone; the others are batch
    statistics. What is drawn depends on the rng in `frozen` and on `step`. The memory of `optimized` is
    given away; that of `params` is not, for they may be the caller's, or the best so far.
    """
    trainable, stats = params.split_trainable()
    frozen = frozen.fold_rng(step)
    both = [(1.0, targets)]
    if way.mixing.is_on:
        key, frozen = frozen.next_key()
        inputs, share = mix(key, inputs, way.mixing)
        both = [(share, targets), (1 - share, targets[::-1])]

    def loss_fn(trainable: Params) -> tuple[jax.Array, tuple[jax.Array, Params]]:
        whole = trainable.merge(stats).merge(frozen)
        # Norms go by the flags that they see; what gets a gradient is decided already.
        whole = whole if way.freeze_statistics else whole.unfreeze()
        logits, new = model(_computing_in(whole, way.dtype), *_all(model, inputs), is_training=True)
        logits = logits.astype(jnp.float32)
        parts = [share * measures(logits, t, way.loss) for share, t in both]
        loss, accuracy, _ = functools.reduce(jnp.add, parts)
        moved = stats.merge(new.partition(lambda path, _: path in stats)[0])
        return loss, (jnp.stack([loss, accuracy, jnp.ones_like(loss)]), moved)

    grads, (measured, stats) = jax.grad(loss_fn, has_aux=True)(trainable)
    with jax.numpy_dtype_promotion('standard'):  # optax promotes.
        updates, optimized = optimizer.update(grads, optimized, trainable)
    trainable = jax.tree.map(lambda w, u: w + u.astype(w.dtype), trainable, updates)
    return trainable.merge(stats), optimized, measured


@jax.jit
def averaged(average: Params, params: Params, decay: jax.Array) -> Params:
    """Move an average of Params towards `params` by 1 - `decay`."""
    return jax.tree.map(lambda a, p: a + ((p - a) * (1 - decay)).astype(a.dtype), average, params)


class Measured(NamedTuple):
    """Means over targets; `score` is what the best is chosen by."""

    loss: float
    accuracy: float
    score: float


@functools.partial(jax.jit, static_argnames=('model', 'dtype'))
def logits_step(model: Any, params: Params, inputs: Any, *, dtype: str = '') -> jax.Array:
    """Return the logits of one batch in float32, the model running as in evaluation."""
    logits, _ = model(_computing_in(params, dtype), *_all(model, inputs))
    return logits.astype(jnp.float32)


@functools.partial(jax.jit, static_argnames=('model', 'dtype', 'scores', 'by_class'))
def measure_step(
    model: Any,
    params: Params,
    inputs: Any,
    targets: jax.Array,
    *,
    dtype: str = '',
    scores: str = 'softmax',
    by_class: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Return the `measures` of one batch, the model running as in evaluation, and its `class_counts`."""
    logits = logits_step(model, params, inputs, dtype=dtype)
    counts = class_counts(logits, targets, scores) if by_class else jnp.zeros((3, 0))
    return measures(logits, targets, Loss(scores)), counts


def measure(
    model: Any,
    params: Params,
    batches: Iterable[Pair],
    dtype: str = '',
    scores: str = 'softmax',
    by: str = 'accuracy',
) -> Measured:
    """Return the mean loss and accuracy over all targets of `batches`, and the score `by` its name."""
    total, by_class = np.zeros(3), np.zeros(())
    for inputs, targets in batches:
        found, counts = measure_step(
            model, params, inputs, targets, dtype=dtype, scores=scores, by_class=by in BY_CLASS
        )
        loss, accuracy, count = np.asarray(found, np.float64)
        total += (loss * count, accuracy * count, count)
        by_class = by_class + np.asarray(counts, np.float64)
    loss, accuracy = float(total[0] / total[2]), float(total[1] / total[2])
    plain = {'accuracy': accuracy, 'loss': loss}
    if by in plain:
        return Measured(loss, accuracy, plain[by])
    several = {'of_all': True} if scores == 'sigmoid' and by == 'macro_f1' else {}
    return Measured(loss, accuracy, BY_CLASS[by](*by_class, **several))


def _all(model: Any, inputs: Any) -> tuple[Any, ...]:
    """Return a model's inputs: one array, several as a tuple, or those of a batch of texts that it takes."""
    if isinstance(inputs, TextBatch):
        return inputs[: len(model.takes)]
    return inputs if isinstance(inputs, tuple) else (inputs,)


def _computing_in(params: Params, dtype: str) -> Params:
    """Cast weights to `dtype`, if there is one; batch statistics stay as they are."""
    if not dtype:
        return params
    return params.cast(dtype, lambda _, param: not param.is_state)
