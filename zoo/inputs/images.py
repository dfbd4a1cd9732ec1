"""Prepare images for a model: decode, resize, crop and normalize."""

import contextlib
import dataclasses
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from blox.zoo.architecture.validation import expect, expect_names
from blox.zoo.inputs.processors import (
    INTERPOLATIONS,
    are_lengths,
    are_numbers,
    read_hf,
    read_open_clip,
    read_timm,
    write_hf,
    write_open_clip,
    write_timm,
)

# The formats that are read, by how names of such files end. Others that Pillow knows run programs of
# theirs, such as Ghostscript, or have no pixels.
_FORMAT_OF = {
    '.png': 'PNG',
    '.jpg': 'JPEG',
    '.jpeg': 'JPEG',
    '.webp': 'WEBP',
    '.bmp': 'BMP',
    '.gif': 'GIF',
    '.tif': 'TIFF',
    '.tiff': 'TIFF',
}
IMAGE_SUFFIXES = tuple(_FORMAT_OF)
FORMATS = tuple(sorted({*_FORMAT_OF.values()}))

# The checksum of a PNG's last chunk, which is empty.
_PNG_END = b'\xaeB`\x82'
# Well below Pillow's own limit of 179 million, from which it raises.
MAX_PIXELS = 50_000_000

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

_OPENING = threading.Lock()
_ROUNDINGS = {'even': round, 'down': math.floor}
_DTYPES = ('uint8', 'float32')


