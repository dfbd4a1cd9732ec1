"""Saving a model and its Params as one file."""

import os
from pathlib import Path
from typing import Any

from blox import checkpoint
from blox.converters.target import model_spec
from blox.param import RNG
from blox.params import Params
from blox.zoo.architecture.fit import check_fit, not_floating, unmarked_state
from blox.zoo.catalog.card import Card


def save(
    path: str | os.PathLike[str], model: Any, params: Params, *, card: Card | None = None
) -> None:
    """Write a model and its Params to one self-describing .safetensors file, atomically.

    `card` says more of it: pass `dataclasses.replace(bx.zoo.read_card(name), ...)` to keep the
    preprocessing, labels and tokenizer of the model that this one came from; labels must be as
    many as classes.
    """
    card = Card.of(model, Path(path).stem, card)
    check_fit(model, params)
    unmarked = unmarked_state(model_spec(model), params)
    wrong = [f'{path}: not marked as batch statistics' for path in unmarked]
    wrong += not_floating({path: param.dtype for path, param in params.items() if path != RNG})
    if wrong:
        raise ValueError(f'params do not fit {model!r}: ' + '; '.join(wrong))
    checkpoint.save(path, params, card.to_header())
