"""Keep what a repository's files are converted to, under keys that say by what."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub.utils import WeakFileLock

from blox import converters
from blox.converters.tables import families
from blox.tensorfile import TensorFile, fail, parse_json
from blox.wording import differences
from blox.zoo.loading.foreign import needed
from blox.zoo.loading.hub.cache import FULL_DISK, own_folder, read_record, seen, write_record
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import Snapshot, all_recorded

_LOG = logging.getLogger('blox')

# Raise it when something outside of the converters changes what a conversion holds: the file format,
# how a model marks its parameters, what is read of labels, preprocessing and tokenizers.
_VERSION = 3
# The header's metadata entry that says which repository, commit and files a conversion is of.
_HEADER_KEY = 'blox.conversion'


@functools.cache
def _version(family: str) -> str:
    """Return a digest of what converts a family's checkpoints: its table and what tables share."""
    # Sources, not the evaluated table: that needs config.json, which a kept conversion does without.
    root = Path(converters.__file__).parent
    others = {*families()} - _taken(root / 'tables', family)
    digest = hashlib.sha256(b'%d' % _VERSION)
    files = [file for place in ('', 'mapping', 'sources') for file in (root / place).iterdir()]
    # A family's tables are one file, or a folder.
    files += (root / 'tables').rglob('*')
    for file in sorted(files):
        name = file.relative_to(root)
        if file.suffix in ('.py', '.json') and others.isdisjoint(name.with_suffix('').parts):
            digest.update(name.as_posix().encode() + b'\0' + file.read_bytes())
    return digest.hexdigest()


# How a table takes one of another family.
_TABLES = re.compile(r'blox\.converters\.tables\.(\w+)')


def _taken(tables: Path, family: str) -> set[str]:
    """Return a family, and those whose tables its own are made of."""
    found: set[str] = set()
    left = {family}
    while left:
        name = left.pop()
        found.add(name)
        files = [*tables.glob(f'{name}.py'), *(tables / name).rglob('*.py')]
        left |= {other for file in files for other in _TABLES.findall(file.read_text('utf-8'))}
        left -= found
    return found


def _path(snapshot: Snapshot, family: str, task: str) -> Path:
    """Return where the conversion of a snapshot for a task is kept, if its model is of this family."""
    name = f'{_key(snapshot, family)}.{task}' if task else _key(snapshot, family)
    return own_folder(snapshot.repo) / f'{name}.safetensors'


def _key(snapshot: Snapshot, family: str) -> str:
    """Return what the names of a snapshot's conversions begin with."""
    names = needed(list(snapshot.files))
    hashes = sorted((name, snapshot.files[name].digest) for name in names)
    return hashlib.sha256(json.dumps([hashes, _version(family)]).encode()).hexdigest()


def kept(snapshot: Snapshot, task: str = '') -> Path | None:
    """Return the file that `converted` made before, None if there is none.

    It takes neither the Hub nor the download: no config.json says the family, so each is tried.
    """
    paths = (_path(snapshot, family, task) for family in families())
    return next((path for path in paths if path.is_file()), None)


def header(snapshot: Snapshot, family: str) -> dict[str, str]:
    """Return the header's entry that says what a conversion is of."""
    fields = {
        'repository': snapshot.repo,
        'commit': snapshot.commit,
        'key': _key(snapshot, family),
    }
    return {_HEADER_KEY: json.dumps(fields, sort_keys=True)}


def check(snapshot: Snapshot, path: Path) -> None:
    """Raise CheckpointError unless the file at `path` is a conversion of these files, and whole.

    Its content is hashed once, and again if its size or time changed.
    """
    file = TensorFile(path)
    said = parse_json(path, file.metadata.get(_HEADER_KEY, '{}'), _HEADER_KEY)
    expected = {'repository': snapshot.repo, 'key': path.name.partition('.')[0]}
    if wrong := differences(expected, {k: v for k, v in said.items() if k != 'commit'}):
        fail(path, f'{_HEADER_KEY}: {"; ".join(wrong)}')
    memory, now = own_folder(snapshot.repo) / 'verified' / f'{path.stem}.json', seen(path)
    if read_record(memory) != now:
        file.check_digests()
        write_record(memory, now)


def converted(
    snapshot: Snapshot, family: str, convert: Callable[[Path, Path], None], task: str = ''
) -> Path | None:
    """Return the file that `convert(folder, path)` makes of a snapshot's files, made once and kept.

    It is kept under a key of the files' hashes and of what converts the family. One process
    converts, others wait for it. Then what no key names any more is removed. None, with a warning,
    if the cache cannot be written or its disk is full.
    """
    path = _path(snapshot, family, task)
    if path.is_file():
        return path
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(_lock(path))
        except OSError as error:
            _warn(path.parent, error)
            return None
        if not path.is_file():
            if not _convert(fetch(snapshot, needed(list(snapshot.files))), path, convert):
                return None
            _sweep(snapshot)
    return path


def remove(path: Path, damaged: dict[str, Any] | None) -> None:
    """Remove a conversion of which `seen` said `damaged`, if no other process has made it anew."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        with contextlib.suppress(OSError):
            stack.enter_context(_lock(path))
        if seen(path) == damaged:
            path.unlink()


def _lock(path: Path) -> contextlib.AbstractContextManager[Any]:
    """Lock the conversions of a repository: whoever holds it may remove what others left."""
    return WeakFileLock(path.with_name('conversions.lock'))


def _convert(folder: Path, path: Path, convert: Callable[[Path, Path], None]) -> bool:
    """Make the file at `path`; return False, with a warning, if it cannot be written there."""
    part = path.with_name(f'part-{path.name}')
    try:
        convert(folder, part)
        os.replace(part, path)
    except OSError as error:
        # What cannot be read is named otherwise, and is an error.
        if error.errno not in FULL_DISK and error.filename != str(part):
            raise
        _warn(path.parent, error)
        return False
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return True


def _warn(folder: Path, error: OSError) -> None:
    """Say that no conversion is kept, why, and what to do."""
    reason = os.strerror(error.errno) if error.errno else error
    advice = 'make room there or ' if error.errno in FULL_DISK else ''
    advice += 'set BLOX_CACHE to a folder of yours'
    _LOG.warning('no conversion is kept in %r: %s; %s', str(folder), reason, advice)


def _sweep(snapshot: Snapshot) -> None:
    """Remove conversions by other versions, or of files that no known revision has.

    Whoever has one mapped keeps its content; where the system does not allow that, the file stays.
    """
    known = {
        _key(one, family)
        for one in (snapshot, *all_recorded(snapshot.repo))
        for family in families()
    }
    for path in own_folder(snapshot.repo).glob('*.safetensors'):
        if path.name.partition('.')[0] not in known:
            with contextlib.suppress(OSError):
                path.unlink()
