"""The catalog: a Card for every model that has a name."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path

from blox.param import RNG
from blox.paths import natural_key, nearest
from blox.tensorfile import TensorFile
from blox.zoo.architecture.family import Family
from blox.zoo.catalog.card import Card
from blox.zoo.catalog.published import published
from blox.zoo.catalog.published.row import Published
from blox.zoo.models import families

WEIGHTS = Path(__file__).parent.parent / 'weights'


@functools.cache
def _shipped() -> Mapping[str, Path]:
    return {path.stem: path for path in WEIGHTS.glob('*.safetensors')}


def _variants() -> Mapping[str, Family]:
    return {name: family for family in families().values() for name in family.variants}


def names() -> tuple[str, ...]:
    """Return all names of the catalog, in natural order."""
    return _ordered(frozenset({*_variants(), *published(), *_shipped()}))


@functools.lru_cache(maxsize=1)
def _ordered(names: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural_key))


@functools.cache
def _source_names() -> Mapping[str, str]:
    """Return the entries by the names that their sources have, without the organization."""
    return {row.source.partition('/')[2]: row.name for row in published().values()}


def own_name(name: str) -> str:
    """Return the catalog's name of what it, or the library that it was published in, calls `name`.

    Any other name is returned as it is. Raises ValueError for timm's name of an architecture, which
    stands for other weights in each of its versions.

    >>> own_name('resnet50.a1_in1k'), own_name('all-MiniLM-L6-v2'), own_name('mine')
    ('resnet50', 'all-minilm-l6', 'mine')
    """
    if name in names():
        return name
    tagged = {
        theirs: own for theirs, own in _source_names().items() if theirs.startswith(f'{name}.')
    }
    if tagged:
        known = ', '.join(f'{own!r} ({theirs})' for theirs, own in tagged.items())
        raise ValueError(
            f'{name!r} is an architecture of timm; of its weights there are here: {known}'
        )
    return _source_names().get(name, name)


def card(name: str) -> Card:
    """Return the card of a name in the catalog, or of the one that its source has; it takes no network.

    The card of a published model says where its weights are; `bx.zoo.read_card` reads what the
    repository itself says. Raises ValueError that lists the nearest names if there is none.

    >>> card('vit-b16').source
    'google/vit-base-patch16-224'
    """
    name = own_name(name)
    if name in _shipped():
        return Card.from_file(TensorFile(_shipped()[name]))
    if name in published():
        return _card_of(published()[name])
    if name in _variants():
        family, config = _variants()[name], _variants()[name].variants[name]
        return Card(name, family.name, config, family.task_of(config))
    near = ', '.join(nearest(name, names()))
    hint = f'nearest: {near}' if near else 'bx.zoo.list_models() has all names'
    raise ValueError(f'no model {name!r} in the catalog; {hint}')


def count_parameters(name: str) -> int | None:
    """Return how many parameters a model of the catalog has, None for an architecture alone."""
    if name in _shipped():
        tensors = TensorFile(_shipped()[name]).tensors
        return sum(
            math.prod(info.shape)
            for path, info in tensors.items()
            if not path.startswith(f'{RNG}/')
        )
    return published()[name].parameters if name in published() else None


def _card_of(row: Published) -> Card:
    family = _variants()[row.variant]
    config = family.override(family.variants[row.variant], row.overrides)
    return Card(
        row.name,
        family.name,
        config,
        family.task_of(config),
        summary=row.summary,
        license=row.license,
        paper=row.paper,
        metrics=dict(row.metrics),
        preprocessor=row.preprocessor,
        source=row.source,
        layout=row.layout,
    )
