"""Statistics of an array, summed a piece at a time: arrays may be half of the memory."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# As float64 a piece fits a core's cache.
_PIECE = 1 << 16


class Statistics(NamedTuple):
    """Statistics of finite numbers; `zeros` is a fraction, `nans` and `infs` are counts."""

    mean: float
    std: float
    low: float
    high: float
    zeros: float
    nans: int
    infs: int

    @property
    def alarm(self) -> str:
        """'2 NaN, 1 Inf', or '' if all numbers are finite."""
        found = ((self.nans, 'NaN'), (self.infs, 'Inf'))
        return ', '.join(f'{count:,} {name}' for count, name in found if count)

    def __str__(self) -> str:
        shown = {'mean': self.mean, 'std': self.std, 'min': self.low, 'max': self.high}
        return '  '.join(f'{name} {x:.3g}' for name, x in shown.items()) + (
            f'  zeros {100 * self.zeros:.3g} %'
        )


def statistics(value: Any) -> Statistics | None:
    """Return statistics of an array's real numbers, None where there are none.

    Of an array over several hosts, those of the parts that this host holds. They are summed in
    float64, whatever the dtype.

    >>> print(statistics(np.array([0, 1, 2, np.nan], np.float32)))
    mean 1  std 0.816  min 0  max 2  zeros 33.3 %
    """
    if not _has_numbers(value):
        return None
    count = zeros = nans = infs = 0
    mean, squares, low, high = 0.0, 0.0, math.inf, -math.inf
    # Numbers beyond 1e154 have infinite squares.
    with np.errstate(over='ignore', invalid='ignore'):
        for piece in _local_pieces(value):
            part = piece.astype(np.float64)
            if not math.isfinite(part.sum()):
                nans, infs = nans + int(np.isnan(part).sum()), infs + int(np.isinf(part).sum())
                part = part[np.isfinite(part)]
            if not part.size:
                continue
            middle, count = part.mean(), count + part.size
            away, step = part - middle, middle - mean
            mean += step * part.size / count
            # Not away @ away, whose threads wait for one another on a busy machine.
            squares += np.square(away).sum() + step * step * part.size * (count - part.size) / count
            low, high = min(low, part.min()), max(high, part.max())
            zeros += part.size - np.count_nonzero(part)
    if not count:
        mean = low = high = math.nan
    count = count or math.nan
    return Statistics(mean, math.sqrt(squares / count), low, high, zeros / count, nans, infs)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the numbers of an array in order, as flat views of at most 65,536."""
    flat = array.reshape(-1)
    return (flat[start : start + _PIECE] for start in range(0, flat.size, _PIECE))


def _has_numbers(value: Any) -> bool:
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    return (
        isinstance(value, jax.Array | np.ndarray)
        and not isinstance(value, Tracer)
        and value.size > 0
        and any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
    )


def _local_pieces(value: Any) -> Iterator[np.ndarray]:
    """Yield pieces of the part that this host holds, each place once; nothing is gathered."""
    if isinstance(value, np.ndarray):
        yield from pieces(value)
        return
    for shard in value.addressable_shards:
        if shard.replica_id == 0:
            yield from pieces(np.asarray(shard.data))
