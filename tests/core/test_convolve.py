"""The ways to convolve agree with XLA's, whatever the shapes, and are taken where they are meant."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, table

import blox as bx
from blox.layers import convolve
from blox.layers.convolve import Window


def plain(window, x, w):
    return jax.lax.conv_general_dilated(
        x,
        w,
        window.stride,
        window.pads,
        rhs_dilation=window.dilation,
        dimension_numbers=convolve.channels_last(len(window.kernel)),
        feature_group_count=x.shape[-1] // w.shape[-2],
    )


WINDOWS = {
    'few places': ((3, 7, 7, 65), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    'few places, strided': ((2, 15, 14, 64), Window((3, 2), (2, 3), ((1, 0), (0, 2)), (1, 1))),
    'few places, dilated': ((2, 9, 9, 64), Window((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2))),
    'negative padding': ((2, 9, 9, 64), Window((3, 3), (1, 1), ((-1, 2), (0, -2)), (1, 1))),
    'one axis': ((2, 30, 64), Window((5,), (2,), ((2, 2),), (1,))),
    'three axes': ((2, 5, 4, 6, 64), Window((3, 2, 3), (1, 1, 2), ((1, 1),) * 3, (1, 1, 1))),
    'pieces': ((6, 20, 20, 3), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    'pieces of a prime': ((37, 17, 17, 2), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    'an image a piece': ((3, 50, 50, 2), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    'many places': ((2, 80, 80, 2), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    'no images': ((0, 20, 20, 3), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))),
    'a kernel larger than images': (
        (2, 3, 2, 64),
        Window((5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    ),
    'each channel': ((2, 9, 8, 5), Window((7, 3), (1, 1), ((3, 3), (1, 1)), (1, 1)), 5),
    'each channel, strided': ((2, 9, 8, 5), Window((3, 2), (2, 3), ((1, 0), (0, 2)), (1, 1)), 5),
    'each channel, dilated': ((2, 9, 9, 5), Window((3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)), 5),
    'each channel, one axis': ((2, 9, 5), Window((3,), (1,), ((1, 1),), (1,)), 5),
    'groups': ((2, 9, 8, 6), Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), 2),
    'one place': ((2, 9, 8, 3), Window((1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1))),
    'patches': ((2, 8, 6, 3), Window((2, 3), (2, 3), ((0, 0), (0, 0)), (1, 1))),
}


@table(WINDOWS)
def test_values_and_gradients_are_those_of_xla(x64, row):
    shape, window, *more = row
    groups = more[0] if more else 1
    outputs = shape[-1] if groups > 1 else 4
    x, w = normal(*shape), normal(*window.kernel, shape[-1] // groups, outputs)
    x, w = jnp.asarray(x), jnp.asarray(w)
    way = convolve.convolution(shape, w.shape, window)
    outputs, back = jax.vjp(lambda x, w: plain(window, x, w), x, w)
    found, found_back = jax.vjp(way, x, w)
    np.testing.assert_allclose(found, outputs, rtol=1e-12, atol=1e-12)
    seed = jnp.asarray(normal(*outputs.shape))
    for a, b in zip(found_back(seed), back(seed)):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)
    change = jnp.asarray(normal(*shape)), jnp.asarray(normal(*w.shape))
    expected = plain(window, change[0], w) + plain(window, x, change[1])
    np.testing.assert_allclose(jax.jvp(way, (x, w), change)[1], expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(('size', 'channels'), [(3, 64), (20, 2)])
def test_second_derivatives_and_vmap_are_those_of_xla(x64, size, channels):
    window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    x, w = (
        jnp.asarray(normal(2, 16, size, size, channels)),
        jnp.asarray(normal(2, 3, 3, channels, 2)),
    )

    def second(way):
        def loss(x, w):
            return (way(x, w) ** 3).sum()

        def slope(x, w):
            return (jax.grad(loss, 1)(x, w) ** 2).sum()

        return jax.vmap(jax.grad(slope, (0, 1)))(x, w)

    found = second(convolve.convolution(x.shape[1:], w.shape[1:], window))
    for a, b in zip(found, second(lambda x, w: plain(window, x, w))):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def lowered(platform, shape, kernel=3, **options):
    """Return the program of a step of a convolution, as text, for a platform."""
    conv = bx.Conv(bx.Graph('conv'), 4, kernel, **options)
    params = bx.spec(conv, jnp.ones(shape))

    def loss(params, x):
        trainable, rest = params.split_trainable()
        return jax.grad(lambda trainable: conv(trainable.merge(rest), x)[0].sum())(trainable)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.export.export(jax.jit(loss), platforms=[platform])(params, x).mlir_module()


@table(
    {
        # inputs: convolutions on CPU and elsewhere; those of values are not needed for the gradient
        'few places': ((4, 7, 7, 64), 0, 1),
        'few channels': ((4, 7, 7, 3), 1, 1),
        'pieces': ((4, 40, 40, 3), 4, 1),
        'many places': ((4, 70, 70, 3), 1, 1),
        'large columns': ((32, 16, 16, 256), 4, 1),
        'each channel': ((4, 7, 7, 4), 0, 1, {'groups': 4}),
        # XLA's compiler for GPUs aborts at the product of what strides leave, not at that of all places.
        'one place': ((4, 8, 8, 16), 0, 0, {'kernel': 1}),
        'one place, strided': ((4, 8, 8, 16), 0, 1, {'kernel': 1, 'stride': 2}),
    }
)
def test_other_ways_are_for_cpus_alone(row):
    shape, on_cpu, elsewhere, *options = row
    for platform, count in (('cpu', on_cpu), ('cuda', elsewhere), ('tpu', elsewhere)):
        program = lowered(platform, shape, **dict(*options))
        assert program.count('stablehlo.convolution') == count, platform


def test_columns_are_not_kept_for_the_gradient():
    window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    way = convolve.convolution((2, 7, 7, 64), (3, 3, 64, 4), window)
    x, w = jnp.ones((2, 7, 7, 64)), jnp.ones((3, 3, 64, 4))
    _, back = jax.vjp(way, x, w)
    assert sum(leaf.size for leaf in jax.tree.leaves(back)) < 2 * (x.size + w.size)


@table({'few places': (64, 1), 'each channel': (8, 8), 'pieces': (3, 1)})
def test_a_program_of_any_batch_goes_the_same_way(row):
    channels, groups = row
    conv = bx.Conv(bx.Graph('conv'), 8, 3, groups=groups)
    x = jnp.asarray(normal(3, 9, 9, channels), jnp.float32)
    params = bx.init(conv, x)
    shape = jax.ShapeDtypeStruct((*jax.export.symbolic_shape('b'), *x.shape[1:]), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: conv(params, x)[0]))(shape)
    np.testing.assert_array_equal(program.call(x), jax.jit(conv)(params, x)[0])
