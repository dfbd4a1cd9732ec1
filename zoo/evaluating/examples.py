"""Read what a model is measured on: files of images, texts, and what is right of each."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from blox.wording import printable, some
from blox.zoo.training.images import images_below

# Names of directories that are parts of the data; the first that is there is measured on.
_PARTS = ('test', 'val', 'valid', 'validation')
_TRAINING = 'train'

_FILE = ('file', 'path', 'image', 'filename', 'file_name')
_LABEL = ('label', 'class', 'target', 'category')
_TEXT = ('text', 'sentence', 'premise', 'sentence1', 'text1')
_OTHER = ('text2', 'sentence2', 'hypothesis')
_SCORE = ('score', 'similarity', 'label')

_MAX_BYTES = 2**30


class Labelled(NamedTuple):
    """Inputs of a classifier and the class of each by name; the folder of files, and what to say of them."""

    inputs: list[Path] | list[str] | list[tuple[str, str]]
    names: list[str]
    note: str
    root: Path | None = None


class Pairs(NamedTuple):
    """Pairs of texts, and how alike those of each are."""

    texts: list[tuple[str, str]]
    scores: list[float]


def labelled_images(path: Path) -> Labelled:
    """Read a folder with a directory of images for each class, or a CSV file of files and labels.

    Of a folder with parts `test/` is taken, or `val/`. Files in a CSV are named from its folder on.
    Raises ValueError for what is neither.
    """
    if path.is_dir():
        return _class_folders(path)
    rows, (file, label) = _columns(path, {'file': _FILE, 'label': _LABEL})
    files, names = [path.parent / row[file] for row in rows], [row[label] for row in rows]
    return Labelled(files, names, printable(path), path.parent)


def _class_folders(root: Path) -> Labelled:
    part = next((name for name in _PARTS if (root / name).is_dir()), '')
    names = [entry.name for entry in _directories(root)]
    is_parted = part and not {*names} - {_TRAINING, *_PARTS}
    top = root / part if is_parted else root
    found = {entry.name: images_below(entry, Counter()) for entry in _directories(top)}
    files = [(file, name) for name, own in found.items() for file in own]
    if not files:
        raise ValueError(
            f'{str(top)!r}: expected a directory of images for each class, found none; '
            'or a CSV file with the columns file and label'
        )
    return Labelled([file for file, _ in files], [name for _, name in files], printable(top), top)


def _directories(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith('.'))


def labelled_texts(path: Path) -> Labelled:
    """Read a CSV file of texts, or pairs of texts, and labels. Raises ValueError for other files."""
    rows, (text, label) = _columns(path, {'text': _TEXT, 'label': _LABEL})
    other = next((name for name in _OTHER if name in rows[0]), None)
    texts = [(row[text], row[other]) for row in rows] if other else [row[text] for row in rows]
    return Labelled(texts, [row[label] for row in rows], printable(path))


def scored_pairs(path: Path) -> Pairs:
    """Read a CSV file of pairs of texts and their scores. Raises ValueError for other files."""
    wanted = {'sentence1': _TEXT, 'sentence2': _OTHER, 'score': _SCORE}
    rows, (first, second, score) = _columns(path, wanted)
    scores = []
    for line, row in enumerate(rows, 2):
        try:
            scores.append(float(row[score]))
        except ValueError:
            raise ValueError(
                f'{str(path)!r}: expected a number in column {score} of line {line}, found '
                f'{row[score][:30]!r}'
            ) from None
    return Pairs([(row[first], row[second]) for row in rows], scores)


def plain_texts(path: Path) -> dict[str, str]:
    """Read a text file, or all files of a folder that end in .txt, by name. ValueError for no UTF-8."""
    files = sorted(path.glob('*.txt')) if path.is_dir() else [path]
    if not files:
        raise ValueError(f'{str(path)!r}: expected files that end in .txt, found none')
    return {file.name: text for file in files if (text := _read(file))} or _no_text(path)


def _no_text(path: Path) -> dict[str, str]:
    raise ValueError(f'{str(path)!r}: expected a text, found nothing')


def _read(file: Path) -> str:
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{str(file)!r}: expected at most {_MAX_BYTES} bytes')
    try:
        return file.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{str(file)!r}: expected text in UTF-8, found {error.reason} at byte {error.start}'
        ) from error


def _columns(
    path: Path, wanted: Mapping[str, Sequence[str]]
) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Read a CSV file with a line of names; return its rows, and the names of the columns wanted."""
    reader = csv.DictReader(_read(path).splitlines(keepends=True))
    names = [name for name in reader.fieldnames or () if name is not None]
    chosen: list[str] = []
    for what, known in wanted.items():
        found = [name for name in known if name in names and name not in chosen]
        if not found:
            raise ValueError(
                f'{str(path)!r}: expected a CSV file whose first line names a column {what!r} '
                f'(or {", ".join(known[1:])}), found {some(names) or "none"}'
            )
        chosen.append(found[0])
    rows = list(reader)
    if not rows:
        raise ValueError(f'{str(path)!r}: expected rows below the names of columns, found none')
    for line, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(
                f'{str(path)!r}: expected {len(names)} cells in row {line - 1}, as the first line names'
            )
    return rows, tuple(chosen)


# Classes by name.


def class_numbers(names: Iterable[str], labels: Sequence[str], count: int) -> dict[str, int]:
    """Return the class of each name: by label, by one of a label's synonyms, or by number.

    Where as many names as classes are none of these, their sorted order is the classes', as in timm and
    torchvision. Raises ValueError that lists names that no class has.
    """
    unique = sorted({*names})
    known = {**_synonyms(labels), **{label: i for i, label in enumerate(labels)}}
    found = {name: known.get(name, known.get(name.lower())) for name in unique}
    if None not in found.values():
        return {name: i for name, i in found.items() if i is not None}
    if all(name.isascii() and name.isdigit() and int(name) < count for name in unique):
        return {name: int(name) for name in unique}
    if len(unique) == count:
        return {name: i for i, name in enumerate(unique)}
    unknown = [name for name, i in found.items() if i is None]
    raise ValueError(
        f"expected names of the model's {count} classes ({some(labels, 5) or 'it has no labels'}), numbers "
        f'below {count}, or {count} names in the order of the classes; found {len(unique)} names, '
        f'among them {some([repr(name) for name in unknown], 5)}'
    )


def _synonyms(labels: Sequence[str]) -> dict[str, int]:
    """Return the class of each part of labels like 'tench, Tinca tinca', if it is of one class alone."""
    places: dict[str, set[int]] = {}
    for i, label in enumerate(labels):
        for part in label.split(','):
            places.setdefault(part.strip().lower(), set()).add(i)
    return {part: i for part, (i, *others) in places.items() if not others}


def existing(path: str | os.PathLike[str]) -> Path:
    """Return a path that is there. FileNotFoundError for any other."""
    found = Path(path)
    if not found.exists():
        raise FileNotFoundError(f'{str(found)!r}: expected a folder or a file, found nothing')
    return found
