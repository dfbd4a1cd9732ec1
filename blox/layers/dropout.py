"""Dropout, of single numbers and of whole residual branches."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers.mode import check_static
from blox.module import Module
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
        check_static(self, is_training)
        if not is_training or self.rate == 0:
            return inputs, params
        key, params = params.next_key()
        return _drop(key, inputs, self.rate, inputs.shape), params


class DropPath(Dropout):
    """Stochastic depth: drops whole examples of a residual branch (Huang et al., 2016).

    arXiv:1603.09382. The leading axis is the batch; the examples that are kept are scaled by
    1 / (1 - rate).
    """

    def __call__(
        self, params: Params, inputs: Float[Array, 'batch *shape'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch *shape'], Params]:
        """Return [batch, ...] inputs, in training with some of the examples dropped."""
        check_static(self, is_training)
        if not is_training or self.rate == 0:
            return inputs, params
        key, params = params.next_key()
        shape = (inputs.shape[0],) + (1,) * (inputs.ndim - 1)
        return _drop(key, inputs, self.rate, shape), params


def _drop(key: jax.Array, inputs: jax.Array, rate: float, shape: tuple[int, ...]) -> jax.Array:
    if rate == 1:
        return jnp.zeros_like(inputs)
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(keep, inputs / (1 - rate), jnp.zeros_like(inputs))
