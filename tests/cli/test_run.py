"""The `blox` command, in this process and as one of its own."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner
from commands import (
    DIGITS,
    END,
    INTERRUPTIBLE,
    blox,
    byte_tokenizer,
    fails,
    misused,
    printed,
    write_encoder,
    write_model,
)
from jax import export
from PIL import Image
from safetensors.flax import load_file

import blox as bx
from blox.zoo.cli import run as cli_run
from blox.zoo.cli import shared
from blox.zoo.cli.main import main
from blox.zoo.running import batches


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=64)


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp('models') / 'encoder.safetensors')


def embeddings(file, texts):
    """What the library makes of each text, in a batch of its own."""
    model, params = bx.zoo.load(file)
    ids = [bx.zoo.tokenizer(file).encode(text).ids for text in texts]
    rows = [jnp.array([row], jnp.int32) for row in ids]
    return np.concatenate([model(params, row)[0].embedding for row in rows])


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / 'broken.png'
    path.write_bytes((DIGITS / '3.png').read_bytes()[:40])
    return path


# list


def test_list_prints_every_model():
    lines = printed('list').splitlines()
    assert [line.split()[0] for line in lines] == bx.zoo.list_models()


def test_list_takes_a_pattern():
    lines = printed('list', 'vit-b?*[62]').splitlines()
    assert ['vit-b16', 'image-classification', 'google/vit-base-patch16-224'] in [
        re.split(' {2,}', line) for line in lines
    ]
    assert ['vit-b32', 'image-classification', 'architecture'] in [
        re.split(' {2,}', line) for line in lines
    ]


def test_list_tells_which_weights_are_included():
    (line,) = printed('list', 'vit-digits').splitlines()
    assert line.endswith('weights included')


def test_list_prints_json():
    rows = json.loads(printed('list', '*digits', '--json'))
    assert rows == [
        {
            'name': f'{family}-digits',
            'task': 'image-classification',
            'weights': True,
            'source': '',
        }
        for family in ('resnet', 'vit')
    ]


@pytest.mark.parametrize('flags', [[], ['--json']], ids=['text', 'json'])
def test_list_fails_where_nothing_fits(flags):
    assert fails('list', 'nothing*', *flags) == "Error: no model fits 'nothing*'"


# info


def test_info_of_an_architecture():
    text = printed('info', 'vit-b16')
    assert re.search(r'^name: +vit-b16$', text, re.MULTILINE)
    assert re.search(r'^parameters: +86,567,656$', text, re.MULTILINE)
    assert re.search(r'^bytes: +330\.2 MB$', text, re.MULTILINE)


def test_info_of_a_model_with_weights():
    text, card = printed('info', 'vit-digits'), bx.zoo.card('vit-digits')
    for value in (card.summary, card.training, card.data, card.license):
        assert value in text
    assert f'test_accuracy {card.metrics["test_accuracy"]}' in text
    assert re.search('^labels: +0, 1, 2, 3, 4, 5, 6, 7, 8, 9$', text, re.MULTILINE)


def test_info_prints_json():
    fields = json.loads(printed('info', 'vit-digits', '--json'))
    params = bx.zoo.load('vit-digits')[1]
    assert (fields['parameters'], fields['bytes']) == (params.num_params, params.nbytes)
    assert fields['config']['image_size'] == [8, 8]
    assert fields['tokenizer'] is False


def test_info_takes_a_file(writer):
    fields = json.loads(printed('info', writer, '--json'))
    assert (fields['task'], fields['tokenizer']) == ('text-generation', True)


def test_info_takes_a_folder_of_another_library(tmp_path):
    model, params = bx.zoo.load('vit-digits')
    bx.zoo.export(tmp_path / 'mine', model, params, card=bx.zoo.card('vit-digits'))
    text = printed('info', tmp_path / 'mine')
    for fact in ('name: +mine', 'layout: +hf', f'parameters: +{params.num_params:,}'):
        assert re.search(f'^{fact}$', text, re.MULTILINE)
    assert 'image_size [8, 8], ' in text
    assert 'summary' not in text


def test_info_prints_ten_of_many_labels(tmp_path):
    model = bx.zoo.create('vit-digits', num_classes=12)
    card = dataclasses.replace(bx.zoo.card('vit-digits'), labels=tuple('abcdefghijkl'))
    bx.zoo.save(tmp_path / 'many.safetensors', model, bx.zoo.init(model), card=card)
    text = printed('info', tmp_path / 'many.safetensors')
    assert re.search(r'^labels: +a, b, .*, j, and 2 more$', text, re.MULTILINE)


# predict


@pytest.mark.parametrize('model', ['vit-digits', 'resnet-digits'])
def test_predict_prints_file_class_and_probability(model):
    files = [DIGITS / f'{digit}.png' for digit in (7, 0, 3)]
    lines = printed('predict', model, *files).splitlines()
    found = [re.fullmatch(r'(\S+)  (\d) +(\d+\.\d) %', line) for line in lines]
    assert [match and match[1] for match in found] == [str(file) for file in files]
    assert [match and match[2] for match in found] == ['7', '0', '3']
    assert all(match and 50 < float(match[3]) <= 100 for match in found)


def test_predict_takes_a_folder():
    lines = printed('predict', 'vit-digits', DIGITS).splitlines()
    assert [line.split()[:2] for line in lines] == [
        [str(DIGITS / f'{digit}.png'), str(digit)] for digit in range(10)
    ]


def test_predict_looks_into_subfolders_for_images_alone(tmp_path):
    (tmp_path / 'deep' / 'er').mkdir(parents=True)
    (tmp_path / 'deep' / 'er' / 'five.PNG').write_bytes((DIGITS / '5.png').read_bytes())
    (tmp_path / 'notes.txt').write_text('not an image')
    (line,) = printed('predict', 'vit-digits', tmp_path).splitlines()
    assert line.split()[1] == '5'


def test_predict_prints_several_classes():
    (line,) = printed('predict', 'vit-digits', DIGITS / '4.png', '--top', 3).splitlines()
    found = re.findall(r'(\d) +(\d+\.\d) %', line)
    assert len({label for label, _ in found}) == 3
    probabilities = [float(p) for _, p in found]
    assert probabilities == sorted(probabilities, reverse=True)


def test_predict_prints_json():
    files = [DIGITS / '1.png', DIGITS / '2.png']
    rows = json.loads(printed('predict', 'vit-digits', *files, '--top', 99, '--json'))
    assert [row['file'] for row in rows] == [str(file) for file in files]
    assert [row['classes'][0]['label'] for row in rows] == ['1', '2']
    for row in rows:
        assert sum(entry['probability'] for entry in row['classes']) == pytest.approx(1, abs=1e-5)
        assert {entry['label'] for entry in row['classes']} == set('0123456789')


@pytest.mark.parametrize('count', [65, 130])
def test_predict_takes_more_images_than_one_batch(tmp_path, count):
    for i in range(count):
        Image.open(DIGITS / f'{i % 10}.png').save(tmp_path / f'{i:03}.png')
    lines = printed('predict', 'resnet-digits', tmp_path).splitlines()
    assert [line.split()[1] for line in lines] == [str(i % 10) for i in range(count)]


def test_predict_takes_photos_of_any_size_and_mode(tmp_path):
    Image.open(DIGITS / '6.png').resize((321, 123)).convert('CMYK').save(tmp_path / 'six.jpg')
    (line,) = printed('predict', 'vit-digits', tmp_path / 'six.jpg').splitlines()
    assert line.split()[1] == '6'


@pytest.mark.parametrize('flags', [[], ['--json']], ids=['text', 'json'])
def test_predict_reports_a_broken_file_and_goes_on(broken, flags):
    files = [DIGITS / '1.png', broken, 'missing.png', DIGITS / '2.png']
    result = blox('predict', 'vit-digits', *files, *flags)
    assert result.exit_code == 1
    reports = result.stderr.splitlines()
    assert [report.partition(': ')[0] for report in reports] == [str(broken), 'missing.png']
    if flags:
        assert [row['classes'][0]['label'] for row in json.loads(result.stdout)] == ['1', '2']
    else:
        assert [line.split()[1] for line in result.stdout.splitlines()] == ['1', '2']


@pytest.mark.parametrize(
    ('flags', 'expected'), [([], ''), (['--json'], '[]\n')], ids=['text', 'json']
)
def test_predict_of_broken_files_alone(broken, flags, expected):
    result = blox('predict', 'vit-digits', broken, *flags)
    assert (result.exit_code, result.stdout) == (1, expected)


def test_predict_writes_csv(broken, tmp_path):
    odd = tmp_path / '=1,"2"\r3\n.png'
    odd.write_bytes((DIGITS / '3.png').read_bytes())
    out = tmp_path / 'out.csv'
    result = blox('predict', 'vit-digits', DIGITS / '1.png', broken, odd, '--csv', out, '--top', 2)
    assert (result.exit_code, result.stdout) == (1, f'{out}: 2 files\n')
    assert result.stderr.startswith(f'{broken}: ')
    with open(out, newline='') as file:
        header, *rows = csv.reader(file)
    assert header == ['file', 'label', 'probability', 'label2', 'probability2']
    assert [row[:2] for row in rows] == [[str(DIGITS / '1.png'), '1'], [str(odd), '3']]
    assert all(0.5 < float(row[2]) < 1 and 0 < float(row[4]) < 0.5 for row in rows)


def test_predict_prints_csv_with_names_that_are_not_utf_8(tmp_path):
    file = tmp_path / os.fsdecode(b'\xff.png')
    file.write_bytes((DIGITS / '7.png').read_bytes())
    result = blox('predict', 'vit-digits', file, '--csv', '-')
    assert re.fullmatch(
        rb'file,label,probability\n' + re.escape(bytes(file)) + rb',7,0\.\d+\n', result.stdout_bytes
    )


def test_predict_of_broken_files_alone_writes_a_header_of_csv(broken):
    result = blox('predict', 'vit-digits', broken, '--csv', '-')
    assert (result.exit_code, result.stdout) == (1, 'file,label,probability\n')


@pytest.mark.parametrize(('command', 'option'), [('predict', '--csv'), ('embed', '--npy')])
def test_one_kind_of_output_is_asked_for(command, option, tmp_path):
    line = misused(command, 'no-model', 'x', option, tmp_path / 'out', '--json')
    assert f'expected {option} or --json, found both' in line


@pytest.mark.parametrize(('count', 'batch'), [(1, 1), (64, 64), (65, 33), (130, 44)])
def test_images_of_any_number_are_one_program(count, batch):
    shapes = []

    def model(params, images):
        shapes.append(images.shape)
        return images[:, 0, 0], params

    files = [Path(str(i)) for i in range(count)]
    prepared = {file: np.full((1, 2, 2, 3), float(file.name), np.float32) for file in files}
    found = [
        *batches.classify(model, bx.Params(0), prepared.__getitem__, files, raising(ValueError))
    ]
    assert [file for file, _ in found] == files
    np.testing.assert_allclose(np.stack([row for _, row in found]), 1 / 3, rtol=1e-6)
    assert shapes == [(batch, 2, 2, 3)]


def test_files_are_read_ahead_but_not_all_at_once():
    started = []
    answers = batches.ahead(started.append, range(1000), 5)
    for i, (item, done) in enumerate(answers):
        done.result()
        assert item == i
        assert len(started) <= i + 6
        if i == 10:
            answers.close()
    assert len(started) <= 16


def test_predict_fails_in_an_empty_folder(tmp_path):
    assert fails('predict', 'vit-digits', tmp_path) == f"Error: '{tmp_path}' holds no images"


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
        (['embed', 'gpt2-pydocs', 'Hello'], 'expected a model for sentence-embedding'),
    ],
)
def test_a_model_that_will_not_do_is_one_line(args, message):
    assert message in fails(*args)


def test_predict_with_a_text_model_is_one_line(writer):
    assert 'is for text-generation, expected' in fails('predict', writer, DIGITS / '1.png')


# generate


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

    monkeypatch.setattr(bx.zoo, 'stream', stream)
    assert printed('generate', writer, 'ab') == 'abxyz\n'
    assert shown == [b'ab', b'abx', b'abxy']


@pytest.mark.parametrize('text', ['é', '中文', '🙂!', 'a\ufffdb'], ids=ascii)
def test_generate_waits_for_whole_characters(writer, monkeypatch, text):
    ids = bx.zoo.tokenizer(writer).encode(text).ids
    assert len(ids) == len(text.encode())
    monkeypatch.setattr(bx.zoo, 'stream', lambda *args, **kwargs: iter(ids))
    assert printed('generate', writer, 'ab') == f'ab{text}\n'


@pytest.mark.parametrize(
    ('text', 'left_out'), [('ends in \ufffd', 0), ('half of é', 1), ('of 🙂', 2)]
)
def test_generate_prints_an_end_that_is_no_whole_character(writer, monkeypatch, text, left_out):
    tokenizer = bx.zoo.tokenizer(writer)
    ids = tokenizer.encode(text).ids
    ids = ids[: len(ids) - left_out]
    monkeypatch.setattr(bx.zoo, 'stream', lambda *args, **kwargs: iter(ids))
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


# embed


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


def test_embeddings_of_many_lengths_are_few_programs(encoder, monkeypatch):
    model, params = bx.zoo.load(encoder)
    shapes = []

    class Spy:
        config = model.config

        def __call__(self, params, tokens, mask):
            shapes.append(tokens.shape)
            return model(params, tokens, mask)

    monkeypatch.setattr(cli_run, '_WINDOW', 150)
    texts = ['a' * (i % 60) for i in range(400)]
    cli_run._embeddings(Spy(), params, bx.zoo.tokenizer(encoder), texts)
    assert sorted(shapes) == [(32, 16), (32, 32), (32, 64)]


@pytest.mark.parametrize(
    'content',
    [b'ab\r\n\r\nc d\r\n', b'\xef\xbb\xbfab\n\nc d\n', b'ab\n\nc d'],
    ids=['CRLF', 'BOM', 'no end'],
)
def test_embed_takes_lines_as_they_are_found(encoder, tmp_path, content):
    (tmp_path / 'lines.txt').write_bytes(content)
    found = json.loads(printed('embed', encoder, '--file', tmp_path / 'lines.txt', '--json'))
    np.testing.assert_allclose(found, embeddings(encoder, ['ab', '', 'c d']), atol=1e-6)


def test_embed_reads_arguments_and_then_the_standard_input(encoder):
    args = ['embed', str(encoder), 'ab', '--file', '-', '--json']
    found = json.loads(CliRunner().invoke(main, args, input='c\nd\n').stdout)
    np.testing.assert_allclose(found, embeddings(encoder, ['ab', 'c', 'd']), atol=1e-6)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'expected texts to embed'),
        (b'ok\n' * 21, 'expected --npy or --json for 21 texts'),
    ],
    ids=['empty', 'too many'],
)
def test_embed_refuses_no_lines_and_too_many_for_a_table(encoder, tmp_path, content, message):
    (tmp_path / 'lines.txt').write_bytes(content)
    assert message in fails('embed', encoder, '--file', tmp_path / 'lines.txt')


@pytest.fixture
def troubled(tmp_path):
    """A file of four lines of which the second and the fourth cannot be embedded."""
    (tmp_path / 'lines.txt').write_bytes(b'ok\nna\xefve\n\n' + b'a' * 64)
    return tmp_path / 'lines.txt'


def test_embed_reports_lines_in_trouble_and_writes_nan_for_them(encoder, troubled, tmp_path):
    out = tmp_path / 'lines.npy'
    result = blox('embed', encoder, '--file', troubled, '--npy', out)
    first, second = result.stderr.splitlines()
    assert first == rf"{troubled}, line 2: expected text in UTF-8, found 'na\udcefve'"
    assert second.startswith(f'{troubled}, line 4: expected 1 to 64 tokens, found 65 in ')
    assert result.exit_code == 1
    assert result.stdout == f'{out}: float32 [4, 16], 2 of them NaN: see above\n'
    found = np.load(out)
    assert np.isnan(found).all(1).tolist() == [False, True, False, True]
    np.testing.assert_allclose(found[[0, 2]], embeddings(encoder, ['ok', '']), atol=1e-6)


def test_embed_prints_null_for_texts_in_trouble(encoder, troubled):
    result = blox('embed', encoder, 'a' * 64, '--file', troubled, '--json')
    assert result.exit_code == 1
    assert [row is None for row in json.loads(result.stdout)] == [True, False, True, False, True]
    assert result.stderr.startswith('text 1: expected 1 to 64 tokens')


def test_embed_leaves_texts_in_trouble_out_of_the_table(encoder, troubled):
    result = blox('embed', encoder, '--file', troubled)
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 2)


def test_embed_refuses_a_file_that_is_not_there(encoder):
    assert fails('embed', encoder, '--file', 'no.txt') == 'Error: no.txt: No such file or directory'


def test_embed_reports_a_text_without_tokens(tmp_path):
    file = write_encoder(tmp_path / 'bare.safetensors', ends=False)
    result = blox('embed', file, 'a', '')
    assert (result.exit_code, len(result.stdout.splitlines())) == (1, 1)
    assert result.stderr == "text 2: expected 1 to 64 tokens, found 0 in ''\n"


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


def test_generate_refuses_a_prompt_that_is_not_utf_8(writer):
    assert 'PROMPT: expected text in UTF-8' in fails('generate', writer, os.fsdecode(b'\xff'))


# compile


def test_compile_writes_a_program_that_answers_as_predict_does(tmp_path):
    out = tmp_path / 'vit.program'
    assert printed('compile', 'vit-digits', '--out', out).splitlines() == [
        f'{out}: ViT for cpu, cuda, tpu',
        'inputs: images float32[batch,8,8,1]',
        'outputs: float32[batch,10]',
    ]
    weights = load_file(out)
    program = export.deserialize(bytearray(weights.pop('program').tobytes()))
    images = bx.zoo.preprocessor('vit-digits')([DIGITS / f'{digit}.png' for digit in (7, 0, 3)])
    assert program.call(weights, images).argmax(-1).tolist() == [7, 0, 3]


def test_compile_casts_for_the_platforms_that_are_named(encoder, tmp_path):
    out = tmp_path / 'x'
    args = ('--out', out, '--platform', 'cpu', '--platform', 'tpu', '--dtype', 'bfloat16')
    assert printed('compile', encoder, *args).splitlines() == [
        f'{out}: BERT for cpu, tpu',
        'inputs: tokens int32[batch,length], mask int32[batch,length]',
        'outputs: embedding bfloat16[batch,16], pooled bfloat16[batch,16], '
        'tokens bfloat16[batch,length,16]',
    ]


@pytest.mark.parametrize('command', ['compile vit-digits --out', 'predict vit-digits a.png --csv'])
def test_no_file_is_replaced(command, tmp_path):
    (tmp_path / 'x').write_text('mine')
    assert 'is there already' in fails(*command.split(), tmp_path / 'x')
    assert (tmp_path / 'x').read_text() == 'mine'


# All commands.


@pytest.mark.parametrize('command', ['', *main.commands])
def test_help_fits_a_page(command):
    lines = printed(*command.split(), '--help').splitlines()
    assert len(lines) <= (24 if command else 32)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize('command', main.commands)
def test_help_shows_a_call(command):
    assert f'Example: blox {command} ' in printed(command, '--help')


def test_no_command_prints_the_help():
    assert printed() == printed('--help')


@pytest.mark.parametrize('command', ['predict', 'generate', 'embed'])
def test_a_model_is_opened_once(command, writer, encoder, monkeypatch):
    opened, original = [], shared.resolve
    monkeypatch.setattr(shared, 'resolve', lambda *args: opened.append(args[0]) or original(*args))
    for name in ('load', 'read_card', 'preprocessor', 'tokenizer'):
        monkeypatch.delattr(bx.zoo, name)
    model = {'predict': 'vit-digits', 'generate': str(writer), 'embed': str(encoder)}[command]
    printed(command, model, DIGITS / '1.png' if command == 'predict' else 'ab')
    assert opened == [model]


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
