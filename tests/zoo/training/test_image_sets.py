"""Folders of images to fine-tune on."""

import os
from typing import Any

import numpy as np
import pytest
from helpers import COLOR, GRAY, promptly, table, write_image, write_images
from PIL import Image

import blox as bx


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / 'data', {'b': 20, 'a': 10, 'c': 3})


def test_held_out_images_are_a_tenth_of_each_class_and_no_others(folder):
    data = bx.zoo.image_folder(folder, GRAY)
    assert data.labels == ('a', 'b', 'c')
    assert [label for _, label in data.held_out] == [0, 1, 1, 2]
    files = [file for file, _ in (*data.training, *data.held_out)]
    assert sorted(files) == sorted(folder.rglob('*.png'))
    assert all(file.parent.name == data.labels[i] for file, i in (*data.training, *data.held_out))


def test_the_seed_decides_what_is_held_out(folder):
    held = [
        bx.zoo.image_folder(folder, GRAY, holdout=0.3, seed=seed).held_out for seed in (0, 0, 1)
    ]
    assert held[0] == held[1]
    assert held[0] != held[2]


def parts_of(data):
    """For each part of the data, the directories that its files are in, and their labels."""
    return [
        ({file.parts[-3] for file, _ in part}, sorted(label for _, label in part))
        for part in (data.training, data.held_out, data.test)
    ]


@pytest.mark.parametrize('name', ['val', 'valid', 'validation'])
def test_a_folder_may_say_itself_what_is_held_out(tmp_path, name):
    write_images(tmp_path / 'train', {'a': 2, 'b': 3})
    write_images(tmp_path / name, {'a': 1, 'b': 2})
    data = bx.zoo.image_folder(tmp_path, GRAY)
    assert parts_of(data) == [({'train'}, [0, 0, 1, 1, 1]), ({name}, [0, 1, 1]), (set(), [])]
    assert data.summary.endswith(f'8 images of 2 classes, 3 held out, all of {name}/')


def test_a_test_beside_train_and_val_is_neither_a_class_nor_held_out(tmp_path):
    for name, counts in (('train', (2, 3)), ('val', (1, 2)), ('test', (2, 1))):
        write_images(tmp_path / name, dict(zip('ab', counts)))
    data = bx.zoo.image_folder(tmp_path, GRAY)
    assert parts_of(data) == [
        ({'train'}, [0, 0, 1, 1, 1]),
        ({'val'}, [0, 1, 1]),
        ({'test'}, [0, 0, 1]),
    ]
    end = '3 held out, all of val/; 3 of test/ are scored once, at the end'
    assert data.summary.endswith(end)
    write_image(tmp_path / 'test/a/0.png', seed=9)
    assert bx.zoo.image_folder(tmp_path, GRAY).fingerprint != data.fingerprint


def test_a_test_beside_train_alone_chooses_nothing(tmp_path):
    write_images(tmp_path / 'train', {'a': 20, 'b': 10})
    write_images(tmp_path / 'test', {'a': 2, 'b': 1})
    data = bx.zoo.image_folder(tmp_path, GRAY)
    assert [(dirs, len(labels)) for dirs, labels in parts_of(data)] == [
        ({'train'}, 27),
        ({'train'}, 3),
        ({'test'}, 3),
    ]
    assert '3 held out of train/; 3 of test/' in data.summary


def test_train_and_val_beside_others_are_classes(tmp_path):
    write_images(tmp_path, {'train': 2, 'val': 2, 'bus': 2})
    assert bx.zoo.image_folder(tmp_path, GRAY).labels == ('bus', 'train', 'val')


def test_labels_of_the_same_names_give_the_order(folder):
    assert bx.zoo.image_folder(folder, GRAY, labels=('c', 'a', 'b')).labels == ('c', 'a', 'b')
    assert bx.zoo.image_folder(folder, GRAY, labels=('c', 'a')).labels == ('a', 'b', 'c')


def test_held_out_images_are_read_as_the_preprocessor_does(folder):
    for prepare in (GRAY, COLOR):
        data = bx.zoo.image_folder(folder, prepare)
        for file, label in data.held_out:
            inputs, target = data.read((file, label), None)
            np.testing.assert_array_equal(inputs, prepare(file)[0])
            assert target == label


def test_links_and_nested_directories_count_and_hidden_ones_do_not(folder, tmp_path):
    write_images(folder, {'a/more': 2, '.cache': 1, 'a/.thumbs': 1})
    write_image(folder / 'a' / '._1.png')
    write_image(tmp_path / 'one.JPG')
    (folder / 'a' / 'link.jpg').symlink_to(tmp_path / 'one.JPG')
    (folder / 'a' / 'loop').symlink_to(folder)
    write_images(tmp_path / 'elsewhere', {'d': 2})
    (folder / 'd').symlink_to(tmp_path / 'elsewhere' / 'd')
    with promptly():
        data = bx.zoo.image_folder(folder, GRAY)
    labels = [data.labels[label] for _, label in (*data.training, *data.held_out)]
    assert {name: labels.count(name) for name in labels} == {'a': 13, 'b': 20, 'c': 3, 'd': 2}


