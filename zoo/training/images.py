"""Folders of images by class to fine-tune on."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from blox.wording import printable, some
from blox.zoo.inputs.images import ImagePreprocessor, read_image
from blox.zoo.training.augment import augment
from blox.zoo.training.data import THREADS, Data, Pair, check_fraction

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')

_HELD_OUT = ('val', 'valid', 'validation', 'test')

Files: TypeAlias = Mapping[str, Sequence[Path]]


def image_folder(
    path: str | os.PathLike[str],
    prepare: ImagePreprocessor,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    flip: bool = False,
    labels: Sequence[str] = (),
) -> Data:
    """Read a folder with a directory of images for each class; their sorted names are the labels.

    The fraction `holdout` of each class, at least one image, is held out, drawn with `seed`;
    but where the folder has exactly `train/` and `val/` (or `valid/`, `validation/`, `test/`), these are
    the two parts. `labels`, if the directories have the same names, gives their order. A class's own
    subdirectories belong to it. Hidden files are left out, and files that are no images by their suffix,
    as `summary` says.

    Training sees a random part of each image, nearly what `prepare` shows of it, and with `flip`
    mirrors half of them; digits and letters stay what they are without. Held-out images are read by
    `prepare` alone. Every file is decoded once before this returns.

    Raises ValueError, which names all files that cannot be read, or the classes that do not fit.
    """
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise ValueError(f'{str(root)!r}: expected a folder with a directory for each class')
    training, held_out, others = _parts(root, holdout, seed)
    names = sorted(training)
    order = tuple(labels) if sorted(labels) == names else tuple(names)
    parts = [
        [(file, order.index(name)) for name in names for file in part.get(name, ())]
        for part in (training, held_out)
    ]
    files = [file for part in parts for file, _ in part]
    _check_images(files, prepare)
    return Data(
        *parts,
        read=lambda example, rng: _read_image(example, prepare, flip, rng),
        labels=order,
        fingerprint=_fingerprint(root, files, prepare, flip),
        summary=_summary(root, parts, order, others),
    )


def _parts(root: Path, holdout: float, seed: int) -> tuple[Files, Files, Counter[str]]:
    """Return training and held-out files by class, and count the suffixes of what is left out."""
    others: Counter[str] = Counter()
    names = [entry.name for entry in _directories(root)]
    held_out = [name for name in names if name in _HELD_OUT]
    if len(names) == 2 and len(held_out) == 1 and 'train' in names:
        found, measured = (_classes(root / name, others) for name in ('train', held_out[0]))
        if unknown := sorted(set(measured) - set(found)):
            raise ValueError(
                f'{str(root / held_out[0])!r}: expected classes of {str(root / "train")!r}, '
                f'found others: {some(unknown)}'
            )
        return found, measured, others
    return *_divided(root, _classes(root, others), holdout, seed), others


def _directories(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith('.'))


def _classes(root: Path, others: Counter[str]) -> dict[str, list[Path]]:
    """Find the image files of each class. Raise ValueError for less than two classes."""
    loose = [p.name for p in sorted(root.iterdir()) if p.is_file() and _is_image(p.name)]
    if loose:
        raise ValueError(
            f'{str(root)!r}: expected a directory for each class, found images beside them: '
            f'{some(loose)}'
        )
    found = {entry.name: _images(entry, others) for entry in _directories(root)}
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


def _images(root: Path, others: Counter[str]) -> list[Path]:
    """Find the image files below a folder, and links to some; count what else is there."""
    files = []
    for folder, directories, names in os.walk(root):
        directories[:] = sorted(name for name in directories if not name.startswith('.'))
        for name in sorted(name for name in names if not name.startswith('.')):
            if _is_image(name):
                files.append(Path(folder) / name)
            else:
                others[Path(name).suffix.lower() or name] += 1
    return files


def _is_image(name: str) -> bool:
    return not name.startswith('.') and name.lower().endswith(IMAGE_SUFFIXES)


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


def _read_image(
    example: tuple[Path, int],
    prepare: ImagePreprocessor,
    flip: bool,
    rng: np.random.Generator | None,
) -> Pair:
    file, label = example
    target = np.asarray(label, np.int32)
    if rng is None:
        return prepare(file)[0], target
    image = augment(read_image(file, 'L' if len(prepare.mean) == 1 else 'RGB'), prepare, rng, flip)
    return dataclasses.replace(prepare, resize=prepare.size, keep_ratio=False)(image)[0], target


# For people, and for telling data apart.


def _fingerprint(root: Path, files: Sequence[Path], *choices: Any) -> str:
    """Hash the files' names and contents, and how they are read."""
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda file: hashlib.sha256(file.read_bytes()).hexdigest(), files)
        names = [f'{file.relative_to(root)}\0{found}' for file, found in zip(files, digests)]
    text = '\0'.join([*names, repr(choices)])
    return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()


def _summary(
    root: Path, parts: Sequence[Sequence[Any]], labels: Sequence[str], others: Counter[str]
) -> str:
    training, held_out = map(len, parts)
    left = ', '.join(f'{count} {printable(suffix)}' for suffix, count in sorted(others.items()))
    return (
        f'{printable(root.resolve().name)}: {training + held_out} images '
        f'of {len(labels)} classes, {held_out} held out'
        + (f'; left out, as no images: {left}' if left else '')
    )
