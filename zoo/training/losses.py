"""Losses of logits, and how right they are."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from blox.zoo.training.data import IGNORED


class Loss(NamedTuple):
    """What logits are trained to be.

    Attributes:
      scores: what they are trained by: the cross entropy of a 'softmax', the binary one of each
        'sigmoid', the squared error if they are 'none', which have no accuracy.
      label_smoothing: the share of a softmax's target that all classes have alike; of a sigmoid's, the
        share that is one half.
      class_weights: of each class: how much its examples count to a softmax, as torch's
        CrossEntropyLoss has it, and its positive ones to a sigmoid, as pos_weight of BCEWithLogitsLoss;
        () for the same of all.
    """

    scores: str = 'softmax'
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()


def measures(logits: jax.Array, targets: jax.Array, loss: Loss = Loss()) -> jax.Array:
    """Return the mean loss, the accuracy, and the number of targets that count.

    Targets are classes, IGNORED where they do not count, or floating-point values of each class, those
    that are NaN left out.
    """
    are_classes = jnp.issubdtype(targets.dtype, jnp.integer)
    counted = targets != IGNORED if are_classes else ~jnp.isnan(targets).all(-1)
    weights = counted.astype(logits.dtype)
    if are_classes and loss.scores == 'softmax':
        losses, of_class = _cross_entropy(logits, targets, loss)
        # What does not count may have no finite loss.
        mean = jnp.where(counted, losses, 0).sum() / _or_one((weights * of_class).sum())
        right = (logits.argmax(-1) == targets).astype(logits.dtype)
    else:
        values = _values(logits, targets) if are_classes else targets.astype(logits.dtype)
        known = counted[..., None] & ~jnp.isnan(values)
        losses, right = _value_loss(logits, jnp.where(known, values, 0), known, loss)
        mean = _mean(losses, counted)
        if are_classes and logits.shape[-1] > 1:
            right = (logits.argmax(-1) == targets).astype(logits.dtype)
    return jnp.stack([mean, _mean(right, counted), weights.sum()]).astype(jnp.float32)


def class_counts(logits: jax.Array, targets: jax.Array, scores: str) -> jax.Array:
    """Count by class, [3, classes]: those found rightly, all that were found, all that there are.

    Logits are [batch, classes], targets as `measures` takes them.
    """
    count = logits.shape[-1]
    if jnp.issubdtype(targets.dtype, jnp.integer):
        there = jax.nn.one_hot(targets, count)  # IGNORED is no class.
        counted = (targets != IGNORED)[:, None]
    else:
        there, counted = (targets > 0.5).astype(jnp.float32), ~jnp.isnan(targets)
    several = scores == 'sigmoid' and targets.ndim == 2
    found = (
        (logits > 0).astype(jnp.float32) if several else jax.nn.one_hot(logits.argmax(-1), count)
    )
    found, there = (jnp.where(counted, x, 0) for x in (found, there))
    return jnp.stack([(found * there).sum(0), found.sum(0), there.sum(0)])


def _cross_entropy(
    logits: jax.Array, targets: jax.Array, loss: Loss
) -> tuple[jax.Array, jax.Array]:
    """Return the loss of each target, and how much it counts."""
    picked = jnp.maximum(targets, 0)
    logs = jax.nn.log_softmax(logits)
    if loss.class_weights:
        weights = jnp.asarray(loss.class_weights, logits.dtype)
        logs, of_class = logs * jnp.broadcast_to(weights, logs.shape), weights[picked]
    else:
        of_class = jnp.ones(targets.shape, logits.dtype)
    losses = -jnp.take_along_axis(logs, picked[..., None], -1)[..., 0]
    if loss.label_smoothing:
        losses = losses + loss.label_smoothing * (-logs.mean(-1) - losses)
    return losses, of_class


def _values(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the values of classes: 1 for the one, 0 for the others; a single class's own, 0 or 1."""
    count = logits.shape[-1]
    if count == 1:
        return targets[..., None].astype(logits.dtype)
    return jax.nn.one_hot(targets, count, dtype=logits.dtype)


def _value_loss(
    logits: jax.Array, values: jax.Array, known: jax.Array, loss: Loss
) -> tuple[jax.Array, jax.Array]:
    """Return the loss of each row of values, and how right the logits are, between 0 and 1.

    Both are means over the values that are known.
    """
    counts = known.astype(logits.dtype)
    share = counts / _or_one(counts.sum(-1, keepdims=True))
    match loss.scores:
        case 'softmax':
            right = (logits.argmax(-1) == values.argmax(-1)).astype(logits.dtype)
            values = values + loss.label_smoothing * (1 / logits.shape[-1] - values)
            logs = jax.nn.log_softmax(logits)
            if loss.class_weights:
                weights = jnp.asarray(loss.class_weights, logits.dtype)
                logs = logs * jnp.broadcast_to(weights, logs.shape)
            return -(values * logs).sum(-1), right
        case 'sigmoid':
            right = ((logits > 0) == (values > 0.5)).astype(logits.dtype)
            values = values + loss.label_smoothing * (0.5 - values)
            losses = jax.nn.softplus(logits) - values * logits
            if loss.class_weights:
                more = jnp.asarray(loss.class_weights, logits.dtype) - 1
                losses = losses + jnp.broadcast_to(more, values.shape) * values * jax.nn.softplus(
                    -logits
                )
            return (losses * share).sum(-1), (right * share).sum(-1)
    return (jnp.square(logits - values) * share).sum(-1), jnp.zeros(logits.shape[:-1], logits.dtype)


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Average over the targets that count."""
    return jnp.where(counted, values, 0).sum() / _or_one(counted.astype(values.dtype).sum())


def _or_one(count: jax.Array) -> jax.Array:
    """Return 1 for the sum of nothing, to divide by."""
    return jnp.where(count > 0, count, 1)
