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


@functools.cache
def _variants() -> Mapping[str, Family]:
    return {name: family for family in families().values() for name in family.variants}


@functools.cache
def names() -> tuple[str, ...]:
    """Return all names of the catalog, in natural order."""
    return tuple(sorted({*_variants(), *published(), *_shipped()}, key=natural_key))


@functools.cache
def _other_names() -> Mapping[str, tuple[str, ...]]:
    """Return the entries that names of their sources stand for: with timm's tag, and without it."""
    found: dict[str, tuple[str, ...]] = {}
    for row in published().values():
        name = row.source.partition('/')[2]
        for other in dict.fromkeys((name, name.partition('.')[0])):
            found[other] = (*found.get(other, ()), row.name)
    return found


def own_name(name: str) -> str:
    """Return the catalog's name of what it, or the library that it was published in, calls `name`.

    Any other name is returned as it is. Raises ValueError where timm's name of an architecture stands
    for several entries.

    >>> own_name('resnet50.a1_in1k'), own_name('all-MiniLM-L6-v2'), own_name('mine')
    ('resnet50', 'all-minilm-l6', 'mine')
    """
    if name in names():
        return name
    several = _other_names().get(name, ())
    if len(several) > 1:
        raise ValueError(f'{name!r} is several models here, name one: {", ".join(several)}')
    return several[0] if several else name


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
    near = ', '.join(nearest(name, names())) or 'see bx.zoo.list_models()'
    raise ValueError(f'no model {name!r} in the catalog; nearest: {near}')


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
