"""The command of `blox` that finds images by what they show: search."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from blox.atomic import atomic_write
from blox.wording import counted, printable
from blox.zoo.cli.inputs import image_files, is_image, report_file
from blox.zoo.cli.shared import (
    AS_JSON,
    MODEL,
    find,
    number,
    preprocessor_of,
    read,
    report,
    say,
    tokenizer_of,
)
from blox.zoo.cli.vectors import cosines, embed_files, embed_inputs
from blox.zoo.loading.foreign import needed
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.loading.place import Place
from blox.zoo.running.embedding import embedding_width, embeds_images, embeds_texts

# Images that are embedded before what is known of them is kept.
_PORTION = 2048


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('folder')
@click.argument('queries', metavar='QUERY...', nargs=-1, required=True)
@number('--top', click.IntRange(1), 'How many images for each.', 5)
@click.option('--index', metavar='FILE', help='Keep embeddings there, of one model.')
@AS_JSON
def search(
    model: str, folder: str, queries: tuple[str, ...], top: int, index: str | None, as_json: bool
) -> None:
    """Find the images in FOLDER that are most like each QUERY.

    A QUERY is an image's file, or a text for models that embed them too, such as a CLIP. Prints cosines
    and files. Of an index only images are embedded again that are new, or of another size or time. Files
    that cannot be read are left out; the exit code is then 1.

    \b
    Example: blox search clip-b32 photos/ 'a cat asleep' --index photos.npz
             blox search dinov2-small photos/ cat.jpg --top 10
    """
    found = find(model)
    _check(found, model, folder, queries)
    kept = _Index(index, _model_of(found))
    files, is_whole = _stamped(image_files((folder,)))
    asked, vectors = _embedded(found, model, queries, files, kept)
    rows = [_best(row, [*files], top) for row in cosines(asked, vectors)]
    if as_json:
        said = [{'query': query, 'images': row} for query, row in zip(queries, rows)]
        say(json.dumps(said, indent=2))
    else:
        for query, row in zip(queries, rows):
            if len(queries) > 1:
                say(f'{printable(query)}:')
            for image in row:
                say(f'{image["cosine"]:6.3f}  {printable(image["file"])}')
    if not (is_whole and np.isfinite(asked).all() and np.isfinite(vectors).all()):
        sys.exit(1)


def _check(found: Place, name: str, folder: str, queries: Sequence[str]) -> None:
    """Raise ValueError where there is no folder, or a model embeds no images, or no texts that are asked for."""
    if not os.path.isdir(folder):
        raise NotADirectoryError(f'expected a folder of images, found {folder!r}')
    if folders := [query for query in queries if os.path.isdir(query)]:
        raise ValueError(f'expected texts and files of images, found the folder {folders[0]!r}')
    task = found.card.task
    if not embeds_images(task):
        raise ValueError(f'{name!r} is for {task}, expected a model of images')
    texts = [query for query in queries if not is_image(query)]
    if texts and not embeds_texts(task):
        raise ValueError(
            f'{name!r} embeds images alone: expected the file of one, found {texts[0]!r}; '
            'a CLIP or SigLIP takes texts'
        )


def _embedded(
    found: Place, name: str, queries: Sequence[str], files: Mapping[Path, str], kept: _Index
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of queries, and of files; those that are kept are not made again."""
    card = found.card
    prepare = preprocessor_of(card, name)
    given = [Path(query) if is_image(query) else query for query in queries]
    has_texts = any(isinstance(query, str) for query in given)
    prepare_text = text_preprocessor_of(card, tokenizer_of(card, name)) if has_texts else None
    model, params = read(found, name)
    width = embedding_width(model)
    rows = kept.rows(files.values(), width)
    new = [file for file, stamp in files.items() if stamp not in rows]
    if new:
        kept.check_free()
    for start in range(0, len(new), _PORTION):
        portion = new[start : start + _PORTION]
        made = embed_files(model, params, prepare, portion)
        rows |= {files[file]: row for file, row in zip(portion, made)}
        kept.keep(rows)

    def note(i: int, what: str) -> None:
        report(f'query {i + 1}', what)

    asked = embed_inputs(model, params, prepare, prepare_text, given, note)
    return asked, np.stack([rows[stamp] for stamp in files.values()])