@dataclass(frozen=True)
class ImagePreprocessor:
    """Make a model's batch [batch, height, width, channels], float32, of images.

    Attributes:
      size: height and width in pixels of what the model sees, cut from the centre of the image
        as it is after resizing.
      resize: height and width for resizing, neither less than in `size`.
      keep_ratio: whether an image keeps its proportions, and so just covers `resize`, or is
        stretched to exactly `resize`.
      interpolation: 'nearest', 'box', 'bilinear', 'hamming', 'bicubic' or 'lanczos', by Pillow.
      mean, std: of each channel, for pixels scaled to [0, 1]; their number is the channels'.
      crop_rounding: where the crop starts when it leaves an odd number of pixels: half of that
        rounded to the 'even' neighbour, as torchvision and timm do, or 'down', as transformers.
      resize_dtype: what pixels are while they are resized: 'uint8', and so rounded after it, or
        'float32', scaled to [0, 1] before, as those of transformers' DINOv3.
    """

    size: tuple[int, int]
    resize: tuple[int, int]
    keep_ratio: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_rounding: str = 'even'
    resize_dtype: str = 'uint8'

    def __post_init__(self) -> None:
        are_pairs = are_lengths(self.size, 2) and are_lengths(self.resize, 2)
        holds = {
            'size two positive integers': are_lengths(self.size, 2),
            f'resize no less than size {self.size}, at most {MAX_PIXELS} pixels': are_pairs
            and all(long >= length for long, length in zip(self.resize, self.size))
            and math.prod(self.resize) <= MAX_PIXELS,
            'keep_ratio a bool': type(self.keep_ratio) is bool,
            f'interpolation of {", ".join(INTERPOLATIONS)}': self.interpolation
            in list(INTERPOLATIONS),
            'mean one or three numbers': are_numbers(self.mean) and len(self.mean) in (1, 3),
            'std as many, positive': are_numbers(self.std)
            and are_numbers(self.mean)
            and len(self.std) == len(self.mean)
            and all(value > 0 for value in self.std),
            f'crop_rounding of {", ".join(_ROUNDINGS)}': self.crop_rounding in list(_ROUNDINGS),
            f'resize_dtype of {", ".join(_DTYPES)}': self.resize_dtype in _DTYPES,
        }
        expect('ImagePreprocessor', vars(self), holds)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> 'ImagePreprocessor':
        """Make a preprocessor of all its fields, as a file's header has them, with lists for tuples.

        Raises ValueError that names missing and unexpected fields, and values that are wrong.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        expect_names('ImagePreprocessor', names, fields)
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
        }
        return cls(**values)

    @classmethod
    def from_hf(cls, fields: Mapping[str, Any], model_type: str = '') -> 'ImagePreprocessor':
        """Read a preprocessor_config.json: do with Pillow what transformers does by it.

        Processors of ViT, DeiT, ConvNext, BiT, DINOv3, CLIP and SigLIP; where the file names none, as
        old ones do, config.json's `model_type` decides. Raises ValueError, which names the field, for what
        changes pixels and is not known here.
        """
        return cls(**read_hf(fields, model_type))

    @classmethod
    def from_timm(cls, pretrained_cfg: Mapping[str, Any]) -> 'ImagePreprocessor':
        """Read the `pretrained_cfg` of timm's config.json: do what timm does for evaluation.

        `input_size` holds, not `test_input_size`; empty fields have timm's defaults. Raises
        ValueError, which names the field, for what timm draws at random or pads.
        """
        return cls(**read_timm(pretrained_cfg))

    @classmethod
    def from_open_clip(
        cls, preprocess_cfg: Mapping[str, Any], size: tuple[int, int]
    ) -> 'ImagePreprocessor':
        """Read the `preprocess_cfg` of an open_clip_config.json, for images of the model's size.

        Raises ValueError, which names the field, for what pads images.
        """
        return cls(**read_open_clip(preprocess_cfg, size))

    def to_hf(self) -> dict[str, Any]:
        """Return a preprocessor_config.json by which transformers and Pillow make the same pixels.

        Raises ValueError if no processor of transformers does.
        """
        self._check_crop('down', 'transformers')
        return write_hf(vars(self))

    def to_timm(self) -> dict[str, Any]:
        """Return the fields of `pretrained_cfg` with which timm makes the same pixels.

        Raises ValueError if there are none.
        """
        self._check_crop('even', 'timm')
        if self.resize_dtype != 'uint8':
            raise ValueError(
                f"timm resizes with resize_dtype='uint8', found {self.resize_dtype!r}; "
                "dataclasses.replace(preprocessor, resize_dtype='uint8') rounds pixels to 1 / 255"
            )
        return write_timm(vars(self))

    def to_open_clip(self) -> dict[str, Any]:
        """Return the `preprocess_cfg` with which open_clip makes the same pixels.

        Raises ValueError if there is none.
        """
        return write_open_clip(vars(self))

    def for_size(self, size: tuple[int, int]) -> 'ImagePreprocessor':
        """Return the same for inputs of another size; the crop keeps the same part of the image."""
        resize = tuple(
            max(round(new * long / old), new)
            for new, long, old in zip(size, self.resize, self.size)
        )
        return dataclasses.replace(self, size=size, resize=resize)

    def _check_crop(self, rounding: str, library: str) -> None:
        """Raise ValueError if `rounding` may start the crop at another pixel."""
        left = [(long - short) / 2 for long, short in zip(self.resize, self.size)]
        differ = self.keep_ratio or any(round(half) != math.floor(half) for half in left)
        if differ and self.crop_rounding != rounding:
            raise ValueError(
                f'{library} crops with crop_rounding={rounding!r}, found {self.crop_rounding!r}; '
                f'dataclasses.replace(preprocessor, crop_rounding={rounding!r}) moves what the '
                'model sees by at most one pixel'
            )

    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> np.ndarray:
        """Make a batch of one or several images.

        Each is a path, a file's bytes, a Pillow image, or a uint8 array [height, width] or
        [height, width, channels]. Files are BMP, GIF, JPEG, PNG, TIFF or WebP, whatever their
        names. EXIF orientation is applied and transparency dropped. Raises ValueError, which names
        the file, for what is no such image, is cut short or has over 50 million pixels.
        """
        if isinstance(images, str | os.PathLike | bytes | Image.Image) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        ):
            images = [images]
        if len(images) == 0:
            raise ValueError('expected at least one image, found none')
        return np.stack([self._prepare(image) for image in images])

    def _prepare(self, image: Any) -> np.ndarray:
        mode = 'L' if len(self.mean) == 1 else 'RGB'
        pixels = read_image(image, mode)
        if self.resize_dtype == 'uint8':
            fitted = np.asarray(self.fit(pixels), np.float32) / 255
        else:
            # Pillow has floats in images of one channel alone.
            planes = (np.asarray(band, np.float32) / 255 for band in pixels.split())
            fitted = np.stack([np.asarray(self.fit(Image.fromarray(p))) for p in planes], -1)
        scaled = fitted.reshape(*self.size, len(self.mean))
        return (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize an image and crop it to `size`."""
        high, wide = self._resized(image)
        if wide * high > MAX_PIXELS:
            raise ValueError(
                f'an image of {image.width} x {image.height} pixels is too long to crop: '
                f'resized it would have {wide} x {high}'
            )
        resized = image.resize((wide, high), INTERPOLATIONS[self.interpolation])
        height, width = self.size
        half = _ROUNDINGS[self.crop_rounding]
        left, top = half((wide - width) / 2), half((high - height) / 2)
        return resized.crop((left, top, left + width, top + height))

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Return height and width of an image after resizing."""
        if not self.keep_ratio:
            return self.resize
        high, wide = self.resize
        if high == wide:
            # A square's longer side is rounded down, by torchvision and transformers alike.
            short = min(image.size)
            return high * image.height // short, high * image.width // short
        # timm alone covers other shapes, and rounds to the nearest.
        ratio = min(image.height / high, image.width / wide)
        return round(image.height / ratio), round(image.width / ratio)


def read_image(source: ImageInput, mode: str) -> Image.Image:
    """Read an upright image of `mode`, 'L' or 'RGB', from anything that a preprocessor takes.

    Raises ValueError, which names the file, if it is none of FORMATS, cut short or too large.
    """
    if isinstance(source, Image.Image):
        return _convert(source, mode)
    if isinstance(source, np.ndarray):
        return _convert(_from_array(source), mode)
    try:
        with _open(source) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise ValueError(f'expected at most {MAX_PIXELS} pixels, found {pixels}')
            return _convert(image, mode)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UnidentifiedImageError as error:
        what = f'expected one of {", ".join(FORMATS)}'
        raise ValueError(f'{_name(source)} cannot be read as an image: {what}') from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'{_name(source)} cannot be read as an image: {error}') from error


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return 'these bytes' if isinstance(source, bytes) else repr(str(source))


@contextlib.contextmanager
def _open(source: str | os.PathLike[str] | bytes) -> Iterator[Image.Image]:
    """Open an image of one of FORMATS, a PNG only if it is whole."""
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, 'rb') as file:
        image = _identified(file)
        if image.format == 'PNG':
            # Decoding stops at the last pixel, before the checksum that tells whether it is right.
            image.verify()
            if file.read(4) != _PNG_END:
                raise OSError('truncated PNG file')
            image = _identified(file)
        with image:
            yield image


def _identified(file: io.BytesIO | io.BufferedReader) -> Image.Image:
    file.seek(0)
    # Threads share the filters of warnings.
    with _OPENING, warnings.catch_warnings():
        # Our own limit is lower than the one from which Pillow warns.
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        return Image.open(file, formats=FORMATS)


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
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # Else it would be a copy.
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I') or image.mode == 'F':
        # Pillow would clip 16-bit values at 255; keep their upper eight bits instead.
        values = np.asarray(image)
        # Integers of 32 bits that need no more than eight may be of either.
        is_narrow = image.mode == 'I' and 0 < values.max() < 256
        if values.min() < 0 or values.max() > 65535 or image.mode == 'F' or is_narrow:
            raise ValueError(f'pixels of mode {image.mode} have no known range')
        image = Image.fromarray((values.astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == 'P':
        image = image.convert('RGBA')
    return image.convert(mode)
