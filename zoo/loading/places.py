"""What a name, path or repository stands for: a card, and Params read when the model is known."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from blox import checkpoint, converters, paths
from blox.adapters import is_adapted
from blox.checkpoint import RNG_TENSORS
from blox.converters.convert import model_spec
from blox.converters.sources.source import Source, open_source
from blox.param import RNG
from blox.params import Params
from blox.tensorfile import CheckpointError, TensorFile, fail
from blox.wording import differences, some
from blox.zoo.architecture.family import Family
from blox.zoo.catalog.card import HEADER_KEY, Card
from blox.zoo.catalog.entries import card, list_models
from blox.zoo.loading import foreign
from blox.zoo.models import families

if TYPE_CHECKING:
    from blox.zoo.loading.hub import Snapshot

_LOG = logging.getLogger('blox')

_REPOSITORY = re.compile(r'([^/@\s]+/[^/@\s]+)(?:@(\S+))?')
# What config.json says of a repository or folder that holds a file of our own.
OWN_CONFIG = {'library_name': 'blox'}
OWN_FILE = 'model.safetensors'


@dataclass(frozen=True)
class Checkpoint:
    """A model's card, and its Params for the model of the card's config."""

    card: Card
    reader: Callable[[Any, Any], Params]

    def read(self, model: Any, dtype: Any = None) -> Params:
        """Params without an rng for the card's model, in `dtype` or as they are stored."""
        return self.reader(model, dtype)


def open_checkpoint(
    name_or_path: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Checkpoint:
    """Finds a model by catalog name, path, or repository; `source` takes the place of its own.

    A path that exists goes before a repository of the same name; a name in the catalog goes
    before both, unless it is given as a Path.
    """
    name = str(name_or_path)
    if not name or source == '':
        raise ValueError('expected the name of a model or of a file, found nothing')
    if source is not None:
        return _open_as(card(name), source, revision)
    if isinstance(name_or_path, str) and name in list_models():
        return _open_named(card(name), revision)
    return _open_place(name_or_path, revision)


def _open_place(
    name_or_path: str | os.PathLike[str], revision: str | None, entry: Card | None = None
) -> Checkpoint:
    """A path or repository; with an `entry`, a repository of another family is not downloaded."""
    name = str(name_or_path)
    path, repository = Path(name), _REPOSITORY.fullmatch(name)
    is_path = _is_path(name_or_path)
    if not is_path and repository:
        repo, at = repository.groups()
        if at and revision and at != revision:
            raise ValueError(f'{name!r} names one revision, revision={revision!r} another')
        return _open_hub(repo, at or revision, entry)
    _check_no_revision(name, revision)
    if not is_path:
        card(name)  # Its error names what is near.
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _is_path(name: str | os.PathLike[str]) -> bool:
    """Whether this is there, or can only be a file or folder: no repository is meant."""
    if Path(name).exists():
        return True
    if (
        not isinstance(name, str)
        or name.startswith(('.', '~'))
        or name.endswith('/')
        or Path(name).is_absolute()
    ):
        return True
    return Path(name).suffix in ('.safetensors', '.npz', '.pth', '.pt', '.bin')


def _check_no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f'{name!r} is no repository: only those have revisions')


def _open_named(entry: Card, revision: str | None) -> Checkpoint:
    if entry.weights is not None:
        _check_no_revision(entry.name, revision)
        return _open_own(entry.weights)
    if not entry.source:
        near = [name for name in list_models(f'{entry.name}-*') if card(name).source]
        published = f'load one of {", ".join(near)}; ' if near else ''
        raise ValueError(
            f'{entry.name!r} is an architecture without weights of its own: {published}start from '
            f'random ones with model = bx.zoo.create({entry.name!r}); params = '
            f'bx.zoo.init(model); or name weights with bx.zoo.load({entry.name!r}, source=PATH)'
        )
    known = ('summary', 'license', 'paper', 'preprocessor')
    return _named(entry, _open_hub(entry.source, revision, entry), known)


def _open_as(entry: Card, source: str | os.PathLike[str], revision: str | None) -> Checkpoint:
    """The weights at `source` as those of a catalog entry."""
    path = Path(source)
    is_bare = path.is_file() and not is_own(path)
    if path.is_dir():
        is_bare = not (path / 'config.json').exists()
    if not is_bare:
        return _named(entry, _open_place(source, revision, entry), ('paper', 'preprocessor'))
    _check_no_revision(str(path), revision)
    opened = open_source(path)
    return _foreign(opened, card_of_weights(opened, entry))


