"""Exporting models as folders that other libraries open."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blox import converters
from blox.converters.mapping.libraries import OPEN_CLIP, TIMM, Library
from blox.converters.target import layouts_of, meant
from blox.params import Params
from blox.wording import counted
from blox.zoo.architecture.fit import check_fit
from blox.zoo.catalog.card import SCORED, SCORES, Card, default_scores
from blox.zoo.inputs.text import TextSettings
from blox.zoo.inputs.tokenizers import NEEDS_SPIECE, parse_tokenizer
from blox.zoo.models import families, family_of


def export(
    path: str | os.PathLike[str],
    model: Any,
    params: Params,
    format: str = 'hf',
    *,
    card: Card | None = None,
) -> None:
    """Write the folder that transformers ('hf'), timm ('timm') or open_clip ('open_clip') opens.

    Where transformers has several classes for such a model, the `card` says in which one it came.
    It holds weights and a config, as the library calls them, and with a `card`, as `bx.zoo.read_card`
    gives it, the labels, preprocessing, tokenizer, prompts and settings of generation too. Where a crop
    leaves an odd number of pixels it is as the other library rounds. Raises ValueError where that
    cannot express the model.
    """
    check_fit(model, params)
    classes = family_of(model).count_classes(model.config)
    if card and card.labels and len(card.labels) != classes:
        raise ValueError(
            f'expected a card with {counted(classes, "label")}, as many as classes, found '
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
    table = converters.layouts(card.family).get(format)
    library = table.library if table else None
    files = _of_texts(card, library) if card.tokenizer else {}
    if library is TIMM:
        return {**files, 'config.json': _for_timm(card)}
    if library is OPEN_CLIP:
        files.pop('config.json', None)
        return {**files, OPEN_CLIP.config: _for_open_clip(card)}
    if card.preprocessor:
        prepare = dataclasses.replace(card.preprocessor, crop_rounding='down')
        files['preprocessor_config.json'] = prepare.to_hf()
    return {**files, 'config.json': {**files.get('config.json', {}), **_for_transformers(card)}}


# Pixels as torchvision's transforms make them.
_LIKE_TORCHVISION = {'crop_rounding': 'even', 'resize_dtype': 'uint8'}


def _for_timm(card: Card) -> dict[str, Any]:
    fields: dict[str, Any] = {'label_names': list(card.labels)} if card.labels else {}
    if card.preprocessor:
        prepare = dataclasses.replace(card.preprocessor, **_LIKE_TORCHVISION)
        fields['pretrained_cfg'] = prepare.to_timm()
    return fields


def _for_open_clip(card: Card) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if card.preprocessor:
        prepare = dataclasses.replace(card.preprocessor, **_LIKE_TORCHVISION)
        fields['preprocess_cfg'] = prepare.to_open_clip()
    if card.tokenizer and not _has_tokenizer_of_clip(card):
        # Any name makes it take the tokenizer of its folder, and not its own.
        fields['model_cfg'] = {'text_cfg': {'hf_tokenizer_name': 'tokenizer'}}
    return fields


def _has_tokenizer_of_clip(card: Card) -> bool:
    """Return whether open_clip's own tokenizer, which its folders need no files for, is the card's."""
    kind = str(card.tokenizer_config.get('tokenizer_class')).removesuffix('Fast')
    return kind == 'CLIPTokenizer' and card.config.vocab_size == 49408


def _for_transformers(card: Card) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    count = families()[card.family].count_classes(card.config)
    usual = default_scores(card.config, card.task, count)
    if card.task in SCORED and card.scores != usual:
        fields['problem_type'] = SCORES[card.scores]
    if card.labels:
        fields['id2label'] = {str(i): label for i, label in enumerate(card.labels)}
        fields['label2id'] = {label: i for i, label in enumerate(card.labels)}
    return fields


def _of_texts(card: Card, library: Library | None) -> dict[str, Any]:
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
    said = dict(card.tokenizer_config) or usual
    # The others do with a text what their tokenizer.json says, and more where open_clip cleaned it.
    is_open_clip = library is OPEN_CLIP and not _has_tokenizer_of_clip(card)
    if is_open_clip or said.get('tokenizer_class') in NEEDS_SPIECE:
        said = {**said, 'tokenizer_class': usual['tokenizer_class']}
    files = {
        'tokenizer.json': card.tokenizer,
        'tokenizer_config.json': said,
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
