"""Images as a model wants them: decoded, resized, cropped and normalized."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps

# Well below Pillow's own limit of 179 million, from which it raises.
MAX_PIXELS = 50_000_000

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray

_INTERPOLATIONS = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImagePreprocessor:
    """From images to the batch [batch, height, width, channels], float32, that a model takes.

    Attributes:
      size: height and width in pixels of what the model sees.
      crop: the part of the resized image that the centre crop keeps, as a fraction of its
        shorter side; 0 resizes to `size` without keeping proportions and crops nothing.
      interpolation: 'nearest', 'bilinear', 'bicubic' or 'lanczos', by Pillow.
      mean, std: of each channel, for pixels scaled to [0, 1]; their number is the channels'.
    """

    size: tuple[int, int]
    crop: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sound = (
            len(self.size) == 2
            and all(type(length) is int and length > 0 for length in self.size)
            and self.size[0] * self.size[1] <= MAX_PIXELS
            and 0 <= self.crop <= 1
            and self.interpolation in _INTERPOLATIONS
            and len(self.mean) == len(self.std)
            and len(self.mean) in (1, 3)
            and min(self.std) > 0
            and all(map(math.isfinite, (*self.mean, *self.std)))
        )
        if not sound:
            raise ValueError(f'not a sound preprocessing: {self}')

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> 'ImagePreprocessor':
        """A preprocessor of the fields of a file's header, where lists stand for tuples."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        }
        return cls(**values)

    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> np.ndarray:
        """A batch of one or several images.

        Each is a path, a Pillow image, or a uint8 array [height, width] or [height, width,
        channels]. EXIF orientation is applied and transparency dropped. Raises ValueError, which
        names the file, for what is not an image, is cut short or has over 50 million pixels.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        ):
            images = [images]
        if len(images) == 0:
            raise ValueError('expected at least one image, found none')
        return np.stack([self._prepare(image) for image in images])

    def _prepare(self, image: Any) -> np.ndarray:
        mode = 'L' if len(self.mean) == 1 else 'RGB'
        pixels = self._fit(read_image(image, mode))
        scaled = np.asarray(pixels, np.float32).reshape(*self.size, len(self.mean)) / 255
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def _fit(self, image: Image.Image) -> Image.Image:
        """`image` resized and cropped to `size`."""
        height, width = self.size
        interpolation = _INTERPOLATIONS[self.interpolation]
        if not self.crop:
            return image.resize((width, height), interpolation)
        scale = max(height / self.crop / image.height, width / self.crop / image.width)
        wide, high = (
            max(round(image.width * scale), width),
            max(round(image.height * scale), height),
        )
        if wide * high > MAX_PIXELS:
            raise ValueError(
                f'an image of {image.width} x {image.height} pixels is too long to crop: '
                f'resized it would have {wide} x {high}'
            )
        resized = image.resize((wide, high), interpolation)
        left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
        return resized.crop((left, top, left + width, top + height))


def read_image(source: ImageInput, mode: str) -> Image.Image:
    """An upright image of `mode`, 'L' or 'RGB', from a path, a Pillow image or a uint8 array."""
    if isinstance(source, Image.Image):
        return _convert(source, mode)
    if isinstance(source, np.ndarray):
        return _convert(_from_array(source), mode)
    try:
        with _open(Path(source)) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ValueError(f'expected at most {MAX_PIXELS} pixels, found {pixels}')
            return _convert(image, mode)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{str(source)!r} cannot be read as an image: {error}') from error


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        # Our own limit is lower than the one from which Pillow warns.
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        return Image.open(path)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(
            'expected a uint8 array [height, width] or [height, width, channels], '
            f'found {array.dtype}{list(array.shape)}'
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[-1] not in (3, 4):
        raise ValueError(f'expected 1, 3 or 4 channels last, found {list(array.shape)}')
    return Image.fromarray(array)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I') or image.mode == 'F':
        # Pillow would clip 16-bit values at 255; keep their upper eight bits instead.
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535 or image.mode == 'F':
            raise ValueError(f'pixels of mode {image.mode} have no known range')
        image = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == 'P':
        image = image.convert('RGBA')
    return image.convert(mode)
