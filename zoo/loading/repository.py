"""Repositories of the Hugging Face Hub."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blox import checkpoint, converters
from blox.converters.sources.source import CONFIGS, WEIGHTS, config_in
from blox.params import Params
from blox.tensorfile import CheckpointError, fail
from blox.zoo.catalog.card import FINITE, Card
from blox.zoo.loading import conversions, foreign
from blox.zoo.loading.hub.cache import download_folder, seen
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot
from blox.zoo.loading.own import OWN_FILE, OwnFile, says_own
from blox.zoo.loading.place import Place
from blox.zoo.loading.weights import ForeignFolder
from blox.zoo.models import families

_LOG = logging.getLogger('blox')


class Repository(Place):
    """A revision of a repository; another library's is converted at its first use, and kept."""

    def __init__(self, repo: str, revision: str | None = None, task: str = '') -> None:
        self._snapshot, self._task = snapshot(repo, revision), task
        self._needed = foreign.needed(list(self._snapshot.files))
        # What `seen` says of a conversion that is not to be read.
        self._damaged: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self._snapshot.repo

    def _read_card(self) -> Card:
        # One conversion serves all commits whose files are the same.
        return (
            dataclasses.replace(self._file.card, **self._origin) if self._kept else self._file.card
        )

    def read(self, model: Any, dtype: Any = None) -> Params:
        return self._file.read(model, dtype)

    def check(self) -> None:
        self._file.check()

    @property
    def folder(self) -> Path:
        return fetch(self._snapshot, self._needed)

    @property
    def family(self) -> str:
        return self._kept.card.family if self._kept else self._said[0]

    @property
    def layout(self) -> str:
        return self._said[1]

    @property
    def is_own(self) -> bool:
        """Return whether the repository holds a file of our own, not one that is converted."""
        return bool(config_in(self._needed)) and says_own(self._config)

    @functools.cached_property
    def _config(self) -> Mapping[str, Any]:
        """Return what config.json says: being small, it tells before the download what this is."""
        name = config_in(self._needed)
        if not name:
            self._check_whole('config.json')
            fail(
                Path(str(self)),
                'expected a config.json of transformers or timm, or of open_clip, found none',
            )
        return converters.read_object(fetch(self._snapshot, [name]) / name)

    @functools.cached_property
    def _said(self) -> tuple[str, str]:
        """Return family and layout as config.json says them."""
        if self.is_own:
            return self._file.card.family, ''
        family, layout = foreign.identify(Path(str(self)), self._config)
        return family.name, layout

    @functools.cached_property
    def _file(self) -> Place:
        """Return the file of our own that the repository holds, or that is made of it."""
        if self._kept:
            return self._kept
        if self.is_own:
            return OwnFile(fetch(self._snapshot, [OWN_FILE]) / OWN_FILE)
        path = conversions.converted(self._snapshot, self.family, self._convert, self._task)
        # A damaged one stays where the cache cannot be written.
        if path is None or seen(path) == self._damaged:
            return self._downloaded(self.folder)
        return OwnFile(path)

    @functools.cached_property
    def _kept(self) -> OwnFile | None:
        """Return the conversion that was made before, None if there is no sound one."""
        path = conversions.kept(self._snapshot, self._task)
        if path is None:
            return None
        found = None
        try:
            found = seen(path)
            file = OwnFile(path)
            # Whatever is wrong with its header comes to light here.
            conversions.check(self._snapshot, path)
            return file if file.card else None
        # Another process may have swept it just now.
        except (CheckpointError, FileNotFoundError) as error:
            _LOG.warning('%s; converting it again', error)
            self._damaged = found
            conversions.remove(path, found)
        return None

    def _convert(self, folder: Path, path: Path) -> None:
        """Write the downloaded folder to one file of our own."""
        place = self._downloaded(folder)
        model = families()[place.card.family].build(place.card.config)
        # What does not convert to finite values is an error.
        about = {**conversions.header(self._snapshot, self.family), FINITE: ''}
        header = {**place.card.to_header(), **about}
        checkpoint.save(path, place.read(model).finalize(), header)

    def _downloaded(self, folder: Path) -> ForeignFolder:
        """Return the downloaded folder, whose card says where it is from."""
        names = CONFIGS.get(config_in(self._needed), WEIGHTS)
        if not any(name in self._needed for name in names):
            self._check_whole(WEIGHTS[0])
        name = self._snapshot.repo.partition('/')[2]
        return ForeignFolder(folder, name, self._task, self._origin)

    @property
    def _origin(self) -> dict[str, Any]:
        """Return where the files are from, as a card says it."""
        found = self._snapshot
        sha256 = {name: file.sha256 for name in self._needed if (file := found.files[name]).sha256}
        return {'source': found.repo, 'commit': found.commit, 'sha256': sha256}

    def _check_whole(self, name: str) -> None:
        """Raise ConnectionError if a file is not known to be there for want of a Hub to ask."""
        if self._snapshot.partial:
            path = download_folder(str(self)) / 'snapshots' / self._snapshot.commit / name
            advice = f'load {str(self)!r} once with a network'
            raise ConnectionError(f'{str(path)!r}: expected a file, found none; {advice}')
