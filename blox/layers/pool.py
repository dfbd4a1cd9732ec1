"""Pooling over the spatial axes of [batch, *spatial, channels]."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from blox.layers.conv import Padding, explicit_padding, per_axis
from blox.layers.precision import widen


def max_pool(
    inputs: Float[Array, 'batch *spatial channels'],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = 'VALID',
) -> Float[Array, 'batch *pooled channels']:
    """Return the largest value in each window. `stride` is the window's size if not given.

    `padding` is as for Conv; padded places never win.
    """
    return _reduce(inputs, -jnp.inf, lax.max, window, stride, padding)


def avg_pool(
    inputs: Float[Array, 'batch *spatial channels'],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = 'VALID',
    *,
    count_include_pad: bool = True,
) -> Float[Array, 'batch *pooled channels']:
    """Return the mean of each window. `stride` is the window's size if not given.

    `padding` is as for Conv. Padded zeros count in the mean, as in torch, unless
    `count_include_pad` is False.
    """
    x = widen(inputs)
    sums = _reduce(x, 0.0, lax.add, window, stride, padding)
    if count_include_pad:
        means = sums / math.prod(per_axis('window', window, inputs.ndim - 2))
    else:
        ones = jnp.ones((1, *inputs.shape[1:-1], 1), x.dtype)
        means = sums / _reduce(ones, 0.0, lax.add, window, stride, padding)
    return means.astype(inputs.dtype)


def _reduce(
    inputs: jax.Array,
    start: float,
    operation: Callable[[Any, Any], Any],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: Padding,
) -> jax.Array:
    rank = inputs.ndim - 2
    size = per_axis('window', window, rank)
    steps = size if stride is None else per_axis('stride', stride, rank)
    pads = explicit_padding(padding, inputs.shape[1:-1], size, steps, (1,) * rank)
    return lax.reduce_window(
        inputs,
        # A NumPy number, for JAX knows how to differentiate max and add only from a known start.
        np.asarray(start, inputs.dtype),
        operation,
        (1, *size, 1),
        (1, *steps, 1),
        ((0, 0), *pads, (0, 0)),
    )
