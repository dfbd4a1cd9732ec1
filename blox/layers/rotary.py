"""Rotary positions: queries and keys turned by angles that grow with their places.

Su et al., 2021, "RoFormer" (arXiv:2104.09864).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from blox.layers.precision import widen

# Which two of a head's numbers are turned together: each and the one half a head later, or neighbours.
PAIRS = ('halves', 'neighbours')


class Rotation(NamedTuple):
    """Cosines and sines of the angles by which the pairs of numbers at each position are turned.

    They are the same in all heads, [length, pairs], or [length, heads, pairs].
    """

    cos: Float[Array, 'length *heads pairs']
    sin: Float[Array, 'length *heads pairs']


def rotation(angles: np.ndarray | jax.Array, dtype: Any) -> Rotation:
    """Return the rotation of values of `dtype` by angles in radians, [length, head_dim / 2] or of each head.

    It is in float32 at least, as what it turns is while it is turned. Angles that are known beforehand,
    in NumPy, are so in all their digits.
    """
    if isinstance(angles, jax.Array):
        return Rotation(jnp.cos(angles), jnp.sin(angles))
    wide = widen(jnp.zeros((), dtype)).dtype
    return Rotation(jnp.asarray(np.cos(angles), wide), jnp.asarray(np.sin(angles), wide))


def rotate(
    x: Float[Array, 'batch length heads head_dim'], by: Rotation, pairs: str
) -> Float[Array, 'batch length heads head_dim']:
    """Turn the pairs of numbers of each head; `pairs` is one of `PAIRS`."""
    axis = -1 if pairs == 'neighbours' else -2
    shape = (-1, 2) if pairs == 'neighbours' else (2, -1)
    first, second = jnp.moveaxis(widen(x).reshape(*x.shape[:-1], *shape), axis, 0)
    # The same in all sequences, and in all heads but where each has its own.
    cos, sin = (table[None] if table.ndim == 3 else table[None, :, None] for table in by)
    turned = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis)
    return turned.reshape(x.shape).astype(x.dtype)
