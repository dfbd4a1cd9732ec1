"""The command of `blox` that measures a model: evaluate."""

import json
import os
import sys

import click

import blox as bx
from blox.wording import counted
from blox.zoo.cli.inputs import LABELS, TEMPLATES, read_labels
from blox.zoo.cli.shared import (
    AS_JSON,
    DTYPE,
    MODEL,
    check_free,
    check_one_output,
    find,
    read,
    report,
    say,
)
from blox.zoo.cli.spreadsheet import write_csv
from blox.zoo.evaluating.evaluation import OF_CLASSES
from blox.zoo.evaluating.examples import existing


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('data')
@LABELS
@TEMPLATES
@click.option('--csv', metavar='FILE', help='Write each example and its answer to a new file.')
@click.option('--png', metavar='FILE', help='Draw what is taken for what to a new file.')
@click.option('--resume', metavar='FILE', help='Keep what is computed here, and go on from there.')
@DTYPE
@AS_JSON
def evaluate(
    model: str,
    data: str,
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    csv: str | None,
    png: str | None,
    resume: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Measure MODEL on DATA that it was not trained on.

    DATA: a folder with a directory per class; a CSV file of file or text, and label; of sentence1, sentence2
    and score; or text. Where some cannot be read the exit code is 1.

    \b
    Example: blox evaluate vit-b16 imagenet/val/ --resume vit.jsonl --png vit.png
    """
    check_one_output(csv if csv == '-' else None, as_json, '--csv')
    files = [os.path.abspath(name) for name in (csv, png, resume) if name not in (None, '-')]
    if len({*files}) < len(files):
        raise click.UsageError('expected different files after --csv, --png and --resume.')
    for out in (csv, png):
        if out is not None and out != '-':
            check_free(out)
    data = str(existing(data))
    found = find(model)
    card = found.card
    if png is not None and card.task not in OF_CLASSES:
        raise ValueError(f'{model!r} is for {card.task}, which has no classes for --png to draw')
    if csv is not None and card.task == 'text-generation':
        raise ValueError(f'{model!r} is for {card.task}, of whose tokens --csv writes nothing')
    net, params = read(found, model, dtype)
    result = bx.zoo.evaluate(
        net,
        params,
        data,
        card=card,
        labels=read_labels(labels),
        templates=templates,
        journal=resume,
        note=report,
    )
    if csv is not None:
        rows = [result.items[0]._fields, *result.items]
        write_csv(csv, rows, counted(len(result.items), 'example'))
    if as_json:
        # Of many classes a line for each number would be most of the text.
        indent = 2 if len(result.labels) <= _MOST_INDENTED else None
        say(json.dumps(result.as_json(), indent=indent))
    elif csv != '-':
        say(repr(result))
    if png is not None:
        result.save_png(png)
    if result.left_out:
        sys.exit(1)


_MOST_INDENTED = 20

COMMANDS = (evaluate,)
