"""Open the MODEL of a command, and say what a terminal can show: shared by all commands."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import tqdm
from tokenizers import Tokenizer

import blox as bx
from blox.wording import printable, printable_lines
from blox.zoo.catalog.card import Card
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.tokenizers import parse_tokenizer
from blox.zoo.loading.place import Place
from blox.zoo.loading.places import resolve
from blox.zoo.models import families

MODEL = (
    'MODEL is a name that `blox list` prints, a repository of the Hugging Face Hub (org/name or '
    'org/name@revision), a folder that transformers, timm or open_clip saved, or a file that blox saved.'
)
AS_JSON = click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
DTYPE = click.option(
    '--dtype',
    type=click.Choice(['float32', 'bfloat16', 'float16']),
    metavar='DTYPE',
    help='Cast to float32, bfloat16 or float16.',
)


class Sectioned(click.Command):
    """A command whose help lists options in `sections`: by a title, what they are called without dashes."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all sections."""
        records = {p.opts[0].strip('-'): p.get_help_record(ctx) for p in self.get_params(ctx)}
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([record for name in names if (record := records[name])])


def number(name: str, kind: click.ParamType, help: str, default: Any = None) -> Any:
    """Make an option that takes a number."""
    return click.option(
        name, type=kind, metavar='N', default=default, show_default=default is not None, help=help
    )


def find(name: str, task: str = '', source: str | None = None, state: str = '') -> Place:
    """Return the place that a command's MODEL stands for; its model must be for `task`."""
    place = resolve(name, source, task=task, state=state)
    if task and place.card.task != task:
        raise ValueError(f'{name!r} is for {place.card.task}, expected a model for {task}')
    return place


def read(place: Place, name: str, dtype: Any = None) -> tuple[Any, bx.Params]:
    """Return the model and its Params, as `bx.zoo.load` gives them."""
    model = families()[place.card.family].build(place.card.config)
    with status(f'reading {name}'):
        return model, place.read(model, dtype).merge(bx.Params(0)).finalize()


def tokenizer_of(card: Card, name: str) -> Tokenizer:
    """Return the tokenizer on a card. ValueError if there is none."""
    if not card.tokenizer:
        raise ValueError(
            f'no tokenizer is known for {name!r}: a tokenizer.json beside its weights would say'
        )
    return parse_tokenizer(Path(name), card.tokenizer)


def preprocessor_of(card: Card, name: str) -> ImagePreprocessor:
    """Return the preprocessor on a card. ValueError if there is none."""
    if card.preprocessor is None:
        raise ValueError(
            f'no image preprocessing is known for {name!r}: a preprocessor_config.json beside '
            'its weights would say'
        )
    return card.preprocessor


def status(text: str) -> tqdm.tqdm:
    """Say, where a terminal shows it, what takes a while, until the block ends."""
    return tqdm.tqdm(desc=printable(text), bar_format='{desc} ...', leave=False, disable=None)


def check_free(out: str) -> None:
    """Raise OSError unless a new file can be made at `out`: better before long work than after."""
    if not out:
        raise ValueError('expected the name of a file to write, found nothing')
    path = Path(out)
    if os.path.lexists(path):
        raise FileExistsError(f'{out!r} is there already: remove it, or name another')
    if not os.access(path.absolute().parent, os.W_OK):
        raise OSError(f'cannot write {out!r}: its folder is missing or not writable')


def check_one_output(out: str | None, as_json: bool, option: str) -> None:
    """Raise UsageError if both a file, by this option, and JSON are asked for."""
    if out is not None and as_json:
        raise click.UsageError(f'expected {option} or --json, found both.')


def say(text: object, *, end: str = '\n', err: bool = False) -> None:
    """Print a text, above a bar if there is one, so that any terminal shows it as it is.

    All that commands print of what files say comes through here.
    """
    stream = sys.stderr if err else sys.stdout
    tqdm.tqdm.write(printable_lines(text), file=stream, end=end)
    stream.flush()


def report(place: str, reason: object) -> None:
    """Print, above a bar if there is one, why something was left out."""
    say(f'{place}: {printable(reason)}', err=True)
