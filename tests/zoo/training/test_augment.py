"""Images changed a little."""

import numpy as np
import pytest
from helpers import COLOR, GRAY
from PIL import Image

from blox.zoo.training.augment import augment


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
