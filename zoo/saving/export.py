"""Exporting models as folders that other libraries open."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blox import converters
from blox.converters.target import layouts_of, meant
from blox.params import Params
from blox.zoo.architecture.fit import check_fit
from blox.zoo.catalog.card import SCORES, Card, default_scores
from blox.zoo.inputs.text import TextSettings
from blox.zoo.inputs.tokenizers import parse_tokenizer
from blox.zoo.models import families, family_of


def export(
    path: str | os.PathLike[str],
    model: Any,
    params: Params,
    format: str = 'hf',
    *,
    card: Card | None = None,
) -> None:
    """Write the folder that transformers ('hf') or timm ('timm') opens.

    Where transformers has several classes for such a model, the `card` says in which one it came.
    It holds model.safetensors and config.json, and with a `card`, as `bx.zoo.read_card` gives it,
    the labels, preprocessing, tokenizer, prompts and settings of generation too. Where a crop leaves an odd number of pixels it
    is as the other library rounds. Raises ValueError where that cannot express the model.
    """
    check_fit(model, params)
    classes = family_of(model).count_classes(model.config)
    if card and card.labels and len(card.labels) != classes:
        raise ValueError(
            f'expected a card with {classes} labels, as many as classes, found '
            f'{len(card.labels)}; pass bx.zoo.read_card the overrides that bx.zoo.load had'
        )
    extra = _extra(Card.of(model, card.name, card), format) if card else {}
    converters.export(path, model, params, _layout(model, format, card), extra)


def _layout(model: Any, format: str, card: Card | None) -> str:
    """Return the layout that weights came in, if `format` stands for it and it can hold the model.

    Of one library, several may: a ConvNeXt of DINOv3 goes out as such.
    """
    # An unknown one has an error of its own.
    if card is None or format not in converters.layouts(model.path):
        return format
    can_hold = {*layouts_of(model)} & {*meant(model, format)}
    return card.layout if card.layout in can_hold else format


def _extra(card: Card, format: str) -> dict[str, Any]:
    """Return the files and fields of config.json that say what a card knows beside the weights."""
    files: dict[str, Any] = {'config.json': {}}
    if card.tokenizer:
        files |= _of_texts(card)
    count = families()[card.family].count_classes(card.config)
    if format != 'timm' and card.scores != default_scores(card.task, count):
        files['config.json']['problem_type'] = SCORES[card.scores]
    if card.labels and format == 'timm':
        files['config.json']['label_names'] = list(card.labels)
    elif card.labels:
        files['config.json'] |= {
            'id2label': {str(i): label for i, label in enumerate(card.labels)},
            'label2id': {label: i for i, label in enumerate(card.labels)},
        }
    if card.preprocessor and format == 'timm':
        like_timm = {'crop_rounding': 'even', 'resize_dtype': 'uint8'}
        prepare = dataclasses.replace(card.preprocessor, **like_timm)
        files['config.json']['pretrained_cfg'] = prepare.to_timm()
    elif card.preprocessor:
        prepare = dataclasses.replace(card.preprocessor, crop_rounding='down')
        files['preprocessor_config.json'] = prepare.to_hf()
    return files


def _of_texts(card: Card) -> dict[str, Any]:
    """Return the files of a card's tokenizer, of what it generates and of how it prepares texts."""
    tokenizer = parse_tokenizer(Path(card.name), card.tokenizer)
    ends = getattr(card.config, 'end_tokens', ())
    end = tokenizer.id_to_token(ends[0]) if ends else None
    usual = {'tokenizer_class': 'PreTrainedTokenizerFast', **({'eos_token': end} if end else {})}
    generation = {name: x for name, x in card.generation.items() if name != 'eos_token_id'}
    if ends:
        # A text begins where the one before it ended, unless the checkpoint says more.
        generation = {'bos_token_id': ends[0], **generation, 'eos_token_id': _one_or_all(ends)}
    ids = {name: id for name, id in generation.items() if name in ('bos_token_id', 'pad_token_id')}
    files = {
        'tokenizer.json': card.tokenizer,
        'tokenizer_config.json': dict(card.tokenizer_config) or usual,
        'config.json': ids,
    }
    if card.task == 'text-generation':
        files['generation_config.json'] = generation
    if card.task == 'sentence-embedding':
        files |= _of_sentences(card.texts)
    return files


def _one_or_all(ids: Sequence[int]) -> int | list[int]:
    return ids[0] if len(ids) == 1 else list(ids)


def _of_sentences(texts: TextSettings) -> dict[str, Any]:
    """Return the files by which sentence-transformers prepares texts alike."""
    return {
        'sentence_bert_config.json': {
            'max_seq_length': texts.max_tokens or None,
            'do_lower_case': texts.lower_case,
        },
        'config_sentence_transformers.json': {
            'prompts': dict(texts.prompts),
            'default_prompt_name': texts.default_prompt or None,
            'similarity_fn_name': texts.similarity,
        },
        '1_Pooling/config.json': {'include_prompt': texts.include_prompt},
    }
