"""Images changed, and in another way each time that training sees them.

Random crops, RandAugment and random erasing are timm's, draw for draw.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blox.zoo.architecture.validation import expect
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.processors import INTERPOLATIONS
from blox.zoo.training.rand_augment import MOST, rand_augment

CROPS = ('none', 'slight', 'resized')
# Shares of an image's area that are erased, and how high what is erased is beside its width, at most.
_ERASED, _ERASED_RATIO = (0.02, 1 / 3), 1 / 0.3
_TRIES = 10
# What Pillow turns and shears images with.
_TURNING = (
    Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
)


@dataclass(frozen=True)
class Augmentation:
    """How images are changed in training.

    Attributes:
      crop: 'none'; 'slight', nearly what the preprocessor shows, its sides 85 to 100 % of it and at most
        10 % of them away; or 'resized', a random part as torchvision's and timm's RandomResizedCrop takes.
      scale, ratio: of the latter: least and most of its share of the image's area, and of its width by
        its height.
      magnitude: how much RandAugment changes, 0 to 10, varied by a standard deviation of 0.5; 0 for
        none. It is timm's 'rand-mM-mstd0.5-inc1': two of 15 changes, each made with a chance of half.
      erase: with which chance a part is replaced by noise, as timm's RandomErasing in its mode 'pixel'.
    """

    crop: str = 'slight'
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    magnitude: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        holds = {
            f'crop of {", ".join(CROPS)}': self.crop in CROPS,
            'scale two numbers, above 0 and at most 1': len(self.scale) == 2
            and 0 < self.scale[0] <= self.scale[1] <= 1,
            'ratio two numbers above 0': len(self.ratio) == 2
            and 0 < self.ratio[0] <= self.ratio[1] < math.inf,
            f'magnitude between 0 and {MOST}': 0 <= self.magnitude <= MOST,
            'erase a chance between 0 and 1': 0 <= self.erase <= 1,
        }
        expect('Augmentation', vars(self), holds)


def augmented(
    image: Image.Image,
    prepare: ImagePreprocessor,
    rng: np.random.Generator,
    augmentation: Augmentation,
    flip: bool,
) -> np.ndarray:
    """Return an image [height, width, channels] as training sees it; half are mirrored if `flip`."""
    part = _cropped(image, prepare, rng, augmentation)
    if flip and rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augmentation.magnitude:
        fill = tuple(min(255, round(255 * x)) for x in prepare.mean)
        resample = INTERPOLATIONS[prepare.interpolation]
        if resample not in _TURNING:
            resample = Image.Resampling.BICUBIC
        part = rand_augment(part, augmentation.magnitude, rng, fill, resample)
    as_it_is = dataclasses.replace(prepare, resize=prepare.size, keep_ratio=False)
    pixels = as_it_is(part)[0]
    return erased(pixels, rng, augmentation.erase) if augmentation.erase else pixels


def _cropped(
    image: Image.Image,
    prepare: ImagePreprocessor,
    rng: np.random.Generator,
    augmentation: Augmentation,
) -> Image.Image:
    height, width = prepare.size
    resample = INTERPOLATIONS[prepare.interpolation]
    match augmentation.crop:
        case 'slight':
            return image.resize((width, height), resample, _slight_crop(image, prepare, rng))
        case 'resized':
            part = image.crop(random_crop(image.size, augmentation.scale, augmentation.ratio, rng))
            return part.resize((width, height), resample)
    return prepare.fit(image)


def _slight_crop(
    image: Image.Image, prepare: ImagePreprocessor, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a box that is nearly what `prepare` shows."""
    box = []
    for length, shown in zip(image.size, _shown(image, prepare)):
        side = shown * rng.uniform(0.85, 1)
        middle = length / 2 + shown * rng.uniform(-0.1, 0.1)
        start = min(max(middle - side / 2, 0), length - side)
        box.append((start, min(start + side, length)))
    (left, right), (top, bottom) = box
    return left, top, right, bottom


def _shown(image: Image.Image, prepare: ImagePreprocessor) -> tuple[float, float]:
    """Return width and height of the part that `prepare` shows, in the image's own pixels."""
    (height, width), (high, wide) = prepare.size, prepare.resize
    x, y = image.width / wide, image.height / high
    if prepare.keep_ratio:
        x = y = min(x, y)
    return width * x, height * y


def random_crop(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw a box, (left, top, right, bottom), in an image of this width and height.

    Where a drawn one does not fit in ten times, it is the largest in the middle that has such a ratio.
    """
    wide, high = size
    for _ in range(_TRIES):
        area = rng.uniform(*scale) * wide * high
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < width <= wide and 0 < height <= high:
            top, left = int(rng.integers(high - height + 1)), int(rng.integers(wide - width + 1))
            return left, top, left + width, top + height
    shape = min(max(wide / high, ratio[0]), ratio[1])
    width, height = min(wide, round(high * shape)), min(high, round(wide / shape))
    left, top = (wide - width) // 2, (high - height) // 2
    return left, top, left + width, top + height


def erased(pixels: np.ndarray, rng: np.random.Generator, chance: float) -> np.ndarray:
    """Return an image [height, width, channels] with a part replaced by normal noise, or as it is."""
    if rng.random() > chance:
        return pixels
    height, width, channels = pixels.shape
    for _ in range(_TRIES):
        area = rng.uniform(*_ERASED) * height * width
        shape = math.exp(rng.uniform(-math.log(_ERASED_RATIO), math.log(_ERASED_RATIO)))
        high, wide = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if high < height and wide < width:
            top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
            noise = rng.standard_normal((high, wide, channels), np.float32)
            pixels = pixels.copy()
            pixels[top : top + high, left : left + wide] = noise
            break
    return pixels
