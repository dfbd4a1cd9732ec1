"""Tiny checkpoints of the reference libraries, and what those computed of them in float64.

tests/golden/make.py writes the files; these tests need none of the libraries.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import build, declared

import blox as bx
from blox.converters import convert, layouts
from blox.zoo.comparing.parity import layer_outputs
from blox.zoo.models import families

GOLDEN = Path(__file__).parent
FOLDERS = sorted(path.name for path in GOLDEN.iterdir() if (path / 'expected.npz').is_file())
pytestmark = pytest.mark.usefixtures('x64')


def load(name):
    """Our model of a golden folder, with its Params in float64."""
    if (GOLDEN / name / 'config.json').is_file():
        return bx.zoo.load(GOLDEN / name, dtype=jnp.float64)
    family, _, layout = name.partition('-')
    # A .npz says nothing of its model.
    fields = {**declared()[family].golden[layout].fields, **(layouts(family)[layout].facts or {})}
    config = families()[family].override(families()[family].config(), fields)
    return build(config), convert(GOLDEN / name / 'model.npz', build(config), dtype=jnp.float64)


def expected_of(name):
    """(inputs, outputs by path, everything else) of a golden folder."""
    with np.load(GOLDEN / name / 'expected.npz') as file:
        arrays = dict(file)
    inputs = [arrays.pop(key) for key in sorted(arrays) if key.startswith('input')]
    outputs = {key: x for key, x in arrays.items() if key.startswith(name.split('-')[0])}
    return inputs, outputs, {key: x for key, x in arrays.items() if key not in outputs}


def test_what_families_declare_is_there_and_nothing_else():
    assert set(FOLDERS) == {
        f'{family}-{layout}' for family, said in declared().items() for layout in said.golden
    }


def test_golden_files_are_small():
    sizes = {
        name: sum(file.stat().st_size for file in (GOLDEN / name).rglob('*') if file.is_file())
        for name in FOLDERS
    }
    assert max(sizes.values()) < 60_000
    assert sum(sizes.values()) < 600_000


@pytest.mark.parametrize('name', FOLDERS)
def test_every_block_and_output_is_that_of_the_reference(name):
    model, params = load(name)
    inputs, expected, _ = expected_of(name)
    found = jax.jit(lambda p, *x: layer_outputs(model, expected, p, *x))(params, *inputs)
    assert set(found) == set(expected)
    assert len(found) > 2
    for path, value in found.items():
        atol = 1e-12 * np.abs(expected[path]).max()
        np.testing.assert_allclose(value, expected[path], rtol=0, atol=atol, err_msg=path)


def test_greedy_tokens_are_those_of_transformers():
    model, params = load('gpt2-hf')
    _, _, more = expected_of('gpt2-hf')
    prompts = [more[f'prompt{i}'].tolist() for i in range(3)]
    found, _ = bx.zoo.generate(model, params, prompts, max_new_tokens=24, temperature=0)
    np.testing.assert_array_equal(found, more['greedy'])
    assert min(len(set(row)) for row in more['greedy'].tolist()) > 4
