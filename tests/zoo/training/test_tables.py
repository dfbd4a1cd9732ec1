"""Tables of images and texts to fine-tune on."""

from pathlib import Path

import numpy as np
import pytest
from commands import write_encoder
from helpers import GRAY, table, write_image

import blox as bx


def write_table(folder, head, *rows):
    """A table of images, which are there."""
    lines = [head]
    for i, cells in enumerate(rows):
        write_image(folder / f'{i}.png', seed=i)
        lines.append(f'{i}.png,{cells}')
    path = folder / 'data.csv'
    path.write_text('\n'.join(lines) + '\n')
    return path


def targets_of(data):
    return {int(file.stem): target.tolist() for file, target in [*data.training, *data.held_out]}


def test_a_label_is_the_class_of_an_image(tmp_path):
    path = write_table(tmp_path, 'file,label', *'abababaaab')
    data = bx.zoo.image_table(path, GRAY, holdout=0.3)
    assert (data.labels, data.scores, data.counts) == (('a', 'b'), '', (4, 3))
    assert targets_of(data) == {i: 'ab'.index(name) for i, name in enumerate('abababaaab')}
    assert sorted(target.item() for _, target in data.held_out) == [0, 0, 1]
    assert data.summary == 'data.csv: 10 images of 2 classes, 3 held out'


def test_labels_are_any_number_of_classes(tmp_path):
    path = write_table(tmp_path, 'path,labels', 'a|b', '', 'b;c', 'c')
    data = bx.zoo.image_table(path, GRAY, holdout=0.5)
    assert (data.labels, data.scores) == (('a', 'b', 'c'), 'sigmoid')
    assert targets_of(data) == {0: [1, 1, 0], 1: [0, 0, 0], 2: [0, 1, 1], 3: [0, 0, 1]}


def test_columns_of_zeros_and_ones_are_classes(tmp_path):
    path = write_table(tmp_path, 'image,Red,Round', '0,1', '1,1', '0,0')
    data = bx.zoo.image_table(path, GRAY)
    assert (data.labels, data.scores) == (('Red', 'Round'), 'sigmoid')
    assert targets_of(data) == {0: [0, 1], 1: [1, 1], 2: [0, 0]}


def test_other_numbers_are_values_of_which_some_may_be_unknown(tmp_path):
    path = write_table(tmp_path, 'file,age,size', '0.5,1', '2,', '-1,3')
    data = bx.zoo.image_table(path, GRAY)
    assert (data.labels, data.scores, data.counts) == (('age', 'size'), 'none', ())
    assert targets_of(data)[0] == [0.5, 1]
    assert np.isnan(targets_of(data)[1][1])


def test_classes_of_which_something_is_not_known_are_no_values(tmp_path):
    path = write_table(tmp_path, 'file,a,b', '0,1', '1,', '1,0')
    data = bx.zoo.image_table(path, GRAY)
    assert data.scores == 'sigmoid'
    assert np.isnan(targets_of(data)[1][1])


def test_what_is_always_there_has_no_balance(tmp_path):
    path = write_table(tmp_path, 'file,labels', *['a|c', 'b|c'] * 4)
    data = bx.zoo.image_table(path, GRAY)
    with pytest.raises(ValueError, match="'balanced', found none with or without c"):
        learned(data, class_weights='balanced')
    with pytest.raises(ValueError, match='choose_by one of accuracy, loss, macro_f1, found'):
        learned(data, choose_by='balanced_accuracy')


def test_a_table_may_say_itself_what_is_held_out(tmp_path):
    rows = [f'{name},{part}' for part in ('train', 'val', 'test', 'train') for name in 'ab']
    data = bx.zoo.image_table(write_table(tmp_path, 'file,label,split', *rows), GRAY)
    parts = [
        [int(file.stem) for file, _ in part] for part in (data.training, data.held_out, data.test)
    ]
    assert parts == [[0, 1, 6, 7], [2, 3], [4, 5]]


def test_files_may_be_named_absolutely_and_elsewhere(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'own').mkdir()
    path = write_table(tmp_path / 'own', 'file,label', 'a', 'b')
    for i, name in enumerate((tmp_path / 'elsewhere' / 'x.png', Path('../elsewhere/y.png'))):
        write_image(tmp_path / 'own' / name)
        path.write_text(path.read_text() + f'{name},{"ab"[i]}\n')
    data = bx.zoo.image_table(path, GRAY)
    assert len(data.training) + len(data.held_out) == 4


