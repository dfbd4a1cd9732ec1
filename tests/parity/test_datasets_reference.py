"""Datasets of Hugging Face's library to fine-tune on."""

from typing import Any

import numpy as np
import pytest
from commands import write_encoder
from helpers import GRAY
from PIL import Image

import blox as bx
from blox.zoo.inputs.text import TextBatch

datasets: Any = pytest.importorskip('datasets')

CLASSES = datasets.ClassLabel(names=['dark', 'light'])


def pictures(count, **columns):
    shades = [Image.new('L', (9, 9), 255 * (i % 2)) for i in range(count)]
    features = {name: feature for name, (feature, _) in columns.items()}
    values = {name: cells for name, (_, cells) in columns.items()}
    return datasets.Dataset.from_dict(
        {'image': shades, **values}, features=datasets.Features(image=datasets.Image(), **features)
    )


def labelled(count):
    return pictures(count, label=(CLASSES, [i % 2 for i in range(count)]))


def test_splits_are_parts_and_classes_keep_their_order():
    data = bx.zoo.image_dataset(
        datasets.DatasetDict(
            {'train': labelled(20), 'validation': labelled(4), 'test': labelled(2)}
        ),
        GRAY,
    )
    assert (len(data.training), len(data.held_out), len(data.test)) == (20, 4, 2)
    assert (data.labels, data.counts, data.scores) == (('dark', 'light'), (10, 10), '')
    image, target = data.read(data.held_out[3], None)
    np.testing.assert_array_equal(image, GRAY(Image.new('L', (9, 9), 255))[0])
    assert target == 1


def test_a_dataset_alone_is_divided_and_learned():
    data = bx.zoo.image_dataset(labelled(20), GRAY, holdout=0.2)
    assert (len(data.training), len(data.held_out)) == (16, 4)
    model, params, card = bx.zoo.load_for_classes('resnet-digits', data.labels)
    _, history = bx.zoo.finetune(model, params, data, card=card, epochs=4)
    assert history[-1].held_out_accuracy == 1


def test_lists_of_classes_are_several_and_numbers_values():
    several = pictures(3, labels=(datasets.List(CLASSES), [[], [1], [0, 1]]))
    data = bx.zoo.image_dataset(several, GRAY)
    targets = sorted(target.tolist() for _, target in [*data.training, *data.held_out])
    assert (data.scores, targets) == ('sigmoid', [[0, 0], [0, 1], [1, 1]])
    values = pictures(3, size=(datasets.Value('float32'), [0.5, 1.5, 2.5]))
    data = bx.zoo.image_dataset(values, GRAY, label='size')
    assert (data.scores, data.labels) == ('none', ('size',))


def test_texts_and_pairs_are_read_and_classes_that_are_not_told_left_out(tmp_path):
    file = write_encoder(tmp_path / 'encoder.safetensors')
    prepare, config = bx.zoo.text_preprocessor(file), bx.zoo.read_card(file).config
    rows = {'sentence1': ['a', 'bb'] * 4, 'sentence2': ['c'] * 8, 'label': [0, 1] * 4}
    features = {name: datasets.Value('string') for name in ('sentence1', 'sentence2')}
    features = datasets.Features(**features, label=CLASSES)
    train = datasets.Dataset.from_dict(rows, features=features)
    test = datasets.Dataset.from_dict({**rows, 'label': [-1] * 8}, features=features)
    data = bx.zoo.text_dataset(
        datasets.DatasetDict({'train': train, 'test': test}), prepare, config
    )
    assert (len(data.training), len(data.held_out), len(data.test)) == (6, 2, 0)
    inputs, _ = data.read(data.training[0], None)
    assert isinstance(inputs, TextBatch)
    assert inputs.types.any()
    assert data.show is not None
    assert data.show(data.training[0]) == 'a | c'


def rows_of(feature, cells):
    return pictures(len(cells), label=(feature, cells))


@pytest.mark.parametrize(
    ('feature', 'cells', 'labels'),
    [
        ('string', ['b', 'a', 'b', 'a'], ('a', 'b')),
        ('int64', [11, 12, 12, 11], ('11', '12')),
        ('bool', [True, False, True, False], ('False', 'True')),
    ],
)
def test_classes_without_a_list_of_their_names_are_found(feature, cells, labels):
    found = rows_of(datasets.Value(feature), cells)
    data = bx.zoo.image_dataset(found, GRAY, labels=tuple('0123456789'))
    assert (data.labels, data.scores) == (labels, '')


def test_lists_of_texts_are_several_classes():
    found = rows_of(datasets.List(datasets.Value('string')), [['a', 'b'], ['b'], []])
    data = bx.zoo.image_dataset(found, GRAY)
    targets = sorted(target.tolist() for _, target in [*data.training, *data.held_out])
    assert (data.scores, targets) == ('sigmoid', [[0, 0], [0, 1], [1, 1]])


FLOAT = datasets.Value('float32')


@pytest.mark.parametrize(
    ('feature', 'cells', 'message'),
    [
        (datasets.Value('string'), ['a', None, 'b'], 'row 2: expected a label, found none'),
        (datasets.Value('string'), ['a', 'a', 'a'], 'two classes or more, found a'),
        (datasets.List(CLASSES), [[0], [-1]], r'classes in each list, found \[-1\]'),
        (FLOAT, [1.0, float('nan')], 'row 2: expected finite numbers'),
        (FLOAT, [1.0, float('inf')], 'row 2: expected finite numbers'),
        (datasets.List(FLOAT), [[1.0, 2.0], [1.0]], 'as many numbers in each row'),
    ],
)
def test_labels_that_are_none_are_refused(feature, cells, message):
    with pytest.raises(ValueError, match=message):
        bx.zoo.image_dataset(rows_of(feature, cells), GRAY)


def test_splits_whose_classes_differ_are_told_apart():
    turned = datasets.ClassLabel(names=['light', 'dark'])
    test = rows_of(turned, [0, 1])
    data = bx.zoo.image_dataset(datasets.DatasetDict({'train': labelled(8), 'test': test}), GRAY)
    assert [target.item() for _, target in data.test] == [1, 0]
    other = rows_of(datasets.ClassLabel(names=['light', 'gray']), [0, 1])
    with pytest.raises(ValueError, match='the same classes in all splits'):
        bx.zoo.image_dataset(datasets.DatasetDict({'train': labelled(8), 'test': other}), GRAY)


def test_a_stream_is_no_dataset():
    with pytest.raises(TypeError, match='found IterableDataset; one that streams'):
        bx.zoo.image_dataset(labelled(4).to_iterable_dataset(), GRAY)


def test_images_that_are_not_decoded_are():
    raw = labelled(6).cast_column('image', datasets.Image(decode=False))
    data, other = (bx.zoo.image_dataset(rows, GRAY) for rows in (raw, labelled(6)))
    for one, two in zip(data.training, other.training):
        np.testing.assert_array_equal(data.read(one, None)[0], other.read(two, None)[0])


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match=r'expected a column picture, found image, label: name it'):
        bx.zoo.image_dataset(labelled(4), GRAY, image='picture')
    with pytest.raises(ValueError, match='expected a split train, found test'):
        bx.zoo.image_dataset(datasets.DatasetDict({'test': labelled(4)}), GRAY)
