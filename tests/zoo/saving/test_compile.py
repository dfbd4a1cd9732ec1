"""Programs of models, which run without this library."""

import functools
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import build, declared, tiny
from helpers import normal, random_params
from jax import export
from safetensors import safe_open
from safetensors.flax import load_file

import blox as bx

EXAMPLES = Path(__file__).parents[3] / 'examples'


def made(family, dtype=jnp.float32, **fields):
    """A small model, and Params with random values everywhere."""
    model = build(tiny(family, **fields))
    return model, random_params(model, *model.example_inputs(), dtype=dtype)


def sizes_of(model):
    """Batch sizes and lengths of tokens: the least of both, more, and the context's."""
    return [(1, 1), (3, 4), (2, getattr(model.config, 'context', 0))]


def inputs_of(model, batch, length):
    rng = np.random.default_rng([batch, length])
    example, *others = model.example_inputs()
    if example.dtype == np.float32:
        images = (normal(batch, *example.shape[1:]).astype(np.float32),)
        if not others:
            return images
        return (*images, rng.integers(0, model.config.vocab_size, (batch + 1, length), np.int32))
    tokens = rng.integers(0, model.config.vocab_size, (batch, length), np.int32)
    mask = np.arange(length)[None] <= rng.integers(0, length, (batch, 1))
    return (tokens, mask.astype(np.int32)) if model.path == 'bert' else (tokens,)


def opened(path):
    """The function in a file, as its users open it."""
    weights = load_file(path)
    program = export.deserialize(bytearray(weights.pop('program').tobytes()))
    call = jax.jit(program.call)
    return lambda *inputs: call(weights, *inputs)


def expected(model, params, inputs):
    outputs: Any = jax.jit(model)(params, *inputs)[0]
    return outputs._asdict() if hasattr(outputs, '_asdict') else outputs


def assert_same(found, wanted):
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), found, wanted)


def assert_close(found, wanted):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, wanted)


@pytest.mark.parametrize(
    ('family', 'dtype'),
    [*((name, jnp.float32) for name in declared()), ('vit', jnp.bfloat16), ('gpt2', jnp.bfloat16)],
)
def test_a_program_equals_its_model_bit_for_bit(family, dtype, tmp_path):
    model, params = made(family, dtype)
    bx.zoo.compile(tmp_path / 'x', model, params)
    program = opened(tmp_path / 'x')
    for batch, length in sizes_of(model):
        inputs = inputs_of(model, batch, length)
        # Of a single token, whose logits a model sums in another order, a program knows nothing.
        is_alone = family == 'gpt2' and batch * length == 1
        compare = assert_close if is_alone and dtype == jnp.float32 else assert_same
        compare(program(*inputs), expected(model, params, inputs))


def test_a_program_of_texts_of_one_length_takes_no_other(tmp_path):
    model, params = made('clip', text_pool='last')
    bx.zoo.compile(tmp_path / 'x', model, params)
    program = opened(tmp_path / 'x')
    inputs = inputs_of(model, 2, model.config.context)
    assert_same(program(*inputs), expected(model, params, inputs))
    with pytest.raises(ValueError, match='shape'):
        program(*inputs_of(model, 2, model.config.context - 1))


def test_a_program_keeps_float64(x64, tmp_path):
    model, params = made('bert', jnp.float64)
    bx.zoo.compile(tmp_path / 'x', model, params)
    inputs = inputs_of(model, 3, 5)
    found, wanted = opened(tmp_path / 'x')(*inputs), expected(model, params, inputs)
    assert_same(found, wanted)
    assert found['embedding'].dtype == np.float64


ALONE = """
import sys
sys.modules['blox'] = None  # An import of it fails.
import jax, numpy, safetensors.flax
from jax import export

folder = sys.argv[1]
weights = safetensors.flax.load_file(f'{folder}/model')
program = export.deserialize(bytearray(weights.pop('program').tobytes()))
inputs = numpy.load(f'{folder}/inputs.npy')
numpy.save(f'{folder}/outputs.npy', jax.jit(program.call)(weights, inputs))
"""


def test_a_program_runs_where_blox_is_not(tmp_path):
    model, params = bx.zoo.load('vit-digits')
    bx.zoo.compile(tmp_path / 'model', model, params)
    images = normal(5, 8, 8, 1).astype(np.float32)
    np.save(tmp_path / 'inputs.npy', images)
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'JAX_DEFAULT_MATMUL_PRECISION': 'highest'}
    command = [sys.executable, '-W', 'error', '-c', ALONE, str(tmp_path)]
    subprocess.run(command, check=True, env=environment)
    wanted = expected(model, params, (images,))
    assert_same(np.load(tmp_path / 'outputs.npy'), wanted)


