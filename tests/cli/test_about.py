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
