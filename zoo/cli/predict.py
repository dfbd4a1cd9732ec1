"""The command of `blox` that classifies images and texts: predict."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from blox.wording import counted, cut, printable
from blox.zoo.catalog.card import Card
from blox.zoo.cli.inputs import LABELS, TEMPLATES, image_files, over_images, read_labels
from blox.zoo.cli.shared import (
    AS_JSON,
    MODEL,
    check_free,
    check_one_output,
    find,
    number,
    preprocessor_of,
    read,
    report,
    say,
    tokenizer_of,
)
from blox.zoo.cli.spreadsheet import write_csv
from blox.zoo.inputs.text import is_utf8
from blox.zoo.inputs.tokenizers import special_token
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.loading.place import Place
from blox.zoo.running import answers
from blox.zoo.running.answers import Part
from blox.zoo.running.embedding import (
    TEMPLATE,
    TWO_TOWERS,
    embeds_images,
    label_embeddings,
    zero_shot,
)
from blox.zoo.running.scoring import Answer, best, score


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('inputs', nargs=-1, required=True)
@number('--top', click.IntRange(1), 'How many answers for each.', 1)
@click.option(
    '--first',
    metavar='TEXT',
    default='',
    help='A text before each: a premise, a question.',
)
@LABELS
@TEMPLATES
@click.option('--csv', metavar='FILE', help='Write a new CSV file; - for stdout.')
@AS_JSON
def predict(
    model: str,
    inputs: tuple[str, ...],
    top: int,
    first: str,
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    csv: str | None,
    as_json: bool,
) -> None:
    """Classify INPUTS: texts, or files and folders of images.

    Prints the likeliest answers of each, with probabilities or values. Files that cannot be read are
    left out; the exit code is then 1.

    \b
    Example: blox predict vit-b16 cat.jpg photos/ --top 5 --csv photos.csv
             blox predict clip-b32 photos/ --labels 'a cat,a dog'
             blox predict org/squad 'Ann wrote it.' --first 'Who wrote it?'
    """
    check_one_output(csv, as_json, '--csv')
    if csv is not None and csv != '-':
        check_free(csv)
    found = find(model)
    card = found.card
    named = _labels(model, card, labels, templates)
    if card.task in answers.TASKS:
        rows, is_whole = _answered(found, model, inputs, first, top)
    elif embeds_images(card.task) and not first:
        says = templates or (TEMPLATE,)
        rows, is_whole = _classified(found, model, inputs, named, says, top)
    else:
        what = 'a model of texts' if first else 'a model that predicts'
        raise ValueError(f'{model!r} is for {card.task}, expected {what}')
    if csv is not None:
        _write_csv(csv, rows, 'value' if card.scores == 'none' else 'probability')
    elif as_json:
        say(json.dumps([_as_json(row, card.scores) for row in rows], indent=2))
    else:
        width = max((len(_shown(row)) for row in rows), default=0)
        for row in rows:
            said = '  '.join(_said(answer, card.scores) for answer in row.answers)
            say(f'{_shown(row):<{width}}  {said}')
    if not is_whole:
        sys.exit(1)


class _Row(NamedTuple):
    """Answers for an image's file, for a text, or for a part of a text."""

    input: Path | str
    answers: list[Answer]
    part: Part | None = None


def _shown(row: _Row) -> str:
    """Return what stands at the start of a row's line."""
    return printable(row.input) if row.part is None else cut(printable(row.part.text), 40)


def _said(answer: Answer, scores: str) -> str:
    label = printable(answer.label)
    return (
        f'{label} {answer.score:.4g}' if scores == 'none' else f'{label} {_percent(answer.score)}'
    )


def _percent(score: float) -> str:
    # Of thousands of labels the best may have less than a tenth of a percent.
    share = 100 * score
    return f'{share:5.1f} %' if share >= 0.1 or not share else f'{share:5.1g} %'


