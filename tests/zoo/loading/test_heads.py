"""Heads of text models: which one a folder has, which one is taken, what is left out or starts anew."""

import json
import logging

import numpy as np
import pytest
from families import build, tiny
from folders import bits
from helpers import table
from safetensors.numpy import load_file, save_file

import blox as bx

TASKS = {
    'of texts': ('bert', {'task': 'text-classification', 'num_classes': 3}),
    'of tokens': ('bert', {'task': 'token-classification', 'num_classes': 3, 'pooler': False}),
    'of choices': ('bert', {'task': 'multiple-choice'}),
    'of answers': ('bert', {'task': 'question-answering', 'pooler': False}),
    'of masks': ('bert', {'task': 'fill-mask'}),
    'no head': ('bert', {}),
    'gpt2 of texts': ('gpt2', {'task': 'text-classification', 'num_classes': 2}),
    'gpt2 of tokens': ('gpt2', {'task': 'token-classification', 'num_classes': 2}),
    'gpt2 of generation': ('gpt2', {}),
    'gpt2 untied': ('gpt2', {'tied_head': False}),
    'gpt2 alone': ('gpt2', {'task': 'feature-extraction'}),
    'gpt2 alone, untied': ('gpt2', {'task': 'feature-extraction', 'tied_head': False}),
}


def written(path, family, **fields):
    """A folder of transformers' with random weights: our model, its Params, and the folder."""
    model = build(tiny(family, **fields))
    params = bx.zoo.init(model, seed=1)
    bx.zoo.export(path, model, params)
    return model, params, path


def edited(folder, weights=None, **fields):
    """The folder, with other fields of config.json and other weights; None removes a field."""
    config = json.loads((folder / 'config.json').read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / 'config.json').write_text(json.dumps(kept))
    if weights:
        file = folder / 'model.safetensors'
        save_file(weights(load_file(file)), file, {'format': 'pt'})
    return folder


@table(TASKS)
def test_a_folders_own_head_is_loaded(row, tmp_path):
    family, fields = row
    model, params, folder = written(tmp_path / 'a', family, **fields)
    found, loaded = bx.zoo.load(folder)
    assert found.config.task == model.config.task
    assert found.config.num_classes == model.config.num_classes
    assert bits(loaded) == bits(params)
    assert bx.zoo.read_card(folder).task == model.config.task


@table({name: row for name, row in TASKS.items() if name not in ('of choices', 'gpt2 untied')})
def test_names_tell_the_head_where_config_json_does_not(row, tmp_path):
    family, fields = row
    if (family, fields.get('task')) == ('gpt2', 'feature-extraction') and len(fields) == 1:
        pytest.skip('the token table is the head of generation')
    model, params, folder = written(tmp_path / 'a', family, **fields)
    found, loaded = bx.zoo.load(edited(folder, architectures=None))
    assert found.config.task == model.config.task
    assert bits(loaded) == bits(params)


OTHERS = ['BertForPreTraining', 'BertForNextSentencePrediction', 'BertLMHeadModel', 'Mine\x1b[1m']


@pytest.mark.parametrize('architecture', OTHERS)
def test_a_head_that_is_not_here_is_named_with_how_to_take_the_body(architecture, tmp_path):
    _, params, folder = written(tmp_path / 'a', 'bert', task='fill-mask')
    edited(folder, architectures=[architecture])
    with pytest.raises(bx.CheckpointError) as caught:
        bx.zoo.load(folder)
    assert architecture.partition('\x1b')[0] in str(caught.value)
    assert '\x1b' not in str(caught.value)
    assert "to take the body alone pass task='sentence-embedding'" in str(caught.value)
    body = bits(bx.zoo.load(folder, task='sentence-embedding')[1])
    assert body == {path: value for path, value in bits(params).items() if 'head' not in path}
    assert bits(bx.zoo.load(folder, task='fill-mask')[1]) == bits(params)


