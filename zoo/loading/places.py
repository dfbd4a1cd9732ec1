"""Resolving a name, path or repository to the place that it stands for."""

import os
import re
from pathlib import Path

from blox import converters
from blox.zoo.catalog.card import Card
from blox.zoo.catalog.entries import card, names, own_name
from blox.zoo.loading.named import Named
from blox.zoo.loading.own import OWN_FILE, OwnFile, says_own
from blox.zoo.loading.place import Place
from blox.zoo.loading.weights import BareWeights, ForeignFolder

_SUFFIXES = ('.safetensors', '.npz', '.pth', '.pt', '.bin', '.ckpt', '.tar')
_REPOSITORY = re.compile(r'([^/@\s]+/[^/@\s]+)(?:@(\S+))?')


def resolve(
    name_or_path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    task: str = '',
    state: str = '',
) -> Place:
    """Return the place of a catalog name, path or repository; `source` takes that of its own.

    If a folder of another library has several heads, or none, `task` says which is meant. If `source`
    is weights alone, a training checkpoint's, `state` names the one of its states to take.

    A path that exists goes before a repository of the same name, and before the name that the source of
    an entry has; a name in the catalog goes before all, unless it is given as a Path.
    """
    name = str(name_or_path)
    if not name or source == '':
        raise ValueError('expected the name of a model or of a file, found nothing')
    if source is not None:
        entry = card(name)
        place = _resolve(source, revision, task or entry.task)
        if place.is_bare:
            return BareWeights(place.folder, entry, state)
        _check_no_state(str(source), state)
        return Named(place, entry, ('paper', 'preprocessor'))
    _check_no_state(name, state)
    if isinstance(name_or_path, str) and (own := catalog_name(name)):
        return _resolve_entry(card(own), revision, task)
    return _resolve(name_or_path, revision, task)


def catalog_name(name: str) -> str:
    """Return the entry of the catalog that a name stands for, '' for none.

    A name of ours goes before a path, and that before the name that a source has.
    """
    if name in names():
        return name
    own = '' if os.path.lexists(name) else own_name(name)
    return own if own in names() else ''


def _resolve_entry(entry: Card, revision: str | None, task: str) -> Place:
    if entry.weights is not None:
        _check_no_revision(entry.name, revision)
        return OwnFile(entry.weights)
    if not entry.source:
        start = f'{entry.name}-'
        near = [name for name in names() if name.startswith(start) and card(name).source]
        published = f'load one of {", ".join(near)}; ' if near else ''
        raise ValueError(
            f'{entry.name!r} is an architecture without weights of its own: {published}start from '
            f'random ones with model = bx.zoo.create({entry.name!r}); params = '
            f'bx.zoo.init(model); or name weights with bx.zoo.load({entry.name!r}, source=PATH)'
        )
    known = ('summary', 'license', 'paper', 'preprocessor')
    # Of another revision nothing was measured.
    known += ('metrics',) if revision is None else ()
    return Named(_repository(entry.source, revision, task or entry.task), entry, known)


def _resolve(name_or_path: str | os.PathLike[str], revision: str | None, task: str) -> Place:
    """Return the place of a path or repository."""
    name = str(name_or_path)
    path, repository = Path(name), _REPOSITORY.fullmatch(name)
    is_path = _is_path(name_or_path)
    if not is_path and repository:
        repo, at = repository.groups()
        if at and revision and at != revision:
            raise ValueError(f'{name!r} names one revision, revision={revision!r} another')
        return _repository(repo, at or revision, task)
    _check_no_revision(name, revision)
    if not is_path:
        card(name)  # Its error names what is near.
    return _folder(path, task) if path.is_dir() else _file(path)


def _is_path(name: str | os.PathLike[str]) -> bool:
    """Return whether this is there, or can only be a file or folder: no repository is meant."""
    if Path(name).exists():
        return True
    if (
        not isinstance(name, str)
        or name.startswith(('.', '~'))
        or name.endswith('/')
        or Path(name).is_absolute()
    ):
        return True
    return Path(name).suffix in _SUFFIXES


def _check_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f'{name!r} is no repository: only those have revisions')


def _check_no_state(name: str, state: str) -> None:
    if state:
        raise ValueError(
            f'state={state!r} is one of the states in a training checkpoint, which source= names; '
            f'{name!r} is none'
        )


def _repository(repo: str, revision: str | None, task: str) -> Place:
    # It imports huggingface_hub, which takes a while.
    from blox.zoo.loading.repository import Repository

    return Repository(repo, revision, task)


def _folder(path: Path, task: str) -> Place:
    config = path / 'config.json'
    if config.is_file() and says_own(converters.read_object(config)):
        return OwnFile(path / OWN_FILE)
    return ForeignFolder(path, path.resolve().name, task)


def _file(path: Path) -> Place:
    if path.suffix == '.safetensors' or not path.exists():
        return OwnFile(path)
    return ForeignFolder(path, path.stem)
