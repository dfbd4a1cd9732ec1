"""The command of `blox` that measures a model: evaluate."""

import json
import sys

import click

import blox as bx
from blox.zoo.cli.inputs import read_labels
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
from blox.zoo.evaluating.report import Item
from blox.zoo.running.embedding import TEMPLATE


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('data')
@click.option(
    '--labels',
    metavar='TEXT',
    multiple=True,
    help="For a CLIP: 'a cat,a dog', or @FILE of lines, @- stdin.",
)
@click.option(
    '--template',
    'templates',
    metavar='TEXT',
    multiple=True,
    help='Says a label in the place of {}.',
)
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
    for out in (csv, png):
        if out is not None and out != '-':
            check_free(out)
    found = find(model)
    net, params = read(found, model, dtype)
    result = bx.zoo.evaluate(
        net,
        params,
        data,
        card=found.card,
        labels=read_labels(labels),
        templates=templates or (TEMPLATE,),
        journal=resume,
        note=report,
    )
    if png is not None:
        result.save_png(png)
    if csv is not None:
        write_csv(csv, [Item._fields, *result.items], f'{len(result.items)} answers')
    if as_json:
        say(json.dumps(result.as_json(), indent=2))
    elif csv != '-':
        say(str(result))
    if result.left_out:
        sys.exit(1)


COMMANDS = (evaluate,)