def _answered(
    found: Place, name: str, texts: tuple[str, ...], first: str, top: int
) -> tuple[list[_Row], bool]:
    """Return the answers for each text, or for each of its parts, and whether none is left out."""
    if wrong := [text for text in (first, *texts) if not is_utf8(text)]:
        raise ValueError(f'expected texts in UTF-8, found {wrong[0][:30]!r}')
    card = found.card
    tokenizer = tokenizer_of(card, name)
    prepare = text_preprocessor_of(card, tokenizer)
    mask = special_token(card.tokenizer_config, 'mask_token', '[MASK]')
    asked = answers.Asked(card.labels, card.scores, top, first)

    def note(i: int, what: str) -> None:
        report(f'text {i + 1}', what)

    given = prepare, tokenizer, mask, texts, asked, note
    parts = dict(answers.answer(*read(found, name), *given))
    rows = [_Row(texts[i], part.answers, part) for i in sorted(parts) for part in parts[i]]
    return rows, len(parts) == (1 if card.task == 'multiple-choice' else len(texts))


def _labels(
    model: str, card: Card, given: Sequence[str], templates: Sequence[str]
) -> tuple[str, ...]:
    """Return the labels that a caller names, of a model that takes them."""
    if (given or templates) and card.task != TWO_TOWERS:
        raise ValueError(f'{model!r} is for {card.task}, which takes no labels and no templates')
    if card.task != TWO_TOWERS:
        return ()
    if not given:
        raise ValueError(f'{model!r} knows no labels of its own: name some with --labels')
    labels = read_labels(given)
    if wrong := [text for text in (*labels, *templates) if not is_utf8(text)]:
        raise ValueError(f'expected labels and templates in UTF-8, found {wrong[0][:60]!r}')
    if len(labels) == 1 and card.scores == 'softmax':
        raise ValueError(
            f'{model!r} divides 100 % among the labels: expected two or more, found {labels[0]!r}'
        )
    return tuple(labels)


def _classified(
    found: Place,
    name: str,
    inputs: tuple[str, ...],
    labels: Sequence[str],
    templates: Sequence[str],
    top: int,
) -> tuple[list[_Row], bool]:
    """Return the likeliest labels of each file, of the model's own or these, and whether none is left out."""
    card = found.card
    prepare, files = preprocessor_of(card, name), image_files(inputs)
    texts = text_preprocessor_of(card, tokenizer_of(card, name)) if labels else None
    model, params = read(found, name)
    if texts:
        call = zero_shot(model, label_embeddings(model, params, texts, labels, templates))
    else:
        call = lambda params, images: score(model(params, images)[0], card.scores)  # noqa: E731
    known = labels or card.labels
    rows = [
        _Row(files[i], best(row, known, top, card.scores))
        for i, row in over_images(call, params, prepare, files)
    ]
    return rows, len(rows) == len(files)


def _as_json(row: _Row, scores: str) -> dict[str, Any]:
    what = 'value' if scores == 'none' else 'probability'
    classes = [{'label': label, what: score} for label, score in row.answers]
    if row.part is None:
        return {'file': str(row.input), 'classes': classes}
    text, start, end, _ = row.part
    return {'text': row.input, 'part': text, 'start': start, 'end': end, 'classes': classes}


def _write_csv(out: str, rows: list[_Row], what: str) -> None:
    """Write a header, and a line for each row: what it is of, its labels and scores."""
    most = max((len(row.answers) for row in rows), default=1)
    names = [f'{name}{i}' for i in ('', *range(2, most + 1)) for name in ('label', what)]
    has_parts = any(row.part for row in rows)
    lines: list[Sequence[object]] = [[*(('text', 'part') if has_parts else ('file',)), *names]]
    for row in rows:
        cells = (cell for label, score in row.answers for cell in (label, float(f'{score:.6g}')))
        of = (row.input, row.part.text) if row.part else (row.input,)
        lines.append([*of, *cells])
    write_csv(out, lines, counted(len(rows), 'row' if has_parts else 'file'))


COMMANDS = (predict,)