def card_of_weights(opened: Source, entry: Card) -> Card:
    """The card of weights alone, which are those of a catalog entry's architecture."""
    family = families()[entry.family]
    explanation = converters.explain(opened, family.build(entry.config))
    facts = converters.layouts(family.name)[explanation.layout].facts or {}
    config = family.override(entry.config, {**facts, **_classes(opened, explanation, family)})
    # Of what the entry says only this holds for weights of whatever origin.
    return Card(
        entry.name,
        entry.family,
        config,
        entry.task,
        paper=entry.paper,
        preprocessor=entry.preprocessor,
        tokenizer=entry.tokenizer,
        layout=explanation.layout,
    )


def _classes(source: Source, explanation: converters.Explanation, family: Family) -> dict[str, int]:
    """The num_classes that weights alone have: as many as the head's bias, 0 without a head."""
    pattern = family.fresh.get('num_classes')
    for path, entry in explanation.entries.items():
        if pattern and path.endswith('/b') and paths.matches(pattern, path):
            name = explanation.names.get(entry.names[0])
            return {'num_classes': source.tensors[name].shape[0] if name else 0}
    return {}


def _named(entry: Card, found: Checkpoint, fields: Sequence[str]) -> Checkpoint:
    """`found`, which must be of the entry's size, with those of the entry's `fields` that it lacks."""
    theirs = found.card
    where = theirs.source or theirs.name
    _check_family(entry, theirs.family, where)
    if theirs.config != entry.config:
        head = tuple(families()[entry.family].fresh.values())
        expected, shapes = (_body(one, head) for one in (entry, theirs))
        _check_same(entry, where, differences(expected, shapes, 'shape'))
    known = dataclasses.replace(
        theirs,
        name=entry.name,
        **{field: getattr(entry, field) for field in fields if not getattr(theirs, field)},
    )
    return Checkpoint(known, found.reader)


def _check_family(entry: Card, family: str, where: str) -> None:
    wrong = [f'expected family {entry.family!r}, found {family!r}']
    _check_same(entry, where, wrong if family != entry.family else [])


def _check_same(entry: Card, where: str, wrong: list[str]) -> None:
    if wrong:
        raise ValueError(
            f'{entry.name!r} and the weights from {where!r} are of different models: '
            f'{some(wrong, 8, "; ")}'
        )


