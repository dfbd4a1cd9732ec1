"""How steps are taken: AdamW, the schedule of its rate, and what decays."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from blox.labels import spread
from blox.params import Params
from blox.stacking import STACKED

SCHEDULES = ('cosine', 'linear', 'constant')


class Descent(NamedTuple):
    """How steps are taken.

    Attributes:
      rate: the learning rate at its peak, which it reaches after `warmup` steps.
      schedule: how it falls to zero until the last of `steps`: 'cosine' or 'linear'; or 'constant'.
      factors: of the steps of parameters by path; of a stacked entry, one for each block.
    """

    rate: float
    steps: int
    warmup: int
    schedule: str = 'cosine'
    weight_decay: float = 0.05
    factors: tuple[tuple[str, tuple[float, ...]], ...] = ()


@functools.cache
def adamw(descent: Descent) -> Any:
    """Make AdamW with a warmup, of gradients clipped at a norm of 1; vectors do not decay.

    Equal arguments give the same object, and so the same compiled programs.
    """
    parts = [
        optax.clip_by_global_norm(1.0),
        optax.adamw(_schedule(descent), weight_decay=descent.weight_decay, mask=_decays),
    ]
    if descent.factors:
        parts.append(optax.stateless(functools.partial(_scaled, dict(descent.factors))))
    return optax.chain(*parts)


def _schedule(descent: Descent) -> optax.Schedule:
    rate, warmup, steps = descent.rate, descent.warmup, descent.steps + 1
    falls = {
        'cosine': optax.cosine_decay_schedule(rate, steps - warmup),
        'linear': optax.linear_schedule(rate, 0.0, steps - warmup),
        'constant': optax.constant_schedule(rate),
    }
    rise = optax.linear_schedule(rate / (warmup + 1), rate, warmup)
    return optax.join_schedules([rise, falls[descent.schedule]], [warmup])


def _decays(params: Params) -> Params:
    """Tell of each value whether it is more than a vector; of stacked ones, each block's own."""
    axes = {path: len(p.shape) - (STACKED in p.metadata) for path, p in params.items()}
    return spread(params, {path: count > 1 for path, count in axes.items()})


def _scaled(factors: Mapping[str, tuple[float, ...]], updates: Any, _: Any) -> Any:
    """Multiply each update by its factor, that of a stacked entry by each block's."""

    def scaled(update: jax.Array, own: tuple[float, ...]) -> jax.Array:
        axes = (len(own), *[1] * (update.ndim - 1)) if len(own) > 1 else ()
        return update * jnp.asarray(own, update.dtype).reshape(axes)

    flat, tree = jax.tree.flatten(updates)
    return tree.unflatten([scaled(u, factors[path]) for u, path in zip(flat, updates)])
