"""The catalog: a Card for every model that has a name."""

import fnmatch
import functools
from collections.abc import Mapping
from pathlib import Path

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


def list_models(pattern: str = '*') -> list[str]:
    """List the names in the catalog that fit a shell pattern, in natural order.

    >>> list_models('gpt2*')
    ['gpt2', 'gpt2-large', 'gpt2-medium', 'gpt2-pydocs', 'gpt2-xl']
    """
    names = {*_variants(), *published(), *_shipped()}
    return sorted(fnmatch.filter(names, pattern), key=natural_key)


def card(name: str) -> Card:
    """Return the card of a name in the catalog; it takes no network.

    The card of a published model says where its weights are; `bx.zoo.read_card` reads what the
    repository itself says. Raises ValueError that lists the nearest names if there is none.

    >>> card('vit-b16').source
    'google/vit-base-patch16-224'
    """
    if name in _shipped():
        return Card.from_file(TensorFile(_shipped()[name]))
    if name in published():
        return _card_of(published()[name])
    if name in _variants():
        family, config = _variants()[name], _variants()[name].variants[name]
        return Card(name, family.name, config, family.task_of(config))
    near = ', '.join(nearest(name, list_models())) or 'see bx.zoo.list_models()'
    raise ValueError(f'no model {name!r} in the catalog; nearest: {near}')


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
        metrics=row.metrics,
        preprocessor=row.preprocessor,
        source=row.source,
        layout=row.layout,
    )
