"""What tests of models share: random Params and inputs for a config, and programs compiled once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from families import build, declared, family_of, small, tiny

import blox as bx

SMALL = small()
# Of each family the tiny config, and the one that is most different: for what takes long.
KINDS = {
    f'{family}-{odd or "tiny"}': tiny(family, **odd)
    for family, said in declared().items()
    for odd in ({}, *said.odd[:1])
}

model_of = functools.cache(build)


@functools.cache
def random_params(config, dtype=jnp.float32, seed=0):
    """Params whose values are all random, for a model's own head and biases start at zero."""
    rng, model = np.random.default_rng(seed), model_of(config)
    entries = dict(bx.spec(model, *model.example_inputs()).items())
    entries['rng'] = bx.Params(seed=0)['rng']
    for path, param in entries.items():
        if path != 'rng':
            value = rng.normal(0, 0.3, param.shape)
            value = np.abs(value) + 0.5 if path.endswith('/var') else value
            # Rounded by NumPy: JAX compiles a program for each shape.
            value = jax.device_put(value.astype(jnp.dtype(dtype)))
            entries[path] = dataclasses.replace(param, value=value)
    return bx.Params.from_entries(entries, finalized=True)


def inputs_for(config, batch=2, seed=1):
    """Random inputs, as many as a model of a config needs: images, or tokens, or both."""
    rng = np.random.default_rng(seed)

    def drawn(example):
        if jnp.issubdtype(example.dtype, jnp.integer):
            choices = (2,) * (example.ndim - 2)
            shape = (batch, *choices, 6)
            return jnp.asarray(rng.integers(0, config.vocab_size, shape), example.dtype)
        return jnp.asarray(rng.normal(size=(batch, *example.shape[1:])), example.dtype)

    return tuple(map(drawn, model_of(config).example_inputs()))


def answer(outputs):
    """Logits, or what stands for all that a model makes."""
    names = (name for name in ('embedding', 'logits') if hasattr(outputs, name))
    return getattr(outputs, next(names, ''), outputs)


def answer_shape(config, first, *others):
    """The shape of a model's answer to these inputs; None for features, whose width it need not say."""
    task = family_of(config).task_of(config)
    match task:
        case 'text-generation' | 'fill-mask':
            return (*first.shape, config.vocab_size)
        case 'sentence-embedding':
            return (first.shape[0], config.width)
        case 'multiple-choice':
            return first.shape[:2]
        case 'zero-shot-image-classification':
            return (first.shape[0], others[0].shape[0])
    return (first.shape[0], config.num_classes) if config.num_classes else None


@functools.cache
def forward(config, *, is_training=False):
    """The answer of a model and its Params, jitted once."""
    call = jax.jit(functools.partial(model_of(config), is_training=is_training))

    def run(params, *inputs):
        outputs, params = call(params, *inputs)
        return answer(outputs), params

    return run


def same(a, b):
    """Whether two Params hold the same values, the rng's counter included."""
    key, other = (params.get('rng') for params in (a, b))
    if key and other and key.value[1] != other.value[1]:
        return False
    return all(np.array_equal(a[path].value, b[path].value) for path in a if path != 'rng')


def described(params):
    return [(param.shape, param.dtype) for param in params.values()]
