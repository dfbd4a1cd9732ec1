"""Embed: a table of vectors."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from blox.graph import Graph
from blox.layers.initializers import Normal
from blox.module import Initializer, Module
from blox.params import Params
from blox.product import product

# Rows of inputs from which on a copy of the table costs little beside the product with it.
_MANY = 256


class Embed(Module):
    """Looks up rows of w, which is [vocab_size, width].

    An id outside the table gives a row of NaN, so that it cannot pass for a valid one.
    Attention spreads such a row to all positions: mask padding by its length, not by its id.
    """

    def __init__(
        self,
        graph: Graph,
        vocab_size: int,
        width: int,
        *,
        w_init: Initializer = Normal(1.0),
    ) -> None:
        super().__init__(graph)
        self.vocab_size = vocab_size
        self.width = width
        self.w_init = w_init

    def __call__(
        self, params: Params, ids: Int[Array, '*batch']
    ) -> tuple[Float[Array, '*batch width'], Params]:
        """Map ids of any shape to vectors: [..., width]."""
        w, params = self._table(params)
        return w.at[ids].get(mode='fill', fill_value=jnp.nan, wrap_negative_indices=False), params

    def attend(
        self, params: Params, inputs: Float[Array, '*batch width']
    ) -> tuple[Float[Array, '*batch vocab'], Params]:
        """Return inner products of `inputs` with every row: a language model's tied head."""
        w, params = self._table(params)
        rows = math.prod(inputs.shape[:-1])
        if rows == 1:
            # One row, as in decoding: with the table first, XLA's CPU backend runs its library's
            # product, and else a loop of its own. [50257, 768] takes 12 ms so and 17 the other way
            # round on two busy cores, on JAX 0.10 and 0.12 alike.
            products = w @ inputs.reshape(-1, 1)
            return products.reshape(*inputs.shape[:-1], self.vocab_size), params
        # The rows of an exported program may be a symbol.
        if isinstance(rows, int) and rows >= _MANY and jnp.finfo(w.dtype).bits < 32:
            # An H100 takes 4.3 ms less of 28.8 for a step of GPT-2, 8 x 1024 tokens in bfloat16, where
            # the table's 50,257 rows are filled up to a multiple of 128.
            table = jnp.pad(w, ((0, -self.vocab_size % 128), (0, 0)))
            return product(inputs, table.T)[..., : self.vocab_size], params
        return product(inputs, w.T), params

    def _table(self, params: Params) -> tuple[jax.Array, Params]:
        return self.get_param(params, 'w', (self.vocab_size, self.width), self.w_init)
