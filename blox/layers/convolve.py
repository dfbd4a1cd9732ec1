"""How a convolution is computed: by XLA's own, or where shapes make it faster by matrix products.

Inputs are [batch, *spatial, inputs], weights [*kernel, inputs / groups, outputs]. All ways agree to
rounding. Times are of two CPU cores with JAX 0.12.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from blox.layers.precision import widen
from blox.product import product

# Convolves inputs with weights.
_Convolve: TypeAlias = Callable[[Any, Any], Any]


class Window(NamedTuple):
    """The size, steps, (before, after) padding and dilation of a kernel along each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]

    def positions(self, spatial: Sequence[Any]) -> tuple[Any, ...]:
        """Return how many places the kernel takes along each axis."""
        return tuple(
            (size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pads, dilation in zip(spatial, *self)
        )


class _Ways(NamedTuple):
    """How values are computed, and how what the gradients of inputs and of weights follow from.

    Each is a function of a window, inputs and weights.
    """

    values: Callable[..., jax.Array]
    inputs: Callable[..., jax.Array]
    weights: Callable[..., jax.Array]


def convolution(shape: Sequence[Any], weights: Sequence[int], window: Window) -> _Convolve:
    """Choose how to convolve inputs and weights of these shapes.

    Those of inputs may be symbols in an exported program.
    """
    if weights[-2] < shape[-1]:
        is_depthwise = weights[-2] == 1 and weights[-1] == shape[-1]
        ways = _depthwise_ways(shape, window) if is_depthwise else _BY_XLA
        return functools.partial(_convolve, ways, window)
    is_unpadded = not any(itertools.chain(*window.pads))
    if is_unpadded and math.prod(window.kernel) == 1:
        if max(window.stride) == 1:
            return functools.partial(_pointwise, window)
        # Elsewhere XLA's: with JAX 0.11 its compiler for GPUs aborts at the product of what strides leave,
        # in a training step of ResNet-50 in bfloat16.
        return functools.partial(_convolve, _Ways(*[_on_cpu(_pointwise)] * 3), window)
    is_dense = window.stride == window.kernel and set(window.dilation) == {1}
    if is_unpadded and is_dense and not any(map(operator.mod, shape[1:-1], window.kernel)):
        # Values are faster as a convolution, gradients as a matrix product over each patch: 2.4
        # and 3.3 ms for [4, 56, 56, 96] to 192 in patches of 2x2, but 11.6 and 4.6 for the weights'
        # gradient.
        return functools.partial(_convolve, _Ways(_by_xla, _by_patches, _by_patches), window)
    return functools.partial(_convolve, _ways(shape, window), window)


# Columns are for images in which the kernel takes few places and which have many channels, as long as
# they take at most 32 MiB in float32. From many places in an image on, XLA's gradient of weights is no
# slower for several images at once than for each.
_FEW, _CHANNELS, _COLUMNS, _MANY = 256, 64, 2**23, 4096


def _ways(shape: Sequence[Any], window: Window) -> _Ways:
    batch, *spatial, channels = shape
    # The batch of an exported program may be a symbol: of a few images it gives what a model does.
    images = batch if isinstance(batch, int) else 1
    sizes = images, *window.positions(spatial)
    if not _are_known(sizes):
        return _BY_XLA
    places = math.prod(sizes[1:])
    columns = math.prod(sizes) * math.prod(window.kernel) * channels
    if places <= _FEW and channels >= _CHANNELS and columns <= _COLUMNS:
        return _Ways(_on_cpu(_by_columns), _on_cpu(_by_columns), _on_cpu(_by_columns_again))
    has_pieces = places < _MANY and isinstance(batch, int)
    return _Ways(_by_xla, _by_xla, _on_cpu(_by_pieces) if has_pieces else _by_xla)


def _depthwise_ways(shape: Sequence[Any], window: Window) -> _Ways:
    # Each place in a row of the kernel makes the program longer.
    if not _are_known(window.positions(shape[1:-1])) or math.prod(window.kernel) > 64:
        return _BY_XLA
    return _Ways(*[_on_cpu(_by_shifts)] * 3)


def _are_known(sizes: Sequence[Any]) -> bool:
    return all(isinstance(size, int) and size > 0 for size in sizes)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _differentiable(ways: _Ways, window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    return ways.values(window, x, w)


# Traced once for all that are alike in a model, and inlined: programs are as without it.
_convolve = jax.jit(_differentiable, static_argnums=(0, 1), inline=True)


@functools.partial(_differentiable.defjvp, symbolic_zeros=True)
def _jvp(
    ways: _Ways, window: Window, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, Any]:
    (x, w), (dx, dw) = primals, tangents
    outputs = _differentiable(ways, window, x, w)
    changes = []
    if not isinstance(dx, SymbolicZero):
        changes.append(ways.inputs(window, dx, w))
    if not isinstance(dw, SymbolicZero):
        changes.append(ways.weights(window, x, dw))
    return outputs, functools.reduce(operator.add, changes)


def _by_xla(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        window.stride,
        window.pads,
        rhs_dilation=window.dilation,
        dimension_numbers=channels_last(len(window.kernel)),
        feature_group_count=x.shape[-1] // w.shape[-2],
    )


_BY_XLA = _Ways(_by_xla, _by_xla, _by_xla)


def _pointwise(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve with a kernel of one place: a matrix product over the channels.

    The gradient of weights takes 3 ms so, and 14 as a convolution, for [8, 56, 56, 64] to 128 with
    stride 2; values 2.1 and 4.4 for [4, 7, 7, 2048] to 512.
    """
    if max(window.stride) > 1:
        x = lax.slice(x, (0,) * x.ndim, x.shape, (1, *window.stride, 1))
    return product(x, w.reshape(w.shape[-2:]))


def _by_patches(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve by a matrix product over each patch that the kernel covers."""
    *kernel, inputs, outputs = w.shape
    rank = len(kernel)
    sizes = window.positions(x.shape[1:-1])
    # [batch, rows, height, columns, width, inputs] for images
    x = x.reshape(x.shape[0], *itertools.chain(*zip(sizes, kernel)), inputs)
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    x = x.reshape(x.shape[0], *sizes, math.prod(kernel) * inputs)
    return product(x, w.reshape(-1, outputs))


def _by_columns(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve by a matrix product with a column for each place in the kernel and input channel.

    For [8, 7, 7, 512] to 512 and 3x3 places values take 8 ms so, 27 by XLA's convolution, the gradients 7 of
    inputs and 9 of weights, 23 and 11 by it; for [8, 14, 14, 256] to 256 9, 8 and 11, and 10, 10 and
    17. With 64 images the latter's values take 126 ms so, and 87 by XLA.
    """
    x = _padded(window, x)
    places = itertools.product(*map(range, window.kernel))
    columns = [_shifted(window, x, place) for place in places]
    return product(jnp.concatenate(columns, -1), w.reshape(-1, w.shape[-1]))


def _padded(window: Window, x: jax.Array) -> jax.Array:
    pads = [(0, 0, 0), *((*pad, 0) for pad in window.pads), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), pads)


def _shifted(window: Window, padded: jax.Array, place: Sequence[int]) -> jax.Array:
    """Return what one place in the kernel meets: [batch, *positions, inputs]."""
    starts = [k * step for k, step in zip(place, window.dilation)]
    spans = [(k - 1) * step for k, step in zip(window.kernel, window.dilation)]
    stops = [n - span + start for n, span, start in zip(padded.shape[1:-1], spans, starts)]
    limits = padded.shape[0], *stops, padded.shape[-1]
    return lax.slice(padded, (0, *starts, 0), limits, (1, *window.stride, 1))


# The columns are not kept for the gradient: they are as large as the inputs times the kernel.
_by_columns_again = jax.checkpoint(_by_columns, static_argnums=0)


# XLA's gradient of weights is slow where it sums over more places than this and than those of one image;
# but each piece makes the program longer.
_PIECE, _MOST_PIECES = 2048, 32


def _by_pieces(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve a few images at a time.

    The gradient of weights takes 14 ms so, and 33 at once, for [8, 56, 56, 64] to 64 and 3x3 places;
    13 and 32 for [8, 28, 28, 128] to 128.
    """
    batch, *image = x.shape
    most = max(
        _PIECE // math.prod(window.positions(image[:-1])), math.ceil(batch / _MOST_PIECES), 1
    )
    images = max(n for n in range(1, most + 1) if batch % n == 0)
    # Each piece has images of all parts of the batch, which may lie on several devices.
    x = x.reshape(images, -1, *image)
    outputs = jnp.stack([_by_xla(window, x[:, i], w) for i in range(x.shape[1])], 1)
    return outputs.reshape(batch, *outputs.shape[2:])


def _by_shifts(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolve each channel by itself, by sums of shifted inputs times weights.

    For 7x7 places values take 6 ms so and 49 by XLA, for [4, 56, 56, 96], and 0.8 and 7.4 for
    [4, 7, 7, 768]; the gradient of inputs a sixth of the time, that of weights about half. Without the
    loop over the kernel's first axis the largest images take 2.4 ms, but programs with gradients
    seconds more to compile.
    """
    rank, rest = len(window.kernel), window.kernel[1:]
    padded = _padded(window, widen(x))
    # The weights at a place have the axes of outputs.
    w = jnp.expand_dims(widen(w), range(rank, 2 * rank))
    span = padded.shape[1] - window.dilation[0] * (window.kernel[0] - 1)
    row = window._replace(kernel=(1, *rest))

    def add_row(outputs: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        start, weights = each
        met = lax.dynamic_slice_in_dim(padded, start * window.dilation[0], span, 1)
        for place in itertools.product(*map(range, rest)):
            outputs = outputs + _shifted(row, met, (0, *place)) * weights[place]
        return outputs, None

    shape = x.shape[0], *window.positions(x.shape[1:-1]), x.shape[-1]
    starts = jnp.arange(window.kernel[0], dtype=jnp.int32)
    outputs, _ = lax.scan(add_row, jnp.zeros(shape, padded.dtype), (starts, w))
    return outputs.astype(x.dtype)


@functools.cache
def _on_cpu(way: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Return what goes this way on CPUs, and XLA's on other platforms."""

    def convolve(window: Window, x: jax.Array, w: jax.Array) -> jax.Array:
        cpu, default = (functools.partial(each, window) for each in (way, _by_xla))
        return lax.platform_dependent(x, w, cpu=cpu, default=default)

    return convolve


def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Return the order of axes of inputs, weights and outputs with this many spatial axes."""
    spatial = tuple(range(1, rank + 1))
    activations = (0, rank + 1, *spatial)
    return lax.ConvDimensionNumbers(activations, (rank + 1, rank, *range(rank)), activations)
