"""Compiling models to programs that run without this library."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from blox.param import RNG, describe
from blox.params import Params
from blox.tensorfile import write_tensors
from blox.zoo.architecture.fit import check_fit
from blox.zoo.catalog.card import Card

PLATFORMS = ('cpu', 'cuda', 'tpu')

# The tensor that is the program, and the header's metadata entry about it.
_PROGRAM, _HEADER_KEY = 'program', 'blox.program'


def compile(
    path: str | os.PathLike[str],
    model: Any,
    params: Params,
    *,
    card: Card | None = None,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Write a model with its weights as a program that runs without this library.

    The file is one of safetensors: the weights by their paths, and as the tensor 'program' what
    `jax.export` makes of the model. JAX, flatbuffers and safetensors run it:

        weights = safetensors.flax.load_file(path)
        program = jax.export.deserialize(bytearray(weights.pop('program').tobytes()))
        outputs = jax.jit(program.call)(weights, inputs)

    The weights are no constants of the program: those would be compiled, and kept in memory, once
    more for every shape of the inputs, and could not exceed 2 GB. Inputs are a batch of any size:
    of images; of tokens int32, up to the context; for sentence embeddings of tokens and a mask, int32
    too, 1 at real tokens; for zero-shot classification of images and tokens, each with a batch of its
    own. Outputs are a dict where the model's have names. No rng is in it, nor a gradient.

    The header's metadata has JSON of two entries: 'blox.program', inputs, outputs, platforms and
    JAX's version, which is returned too; and 'blox.model', the `card`, with labels, preprocessing
    and tokenizer if `bx.zoo.read_card` gave it.

    JAX promises that its releases run such a program up to six months after, and three weeks before
    the one that wrote it (docs.jax.dev/en/latest/export/export.html#compatibility-guarantees): keep
    the model itself too, with `bx.zoo.save`. A program can do what JAX can: run those you trust.

    Raises ValueError if params do not fit, or for a platform that is none of cpu, cuda and tpu.
    """
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise ValueError(f'expected platforms of {", ".join(PLATFORMS)}, found {list(platforms)}')
    check_fit(model, params)
    card = Card.of(model, Path(path).stem, card)
    inputs = _inputs(model, card.task)
    exported = _exported(model, params, tuple(inputs.values()), platforms)
    facts = _facts(inputs, exported)
    tensors = {name: param.value for name, param in params.items() if name != RNG}
    tensors[_PROGRAM] = np.frombuffer(exported.serialize(), np.uint8)
    write_tensors(path, tensors, {**card.to_header(), _HEADER_KEY: json.dumps(facts)})
    return facts


def _inputs(model: Any, task: str) -> dict[str, jax.ShapeDtypeStruct]:
    """Return what a model is called with, by name, of symbolic batch size and length."""
    first, *_ = model.example_inputs()
    if task == 'image-classification':
        return {'images': _symbolic(first, 'batch')}
    limits = [f'length <= {model.config.context}']
    if task == 'zero-shot-image-classification':
        fixed = model.config.text_length
        # A scope may speak of no axis that is not there.
        scope = export.SymbolicScope([] if fixed else limits)
        shape = export.symbolic_shape(f'texts, {fixed or "length"}', scope=scope)
        tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
        return {'images': _symbolic(first, 'images', scope), 'tokens': tokens}
    axes = 'batch, choices, length' if task == 'multiple-choice' else 'batch, length'
    shape = export.symbolic_shape(axes, constraints=limits)
    takes = {
        'text-generation': ('tokens',),
        'feature-extraction': ('tokens',),
        'sentence-embedding': ('tokens', 'mask'),
    }.get(task, model.takes[:3])
    return dict.fromkeys(takes, jax.ShapeDtypeStruct(shape, jnp.int32))


def _symbolic(
    images: jax.ShapeDtypeStruct, batch: str, scope: export.SymbolicScope | None = None
) -> jax.ShapeDtypeStruct:
    """Return images of a batch of any size, which is called `batch`."""
    shape = (*export.symbolic_shape(batch, scope=scope), *images.shape[1:])
    return jax.ShapeDtypeStruct(shape, images.dtype)


def _exported(
    model: Any,
    params: Params,
    inputs: Sequence[jax.ShapeDtypeStruct],
    platforms: Sequence[str],
) -> export.Exported:
    """Return the program `(weights, *inputs) -> outputs`; weights is a dict from path to array."""
    params = params.partition(lambda path, _: path != RNG)[0]
    structure = jax.tree.structure(params)

    def call(weights: dict[str, jax.Array], *inputs: jax.Array) -> Any:
        leaves = [weights[path] for path in params]
        outputs: Any = model(jax.tree.unflatten(structure, leaves), *inputs)[0]
        return outputs._asdict() if hasattr(outputs, '_asdict') else outputs

    call.__name__ = type(model).__name__
    weights = {path: jax.ShapeDtypeStruct(p.shape, p.dtype) for path, p in params.items()}
    with _no_locations():
        return export.export(jax.jit(call), platforms=platforms)(weights, *inputs)


# Who called, from which files, is no part of a program: the same model gives the same bytes.
_LOCATIONS = {
    'jax_hlo_source_file_canonicalization_regex': '.*',
    'jax_traceback_in_locations_limit': 0,
}


@contextlib.contextmanager
def _no_locations() -> Iterator[None]:
    """Keep out of programs which line of which file each operation comes from."""
    before = {name: getattr(jax.config, name) for name in _LOCATIONS}
    try:
        for name, value in _LOCATIONS.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _facts(inputs: dict[str, jax.ShapeDtypeStruct], exported: export.Exported) -> dict[str, Any]:
    """Return what a caller of a program must know."""
    outputs = [describe(aval) for aval in exported.out_avals]
    return {
        'inputs': {name: describe(aval) for name, aval in inputs.items()},
        'outputs': jax.tree.unflatten(exported.out_tree, outputs),
        'platforms': list(exported.platforms),
        'jax': jax.__version__,
    }
