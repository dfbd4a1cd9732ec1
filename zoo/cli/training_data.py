"""Open the DATA of `blox finetune` as a model takes them."""

from pathlib import Path
from typing import Any

import click

import blox as bx
from blox.zoo.catalog.card import Card
from blox.zoo.cli.shared import find, preprocessor_of, tokenizer_of
from blox.zoo.loading.load import card_with, text_preprocessor_of, with_max_tokens
from blox.zoo.loading.place import Place
from blox.zoo.loading.places import resolve
from blox.zoo.training.augment import Augmentation
from blox.zoo.training.data import Data

_TEXTS = 'text-classification'
_TABLES = ('.csv', '.tsv')
# What `datasets` writes in a folder of one dataset, and of several splits.
_SAVED = ('state.json', 'dataset_dict.json')


def open_for(
    model: str, data: str, image_size: int | None, max_tokens: int | None
) -> tuple[Place, dict[str, Any]]:
    """Return where a model lies, and the overrides with which it learns the data."""
    found = find(model)
    task = found.card.task
    if image_size and task != 'image-classification':
        raise click.UsageError(f'--image-size is of images, and {model!r} is for {task}.')
    if image_size:
        return found, {'image_size': image_size}
    if max_tokens and not (_takes_texts(found.card) and _has_rows(data)):
        raise click.UsageError('--max-tokens is of the texts in a table.')
    if _takes_texts(found.card) and _has_rows(data) and task != _TEXTS:
        return resolve(model, task=_TEXTS), {'task': _TEXTS}
    return found, {}


def _takes_texts(card: Card) -> bool:
    return hasattr(card.config, 'task')


def _has_rows(data: str) -> bool:
    """Tell whether data are rows of a table, or of a saved dataset."""
    return Path(data).suffix.lower() in _TABLES or _is_saved(data)


def _is_saved(data: str) -> bool:
    return any((Path(data) / name).is_file() for name in _SAVED)


def read_data(
    card: Card,
    model: str,
    data: str,
    wanted: dict[str, Any],
    max_tokens: int | None,
    about: dict[str, Any],
    flip: bool,
    augmentation: Augmentation,
) -> Data:
    """Read the data as the model of the card takes them; `about` says what is held out."""
    if _takes_texts(card) and _has_rows(data):
        prepare = text_preprocessor_of(
            with_max_tokens(card, max_tokens or 0), tokenizer_of(card, model)
        )
        # How many classes there are does not change which tokens it takes.
        texts = {**about, 'labels': card.labels}
        if _is_saved(data):
            return bx.zoo.text_dataset(_saved(data), prepare, card.config, **texts)
        return bx.zoo.text_table(data, prepare, card.config, **texts)
    if card.task == 'text-generation':
        sizes = card.config.context, card.config.vocab_size
        return bx.zoo.text_file(data, tokenizer_of(card, model), *sizes, holdout=about['holdout'])
    if card.task != 'image-classification':
        if _takes_texts(card):
            raise ValueError(
                f'{data!r}: {model!r} learns from texts in a CSV file with the columns text and label'
            )
        raise ValueError(
            f'{model!r} is for {card.task}, expected one for image-classification, or one of texts; '
            'others train in a loop of your own, which the page on fine-tuning shows'
        )
    prepare = preprocessor_of(card_with(card, wanted), model)
    images = {**about, 'labels': card.labels, 'flip': flip, 'augmentation': augmentation}
    if _is_saved(data):
        return bx.zoo.image_dataset(_saved(data), prepare, **images)
    if Path(data).suffix.lower() in _TABLES:
        return bx.zoo.image_table(data, prepare, **images)
    return bx.zoo.image_folder(data, prepare, **images)


def _saved(data: str) -> Any:
    """Open a folder that `datasets` saved. ImportError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"{data!r} was saved by Hugging Face's datasets: pip install datasets, which reads it"
        ) from error
    return datasets.load_from_disk(data)
