"""`blox list` and `blox info`."""

import dataclasses
import json
import re

import pytest
from commands import fails, printed, write_model

import blox as bx


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=64)


def table(*args):
    """The cells of a printed table, without its head."""
    _, *lines = printed('list', *args).splitlines()
    return [re.split(' {2,}', line) for line in lines]


def test_list_prints_every_model():
    assert [cells[0] for cells in table()] == bx.zoo.list_models()


def test_list_says_what_is_known_of_each():
    assert printed('list', 'resnet50').splitlines()[0].split() == [
        *('name', 'parameters', 'inputs', 'measured', 'license', 'weights')
    ]
    rows = table('vit-b?*[62]')
    assert [*('vit-b16', '86.6M', '224 x 224', 'apache-2.0', 'google/vit-base-patch16-224')] in rows
    assert ['vit-b32', '224 x 224', 'none: an architecture'] in rows
    measured = [*('resnet18-tv', '11.7M', '224 x 224', '69.8 % imagenet top1')]
    assert [*measured, 'bsd-3-clause', 'timm/resnet18.tv_in1k'] in table('resnet18-tv')


def test_list_tells_which_weights_are_included():
    (row,) = table('vit-digits')
    assert row[-1] == 'included'
    assert [row[0] for row in table('--here')] == ['gpt2-pydocs', 'resnet-digits', 'vit-digits']


@pytest.mark.parametrize(
    ('words', 'name'),
    [
        (['minilm-l12', 'sentence'], 'all-minilm-l12'),
        (['imagenet', '384', 'swin-l'], 'swin-large-384'),
        (['ImageNet-21k', 'google/vit', 'huge'], 'vit-h14-in21k'),
        (['text-generation', 'python'], 'gpt2-pydocs'),
        (['77 tokens', '336 x 336'], 'clip-l14-336'),
    ],
)
def test_plain_words_find_models(words, name):
    assert name in bx.zoo.list_models(*words)
    assert len(bx.zoo.list_models(*words)) < 4


def test_list_prints_json():
    rows = json.loads(printed('list', '*digits', '--json'))
    assert [row['name'] for row in rows] == ['resnet-digits', 'vit-digits']
    assert rows[1] == {
        'name': 'vit-digits',
        'task': 'image-classification',
        'parameters': bx.zoo.load('vit-digits')[1].num_params,
        'inputs': '8 x 8',
        'measured': '98.9 % test accuracy',
        'license': 'MIT',
        'source': 'included',
        'is_here': True,
    }


def test_lists_are_tables_in_notebooks():
    found = bx.zoo.list_models('vit-digits')
    assert found == ['vit-digits']
    assert repr(found) == "['vit-digits']"
    assert '<td>vit-digits</td><td>452.1K</td><td>8 x 8</td>' in found._repr_html_()


@pytest.mark.parametrize('flags', [[], ['--json']], ids=['text', 'json'])
def test_list_fails_where_nothing_fits(flags):
    message = "Error: no model fits 'nothing*'; `blox list` prints all"
    assert fails('list', 'nothing*', *flags) == message
    message = "Error: no model fits 'vit 384' on this machine; `blox list` prints all"
    assert fails('list', 'vit', '384', '--here', *flags) == message


def test_info_of_an_architecture():
    text = printed('info', 'vit-b16')
    assert re.search(r'^name: +vit-b16$', text, re.MULTILINE)
    assert re.search(r'^parameters: +86,567,656$', text, re.MULTILINE)
    assert re.search(r'^bytes: +330\.2 MB$', text, re.MULTILINE)


def test_info_says_where_weights_are():
    assert re.search('^weights: +none; bx.zoo.create', printed('info', 'resnet26'), re.MULTILINE)
    for name in ('resnet18-tv', 'resnet18.tv_in1k'):
        text = printed('info', name)
        assert re.search('^weights: +timm/resnet18.tv_in1k, downloaded', text, re.MULTILINE)
    assert re.search('^weights: +on this machine$', printed('info', 'vit-digits'), re.MULTILINE)


def test_info_of_a_model_with_weights():
    text, card = printed('info', 'vit-digits'), bx.zoo.card('vit-digits')
    for value in (card.summary, card.training, card.data, card.license):
        assert value in text
    assert re.search('^metrics: +98.9 % test accuracy$', text, re.MULTILINE)
    assert re.search('^config: +' + re.escape(repr(card.config)) + '$', text, re.MULTILINE)
    assert re.search('^preprocessor: +8 x 8 pixels from the centre, .*mean 0.5, ', text, re.M)
    assert re.search(r"^python: +model, params = bx.zoo.load\('vit-digits'\)$", text, re.MULTILINE)
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
    assert 'image_size=(8, 8), ' in text
    assert 'summary' not in text


def test_info_prints_ten_of_many_labels(tmp_path):
    model = bx.zoo.create('vit-digits', num_classes=12)
    card = dataclasses.replace(bx.zoo.card('vit-digits'), labels=tuple('abcdefghijkl'))
    bx.zoo.save(tmp_path / 'many.safetensors', model, bx.zoo.init(model), card=card)
    text = printed('info', tmp_path / 'many.safetensors')
    assert re.search(r'^labels: +a, b, .*, j, and 2 more$', text, re.MULTILINE)
