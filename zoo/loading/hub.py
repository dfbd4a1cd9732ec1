"""The Hugging Face Hub: a revision's files, downloaded and verified, conversions kept, uploads.

Endpoint, token, offline mode and the folder of downloads are huggingface_hub's own (HF_ENDPOINT,
HF_TOKEN, HF_HUB_OFFLINE, HF_HOME, HF_HUB_CACHE). What is kept beside lies in `cache_folder()`:

    models--org--name/snapshots/{revision or commit}.json    which files there are, their hashes
    models--org--name/verified/{hash}.json                   size and time of a verified download
    models--org--name/{key}.safetensors                      a conversion
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # That of its HTTP client, whichever.
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, validate_repo_id

from blox import __version__
from blox.atomic import atomic_write
from blox.tensorfile import fail
from blox.wording import some

_LOG = logging.getLogger('blox')

_COMMIT = re.compile('[0-9a-f]{40}')
_SHA256 = re.compile('[0-9a-f]{64}')
_REVISION = re.compile(r'[\w][\w./+@#=,-]*', re.ASCII)


@dataclass(frozen=True)
class RemoteFile:
    """What the Hub states of a file: `sha256` if it is in LFS, git's `blob_id` if it is not."""

    size: int
    sha256: str | None
    blob_id: str | None

    def __post_init__(self) -> None:
        pattern, digest = (_SHA256, self.sha256) if self.sha256 else (_COMMIT, self.blob_id)
        if (
            type(self.size) is not int
            or not isinstance(digest, str)
            or not pattern.fullmatch(digest)
        ):
            raise ValueError(f"expected a file's size and its sha256 or git hash, found {self}")

    @property
    def digest(self) -> str:
        """The hash that its content must have."""
        return self.sha256 or self.blob_id or ''


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit; `revision` is what was asked for: a branch, tag or commit."""

    repo: str
    revision: str
    commit: str
    files: Mapping[str, RemoteFile]

    def __post_init__(self) -> None:
        if not isinstance(self.commit, str) or not _COMMIT.fullmatch(self.commit):
            raise ValueError(f'expected a commit of 40 hex digits, found {self.commit!r}')
        if unsafe := [name for name in self.files if not _is_safe(name)]:
            raise ValueError(f'expected names of files in the repository, found {unsafe}')


def snapshot(repo: str, revision: str | None = None) -> Snapshot:
    """Resolves a branch, tag or commit, 'main' if None, with one request.

    A commit that was resolved before takes no request. Where the Hub cannot be reached, or may
    not be (HF_HUB_OFFLINE), what was resolved or downloaded before is the answer.

    Raises FileNotFoundError for a repository or revision that is not there, PermissionError,
    ConnectionError with nothing to go on with, and CheckpointError for an unsound answer.
    """
    revision = 'main' if revision is None else revision
    _check_names(repo, revision)
    if _COMMIT.fullmatch(revision) and (known := _recorded(repo, revision)):
        return known
    try:
        found = _resolve(repo, revision)
    except ConnectionError as error:
        known = _recorded(repo, revision) or _downloaded(repo, revision)
        if known is None:
            raise
        if not constants.HF_HUB_OFFLINE:
            _LOG.warning('%s; going on with commit %s, known from before', error, known.commit)
        return known
    _record(found)
    return found


def fetch(snapshot: Snapshot, names: Sequence[str]) -> Path:
    """The folder of downloads that holds these files, of the size and hash that the Hub states.

    A file that is wrong is downloaded once more, then it is a CheckpointError. A download that was
    verified before is hashed again only if its size or time changed.
    """
    _check_files(snapshot, names)
    for name in names:
        path = _downloads(snapshot.repo) / 'snapshots' / snapshot.commit / name
        if wrong := _download(snapshot, name, path):
            _LOG.warning('%s: %s; downloading it once more', path, wrong)
            _discard(path)
            if wrong := _download(snapshot, name, path):
                _discard(path)
                fail(path, f'{wrong}; {snapshot.repo} and its download differ, try again later')
    return _downloads(snapshot.repo) / 'snapshots' / snapshot.commit


def kept(snapshot: Snapshot, names: Sequence[str], fingerprint: str) -> Path | None:
    """The file that `converted` made before, None if there is none."""
    path = _conversion(snapshot, names, fingerprint)
    return path if path.is_file() else None


def converted(
    snapshot: Snapshot,
    names: Sequence[str],
    fingerprint: str,
    convert: Callable[[Path, Path], None],
) -> Path | None:
    """The file that `convert(folder, path)` makes of a snapshot's files, made once and kept.

    It is kept under a key of the files' hashes and `fingerprint`, which stands for how they are
    converted; once there, it takes neither the Hub nor the download. One process converts,
    others wait for it. None, with a warning, if the cache cannot be written.
    """
    path = _conversion(snapshot, names, fingerprint)
    if path.is_file():
        return path
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(path.with_suffix('.lock')))
        except OSError as error:
            _LOG.warning('no conversion is kept: %s; set BLOX_CACHE to a folder of yours', error)
            return None
        if not path.is_file():
            _convert(fetch(snapshot, names), path, convert)
    return path


def upload(
    repo: str, folder: str | os.PathLike[str], *, private: bool = False, message: str = 'Add model'
) -> str:
    """Puts a folder's files into a repository, made if need be; the URL of the commit.

    With `private`, a repository that is there already and public is refused.
    """
    _check_names(repo, 'main')
    api = _api()
    with _explained(f'upload to {repo!r}', repo):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(f'{repo!r} is public: make it private first, or pass private=False')
        done = api.upload_folder(repo_id=repo, folder_path=Path(folder), commit_message=message)
    return str(done.commit_url)


def cache_folder() -> Path:
    """BLOX_CACHE, or 'blox' in the user's cache folder."""
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


