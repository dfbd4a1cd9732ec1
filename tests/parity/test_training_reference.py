"""Losses are torch's, and images are changed and mixed as timm does it."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import torch  # Before timm is imported.
from helpers import table
from PIL import Image
from timm.data import auto_augment, mixup, random_erasing
from timm.data.transforms import RandomResizedCropAndInterpolation

from blox.zoo.training.augment import erased, random_crop
from blox.zoo.training.losses import Loss, measures
from blox.zoo.training.mixing import blend, paste
from blox.zoo.training.rand_augment import CHANGES, change, rand_augment

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(30, 4)) * 2
CLASSES = RNG.integers(0, 4, 30)
SEVERAL = RNG.uniform(size=(30, 4)).round()
WEIGHTS = (0.5, 1.0, 3.0, 0.1)
PIXELS = RNG.integers(0, 256, (40, 60, 3), np.uint8)
FILL = (124, 116, 104)


@table(
    {
        'smoothed': (Loss(label_smoothing=0.1), {'label_smoothing': 0.1}),
        'weighted': (Loss(class_weights=WEIGHTS), {'weight': WEIGHTS}),
        'both': (
            Loss(label_smoothing=0.2, class_weights=WEIGHTS),
            {'weight': WEIGHTS, 'label_smoothing': 0.2},
        ),
    }
)
@pytest.mark.usefixtures('x64')
def test_losses_and_gradients_of_classes_are_torchs(row):
    loss, options = row
    options = {
        k: torch.tensor(v, dtype=torch.float64) if k == 'weight' else v for k, v in options.items()
    }
    logits = torch.tensor(LOGITS, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(CLASSES), **options)
    theirs.backward()
    assert_same(lambda x: measures(x, jnp.asarray(CLASSES), loss)[0], theirs, logits.grad)


@pytest.mark.usefixtures('x64')
def test_losses_of_several_labels_are_torchs():
    logits = torch.tensor(LOGITS, requires_grad=True)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    soft = torch.tensor(SEVERAL) * 0.9 + 0.05
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights)
    theirs.backward()
    loss = Loss('sigmoid', 0.1, WEIGHTS)
    assert_same(lambda x: measures(x, jnp.asarray(SEVERAL), loss)[0], theirs, logits.grad)


def assert_same(call, theirs, gradient):
    found, slope = jax.value_and_grad(call)(jnp.asarray(LOGITS))
    # A loss is returned in float32; its gradient is not rounded.
    np.testing.assert_allclose(found, theirs.item(), rtol=1e-7)
    np.testing.assert_allclose(slope, gradient, rtol=1e-12, atol=1e-15)


class Draws:
    """Python's `random` and NumPy's, drawn from one generator."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def random(self):
        return self.rng.random()

    def uniform(self, low, high):
        return self.rng.uniform(low, high)

    def gauss(self, mean, spread):
        return self.rng.normal(mean, spread)

    def randint(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def choice(self, items, size, replace, p):
        return [items[i] for i in self.rng.integers(len(items), size=size)]


@pytest.fixture
def drawn_from(monkeypatch):
    """Let timm draw from a generator of this seed."""

    def replace(seed):
        draws = Draws(seed)
        for name in ('random', 'uniform', 'gauss', 'randint'):
            monkeypatch.setattr(random, name, getattr(draws, name))
        monkeypatch.setattr(np.random, 'choice', draws.choice)

    return replace


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_rand_augment_is_timms(drawn_from, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    fill = FILL if mode == 'RGB' else FILL[:1]
    hparams = {
        'img_mean': fill if mode == 'RGB' else fill[0],
        'interpolation': Image.Resampling.BICUBIC,
    }
    theirs = auto_augment.rand_augment_transform('rand-m9-mstd0.5-inc1', hparams)
    changed = 0
    for seed in range(60):
        drawn_from(seed)
        expected = np.asarray(theirs(image))
        rng = np.random.default_rng(seed)
        found = np.asarray(rand_augment(image, 9, rng, fill, Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(found, expected)
        changed += not np.array_equal(found, np.asarray(image))
    assert changed > 30


NAMES = dict(zip(CHANGES, auto_augment._RAND_INCREASING_TRANSFORMS))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('level', [0.0, 0.31, 0.99])
def test_each_change_is_timms(drawn_from, name, level):
    hparams = {'img_mean': FILL, 'interpolation': Image.Resampling.BILINEAR}
    theirs = auto_augment.AugmentOp(NAMES[name], 1.0, level * 10, hparams)
    image = Image.fromarray(PIXELS)
    for seed in range(3):
        drawn_from(seed)
        rng = np.random.default_rng(seed)
        found = change(image, name, level, rng, FILL, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(theirs(image)))


@pytest.mark.parametrize('shape', [(40, 60), (10, 300), (300, 10)])
@pytest.mark.parametrize('scale', [(0.08, 1.0), (0.9, 1.0)])
def test_random_crops_are_timms(drawn_from, shape, scale):
    image, ratio = Image.new('L', shape), (3 / 4, 4 / 3)
    for seed in range(30):
        drawn_from(seed)
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(image, scale, ratio)
        found = random_crop(shape, scale, ratio, np.random.default_rng(seed))
        assert found == (left, top, left + width, top + height)


def test_erased_parts_are_timms(drawn_from):
    theirs, parts = random_erasing.RandomErasing(0.7, mode='const', device='cpu'), 0
    for seed in range(40):
        drawn_from(seed)
        expected = theirs(torch.ones(3, 40, 60)).numpy() == 0
        pixels = np.full((40, 60, 3), 9, np.float32)
        found = erased(pixels, np.random.default_rng(seed), 0.7)
        np.testing.assert_array_equal(found != 9, np.moveaxis(expected, 0, -1))
        assert (pixels == 9).all()
        parts += bool(expected.any())
    assert 15 < parts < 40


@pytest.mark.parametrize('share', [0.3, 0.81])
def test_mixed_images_are_timms(monkeypatch, share):
    images = RNG.normal(size=(6, 10, 14, 3))
    theirs = mixup.Mixup(mixup_alpha=1.0, num_classes=4)
    monkeypatch.setattr(theirs, '_params_per_batch', lambda: (share, False))
    mixed = torch.tensor(np.moveaxis(images, -1, 1))
    theirs._mix_batch(mixed)
    found = blend(jnp.asarray(images, jnp.float32), jnp.asarray(share, jnp.float32))
    np.testing.assert_allclose(found, np.moveaxis(mixed.numpy(), 1, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('share', [0.3, 0.81])
@pytest.mark.parametrize('centre', [(0, 0), (3, 9), (9, 13)])
def test_pasted_images_are_timms(monkeypatch, share, centre):
    images = RNG.normal(size=(6, 10, 14, 3)).astype(np.float32)
    theirs = mixup.Mixup(cutmix_alpha=1.0, num_classes=4)
    monkeypatch.setattr(theirs, '_params_per_batch', lambda: (share, True))
    places = iter(centre)
    monkeypatch.setattr(np.random, 'randint', lambda low, high, size: next(places))
    mixed = torch.tensor(np.moveaxis(images, -1, 1).copy())
    corrected = theirs._mix_batch(mixed)
    middle = jnp.asarray([(centre[0] + 0.5) / 10, (centre[1] + 0.5) / 14])
    found, own = paste(jnp.asarray(images), jnp.asarray(share), middle)
    np.testing.assert_array_equal(found, np.moveaxis(mixed.numpy(), 1, -1))
    assert float(own) == pytest.approx(corrected, abs=1e-6)


@pytest.mark.usefixtures('x64')
def test_the_loss_of_mixed_targets_is_timms():
    share, smoothing = 0.7, 0.1
    soft = mixup.mixup_target(torch.tensor(CLASSES), 4, share, smoothing)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(LOGITS), soft.double())
    loss = Loss(label_smoothing=smoothing)
    own, other = (
        measures(jnp.asarray(LOGITS), jnp.asarray(t), loss)[0] for t in (CLASSES, CLASSES[::-1])
    )
    np.testing.assert_allclose(share * own + (1 - share) * other, theirs.item(), rtol=1e-6)
