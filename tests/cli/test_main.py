"""All commands of `blox`, in this process and as one of its own."""

import json
import os
import signal
import subprocess
import sys

import jax
import pytest
from click.testing import CliRunner
from commands import (
    DIGITS,
    INTERRUPTIBLE,
    blox,
    byte_tokenizer,
    fails,
    misused,
    printed,
    write_encoder,
    write_model,
)
from helpers import opened

import blox as bx
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.cli import train
from blox.zoo.cli.main import main


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=64)


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp('models') / 'encoder.safetensors')


# The list of commands, and a command whose options are in sections.
LONG = {'': 32, 'finetune': 52}


@pytest.mark.parametrize('command', ['', *main.commands])
def test_help_fits_a_page(command):
    lines = printed(*command.split(), '--help').splitlines()
    assert len(lines) <= LONG.get(command, 24)
    assert max(map(len, lines)) <= 80


def test_help_in_sections_has_each_option_once_in_a_line():
    names = [name for names in train.SECTIONS.values() for name in names]
    options = [p.opts[0].strip('-') for p in main.commands['finetune'].params]
    assert sorted([*names, 'model', 'data']) == sorted([*options, 'help'])
    lines = [line for line in printed('finetune', '--help').splitlines() if line.startswith('  --')]
    assert len(lines) == len(names)


@pytest.mark.parametrize('command', main.commands)
def test_help_shows_a_call(command):
    assert f'Example: blox {command} ' in printed(command, '--help')


def test_no_command_prints_the_help():
    assert printed() == printed('--help')


@pytest.mark.parametrize('command', ['predict', 'generate', 'embed'])
def test_a_model_is_opened_once(command, writer, encoder):
    shipped = bx.zoo.card('vit-digits').weights
    model = {'predict': shipped, 'generate': writer, 'embed': encoder}[command]
    with opened(model) as times:
        printed(command, model, DIGITS / '1.png' if command == 'predict' else 'ab')
    assert len(times) == 1


def test_what_a_terminal_would_obey_is_escaped():
    line = fails('info', 'a\x1b[31m\n.safetensors')
    assert line.startswith(r'Error: a\x1b[31m')
    assert line.isprintable()


def test_the_version_is_the_librarys():
    assert printed('--version').split()[-1] == bx.__version__


@pytest.mark.parametrize(
    'args', [['predict', 'vit-digits'], ['list', '--jsn'], ['paint'], ['--bogus']]
)
def test_wrong_usage_is_one_line_and_exits_with_two(args):
    misused(*args)


@pytest.mark.parametrize('error', [MemoryError(), ImportError('no\nsuch'), OSError(28, 'full')])
def test_what_users_can_mend_is_one_line(monkeypatch, error):
    monkeypatch.setattr(bx.zoo, 'list_models', raising(error))
    fails('list')


def test_what_they_cannot_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(bx.zoo, 'list_models', raising(KeyError('x')))
    assert isinstance(CliRunner().invoke(main, ['list']).exception, KeyError)


def raising(error):
    def refuse(*args):
        raise error

    return refuse


@pytest.mark.parametrize(('command', 'option'), [('predict', '--csv'), ('embed', '--npy')])
def test_one_kind_of_output_is_asked_for(command, option, tmp_path):
    line = misused(command, 'no-model', 'x', option, tmp_path / 'out', '--json')
    assert f'expected {option} or --json, found both' in line


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['info', 'vit-digit'], "no model 'vit-digit' in the catalog; nearest: vit-digits"),
        (['predict', 'vit-digit', 'a.png'], "no model 'vit-digit' in the catalog"),
        (['predict', 'vit-b32', 'a.png'], "'vit-b32' is an architecture without weights"),
        (['predict', 'vit-b16', 'a.png'], 'load once with a network'),
        (['predict', 'no.safetensors', 'a.png'], 'no.safetensors'),
        (['generate', 'gpt3', 'Hello'], "no model 'gpt3' in the catalog"),
        (['generate', 'vit-digits', 'Hello'], 'expected a model for text-generation'),
        (
            ['embed', 'gpt2-pydocs', 'Hello'],
            'expected a model of images, or for sentence-embedding',
        ),
    ],
)
def test_a_model_that_will_not_do_is_one_line(args, message):
    assert message in fails(*args)


# A process of its own.


# What a script starts in the background ignores interrupts, and so does what that starts.


