"""Folders of the caches, and the small records in ours."""

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from blox.atomic import atomic_write

# No room, a quota that is used up, a file larger than the system or a limit allows.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_folder() -> Path:
    """Return BLOX_CACHE, or 'blox' in the user's cache folder."""
    if chosen := os.environ.get('BLOX_CACHE'):
        return Path(chosen).expanduser()
    match sys.platform:
        case 'win32':
            caches = os.environ.get('LOCALAPPDATA') or '~/AppData/Local'
        case 'darwin':
            caches = '~/Library/Caches'
        case _:
            caches = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(caches).expanduser() / 'blox'


def own_folder(repo: str) -> Path:
    """Return the folder in which we keep what we know of a repository."""
    return cache_folder() / folder_name(repo)


def download_root() -> Path:
    """Return the folder in which huggingface_hub keeps everybody's downloads."""
    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def download_folder(repo: str) -> Path:
    """Return the folder in which huggingface_hub keeps the downloads of a repository."""
    return download_root() / folder_name(repo)


def folder_name(repo: str) -> str:
    """Return the name of a repository's folder in either cache."""
    return 'models--' + repo.replace('/', '--')


def seen(path: Path) -> dict[str, Any]:
    """Return size and time of a file, by which one that was verified is known again."""
    stat = path.stat()
    return {'size': stat.st_size, 'mtime_ns': stat.st_mtime_ns}


def read_record(path: Path) -> Any:
    """Return what `write_record` wrote, None if there is nothing or something else."""
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError):
        return None


def write_record(path: Path, fields: dict[str, Any]) -> None:
    """Keep fields as JSON where the cache can be written: they only spare work."""
    if read_record(path) == fields:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(fields).encode())
