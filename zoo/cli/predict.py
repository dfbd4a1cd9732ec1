"""The command of `blox` that classifies images: predict."""

import csv as csv_format
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import tqdm

import blox as bx
from blox.atomic import atomic_write
from blox.wording import printable
from blox.zoo.cli.shared import (
    AS_JSON,
    MODEL,
    check_free,
    check_one_output,
    find,
    number,
    preprocessor_of,
    read,
    report,
)
from blox.zoo.inputs.images import IMAGE_SUFFIXES
from blox.zoo.running import batches


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('images', nargs=-1, required=True)
@number('--top', click.IntRange(1), 'How many classes of each.', 1)
@click.option('--csv', metavar='FILE', help='Write a new CSV file; - for stdout.')
@AS_JSON
def predict(model: str, images: tuple[str, ...], top: int, csv: str | None, as_json: bool) -> None:
    """Classify IMAGES, files or folders of them.

    Prints each file's likeliest classes with probabilities. Files that cannot be read are
    reported and left out; the exit code is then 1.

    \b
    Example: blox predict vit-b16 cat.jpg photos/ --top 5
             blox predict vit-b16 photos/ --csv photos.csv
    """
    check_one_output(csv, as_json, '--csv')
    if csv and csv != '-':
        check_free(csv)
    found = find(model, 'image-classification')
    prepare = preprocessor_of(found.card, model)
    files = _image_files(images)
    rows = _classify(*read(found, model), prepare, files, found.card.labels, top)
    if csv:
        _write_csv(csv, rows)
    elif as_json:
        print(json.dumps([_as_json(*row) for row in rows], indent=2))
    else:
        width = max((len(printable(file)) for file, _ in rows), default=0)
        for file, best in rows:
            answer = '  '.join(f'{label} {100 * p:5.1f} %' for label, p in best)
            print(f'{printable(file):<{width}}  {answer}')
    if len(rows) < len(files):
        sys.exit(1)


def _image_files(names: tuple[str, ...]) -> list[Path]:
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


# How a cell starts that a spreadsheet would compute; an apostrophe before it makes it a text.
_FORMULAS = ('=', '+', '-', '@', '\t', '\r')

_Row: TypeAlias = tuple[Path, list[tuple[str, float]]]


def _classify(
    model: Any,
    params: bx.Params,
    prepare: bx.zoo.ImagePreprocessor,
    files: list[Path],
    labels: Sequence[str],
    top: int,
) -> list[_Row]:
    """Return the `top` likeliest labels of each file that can be read; report the others."""
    found = []
    with tqdm.tqdm(total=len(files), unit='image', leave=False, disable=None) as progress:

        def skip(file: Path, error: Exception) -> None:
            report(printable(file), getattr(error, 'strerror', None) or error)
            progress.update()

        for file, row in batches.classify(model, params, prepare, files, skip):
            found.append((file, _best(row, labels, top)))
            progress.update()
    return found


def _best(row: np.ndarray, labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    best = np.argsort(-row, kind='stable')[:top]
    return [(labels[i] if i < len(labels) else str(i), float(row[i])) for i in map(int, best)]


def _as_json(file: Path, classes: list[tuple[str, float]]) -> dict[str, Any]:
    return {
        'file': str(file),
        'classes': [{'label': label, 'probability': p} for label, p in classes],
    }


def _write_csv(out: str, rows: list[_Row]) -> None:
    """Write a header, and a line for each file: its name, labels and probabilities."""
    most = max((len(best) for _, best in rows), default=1)
    names = [f'{name}{i}' for i in ('', *range(2, most + 1)) for name in ('label', 'probability')]
    lines = [_csv_line(['file', *names])]
    for file, best in rows:
        cells = (cell for label, p in best for cell in (label, f'{p:.6g}'))
        lines.append(_csv_line([file, *cells]))
    # A file's name need not be UTF-8.
    content = ''.join(lines).encode('utf-8', 'surrogateescape')
    if out == '-':
        sys.stdout.buffer.write(content)
        return
    with atomic_write(out) as stream:
        stream.write(content)
    print(f'{out}: {len(rows)} files')


def _csv_line(cells: Sequence[object]) -> str:
    """Write a line of cells that a spreadsheet takes for texts and numbers, never for formulas."""
    texts = [str(cell) for cell in cells]
    texts = [f"'{text}" if text.startswith(_FORMULAS) else text for text in texts]
    text = io.StringIO(newline='')
    # It quotes cells with the characters that end its lines, so let those be both.
    csv_format.writer(text, lineterminator='\r\n').writerow(texts)
    return text.getvalue().removesuffix('\r\n') + '\n'


COMMANDS = (predict,)
