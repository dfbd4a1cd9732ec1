"""What commands are given: files and folders of images, texts, lines of files."""

import codecs
import os
from collections.abc import Callable, Iterator, Sequence
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
from blox.zoo.running.embedding import TEMPLATE

LABELS = click.option(
    '--labels',
    metavar='TEXT',
    multiple=True,
    help="For a CLIP: 'a cat,a dog', or @FILE of lines, @- stdin.",
)
TEMPLATES = click.option(
    '--template',
    'templates',
    metavar='TEXT',
    multiple=True,
    help=f"Says a label in the place of {{}}; else '{TEMPLATE}'",
)


def image_files(names: Sequence[str]) -> list[Path]:
    """Return the files named, and the images in the folders named, sorted."""
    files: list[Path] = []
    for name in names:
        if not name:
            raise ValueError('expected the name of a file or folder, found nothing')
        # Unlike Path's, this holds for names that no file can have.
        if not os.path.isdir(name):
            files.append(Path(name))
            continue
        found = sorted(_images_in(name))
        if not found:
            raise ValueError(f'{name!r} holds no images')
        files += found
    return files


def _images_in(folder: str) -> Iterator[Path]:
    """Yield the files in a folder and those below it that are called as images are; report what is closed.

    Hidden ones are left out, and what is no file, such as a pipe; links that lead nowhere are not.
    """

    def closed(error: OSError) -> None:
        report(printable(error.filename), error.strerror)

    for place, _, names in os.walk(folder, onerror=closed):
        for path in (Path(place, name) for name in names):
            is_image = path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')
            if is_image and (path.is_file() or not path.exists()):
                yield path


def is_image(name: str) -> bool:
    """Return whether this is a file, or called as an image's is: no text is meant."""
    return os.path.isfile(name) or Path(name).suffix.lower() in IMAGE_SUFFIXES


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
            report_file(files[i], error)
            progress.update()

        for item in batches.run_images(call, params, prepare, files, skip):
            found.append(item)
            progress.update()
    return found


def report_file(file: Path, error: Exception) -> None:
    """Print why a file was left out."""
    why = getattr(error, 'strerror', None) or str(error)
    report(printable(file), why.removeprefix(f'{str(file)!r} '))


def read_text() -> str:
    """Return what stdin holds; what is not UTF-8 becomes lone surrogates."""
    with click.open_file('-', 'rb') as stream:
        return stream.read().removeprefix(codecs.BOM_UTF8).decode('utf-8', 'surrogateescape')


def read_lines(file: str) -> list[str]:
    """Return the lines of a file, of stdin for -; what is not UTF-8 becomes lone surrogates."""
    with click.open_file(file, 'rb') as stream:
        content = stream.read().removeprefix(codecs.BOM_UTF8)
    lines = content.removesuffix(b'\n').split(b'\n') if content else []
    return [line.removesuffix(b'\r').decode('utf-8', 'surrogateescape') for line in lines]


def read_labels(given: Sequence[str]) -> list[str]:
    """Return labels given as 'a cat,a dog', or as @FILE of lines. ValueError for one that gives none."""
    labels: list[str] = []
    for text in given:
        if text == '@':
            raise ValueError('expected the name of a file after @, found nothing')
        lines = read_lines(text[1:]) if text.startswith('@') else text.split(',')
        found = [label for label in map(str.strip, lines) if label]
        if not found:
            raise ValueError(f'--labels {text!r}: expected labels, found none')
        labels += found
    return labels
