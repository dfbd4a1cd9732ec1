"""Dense layers: Linear, the transformer's Mlp, and Sequential."""

import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from blox.adapters import adapters
from blox.graph import Graph
from blox.layers.dropout import Dropout
from blox.layers.initializers import LecunNormal, Zeros
from blox.module import Initializer, Module
from blox.params import Params
from blox.product import product


class Linear(Module):
    """y = x w + b over the last axis; w is [inputs, outputs].

    >>> import blox as bx
    >>> import jax.numpy as jnp
    >>> linear = bx.Linear(bx.Graph('net'), output_size=3)
    >>> outputs, params = linear(bx.Params(seed=0), jnp.ones((4, 2)))
    >>> outputs.shape, params['net/w'].shape
    ((4, 3), (2, 3))
    """

    def __init__(
        self,
        graph: Graph,
        output_size: int,
        *,
        use_bias: bool = True,
        w_init: Initializer = LecunNormal(),
        b_init: Initializer = Zeros(),
    ) -> None:
        super().__init__(graph)
        self.output_size = output_size
        self.use_bias = use_bias
        self.w_init = w_init
        self.b_init = b_init

    def __call__(
        self, params: Params, inputs: Float[Array, '*batch inputs']
    ) -> tuple[Float[Array, '*batch outputs'], Params]:
        """Map [..., inputs] to [..., output_size]."""
        shape = (inputs.shape[-1], self.output_size)
        w, params = self.get_param(params, 'w', shape, self.w_init, merged=False)
        outputs = product(inputs, w)
        for adapter in adapters(params, f'{self.path}/w'):
            outputs = adapter(outputs, inputs, product)
        if self.use_bias:
            b, params = self.get_param(params, 'b', (self.output_size,), self.b_init)
            outputs = outputs + jnp.expand_dims(b, range(outputs.ndim - 1))
        return outputs, params


class Mlp(Module):
    """The transformer's feed-forward block: fc1, activation, dropout, norm if any, fc2, dropout.

    Attributes:
      hidden_size: how many numbers fc2 takes.
      hidden_dropout_rate, dropout_rate: of the first dropout, and of the second.
      is_gated: fc1 is twice as wide, and the activation of its first half multiplies the second: SwiGLU
        with silu (Shazeer, 2020, arXiv:2002.05202).
      norm: makes a norm of the hidden values from its graph, such as `bx.LayerNorm`.
    """

    def __init__(
        self,
        graph: Graph,
        hidden_size: int,
        output_size: int,
        activation: Callable[[jax.Array], jax.Array],
        *,
        hidden_dropout_rate: float = 0.0,
        dropout_rate: float = 0.0,
        is_gated: bool = False,
        norm: Callable[[Graph], Module] | None = None,
        use_bias: bool = True,
        fc1_init: Initializer = LecunNormal(),
        fc2_init: Initializer = LecunNormal(),
        b_init: Initializer = Zeros(),
    ) -> None:
        super().__init__(graph)
        self.hidden_size = hidden_size
        self.output_size = output_size
        self.activation = activation
        self.is_gated = is_gated
        width = 2 * hidden_size if is_gated else hidden_size
        self.fc1 = Linear(graph / 'fc1', width, use_bias=use_bias, w_init=fc1_init, b_init=b_init)
        self.norm = norm(graph / 'norm') if norm else None
        self.fc2 = Linear(
            graph / 'fc2', output_size, use_bias=use_bias, w_init=fc2_init, b_init=b_init
        )
        self.hidden_dropout = Dropout(graph / 'hidden_dropout', hidden_dropout_rate)
        self.dropout = Dropout(graph / 'dropout', dropout_rate)

    def __call__(
        self, params: Params, inputs: Float[Array, '*batch width'], *, is_training: bool = False
    ) -> tuple[Float[Array, '*batch outputs'], Params]:
        """Map [..., width] to [..., output_size]."""
        x, params = self.fc1(params, inputs)
        if self.is_gated:
            gate, x = jnp.split(x, 2, axis=-1)
            x = self.activation(gate) * x
        else:
            x = self.activation(x)
        x, params = self.hidden_dropout(params, x, is_training=is_training)
        if self.norm is not None:
            x, params = self.norm(params, x)
        x, params = self.fc2(params, x)
        return self.dropout(params, x, is_training=is_training)


class Sequential(Module):
    """Applies `layers` one after another.

    A layer is a module, or a plain function of one array such as `jax.nn.relu`. `is_training`
    goes to the modules whose call takes it.

    >>> import blox as bx
    >>> import jax.numpy as jnp
    >>> net = bx.Graph('net')
    >>> mlp = bx.Sequential(
    ...     net, [bx.Linear(net / 'hidden', 8), jax.nn.relu, bx.Linear(net / 'readout', 1)])
    >>> outputs, params = mlp(bx.Params(seed=0), jnp.ones((4, 2)))
    >>> outputs.shape
    (4, 1)
    """

    def __init__(
        self, graph: Graph, layers: Sequence[Module | Callable[[jax.Array], jax.Array]]
    ) -> None:
        super().__init__(graph)
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise TypeError(f'layers[{i}] of {graph.path!r} is not callable: {layer!r}')
        self.layers = tuple(layers)

    def __call__(
        self, params: Params, inputs: jax.Array, *, is_training: bool = False
    ) -> tuple[jax.Array, Params]:
        """Apply the layers in turn; shapes are those that they take and give."""
        x = inputs
        for layer in self.layers:
            if not isinstance(layer, Module):
                x = layer(x)
            elif 'is_training' in inspect.signature(layer.__call__).parameters:
                x, params = layer(params, x, is_training=is_training)
            else:
                x, params = layer(params, x)
        return x, params
