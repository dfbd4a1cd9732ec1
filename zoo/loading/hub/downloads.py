"""Download and verify files of a snapshot."""

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import WeakFileLock

from blox.tensorfile import fail
from blox.wording import counted
from blox.zoo.loading.hub.answers import check_body
from blox.zoo.loading.hub.cache import (
    download_folder,
    download_root,
    folder_name,
    own_folder,
    read_record,
    seen,
    write_record,
)
from blox.zoo.loading.hub.client import ask, client
from blox.zoo.loading.hub.snapshots import UNKNOWN, RemoteFile, Snapshot

_LOG = logging.getLogger('blox')


def fetch(snapshot: Snapshot, names: Sequence[str]) -> Path:
    """Return the folder of downloads with these files, of the size and hash that the Hub states.

    A file that is wrong is downloaded once more, then it is a CheckpointError. A download that was
    verified before is hashed again only if its size or time changed. Where the Hub cannot be
    reached, all files stay as they are and a ConnectionError says which one is needed.
    """
    snapshot.check_has(names)
    folder = download_folder(snapshot.repo) / 'snapshots' / snapshot.commit
    for name in names:
        if _mismatch(snapshot, name, folder / name):
            with _lock(snapshot.repo):
                _bring(snapshot, name, folder / name)
    return folder


@contextlib.contextmanager
def _lock(repo: str) -> Iterator[None]:
    """Let one process at a time mend the downloads of a repository, where they can be written.

    huggingface_hub locks each file, but not what was found wrong with it before.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path = download_root() / '.locks' / folder_name(repo) / 'blox.lock'
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(path))
        yield


def _bring(snapshot: Snapshot, name: str, path: Path) -> None:
    """Download a file to `path` unless it is right by now, once more if it comes wrong."""
    if not path.is_file():
        _download(snapshot, name, path, _mismatch(snapshot, name, path))
    if wrong := _mismatch(snapshot, name, path):
        _LOG.warning('%s: %s; downloading it once more', path, wrong)
        _download(snapshot, name, path, wrong)
        if wrong := _mismatch(snapshot, name, path):
            _discard(path)
            fail(path, f'{wrong}; {snapshot.repo} and its download differ, try again later')


def _download(snapshot: Snapshot, name: str, path: Path, wrong: str) -> None:
    """Bring a file to `path`, where something is wrong."""
    api = client()
    url = hf_hub_url(snapshot.repo, name, revision=snapshot.commit, endpoint=api.endpoint)

    def look(answer: Any) -> None:
        _check_answer(answer, snapshot, name)

    def download() -> None:
        api.get_hf_file_metadata(url=url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        # Not before the Hub has said that it has this file.
        _discard(path)
        api.hf_hub_download(snapshot.repo, name, revision=snapshot.commit)

    try:
        ask(f'{name!r} of {snapshot.repo!r}', snapshot.repo, download, check_body, look)
    except ConnectionError as error:
        raise ConnectionError(f'{str(path)!r}: {wrong}; {error}') from error


def _check_answer(answer: Any, snapshot: Snapshot, name: str) -> None:
    """Refuse an ETag or commit other than the listing's: huggingface_hub makes paths of both.

    It asks for them itself, and may be told something else than we were.
    """
    commit = answer.headers.get(constants.HUGGINGFACE_HEADER_X_REPO_COMMIT)
    linked = answer.headers.get(constants.HUGGINGFACE_HEADER_X_LINKED_ETAG)
    etag = linked or answer.headers.get('ETag')
    if answer.request.method != 'HEAD' or commit is None:
        return
    where, expected = Path(snapshot.repo, name), snapshot.files[name].digest
    if commit != snapshot.commit:
        fail(where, f'expected commit {snapshot.commit}, found {commit!r}')
    if not answer.is_error and etag is not None and etag.removeprefix('W/').strip('"') != expected:
        fail(where, f'expected ETag {expected}, found {etag!r}')


def _mismatch(snapshot: Snapshot, name: str, path: Path) -> str:
    """Return how the file at `path` differs from what the Hub states, '' if it does not."""
    try:
        return _difference(path, snapshot.files[name], own_folder(snapshot.repo) / 'verified')
    # Another process may have removed just now what is wrong.
    except (FileNotFoundError, NotADirectoryError):
        return f'expected a file, found {"a link to nothing" if path.is_symlink() else "none"}'


def _difference(path: Path, file: RemoteFile, verified: Path) -> str:
    memory, now = verified / f'{file.digest}.json', seen(path)
    if file.size != UNKNOWN and now['size'] != file.size:
        return f'expected {counted(file.size, "byte")}, found {now["size"]}'
    if read_record(memory) == now:
        return ''
    found = _hash(path, now['size'], file)
    if found != file.digest:
        return f'expected {"sha256" if file.sha256 else "git hash"} {file.digest}, found {found}'
    write_record(memory, now)
    return ''


def _hash(path: Path, size: int, file: RemoteFile) -> str:
    """Return the sha256 of a file in LFS, and of any other the hash that git names it by."""
    state = hashlib.sha256()
    if not file.sha256:
        state = hashlib.sha1(b'blob %d\0' % size, usedforsecurity=False)
    with open(path, 'rb') as opened:
        return hashlib.file_digest(opened, lambda: state).hexdigest()


def _discard(path: Path) -> None:
    """Remove a download, if the cache can be written; what a link leads to elsewhere stays."""
    with contextlib.suppress(OSError):
        blob = path.resolve()
        path.unlink()
        if blob.is_relative_to(download_root()):
            blob.unlink()
