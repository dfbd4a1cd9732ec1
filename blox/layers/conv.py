"""Convolutions over any number of spatial axes: [batch, *spatial, channels].

w is [*kernel, inputs / groups, outputs] (HWIO for images), for ConvTranspose too.
"""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from blox.adapters import adapters
from blox.graph import Graph
from blox.layers.convolve import Window, channels_last, convolution
from blox.layers.initializers import LecunNormal, Zeros
from blox.module import Initializer, Module
from blox.params import Params
from blox.wording import counted

Padding: TypeAlias = str | int | Sequence[int | tuple[int, int]]

_PAD_MODES = {
    'zeros': 'constant',
    'reflect': 'reflect',
    'replicate': 'edge',
    'circular': 'wrap',
}


class Conv(Module):
    """Convolution (cross-correlation, as everywhere in the field).

    Attributes:
      kernel_size, stride, dilation: one int for all spatial axes, or one for each.
      padding: 'SAME', 'VALID', an int for both sides of every axis, or for each axis an int or
        a (before, after) pair.
      padding_mode: what is padded with: 'zeros', 'reflect', 'replicate' or 'circular'.
      groups: inputs and outputs are split into this many independent groups.
    """

    def __init__(
        self,
        graph: Graph,
        output_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 'SAME',
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: str = 'zeros',
        use_bias: bool = True,
        w_init: Initializer = LecunNormal(),
        b_init: Initializer = Zeros(),
    ) -> None:
        if padding_mode not in _PAD_MODES:
            raise ValueError(
                f'{graph.path!r}: padding_mode is one of {", ".join(_PAD_MODES)}, '
                f'found {padding_mode!r}'
            )
        super().__init__(graph)
        self.output_channels = output_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.padding_mode = padding_mode
        self.use_bias = use_bias
        self.w_init = w_init
        self.b_init = b_init

    def __call__(
        self, params: Params, inputs: Float[Array, 'batch *spatial inputs']
    ) -> tuple[Float[Array, 'batch *positions outputs'], Params]:
        """Map [batch, *spatial, inputs] to [batch, *positions, output_channels]."""
        rank = inputs.ndim - 2
        kernel = per_axis('kernel_size', self.kernel_size, rank)
        stride = per_axis('stride', self.stride, rank)
        dilation = per_axis('dilation', self.dilation, rank)
        pads = explicit_padding(self.padding, inputs.shape[1:-1], kernel, stride, dilation)
        shape = _kernel_shape(self, kernel, inputs.shape[-1])
        grouped = self.groups > 1
        w, params = self.get_param(params, 'w', shape, self.w_init, merged=grouped)
        x = inputs
        if self.padding_mode != 'zeros':
            x = jnp.pad(x, ((0, 0), *pads, (0, 0)), mode=_PAD_MODES[self.padding_mode])
            pads = [(0, 0)] * rank
        window = Window(kernel, stride, tuple(pads), dilation)
        convolve = convolution(x.shape, w.shape, window)
        outputs = convolve(*_in_one_dtype(x, w))
        # The groups of an adapter's own convolution would not add up to one of this weight's.
        for adapter in () if grouped else adapters(params, f'{self.path}/w'):
            outputs = adapter(outputs, x, convolve)
        return _add_bias(self, params, outputs)