def start(*args):
    code = f'{INTERRUPTIBLE}; from blox.zoo.cli.main import main; main()'
    command = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_process_predicts():
    process = start('predict', 'vit-digits', DIGITS / '8.png')
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b'')
    assert out.split()[1] == b'8'


def test_a_process_fails_without_a_traceback():
    process = start('predict', 'vit-digit', DIGITS / '8.png')
    out, err = process.communicate()
    assert (process.returncode, out) == (1, b'')
    assert len(err.splitlines()) == 1


def test_a_process_shows_text_before_its_end(tmp_path):
    letter = byte_tokenizer().token_to_id('x')
    file = write_model(tmp_path / 'long.safetensors', 1200, bias=letter)
    options = ('--max-new-tokens', 1100, '--temperature', 0)
    process = start('generate', file, 'prompt:', *options)
    assert process.stdout is not None
    seen = b''
    while len(seen) <= len('prompt:') and (part := os.read(process.stdout.fileno(), 1 << 16)):
        seen += part
    rest, err = process.communicate()
    assert (process.returncode, err) == (0, b'')
    assert (seen + rest).decode() == 'prompt:' + 'x' * 1100 + '\n'
    assert rest


def test_an_interrupted_process_says_so_in_one_line(tmp_path):
    letter = byte_tokenizer().token_to_id('x')
    file = write_model(tmp_path / 'long.safetensors', 4000, bias=letter)
    process = start('generate', file, 'prompt:', '--max-new-tokens', 3900, '--temperature', 0)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, b'Interrupted')


def test_an_interrupt_that_xla_took_for_an_error_is_one(monkeypatch):
    error = jax.errors.JaxRuntimeError('INTERNAL: CpuCallback error: KeyboardInterrupt: ')
    monkeypatch.setattr(bx.zoo, 'list_models', raising(error))
    ended = []
    monkeypatch.setattr(os, '_exit', ended.append)
    result = CliRunner().invoke(main, ['list'])
    assert (ended, result.stderr.strip()) == ([130], 'Interrupted')


def test_an_interrupt_within_a_finalizer_is_not_lost():
    code = f"""
{INTERRUPTIBLE}
import gc, time
from blox.zoo.cli.main import main

def interrupted(*_):
    gc.callbacks.remove(interrupted)
    raise KeyboardInterrupt

@main.command()
def wait():
    gc.callbacks.append(interrupted)
    gc.collect()
    for _ in range(100):
        time.sleep(0.1)

main(['wait'])
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr.strip()) == (130, 'Interrupted')


@pytest.mark.parametrize(
    'args',
    [
        ('list',),
        ('generate', 'gpt2-pydocs', 'for'),
        ('predict', 'vit-digits', DIGITS / '1.png', 'missing.png'),
    ],
)
def test_a_reader_that_goes_away_is_no_traceback(args):
    process = start(*args)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert [line for line in stderr if not line.startswith(b'missing.png: ')] == []
    assert process.wait() == 1


@pytest.mark.parametrize(
    'args', [('predict', 'vit-digits', ''), ('predict', '', 'a.png'), ('info', '')]
)
def test_an_empty_argument_is_refused(args):
    assert 'found nothing' in fails(*args)


# What files say.

ESCAPE = '\x1b[2J'


def test_whatever_a_file_says_is_printable(encoder, writer, tmp_path):
    file = TensorFile(writer)
    fields = json.loads(file.metadata['blox.model'])
    fields['generation'] = {f'a{ESCAPE}\nlicense:  MIT': 1}
    path = tmp_path / f'odd{ESCAPE}.safetensors'
    write_tensors(path, dict(file), {**file.metadata, 'blox.model': json.dumps(fields)})
    text = printed('info', path)
    assert r'a\x1b[2J\nlicense:  MIT 1' in text
    for command in (['info', path], ['show', path], ['explain', path], ['embed', encoder, ESCAPE]):
        result = blox(*command)
        assert result.output
        assert '\x1b' not in result.output


def test_what_is_generated_is_printable(tmp_path):
    token = byte_tokenizer().encode('\x1b').ids[0]
    path = write_model(tmp_path / 'a.safetensors', 64, bias=token)
    text = printed('generate', path, 'ab\n\tc', '--max-new-tokens', 3, '--temperature', 0)
    assert text == 'ab\n\tc' + r'\x1b' * 3 + '\n'
