"""Models of any number of classes, and of values, measured on tables."""

import dataclasses

import numpy as np
import pytest
from commands import fails, printed
from helpers import EXAMPLES
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error, r2_score

import blox as bx

LABELS = ('even', 'round')
DIGITS = [EXAMPLES / 'digits' / f'{i}.png' for i in range(10)]


def model_of(scores, labels=LABELS):
    model, params, card = bx.zoo.load_for_classes('vit-digits', labels, scores=scores)
    weights = np.random.default_rng(0).normal(size=params['vit/head/w'].shape)
    return model, params.set('vit/head/w', weights), card


def write_table(path, head, cells):
    lines = [head, *(f'{file},{cell}' for file, cell in zip(DIGITS, cells))]
    path.write_text('\n'.join(lines) + '\n')
    return path


def logits_of(model, params, card):
    return np.asarray(model(params, np.asarray(card.preprocessor(DIGITS)))[0])


@pytest.mark.filterwarnings('ignore')
def test_several_classes_are_measured_as_scikit_learn_does(tmp_path):
    model, params, card = model_of('sigmoid')
    truth = np.array([[i % 2 == 0, i in (0, 3, 6, 8, 9)] for i in range(10)])
    cells = ['|'.join(label for label, one in zip(LABELS, row) if one) for row in truth]
    table = write_table(tmp_path / 'tags.csv', 'file,labels', cells)
    found = bx.zoo.evaluate(model, params, table, card=card)
    said = logits_of(model, params, card) > 0
    assert found.metrics['macro_f1'] == pytest.approx(f1_score(truth, said, average='macro'))
    assert found.metrics['accuracy'] == pytest.approx((truth == said).mean())
    assert found.metrics['exact_match'] == pytest.approx((truth == said).all(1).mean())
    assert [one.support for one in found.classes] == truth.sum(0).tolist()
    assert found.items[3].labels == cells[3]
    assert found.items[3].predicted == '|'.join(x for x, one in zip(LABELS, said[3]) if one)
    assert 'even' in repr(found)


def test_values_are_measured_as_scikit_learn_does(tmp_path):
    model, params, card = model_of('none', ('size', 'age'))
    truth = np.random.default_rng(1).normal(size=(10, 2))
    cells = [f'{a},{b}' for a, b in truth]
    table = write_table(tmp_path / 'values.csv', 'file,size,age', cells)
    found = bx.zoo.evaluate(model, params, table, card=card, journal=tmp_path / 'kept')
    said = logits_of(model, params, card)
    assert dict(found.metrics) == pytest.approx(
        {
            'mean_squared_error': mean_squared_error(truth, said),
            'mean_absolute_error': mean_absolute_error(truth, said),
            'r2': r2_score(truth, said),
        },
        rel=1e-5,
    )
    again = bx.zoo.evaluate(model, params, table, card=card, journal=tmp_path / 'kept')
    assert again.metrics == found.metrics
    assert (found.items[1].label, found.items[1].value) == ('age', pytest.approx(truth[0, 1]))


def test_what_is_not_known_is_left_out_and_what_cannot_be_read_is_told(tmp_path):
    model, params, card = model_of('none', ('size',))
    table = write_table(tmp_path / 'values.csv', 'file,size', range(10))
    table.write_text(table.read_text() + 'none.png,3\n')
    told = []
    found = bx.zoo.evaluate(model, params, table, card=card, note=lambda *what: told.append(what))
    assert (found.examples, found.left_out, len(told)) == (10, 1, 1)


def test_a_table_of_another_model_is_refused(tmp_path):
    table = write_table(tmp_path / 'a.csv', 'file,labels', ['even', 'odd'] * 5)
    model, params, card = model_of('sigmoid')
    with pytest.raises(ValueError, match=r'any number of the classes even, round.*found even, odd'):
        bx.zoo.evaluate(model, params, table, card=card)
    values = dataclasses.replace(card, scores='none')
    with pytest.raises(ValueError, match='expected the values even, round'):
        bx.zoo.evaluate(model, params, table, card=values)
    folder = tmp_path / 'folder' / 'even'
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match='gives values; expected a model'):
        bx.zoo.evaluate(model, params, folder.parent, card=values)


def test_a_model_without_labels_and_classes_that_are_not_there(tmp_path):
    model, params, card = model_of('none', ('size',))
    bare = dataclasses.replace(card, labels=())
    table = write_table(tmp_path / 'values.csv', 'file,age', [0, 1] * 5)
    assert bx.zoo.evaluate(model, params, table, card=bare).metrics['mean_squared_error'] > 0
    model, params, card = model_of('sigmoid')
    table = write_table(tmp_path / 'tags.csv', 'file,labels', ['even'] * 10)
    assert [one.support for one in bx.zoo.evaluate(model, params, table, card=card).classes] == [
        10,
        0,
    ]


def test_what_is_trained_on_a_table_is_measured_on_it(tmp_path):
    cells = [f'{"even" if i % 2 == 0 else "odd"},{"train" if i < 6 else "val"}' for i in range(10)]
    table = write_table(tmp_path / 'tags.csv', 'file,labels,split', cells)
    out = tmp_path / 'm.safetensors'
    printed('finetune', 'vit-digits', table, '--out', out, '--epochs', 1)
    lines = printed('evaluate', out, table).splitlines()
    assert lines[0].endswith('tags.csv: 4 examples')
    card = bx.zoo.read_card(out)
    shown = dict(line.split() for line in lines[1:4])
    assert float(shown['accuracy']) == card.metrics['held_out_accuracy']
    assert 'have not one each' in fails('evaluate', out, table, '--png', tmp_path / 'new.png')
