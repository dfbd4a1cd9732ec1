"""`blox embed`."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from commands import blox, fails, printed, write_encoder

import blox as bx
from blox.zoo.cli.main import main


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp('models') / 'encoder.safetensors')


def embeddings(file, texts):
    """What the library makes of each text, in a batch of its own."""
    model, params = bx.zoo.load(file)
    ids = [bx.zoo.tokenizer(file).encode(text).ids for text in texts]
    call = jax.jit(model)  # Step by step each length would compile programs of its own.
    return np.concatenate([call(params, jnp.array([row], jnp.int32))[0].embedding for row in ids])


def test_embed_prints_the_cosines_of_all_pairs(encoder):
    texts = ['ab', 'abc', 'something else, longer than the column ' + 'x' * 9]
    lines = printed('embed', encoder, *texts).splitlines()
    vectors = embeddings(encoder, texts)
    assert [line[:40].rstrip() for line in lines] == [text[:40].rstrip() for text in texts]
    table = np.array([line[40:].split() for line in lines], float)
    np.testing.assert_allclose(table, vectors @ vectors.T, atol=1e-3)


def test_embed_prints_json(encoder):
    found = json.loads(printed('embed', encoder, 'ab', '', 'abc', '--json'))
    np.testing.assert_allclose(found, embeddings(encoder, ['ab', '', 'abc']), atol=1e-6)


def test_embed_writes_an_array_in_the_order_of_the_lines(encoder, tmp_path):
    texts = [chr(97 + i % 26) * (i * 7 % 5 * 12) for i in range(40)]
    (tmp_path / 'lines.txt').write_text('\n'.join(texts) + '\n')
    out = tmp_path / 'lines.npy'
    printed('embed', encoder, '--file', tmp_path / 'lines.txt', '--npy', out)
    found = np.load(out)
    assert (found.dtype, found.shape) == (np.float32, (40, 16))
    np.testing.assert_allclose(found, embeddings(encoder, texts), atol=1e-6)


@pytest.mark.parametrize(
    'content',
    [b'ab\r\n\r\nc d\r\n', b'\xef\xbb\xbfab\n\nc d\n', b'ab\n\nc d'],
    ids=['CRLF', 'BOM', 'no end'],
)
def test_embed_takes_lines_as_they_are_found(encoder, tmp_path, content):
    (tmp_path / 'lines.txt').write_bytes(content)
    found = json.loads(printed('embed', encoder, '--file', tmp_path / 'lines.txt', '--json'))
    np.testing.assert_allclose(found, embeddings(encoder, ['ab', '', 'c d']), atol=1e-6)


def test_embed_keeps_the_order_of_more_lines_than_it_tokenizes_at_once(encoder, tmp_path):
    # Lines that are no text have a row, and cost no computing.
    texts = ['ab', *['\udcef'] * 5000, 'abc']
    (tmp_path / 'lines.txt').write_text('\n'.join(texts), errors='surrogateescape')
    blox('embed', encoder, '--file', tmp_path / 'lines.txt', '--npy', tmp_path / 'a.npy')
    found = np.load(tmp_path / 'a.npy')
    assert np.isnan(found[1:-1]).all()
    np.testing.assert_allclose(found[[0, -1]], embeddings(encoder, ['ab', 'abc']), atol=1e-5)


def test_embed_reads_arguments_and_then_the_standard_input(encoder):
    args = ['embed', str(encoder), 'ab', '--file', '-', '--json']
    found = json.loads(CliRunner().invoke(main, args, input='c\nd\n').stdout)
    np.testing.assert_allclose(found, embeddings(encoder, ['ab', 'c', 'd']), atol=1e-6)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'expected inputs to embed'),
        (b'ok\n' * 21, 'expected --npy, --csv or --json for 21 inputs'),
    ],
    ids=['empty', 'too many'],
)
def test_embed_refuses_no_lines_and_too_many_for_a_table(encoder, tmp_path, content, message):
    (tmp_path / 'lines.txt').write_bytes(content)
    assert message in fails('embed', encoder, '--file', tmp_path / 'lines.txt')


@pytest.fixture
def troubled(tmp_path):
    """A file of four lines of which the second and the fourth cannot be embedded."""
    (tmp_path / 'lines.txt').write_bytes(b'ok\nna\xefve\n\n\xff')
    return tmp_path / 'lines.txt'


def test_embed_reports_lines_in_trouble_and_writes_nan_for_them(encoder, troubled, tmp_path):
    out = tmp_path / 'lines.npy'
    result = blox('embed', encoder, '--file', troubled, '--npy', out)
    first, second = result.stderr.splitlines()
    assert first == rf"{troubled}, line 2: expected text in UTF-8, found 'na\udcefve'"
    assert second == rf"{troubled}, line 4: expected text in UTF-8, found '\udcff'"
    assert result.exit_code == 1
    assert result.stdout == f'{out}: float32 [4, 16], 2 of them NaN: see above\n'
    found = np.load(out)
    assert np.isnan(found).all(1).tolist() == [False, True, False, True]
    np.testing.assert_allclose(found[[0, 2]], embeddings(encoder, ['ok', '']), atol=1e-6)


def test_embed_prints_null_for_texts_in_trouble(encoder, troubled):
    result = blox('embed', encoder, os.fsdecode(b'\xff'), '--file', troubled, '--json')
    assert result.exit_code == 1
    assert [row is None for row in json.loads(result.stdout)] == [True, False, True, False, True]
    assert result.stderr.startswith('text 1: expected text in UTF-8')


def test_embed_cuts_long_texts_and_says_so(encoder):
    result = blox('embed', encoder, 'a' * 64, 'a' * 63, '--json')
    assert (result.exit_code, result.stderr) == (0, 'text 1: cut to its first 64 tokens\n')
    first, second = json.loads(result.stdout)
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_embed_leaves_texts_in_trouble_out_of_the_table(encoder, troubled):
    result = blox('embed', encoder, '--file', troubled)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 2)


def test_embed_refuses_a_file_that_is_not_there(encoder):
    assert fails('embed', encoder, '--file', 'no.txt') == 'Error: no.txt: No such file or directory'


def test_embed_reports_a_text_without_tokens(tmp_path):
    file = write_encoder(tmp_path / 'bare.safetensors', ends=False)
    result = blox('embed', file, 'a', '')
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)
    assert result.stderr == "text 2: expected tokens, found none in ''\n"


def test_embed_reports_tokens_that_the_model_does_not_know(tmp_path):
    file = write_encoder(tmp_path / 'small.safetensors', vocab_size=50)
    result = blox('embed', file, 'z')
    assert (result.exit_code, result.stdout) == (1, '')
    assert result.stderr.startswith('text 1: expected tokens below 50, found')


def test_embed_replaces_no_file(encoder, tmp_path):
    (tmp_path / 'a.npy').write_text('mine')
    assert 'is there already' in fails('embed', encoder, 'a', '--npy', tmp_path / 'a.npy')
    assert (tmp_path / 'a.npy').read_text() == 'mine'


def test_embed_reports_an_argument_that_is_not_utf_8(encoder):
    result = blox('embed', encoder, os.fsdecode(b'\xff'), 'ab')
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)
    assert result.stderr.startswith('text 1: expected text in UTF-8')
