"""Images changed a little, and in another way each time that training sees them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.processors import INTERPOLATIONS


def augment(
    image: Image.Image, prepare: ImagePreprocessor, rng: np.random.Generator, flip: bool
) -> Image.Image:
    """Cut a random part out, in the size that the model takes; mirror half of them if `flip`.

    Its sides are 85 to 100 % of what `prepare` shows, and it lies at most 10 % of them away from there.
    """
    box = []
    for length, shown in zip(image.size, _shown(image, prepare)):
        side = shown * rng.uniform(0.85, 1)
        middle = length / 2 + shown * rng.uniform(-0.1, 0.1)
        start = min(max(middle - side / 2, 0), length - side)
        box.append((start, min(start + side, length)))
    (left, right), (top, bottom) = box
    resample = INTERPOLATIONS[prepare.interpolation]
    height, width = prepare.size
    part = image.resize((width, height), resample, (left, top, right, bottom))
    mirrored = flip and rng.random() < 0.5
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part


def _shown(image: Image.Image, prepare: ImagePreprocessor) -> tuple[float, float]:
    """Return width and height of the part that `prepare` shows, in the image's own pixels."""
    (height, width), (high, wide) = prepare.size, prepare.resize
    x, y = image.width / wide, image.height / high
    if prepare.keep_ratio:
        x = y = min(x, y)
    return width * x, height * y
