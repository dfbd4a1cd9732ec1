"""Folders of images by class to fine-tune on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from blox.wording import counted, printable, some
from blox.zoo.datasets.folders import (
    LIKE_PARTS,
    VALIDATION,
    check_no_loose,
    directories,
    images_below,
)
from blox.zoo.inputs.images import IMAGE_SUFFIXES, ImagePreprocessor
from blox.zoo.training.augment import Augmentation
from blox.zoo.training.data import Data, check_fraction
from blox.zoo.training.image_data import Examples, Images, fingerprint_of_files, image_data

# Names of directories that are parts of the data, not classes.
_TRAINING, _TEST = 'train', 'test'

Files: TypeAlias = Mapping[str, Sequence[Path]]


class _Parts(NamedTuple):
    """Files by class, what is left out by suffix, and what was held out of what."""

    training: Files
    held_out: Files
    test: Files
    others: Counter[str]
    where: str = ''


def image_folder(
    path: str | os.PathLike[str],
    prepare: ImagePreprocessor,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    flip: bool = False,
    labels: Sequence[str] = (),
    augmentation: Augmentation = Augmentation(),
) -> Data:
    """Read a folder with a directory of images for each class; their sorted names are the labels.

    The fraction `holdout` of each class, at least one image, is held out, drawn with `seed`. Where
    the folder has `train/` and, beside it, `val/` (or `valid/`, `validation/`) or `test/` or both, and
    no other directory, these are the parts: what is in `val/` is held out, else the fraction of
    `train/`; what is in `test/` chooses nothing, and the best is scored on it once. `labels`, if the
    directories have the same names, gives their order. A class's own subdirectories belong to it.
    Hidden files are left out, and files that are no images by their suffix, as `summary` says.

    Training sees images changed at random, as `augmentation` says: nearly what `prepare` shows of them
    without it. With `flip` half of them are mirrored; digits and letters stay what they are without.
    Held-out images are read by `prepare` alone. Every file is decoded once before this returns.

    Raises ValueError, which names all files that cannot be read, or the classes that do not fit.
    """
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise ValueError(f'{str(root)!r}: expected a folder with a directory for each class')
    found = _parts(root, holdout, seed)
    names = sorted(found.training)
    order = tuple(labels) if sorted(labels) == names else tuple(names)
    training, held_out, test = (
        [
            (file, np.asarray(order.index(name), np.int32))
            for name in names
            for file in part.get(name, ())
        ]
        for part in (found.training, found.held_out, found.test)
    )
    examples = Examples(training, held_out, test)
    return image_data(
        examples,
        prepare,
        Images(order, augmentation, flip),
        fingerprint=fingerprint_of_files(root, examples, prepare),
        counts=tuple(len(found.training[name]) for name in order),
        summary=_summary(root, found),
    )


def _parts(root: Path, holdout: float, seed: int) -> _Parts:
    """Find the parts that a folder says itself, or divide it."""
    others: Counter[str] = Counter()
    names = [entry.name for entry in directories(root)]
    given = [name for name in names if name in VALIDATION]
    if len(names) < 2 or _TRAINING not in names or {*names} - {_TRAINING, *given, _TEST}:
        _check_no_parts(root, names)
        return _Parts(*_divided(root, _classes(root, others), holdout, seed), {}, others)
    if len(given) > 1:
        raise ValueError(f'{str(root)!r}: expected one of {", ".join(given)}, found all of them')
    training = _classes(root / _TRAINING, others)
    test = _same_classes(root, _TEST, training, others) if _TEST in names else {}
    if given:
        held_out = _same_classes(root, given[0], training, others)
        return _Parts(training, held_out, test, others, f', all of {given[0]}/')
    training, held_out = _divided(root / _TRAINING, training, holdout, seed)
    return _Parts(training, held_out, test, others, f' of {_TRAINING}/')


def _check_no_parts(root: Path, names: Sequence[str]) -> None:
    """Raise ValueError if several of what would be classes are called like parts, and hold classes."""
    parts = [name for name in names if name.lower() in LIKE_PARTS and directories(root / name)]
    if len(parts) > 1:
        raise ValueError(
            f'{str(root)!r}: expected directories of classes, or of parts alone that are called '
            f'{_TRAINING}, {VALIDATION[0]} and {_TEST}, found {some(names)}, of which '
            f'{some(parts)} are called like parts'
        )


def _same_classes(root: Path, name: str, training: Files, others: Counter[str]) -> Files:
    """Find the image files of a part. Raise ValueError for classes that training knows not."""
    found = _classes(root / name, others)
    if unknown := sorted(set(found) - set(training)):
        raise ValueError(
            f'{str(root / name)!r}: expected classes of {str(root / _TRAINING)!r}, '
            f'found others: {some(unknown)}'
        )
    return found


def _classes(root: Path, others: Counter[str]) -> dict[str, list[Path]]:
    """Find the image files of each class. Raise ValueError for less than two classes."""
    check_no_loose(root)
    found = {entry.name: images_below(entry, others) for entry in directories(root)}
    if strange := [name for name in found if not name.isprintable()]:
        raise ValueError(f'{str(root)!r}: expected names that can be printed, found {strange}')
    if empty := [name for name, files in found.items() if not files]:
        raise ValueError(
            f'{str(root)!r}: expected images ({", ".join(IMAGE_SUFFIXES)}) of every class, found '
            f'none of {some(empty)}'
        )
    if len(found) < 2:
        raise ValueError(
            f'{str(root)!r}: expected a directory for each of two classes or more, found '
            f'{some(list(found)) or "none"}'
        )
    return found


def _divided(
    root: Path, found: Files, holdout: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Hold out a fraction of each class, drawn with `seed`; return the rest before it."""
    check_fraction(holdout)
    if single := [name for name, files in found.items() if len(files) < 2]:
        raise ValueError(
            f'{str(root)!r}: expected two images or more of every class, for one is held out; '
            f'found one of {some(single)}'
        )
    training, held_out = {}, {}
    for i, (name, files) in enumerate(found.items()):
        count = min(max(round(holdout * len(files)), 1), len(files) - 1)
        order = np.random.default_rng([seed, i]).permutation(len(files))
        training[name] = [files[j] for j in sorted(order[count:])]
        held_out[name] = [files[j] for j in sorted(order[:count])]
    return training, held_out


def _summary(root: Path, found: _Parts) -> str:
    counts = [sum(map(len, part.values())) for part in found[:3]]
    left = ', '.join(f'{n} {printable(suffix)}' for suffix, n in sorted(found.others.items()))
    return (
        f'{printable(root.resolve().name)}: {counted(sum(counts), "image")} '
        f'of {len(found.training)} classes, {counts[1]} held out{found.where}'
        + (f'; {counts[2]} of {_TEST}/ are scored once, at the end' if found.test else '')
        + (f'; left out, as no images: {left}' if left else '')
    )
