"""Dropout, of single numbers and of whole residual branches."""

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers.mode import check_static
from blox.module import Module
from blox.param import RNG
from blox.params import Params


class Dropout(Module):
    """Sets inputs to zero with probability `rate` and scales the rest by 1 / (1 - rate).

    Does nothing unless `is_training`. The key is the next one of Params; see
    `Params.fold_rng` for a different mask in each lane of `vmap` or `shard_map`.
    """

    def __init__(self, graph: Graph, rate: float) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f'{graph.path!r}: a dropout rate lies in [0, 1], found {rate}')
        super().__init__(graph)
        self.rate = rate

    def __call__(
        self, params: Params, inputs: Float[Array, '*shape'], *, is_training: bool = False
    ) -> tuple[Float[Array, '*shape'], Params]:
        """Return inputs of any shape, in training with some of them dropped."""
        if not self.is_active(is_training):
            return inputs, params
        key, params = self._next_key(params)
        return _drop(key, inputs, self.rate, inputs.shape), params

    def is_active(self, is_training: bool) -> bool:
        """Tell whether a call drops anything."""
        check_static(self, is_training)
        return is_training and (isinstance(self.rate, Tracer) or self.rate > 0)

    def _next_key(self, params: Params) -> tuple[jax.Array, Params]:
        key, after = params.next_key()
        if isinstance(self.rate, Tracer):
            # `bx.scan` gives it: where it is 0, no key is taken, as by a layer that knows its rate.
            master, counter = params[RNG].value
            taken = jnp.asarray(self.rate > 0, counter.dtype)
            after = params.set(RNG, (master, counter + taken))
        return key, after


class DropPath(Dropout):
    """Stochastic depth: drops whole examples of a residual branch (Huang et al., 2016).

    arXiv:1603.09382. The leading axis is the batch; the examples that are kept are scaled by
    1 / (1 - rate).
    """

    def __call__(
        self, params: Params, inputs: Float[Array, 'batch *shape'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch *shape'], Params]:
        """Return [batch, ...] inputs, in training with some of the examples dropped."""
        if not self.is_active(is_training):
            return inputs, params
        key, params = self._next_key(params)
        shape = (inputs.shape[0],) + (1,) * (inputs.ndim - 1)
        return _drop(key, inputs, self.rate, shape), params


def _drop(
    key: jax.Array, inputs: jax.Array, rate: float | jax.Array, shape: tuple[int, ...]
) -> jax.Array:
    if not isinstance(rate, Tracer) and rate == 1:
        return jnp.zeros_like(inputs)
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    # A traced rate may be 1: nothing is kept then, and the gradient is 0 and not NaN.
    share = jnp.where(rate < 1, 1 - rate, 1) if isinstance(rate, Tracer) else 1 - rate
    return jnp.where(keep, inputs / jnp.asarray(share, inputs.dtype), jnp.zeros_like(inputs))