def _best(cosines: np.ndarray, files: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """Return the files with the highest cosines; those that could not be read are left out."""
    order = [i for i in np.argsort(-cosines, kind='stable') if np.isfinite(cosines[i])]
    return [{'file': str(files[i]), 'cosine': float(cosines[i])} for i in order[:top]]


# The index.


def _stamped(files: Sequence[Path]) -> tuple[dict[Path, str], bool]:
    """Return files with what changes when one does: its size, its time and its place; and whether all are there.

    It is asked for before a file is read, so that what changes meanwhile is read again the next time.
    """
    found = {}
    for file in files:
        try:
            found[file] = _stamp(file)
        except OSError as error:
            report_file(file, error)
    if not found:
        raise ValueError('expected images that can be read, found none')
    return found, len(found) == len(files)


def _stamp(file: Path) -> str:
    about = file.stat()
    return f'{about.st_size} {about.st_mtime_ns} {file.resolve()}'


def _place(stamp: str) -> str:
    return stamp.split(' ', 2)[2]


class _Index:
    """Embeddings by the stamps of their files, kept in a .npz if it has a name, with the model's own stamp."""

    def __init__(self, path: str | None, model: str) -> None:
        self._path, self._model = path, model
        self._found: dict[str, np.ndarray] = {}
        if path is not None and os.path.lexists(path):
            self._found = self._read(path)
        elif path == '':
            raise ValueError('expected the name of an index, found nothing')

    def _read(self, path: str) -> dict[str, np.ndarray]:
        try:
            with open(path, 'rb') as stream, np.load(stream, allow_pickle=False) as arrays:
                stamps, vectors, model = (arrays[n] for n in ('stamps', 'vectors', 'model'))
            if stamps.ndim != 1 or vectors.shape[:1] != stamps.shape or vectors.ndim != 2:
                raise ValueError(f'arrays of {stamps.shape} and {vectors.shape}')
            if vectors.dtype != np.float32 or stamps.dtype.kind != 'U':
                raise ValueError(f'arrays of {stamps.dtype} and {vectors.dtype}')
        except OSError:
            raise
        # NumPy, zipfile and zlib have many kinds of errors for what is no such file.
        except Exception as error:
            what = 'expected an index that blox search wrote'
            raise ValueError(f'{path!r}: {what}, found another file ({error})') from error
        if str(model) != self._model:
            raise ValueError(
                f'{path!r} is the index of another model, or of other weights: name another file'
            )
        return dict(zip(map(str, stamps), vectors))

    def rows(self, stamps: Iterable[str], width: int) -> dict[str, np.ndarray]:
        """Return what is known of these files; what could not be read is tried again."""
        found = {stamp: self._found[stamp] for stamp in stamps if stamp in self._found}
        if wrong := [row.shape for row in found.values() if row.shape != (width,)]:
            raise ValueError(
                f'{self._path!r}: expected embeddings of {counted(width, "number")}, found {wrong[0]}'
            )
        return {stamp: row for stamp, row in found.items() if np.isfinite(row).all()}

    def check_free(self) -> None:
        """Raise OSError where nothing can be kept: better before long work than after."""
        if self._path is not None and not os.access(Path(self._path).absolute().parent, os.W_OK):
            raise OSError(f'cannot write {self._path!r}: its folder is missing or not writable')

    def keep(self, rows: Mapping[str, np.ndarray]) -> None:
        """Write these rows, and those of other files, which may be of other folders."""
        if self._path is None:
            return
        places = {*map(_place, rows)}
        others = {k: row for k, row in self._found.items() if _place(k) not in places}
        self._found = {**others, **rows}
        with atomic_write(self._path) as stream:
            stamps, vectors = [*self._found], np.stack([*self._found.values()])
            np.savez(stream, stamps=stamps, vectors=vectors, model=self._model)


def _model_of(found: Place) -> str:
    """Return what changes when a model does: its card, and its files where the card names no commit."""
    card = found.card
    files = [] if card.commit else _files(card.weights or found.folder)
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return json.dumps([card.fields(), stamps], sort_keys=True)


def _files(path: Path) -> list[Path]:
    """Return the files that a model is read from."""
    if not path.is_dir():
        return [path]
    return [path / name for name in needed([file.name for file in path.iterdir()])]


COMMANDS = (search,)
