"""The product of a layer is that of NumPy, whatever the axes of its inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, table

from blox.product import product

SHAPES = {
    'a vector': (512,),
    'one row': (1, 512),
    'one row of more axes': (1, 1, 1, 512),
    'rows': (3, 512),
    'more axes': (2, 3, 4, 512),
    'no rows': (0, 3, 512),
}


@table(SHAPES)
@pytest.mark.parametrize('outputs', [7, 600])
def test_values_and_gradients_are_those_of_numpy(x64, row, outputs):
    x, w = normal(*row), normal(512, outputs)
    found, back = jax.vjp(product, jnp.asarray(x), jnp.asarray(w))
    np.testing.assert_allclose(found, x @ w, rtol=1e-12, atol=1e-12)
    seed = normal(*found.shape)
    dx, dw = back(jnp.asarray(seed))
    np.testing.assert_allclose(dx, seed @ w.T, rtol=1e-12, atol=1e-11)
    rows, seeds = x.reshape(-1, 512), seed.reshape(-1, outputs)
    np.testing.assert_allclose(dw, rows.T @ seeds, rtol=1e-12, atol=1e-12)
    jax.vmap(product, (0, None))(jnp.asarray(x)[None], jnp.asarray(w))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16, jnp.float32])
def test_one_row_keeps_its_dtype(dtype):
    x, w = jnp.asarray(normal(1, 1, 512), dtype), jnp.asarray(normal(512, 600), dtype)
    found = product(x, w)
    assert (found.shape, found.dtype) == ((1, 1, 600), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0.01, atol=0.5)


@pytest.mark.parametrize('dtype', [jnp.int32, jnp.bfloat16])
def test_one_row_of_another_dtype_is_promoted_where_that_is_allowed(dtype):
    x, w = jnp.ones((1, 512), dtype), jnp.asarray(normal(512, 600), jnp.float32)
    with jax.numpy_dtype_promotion('standard'):
        found = product(x, w)
    np.testing.assert_allclose(found, w.sum(0)[None], rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match='promotion'):
        product(x, w)


def test_one_row_is_split_on_cpus_alone():
    x, w = (
        jax.ShapeDtypeStruct((1, 512), jnp.float32),
        jax.ShapeDtypeStruct((512, 600), jnp.float32),
    )
    for platform, count in (('cpu', 1), ('cuda', 0), ('tpu', 0)):
        text = jax.export.export(jax.jit(product), platforms=[platform])(x, w).mlir_module()
        assert text.count('batching_dims') == count, platform


def test_a_program_of_any_batch_takes_one_row():
    w = jnp.asarray(normal(512, 600), jnp.float32)
    shape = jax.ShapeDtypeStruct((*jax.export.symbolic_shape('b, n'), 512), jnp.float32)
    program = jax.export.export(jax.jit(lambda x: product(x, w)))(shape)
    for rows in ((1, 1), (2, 3)):
        x = jnp.asarray(normal(*rows, 512), jnp.float32)
        np.testing.assert_allclose(program.call(x), x @ w, rtol=1e-4, atol=1e-4)
