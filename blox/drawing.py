"""Initial values drawn on a CPU piece by piece: bit for bit those of a program for each shape.

XLA compiles a program of `jax.random.normal` in 0.3 s, for each shape anew, and runs it at 30 ns a
number: it writes the hash's rounds to memory one by one. JAX's Threefry makes a number's bits of the
key and of the number's place in its array alone, so that one program for a piece of any array serves
all of them. With the hash written out in one loop it compiles in 0.15 s and takes 8 ns a number.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from blox.memory import aligned
from blox.settings import setting

# Numbers drawn at once: they stay in a core's cache, and calls take a hundredth of the time.
PIECE = 1 << 16
# Pieces let go of Python's lock while they are drawn.
_THREADS = min(os.cpu_count() or 1, 8)
# The hash's rotations (Salmon et al., 2011, 'Parallel random numbers: as easy as 1, 2, 3').
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_SQRT2 = np.float32(np.sqrt(2))
# All of a wide processor, where XLA takes half by itself: 8 instead of 13 ns a number of a normal
# distribution and the same bits.
_OPTIONS = {'xla_cpu_prefer_vector_width': 512}
# XLA unrolls loops over shorter last axes, and rounds some values in them otherwise.
_NARROW = 8


class Recipe(NamedTuple):
    """How an array is made whose numbers do not depend on its shape: a distribution times a factor.

    Attributes:
      distribution: 'normal', 'truncated normal' (at 2 standard deviations), 'uniform' (from -1 to
        1), or 'ones'.
    """

    distribution: Literal['normal', 'truncated normal', 'uniform', 'ones']
    factor: np.float32

    def fits(self, shape: Sequence[int]) -> bool:
        """Return whether pieces of such an array have the very values of a program for it alone."""
        is_wide = bool(shape) and shape[-1] >= _NARROW and math.prod(shape) < 2**32
        return is_wide or self.distribution == 'ones'


def draws_pieces(key: jax.Array) -> bool:
    """Return whether arrays of this key can be drawn in pieces: on a CPU, by this hash, right now."""
    data = jax.random.key_data(key)
    if isinstance(data, Tracer) or not setting('threefry_partitionable'):
        return False
    # What a program makes of a key is where the key is, if that was chosen.
    place = data if data.committed else jax.device_put(np.uint32(0))
    is_cpu = all(device.platform == 'cpu' for device in place.sharding.device_set)
    return is_cpu and str(jax.random.key_impl(key)) == 'threefry2x32'


def draw_pieces(
    key: jax.Array,
    words: np.ndarray,
    recipes: Sequence[Recipe],
    shapes: Sequence[tuple[int, ...]],
) -> list[jax.Array]:
    """Return float32 arrays by their recipes, each of the key that its two words are folded into."""
    data = jax.random.key_data(key)
    arrays = [aligned(shape, np.float32) for shape in shapes]
    tasks = [*zip(arrays, recipes, _fold(np.asarray(data), words))]
    # The largest first: so no thread is left with it at the end.
    tasks.sort(key=lambda task: -task[0].size)
    # Programs are made in this thread, whose settings are the caller's.
    programs = {recipe.distribution: _program(recipe.distribution) for recipe in recipes}
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda task: _fill(programs, *task), tasks):
            pass
    return jax.device_put(arrays, data.sharding if data.committed else None)


def _fill(programs: Mapping[str, Any], array: np.ndarray, recipe: Recipe, key: np.ndarray) -> None:
    """Fill a new array, which holds zeros."""
    program, flat = programs[recipe.distribution], array.reshape(-1)
    if program is None:
        if recipe.factor or np.signbit(recipe.factor):
            flat.fill(recipe.factor)
        return
    for start in range(0, flat.size, PIECE):
        there = flat[start : start + PIECE]
        there[:] = np.asarray(program(key, np.uint32(start), recipe.factor))[: there.size]


@functools.cache
def _program(distribution: str) -> Any:
    """Return the program that makes a piece of an array of its key, start and factor; None for ones."""
    if distribution == 'ones':
        return None
    arguments = np.zeros(2, np.uint32), np.uint32(0), np.float32(1)
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
        program = jax.jit(_DISTRIBUTIONS[distribution], compiler_options=_OPTIONS)
        return program.lower(*arguments).compile()


# JAX's distributions, operation by operation, so that XLA rounds alike.


def _normal(key: jax.Array, start: jax.Array, factor: jax.Array) -> jax.Array:
    """XLA multiplies constants that follow each other first, so sqrt(2) is a part of the factor."""
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    return lax.erf_inv(_between(key, start, lowest, np.float32(1))) * (_SQRT2 * factor)


def _truncated_normal(key: jax.Array, start: jax.Array, factor: jax.Array) -> jax.Array:
    edge = lax.erf(np.float32(2) / _SQRT2)
    values = _SQRT2 * lax.erf_inv(_between(key, start, -edge, edge))
    limit = np.nextafter(np.float32(2), np.float32(0))
    return jnp.clip(values, -limit, limit) * factor


def _uniform(key: jax.Array, start: jax.Array, factor: jax.Array) -> jax.Array:
    return _between(key, start, np.float32(-1), np.float32(1)) * factor


_DISTRIBUTIONS: dict[str, Callable[..., jax.Array]] = {
    'normal': _normal,
    'truncated normal': _truncated_normal,
    'uniform': _uniform,
}


def _between(key: jax.Array, start: jax.Array, low: Any, high: Any) -> jax.Array:
    """Return a piece of uniform numbers, made of random bits as their mantissas."""
    low_place = start + lax.iota(np.uint32, PIECE)
    a, b = _threefry(key[0], key[1], jnp.zeros_like(low_place), low_place)
    mantissa = ((a ^ b) >> np.uint32(9)) | np.uint32(0x3F800000)
    unit = lax.bitcast_convert_type(mantissa, np.float32) - np.float32(1)
    return jnp.maximum(low, unit * (high - low) + low)


def _fold(key: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Return [n, 2] keys: `fold_path` of one key and [n, 2] words."""
    first, second = np.broadcast_to(key, words.shape).T
    for word in words.T:
        first, second = _threefry(first, second, np.zeros_like(word), word)
    return np.stack([first, second], axis=-1)


def _threefry(key0: Any, key1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Return the hash Threefry 2x32, of 20 rounds, of two uint32 each; of NumPy's and JAX's arrays."""
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for bits in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << np.uint32(bits)) | (x1 >> np.uint32(32 - bits)))
        x0 = x0 + keys[(i + 1) % 3]
        x1 = x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1
