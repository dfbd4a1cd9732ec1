"""`blox evaluate`."""

import csv
import json
import shutil

import pytest
from commands import DIGITS, blox, fails, misused, printed, write_clip, write_model


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """A folder of classes with an image of each digit, but for two in the other's folder."""
    root = tmp_path_factory.mktemp('photos')
    for digit in range(10):
        folder = root / str({3: 5, 5: 3}.get(digit, digit))
        folder.mkdir()
        shutil.copy(DIGITS / f'{digit}.png', folder)
    return root


def test_evaluate_prints_figures_and_classes(photos):
    lines = printed('evaluate', 'vit-digits', photos).splitlines()
    assert lines[0] == f'{photos}: 10 examples'
    assert lines[1].split() == ['accuracy', '0.8000']
    assert ['3', '0.000', '0.000', '0.000', '1'] in [line.split() for line in lines]


def test_evaluate_writes_answers_and_a_picture(photos, tmp_path):
    out = printed(
        *('evaluate', 'vit-digits', photos),
        *('--csv', tmp_path / 'a.csv', '--png', tmp_path / 'a.png'),
    )
    assert f'{tmp_path / "a.csv"}: 10 examples' in out
    with open(tmp_path / 'a.csv', newline='') as file:
        rows = [*csv.DictReader(file)]
    wrong = {row['name']: row['predicted'] for row in rows if row['rank'] != '1'}
    assert wrong == {str(photos / '3' / '5.png'): '5', str(photos / '5' / '3.png'): '3'}
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
    assert 'is there already' in fails(
        'evaluate', 'vit-digits', photos, '--png', tmp_path / 'a.png'
    )


def test_evaluate_prints_json(photos):
    found = json.loads(printed('evaluate', 'vit-digits', photos, '--json'))
    assert found['metrics']['accuracy'] == 0.8
    assert found['confusion'][3][5] == 1
    assert found['classes'][0] == {
        'label': '0',
        'precision': 1.0,
        'recall': 1.0,
        'f1': 1.0,
        'support': 1,
    }


def test_evaluate_goes_on_and_says_of_what_it_was(photos, tmp_path):
    journal = tmp_path / 'a.jsonl'
    first = printed('evaluate', 'vit-digits', photos, '--resume', journal)
    assert printed('evaluate', 'vit-digits', photos, '--resume', journal) == first
    message = fails('evaluate', 'resnet-digits', photos, '--resume', journal)
    assert 'is of another evaluation' in message
    assert message.endswith('remove it, or name another file')


def test_evaluate_ends_with_1_where_files_cannot_be_read(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / 'photos')
    (folder / '3' / 'broken.png').write_bytes(b'')
    result = blox('evaluate', 'vit-digits', folder)
    assert result.exit_code == 1
    assert 'broken.png: ' in result.stderr
    assert '10 examples, 1 left out' in result.stdout


def test_evaluate_takes_labels_for_two_towers(photos, tmp_path):
    path = write_clip(tmp_path / 'a.safetensors')
    (tmp_path / 'labels.txt').write_text('\n'.join('0123456789'))
    labels = ('--labels', f'@{tmp_path / "labels.txt"}', '--template', 'the digit {}')
    found = json.loads(printed('evaluate', path, photos, *labels, '--json'))
    assert found['labels'] == list('0123456789')


def test_evaluate_reads_texts(tmp_path):
    path = write_model(tmp_path / 'a.safetensors', context=16)
    (tmp_path / 'a.txt').write_text('A text.')
    lines = printed('evaluate', path, tmp_path / 'a.txt').splitlines()
    assert lines[0] == f'{tmp_path / "a.txt"}, 7 tokens and 7 bytes: 1 example'
    assert [line.split()[0] for line in lines[1:]] == ['bits_per_byte', 'loss', 'perplexity']
    for option in ('--png', '--csv'):
        assert 'is for text-generation' in fails(
            'evaluate', path, tmp_path / 'a.txt', option, tmp_path / 'a'
        )
    assert "'': expected a folder or a file" in fails('evaluate', path, '')


def test_evaluate_writes_one_thing_to_one_place(photos, tmp_path):
    same = ('--csv', tmp_path / 'a', '--png', tmp_path / 'a')
    assert 'expected different files' in misused('evaluate', 'vit-digits', photos, *same)
    assert '--csv or --json' in misused('evaluate', 'vit-digits', photos, '--csv', '-', '--json')
