"""The command of `blox` that makes embeddings of images and texts: embed."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from blox.atomic import atomic_write
from blox.wording import counted, printable
from blox.zoo.catalog.card import Card
from blox.zoo.cli.inputs import image_files, is_image, read_lines
from blox.zoo.cli.shared import (
    MODEL,
    check_free,
    check_one_output,
    find,
    preprocessor_of,
    read,
    report,
    say,
    tokenizer_of,
)
from blox.zoo.cli.spreadsheet import write_csv
from blox.zoo.cli.vectors import cosines, embed_inputs
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.loading.place import Place
from blox.zoo.running.embedding import embeds_images, embeds_texts

# A table of the pairs of more inputs than these tells nothing.
_MOST_IN_TABLE = 20


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('inputs', nargs=-1)
@click.option('--file', metavar='FILE', help='Embed its lines as texts; - for stdin.')
@click.option('--prompt-name', metavar='NAME', help="One of the model's prompts, put before each.")
@click.option('--prompt', metavar='TEXT', help='A prompt of your own; an empty one for none.')
@click.option('--npy', metavar='FILE', help='Write a new .npy file, float32 [inputs, width].')
@click.option('--csv', metavar='FILE', help='Write a new CSV file; - for stdout.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: a list of numbers each.')
def embed(
    model: str,
    inputs: tuple[str, ...],
    file: str | None,
    prompt_name: str | None,
    prompt: str | None,
    npy: str | None,
    csv: str | None,
    as_json: bool,
) -> None:
    """Embed INPUTS, texts or files and folders of images, for comparing them.

    Prints the cosine of each pair of up to 20, unless it writes or prints the numbers, in the order of INPUTS
    and of sorted files. Where something cannot be read they are NaN, null in JSON, and the exit code is 1.

    \b
    Example: blox embed all-minilm-l6 'A cat sat.' 'A kitten rested.'
             blox embed all-minilm-l6 --file lines.txt --npy lines.npy
             blox embed clip-b32 photos/ 'a cat' --csv photos.csv
    """
    for other, name in ((npy, '--npy'), (csv, '--csv')):
        check_one_output(other, as_json, name)
        if other is not None and (name, other) != ('--csv', '-'):
            check_free(other)
    if npy is not None and csv is not None and Path(npy).absolute() == Path(csv).absolute():
        raise click.UsageError('expected --npy and --csv to name two files, found one.')
    found = find(model)
    items = _items(found.card, model, inputs, file)
    is_table = npy is None and csv is None and not as_json
    if is_table and len(items) > _MOST_IN_TABLE:
        raise ValueError(
            f'expected --npy, --csv or --json for {len(items)} inputs, of which a table says '
            f'nothing: it has {_MOST_IN_TABLE} at most'
        )
    vectors = _vectors(found, model, items, prompt_name, prompt)
    sound = np.asarray(np.isfinite(vectors).all(1))
    if npy is not None:
        _write_npy(npy, vectors, int((~sound).sum()), err=csv == '-')
    if csv is not None:
        head = ['input', *map(str, range(vectors.shape[1]))]
        rows = ([item.what, *map(float, row)] for item, row in zip(items, vectors))
        write_csv(csv, [head, *rows], counted(len(items), 'row'))
    if as_json:
        rows = [row.tolist() if whole else None for row, whole in zip(vectors, sound)]
        say(json.dumps(rows))
    if is_table:
        names = [_shown(item) for item, whole in zip(items, sound) if whole]
        _print_cosines(names, vectors[sound])
    if not sound.all():
        sys.exit(1)


class _Item(NamedTuple):
    """An image's file or a text, and what it is called where something is wrong with it."""

    what: Path | str
    place: str


def _items(card: Card, name: str, inputs: tuple[str, ...], file: str | None) -> list[_Item]:
    """Return what is to be embedded: the inputs, images in the folders named, and lines of `file`."""
    takes_images, takes_texts = embeds_images(card.task), embeds_texts(card.task)
    if not (takes_images or takes_texts):
        known = 'a model of images, or for sentence-embedding'
        raise ValueError(f'{name!r} is for {card.task}, expected {known}')
    items: list[_Item] = []
    for i, given in enumerate(inputs):
        if takes_images and (not takes_texts or is_image(given) or os.path.isdir(given)):
            items += [_Item(path, printable(path)) for path in image_files((given,))]
        else:
            items.append(_Item(given, f'text {i + 1}'))
    if file is not None and not takes_texts:
        raise ValueError(f'{name!r} is for {card.task}, and embeds no texts: no --file')
    lines = [] if file is None else read_lines(file)
    items += [_Item(line, f'{printable(file)}, line {i + 1}') for i, line in enumerate(lines)]
    if not items:
        raise ValueError('expected inputs to embed: as arguments, or texts as lines of --file')
    return items


def _vectors(
    found: Place, name: str, items: Sequence[_Item], prompt_name: str | None, prompt: str | None
) -> np.ndarray:
    """Return a row for each item, of NaN where there is trouble, which is reported."""
    card = found.card
    has_texts = any(isinstance(item.what, str) for item in items)
    has_files = any(isinstance(item.what, Path) for item in items)
    prompts = {'prompt_name': prompt_name, 'prompt': prompt}
    if not has_texts and (prompt_name or prompt):
        raise ValueError('expected texts to put a prompt before, found none')
    prepare_text = text_preprocessor_of(card, tokenizer_of(card, name)) if has_texts else None
    if prepare_text:
        # What is wrong with a prompt shows before the model is read.
        prepare_text.encode([''], **prompts)
    prepare_image = preprocessor_of(card, name) if has_files else None

    def note(i: int, what: str) -> None:
        report(items[i].place, what)

    prepare = prepare_image, prepare_text
    given = [item.what for item in items]
    return embed_inputs(*read(found, name), *prepare, given, note, **prompts)


def _shown(item: _Item) -> str:
    """Return what stands at the start of a line: a text's beginning, or a path's end."""
    name = printable(item.what)
    return name[-40:] if isinstance(item.what, Path) else name[:40]


def _write_npy(out: str, vectors: np.ndarray, skipped: int, *, err: bool) -> None:
    with atomic_write(out) as stream:
        np.save(stream, vectors)
    left_out = f', {skipped} of them NaN: see above' if skipped else ''
    say(f'{out}: float32 {list(vectors.shape)}{left_out}', err=err)


def _print_cosines(names: Sequence[str], vectors: np.ndarray) -> None:
    width = max(map(len, names), default=0)
    for name, row in zip(names, cosines(vectors, vectors)):
        say(f'{name:<{width}}  ' + ' '.join(f'{cosine:6.3f}' for cosine in row))


COMMANDS = (embed,)
