"""Averages of models."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from blox.param import Param, is_floating
from blox.params import Params
from blox.wording import differences, some


def average(models: Sequence[Params], weights: Sequence[float] = ()) -> Params:
    """Return the mean of several Params of one model, such as the ends of several trainings.

    Floating-point values are averaged, with these `weights` if there are any, in float32 or what is
    wider; all else, the rng among it, and flags are those of the first. Raises ValueError for Params of other
    paths, shapes or dtypes, and for weights that are not as many or sum up to nothing.

    >>> import blox as bx
    >>> ends = [bx.Params.from_entries({'w': jnp.full(2, x)}) for x in (1.0, 2.0)]
    >>> average(ends)['w'].value, average(ends, [3, 1])['w'].value
    (Array([1.5, 1.5], dtype=float32), Array([1.25, 1.25], dtype=float32))
    """
    models, weights = [*models], [*weights]
    if not models or not all(isinstance(one, Params) for one in models):
        raise ValueError('expected a list of Params, one or more')
    shares = np.asarray(weights or [1.0] * len(models), np.float64)
    if shares.shape != (len(models),) or not np.isfinite(shares).all() or not shares.sum():
        raise ValueError(
            f'expected {len(models)} weights that do not sum up to 0, found {list(weights)}'
        )
    first, *others = models
    for i, other in enumerate(others, 1):
        if wrong := differences(_kinds(first), _kinds(other)):
            raise ValueError(f'Params {i} are of another model than the first: {some(wrong, 5)}')
    shares = shares / shares.sum()
    floating, rest = first.partition(lambda _, param: is_floating(param.value))
    for path, param in floating.items():
        floating = floating.set(path, _mean([params[path] for params in models], shares, param))
    return rest.merge(floating)


def _kinds(params: Params) -> dict[str, tuple[object, ...]]:
    return {path: (param.shape, str(param.dtype)) for path, param in params.items()}


def _mean(params: Sequence[Param], shares: np.ndarray, like: Param) -> object:
    wide = like.dtype if like.dtype.itemsize > 4 else np.dtype(np.float32)
    total = jnp.zeros(like.shape, wide)
    for param, share in zip(params, shares):
        total = total + param.value.astype(wide) * jnp.asarray(share, wide)
    return total.astype(like.dtype)
