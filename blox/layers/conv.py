"""Convolutions over any number of spatial axes: [batch, *spatial, channels].

w is [*kernel, inputs / groups, outputs] (HWIO for images), for ConvTranspose too.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from blox.adapters import adapters
from blox.graph import Graph
from blox.layers.initializers import LecunNormal, Zeros
from blox.module import Initializer, Module
from blox.params import Params
from blox.product import product

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
        convolve = _convolution(x.shape[1:-1], kernel, stride, pads, dilation, self.groups)
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
            dimension_numbers=_channels_last(rank),
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
        raise ValueError(f'padding {padding!r} does not fit {len(kernel)} spatial axes')
    return [(int(p), int(p)) if isinstance(p, int | np.integer) else (p[0], p[1]) for p in padding]


def _convolution(
    spatial: Sequence[int],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: list[tuple[int, int]],
    dilation: tuple[int, ...],
    groups: int,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Choose how to convolve [batch, *spatial, inputs] with [*kernel, inputs / groups, outputs]."""
    rank = len(kernel)
    if groups == 1 and not any(itertools.chain(*pads)):
        if math.prod(kernel) == 1:
            return functools.partial(_pointwise, stride=stride)
        is_dense = stride == kernel and dilation == (1,) * rank
        if is_dense and not any(map(operator.mod, spatial, kernel)):
            return _convolve_patches
    return functools.partial(
        lax.conv_general_dilated,
        window_strides=stride,
        padding=pads,
        rhs_dilation=dilation,
        dimension_numbers=_channels_last(rank),
        feature_group_count=groups,
    )


def _pointwise(x: jax.Array, w: jax.Array, stride: tuple[int, ...]) -> jax.Array:
    """Convolve with a kernel of one place: a matrix product over the channels.

    The gradient of weights takes 3 ms so, and 14 as a convolution, for [8, 56, 56, 64] to 128 with
    stride 2; values 2.1 and 4.4 for [4, 7, 7, 2048] to 512 (two CPU cores, JAX 0.12).
    """
    if max(stride) > 1:
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *stride, 1))
    return product(x, w.reshape(w.shape[-2:]))


@jax.custom_jvp
def _convolve_patches(x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve with a kernel that moves by its own size and leaves nothing out."""
    stride = w.shape[:-2]
    numbers = _channels_last(len(stride))
    return lax.conv_general_dilated(x, w, stride, 'VALID', dimension_numbers=numbers)


# Values are faster as a convolution, gradients as a matrix product over each patch: 2.4 and 3.3 ms for
# [4, 56, 56, 96] to 192 in patches of 2x2, but 11.6 and 4.6 for the weights' gradient (two CPU cores,
# JAX 0.12).
@functools.partial(_convolve_patches.defjvp, symbolic_zeros=True)
def _convolve_patches_jvp(
    primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    (x, w), (dx, dw) = primals, tangents
    outputs = _convolve_patches(x, w)
    changes = []
    if not isinstance(dx, SymbolicZero):
        changes.append(_of_patches(dx, w))
    if not isinstance(dw, SymbolicZero):
        changes.append(_of_patches(x, dw))
    return outputs, functools.reduce(operator.add, changes)


def _of_patches(x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve by a matrix product over each patch that the kernel covers."""
    *kernel, inputs, outputs = w.shape
    rank = len(kernel)
    sizes = tuple(n // k for n, k in zip(x.shape[1:-1], kernel))
    # [batch, rows, height, columns, width, inputs] for images
    x = x.reshape(x.shape[0], *itertools.chain(*zip(sizes, kernel)), inputs)
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    x = x.reshape(x.shape[0], *sizes, math.prod(kernel) * inputs)
    return product(x, w.reshape(-1, outputs))


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


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    spatial = tuple(range(1, rank + 1))
    activations = (0, rank + 1, *spatial)
    return lax.ConvDimensionNumbers(activations, (rank + 1, rank, *range(rank)), activations)


def _add_bias(
    layer: Conv | ConvTranspose, params: Params, outputs: jax.Array
) -> tuple[jax.Array, Params]:
    if layer.use_bias:
        b, params = layer.get_param(params, 'b', (layer.output_channels,), layer.b_init)
        outputs = outputs + jnp.expand_dims(b, range(outputs.ndim - 1))
    return outputs, params