@table(
    {
        'no file': (('label,size', 'b'), 'names a column file'),
        'nothing right': (('file',), 'expected rows below'),
        'both': (('file,label,labels', 'a,b', 'b,a'), 'a column label or labels, found both'),
        'one class': (('file,label', 'a', 'a'), 'two classes or more, found a'),
        'one of a class': (('file,label', 'a', 'a', 'b'), 'found fewer of b'),
        'no number': (('file,size', '1', 'two'), "in column size of row 2, found 'two'"),
        'infinite': (('file,size', '1', 'inf'), "row 2, found 'inf'"),
        'unknown': (('file,a,b', '1,2', ','), 'a number in row 2, found none'),
        'split': (
            ('file,label,split', 'a,train', 'b,later'),
            "in column split of row 2, found 'later'",
        ),
        'empty': (('file,label', 'a', 'a', ''), "can be printed, found ''"),
        'too large': (('file,size', '1', '1e300'), "row 2, found '1e300'"),
        'numbers as classes': (('file,label', '0.5', '0.25', '0.1'), 'a column of another name'),
        'nothing to train on': (('file,label,split', 'a,val', 'b,val'), 'found none that is said'),
        'not to train on': (
            ('file,label,split', 'a,train', 'b,val', 'a,val'),
            'expected 1 or more rows of every class to train on; found fewer of b',
        ),
    }
)
def test_tables_that_say_something_else_are_refused(tmp_path, row):
    lines, message = row
    with pytest.raises(ValueError, match=message):
        bx.zoo.image_table(write_table(tmp_path, *lines), GRAY)


def test_images_that_are_not_there_are_named(tmp_path):
    path = write_table(tmp_path, 'file,label', 'a', 'b', 'a', 'b')
    (tmp_path / '2.png').unlink()
    with pytest.raises(ValueError, match=r'1 of 4 images cannot be read.*2\.png'):
        bx.zoo.image_table(path, GRAY)


def learned(data, **sizes):
    """How well a small network learns data of gray images, and the card of what it is then."""
    model = bx.zoo.create(
        'resnet18',
        depths=(1,),
        widths=(8,),
        stem='small',
        stem_width=8,
        image_size=8,
        in_channels=1,
        num_classes=len(data.labels),
    )
    params, history = bx.zoo.finetune(
        model, bx.zoo.init(model), data, epochs=30, batch_size=8, learning_rate=0.02, **sizes
    )
    return model, params, history


def write_shades(folder, head, cells):
    """A table of 40 images, each of one brightness, from dark to light."""
    lines = [head]
    from PIL import Image

    for i in range(40):
        Image.fromarray(np.full((8, 8), 6 * i, np.uint8)).save(folder / f'{i}.png')
        lines.append(f'{i}.png,{cells(i)}')
    (folder / 'data.csv').write_text('\n'.join(lines))
    return folder / 'data.csv'


def test_several_labels_are_learned(tmp_path):
    path = write_shades(
        tmp_path, 'file,labels', lambda i: '|'.join(['dark'] * (i < 20) + ['mid'] * (10 < i < 30))
    )
    data = bx.zoo.image_table(path, GRAY)
    _, _, history = learned(data, choose_by='macro_f1', class_weights='balanced')
    assert max(row.score for row in history) > 0.8
    assert {row.score for row in history} != {row.held_out_accuracy for row in history}


def test_values_are_learned(tmp_path):
    path = write_shades(tmp_path, 'file,brightness', lambda i: i / 40)
    data = bx.zoo.image_table(path, GRAY)
    _, _, history = learned(data)
    assert min(row.held_out_loss for row in history) < 0.01 < np.var(np.arange(40) / 40) / 4
    assert {row.held_out_accuracy for row in history} == {0}
    assert history[-1].score == history[-1].held_out_loss


# Texts.


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp('models') / 'encoder.safetensors')


def test_texts_are_learned_by_a_model_that_had_another_task(encoder, tmp_path):
    rows = [
        f'"{word} {i % 7}",{label}' for i in range(20) for word, label in (('a', 'x'), ('zz', 'y'))
    ]
    (tmp_path / 'data.csv').write_text('\n'.join(['text,label', *rows]))
    prepare = bx.zoo.text_preprocessor(encoder, max_tokens=6)
    card = bx.zoo.read_card(encoder)
    data = bx.zoo.text_table(tmp_path / 'data.csv', prepare, card.config)
    model, params, card = bx.zoo.load_for_classes(encoder, data.labels, task='text-classification')
    assert card.task == 'text-classification'
    _, history = bx.zoo.finetune(
        model,
        params,
        data,
        card=card,
        out=tmp_path / 'm.safetensors',
        epochs=10,
        batch_size=8,
        learning_rate=0.01,
    )
    assert max(row.held_out_accuracy for row in history) > 0.9
    saved = bx.zoo.read_card(tmp_path / 'm.safetensors')
    assert (saved.task, saved.labels, saved.tokenizer != '') == (
        'text-classification',
        ('x', 'y'),
        True,
    )