def _api() -> HfApi:
    return HfApi(library_name='blox', library_version=__version__)


def _own(repo: str) -> Path:
    return cache_folder() / _folder_name(repo)


def _downloads(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE).expanduser().resolve() / _folder_name(repo)


def _folder_name(repo: str) -> str:
    return 'models--' + repo.replace('/', '--')


# Names: those of users, and those of a server.


def _check_names(repo: str, revision: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"expected a repository such as 'org/name', found {repo!r}") from error
    sound = _REVISION.fullmatch(revision) and '..' not in revision
    # A revision becomes a file's name, of at most 255 bytes.
    if not sound or len(_quoted(revision)) > 200:
        raise ValueError(f'{repo!r}: expected a branch, tag or commit, found {revision!r}')


def _check_files(snapshot: Snapshot, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in snapshot.files]:
        raise FileNotFoundError(
            f'{snapshot.repo!r} at {snapshot.revision!r} has no {missing}; it has '
            f'{some([*snapshot.files], 20) or "no files"}'
        )


def _is_safe(name: Any) -> bool:
    """Whether a name stays within a folder, on any system, and can be printed."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and '\\' not in name
        and all(
            part not in ('', '.', '..') and not re.match('[A-Za-z]:', part)
            for part in name.split('/')
        )
    )


def _quoted(revision: str) -> str:
    return quote(revision, safe='')


# What a revision holds.


def _resolve(repo: str, revision: str) -> Snapshot:
    """Asks the Hub."""
    what = f'{repo!r} at {revision!r}'
    with _explained(what, repo):
        try:
            info = _api().model_info(
                repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except HfHubHTTPError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConnectionError('found something else than a listing of files') from None
    if info.id != repo:
        _LOG.warning('%r is called %r now: use that name', repo, info.id)
    try:
        files = {sibling.rfilename: _remote_file(sibling) for sibling in info.siblings or ()}
        found = Snapshot(repo, revision, str(info.sha), files)
    except (ValueError, TypeError) as error:
        fail(Path(repo), f'unsound listing of files at {revision!r}: {error}')
    if _COMMIT.fullmatch(revision) and found.commit != revision:
        fail(Path(repo), f'expected commit {revision}, found {found.commit}')
    return found


def _remote_file(sibling: Any) -> RemoteFile:
    if sibling.lfs:
        return RemoteFile(sibling.lfs.size, sibling.lfs.sha256, None)
    return RemoteFile(sibling.size, None, sibling.blob_id)


def _record(found: Snapshot) -> None:
    """Remembers it for its revision and for its commit."""
    for one in (found, dataclasses.replace(found, revision=found.commit)):
        _write(_record_path(one.repo, one.revision), dataclasses.asdict(one))


def _recorded(repo: str, revision: str) -> Snapshot | None:
    """What was resolved before."""
    try:
        fields = _read(_record_path(repo, revision))
        files = {name: RemoteFile(**file) for name, file in fields.pop('files').items()}
        known = Snapshot(**fields, files=files)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    # File names may not tell upper from lower case.
    return known if (known.repo, known.revision) == (repo, revision) else None


def _downloaded(repo: str, revision: str) -> Snapshot | None:
    """What anyone downloaded before with huggingface_hub, whose blobs have their hash as name."""
    try:
        commit = revision
        if not _COMMIT.fullmatch(revision):
            commit = (_downloads(repo) / 'refs' / revision).read_text('utf-8').strip()
        folder = _downloads(repo) / 'snapshots' / commit
        files = {
            path.relative_to(folder).as_posix(): _blob(path)
            for path in folder.rglob('*')
            if path.is_file()
        }
        return Snapshot(repo, revision, commit, files) if files else None
    except (OSError, ValueError):
        return None


def _blob(link: Path) -> RemoteFile:
    digest = Path(os.readlink(link)).name
    is_sha256 = _SHA256.fullmatch(digest) is not None
    size = link.stat().st_size
    return RemoteFile(size, digest if is_sha256 else None, None if is_sha256 else digest)


def _record_path(repo: str, revision: str) -> Path:
    return _own(repo) / 'snapshots' / f'{_quoted(revision)}.json'


def _read(path: Path) -> Any:
    """What `_write` wrote, None if there is nothing or something else."""
    try:
        return json.loads(path.read_text('utf-8'))
    except (OSError, ValueError, RecursionError):
        return None


def _write(path: Path, fields: dict[str, Any]) -> None:
    """Keeps it, where the cache can be written: it only spares work."""
    if _read(path) == fields:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps(fields).encode())


# Downloads and conversions.


def _download(snapshot: Snapshot, name: str, path: Path) -> str:
    """Has a file at `path`; what is wrong with it, '' if nothing."""
    if not path.is_file():
        api = _api()
        with _explained(f'{name!r} of {snapshot.repo!r}', snapshot.repo):
            _check_etag(api, snapshot, name)
            api.hf_hub_download(snapshot.repo, name, revision=snapshot.commit)
    file = snapshot.files[name]
    return _mismatch(path, file, _own(snapshot.repo) / 'verified' / f'{file.digest}.json')


def _check_etag(api: HfApi, snapshot: Snapshot, name: str) -> None:
    """Refuses an ETag or commit other than the stated: huggingface_hub makes paths of both."""
    url = hf_hub_url(snapshot.repo, name, revision=snapshot.commit, endpoint=api.endpoint)
    stated = api.get_hf_file_metadata(url=url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    expected, found = snapshot.files[name].digest, stated.etag
    if found != expected:
        fail(Path(snapshot.repo, name), f'expected ETag {expected}, found {found!r}')
    if stated.commit_hash != snapshot.commit:
        where = Path(snapshot.repo, name)
        fail(where, f'expected commit {snapshot.commit}, found {stated.commit_hash!r}')


def _mismatch(path: Path, file: RemoteFile, memory: Path) -> str:
    """How a file differs from what the Hub states, '' if it does not."""
    stat = path.stat()
    if stat.st_size != file.size:
        return f'expected {file.size} bytes, found {stat.st_size}'
    seen = {'size': stat.st_size, 'mtime_ns': stat.st_mtime_ns}
    if _read(memory) == seen:
        return ''
    found = _hash(path, file)
    if found != file.digest:
        return f'expected {"sha256" if file.sha256 else "git hash"} {file.digest}, found {found}'
    _write(memory, seen)
    return ''


def _hash(path: Path, file: RemoteFile) -> str:
    """The sha256 of a file in LFS, and of any other the hash that git names it by."""
    state = hashlib.sha256()
    if not file.sha256:
        state = hashlib.sha1(b'blob %d\0' % file.size, usedforsecurity=False)
    with open(path, 'rb') as opened:
        return hashlib.file_digest(opened, lambda: state).hexdigest()


def _discard(path: Path) -> None:
    """Removes a download, if the cache can be written; what a link leads to elsewhere stays."""
    with contextlib.suppress(OSError):
        blob = path.resolve()
        path.unlink()
        if blob.is_relative_to(Path(constants.HF_HUB_CACHE).expanduser().resolve()):
            blob.unlink()


def _conversion(snapshot: Snapshot, names: Sequence[str], fingerprint: str) -> Path:
    _check_files(snapshot, names)
    hashes = sorted((name, snapshot.files[name].digest) for name in names)
    key = hashlib.sha256(json.dumps([hashes, fingerprint]).encode()).hexdigest()
    return _own(snapshot.repo) / f'{key}.safetensors'


def _convert(folder: Path, path: Path, convert: Callable[[Path, Path], None]) -> None:
    part = path.with_name(f'part-{path.name}')
    try:
        convert(folder, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


# Errors.


@contextlib.contextmanager
def _explained(what: str, repo: str) -> Iterator[None]:
    """Has every error of the client say in one sentence what to do."""
    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:
        raise _explanation(error, what, f'{constants.ENDPOINT}/{repo}') from error


def _explanation(error: Exception, what: str, page: str) -> OSError:
    login = "log in with 'hf auth login' or set HF_TOKEN"
    match error:
        case OfflineModeIsEnabled():
            advice = 'unset it, or load once with a network'
            return ConnectionError(f'{what}: not in the cache and HF_HUB_OFFLINE is set; {advice}')
        case GatedRepoError():
            advice = f'accept its conditions at {page}, then {login}'
            return PermissionError(f'{what}: the repository is gated; {advice}')
        case RepositoryNotFoundError():
            advice = f'check its name, and if it is private, {login}'
            return FileNotFoundError(f'{what}: the Hub shows no such repository; {advice}')
        case RevisionNotFoundError():
            return FileNotFoundError(f'{what}: no such branch, tag or commit; see {page}/tree/main')
        case EntryNotFoundError() if not isinstance(error, LocalEntryNotFoundError):
            return FileNotFoundError(f'{what}: no such file; see {page}/tree/main')
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            advice = f'{login}, to a token that is valid and may do this'
            return PermissionError(f'{what}: the Hub refuses; {advice}')
        case HfHubHTTPError():
            status = error.response.status_code
            return ConnectionError(f'{what}: the Hub answers status {status}; try again later')
        case OSError(errno=int(number)):
            place = error.filename or constants.HF_HUB_CACHE
            advice = 'make room there, or set HF_HOME to another folder'
            return OSError(number, f'{what}: {error.strerror}; {advice}', place)
    reason = ' '.join(str(error.__cause__ or error).split())[:200]
    return ConnectionError(
        f'{what}: no sound answer from {constants.ENDPOINT} ({reason!r}); '
        'check the network and HF_ENDPOINT, and try again'
    )
