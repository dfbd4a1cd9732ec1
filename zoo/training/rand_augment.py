"""RandAugment (Cubuk et al., 2019, arXiv:1909.13719), as timm's 'rand-mM-mstd0.5-inc1' has it.

All changes grow with the magnitude; those of shape show `fill` where there was no image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

# The largest magnitude, for which each change is strongest.
MOST = 10
_SPREAD, _CHANGES, _CHANCE = 0.5, 2, 0.5


def rand_augment(
    image: Image.Image,
    magnitude: float,
    rng: np.random.Generator,
    fill: tuple[int, ...],
    resample: Image.Resampling,
) -> Image.Image:
    """Change an image in gray or color twice, each time with a chance of half."""
    names = list(CHANGES)
    for place in rng.integers(len(names), size=_CHANGES):
        if rng.random() > _CHANCE:
            continue
        level = min(max(rng.normal(magnitude, _SPREAD), 0), MOST) / MOST
        image = change(image, names[place], level, rng, fill, resample)
    return image


def change(
    image: Image.Image,
    name: str,
    level: float,
    rng: np.random.Generator,
    fill: tuple[int, ...],
    resample: Image.Resampling,
) -> Image.Image:
    """Make the change of this name, as strong as `level` between 0 and 1 says, in a random direction."""
    amount = CHANGES[name](level, rng)
    if name in _MATRICES:
        matrix = _MATRICES[name](amount, *image.size)
        return image.transform(
            image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=_of(image, fill)
        )
    if name == 'rotate':
        return image.rotate(amount, resample, fillcolor=_of(image, fill))
    return _COLORS[name](image, amount)


def _of(image: Image.Image, fill: tuple[int, ...]) -> Any:
    """Return a color as Pillow has it for the image."""
    return fill if image.mode == 'RGB' else fill[0]


# How strong a change of each name is at a level.

_Amount = Callable[[float, np.random.Generator], Any]


def _either_way(amount: float, rng: np.random.Generator) -> float:
    return -amount if rng.random() > 0.5 else amount


def _none(level: float, rng: np.random.Generator) -> None:
    return None


def _up_to(most: float) -> _Amount:
    return lambda level, rng: _either_way(level * most, rng)


def _factor(level: float, rng: np.random.Generator) -> float:
    return max(0.1, 1 + _either_way(level * 0.9, rng))


CHANGES: dict[str, _Amount] = {
    'autocontrast': _none,
    'equalize': _none,
    'invert': _none,
    'rotate': _up_to(30),
    # timm goes down to no bits at all, which Pillow refuses since version 12.
    'posterize': lambda level, rng: max(1, 4 - int(level * 4)),
    'solarize': lambda level, rng: 256 - min(256, int(level * 256)),
    'solarize_add': lambda level, rng: min(128, int(level * 110)),
    'color': _factor,
    'contrast': _factor,
    'brightness': _factor,
    'sharpness': _factor,
    'shear_x': _up_to(0.3),
    'shear_y': _up_to(0.3),
    'translate_x': _up_to(0.45),
    'translate_y': _up_to(0.45),
}

_MATRICES = {
    'shear_x': lambda amount, width, height: (1, amount, 0, 0, 1, 0),
    'shear_y': lambda amount, width, height: (1, 0, 0, amount, 1, 0),
    'translate_x': lambda amount, width, height: (1, 0, amount * width, 0, 1, 0),
    'translate_y': lambda amount, width, height: (1, 0, 0, 0, 1, amount * height),
}


def _solarize_add(image: Image.Image, amount: int) -> Image.Image:
    """Make the darker half of the values brighter."""
    values = [min(255, i + amount) if i < 128 else i for i in range(256)]
    return image.point(values * len(image.getbands()))


_COLORS: dict[str, Callable[[Image.Image, Any], Image.Image]] = {
    'autocontrast': lambda image, _: ImageOps.autocontrast(image),
    'equalize': lambda image, _: ImageOps.equalize(image),
    'invert': lambda image, _: ImageOps.invert(image),
    'posterize': ImageOps.posterize,
    'solarize': ImageOps.solarize,
    'solarize_add': _solarize_add,
    'color': lambda image, amount: ImageEnhance.Color(image).enhance(amount),
    'contrast': lambda image, amount: ImageEnhance.Contrast(image).enhance(amount),
    'brightness': lambda image, amount: ImageEnhance.Brightness(image).enhance(amount),
    'sharpness': lambda image, amount: ImageEnhance.Sharpness(image).enhance(amount),
}
