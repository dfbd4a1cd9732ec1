"""Pretrained models for the classes of new data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from blox.params import Params
from blox.zoo.catalog.card import Card, default_scores
from blox.zoo.loading.load import restarted
from blox.zoo.loading.place import Place
from blox.zoo.loading.places import resolve
from blox.zoo.models import families


def load_for_classes(
    name_or_path: str | os.PathLike[str], labels: Sequence[str], *, seed: int = 0
) -> tuple[Any, Params, Card]:
    """Load a pretrained model for these classes: Params in float32, all trainable, and its card.

    The head is drawn anew with `seed`, unless the model has these very labels in this order.

    >>> model, params, card = load_for_classes('vit-digits', ['cat', 'dog'])
    >>> params['vit/head/w'], card.changes
    (Param(float32[96,2]), ('vit/head*/* started anew for 2 other classes',))
    """
    return read_for_classes(resolve(name_or_path), labels, seed=seed)


def read_for_classes(
    found: Place, labels: Sequence[str], *, seed: int = 0
) -> tuple[Any, Params, Card]:
    """Do as `load_for_classes` does with a checkpoint that is open already."""
    # What was said of the weights as they are does not hold of what is made of them.
    card = dataclasses.replace(found.card, training='', metrics={})
    family = families()[card.family]
    model = family.build(card.config)
    if card.labels == tuple(labels):
        params = found.read(model, jnp.float32)
        return model, params.merge(Params(seed)).finalize().unfreeze(), card
    if family.head is None or (hasattr(card.config, 'task') and not card.config.num_classes):
        raise ValueError(
            f'{card.name!r} is for {card.task}: it has no head for classes; of texts bx.zoo.load starts one, '
            "with task='text-classification' and num_classes"
        )
    field, head = family.head
    config = family.override(card.config, {field: len(labels)})
    params = found.read(model, jnp.float32)
    model = family.build(config)
    # Even where as many other classes leave the head's shape as it is.
    params = restarted(params, model, (head,), seed)
    card = dataclasses.replace(
        card,
        config=config,
        labels=tuple(labels),
        scores=default_scores(config, card.task, len(labels)),
        summary='',
        changes=(*card.changes, f'{head} started anew for {len(labels)} other classes'),
    )
    return model, params.merge(Params(seed)).finalize().unfreeze(), card
