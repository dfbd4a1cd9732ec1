"""Images to train on, wherever it is said what is right of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from blox.wording import some
from blox.zoo.inputs.images import ImagePreprocessor, read_image
from blox.zoo.training.augment import Augmentation, augmented
from blox.zoo.training.data import THREADS, Data, Pair

# A file, and what is right of it.
Example: TypeAlias = tuple[Path, np.ndarray]


class Examples(NamedTuple):
    """Examples by part."""

    training: list[Example]
    held_out: list[Example]
    test: list[Example]


class Images(NamedTuple):
    """What is the same of all images.

    Attributes:
      root: the folder from which on files are named.
      labels, scores: as `Data` has them.
      augmentation, flip: how training changes them.
    """

    root: Path
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
    summary: str,
) -> Data:
    """Make data of files, each decoded once. Raises ValueError that names all that cannot be read."""
    every = [example for part in examples for example in part]
    _check_images([file for file, _ in every], prepare)
    return Data(
        examples.training,
        examples.held_out,
        functools.partial(_read, prepare, images),
        images.labels,
        _fingerprint(images, every, prepare),
        summary,
        examples.test,
        images.scores,
        counts,
        functools.partial(_picture, prepare),
    )


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


def _read(
    prepare: ImagePreprocessor, images: Images, example: Example, rng: np.random.Generator | None
) -> Pair:
    file, target = example
    if rng is None:
        return prepare(file)[0], target
    image = _picture(prepare, example)
    return augmented(image, prepare, rng, images.augmentation, images.flip), target


def _picture(prepare: ImagePreprocessor, example: Example) -> Image.Image:
    return read_image(example[0], 'L' if len(prepare.mean) == 1 else 'RGB')


def _fingerprint(images: Images, examples: Sequence[Example], prepare: ImagePreprocessor) -> str:
    """Hash the files' names and contents, what is right of them, and how they are read."""

    def digest(example: Example) -> str:
        file, target = example
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        return f'{file.relative_to(images.root)}\0{content}\0{target.tolist()}'

    with ThreadPoolExecutor(THREADS) as pool:
        lines = [*pool.map(digest, examples), repr((prepare, images._replace(root=Path())))]
    return hashlib.sha256('\0'.join(lines).encode('utf-8', 'surrogateescape')).hexdigest()
