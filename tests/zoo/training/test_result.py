"""The files that a training ends with."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRAY
from PIL import Image
from trainings import CLASSES, MODEL, PARAMS, files, finetune, moved, shades, tiny

import blox as bx
from blox.zoo.training.curves import draw
from blox.zoo.training.state import Epoch
from blox.zoo.training.step import measure


def test_the_file_is_the_models_whole_description(tmp_path):
    card = bx.zoo.Card('base', 'resnet', tiny().config, 'image-classification', preprocessor=GRAY)
    params, history = finetune(tmp_path / 'mine.safetensors', card=card)
    found = bx.zoo.read_card(tmp_path / 'mine.safetensors')
    best = max(history, key=lambda row: (row.held_out_accuracy, -row.held_out_loss))
    assert (found.name, found.labels, found.preprocessor) == ('mine', CLASSES, GRAY)
    assert found.changes == ('fine-tuned from base',)
    assert found.metrics['held_out_accuracy'] == round(best.held_out_accuracy, 4)
    assert f'epoch {best.epoch} is this' in found.training
    assert not moved(params, bx.zoo.load(tmp_path / 'mine.safetensors')[1])


def test_adapters_are_merged_and_saved_alone_too(tmp_path):
    base = PARAMS
    start = bx.lora(base, '**/block*/**/w', rank=2).unfreeze('**/head/*')
    params, _ = finetune(tmp_path / 'm.safetensors', params=start)
    model, merged = bx.zoo.load(tmp_path / 'm.safetensors')
    assert all(param.trainable or param.is_state for param in merged.values())
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    expected = model(params, images)[0]
    assert np.abs(expected - model(base, images)[0]).max() > 1e-2
    np.testing.assert_allclose(model(merged, images)[0], expected, atol=1e-5)
    alone = bx.load_lora(tmp_path / 'm.lora.safetensors', base)
    assert not moved(params, alone)


def test_the_curves_are_what_the_history_says(tmp_path):
    _, history = finetune(tmp_path / 'm.safetensors')
    names, *rows = (tmp_path / 'm.csv').read_text().splitlines()
    assert names == 'epoch,step,loss,accuracy,held_out_loss,held_out_accuracy,score'
    assert [tuple(map(float, row.split(','))) for row in rows] == list(history)
    with Image.open(tmp_path / 'm.png') as image:
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image))) > 50


@pytest.mark.parametrize('name', ['m.safetensors', 'm.csv', 'm.png', 'm.html'])
def test_no_file_of_others_is_replaced(tmp_path, name):
    (tmp_path / name).write_text('mine')
    with pytest.raises(FileExistsError, match='is there already'):
        finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path) == {name: b'mine'}


def test_the_best_is_scored_on_the_test_once_and_the_card_says_it(tmp_path):
    read, seen = shades().read, []

    def counted(i, rng):
        seen.append(i)
        return read(i, rng)

    test = range(5000, 5003)
    data = dataclasses.replace(shades(), read=counted, test=test)
    params, history = finetune(tmp_path / 'a.safetensors', data=data)
    assert sorted(set(seen) & {*test}) == [*test]
    assert seen.index(test[0]) > max(seen.index(i) for i in data.held_out)
    found = bx.zoo.read_card(tmp_path / 'a.safetensors').metrics
    pairs = [read(i, None) for i in test]
    batch = [(np.stack([x for x, _ in pairs]), np.stack([y for _, y in pairs]))]
    loss, accuracy, _ = measure(MODEL, params, batch)
    assert found['test_accuracy'] == round(accuracy, 4)
    assert found['test_loss'] == pytest.approx(loss, abs=1e-4)
    # It chose nothing.
    plain, expected = finetune(data=shades())
    assert history == expected
    assert not moved(plain, params)


def test_the_page_shows_what_is_wrong(tmp_path):
    wrong = dataclasses.replace(shades(), show=lambda i: Image.new('L', (8, 8), i % 2))
    finetune(tmp_path / 'm.safetensors', data=wrong, epochs=1, learning_rate=1e-6)
    page = (tmp_path / 'm.html').read_text('utf-8')
    found = re.findall(r'<figcaption>(.+?)</figcaption>', page)
    card = bx.zoo.read_card(tmp_path / 'm.safetensors')
    assert len(found) == round((1 - card.metrics['held_out_accuracy']) * 8) > 0
    assert all(re.fullmatch(r'(dark|light), taken for (dark|light) \([\d.]+%\)', x) for x in found)
    assert page.count('<figure><img') == len(found)
    assert [line for line in page.split('<tr>') if '<td>dark</td>' in line]


def test_the_page_takes_no_text_for_markup(tmp_path):
    texts = dataclasses.replace(shades(), show=lambda i: '<script>alert(1)</script>', summary='<b>')
    finetune(tmp_path / 'm.safetensors', data=texts, epochs=1, learning_rate=1e-6)
    page = (tmp_path / 'm.html').read_text('utf-8')
    assert '<script' not in page
    assert '&lt;b&gt;' in page


def test_the_card_says_what_was_done_and_what_it_was_chosen_by(tmp_path):
    options = {'epochs': 50, 'patience': 1, 'choose_by': 'macro_f1', 'label_smoothing': 0.1}
    _, history = finetune(tmp_path / 'm.safetensors', **options)
    card = bx.zoo.read_card(tmp_path / 'm.safetensors')
    assert len(history) < 50
    assert f'{len(history)} epochs of 24 examples' in card.training
    assert card.training.endswith(', label smoothing 0.1')
    best = max(history, key=lambda row: (row.score, -row.held_out_loss))
    assert card.metrics['held_out_macro_f1'] == round(best.score, 4)


def test_the_picture_marks_the_epoch_that_is_kept():
    rows = [Epoch(i, i, 1.0, 0.5, 1.0, 0.5, 0.5) for i in (1, 2, 3)]
    pictures = {draw(rows, best) for best in rows}
    assert len(pictures) == 3