def test_what_is_no_image_is_left_out_and_told(folder):
    for name in ('a/notes.TXT', 'b/more.txt', 'b/Makefile', 'b/x.\x1b'):
        (folder / name).write_text('x')
    summary = bx.zoo.image_folder(folder, GRAY).summary
    assert summary == (
        'data: 33 images of 3 classes, 4 held out; '
        r'left out, as no images: 1 .\x1b, 2 .txt, 1 Makefile'
    )


def link(path):
    path.symlink_to('nowhere.png')


HOSTILE = {
    'an empty class': (lambda root: (root / 'void').mkdir(), 'found none of void'),
    'an image beside': (
        lambda root: write_image(root / 'x.png'),
        'found images beside them: x.png',
    ),
    'one image': (lambda root: write_images(root, {'single': 1}), 'found one of single'),
    'no image': (
        lambda root: (root / 'a/bad.png').write_text('no'),
        '1 of 34 images cannot be read',
    ),
    'two of them': (
        lambda root: [(root / f'a/bad{i}.png').write_text('no') for i in (1, 2)],
        r'bad1.png.*bad2.png',
    ),
    'cut short': (
        lambda root: (root / 'a/cut.png').write_bytes((root / 'a/0.png').read_bytes()[:60]),
        'cut.png',
    ),
    'a dangling link': (lambda root: link(root / 'a/gone.png'), 'gone.png'),
    'a pipe': (lambda root: os.mkfifo(root / 'a/pipe.png'), 'pipe.png.*is not a regular file'),
    'a strange name': (lambda root: write_images(root, {'a\nb': 2}), 'names that can be printed'),
}


@table(HOSTILE)
def test_folders_that_would_train_badly_are_refused(folder, row):
    spoil, message = row
    spoil(folder)
    with promptly(), pytest.raises(ValueError, match=message):
        bx.zoo.image_folder(folder, GRAY)


@pytest.mark.parametrize(
    ('counts', 'message'),
    [
        ({}, 'found none'),
        ({'only': 3}, 'two classes or more, found only'),
        (
            {'train/a': 2, 'train/b': 2, 'val/a': 2, 'val/z': 2},
            "classes of '.*train', found others: z",
        ),
        (
            {'train/a': 2, 'train/b': 2, 'test/a': 2, 'test/z': 2},
            "'.*test': expected classes of '.*train', found others: z",
        ),
        (
            {f'{name}/{i}': 2 for name in ('train', 'val', 'valid') for i in 'ab'},
            'expected one of val, valid, found all of them',
        ),
        ({'train/a': 2, 'train/b': 2}, 'two classes or more, found train'),
    ],
)
def test_folders_of_another_shape_are_refused(tmp_path, counts, message):
    with pytest.raises(ValueError, match=message):
        bx.zoo.image_folder(write_images(tmp_path, counts), GRAY)


@pytest.mark.parametrize('holdout', [0.0, 1.0, float('nan')])
def test_part_of_the_data_must_be_held_out(folder, holdout):
    with pytest.raises(ValueError, match='between 0 and 1'):
        bx.zoo.image_folder(folder, GRAY, holdout=holdout)


def test_a_fingerprint_tells_data_apart(folder):
    plain, other = (bx.zoo.image_folder(folder, GRAY, seed=seed).fingerprint for seed in (0, 5))
    assert bx.zoo.image_folder(folder, GRAY).fingerprint == plain
    (folder / 'a' / '0.png').rename(folder / 'a' / 'other.png')
    renamed = bx.zoo.image_folder(folder, GRAY).fingerprint
    assert len({plain, other, renamed}) == 3


def test_how_images_are_read_is_told_apart_from_what_they_are(folder):
    strong = bx.zoo.Augmentation(erase=0.5)
    choices: list[dict[str, Any]] = [{}, {'flip': True}, {'augmentation': strong}]
    found = [bx.zoo.image_folder(folder, GRAY, **choice) for choice in choices]
    assert len({data.fingerprint for data in found}) == 1
    assert len({data.reading for data in found}) == 3


def test_a_fingerprint_tells_images_of_the_same_size_apart(tmp_path):
    found = set()
    for color in (10, 200):
        for file in ('a/0.bmp', 'a/1.bmp', 'b/0.bmp', 'b/1.bmp'):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            Image.new('L', (8, 8), color).save(tmp_path / file)
        found.add(bx.zoo.image_folder(tmp_path, GRAY).fingerprint)
    assert len(found) == 2


@pytest.mark.parametrize(
    'names',
    [('Train', 'Val'), ('training', 'validation'), ('train', 'val', 'extra'), ('val', 'test')],
)
def test_directories_called_like_parts_are_no_classes(tmp_path, names):
    for name in names:
        for label in ('a', 'b'):
            (tmp_path / name / label).mkdir(parents=True)
            Image.new('L', (4, 4)).save(tmp_path / name / label / 'x.png')
    with pytest.raises(ValueError, match='are called like parts'):
        bx.zoo.image_folder(tmp_path, GRAY)
