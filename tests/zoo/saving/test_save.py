"""Models of the zoo to a file and back: what is kept, and what is not saved."""

import dataclasses
import math
import os

import jax
import jax.numpy as jnp
import pytest
from families import declared
from folders import output
from helpers import COLOR
from own_files import same

import blox as bx
from blox.tensorfile import TensorFile
from blox.zoo.catalog.card import Card


@pytest.mark.parametrize('family', declared())
def test_a_model_and_its_params_come_back(saved, family):
    model, params, path = saved[family]
    restored, loaded = bx.zoo.load(path)
    assert restored.config == model.config
    assert type(restored) is type(model)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert same(loaded, params)
    assert (output(restored, loaded) == output(model, params)).all()


@pytest.mark.parametrize('family', declared())
def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path, family):
    files = [tmp_path / name / 'model.safetensors' for name in 'ab']
    source = saved[family][2]
    for path in files:
        path.parent.mkdir()
        bx.zoo.save(path, *bx.zoo.load(source))
        source = path
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_rng_is_made_from_the_seed(saved):
    _, params = bx.zoo.load(saved['gpt2'][2], seed=7)
    key, counter = params['rng'].value
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(7))).all()
    assert counter == 0


def test_flags_that_the_caller_set_come_back(saved, tmp_path):
    model, params, _ = saved['vit']
    frozen = params.freeze('vit/block*/**')
    bx.zoo.save(tmp_path / 'a.safetensors', model, frozen)
    assert same(bx.zoo.load(tmp_path / 'a.safetensors')[1], frozen)


def test_the_card_is_kept_and_names_the_models_own_config(saved, tmp_path):
    model, params, _ = saved['vit']
    about = {'labels': ('a', 'b', 'ü'), 'metrics': {'loss': 0.5}, 'preprocessor': COLOR}
    other = dataclasses.replace(model.config, depth=7)
    card = Card('mine', 'vit', other, 'image-classification', **about)
    bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    read = bx.zoo.Card.from_file(TensorFile(tmp_path / 'a.safetensors'))
    assert read.config == model.config
    assert read.weights == tmp_path / 'a.safetensors'
    assert (read.name, read.labels, read.metrics) == ('mine', ('a', 'b', 'ü'), {'loss': 0.5})
    assert bx.zoo.preprocessor(tmp_path / 'a.safetensors') == card.preprocessor


def test_a_card_that_prepares_other_channels_is_refused(saved, tmp_path):
    model, params, _ = saved['vit']
    card = dataclasses.replace(bx.zoo.card('vit-digits'), labels=('a', 'b', 'c'))
    with pytest.raises(ValueError, match='expected a preprocessor of 3 channels, found 1'):
        bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    assert not any(tmp_path.iterdir())


def test_plain_load_gives_the_params_of_a_models_file(saved):
    _, params, path = saved['resnet']
    assert same(bx.load(path), params)


@pytest.mark.parametrize('family', declared())
def test_params_that_do_not_fit_the_model_are_not_saved(saved, tmp_path, family):
    model, params, _ = saved[family]
    path = next(name for name in params if name != 'rng')
    wrong = params.set(path, jnp.ones((7, 7, 7)), strict=False)
    with pytest.raises(ValueError, match=rf'{path}: expected shape .*, found \(7, 7, 7\)'):
        bx.zoo.save(tmp_path / 'a.safetensors', model, wrong)
    with pytest.raises(ValueError, match=f'{path}: missing'):
        bx.zoo.save(tmp_path / 'a.safetensors', model, params.partition(path)[1])
    assert os.listdir(tmp_path) == []


def test_a_model_that_is_none_of_the_zoos_is_not_saved(tmp_path):
    layer = bx.Linear(bx.Graph('head'), 3)
    with pytest.raises(TypeError, match='Linear is not a model of the zoo: bert, '):
        bx.zoo.save(tmp_path / 'a.safetensors', layer, bx.Params(seed=0))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'metrics': {'loss': math.nan}}, 'metrics an object of finite numbers'),
        ({'labels': ('a', 'b')}, 'labels for each of 3 classes'),
        ({'summary': 'two\nlines'}, 'summary a text'),
    ],
)
def test_a_card_that_would_not_load_is_not_saved(saved, tmp_path, changes, message):
    model, params, path = saved['vit']
    card = dataclasses.replace(Card.from_file(TensorFile(path)), **changes)
    with pytest.raises(ValueError, match=message):
        bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    assert os.listdir(tmp_path) == []


def test_params_that_would_not_load_are_not_saved(saved, tmp_path):
    model, params, _ = saved['resnet']
    plain = bx.Params.from_entries({path: p.value for path, p in params.items() if path != 'rng'})
    with pytest.raises(
        ValueError, match='resnet/stem/norm/mean: expected to be marked as batch statistics'
    ):
        bx.zoo.save(tmp_path / 'a.safetensors', model, plain)
