"""What commands are given: files and folders of images, texts, lines of files."""

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import jax
import numpy as np
import tqdm

import blox as bx
from blox.wording import printable
from blox.zoo.cli.shared import report
from blox.zoo.inputs.images import IMAGE_SUFFIXES, ImagePreprocessor
from blox.zoo.running import batches


def image_files(names: tuple[str, ...]) -> list[Path]:
    """Return the files named, and the images in the folders named, sorted."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if not name:
            raise ValueError('expected the name of a file or folder, found nothing')
        if path.is_dir():
            found = sorted(f for f in path.rglob('*') if f.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ValueError(f'{name!r} holds no images')
            files += found
        else:
            files.append(path)
    return files


def is_image(name: str) -> bool:
    """Return whether this is called as the file of an image is: no text is meant."""
    return Path(name).suffix.lower() in IMAGE_SUFFIXES


def over_images(
    call: Callable[[bx.Params, jax.Array], jax.Array],
    params: bx.Params,
    prepare: ImagePreprocessor,
    files: Sequence[Path],
) -> list[tuple[int, np.ndarray]]:
    """Return the index of each file that can be read, and what `call` makes of it; report the others."""
    found = []
    with tqdm.tqdm(total=len(files), unit='image', leave=False, disable=None) as progress:

        def skip(i: int, error: Exception) -> None:
            report(printable(files[i]), getattr(error, 'strerror', None) or error)
            progress.update()

        for item in batches.run_images(call, params, prepare, files, skip):
            found.append(item)
            progress.update()
    return found


def read_lines(file: str) -> list[str]:
    """Return the lines of a file, of stdin for -; what is not UTF-8 becomes lone surrogates."""
    with click.open_file(file, 'rb') as stream:
        content = stream.read().removeprefix(codecs.BOM_UTF8)
    lines = content.removesuffix(b'\n').split(b'\n') if content else []
    return [line.removesuffix(b'\r').decode('utf-8', 'surrogateescape') for line in lines]
