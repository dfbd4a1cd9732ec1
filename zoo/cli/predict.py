"""The command of `blox` that classifies images and texts: predict."""

import csv as csv_format
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import tqdm

import blox as bx
from blox.atomic import atomic_write
from blox.wording import cut, printable
from blox.zoo.catalog.card import Card
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
from blox.zoo.inputs.images import IMAGE_SUFFIXES
from blox.zoo.inputs.text import is_utf8
from blox.zoo.inputs.tokenizers import special_token
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.loading.place import Place
from blox.zoo.running import answers, batches
from blox.zoo.running.answers import Part
from blox.zoo.running.scoring import Answer, best


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('inputs', nargs=-1, required=True)
@number('--top', click.IntRange(1), 'How many answers for each.', 1)
@click.option(
    '--first',
    metavar='TEXT',
    default='',
    help='A text before each: a premise, a question, what choices continue.',
)
@click.option('--csv', metavar='FILE', help='Write a new CSV file; - for stdout.')
@AS_JSON
def predict(
    model: str, inputs: tuple[str, ...], top: int, first: str, csv: str | None, as_json: bool
) -> None:
    """Classify INPUTS: files or folders of images, or texts, as the model takes them.

    Prints the likeliest answers with probabilities, or with values: of each image, text, token,
    mask or question, or of choices. Files that cannot be read are left out; the
    exit code is then 1.

    \b
    Example: blox predict vit-b16 cat.jpg photos/ --top 5
             blox predict vit-b16 photos/ --csv photos.csv
             blox predict org/squad 'Ann wrote it.' --first 'Who wrote it?'
    """
    check_one_output(csv, as_json, '--csv')
    if csv and csv != '-':
        check_free(csv)
    found = find(model)
    card = found.card
    if card.task in answers.TASKS:
        rows, is_whole = _answered(found, model, inputs, first, top)
    elif card.task == 'image-classification' and not first:
        prepare, files = preprocessor_of(card, model), _image_files(inputs)
        rows = _classify(*read(found, model), prepare, files, card, top)
        is_whole = len(rows) == len(files)
    else:
        what = 'a model of texts' if first else 'a model that predicts'
        raise ValueError(f'{model!r} is for {card.task}, expected {what}')
    if csv:
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


def _image_files(names: tuple[str, ...]) -> list[Path]:
    """Return the files named, and the images in the folders named, sorted."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if not name:
            raise ValueError('expected the name of a file or folder, found nothing')
        if path.is_dir():
            found = sorted(f for f in path.rglob('*') if f.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ValueError(f'{name!r} holds no images')
            files += found
        else:
            files.append(path)
    return files


# How a cell starts that a spreadsheet would compute; an apostrophe before it makes it a text.
_FORMULAS = ('=', '+', '-', '@', '\t', '\r')


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
        f'{label} {answer.score:.4g}'
        if scores == 'none'
        else f'{label} {100 * answer.score:5.1f} %'
    )


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


def _classify(
    model: Any,
    params: bx.Params,
    prepare: bx.zoo.ImagePreprocessor,
    files: list[Path],
    card: Card,
    top: int,
) -> list[_Row]:
    """Return the `top` likeliest labels of each file that can be read; report the others."""
    found = []
    with tqdm.tqdm(total=len(files), unit='image', leave=False, disable=None) as progress:

        def skip(file: Path, error: Exception) -> None:
            report(printable(file), getattr(error, 'strerror', None) or error)
            progress.update()

        for file, row in batches.classify(model, params, prepare, files, skip, card.scores):
            found.append(_Row(file, best(row, card.labels, top)))
            progress.update()
    return found


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
    lines = [_csv_line([*(('text', 'part') if has_parts else ('file',)), *names])]
    for row in rows:
        cells = (cell for label, score in row.answers for cell in (label, float(f'{score:.6g}')))
        of = (row.input, row.part.text) if row.part else (row.input,)
        lines.append(_csv_line([*of, *cells]))
    # A file's name need not be UTF-8.
    content = ''.join(lines).encode('utf-8', 'surrogateescape')
    if out == '-':
        sys.stdout.buffer.write(content)
        return
    with atomic_write(out) as stream:
        stream.write(content)
    say(f'{out}: {len(rows)} {"rows" if has_parts else "files"}')


def _csv_line(cells: Sequence[object]) -> str:
    """Write a line of cells that a spreadsheet takes for texts and numbers, never for formulas."""
    texts = [cell if isinstance(cell, float) else _harmless(str(cell)) for cell in cells]
    text = io.StringIO(newline='')
    # It quotes cells with the characters that end its lines, so let those be both.
    csv_format.writer(text, lineterminator='\r\n').writerow(texts)
    return text.getvalue().removesuffix('\r\n') + '\n'


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text


COMMANDS = (predict,)
