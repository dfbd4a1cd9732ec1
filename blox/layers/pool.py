"""Pooling over the spatial axes of [batch, *spatial, channels]."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from blox.layers.conv import Padding, explicit_padding, per_axis
from blox.layers.precision import widen

# The widest window whose places are compared one by one.
_COMPARED = 8


class _Windows(NamedTuple):
    """The size, the steps and the (before, after) padding of windows along each spatial axis."""

    size: tuple[int, ...]
    steps: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    def reduce(self, x: jax.Array, start: float, operation: Callable[[Any, Any], Any]) -> jax.Array:
        return lax.reduce_window(
            x,
            # A NumPy number, for JAX knows how to differentiate max and add only from a known start.
            np.asarray(start, x.dtype),
            operation,
            (1, *self.size, 1),
            (1, *self.steps, 1),
            ((0, 0), *self.pads, (0, 0)),
        )


def max_pool(
    inputs: Float[Array, 'batch *spatial channels'],
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: Padding = 'VALID',
) -> Float[Array, 'batch *pooled channels']:
    """Return the largest value in each window. `stride` is the window's size if not given.

    `padding` is as for Conv; padded places never win. Of equal values the first has the gradient.
    """
    windows = _windows(inputs, window, stride, padding)
    if max(windows.size) > _COMPARED:
        return windows.reduce(inputs, -jnp.inf, lax.max)
    return _largest(windows, inputs)


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
    windows = _windows(inputs, window, stride, padding)
    sums = windows.reduce(x, 0.0, lax.add)
    if count_include_pad:
        means = sums / math.prod(windows.size)
    else:
        ones = jnp.ones((1, *inputs.shape[1:-1], 1), x.dtype)
        means = sums / windows.reduce(ones, 0.0, lax.add)
    return means.astype(inputs.dtype)


def _windows(
    inputs: jax.Array,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None,
    padding: Padding,
) -> _Windows:
    rank = inputs.ndim - 2
    size = per_axis('window', window, rank)
    steps = size if stride is None else per_axis('stride', stride, rank)
    pads = explicit_padding(padding, inputs.shape[1:-1], size, steps, (1,) * rank)
    return _Windows(size, steps, tuple(pads))


# JAX's own gradient carries an index of each element along: on two CPU cores it takes 129 ms for 3x3
# windows of stride 2 over [8, 112, 112, 64], that of comparisons 22. Values alone are faster its way.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _largest(windows: _Windows, x: jax.Array) -> jax.Array:
    return windows.reduce(x, -jnp.inf, lax.max)


@_largest.defjvp
def _largest_jvp(
    windows: _Windows, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    def compare(x: jax.Array) -> jax.Array:
        # The last axis first, so that the first of equal values is the first in the order of rows.
        for axis in reversed(range(len(windows.size))):
            x = _largest_along(windows, x, axis)
        return x

    return jax.jvp(compare, primals, tangents)


def _largest_along(windows: _Windows, x: jax.Array, axis: int) -> jax.Array:
    """Return the largest in each window along one spatial axis, by comparing places one by one."""
    size, step, pad = windows.size[axis], windows.steps[axis], windows.pads[axis]
    axis += 1
    count = max((x.shape[axis] + sum(pad) - size) // step + 1, 0)
    rows = count + (size - 1) // step
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (pad[0], rows * step - x.shape[axis] - pad[0], 0)
    x = lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), config)
    # The places of one step become an axis, for the gradient of a strided slice is a slow loop.
    x = x.reshape(*x.shape[:axis], rows, step, *x.shape[axis + 1 :])
    phases = [phase.squeeze(axis + 1) for phase in lax.split(x, (1,) * step, axis + 1)]
    places = [
        lax.slice_in_dim(phases[k % step], k // step, k // step + count, axis=axis)
        for k in range(size)
    ]
    return functools.reduce(_larger, places)


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the larger of each pair, the first if they are equal, and NaN beside NaN."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)
