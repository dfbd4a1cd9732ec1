"""Recurrent layers: one time step with `step`, a [batch, time, features] sequence with a call."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from blox.graph import Graph
from blox.layers.linear import Linear
from blox.module import Module
from blox.params import Params


class Recurrent(Module):
    """A module with a state that it carries from one time step to the next.

    Attributes:
      is_static: whether a call is a Python loop, in which every step is a part of the program, and
        not one loop of the device. It may be set at any time before the call is compiled.
    """

    def __init__(self, graph: Graph, *, is_static: bool = False) -> None:
        super().__init__(graph)
        self.is_static = is_static

    def initial_state(
        self, params: Params, inputs: Float[Array, 'batch *others']
    ) -> tuple[Any, Params]:
        """Return (state, params): the state before the first step, zeros in the inputs' dtype.

        `inputs` are those of a step or of a whole sequence.
        """
        raise NotImplementedError(f'{type(self).__name__} defines no initial_state')

    def advance(self, params: Params, inputs: jax.Array, state: Any) -> tuple[Any, Params]:
        """Take one step without resets: ((outputs, state), params)."""
        raise NotImplementedError(f'{type(self).__name__} defines no advance')

    def step(
        self,
        params: Params,
        inputs: Float[Array, 'batch features'],
        state: Any,
        is_reset: Bool[Array, ' batch'] | None = None,
    ) -> tuple[tuple[Any, Any], Params]:
        """Take one time step: ((outputs, state), params).

        Where `is_reset`, the sequence starts anew: its state is the initial one before the step.
        Raises ValueError if there is no state.
        """
        if state is None:
            raise ValueError(
                f'{self.path!r}: expected a state, found None; start from '
                'state, params = core.initial_state(params, inputs)'
            )
        if is_reset is not None:
            initial, params = self.initial_state(params, inputs)
            state = jax.tree.map(
                lambda start, now: jnp.where(_expand(is_reset, now.ndim), start, now),
                initial,
                state,
            )
        (outputs, new), params = self.advance(params, inputs, state)
        # Low-precision inputs and float32 weights must not change what a loop carries.
        new = jax.tree.map(lambda after, before: after.astype(before.dtype), new, state)
        return (outputs, new), params

    def __call__(
        self,
        params: Params,
        inputs: Float[Array, 'batch time features'],
        state: Any = None,
        is_reset: Bool[Array, 'batch time'] | None = None,
    ) -> tuple[tuple[Any, Any], Params]:
        """Run over a whole [batch, time, features] sequence, from `state` or the initial one."""
        if not inputs.shape[1]:
            raise ValueError(f'{self.path!r}: expected time steps, found inputs of {inputs.shape}')
        if state is None:
            state, params = self.initial_state(params, inputs)
        scan = static_scan if self.is_static else dynamic_scan
        return scan(self, params, inputs, state, is_reset)


class LSTMState(NamedTuple):
    """State of an LSTM: what it gave last, and what it remembers."""

    hidden: Float[Array, 'batch hidden']
    cell: Float[Array, 'batch hidden']


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), gates as in torch.

    `inputs` and `hidden` project to the input, forget, cell and output gates, in this order.
    """

    def __init__(self, graph: Graph, hidden_size: int, *, is_static: bool = False) -> None:
        super().__init__(graph, is_static=is_static)
        self.hidden_size = hidden_size
        self.inputs = Linear(graph.child('inputs'), 4 * hidden_size)
        self.hidden = Linear(graph.child('hidden'), 4 * hidden_size, use_bias=False)

    def initial_state(
        self, params: Params, inputs: Float[Array, 'batch *others']
    ) -> tuple[LSTMState, Params]:
        zeros = _zeros(inputs, self.hidden_size)
        return LSTMState(zeros, zeros), params

    def advance(
        self, params: Params, inputs: Float[Array, 'batch features'], state: LSTMState
    ) -> tuple[tuple[Float[Array, 'batch hidden'], LSTMState], Params]:
        x, params = self.inputs(params, inputs)
        h, params = self.hidden(params, state.hidden)
        i, f, g, o = jnp.split(x + h, 4, axis=-1)
        cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, LSTMState(hidden, cell)), params


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al., 2014, arXiv:1406.1078), in the form of torch and cuDNN.

    `inputs` and `hidden` project to the reset, update and new gates, in this order; the reset gate
    multiplies the hidden projection, bias included.
    """

    def __init__(self, graph: Graph, hidden_size: int, *, is_static: bool = False) -> None:
        super().__init__(graph, is_static=is_static)
        self.hidden_size = hidden_size
        self.inputs = Linear(graph.child('inputs'), 3 * hidden_size)
        self.hidden = Linear(graph.child('hidden'), 3 * hidden_size)

    def initial_state(
        self, params: Params, inputs: Float[Array, 'batch *others']
    ) -> tuple[Float[Array, 'batch hidden'], Params]:
        return _zeros(inputs, self.hidden_size), params

    def advance(
        self,
        params: Params,
        inputs: Float[Array, 'batch features'],
        state: Float[Array, 'batch hidden'],
    ) -> tuple[tuple[Float[Array, 'batch hidden'], Float[Array, 'batch hidden']], Params]:
        x, params = self.inputs(params, inputs)
        h, params = self.hidden(params, state)
        x_reset, x_update, x_new = jnp.split(x, 3, axis=-1)
        h_reset, h_update, h_new = jnp.split(h, 3, axis=-1)
        update = jax.nn.sigmoid(x_update + h_update)
        new = jnp.tanh(x_new + jax.nn.sigmoid(x_reset + h_reset) * h_new)
        hidden = (1 - update) * new + update * state
        return (hidden, hidden), params


def static_scan(
    core: Recurrent,
    params: Params,
    inputs: Float[Array, 'batch time features'],
    state: Any,
    is_reset: Bool[Array, 'batch time'] | None = None,
) -> tuple[tuple[Any, Any], Params]:
    """Run `core.step` over time as a Python loop: every step is a part of the program.

    Returns ((outputs, state), params), outputs [batch, time, ...] and the last state.
    """
    outputs = []
    for t in range(inputs.shape[1]):
        reset = None if is_reset is None else is_reset[:, t]
        (output, state), params = core.step(params, inputs[:, t], state, reset)
        outputs.append(output)
    stacked = jax.tree.map(lambda *steps: jnp.stack(steps, axis=1), *outputs)
    return (stacked, state), params


def dynamic_scan(
    core: Recurrent,
    params: Params,
    inputs: Float[Array, 'batch time features'],
    state: Any,
    is_reset: Bool[Array, 'batch time'] | None = None,
) -> tuple[tuple[Any, Any], Params]:
    """Run `core.step` over time as one `jax.lax.scan`: the program holds a single step."""
    if not params.initialized:
        # The loop's carry cannot grow, so the parameters must be there before it.
        reset = None if is_reset is None else is_reset[:, 0]
        _, params = core.step(params, inputs[:, 0], state, reset)

    def body(carry: tuple[Any, Params], now: tuple[Any, Any]) -> tuple[tuple[Any, Params], Any]:
        state, params = carry
        (outputs, state), params = core.step(params, now[0], state, now[1])
        return (state, params), outputs

    sequence = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (inputs, is_reset))
    (state, params), outputs = jax.lax.scan(body, (state, params), sequence)
    return (jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), outputs), state), params


def _zeros(inputs: jax.Array, size: int) -> jax.Array:
    """Return zeros [batch, size] made of the inputs: under shard_map they vary over the mesh alike."""
    return jnp.zeros_like(inputs, shape=(inputs.shape[0], size))


def _expand(mask: jax.Array, rank: int) -> jax.Array:
    """Return `mask` with trailing axes of size 1 up to `rank`."""
    return mask.reshape(mask.shape + (1,) * (rank - mask.ndim))
