"""`blox generate`."""

import os
import sys

import pytest
from click.testing import CliRunner
from commands import END, blox, byte_tokenizer, fails, misused, printed, write_model

import blox as bx
from blox.zoo.cli.main import main
from blox.zoo.running import writing


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=64)


def test_generate_prints_the_prompt_and_then_text(writer):
    text = printed('generate', writer, 'The for', '--max-new-tokens', 20)
    assert text.startswith('The for')
    assert len(text.rstrip('\n')) > len('The for')


def test_generate_prints_what_the_library_generates(writer):
    text = printed('generate', writer, 'ab', '--max-new-tokens', 12, '--temperature', 0)
    model, params = bx.zoo.load(writer)
    tokenizer = bx.zoo.tokenizer(writer)
    ids, _ = bx.zoo.generate(
        model, params, [tokenizer.encode('ab').ids], max_new_tokens=12, temperature=0
    )
    assert text == 'ab' + tokenizer.decode(ids[0].tolist()) + '\n'


def test_generate_is_decided_by_its_seed(writer):
    def text(seed):
        return printed('generate', writer, 'ab', '--temperature', 5, '--seed', seed)

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_generate_prints_as_tokens_come(writer, monkeypatch):
    shown = []

    def stream(*args, **kwargs):
        for token in bx.zoo.tokenizer(writer).encode('xyz').ids:
            sys.stdout.flush()
            shown.append(sys.stdout.buffer.getvalue())  # pyright: ignore
            yield token

    monkeypatch.setattr(writing, 'stream', stream)
    assert printed('generate', writer, 'ab') == 'abxyz\n'
    assert shown == [b'ab', b'abx', b'abxy']


@pytest.mark.parametrize('text', ['é', '中文', '🙂!', 'a\ufffdb'], ids=ascii)
def test_generate_waits_for_whole_characters(writer, monkeypatch, text):
    ids = bx.zoo.tokenizer(writer).encode(text).ids
    assert len(ids) == len(text.encode())
    monkeypatch.setattr(writing, 'stream', lambda *args, **kwargs: iter(ids))
    assert printed('generate', writer, 'ab') == f'ab{text}\n'


@pytest.mark.parametrize(
    ('text', 'left_out'), [('ends in \ufffd', 0), ('half of é', 1), ('of 🙂', 2)]
)
def test_generate_prints_an_end_that_is_no_whole_character(writer, monkeypatch, text, left_out):
    tokenizer = bx.zoo.tokenizer(writer)
    ids = tokenizer.encode(text).ids
    ids = ids[: len(ids) - left_out]
    monkeypatch.setattr(writing, 'stream', lambda *args, **kwargs: iter(ids))
    assert printed('generate', writer, 'ab') == f'ab{tokenizer.decode(ids)}\n'


def test_generate_stops_at_the_end_of_the_text(tmp_path):
    end = byte_tokenizer().token_to_id(END)
    file = write_model(tmp_path / 'silent.safetensors', 64, bias=end)
    assert printed('generate', file, 'ab', '--max-new-tokens', 20) == 'ab\n'


def test_generate_fills_the_context_at_most(writer):
    text = printed('generate', writer, 'a' * 60, '--max-new-tokens', 1000)
    assert text.startswith('a' * 60)


def test_generate_refuses_a_prompt_that_fills_the_context(writer):
    line = fails('generate', writer, 'a' * 64)
    assert 'up to 64 tokens' in line
    assert 'context of 64' in line
    assert blox('generate', writer, 'a' * 64).stdout == ''


def test_generate_refuses_an_empty_prompt(writer):
    assert 'prompt 0 is empty' in fails('generate', writer, '')


@pytest.mark.parametrize(
    ('option', 'value'),
    [('--top-p', 0), ('--temperature', -1), ('--max-new-tokens', 0), ('--top-k', -1)],
)
def test_generate_refuses_bad_options_in_one_line(writer, option, value):
    assert f"'{option}': {value}" in misused('generate', writer, 'ab', option, value)


def test_generate_refuses_a_prompt_that_is_not_utf_8(writer):
    assert 'expected a prompt in UTF-8' in fails('generate', writer, os.fsdecode(b'\xff'))


def test_generate_reads_its_prompt_from_stdin():
    run = CliRunner().invoke(main, ['generate', 'gpt2-pydocs', '-'], input='The for statement')
    assert run.exit_code == 0
    assert run.stdout == printed('generate', 'gpt2-pydocs', 'The for statement')


def test_generate_ends_before_a_stop():
    args = ('generate', 'gpt2-pydocs', 'The for statement', '--temperature', 0)
    whole = printed(*args)
    after = whole.removeprefix('The for statement')
    stop = after[20:23]
    expected = whole[: len(whole) - len(after) + after.index(stop)] + '\n'
    assert printed(*args, '--stop', 'never there', '--stop', stop) == expected
    assert fails(*args, '--stop', '') == 'Error: expected texts to stop before, found an empty one'


def test_generate_holds_back_what_may_be_the_start_of_a_stop(tmp_path):
    letter = byte_tokenizer().token_to_id('x')
    path = write_model(tmp_path / 'x.safetensors', context=64, bias=letter)
    args = ('generate', path, 'y', '--max-new-tokens', 5, '--temperature', 0)
    assert printed(*args) == 'yxxxxx\n'
    assert printed(*args, '--stop', 'xxx') == 'y\n'
    assert printed(*args, '--stop', 'xxxxxx') == 'yxxxxx\n'


def test_generate_takes_penalties():
    args = ('generate', 'gpt2-pydocs', 'The for statement', '--temperature', 0)
    penalties = ('--repetition-penalty', 1.5, '--min-new-tokens', 20)
    assert printed(*args, *penalties) != printed(*args)
