"""Data for fine-tuning: folders of images, text files, and batches by step."""

import itertools
import os

import numpy as np
import pytest
from commands import byte_tokenizer
from helpers import GRAY, promptly, table, write_image, write_images
from PIL import Image

import blox as bx
from blox.zoo.training.data import IGNORED, augment, held_out_batches, training_batches

COLOR = bx.zoo.ImagePreprocessor(
    size=(8, 6),
    resize=(10, 9),
    keep_ratio=True,
    interpolation='bicubic',
    mean=(0.5,) * 3,
    std=(1,) * 3,
)


@pytest.fixture
def folder(tmp_path):
    return write_images(tmp_path / 'data', {'b': 20, 'a': 10, 'c': 3})


def numbers(count=10):
    """Data whose inputs say which example they are of, and what was drawn for it."""

    def read(i, rng):
        drawn = 0 if rng is None else rng.integers(1, 2**31)
        return np.array([i, drawn], np.int64), np.array(i, np.int32)

    return bx.zoo.Data(range(count), range(count), read)


def take(data, count, size=4, seed=0, start=0):
    batches = training_batches(data, size, seed, start)
    found = [inputs for inputs, _ in itertools.islice(batches, count)]
    batches.close()
    return np.concatenate(found)


# Batches.


@pytest.mark.parametrize('start', [1, 7, 100])
def test_the_batch_of_a_step_depends_on_seed_and_step_alone(start):
    whole = take(numbers(), start + 3).reshape(-1, 4, 2)
    assert (take(numbers(), 3, start=start).reshape(-1, 4, 2) == whole[start:]).all()


@pytest.mark.parametrize('count', [1, 10])
def test_batches_of_one_are_batches(count):
    assert sorted(take(numbers(count), count, size=1)[:, 0].tolist()) == list(range(count))


def test_each_epoch_takes_every_example_once_in_an_order_of_its_own():
    epochs = take(numbers(), 10)[:, 0].reshape(4, 10)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(10))] * 4
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_another_seed_gives_another_order_and_other_draws():
    first, second = (take(numbers(), 5, seed=seed) for seed in (0, 1))
    assert (first[:, 0] != second[:, 0]).any()
    assert not set(first[:, 1]) & set(second[:, 1])


def test_an_example_is_augmented_in_another_way_in_each_epoch():
    drawn = take(numbers(), 10)[:, 1]
    assert len(set(drawn.tolist())) == 40


def test_held_out_batches_are_all_of_them_in_order_and_filled_up():
    inputs, targets = map(np.concatenate, zip(*held_out_batches(numbers(), 4)))
    assert targets.tolist() == [*range(10), IGNORED, IGNORED]
    assert inputs[:10].tolist() == [[i, 0] for i in range(10)]


def test_what_reading_raises_comes_through():
    def read(i, rng):
        raise ValueError('it is gone')

    with pytest.raises(ValueError, match='it is gone'):
        next(held_out_batches(bx.zoo.Data([1], [1], read), 1))


# Folders.


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


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'test'])
def test_a_folder_may_say_itself_what_is_held_out(tmp_path, name):
    write_images(tmp_path / 'train', {'a': 2, 'b': 3})
    write_images(tmp_path / name, {'a': 1, 'b': 2})
    data = bx.zoo.image_folder(tmp_path, GRAY)
    assert (len(data.training), [label for _, label in data.held_out]) == (5, [0, 1, 1])


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
    plain, flipped, other = (
        bx.zoo.image_folder(folder, GRAY, flip=flip, seed=seed).fingerprint
        for flip, seed in ((False, 0), (True, 0), (False, 5))
    )
    assert bx.zoo.image_folder(folder, GRAY).fingerprint == plain
    (folder / 'a' / '0.png').rename(folder / 'a' / 'other.png')
    renamed = bx.zoo.image_folder(folder, GRAY).fingerprint
    assert len({plain, flipped, other, renamed}) == 4


