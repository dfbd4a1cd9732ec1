"""What tests of layers share."""

import contextlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blox as bx


def table(rows):
    """Parametrizes a test by the argument `row`, with the keys of `rows` as names."""
    return pytest.mark.parametrize('row', list(rows.values()), ids=list(rows))


def layer():
    return bx.Graph('layer')


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def random_params(call, *inputs, dtype=jnp.float64, seed=0):
    """Finalized Params for `call(params, *inputs)` with a random value at every place.

    Only their shapes come from the layer: compiling its initializers would take longer than
    the rest of a test.
    """
    kinds = [np.float32 if jnp.issubdtype(x.dtype, jnp.floating) else np.int32 for x in inputs]
    shapes = [jax.ShapeDtypeStruct(x.shape, kind) for x, kind in zip(inputs, kinds)]
    params, _ = bx.spec(call, *shapes).cast(dtype).partition(lambda path, _: path != 'rng')
    for i, (path, param) in enumerate(params.items()):
        value = normal(*param.shape, seed=seed + i + 1).astype(dtype) / 2
        value = abs(value) + 1 if path.endswith('/var') else value
        params = params.set(path, value, strict=False)
    return params


@contextlib.contextmanager
def promptly(seconds=10):
    """Fails what would wait for ever."""

    def stop(*_):
        pytest.fail('it hangs')

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
