"""What tests of fine-tuning share: a tiny classifier, data for it, and data that misbehave."""

import dataclasses
import itertools

import numpy as np
import pytest

import blox as bx
from blox.zoo.training.data import training_batches

CLASSES = ('dark', 'light')
SIZE = 8


def tiny(num_classes=2, **overrides):
    sizes = {'depths': (1,), 'widths': (8,), 'stem': 'small', 'stem_width': 8, **overrides}
    return bx.zoo.create('resnet18', **sizes, image_size=8, in_channels=1, num_classes=num_classes)


MODEL = tiny()
PARAMS = bx.zoo.init(MODEL)


def shades(count=24, held_out=8):
    """Dark and light images with noise, in memory: three batches an epoch."""

    def read(i, rng):
        noise = np.random.default_rng(i).normal(size=(8, 8, 1))
        return np.asarray(noise + 2 * (i % 2) - 1, np.float32), np.asarray(i % 2, np.int32)

    return bx.zoo.Data(range(count), range(1000, 1000 + held_out), read, CLASSES, 'shades')


def finetune(out=None, *, model=MODEL, params=PARAMS, data=None, **options):
    options = {'epochs': 3, 'batch_size': SIZE, 'learning_rate': 1e-2, **options}
    return bx.zoo.finetune(model, params, data or shades(), out=out, **options)


def values(params):
    return {path: np.asarray(param.value) for path, param in params.items() if path != 'rng'}


def moved(before, after):
    """Paths whose values changed."""
    after = values(after)
    return {
        path for path, value in values(before).items() if not np.array_equal(value, after[path])
    }


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Data that misbehave.


class GoneError(Exception):
    """The data cannot be read any more."""


def gone(pair):
    raise GoneError


def not_a_number(pair):
    return pair[0] + np.float32(np.nan), pair[1]


def in_step(changes, data=None):
    """Data that give `changes[n](pair)` for each pair of the `n`th step, counted from 1."""
    data = data or shades()
    # What is drawn for a pair tells its place in the training.
    drawn = dataclasses.replace(data, read=lambda i, rng: (draw(rng), np.array(i)))
    batches = training_batches(drawn, SIZE, seed=0)
    draws = [inputs.tolist() for inputs, _ in itertools.islice(batches, max(changes))]
    batches.close()
    chosen = {x: change for n, change in changes.items() for x in draws[n - 1]}

    def read(i, rng):
        pair = data.read(i, rng)
        change = None if rng is None else chosen.get(draw(rng).item())
        return change(pair) if change else pair

    return dataclasses.replace(data, read=read)


def draw(rng):
    return np.asarray(rng.integers(2**62))


def interrupted(out, at, **options):
    """A training that something ends in its `at`th step."""
    with pytest.raises(GoneError):
        finetune(out, data=in_step({at: gone}), **options)
