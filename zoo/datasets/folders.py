"""Folders with a directory of images for each class, and those of parts such as `train/`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from blox.wording import some
from blox.zoo.inputs.images import IMAGE_SUFFIXES

# Names of directories that are parts of the data, not classes.
LIKE_PARTS = (
    *('train', 'training', 'val', 'valid', 'validation', 'dev', 'eval', 'evaluation'),
    *('test', 'testing', 'holdout'),
)
VALIDATION = ('val', 'valid', 'validation')


def directories(root: Path) -> list[Path]:
    """Return the directories in a folder, sorted, hidden ones left out."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith('.'))


def check_no_loose(root: Path) -> None:
    """Raise ValueError for images beside the directories of classes."""
    loose = [p.name for p in sorted(root.iterdir()) if p.is_file() and is_image(p.name)]
    if loose:
        raise ValueError(
            f'{str(root)!r}: expected a directory for each class, found images beside them: '
            f'{some(loose)}'
        )


def images_below(root: Path, others: Counter[str]) -> list[Path]:
    """Find the image files below a folder, and links to some; count what else is there."""
    files = []
    for folder, directories, names in os.walk(root):
        directories[:] = sorted(name for name in directories if not name.startswith('.'))
        for name in sorted(name for name in names if not name.startswith('.')):
            if is_image(name):
                files.append(Path(folder) / name)
            else:
                others[Path(name).suffix.lower() or name] += 1
    return files


def is_image(name: str) -> bool:
    """Return whether a file is called as an image is, and not hidden."""
    return not name.startswith('.') and name.lower().endswith(IMAGE_SUFFIXES)
