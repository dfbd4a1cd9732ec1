"""LayerScale: a learned scale of a residual branch."""

from jaxtyping import Array, Float

from blox.graph import Graph
from blox.layers.initializers import Constant
from blox.module import Module
from blox.params import Params


class LayerScale(Module):
    """Multiplies each channel by `scale`, which starts small (Touvron et al., 2021, arXiv:2103.17239)."""

    def __init__(self, graph: Graph, initial_value: float = 1e-5) -> None:
        super().__init__(graph)
        self.initial_value = initial_value

    def __call__(
        self, params: Params, inputs: Float[Array, '*batch width']
    ) -> tuple[Float[Array, '*batch width'], Params]:
        """Return the inputs, scaled along their last axis."""
        shape = inputs.shape[-1:]
        scale, params = self.get_param(params, 'scale', shape, Constant(self.initial_value))
        return inputs * scale.reshape((1,) * (inputs.ndim - 1) + scale.shape), params