def test_a_fingerprint_tells_images_of_the_same_size_apart(tmp_path):
    found = set()
    for color in (10, 200):
        for file in ('a/0.bmp', 'a/1.bmp', 'b/0.bmp', 'b/1.bmp'):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            Image.new('L', (8, 8), color).save(tmp_path / file)
        found.add(bx.zoo.image_folder(tmp_path, GRAY).fingerprint)
    assert len(found) == 2


# Augmentation.


@pytest.mark.parametrize('prepare', [GRAY, COLOR])
@pytest.mark.parametrize('shape', [(8, 8), (31, 9), (5, 90)])
def test_augmented_images_have_the_models_size_and_the_images_colors(prepare, shape):
    rng = np.random.default_rng(0)
    for _ in range(50):
        found = augment(Image.fromarray(np.full(shape, 77, np.uint8)), prepare, rng, True)
        assert found.size == prepare.size[::-1]
        assert set(np.asarray(found).flat) == {77}


def test_only_flip_mirrors():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    rng = np.random.default_rng(0)
    for flip, expected in ((False, {True}), (True, {True, False})):
        parts = [np.asarray(augment(ramp, GRAY, rng, flip), int) for _ in range(20)]
        assert {bool(part[0, -1] > part[0, 0]) for part in parts} == expected


def test_augmentation_moves_and_zooms_a_little():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    rng = np.random.default_rng(0)
    parts = np.stack([np.asarray(augment(ramp, GRAY, rng, False), float)[0] for _ in range(200)])
    width = parts[:, -1] - parts[:, 0]
    whole = np.ptp(np.asarray(ramp.resize((8, 8), Image.Resampling.BILINEAR), float)[0])
    assert 0.83 * whole < width.min() < 0.88 * whole < 0.97 * whole < width.max() <= whole
    assert abs(parts.mean(1) - 126).max() < 0.1 * 256


# Text.


def test_a_text_files_last_tenth_is_held_out(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbf' + b'abcdefghij' * 10)
    tokenizer = byte_tokenizer()
    data = bx.zoo.text_file(tmp_path / 'a.txt', tokenizer, 6, 257)
    read = [data.read(example, None) for example in data.held_out]
    assert ''.join(tokenizer.decode(x[y != IGNORED].tolist()) for x, y in read) == 'abcdefghi'
    assert ''.join(tokenizer.decode(y[y != IGNORED].tolist()) for _, y in read) == 'bcdefghij'
    assert [y.tolist().count(IGNORED) for _, y in read] == [0, 3]


def test_text_is_trained_on_in_windows_from_anywhere_before(tmp_path):
    text = ''.join(chr(33 + i) for i in range(90)) + ' ' * 10
    (tmp_path / 'a.txt').write_text(text)
    tokenizer, rng = byte_tokenizer(), np.random.default_rng(0)
    data = bx.zoo.text_file(tmp_path / 'a.txt', tokenizer, 8, 257)
    pairs = [data.read(example, rng) for example in data.training for _ in range(200)]
    windows = {(tokenizer.decode(x.tolist()), tokenizer.decode(y.tolist())) for x, y in pairs}
    assert windows == {(text[i : i + 8], text[i + 1 : i + 9]) for i in range(82)}


@pytest.mark.parametrize(
    ('content', 'vocab_size', 'message'),
    [
        (b'na\xefve text', 257, 'expected text in UTF-8, found .* at byte 2'),
        (b'abc', 257, 'expected 4 tokens or more, found 3'),
        (b'', 257, 'found 0'),
        (b'abcdefgh', 60, 'expected tokens below 60, found'),
    ],
)
def test_texts_that_a_model_cannot_learn_are_refused(tmp_path, content, vocab_size, message):
    (tmp_path / 'a.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bx.zoo.text_file(tmp_path / 'a.txt', byte_tokenizer(), 8, vocab_size)
