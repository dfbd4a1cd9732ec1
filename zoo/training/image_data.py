"""Images to train on, wherever it is said what is right of them."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from blox.wording import some
from blox.zoo.inputs.images import ImagePreprocessor, read_image
from blox.zoo.training.augment import Augmentation, augmented
from blox.zoo.training.data import THREADS, Data, Pair

# A file, or a function that gives an image, and what is right of it.
Example: TypeAlias = tuple[Path | Callable[[], Image.Image], np.ndarray]


class Examples(NamedTuple):
    """Examples by part."""

    training: Sequence[Example]
    held_out: Sequence[Example]
    test: Sequence[Example]


class Images(NamedTuple):
    """What is the same of all images.

    Attributes:
      labels, scores: as `Data` has them.
      augmentation, flip: how training changes them.
    """

    labels: tuple[str, ...]
    augmentation: Augmentation
    flip: bool
    scores: str = ''


def image_data(
    examples: Examples,
    prepare: ImagePreprocessor,
    images: Images,
    *,
    counts: tuple[int, ...],
    fingerprint: str,
    summary: str,
) -> Data:
    """Make data of images. `fingerprint` tells them and what is right of them from others."""
    return Data(
        examples.training,
        examples.held_out,
        functools.partial(_read, prepare, images),
        images.labels,
        hashlib.sha256(repr((fingerprint, prepare, images.labels)).encode()).hexdigest(),
        summary,
        examples.test,
        images.scores,
        counts,
        functools.partial(_picture, prepare),
        f'flip {images.flip}, {images.augmentation}',
    )


def _read(
    prepare: ImagePreprocessor, images: Images, example: Example, rng: np.random.Generator | None
) -> Pair:
    source, target = example
    if rng is None:
        return prepare(_opened(source))[0], target
    image = _picture(prepare, example)
    return augmented(image, prepare, rng, images.augmentation, images.flip), target


def _picture(prepare: ImagePreprocessor, example: Example) -> Image.Image:
    return read_image(_opened(example[0]), 'L' if len(prepare.mean) == 1 else 'RGB')


def _opened(source: Path | Callable[[], Image.Image]) -> Path | Image.Image:
    return source() if callable(source) else source


# Files.


def fingerprint_of_files(root: Path, examples: Examples, prepare: ImagePreprocessor) -> str:
    """Hash files' names from `root` on, their contents, and what is right of them; decode each once.

    Raises ValueError that names all that cannot be read.
    """
    every = [(Path(file), target) for part in examples for file, target in part]  # type: ignore[arg-type]
    _check_images([file for file, _ in every], prepare)

    def digest(example: tuple[Path, np.ndarray]) -> str:
        file, target = example
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        return f'{os.path.relpath(file, root)}\0{content}\0{target.tolist()}'

    with ThreadPoolExecutor(THREADS) as pool:
        text = '\0'.join(pool.map(digest, every))
    return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()


def _check_images(files: Sequence[Path], prepare: ImagePreprocessor) -> None:
    """Decode every file once: better to stop now than in the middle of training."""

    def error(file: Path) -> str:
        try:
            if file.exists() and not file.is_file():
                return f'{str(file)!r} is not a regular file'
            prepare(file)
        except (OSError, ValueError) as error:
            return str(error) if str(file) in str(error) else f'{str(file)!r}: {error}'
        return ''

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [text for text in pool.map(error, files) if text]
    if wrong:
        raise ValueError(
            f'{len(wrong)} of {len(files)} images cannot be read; mend or remove them: '
            f'{some(wrong, 50)}'
        )
