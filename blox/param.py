"""Param: one entry of Params, and the rules for what takes its place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

RNG = 'rng'
BATCH_STATS = 'batch_stats'
STATE_TAGS = (RNG, BATCH_STATS)


@dataclasses.dataclass(frozen=True)
class Param:
    """One entry of Params.

    Attributes:
      value: an array; for the entry 'rng' the pair (key, counter).
      trainable: whether `split_trainable` counts it among the trainable ones.
      metadata: names to hashable values. Its 'tag' tells state from parameters: entries
        tagged 'rng' or 'batch_stats' are never unfrozen, nor counted by `num_params`.
    """

    value: Any
    trainable: bool = True
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        if isinstance(self.value, tuple):
            return (len(self.value),)
        # Trees of flags or shardings have values that are no arrays.
        return tuple(getattr(self.value, 'shape', ()))

    @property
    def dtype(self) -> Any:
        return getattr(self.value, 'dtype', np.dtype(object))

    @property
    def is_state(self) -> bool:
        """Tell by the metadata's 'tag' whether this is state, which a model updates itself."""
        return self.metadata.get('tag') in STATE_TAGS

    @property
    def size(self) -> int:
        """The number of numbers in the value."""
        return math.prod(self.shape) if hasattr(self.value, 'shape') else 0

    @property
    def nbytes(self) -> int:
        """Bytes of the value's numbers; 0 for the rng."""
        return self.size * self.dtype.itemsize

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(f'{self!r} is no array: its value is, as in params[path].value')

    def __repr__(self) -> str:
        flags = '' if self.trainable else ', trainable=False'
        metadata = f', metadata={dict(self.metadata)}' if self.metadata else ''
        return f'Param({describe(self.value)}{flags}{metadata})'


def as_param(path: str, value: Any) -> Param:
    """Return `value` as a Param of a JAX array, with `path` checked."""
    if not isinstance(path, str) or '' in path.split('/'):
        raise ValueError(f"a path is non-empty names joined by '/', not {path!r}")
    param = value if isinstance(value, Param) else Param(value)
    value = param.value
    if path == RNG:
        if not isinstance(value, tuple) or len(value) != 2:
            raise TypeError(f'{RNG!r} is a pair (key, counter), found {describe(value)}')
        return param
    if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
        return param
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f'{path!r} takes an array, found {type(value).__name__}') from error
    if jnp.issubdtype(array.dtype, jnp.integer) and not np.array_equal(array, value):
        raise ValueError(f'{path!r}: {np.asarray(value).dtype} values do not fit {array.dtype}')
    return dataclasses.replace(param, value=array)


def like(path: str, stored: Any, new: Any) -> Any:
    """Cast `new` to the dtype of `stored`, whose place it takes; ValueError unless it fits."""
    if isinstance(stored, tuple):
        return new
    if tuple(new.shape) != tuple(stored.shape):
        raise ValueError(f'{path!r}: expected shape {stored.shape}, found {new.shape}')
    if _kind(new) > _kind(stored):
        raise ValueError(f'{path!r}: expected dtype {stored.dtype}, found {new.dtype}')
    return cast_value(new, stored.dtype)


def _kind(value: Any) -> int:
    """Return the place of a dtype in the order bool, integer, floating, complex, keys."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next((i for i, k in enumerate(kinds) if jnp.issubdtype(value.dtype, k)), len(kinds))


def cast_value(value: Any, dtype: Any) -> Any:
    """Cast an array, or the shape of one, to another dtype."""
    if value.dtype == dtype:
        return value
    if isinstance(value, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(value.shape, dtype, sharding=value.sharding)
    return value.astype(dtype)


def is_floating(value: Any) -> bool:
    """Tell whether an entry's value is an array of floating-point numbers."""
    return not isinstance(value, tuple) and jnp.issubdtype(value.dtype, jnp.floating)


def describe(value: Any) -> str:
    """Write 'float32[2,3]' for an array, '(key<fry>[], uint32[])' for the rng, 'deleted' before what is gone."""
    if isinstance(value, tuple):
        return f'({", ".join(map(describe, value))})'
    if not hasattr(value, 'dtype'):
        return repr(value)
    gone = 'deleted ' if _is_deleted(value) else ''
    return f'{gone}{value.dtype}[{",".join(map(str, value.shape))}]'


def _is_deleted(value: Any) -> bool:
    """Tell whether an array's memory was given away, as `donate_argnums` of `jax.jit` does it."""
    is_array = isinstance(value, jax.Array) and not isinstance(value, Tracer)
    return is_array and value.is_deleted()
