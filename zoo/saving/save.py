"""Saving a model and its Params as one file."""

import logging
import os
from pathlib import Path
from typing import Any

from blox import checkpoint
from blox.converters.target import model_spec
from blox.param import RNG
from blox.params import Params
from blox.wording import some
from blox.zoo.architecture.fit import check_fit, mismarked, not_finite, not_floating
from blox.zoo.catalog.card import FINITE, Card

_LOG = logging.getLogger('blox')


def save(
    path: str | os.PathLike[str], model: Any, params: Params, *, card: Card | None = None
) -> None:
    """Write a model and its Params to one self-describing .safetensors file, atomically.

    `card` says more of it: pass `dataclasses.replace(bx.zoo.read_card(name), ...)` to keep the
    preprocessing, labels and tokenizer of the model that this one came from; labels must be as
    many as classes. NaN and infinity are saved with a warning.
    """
    card, params = Card.of(model, Path(path).stem, card), params.unstack()
    check_fit(model, params)
    wrong = mismarked(model_spec(model), params)
    wrong += not_floating({path: param.dtype for path, param in params.items() if path != RNG})
    if wrong:
        raise ValueError(f'params do not fit {model!r}: ' + '; '.join(wrong))
    infinite = some(not_finite(params), 4, '; ')
    if infinite:
        # What took long to train is not lost: bx.load reads it.
        _LOG.warning('%s: bx.zoo.load will refuse it: %s', path, infinite)
    checkpoint.save(path, params, {**card.to_header(), FINITE: infinite})
