"""Images changed a little."""

import dataclasses

import numpy as np
import pytest
from helpers import COLOR, GRAY, table
from PIL import Image

from blox.zoo.training.augment import Augmentation, augmented
from blox.zoo.training.rand_augment import CHANGES, change

MODES = {GRAY: 'L', COLOR: 'RGB'}


def seen(image, rng, flip=False, **choices):
    """What training sees of a gray image, with its own values."""
    found = augmented(image, GRAY, rng, Augmentation(**choices), flip)[..., 0]
    return np.rint((found * GRAY.std[0] + GRAY.mean[0]) * 255)


@pytest.mark.parametrize('crop', ['none', 'slight', 'resized'])
@pytest.mark.parametrize('prepare', [GRAY, COLOR])
@pytest.mark.parametrize('shape', [(8, 8), (31, 9), (5, 90)])
def test_augmented_images_have_the_models_size_and_the_images_colors(crop, prepare, shape):
    rng = np.random.default_rng(0)
    for _ in range(50):
        image = Image.fromarray(np.full(shape, 77, np.uint8)).convert(MODES[prepare])
        found = augmented(image, prepare, rng, Augmentation(crop), True)
        np.testing.assert_array_equal(found, prepare(image)[0])


def test_only_flip_mirrors():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    rng = np.random.default_rng(0)
    for flip, expected in ((False, {True}), (True, {True, False})):
        parts = [np.asarray(seen(ramp, rng, flip), int) for _ in range(20)]
        assert {bool(part[0, -1] > part[0, 0]) for part in parts} == expected


def test_augmentation_moves_and_zooms_a_little():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    rng = np.random.default_rng(0)
    parts = np.stack([np.asarray(seen(ramp, rng), float)[0] for _ in range(200)])
    width = parts[:, -1] - parts[:, 0]
    whole = np.ptp(np.asarray(ramp.resize((8, 8), Image.Resampling.BILINEAR), float)[0])
    assert 0.83 * whole < width.min() < 0.88 * whole < 0.97 * whole < width.max() <= whole
    assert abs(parts.mean(1) - 126).max() < 0.1 * 256


@pytest.mark.parametrize('name', CHANGES)
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_changes_keep_size_and_mode_at_every_strength(name, mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    for level in (0.0, 0.5, 1.0):
        rng = np.random.default_rng(1)
        found = change(image.convert(mode), name, level, rng, (9, 9, 9), Image.Resampling.BICUBIC)
        assert (found.size, found.mode) == (image.size, mode)


def test_images_are_turned_however_they_are_resized():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    prepare = dataclasses.replace(COLOR, interpolation='lanczos')
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert augmented(image, prepare, rng, Augmentation(magnitude=9), False).shape[-1] == 3


def test_strong_augmentation_leaves_the_file_and_the_preprocessor_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8))
    strong = Augmentation('resized', magnitude=9, erase=1.0)
    seeds = [np.random.default_rng(seed) for seed in (0, 0, 1)]
    first, again, other = (augmented(image, COLOR, rng, strong, True) for rng in seeds)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@table(
    {
        'crop': ({'crop': 'tiny'}, 'crop of none, slight, resized'),
        'scale': ({'scale': (0.0, 1.0)}, 'scale two numbers'),
        'magnitude': ({'magnitude': 11}, 'between 0 and 10'),
        'erase': ({'erase': float('nan')}, 'erase a chance'),
    }
)
def test_augmentations_that_are_none_are_refused(row):
    choices, message = row
    with pytest.raises(ValueError, match=message):
        Augmentation(**choices)