def _body(one: Card, head: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of a card's model, its head apart."""
    params = model_spec(families()[one.family].build(one.config))
    has_head = [pattern for pattern in head if getattr(one.config, 'num_classes', 0)]
    return shapes(params.partition(has_head)[1])


# Our own files.


def is_own(path: Path) -> bool:
    """Whether blox saved this file, or the one in this folder."""
    file = path / OWN_FILE if path.is_dir() else path
    is_tensors = file.is_file() and file.suffix == '.safetensors'
    return is_tensors and HEADER_KEY in TensorFile(file).metadata


def _open_file(path: Path) -> Checkpoint:
    if path.suffix == '.safetensors' or not path.exists():
        return _open_own(path)
    return _foreign_folder(open_source(path), path.stem)


def _open_own(path: Path) -> Checkpoint:
    file = TensorFile(path)
    return Checkpoint(Card.from_file(file), lambda model, dtype: _read_own(file, model, dtype))


def _read_own(file: TensorFile, model: Any, dtype: Any) -> Params:
    """The Params in our file, once its header was compared with the model's own spec."""
    expected = model_spec(model)
    _check_fit(expected, file)
    params = checkpoint.params_of(file).partition(lambda path, _: path != RNG)[0]
    if unmarked := unmarked_state(expected, params):
        fail(file.path, f'expected these to be marked as batch statistics: {unmarked}')
    return params if dtype is None else params.cast(dtype)


# Folders and repositories of others.


def _open_folder(path: Path) -> Checkpoint:
    config = path / 'config.json'
    if config.is_file() and _says_own(converters.read_object(config)):
        return _open_own(path / OWN_FILE)
    return _foreign_folder(open_source(path), path.resolve().name)


def _says_own(config: Mapping[str, Any]) -> bool:
    return config.get('library_name') == OWN_CONFIG['library_name']


def _foreign_folder(source: Source, name: str) -> Checkpoint:
    return _foreign(source, foreign.read_card(source, name))


def _foreign(source: Source, found: Card) -> Checkpoint:
    def read(model: Any, dtype: Any) -> Params:
        params = converters.convert(source, model, dtype=dtype)
        return params.partition(lambda path, _: path != RNG)[0]

    return Checkpoint(found, read)


def _open_hub(repo: str, revision: str | None, entry: Card | None) -> Checkpoint:
    """A repository's model, converted at its first use and kept; of the family of `entry`."""
    from blox.zoo.loading import hub  # It imports huggingface_hub, which takes a while.

    found = hub.snapshot(repo, revision)
    names, code = foreign.needed(list(found.files)), foreign.fingerprint()
    if kept := hub.kept(found, names, code):
        try:
            return _open_own(kept)
        except CheckpointError as error:
            _LOG.warning('%s; converting it again', error)
            with contextlib.suppress(OSError):
                kept.unlink()
    # The small file first: it tells before the download whether the model is one of ours.
    config = _hub_config(hub.fetch(found, [name for name in names if name == 'config.json']), repo)
    if _says_own(config):
        return _open_own(hub.fetch(found, [OWN_FILE]) / OWN_FILE)
    family, _ = foreign.identify(Path(repo), config)
    if entry is not None:
        _check_family(entry, family.name, repo)
    kept = hub.converted(found, names, code, partial(_convert, found))
    return _open_own(kept) if kept else _hub_folder(found, hub.fetch(found, names))


def _hub_folder(found: 'Snapshot', folder: Path) -> Checkpoint:
    """The downloaded folder of a snapshot, whose card says where it is from."""
    opened = _foreign_folder(open_source(folder), found.repo.partition('/')[2])
    names = foreign.needed(list(found.files))
    sha256 = {name: file.sha256 for name in names if (file := found.files[name]).sha256}
    made = dataclasses.replace(opened.card, source=found.repo, commit=found.commit, sha256=sha256)
    return Checkpoint(made, opened.reader)


def _convert(found: 'Snapshot', folder: Path, path: Path) -> None:
    """Writes the downloaded folder of a snapshot to one file of our own."""
    opened = _hub_folder(found, folder)
    model = families()[opened.card.family].build(opened.card.config)
    checkpoint.save(path, opened.read(model).finalize(), opened.card.to_header())


def local_path(name: str) -> Path:
    """The folder or file that a path names, or the downloaded folder of a repository."""
    is_entry = name in list_models() and bool(card(name).source)
    repository = _REPOSITORY.fullmatch(card(name).source if is_entry else name)
    if not repository or (_is_path(name) and not is_entry):
        return Path(name)
    from blox.zoo.loading import hub  # It imports huggingface_hub, which takes a while.

    found = hub.snapshot(*repository.groups())
    return hub.fetch(found, foreign.needed(list(found.files)))


def _hub_config(folder: Path, repo: str) -> Mapping[str, Any]:
    path = folder / 'config.json'
    if not path.is_file():
        fail(Path(repo), 'expected a config.json of transformers or timm, found none')
    return converters.read_object(path)


# Comparing shapes.


def shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Of all entries but the rng."""
    return {path: param.shape for path, param in params.items() if path != RNG}


def unmarked_state(expected: Params, params: Params) -> list[str]:
    """Paths of batch statistics that `params` has as parameters: an optimizer would train them."""
    return [
        path
        for path, param in expected.items()
        if path in params and param.is_state and not params[path].is_state
    ]


def _check_fit(expected: Params, file: TensorFile) -> None:
    """Compares names, shapes and dtypes with the file's header, before any data is read."""
    found = {name: info for name, info in file.tensors.items() if name not in RNG_TENSORS}
    wrong = differences(
        shapes(expected), {name: info.shape for name, info in found.items()}, 'shape'
    )
    wrong += [
        f'{name!r}: expected a floating-point dtype, found {info.dtype}'
        for name, info in found.items()
        if not jnp.issubdtype(info.dtype, jnp.floating)
    ]
    if wrong:
        # All of them, however many: whoever mends the file needs the whole list.
        what = 'its tensors do not fit its config: ' + '; '.join(wrong)
        fail(file.path, what, most=50_000)


def check_fit(model: Any, params: Params) -> None:
    """Raises ValueError that names each path where Params are not those of a model."""
    if is_adapted(params):
        raise ValueError(
            'these Params have adapters: bx.merge_lora(params) makes them plain, '
            'bx.save_lora writes them alone'
        )
    if wrong := differences(shapes(model_spec(model)), shapes(params), 'shape'):
        raise ValueError(f'params do not fit {model!r}: {"; ".join(wrong)}')