def test_what_is_left_out_is_said(tmp_path, caplog):
    _, _, folder = written(tmp_path / 'a', 'bert', task='fill-mask')
    with caplog.at_level(logging.WARNING, 'blox'):
        bx.zoo.load(folder, task='sentence-embedding')
    (record,) = caplog.records
    assert 'left out a head: cls.predictions.transform.dense.weight, ' in record.getMessage()
    caplog.clear()
    bx.zoo.load(folder)
    assert caplog.records == []


def test_another_task_of_a_folder_starts_a_head_and_keeps_the_pooler(tmp_path):
    _, params, folder = written(tmp_path / 'a', 'bert', task='fill-mask')
    overrides = {'task': 'text-classification', 'num_classes': 5}
    model, loaded = bx.zoo.load(folder, seed=3, **overrides)
    fresh = bits(bx.zoo.init(model, seed=3))
    for path, value in bits(loaded).items():
        assert value == (fresh if 'head' in path else bits(params))[path]
    assert bx.zoo.read_card(folder, **overrides).changes == (
        'num_classes 0 -> 5: bert/head/** started anew',
        'task sentence-embedding -> text-classification: bert/head/** started anew',
    )


def test_another_task_of_our_own_file_does_so_too(tmp_path):
    model, params, _ = written(tmp_path / 'a', 'bert', task='text-classification', num_classes=2)
    bx.zoo.save(tmp_path / 'a.safetensors', model, params)
    plain, loaded = bx.zoo.load(tmp_path / 'a.safetensors', task='sentence-embedding')
    assert (plain.config.task, plain.config.num_classes) == ('sentence-embedding', 0)
    assert bits(loaded) == {k: v for k, v in bits(params).items() if 'head' not in k}
    card = bx.zoo.read_card(tmp_path / 'a.safetensors', task='sentence-embedding')
    assert 'task text-classification -> sentence-embedding: bert/head/** left out' in card.changes


def test_a_pooler_that_a_task_needs_starts_anew_if_it_is_asked_for(tmp_path):
    _, _, folder = written(tmp_path / 'a', 'bert', task='fill-mask', pooler=False)
    overrides = {'task': 'text-classification', 'num_classes': 2}
    with pytest.raises(ValueError, match='pooler True for the task text-classification'):
        bx.zoo.load(folder, **overrides)
    _, loaded = bx.zoo.load(folder, pooler=True, **overrides)
    assert loaded['bert/pooler/w'].shape == (8, 8)


@pytest.mark.parametrize('task', ['translation', 'text-generation'])
def test_a_task_that_a_family_has_not_is_refused(task, tmp_path):
    _, _, folder = written(tmp_path / 'a', 'bert')
    with pytest.raises(ValueError, match='expected task one of sentence-embedding'):
        bx.zoo.load(folder, task=task)


# Tied weights.


@pytest.mark.parametrize('kept', ['wte', 'lm_head', 'both'])
def test_either_name_stands_for_tied_weights(kept, tmp_path):
    _, params, folder = written(tmp_path / 'a', 'gpt2')

    def weights(found):
        table = found.pop('transformer.wte.weight')
        names = {'wte': ['transformer.wte.weight'], 'lm_head': ['lm_head.weight']}
        chosen = names.get(kept, ['transformer.wte.weight', 'lm_head.weight'])
        return found | dict.fromkeys(chosen, table)

    assert bits(bx.zoo.load(edited(folder, weights))[1]) == bits(params)


def test_tied_weights_that_differ_are_refused(tmp_path):
    _, _, folder = written(tmp_path / 'a', 'gpt2')

    def weights(found):
        return found | {'lm_head.weight': np.zeros_like(found['transformer.wte.weight'])}

    with pytest.raises(bx.CheckpointError, match=r"tensor 'lm_head\.weight': expected the same"):
        bx.zoo.load(edited(folder, weights))
