"""Read what a model is measured on: files of images, texts, and what is right of each."""

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from blox.paths import natural_key
from blox.wording import counted, printable, some
from blox.zoo.datasets.folders import (
    LIKE_PARTS,
    VALIDATION,
    check_no_loose,
    directories,
    images_below,
)
from blox.zoo.datasets.tables import FILE, LABEL, OTHER_TEXT, TEXT, columns
from blox.zoo.datasets.texts import read_text

# Of the parts of a folder the first that is there is measured on.
_PARTS = ('test', *VALIDATION)

_FIRST = ('sentence1', 'text1', 'sentence', 'text')
_SECOND = ('sentence2', 'text2')
_SCORE = ('score', 'similarity', 'label')


class Labelled(NamedTuple):
    """Inputs of a classifier, and the class of each by name.

    Attributes:
      items: what each input is called, so that another evaluation of the data knows it again.
      classes: the names of all classes that the data has, those without examples too.
      note: what the data is, in words.
    """

    files: list[Path]
    texts: list[str] | list[tuple[str, str]]
    names: list[str]
    items: list[str]
    classes: list[str]
    note: str


class Pairs(NamedTuple):
    """Pairs of texts, and how alike those of each are."""

    texts: list[tuple[str, str]]
    scores: list[float]


def existing(path: str | os.PathLike[str]) -> Path:
    """Return a path that is there. FileNotFoundError for any other."""
    if not os.fspath(path) or not os.path.exists(path):
        raise FileNotFoundError(f'{str(path)!r}: expected a folder or a file, found nothing')
    return Path(path)


def labelled_images(path: Path) -> Labelled:
    """Read a folder with a directory of images for each class, or a CSV file of files and labels.

    Of a folder with parts `test/` is taken, or `val/`. Files in a CSV are named from its folder on.
    Raises ValueError for what is neither.
    """
    if path.is_dir():
        return _class_folders(_part_of(path))
    rows = columns(path, {'file': FILE, 'label': LABEL})
    files, names = [path.parent / file for file, _ in rows], [label for _, label in rows]
    items = [f'{file} {_size(path.parent / file)}' for file, _ in rows]
    return Labelled(files, [], names, items, [*dict.fromkeys(names)], printable(path))


def _part_of(root: Path) -> Path:
    """Return the part of a folder that is measured on, or the folder itself if it has none."""
    names = [entry.name for entry in directories(root)]
    parts = [name for name in names if name.lower() in LIKE_PARTS and directories(root / name)]
    if not parts:
        return root
    chosen = next((name for name in _PARTS if name in parts), None)
    if chosen is None or len(parts) < len(names):
        raise ValueError(
            f'{str(root)!r}: expected directories of classes, or of parts alone with one of '
            f'{", ".join(_PARTS)}; found {some(names)}, of which {some(parts)} hold classes. '
            'Name the one to measure on'
        )
    return root / chosen


def _class_folders(root: Path) -> Labelled:
    check_no_loose(root)
    found = {
        entry.name: [file for file in images_below(entry, Counter()) if _is_regular(file)]
        for entry in directories(root)
    }
    files = [(file, name) for name, own in found.items() for file in own]
    if not files:
        raise ValueError(
            f'{str(root)!r}: expected a directory of images for each class, found none; '
            'or a CSV file with the columns file and label'
        )
    items = [f'{file.relative_to(root)} {_size(file)}' for file, _ in files]
    names = [name for _, name in files]
    return Labelled([file for file, _ in files], [], names, items, [*found], printable(root))


def _is_regular(file: Path) -> bool:
    """Return whether a name is of a file, or of none: a link that leads nowhere is told later."""
    return file.is_file() or not file.exists()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else -1
    except OSError:  # Such as a name that no file can have.
        return -1


def labelled_texts(path: Path) -> Labelled:
    """Read a CSV file of texts, or pairs of texts, and labels. Raises ValueError for other files."""
    rows = columns(path, {'text': TEXT, 'label': LABEL, 'text2': OTHER_TEXT}, optional='text2')
    texts = [(text, *other) if other else text for text, _, *other in rows]
    names = [label for _, label, *_ in rows]
    items = [repr(text) for text in texts]
    return Labelled([], texts, names, items, [*dict.fromkeys(names)], printable(path))  # type: ignore[arg-type]


def scored_pairs(path: Path) -> Pairs:
    """Read a CSV file of pairs of texts and their scores. Raises ValueError for other files."""
    rows = columns(path, {'sentence1': _FIRST, 'sentence2': _SECOND, 'score': _SCORE})
    scores = []
    for row, (_, _, text) in enumerate(rows, 1):
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(
                f'{str(path)!r}: expected a finite number as the score of row {row}, found {text[:30]!r}'
            )
        scores.append(score)
    if len({*scores}) < 2:
        raise ValueError(f'{str(path)!r}: expected two different scores or more, found {scores[0]}')
    return Pairs([(first, second) for first, second, _ in rows], scores)


def plain_texts(path: Path) -> dict[str, str]:
    """Read a text file, or all files of a folder that end in .txt, by name. ValueError for none."""
    files = [path]
    if path.is_dir():
        files = [
            file
            for file in sorted(path.iterdir())
            if file.suffix.lower() == '.txt' and file.is_file() and not file.name.startswith('.')
        ]
    found = {file.name: text for file in files if (text := read_text(file))}
    if not found:
        what = 'files that end in .txt' if path.is_dir() else 'a text'
        raise ValueError(f'{str(path)!r}: expected {what}, found nothing')
    return found


# Classes by name.


def class_numbers(
    names: Iterable[str], labels: Sequence[str], count: int, *, in_order: bool
) -> tuple[dict[str, int], str]:
    """Return the class of each name: by label, by one of a label's synonyms, or by number.

    Where none of as many names as classes is any of these, and they may be `in_order`, their natural
    order is the classes'; the text says so. Raises ValueError that lists names that no class has.
    """
    unique = sorted({*names}, key=natural_key)
    known = _known(labels)
    found = {name: known.get(_folded(name)) for name in unique}
    if None not in found.values():
        return {name: known[_folded(name)] for name in unique}, ''
    if all(name.isascii() and name.isdigit() and int(name) < count for name in unique):
        return {name: int(name) for name in unique}, ''
    if in_order and len(unique) == count and {*found.values()} == {None} and all(unique):
        return {name: i for i, name in enumerate(unique)}, 'classes in the order of names'
    unknown = [name for name, i in found.items() if i is None]
    raise ValueError(
        f"expected names of the model's {count} classes ({some(labels, 5) or 'it has no labels'}), or numbers "
        f'below {count}, or {count} names in the order of the classes of which none is a label; found '
        f'{counted(len(unique), "name")}, among them {some([repr(name) for name in unknown], 5)}'
    )


def _known(labels: Sequence[str]) -> dict[str, int]:
    """Return the class of each label, and of each part of one like 'tench, Tinca tinca'.

    What is of two classes is of none, and a part that is a label itself is that.
    """
    whole = _of_one_class((label, i) for i, label in enumerate(labels))
    parts = _of_one_class((part, i) for i, label in enumerate(labels) for part in label.split(','))
    return {**parts, **whole}


def _of_one_class(items: Iterable[tuple[str, int]]) -> dict[str, int]:
    places: dict[str, set[int]] = {}
    for name, i in items:
        places.setdefault(_folded(name), set()).add(i)
    return {name: i for name, (i, *others) in places.items() if not others and name}


def _folded(name: str) -> str:
    """Return a name as it is compared: without regard to case, and to how accents are stored."""
    return unicodedata.normalize('NFC', name).strip().casefold()
