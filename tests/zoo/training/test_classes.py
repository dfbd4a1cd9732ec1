"""Pretrained models for the classes of new data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import opened
from trainings import MODEL, PARAMS, moved

import blox as bx


def test_classes_that_are_as_many_but_others_get_a_fresh_head():
    stored = bx.zoo.load('vit-digits')[1]
    _, kept, _ = bx.zoo.load_for_classes('vit-digits', tuple('0123456789'))
    _, fresh, card = bx.zoo.load_for_classes('vit-digits', tuple('9876543210'))
    assert moved(stored, kept) == set()
    assert moved(stored, fresh) == {'vit/head/b', 'vit/head/w'}
    assert (card.labels, card.changes[0][:11]) == (tuple('9876543210'), 'vit/head*/*')


@pytest.mark.parametrize('labels', [tuple('0123456789'), ('a', 'b', 'c')])
def test_it_is_what_load_gives_but_trainable_and_in_float32(labels):
    model, found, card = bx.zoo.load_for_classes('resnet-digits', labels, seed=3)
    expected_model, expected = bx.zoo.load('resnet-digits', num_classes=len(labels), seed=3)
    assert model.config == expected_model.config == card.config
    assert jax.tree.structure(found) == jax.tree.structure(expected.unfreeze())
    assert {param.dtype for path, param in found.items() if path != 'rng'} == {np.dtype('float32')}
    assert not moved(expected, found)


def test_what_was_measured_of_the_old_weights_is_not_said_of_the_new():
    for labels in (tuple('0123456789'), ('a', 'b')):
        _, _, card = bx.zoo.load_for_classes('vit-digits', labels)
        assert (card.training, card.metrics) == ('', {})


@pytest.mark.parametrize('labels', [tuple('0123456789'), ('a', 'b')])
def test_blocks_under_one_scan_are_stacked(labels):
    model, params, _ = bx.zoo.load_for_classes('vit-digits', labels, scan=True)
    plain, flat, _ = bx.zoo.load_for_classes('vit-digits', labels)
    assert 'vit/block*/mlp/fc1/w' in list(params)
    images = jnp.ones((1, 8, 8, 1))
    np.testing.assert_allclose(model(params, images)[0], plain(flat, images)[0], atol=1e-5)


def test_scores_are_what_is_said():
    for scores in ('sigmoid', 'none'):
        assert bx.zoo.load_for_classes('vit-digits', ('a', 'b'), scores=scores)[2].scores == scores
    with pytest.raises(ValueError, match='expected scores of softmax, sigmoid, none'):
        bx.zoo.load_for_classes('vit-digits', ('a', 'b'), scores='tanh')


@pytest.mark.parametrize('labels', [('x', 'y'), ('a', 'b', 'c')])
def test_a_file_is_opened_once(tmp_path, labels):
    file = tmp_path / 'net.safetensors'
    card = bx.zoo.Card('net', '', MODEL.config, '', labels=('x', 'y'))
    bx.zoo.save(file, MODEL, PARAMS, card=card)
    with opened(file) as times:
        bx.zoo.load_for_classes(file, labels)
    assert len(times) == 1
