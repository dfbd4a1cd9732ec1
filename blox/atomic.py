"""Writing a file so that at any moment readers see the old one or the new one, whole."""

import contextlib
import os
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
    """A file to write to that takes the place of `path` when the block ends without error.

    A link is followed. The new file has the mode of the old one, or that of the umask, and is
    on disk, not only in memory, when the block has ended. Leftovers of savers that were
    killed are removed; those of live ones, which hold a lock, are not.

    Raises OSError, with the old file untouched, if the new one cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f'cannot save to {str(path)!r}: it is not a regular file')
    _sweep(target)
    temporary, file = _create_temporary(target)
    try:
        with file:
            yield file
            file.flush()
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f'cannot save: {error.strerror}; the old file is untouched', str(path)
            ) from error
        raise
    _sync_folder(target.parent)


def _create_temporary(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        temporary = target.with_name(f'{_prefix(target)}{secrets.token_hex(8)}{_SUFFIX}')
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        file = os.fdopen(descriptor, 'wb')
        # A sweep that came between creation and lock has removed the file: then try again.
        if not _lock(descriptor) or os.fstat(descriptor).st_nlink:
            return temporary, file
        file.close()


def _prefix(target: Path) -> str:
    # Names are limited to 255 bytes; a cut name may be shared, and then so is its sweep.
    return '.' + os.fsdecode(os.fsencode(target.name)[:200]) + '.'


def _sweep(target: Path) -> None:
    """Removes temporaries of `target` that no saver holds a lock on."""
    try:
        names = os.listdir(target.parent)
    except OSError:
        return
    prefix = _prefix(target)
    for name in names:
        if name.startswith(prefix) and name.endswith(_SUFFIX):
            with contextlib.suppress(OSError), open(target.with_name(name), 'rb') as file:
                if _lock(file.fileno()):
                    target.with_name(name).unlink()


def _lock(descriptor: int) -> bool:
    """Whether a lock was taken without waiting; the file's closing gives it back."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
