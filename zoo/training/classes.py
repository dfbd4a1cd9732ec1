"""Pretrained models for the classes of new data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from blox.params import Params
from blox.zoo.architecture.family import Head
from blox.zoo.catalog.card import SCORES, Card, default_scores
from blox.zoo.loading.load import as_stacks, card_with, read_as, restarted
from blox.zoo.loading.place import Place
from blox.zoo.loading.places import resolve
from blox.zoo.models import families


def load_for_classes(
    name_or_path: str | os.PathLike[str],
    labels: Sequence[str],
    *,
    scores: str = '',
    seed: int = 0,
    **overrides: Any,
) -> tuple[Any, Params, Card]:
    """Load a pretrained model for these classes: Params in float32, all trainable, and its card.

    The head is drawn anew with `seed`, unless the model has these very labels in this order. `scores` say
    what logits shall be: 'softmax' if one of the classes is right, 'sigmoid' if each may be, 'none' if
    labels name values; '' for what the model says, or is usual. `overrides` are those of `load`, such as
    `image_size`; `task='text-classification'` gives a text model a head.

    >>> model, params, card = load_for_classes('vit-digits', ['cat', 'dog'])
    >>> params['vit/head/w'], card.changes
    (Param(float32[96,2]), ('vit/head*/* started anew for 2 other classes',))
    """
    place = resolve(name_or_path, task=overrides.get('task', ''))
    return read_for_classes(place, labels, scores=scores, seed=seed, **overrides)


def read_for_classes(
    found: Place, labels: Sequence[str], *, scores: str = '', seed: int = 0, **overrides: Any
) -> tuple[Any, Params, Card]:
    """Do as `load_for_classes` does with a checkpoint that is open already."""
    stored, head = found.card, None
    if labels and (stored.labels != tuple(labels) or scores not in ('', stored.scores)):
        head = _head_of(stored, overrides)
        overrides = {**overrides, head.field: len(labels)}
    # What was said of the weights as they are does not hold of what is made of them.
    card = dataclasses.replace(card_with(stored, overrides), training='', metrics={})
    if scores not in ('', *SCORES):
        raise ValueError(f'expected scores of {", ".join(SCORES)}, found {scores!r}')
    flat = dataclasses.replace(card.config, scan=False)
    model, params = read_as(found, card.name, flat, jnp.float32, seed)
    if head:
        # Even where as many other classes leave the head's shape as it is.
        params = restarted(params, model, (head.pattern,), seed)
        card = _for_labels(card, head, labels, scores)
    params = params.merge(Params(seed)).finalize().unfreeze()
    if card.config.scan:
        model = families()[card.family].build(card.config)
        params = as_stacks(model, dict(params.items()))
    return model, params, card


def _head_of(card: Card, overrides: Mapping[str, Any]) -> Head:
    """Return the head that classes are given by. ValueError for a model that can have none."""
    family = families()[card.family]
    is_text = hasattr(card.config, 'task')
    is_without = is_text and not card.config.num_classes and 'task' not in overrides
    if family.head is None or is_without:
        raise ValueError(
            f'{card.name!r} is for {card.task}: it has no head for classes; of texts one is started '
            "with task='text-classification'"
        )
    return family.head


def _for_labels(card: Card, head: Head, labels: Sequence[str], scores: str) -> Card:
    """Return the card of a model whose head was started anew for these labels."""
    kind = 'values' if scores == 'none' else 'classes'
    kept = (line for line in card.changes if not line.startswith(f'{head.field} '))
    return dataclasses.replace(
        card,
        labels=tuple(labels),
        scores=scores or default_scores(card.config, card.task, len(labels)),
        summary='',
        changes=(*kept, f'{head.pattern} started anew for {len(labels)} other {kind}'),
    )
