"""Commands of `blox` that make models ready to serve: compile."""

from typing import Any

import click
import jax.numpy as jnp

import blox as bx
from blox.zoo.cli.shared import DTYPE, MODEL, check_free, find, read, say, status
from blox.zoo.saving.compile import PLATFORMS


@click.command(epilog=MODEL)
@click.argument('model')
@click.option('--out', required=True, metavar='FILE', help='The new file.')
@click.option(
    '--platform',
    'platforms',
    multiple=True,
    type=click.Choice(PLATFORMS),
    help='Where it will run; may be given again. All of them by default.',
)
@DTYPE
def compile(model: str, out: str, platforms: tuple[str, ...], dtype: str | None) -> None:
    """Write MODEL as a program that runs without this library.

    One safetensors file of weights and program. JAX with flatbuffers runs it, on any batch size:

    \b
    weights = safetensors.flax.load_file('FILE')
    program = jax.export.deserialize(bytearray(weights.pop('program').tobytes()))
    outputs = jax.jit(program.call)(weights, inputs)

    \b
    Example: blox compile vit-b16 --out vit-b16.jax --dtype bfloat16
    """
    check_free(out)
    found = find(model)
    net, params = read(found, model, dtype and jnp.dtype(dtype))
    with status(f'writing {out}'):
        facts = bx.zoo.compile(out, net, params, card=found.card, platforms=platforms or PLATFORMS)
    say(f'{out}: {type(net).__name__} for {", ".join(facts["platforms"])}')
    say(f'inputs: {_listed(facts["inputs"])}')
    say(f'outputs: {_listed(facts["outputs"])}')


def _listed(arrays: Any) -> str:
    if isinstance(arrays, str):
        return arrays
    return ', '.join(f'{name} {array}' for name, array in arrays.items() if array)


COMMANDS = (compile,)
