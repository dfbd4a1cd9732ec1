"""What libraries give to measure, and the inputs that all of them get."""

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np

RATE, DECAY = 1e-4, 0.01


class Program(NamedTuple):
    """A call that ends when its work is done, and the number of weights that it works with.

    `compile`, if there is one, compiles the program anew and returns what XLA has made of it.
    """

    call: Callable[[], Any]
    parameters: int
    compile: Callable[[], Any] | None = None


def inputs(model: str, sizes: dict[str, Any], channels_first: bool = False) -> np.ndarray:
    """Return random images [batch, height, width, 3], or tokens [batch, length] int32."""
    rng = np.random.default_rng(0)
    if model in ('gpt2', 'bert'):
        shape = sizes['batch'], sizes['length']
        return rng.integers(0, sizes['vocab_size'], shape, np.int32)
    side = sizes['image_size']
    images = rng.standard_normal((sizes['batch'], side, side, 3), np.float32)
    return images.transpose(0, 3, 1, 2) if channels_first else images


def texts(sizes: dict[str, Any]) -> np.ndarray:
    """Return random tokens [batch, length] int32 for a text tower, as many rows as there are images."""
    shape = sizes['batch'], sizes['length']
    return np.random.default_rng(2).integers(0, 49408, shape, np.int32)


def targets(model: str, sizes: dict[str, Any]) -> np.ndarray:
    """Return random classes: one an image, one a token."""
    shape = (sizes['batch'], sizes['length']) if model == 'gpt2' else (sizes['batch'],)
    classes = sizes['vocab_size'] if model == 'gpt2' else sizes['num_classes']
    return np.random.default_rng(1).integers(0, classes, shape, np.int32)


def versions_of(*names: str) -> str:
    """Return the installed versions of these distributions."""
    return ', '.join(f'{name} {version(name)}' for name in names)


def count(arrays: Any) -> int:
    """Return how many numbers these arrays hold."""
    return sum(math.prod(x.shape) for x in arrays)
