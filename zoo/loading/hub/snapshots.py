"""Resolve what a revision of a repository holds, and remember it."""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from blox.tensorfile import fail
from blox.wording import counted, cut
from blox.zoo.loading.hub.answers import check_body
from blox.zoo.loading.hub.cache import download_folder, own_folder, read_record, write_record
from blox.zoo.loading.hub.client import PATIENCE, ask
from blox.zoo.loading.hub.listings import read_listing
from blox.zoo.loading.hub.names import COMMIT, MOST_IN_NAME, check_names, is_safe, quoted

_LOG = logging.getLogger('blox')

UNKNOWN = -1
_MOST_FILES = 100_000
_MOST_SHOWN = 100
_SHA256 = re.compile('[0-9a-f]{64}')


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub states it: `sha256` if it is in LFS, git's `blob_id` if it is not.

    Where no more than a download's name is known, its hash, `size` is UNKNOWN.
    """

    size: int
    sha256: str | None
    blob_id: str | None

    def __post_init__(self) -> None:
        pattern, digest = (_SHA256, self.sha256) if self.sha256 else (COMMIT, self.blob_id)
        if (
            type(self.size) is not int
            or not isinstance(digest, str)
            or not pattern.fullmatch(digest)
        ):
            raise ValueError(f"expected a file's size and its sha256 or git hash, found {self}")

    @property
    def digest(self) -> str:
        """Return the hash that the file's content must have."""
        return self.sha256 or self.blob_id or ''


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit; `revision` is what was asked for: a branch, tag or commit.

    It is `partial` if it is no more than what was downloaded, and the Hub may have other files.
    """

    repo: str
    revision: str
    commit: str
    files: Mapping[str, RemoteFile]
    partial: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.commit, str) or not COMMIT.fullmatch(self.commit):
            raise ValueError(f'expected a commit of 40 hex digits, found {self.commit!r}')
        if len(self.files) > _MOST_FILES:
            raise ValueError(f'expected at most {_MOST_FILES} files, found {len(self.files)}')
        if unsafe := [name for name in self.files if not is_safe(name)]:
            what = f'names within a folder, of at most {MOST_IN_NAME} bytes'
            raise ValueError(f'expected {what}, found {unsafe[:3]}')

    def check_has(self, names: Sequence[str]) -> None:
        """Raise FileNotFoundError, which says what there is, unless all these files are there."""
        if missing := [name for name in names if name not in self.files]:
            raise FileNotFoundError(
                f'{self.repo!r} at {self.revision!r} has no {missing}; of its '
                f'{counted(len(self.files), "file")}, the first: {[*self.files][:20]}'
            )


def snapshot(repo: str, revision: str | None = None) -> Snapshot:
    """Resolve a branch, tag or commit, 'main' if None, with one request.

    A commit that was resolved before takes no request. Where the Hub cannot be reached, may not be
    (HF_HUB_OFFLINE) or asks to wait, what was resolved or downloaded before is the answer.

    Raises FileNotFoundError for a repository or revision that is not there, PermissionError,
    ConnectionError with nothing to go on with, and CheckpointError for an unsound answer.
    """
    revision = 'main' if revision is None else revision
    check_names(repo, revision)
    known = _recorded(repo, revision)
    if known and COMMIT.fullmatch(revision):
        return known
    known = known or _downloaded(repo, revision)
    try:
        whole = known and not known.partial
        found = _resolve(repo, revision, patience=0 if whole else PATIENCE)
    except ConnectionError as error:
        if known is None:
            raise
        if not constants.HF_HUB_OFFLINE:
            _LOG.warning('%s; going on with commit %s, known from before', error, known.commit)
        return known
    _record(found)
    return found


def _resolve(repo: str, revision: str, patience: int) -> Snapshot:
    """Ask the Hub."""
    what = f'{repo!r} at {revision!r}'
    listing = ask(what, repo, lambda: read_listing(repo, revision), check_body, patience=patience)
    if listing['id'] != repo:
        name = cut(repr(listing['id']), _MOST_SHOWN)
        _LOG.warning('%r is called %s now: use that name', repo, name)
    try:
        stated = listing.get('siblings') or ()
        files = {file.get('rfilename'): _remote_file(file) for file in stated}
        found = Snapshot(repo, revision, str(listing['sha']), files)
    except (ValueError, TypeError, AttributeError) as error:
        fail(Path(repo), f'unsound listing of files at {revision!r}: {error}')
    if COMMIT.fullmatch(revision) and found.commit != revision:
        fail(Path(repo), f'expected commit {revision}, found {found.commit}')
    return found


def _remote_file(stated: Any) -> RemoteFile:
    if lfs := stated.get('lfs'):
        return RemoteFile(lfs.get('size'), lfs.get('sha256'), None)
    return RemoteFile(stated.get('size'), None, stated.get('blobId'))


# What was known before.


def all_recorded(repo: str) -> Iterator[Snapshot]:
    """Yield every snapshot of a repository that was resolved before."""
    for path in (own_folder(repo) / 'snapshots').glob('*.json'):
        if (known := _read(path)) and known.repo == repo:
            yield known


def _record(found: Snapshot) -> None:
    """Remember a snapshot for its revision and for its commit."""
    for one in (found, dataclasses.replace(found, revision=found.commit)):
        write_record(_record_path(one.repo, one.revision), dataclasses.asdict(one))


def _recorded(repo: str, revision: str) -> Snapshot | None:
    """Return what was resolved before."""
    known = _read(_record_path(repo, revision))
    # File names may not tell upper from lower case.
    return known if known and (known.repo, known.revision) == (repo, revision) else None


def _record_path(repo: str, revision: str) -> Path:
    return own_folder(repo) / 'snapshots' / f'{quoted(revision)}.json'


def _read(path: Path) -> Snapshot | None:
    """Return the snapshot in a record, None if there is none or it is damaged."""
    try:
        fields = read_record(path)
        files = {name: RemoteFile(**file) for name, file in fields.pop('files').items()}
        return Snapshot(**fields, files=files)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _downloaded(repo: str, revision: str) -> Snapshot | None:
    """Return what anyone downloaded with huggingface_hub, whose blobs have their hash as name."""
    try:
        commit = revision
        if not COMMIT.fullmatch(revision):
            commit = (download_folder(repo) / 'refs' / revision).read_text('utf-8').strip()
        folder = download_folder(repo) / 'snapshots' / commit
        files = {
            path.relative_to(folder).as_posix(): _blob(path)
            for path in folder.rglob('*')
            if not path.is_dir()
        }
        return Snapshot(repo, revision, commit, files, partial=True) if files else None
    except (OSError, ValueError):
        return None


def _blob(link: Path) -> RemoteFile:
    digest = Path(os.readlink(link)).name
    is_sha256 = _SHA256.fullmatch(digest) is not None
    return RemoteFile(UNKNOWN, digest if is_sha256 else None, None if is_sha256 else digest)
