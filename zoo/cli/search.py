"""The command of `blox` that finds images by what they show: search."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from blox.atomic import atomic_write
from blox.wording import printable
from blox.zoo.cli.inputs import image_files, is_image
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
from blox.zoo.cli.vectors import embed_files, embed_texts
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.loading.place import Place
from blox.zoo.running.embedding import embeds_images, embeds_texts


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('folder')
@click.argument('queries', metavar='QUERY...', nargs=-1, required=True)
@number('--top', click.IntRange(1), 'How many images for each.', 5)
@click.option('--index', metavar='FILE', help='Keep embeddings there for the next search.')
@AS_JSON
def search(
    model: str, folder: str, queries: tuple[str, ...], top: int, index: str | None, as_json: bool
) -> None:
    """Find the images in FOLDER that are most like each QUERY, a text or an image.

    Prints their cosines and files. Texts are for models that embed them too, such as a CLIP. Of an index
    only new and changed images are embedded again.

    \b
    Example: blox search clip-b32 photos/ 'a cat asleep' --index photos.npz
             blox search dinov2-small photos/ cat.jpg --top 10
    """
    found = find(model)
    _check(found, model, queries)
    if not Path(folder).is_dir():
        raise NotADirectoryError(f'expected a folder of images, found {folder!r}')
    files = image_files((folder,))
    kept = _Index.read(index, found) if index else _Index.empty()
    asked, vectors = _embedded(found, model, queries, files, kept)
    if index:
        _Index([*map(_key, files)], vectors).write(index, found)
    rows = [_best(cosines, files, top) for cosines in _cosines(asked, vectors)]
    if as_json:
        said = [{'query': query, 'images': row} for query, row in zip(queries, rows)]
        say(json.dumps(said, indent=2))
    else:
        for query, row in zip(queries, rows):
            if len(queries) > 1:
                say(f'{printable(query)}:')
            for image in row:
                say(f'{image["cosine"]:6.3f}  {printable(image["file"])}')
    if not (np.isfinite(asked).all() and np.isfinite(vectors).all()):
        sys.exit(1)


def _check(found: Place, name: str, queries: Sequence[str]) -> None:
    """Raise ValueError where a model embeds no images, or no texts and some are asked for."""
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
    found: Place, name: str, queries: Sequence[str], files: Sequence[Path], kept: _Index
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings of queries, and of files; those that are kept are not made again."""
    card = found.card
    prepare = preprocessor_of(card, name)
    texts = [query for query in queries if not is_image(query)]
    prepare_text = text_preprocessor_of(card, tokenizer_of(card, name)) if texts else None
    model, params = read(found, name)
    images = [Path(query) for query in queries if is_image(query)]
    new = [file for file in files if _key(file) not in kept.rows]
    made = dict(zip([*images, *new], embed_files(model, params, prepare, [*images, *new])))
    said: dict[str, np.ndarray] = {}
    if prepare_text:
        note = lambda i, what: report(f'query {queries.index(texts[i]) + 1}', what)  # noqa: E731
        said = dict(zip(texts, embed_texts(model, params, prepare_text, texts, note)))
    asked = [said[query] if query in said else made[Path(query)] for query in queries]
    rows = [kept.rows[_key(file)] if _key(file) in kept.rows else made[file] for file in files]
    return np.stack(asked), np.stack(rows)


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return a @ b.T


def _best(cosines: np.ndarray, files: Sequence[Path], top: int) -> list[dict[str, Any]]:
    """Return the files with the highest cosines; those that could not be read are left out."""
    order = [i for i in np.argsort(-cosines, kind='stable') if np.isfinite(cosines[i])]
    return [{'file': str(files[i]), 'cosine': float(cosines[i])} for i in order[:top]]


# The index.


def _key(file: Path) -> str:
    """Return what changes when a file does: where it is, its size and when it was written."""
    about = file.stat()
    return f'{about.st_size} {about.st_mtime_ns} {file.resolve()}'


class _Index(NamedTuple):
    """Embeddings of files, as a .npz keeps them.

    Attributes:
      keys: what `_key` says of each.
      vectors: [files, width], NaN for those that could not be read.
    """

    keys: list[str]
    vectors: np.ndarray

    @classmethod
    def empty(cls) -> _Index:
        return cls([], np.empty((0, 0), np.float32))

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Embeddings by key; those that could not be read are tried again."""
        return {k: row for k, row in zip(self.keys, self.vectors) if np.isfinite(row).all()}

    @classmethod
    def read(cls, path: str, found: Place) -> _Index:
        """Read an index; an empty one where there is no file. ValueError for one of another model."""
        if not Path(path).exists():
            return cls.empty()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                keys, vectors, model = (arrays[name] for name in ('keys', 'vectors', 'model'))
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(
                f'{path!r}: expected an index of blox search, found: {error}'
            ) from error
        if str(model) != _model_of(found):
            raise ValueError(f'{path!r} is the index of another model: name another file')
        if vectors.ndim != 2 or len(vectors) != keys.size or vectors.dtype != np.float32:
            raise ValueError(f'{path!r}: expected an index of blox search, found other arrays')
        return cls([str(key) for key in keys], vectors)

    def write(self, path: str, found: Place) -> None:
        """Write the index of a model."""
        with atomic_write(path) as stream:
            np.savez(stream, keys=self.keys, vectors=self.vectors, model=_model_of(found))


def _model_of(found: Place) -> str:
    """Return what changes when a model does: its card, and its files where the card names no commit."""
    card = found.card
    files = [] if card.commit else sorted(_files(card.weights or found.folder))
    return json.dumps([card.fields(), *map(_key, files)], sort_keys=True)


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob('*') if file.is_file()] if path.is_dir() else [path]


COMMANDS = (search,)
