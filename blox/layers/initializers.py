"""Initial values by name, bit for bit those of `jax.nn.initializers`.

`jax.nn.initializers.normal(0.02)` is a function made on the spot, which has no readable name and
which no other process can find, so that a module that keeps it cannot be pickled. These can be,
and compare equal where they give the same values.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax.nn import initializers


@dataclasses.dataclass(frozen=True)
class Zeros:
    """Fills with zeros."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Return `shape` of zeros, whatever the key."""
        return initializers.zeros(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Ones:
    """Fills with ones."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Return `shape` of ones, whatever the key."""
        return initializers.ones(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Constant:
    """Fills with one value."""

    value: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Return `shape` of the value, whatever the key."""
        return initializers.constant(self.value)(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class Normal:
    """Draws from a normal distribution of mean 0."""

    stddev: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        return initializers.normal(self.stddev)(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Draws from a normal distribution of mean 0, cut at two standard deviations."""

    stddev: float

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        return initializers.truncated_normal(self.stddev)(key, shape, dtype)


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


@dataclasses.dataclass(frozen=True)
class LecunNormal:
    """Draws from a truncated normal distribution with a variance of 1 / inputs."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        """Draw `shape` of numbers from `key`."""
        return initializers.lecun_normal()(key, shape, dtype)
