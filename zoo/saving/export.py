"""Exporting models as folders that other libraries open."""

import dataclasses
import os
from typing import Any

from blox import converters
from blox.params import Params
from blox.zoo.architecture.fit import check_fit
from blox.zoo.catalog.card import Card
from blox.zoo.models import family_of


def export(
    path: str | os.PathLike[str],
    model: Any,
    params: Params,
    format: str = 'hf',
    *,
    card: Card | None = None,
) -> None:
    """Write the folder that transformers ('hf') or timm ('timm') opens.

    It holds model.safetensors and config.json, and with a `card`, as `bx.zoo.read_card` gives it,
    the labels, preprocessing and tokenizer too. Where a crop leaves an odd number of pixels it
    is as the other library rounds. Raises ValueError where that cannot express the model.
    """
    check_fit(model, params)
    classes = family_of(model).count_classes(model.config)
    if card and card.labels and len(card.labels) != classes:
        raise ValueError(
            f'expected a card with {classes} labels, as many as classes, found '
            f'{len(card.labels)}; pass bx.zoo.read_card the overrides that bx.zoo.load had'
        )
    converters.export(path, model, params, format, _extra(card, format) if card else {})


def _extra(card: Card, format: str) -> dict[str, Any]:
    """Return the files and fields of config.json that say what a card knows beside the weights."""
    files: dict[str, Any] = {'config.json': {}}
    if card.tokenizer:
        files['tokenizer.json'] = card.tokenizer
    if card.labels and format == 'timm':
        files['config.json']['label_names'] = list(card.labels)
    elif card.labels:
        files['config.json'] |= {
            'id2label': {str(i): label for i, label in enumerate(card.labels)},
            'label2id': {label: i for i, label in enumerate(card.labels)},
        }
    if card.preprocessor and format == 'timm':
        prepare = dataclasses.replace(card.preprocessor, crop_rounding='even')
        files['config.json']['pretrained_cfg'] = prepare.to_timm()
    elif card.preprocessor:
        prepare = dataclasses.replace(card.preprocessor, crop_rounding='down')
        files['preprocessor_config.json'] = prepare.to_hf()
    return files
