"""The files that a training ends with."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from blox.adapters import is_adapted
from blox.atomic import atomic_write
from blox.lora import merge_lora, save_lora
from blox.params import Params
from blox.wording import counted
from blox.zoo.catalog.card import Card
from blox.zoo.saving.save import save
from blox.zoo.training import curves
from blox.zoo.training.data import Data
from blox.zoo.training.plan import Plan
from blox.zoo.training.report import page
from blox.zoo.training.state import Epoch, best_of
from blox.zoo.training.step import Measured

_SUFFIXES = ('.safetensors', '.csv', '.png', '.html', '.lora.safetensors')


def check_name(out: Path) -> None:
    """Raise ValueError or OSError if no result can have this name."""
    if out.suffix != '.safetensors':
        raise ValueError(f"expected a name that ends in '.safetensors', found {str(out)!r}")
    if not os.access(out.absolute().parent, os.W_OK):
        raise OSError(f'cannot write {str(out)!r}: its folder is missing or not writable')


def check_free(out: Path) -> None:
    """Raise FileExistsError if one of the files is there."""
    there = [path for path in map(out.with_suffix, _SUFFIXES) if os.path.lexists(path)]
    if there:
        raise FileExistsError(f'{str(there[0])!r} is there already: remove it, or name another')


def check_show(data: Data) -> None:
    """Raise ValueError if what is shown of examples is no image and no text: better now than at the end."""
    if data.show is None:
        return
    seen = data.show(data.held_out[0])
    if not isinstance(seen, Image.Image | str):
        raise ValueError(
            f'expected show of the data to give a Pillow image or a text, found {type(seen).__name__}'
        )


def write(
    out: Path,
    model: Any,
    params: Params,
    card: Card,
    data: Data,
    plan: Plan,
    history: Sequence[Epoch],
) -> None:
    """Write all files; the model before the page, which cannot undo what was trained."""
    if is_adapted(params):
        save_lora(out.with_suffix('.lora.safetensors'), params)
    picture = curves.draw(history, best_of(history, plan.choose_by), plan.scores)
    _write(out.with_suffix('.csv'), curves.as_csv(history))
    _write(out.with_suffix('.png'), picture)
    save(out, model, merge_lora(params).unfreeze(), card=card)
    _write(out.with_suffix('.html'), page(model, params, card, data, plan, picture))


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def card_before(card: Card | None, name: str, model: Any, data: Data) -> Card:
    """Return a card of what is known before training. Raise ValueError unless a file can say it."""
    base = Card.of(model, name, card)
    known = dataclasses.replace(
        base,
        name=name,
        labels=data.labels,
        data='; then '.join(text for text in (base.data, data.summary) if text),
        changes=(*base.changes, f'fine-tuned from {base.name}') if card else (),
    )
    known.to_header()
    return known


def card_after(
    card: Card, params: Params, plan: Plan, history: Sequence[Epoch], test: Measured | None
) -> Card:
    """Return the card with what was done and measured, on the test too if there is one."""
    best = best_of(history, plan.choose_by)
    measured = {
        'held_out': Measured(best.held_out_loss, best.held_out_accuracy, best.score),
        **({'test': test} if test else {}),
    }
    trained = params.split_trainable()[0].num_params
    return dataclasses.replace(
        card,
        training=f'fine-tuned by AdamW: {counted(f"{trained:,}", "parameter")}'
        f'{", adapters among them" if is_adapted(params) else ""}, '
        f'{counted(len(history), "epoch")} of {counted(plan.examples, "example")}, of which epoch '
        f'{best.epoch} is this, batches of {plan.batch_size}, learning rate {plan.learning_rate:.3g}, '
        f'seed {plan.seed}'
        + (f', computed in {plan.dtype}' if plan.dtype else '')
        + _choices(plan),
        metrics={
            f'{part}_{name}': round(value, 4)
            for part, found in measured.items()
            for name, value in _named(found, plan).items()
        },
    )


def _named(found: Measured, plan: Plan) -> dict[str, float]:
    """Return what was measured by name; values are near or far, not right or wrong."""
    accuracy = {} if plan.scores == 'none' else {'accuracy': found.accuracy}
    return {**accuracy, 'loss': found.loss, plan.choose_by: found.score}


def _choices(plan: Plan) -> str:
    """Say what was chosen that is not usual."""
    names = ('schedule', 'weight_decay', 'layer_decay', 'label_smoothing', 'mixup', 'cutmix', 'ema')
    usual = plan._field_defaults
    said = [
        f', {name.replace("_", " ")} {getattr(plan, name)}'
        for name in names
        if getattr(plan, name) != usual[name]
    ]
    return ''.join(said) + (', weighted classes' if plan.class_weights else '')