class ConvTranspose(Module):
    """Transposed convolution: the gradient of Conv with respect to its inputs.

    Attributes:
      padding: what the convolution that is transposed would have: 'SAME' (outputs are inputs
        times stride), 'VALID', an int, or for each axis an int or a (before, after) pair.
      output_padding: extra places at the end of each axis, fewer than its stride or dilation.
    """

    def __init__(
        self,
        graph: Graph,
        output_channels: int,
        kernel_size: int | Sequence[int],
        *,
        stride: int | Sequence[int] = 1,
        padding: Padding = 'SAME',
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        use_bias: bool = True,
        w_init: Initializer = LecunNormal(),
        b_init: Initializer = Zeros(),
    ) -> None:
        super().__init__(graph)
        self.output_channels = output_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding
        self.dilation = dilation
        self.groups = groups
        self.use_bias = use_bias
        self.w_init = w_init
        self.b_init = b_init

    def __call__(
        self, params: Params, inputs: Float[Array, 'batch *spatial inputs']
    ) -> tuple[Float[Array, 'batch *positions outputs'], Params]:
        """Map [batch, *spatial, inputs] to [batch, *positions, output_channels]."""
        rank = inputs.ndim - 2
        kernel = per_axis('kernel_size', self.kernel_size, rank)
        stride = per_axis('stride', self.stride, rank)
        dilation = per_axis('dilation', self.dilation, rank)
        w, params = self.get_param(
            params, 'w', _kernel_shape(self, kernel, inputs.shape[-1]), self.w_init
        )
        x, w = _in_one_dtype(inputs, w)
        outputs = lax.conv_general_dilated(
            x,
            jnp.flip(w, range(rank)),
            (1,) * rank,
            self._pads(inputs.shape[1:-1], kernel, stride, dilation),
            lhs_dilation=stride,
            rhs_dilation=dilation,
            dimension_numbers=channels_last(rank),
            feature_group_count=self.groups,
        )
        return _add_bias(self, params, outputs)

    def _pads(
        self,
        spatial: Sequence[int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
    ) -> list[tuple[int, int]]:
        """Return padding of the stretched inputs that undoes that of the transposed Conv."""
        extra = per_axis('output_padding', self.output_padding, len(kernel))
        for e, s, d in zip(extra, stride, dilation):
            if not 0 <= e < max(s, d):
                raise ValueError(
                    f'{self.path!r}: output_padding {e} must be less than stride {s} or dilation {d}'
                )
        large = [n * s for n, s in zip(spatial, stride)]
        undone = explicit_padding(self.padding, large, kernel, stride, dilation)
        pads = []
        for k, s, d, e, (before, after) in zip(kernel, stride, dilation, extra, undone):
            span = d * (k - 1)
            # 'SAME' of a stride beyond the kernel leaves inputs out at the end: give them back.
            tail = max(s - span - 1, 0) if self.padding == 'SAME' else 0
            pads.append((span - before, span - after + e + tail))
        return pads


def per_axis(name: str, value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Return `value` as one int for each of `rank` spatial axes."""
    values = (int(value),) * rank if isinstance(value, int | np.integer) else tuple(value)
    if rank < 1 or len(values) != rank:
        raise ValueError(
            f'{name} {value!r} does not fit inputs with {rank} spatial axes '
            '([batch, *spatial, channels])'
        )
    return values


def explicit_padding(
    padding: Padding,
    spatial: Sequence[int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    """Return `padding` as a (before, after) pair for each spatial axis."""
    if isinstance(padding, str):
        if padding not in ('SAME', 'VALID'):
            raise ValueError(f"padding is 'SAME', 'VALID' or numbers, found {padding!r}")
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
        pads = lax.padtype_to_pads(spatial, spans, stride, padding)
        return [(int(before), int(after)) for before, after in pads]
    if isinstance(padding, int | np.integer):
        return [(int(padding), int(padding))] * len(kernel)
    if len(padding) != len(kernel):
        raise ValueError(
            f'padding {padding!r} does not fit '
            f'{counted(len(kernel), "spatial axis", "spatial axes")}'
        )
    return [(int(p), int(p)) if isinstance(p, int | np.integer) else (p[0], p[1]) for p in padding]


def _kernel_shape(
    layer: Conv | ConvTranspose, kernel: tuple[int, ...], inputs: int
) -> tuple[int, ...]:
    if layer.groups < 1 or inputs % layer.groups or layer.output_channels % layer.groups:
        raise ValueError(
            f'{layer.path!r}: groups {layer.groups} must divide both the {inputs} input and the '
            f'{layer.output_channels} output channels'
        )
    return (*kernel, inputs // layer.groups, layer.output_channels)


def _in_one_dtype(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Promote to one dtype, as `@` does by itself and a convolution does not."""
    dtype = jnp.promote_types(x.dtype, w.dtype)
    return x.astype(dtype), w.astype(dtype)


def _add_bias(
    layer: Conv | ConvTranspose, params: Params, outputs: jax.Array
) -> tuple[jax.Array, Params]:
    if layer.use_bias:
        b, params = layer.get_param(params, 'b', (layer.output_channels,), layer.b_init)
        outputs = outputs + jnp.expand_dims(b, range(outputs.ndim - 1))
    return outputs, params
