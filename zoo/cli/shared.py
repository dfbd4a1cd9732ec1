"""What the commands of `blox` share: their MODEL argument, opening it, and what they say."""

import os
from pathlib import Path
from typing import Any

import click
import tqdm
from tokenizers import Tokenizer

import blox as bx
from blox.wording import printable
from blox.zoo.catalog.card import Card
from blox.zoo.inputs.tokenizers import parse_tokenizer
from blox.zoo.loading.places import Checkpoint, open_checkpoint
from blox.zoo.models import families

MODEL = (
    'MODEL is a name that `blox list` prints, a repository of the Hugging Face Hub (org/name or '
    'org/name@revision), a folder that transformers or timm saved, or a file that blox saved.'
)
AS_JSON = click.option('--json', 'as_json', is_flag=True, help='Print JSON.')


def find(name: str, task: str = '', source: str | None = None) -> Checkpoint:
    """The checkpoint that a command's MODEL stands for, which must be for `task`."""
    found = open_checkpoint(name, source)
    if task and found.card.task != task:
        raise ValueError(f'{name!r} is for {found.card.task}, expected a model for {task}')
    return found


def read(found: Checkpoint, name: str, dtype: Any = None) -> tuple[Any, bx.Params]:
    """The model and its Params, as `bx.zoo.load` gives them; nothing is opened a second time."""
    model = families()[found.card.family].build(found.card.config)
    with status(f'reading {name}'):
        return model, found.read(model, dtype).merge(bx.Params(0)).finalize()


def tokenizer_of(card: Card, name: str) -> Tokenizer:
    """The tokenizer on a card. ValueError if there is none."""
    if not card.tokenizer:
        raise ValueError(
            f'no tokenizer is known for {name!r}: a tokenizer.json beside its weights would say'
        )
    return parse_tokenizer(Path(name), card.tokenizer)


def status(text: str) -> tqdm.tqdm:
    """Says, where a terminal shows it, what takes a while, until the block ends."""
    return tqdm.tqdm(desc=printable(text), bar_format='{desc} ...', leave=False, disable=None)


def check_free(out: str) -> None:
    """Raises OSError unless a new file can be made at `out`: better before long work than after."""
    path = Path(out)
    if os.path.lexists(path):
        raise FileExistsError(f'{out!r} is there already: remove it, or name another')
    if not os.access(path.absolute().parent, os.W_OK):
        raise OSError(f'cannot write {out!r}: its folder is missing or not writable')
