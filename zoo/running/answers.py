"""Answer for texts what a text model's task asks: classes, words in the place of masks, spans."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from blox.params import Params
from blox.wording import counted
from blox.zoo.inputs.text import EncodedText, Text, TextPreprocessor, trouble
from blox.zoo.running.batches import TextBatches
from blox.zoo.running.scoring import Answer, best, score

# Answers of more tokens are left out, as transformers does.
_LONGEST_ANSWER = 15


class Part(NamedTuple):
    """A part of a text, and the best answers for it.

    Attributes:
      text: the whole text, or a token of it.
      start, end: where it lies in the text, in characters.
    """

    text: str
    start: int
    end: int
    answers: list[Answer]


class Asked(NamedTuple):
    """What is asked of texts: of which labels, by what scores, and how many answers of each.

    Attributes:
      first: a text that goes before each, such as a question; '' for none.
    """

    labels: Sequence[str]
    scores: str
    top: int
    first: str = ''


TASKS = (
    'text-classification',
    'token-classification',
    'multiple-choice',
    'question-answering',
    'fill-mask',
)


def answer(
    model: Any,
    params: Params,
    prepare: TextPreprocessor,
    tokenizer: Tokenizer,
    mask_token: str,
    texts: Sequence[str],
    asked: Asked,
    note: Callable[[int, str], None],
) -> Iterator[tuple[int, list[Part]]]:
    """Yield the index of each text and its parts; multiple choice has one part for all texts.

    `note` is told of each text what is cut, or why it is left out. Raises ValueError where the task
    lacks a first text.
    """
    task = model.config.task
    _check_first(task, asked.first)
    encoded = prepare.encode([_pair(asked.first, text) for text in texts], prompt='')
    mask = tokenizer.token_to_id(mask_token)
    sound = {}
    for i, one in enumerate(encoded):
        if one.is_cut:
            note(i, f'cut to its first {counted(len(one.ids), "token")}')
        lacks_mask = task == 'fill-mask' and mask not in one.ids
        lack = f'expected {mask_token} in the text, found none' if lacks_mask else ''
        if wrong := trouble(one, model.config) or lack:
            note(i, wrong)
        else:
            sound[i] = one
    if task == 'multiple-choice':
        if len(sound) == len(texts):
            yield 0, [_choice(model, params, prepare, texts, asked)]
        return
    read = {
        'text-classification': _whole,
        'token-classification': _tokens,
        'question-answering': _span,
        'fill-mask': functools.partial(_masked, tokenizer, mask),
    }[task]
    run = TextBatches(model, params, len(texts), _scored(model, asked.scores))
    for keys, rows in run(sound):
        for key, row in zip(keys, rows):
            yield key, read(texts[key], encoded[key], row, asked)


def _check_first(task: str, first: str) -> None:
    needs = {'multiple-choice': 'what the choices continue', 'question-answering': 'the question'}
    if task in needs and not first:
        raise ValueError(f'{task} takes a first text, {needs[task]}; found none')
    if first and task in ('fill-mask', 'token-classification'):
        raise ValueError(f'{task} takes no first text, found {first!r}')


def _pair(first: str, text: str) -> Text:
    return (first, text) if first else text


@functools.lru_cache(
    maxsize=16
)  # One function for a model is one program, however often it is asked.
def _scored(model: Any, scores: str) -> Callable[..., jax.Array]:
    """Return the program from a batch to scores; of spans each end's are over the text."""
    is_of_spans = model.config.task == 'question-answering'
    return lambda params, *inputs: score(
        model(params, *inputs)[0], 'none' if is_of_spans else scores
    )


def _whole(text: str, encoded: EncodedText, row: np.ndarray, asked: Asked) -> list[Part]:
    return [Part(text, 0, len(text), best(row, asked.labels, asked.top, asked.scores))]


def _tokens(text: str, encoded: EncodedText, row: np.ndarray, asked: Asked) -> list[Part]:
    return [
        Part(text[start:end], start, end, best(scores, asked.labels, asked.top))
        for (start, end), scores in zip(encoded.spans, row)
        if end > start
    ]


def _masked(
    tokenizer: Tokenizer,
    mask: int | None,
    text: str,
    encoded: EncodedText,
    row: np.ndarray,
    asked: Asked,
) -> list[Part]:
    """Return a part for each mask, with the likeliest tokens in its place."""
    parts = []
    for i in (i for i, token in enumerate(encoded.ids) if token == mask):
        found = best(row[i], (), asked.top)
        words = [
            Answer(tokenizer.decode([int(token)], skip_special_tokens=False), p)
            for token, p in found
        ]
        start, end = encoded.spans[i]
        parts.append(Part(text[start:end], start, end, words))
    return parts


def _span(text: str, encoded: EncodedText, row: np.ndarray, asked: Asked) -> list[Part]:
    """Return the likeliest spans of the text: the product of what their two ends have."""
    inside = [i for i, part in enumerate(encoded.parts) if part == 1]
    if not inside:
        return [Part(text, 0, len(text), [])]
    ends = np.exp(row[inside] - row[inside].max(0))
    begin, end = (ends / ends.sum(0)).T
    pairs = np.array(np.triu_indices(len(inside)))
    pairs = pairs[:, pairs[1] - pairs[0] < _LONGEST_ANSWER]
    joint = begin[pairs[0]] * end[pairs[1]]
    answers = []
    for at in np.argsort(-joint, kind='stable')[: asked.top]:
        i, j = pairs[:, at]
        start, stop = encoded.spans[inside[i]][0], encoded.spans[inside[j]][1]
        answers.append(Answer(text[start:stop], float(joint[at])))
    return [Part(text, 0, len(text), answers)]


def _choice(
    model: Any, params: Params, prepare: TextPreprocessor, texts: Sequence[str], asked: Asked
) -> Part:
    batch = prepare([(asked.first, text) for text in texts], prompt='')
    apply = jax.jit(_scored(model, 'softmax'))
    row = np.asarray(apply(params, *(x[None] for x in batch)))[0]
    return Part(asked.first, 0, len(asked.first), best(row, texts, asked.top))
