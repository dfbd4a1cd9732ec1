"""Writing a file so that at any moment readers see the old one or the new one, whole."""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no flock; there, leftovers of killed savers stay.
    fcntl = None

_SUFFIX = '.blox-tmp'


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends without error.

    A link is followed. The new file has the mode of the old one, or that of the umask, and is
    on disk, not only in memory, when the block has ended. Leftovers of savers that were
    killed are removed; those of live ones, which hold a lock, are not.

    Raises OSError, with the old file untouched, if the new one cannot be written.
    """
    target = Path(os.path.realpath(path))
    # What is still a link after that leads to itself.
    if target.is_symlink() or (target.exists() and not target.is_file()):
        raise OSError(f'cannot save to {str(path)!r}: it is not a regular file')
    _sweep(target)
    with _errors(path, 'cannot save: {}; the old file is untouched'), _temporary(target) as file:
        yield file
        file.flush()
        if target.exists():
            os.chmod(file.name, stat.S_IMODE(target.stat().st_mode))
        os.fsync(file.fileno())
        os.replace(file.name, target)
    with _errors(path, 'saved, but a power cut might undo it: {}'):
        _sync_folder(target.parent)


@contextlib.contextmanager
def _errors(path: str | os.PathLike[str], message: str) -> Iterator[None]:
    """Make any OSError name `path`, the file that the caller knows of."""
    try:
        yield
    except OSError as error:
        reason = message.format(error.strerror or error)
        raise OSError(error.errno or errno.EIO, reason, str(path)) from error


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[BinaryIO]:
    """Yield a new, locked file beside `target`; unless renamed, it is removed at the end."""
    while True:
        path = target.with_name(f'{_prefix(target)}{secrets.token_hex(8)}{_SUFFIX}')
        file = open(path, 'xb')  # noqa: SIM115
        try:
            with file:
                # A sweep that comes between creation and lock removes the file: then try again.
                if lock(file.fileno()) is not False and os.fstat(file.fileno()).st_nlink:
                    if target.exists():  # What is written may be private until it has the old mode.
                        os.chmod(path, 0o600)
                    yield file
                    return
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _prefix(target: Path) -> str:
    # Names are limited to 255 bytes; a cut name may be shared, and then so is its sweep.
    return '.' + os.fsdecode(os.fsencode(target.name)[:200]) + '.'


def _sweep(target: Path) -> None:
    """Remove temporaries of `target` that no saver holds a lock on."""
    try:
        names = os.listdir(target.parent)
    except OSError:
        return
    pattern = re.compile(f'{re.escape(_prefix(target))}[0-9a-f]{{16}}{re.escape(_SUFFIX)}')
    for leftover in (target.with_name(name) for name in names if pattern.fullmatch(name)):
        # Opening a FIFO would wait for a writer.
        if leftover.is_file():
            with contextlib.suppress(OSError), open(leftover, 'rb') as file:
                if lock(file.fileno()):
                    leftover.unlink()


def lock(descriptor: int) -> bool | None:
    """Take a lock without waiting: True if it was taken, None where files have no locks.

    The file's closing gives it back.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _sync_folder(folder: Path) -> None:
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync folders, and say so.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
