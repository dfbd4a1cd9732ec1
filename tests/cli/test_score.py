"""`blox score`."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from commands import END, byte_tokenizer, fails, printed, write_model

import blox as bx
from blox.zoo.cli.main import main


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=16)


def test_score_prints_each_token_and_their_sum(writer):
    model, params = bx.zoo.load(writer)
    tokenizer, text = byte_tokenizer(), "It's ü."
    ids = [tokenizer.token_to_id(END), *tokenizer.encode(text).ids]
    (logs,) = bx.zoo.log_probabilities(model, params, [ids])
    found = json.loads(printed('score', writer, text, '--json'))
    assert [row['log_probability'] for row in found['tokens']] == pytest.approx(logs, abs=1e-4)
    assert found['log_probability'] == pytest.approx(logs.sum(), abs=1e-3)
    assert found['bits_per_byte'] == pytest.approx(-logs.sum() / np.log(2) / 8, abs=1e-3)
    lines = printed('score', writer, text).splitlines()
    assert len(lines) == len(logs) + 1
    assert lines[0].split() == [f'{logs[0]:.4f}', "'I'"]
    assert lines[-1].startswith('log_probability -')
    run = CliRunner().invoke(main, ['score', str(writer), '-'], input=text)
    assert run.stdout.splitlines() == lines


def test_score_says_what_it_cannot_read(writer):
    assert 'expected text in UTF-8' in fails('score', writer, '')
    assert 'expected 2 to 17 tokens, found 41' in fails('score', writer, 'a' * 40)
    assert 'is for image-classification' in fails('score', 'vit-digits', 'a')