def test_a_program_refuses_more_tokens_than_the_context(tmp_path):
    bx.zoo.compile(tmp_path / 'x', *made('gpt2'))
    with pytest.raises(ValueError, match='shape'):
        opened(tmp_path / 'x')(np.zeros((1, 7), np.int32))


def test_a_program_refuses_images_of_another_size(tmp_path):
    bx.zoo.compile(tmp_path / 'x', *made('vit'))
    with pytest.raises(ValueError, match='8'):
        opened(tmp_path / 'x')(np.zeros((1, 9, 12, 3), np.float32))


def test_the_header_says_what_a_server_must_know(tmp_path):
    model, params = bx.zoo.load('vit-digits')
    card = bx.zoo.read_card('vit-digits')
    facts = bx.zoo.compile(tmp_path / 'x', model, params, card=card, platforms=['cpu', 'tpu'])
    metadata = safe_open(tmp_path / 'x', 'np').metadata()
    assert json.loads(metadata['blox.program']) == facts
    assert facts == {
        'inputs': {'images': 'float32[batch,8,8,1]'},
        'outputs': 'float32[batch,10]',
        'platforms': ['cpu', 'tpu'],
        'jax': jax.__version__,
    }
    assert json.loads(metadata['blox.model']) == card.fields()


def test_the_inputs_and_outputs_of_sentence_embeddings_have_names(tmp_path):
    facts = bx.zoo.compile(tmp_path / 'x', *made('bert'))
    assert facts['inputs'] == dict.fromkeys(('tokens', 'mask'), 'int32[batch,length]')
    assert facts['outputs'] == {
        'tokens': 'float32[batch,length,8]',
        'pooled': 'float32[batch,8]',
        'embedding': 'float32[batch,8]',
    }


def test_the_same_model_is_the_same_bytes_without_names_of_files(tmp_path):
    model, params = made('vit')
    limit = 'jax_hlo_source_file_canonicalization_regex'
    before = getattr(jax.config, limit)
    for name in 'ab':
        bx.zoo.compile(tmp_path / name, model, params, card=bx.zoo.card('vit-b16'))
    content = (tmp_path / 'a').read_bytes()
    assert content == (tmp_path / 'b').read_bytes()
    assert b'.py' not in content
    assert b'pytest' not in content
    assert getattr(jax.config, limit) == before


def test_params_that_do_not_fit_are_refused(tmp_path):
    model, params = made('vit')
    rest = params.partition('vit/head/b')[1]
    with pytest.raises(ValueError, match='vit/head/b: missing'):
        bx.zoo.compile(tmp_path / 'x', model, rest)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('platforms', [[], ['gpu'], ['cpu', 'metal']])
def test_platforms_that_jax_does_not_know_are_refused(platforms, tmp_path):
    with pytest.raises(ValueError, match='expected platforms of cpu, cuda, tpu, found'):
        bx.zoo.compile(tmp_path / 'x', *made('vit'), platforms=platforms)


# Serving.


@pytest.fixture(scope='module')
def client(tmp_path_factory):
    """Asks the web server of examples/serve.py, as of one model."""
    pytest.importorskip('starlette')
    from starlette.testclient import TestClient

    file = tmp_path_factory.mktemp('served') / 'vit-digits'
    card = bx.zoo.read_card('vit-digits')
    bx.zoo.compile(file, *bx.zoo.load('vit-digits'), card=card)
    app = runpy.run_path(str(EXAMPLES / 'serve.py'))['app']
    return TestClient(app(str(file)))


def test_a_server_answers_an_image_with_its_class(client):
    for digit in '740':
        response = client.post('/', content=(EXAMPLES / 'digits' / f'{digit}.png').read_bytes())
        answer = response.json()
        assert (response.status_code, answer['label']) == (200, digit)
        assert 0.5 < answer['probability'] < 1


def test_a_server_answers_what_is_no_image_with_an_error(client):
    whole = (EXAMPLES / 'digits' / '7.png').read_bytes()
    for body in (b'', b'GIF89a', b'not an image', whole[:60]):
        response = client.post('/', content=body)
        assert response.status_code == 400
        assert response.json()['error']
