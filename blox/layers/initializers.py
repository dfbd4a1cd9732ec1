"""Initial values by name, bit for bit those of `jax.nn.initializers`.

`jax.nn.initializers.normal(0.02)` is a function made on the spot, which has no readable name and
which no other process can find, so that a module that keeps it cannot be pickled. These can be,
and compare equal where they give the same values. Each has a `recipe`, by which `bx.init` draws large
arrays in less time.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.nn import initializers

from blox.drawing import Recipe

# The standard deviation of a normal distribution that is cut at two.
_TRUNCATED = np.float32(0.87962566103423978)


@dataclasses.dataclass(frozen=True)
class Zeros:
    """Fills with zeros."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Return `shape` of zeros, whatever the key."""
        return initializers.zeros(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe:
        """Return how float32 values are made."""
        return Recipe('ones', np.float32(0))


@dataclasses.dataclass(frozen=True)
class Ones:
    """Fills with ones."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Return `shape` of ones, whatever the key."""
        return initializers.ones(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe:
        """Return how float32 values are made."""
        return Recipe('ones', np.float32(1))


@dataclasses.dataclass(frozen=True)
class Constant:
    """Fills with one value."""

    value: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Return `shape` of the value, whatever the key."""
        return initializers.constant(self.value)(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe | None:
        """Return how float32 values are made; None for several, which JAX broadcasts or refuses."""
        return Recipe('ones', np.float32(self.value)) if np.ndim(self.value) == 0 else None


@dataclasses.dataclass(frozen=True)
class Normal:
    """Draws from a normal distribution of mean 0."""

    stddev: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        return initializers.normal(self.stddev)(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe:
        """Return how float32 values are made."""
        return Recipe('normal', np.float32(self.stddev))


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Draws from a normal distribution of mean 0, cut at two standard deviations."""

    stddev: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        return initializers.truncated_normal(self.stddev)(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe:
        """Return how float32 values are made."""
        return Recipe('truncated normal', np.float32(self.stddev))


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """Draws with a variance of `scale` divided by the weight's inputs, outputs, or their mean."""

    scale: float
    mode: Literal['fan_in', 'fan_out', 'fan_avg']
    distribution: Literal['truncated_normal', 'normal', 'uniform']

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        draw = initializers.variance_scaling(self.scale, self.mode, self.distribution)
        return draw(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe | None:
        """Return how float32 values are made; None for what JAX refuses."""
        if len(shape) < 2 or 0 in shape or self.scale < 0:
            return None
        *kernel, inputs, outputs = shape
        fan_in, fan_out = (channels * math.prod(kernel) for channels in (inputs, outputs))
        fans = {'fan_in': fan_in, 'fan_out': fan_out, 'fan_avg': (fan_in + fan_out) / 2}
        if self.mode not in fans:
            return None
        variance = np.float32(self.scale / fans[self.mode])
        match self.distribution:
            case 'truncated_normal':
                return Recipe('truncated normal', np.sqrt(variance) / _TRUNCATED)
            case 'normal':
                return Recipe('normal', np.sqrt(variance))
            case 'uniform':
                return Recipe('uniform', np.sqrt(np.float32(3) * variance))


@dataclasses.dataclass(frozen=True)
class LecunNormal:
    """Draws from a truncated normal distribution with a variance of 1 / inputs."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        return initializers.lecun_normal()(key, shape, dtype)

    def recipe(self, shape: Sequence[int]) -> Recipe | None:
        """Return how float32 values are made; None for shapes that are refused."""
        return VarianceScaling(1.0, 'fan_in', 'truncated_normal').recipe(shape)
