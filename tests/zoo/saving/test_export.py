"""Models that other libraries cannot be given."""

import pytest

import blox as bx
from blox import Params


def test_a_card_of_other_classes_is_not_exported(tmp_path):
    model, params = bx.zoo.load('vit-digits', num_classes=3)
    with pytest.raises(ValueError, match=r'expected a card with 3 labels.*found 10'):
        bx.zoo.export(tmp_path, model, params, card=bx.zoo.read_card('vit-digits'))


def test_a_pooling_that_no_folder_can_say_is_not_exported(exported, tmp_path):
    model, params = bx.zoo.load(exported['bert-hf'][3], pool='pooler')
    with pytest.raises(ValueError, match="no folder says pool 'pooler'"):
        bx.zoo.export(tmp_path / 'out', model, params)
    assert not (tmp_path / 'out').exists()


def test_params_that_do_not_fit_are_not_exported(exported, tmp_path):
    model, params, _, _ = exported['gpt2-hf']
    for wrong in (params.partition('gpt2/norm/*')[1], params.merge(Params(0).set('more/w', 1.0))):
        with pytest.raises(ValueError, match=r'params do not fit .*(missing|unexpected)'):
            bx.zoo.export(tmp_path / 'out', model, wrong)
    assert not (tmp_path / 'out').exists()
