"""Make scores of logits, as a card says, and answers of the best of them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Answer(NamedTuple):
    """A class, word or span, and its score: a probability, or a value where scores are 'none'."""

    label: str
    score: float


def score(logits: jax.Array, scores: str) -> jax.Array:
    """Return float32 scores of logits [..., classes]: their 'softmax', their 'sigmoid', or 'none'."""
    logits = logits.astype(jnp.float32)
    match scores:
        case 'softmax':
            return jax.nn.softmax(logits)
        case 'sigmoid':
            return jax.nn.sigmoid(logits)
    return logits


def best(row: np.ndarray, labels: Sequence[str], top: int, scores: str = 'softmax') -> list[Answer]:
    """Return the `top` highest scores of a row with their labels; numbers stand for those without.

    Values of their own, whose scores are 'none', are no rivals: all of them are returned.
    """
    order = np.argsort(-row, kind='stable')[: len(row) if scores == 'none' else top]
    return [
        Answer(labels[i] if i < len(labels) else str(i), float(row[i])) for i in map(int, order)
    ]
