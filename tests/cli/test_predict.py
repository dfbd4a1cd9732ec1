"""`blox predict`."""

import csv
import dataclasses
import io
import json
import os
import re

import pytest
from commands import DIGITS, END, blox, fails, printed, write_encoder, write_model
from PIL import Image

import blox as bx


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=64)


@pytest.fixture(scope='module')
def reader(tmp_path_factory):
    """A BERT that classifies tokens, with a default prompt."""
    return write_encoder(
        tmp_path_factory.mktemp('models') / 'reader.safetensors',
        task='token-classification',
        num_classes=2,
        card={'texts': bx.zoo.TextSettings(prompts={'x': 'k l '}, default_prompt='x')},
    )


def test_predict_puts_no_prompt_before_a_text(reader):
    rows = json.loads(printed('predict', reader, 'ab', '--json'))
    assert [(row['part'], row['start'], row['end']) for row in rows] == [('a', 0, 1), ('b', 1, 2)]


def test_predict_says_what_it_cuts_and_leaves_out(reader):
    result = blox('predict', reader, 'a' * 100, '', 'b')
    assert result.exit_code == 0
    assert result.stderr == 'text 1: cut to its first 64 tokens\n'
    assert len(result.stdout.splitlines()) == 63 + 1


def test_predict_answers_the_same_text_twice(reader):
    assert len(printed('predict', reader, 'ab', 'ab').splitlines()) == 4
    assert blox('predict', 'vit-digits', DIGITS / '3.png', DIGITS / '3.png').exit_code == 0


@pytest.mark.parametrize(
    ('task', 'args', 'message'),
    [
        ('question-answering', ['a'], 'question-answering takes a first text, the question'),
        ('multiple-choice', ['a'], 'multiple-choice takes a first text, what the choices continue'),
        ('fill-mask', ['a', '--first', 'b'], 'fill-mask takes no first text'),
    ],
)
def test_predict_says_which_texts_a_task_takes(tmp_path, task, args, message):
    path = write_encoder(tmp_path / 'a.safetensors', task=task)
    assert message in fails('predict', path, *args)


def test_predict_leaves_out_texts_without_a_mask(tmp_path):
    path = write_encoder(tmp_path / 'a.safetensors', task='fill-mask')
    result = blox('predict', path, 'a', 'b' + END)
    assert result.exit_code == 1
    assert result.stderr.startswith('text 1: expected [MASK] in the text')


def test_negative_values_are_numbers_to_a_spreadsheet(tmp_path):
    fields = {'task': 'text-classification', 'num_classes': 2, 'card': {'scores': 'none'}}
    path = write_encoder(tmp_path / 'a.safetensors', **fields)
    text = printed('predict', path, 'ab', '=c', '--csv', '-', '--top', 2)
    (head, *rows) = csv.reader(io.StringIO(text))
    assert head == ['text', 'part', 'label', 'value', 'label2', 'value2']
    assert [row[0] for row in rows] == ['ab', "'=c"]
    assert all(abs(float(row[3])) < 100 for row in rows)
    assert any(cell.startswith('-') for row in rows for cell in row)


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / 'broken.png'
    path.write_bytes((DIGITS / '3.png').read_bytes()[:40])
    return path


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


def test_predict_writes_no_formulas_to_csv(tmp_path, monkeypatch):
    model, params = bx.zoo.load('vit-digits')
    starts = ('=', '+', '-', '@')
    labels = tuple(f'{start}1' for start in starts) + tuple('456789')
    card = dataclasses.replace(bx.zoo.read_card('vit-digits'), labels=labels)
    bx.zoo.save(tmp_path / 'm.safetensors', model, params, card=card)
    monkeypatch.chdir(tmp_path)
    names = [f'{start}.png' for start in (*starts, '\t', '\r', 'a')]
    for name in names:
        (tmp_path / name).write_bytes((DIGITS / '2.png').read_bytes())
    text = printed('predict', 'm.safetensors', '--csv', '-', '--top', 10, '--', *names)
    _, *rows = csv.reader(io.StringIO(text, newline=''))
    assert [row[0] for row in rows] == [*(f"'{name}" for name in names[:-1]), 'a.png']
    for row in rows:
        assert set(row[1::2]) == {*(f"'{label}" for label in labels[:4]), *'456789'}
        assert all(float(p) <= 1 for p in row[2::2])


def test_predict_prints_csv_with_names_that_are_not_utf_8(tmp_path):
    file = tmp_path / os.fsdecode(b'\xff.png')
    file.write_bytes((DIGITS / '7.png').read_bytes())
    result = blox('predict', 'vit-digits', file, '--csv', '-')
    assert re.fullmatch(
        rb'file,label,probability\n' + re.escape(bytes(file)) + rb',7,0\.\d+\n', result.stdout_bytes
    )


def test_predict_names_a_file_once_and_counts_one_in_the_singular(broken, tmp_path):
    result = blox('predict', 'vit-digits', DIGITS / '1.png', broken, '--csv', tmp_path / 'a.csv')
    assert result.stdout == f'{tmp_path / "a.csv"}: 1 file\n'
    assert result.stderr.count(str(broken)) == 1


def test_predict_of_broken_files_alone_writes_a_header_of_csv(broken):
    result = blox('predict', 'vit-digits', broken, '--csv', '-')
    assert (result.exit_code, result.stdout) == (1, 'file,label,probability\n')


def test_predict_fails_in_an_empty_folder(tmp_path):
    assert fails('predict', 'vit-digits', tmp_path) == f"Error: '{tmp_path}' holds no images"


def test_predict_with_a_text_model_is_one_line(writer):
    assert 'is for text-generation, expected' in fails('predict', writer, DIGITS / '1.png')
