"""The command of `blox` that trains: finetune."""

from pathlib import Path
from typing import Any

import click

import blox as bx
from blox.zoo.catalog.card import Card
from blox.zoo.cli.shared import find, number, preprocessor_of, say, status, tokenizer_of
from blox.zoo.models import families
from blox.zoo.training.classes import read_for_classes
from blox.zoo.training.data import Data
from blox.zoo.training.state import Epoch

# The convolutions and dense layers of every family's blocks.
_ADAPTED = '**/block*/**/w'


@click.command(epilog='N is chosen by the data and the model where no default is named.')
@click.argument('model')
@click.argument('data')
@click.option('--out', metavar='FILE', required=True, help='A new .safetensors file.')
@click.option('--lora', is_flag=True, help='Train adapters and the head alone.')
@number('--rank', click.IntRange(1), 'Of the adapters; 8 by default.')
@click.option('--freeze', metavar='PATTERN', multiple=True, help="As 'vit/block*/**'; repeatable.")
@number('--epochs', click.IntRange(1), 'Rounds over the data.')
@number('--batch-size', click.IntRange(1), 'Examples in a step.')
@number('--learning-rate', click.FloatRange(0, min_open=True), 'At its peak.')
@number('--holdout', click.FloatRange(0, 1, min_open=True, max_open=True), 'A fraction.', 0.1)
@number('--seed', click.IntRange(0), 'The same gives the same file.', 0)
@click.option('--dtype', type=click.Choice(['float32', 'bfloat16']), help='To compute in.')
@click.option('--flip', is_flag=True, help='Mirror half of the images.')
def finetune(
    model: str,
    data: str,
    out: str,
    lora: bool,
    rank: int | None,
    freeze: tuple[str, ...],
    holdout: float,
    seed: int,
    flip: bool,
    **options: Any,
) -> None:
    """Train MODEL on DATA, a folder with a directory per class or a text file.

    FILE is the best epoch. Run again after an interruption, it goes on, to the very same FILE.

    \b
    Example: blox finetune vit-digits photos/ --out mine.safetensors
    """
    if rank and not lora:
        raise click.UsageError('--rank is of the adapters that --lora adds.')
    pretrained = find(model)
    with status(f'reading {data}'):
        examples = _read_data(pretrained.card, model, data, holdout=holdout, seed=seed, flip=flip)
    say(examples.summary)
    with status(f'reading {model}'):
        net, params, card = read_for_classes(pretrained, examples.labels, seed=seed)
    if lora:
        params = _with_adapters(params, card, rank or 8, seed)
    params = params.freeze(freeze)
    folder = Path(out).with_suffix('.training')
    if folder.exists():
        say(f'{folder}: going on')
    try:
        bx.zoo.finetune(
            net, params, examples, out=out, card=card, seed=seed, on_epoch=_print_epoch, **options
        )
    except KeyboardInterrupt:
        what = 'run the same command again to go on' if folder.exists() else 'nothing was kept'
        say(f'\n{folder}: {what}', err=True)
        raise
    card = bx.zoo.read_card(out)
    say(card.training)
    say(f'{out}: ' + ', '.join(f'{name} {value}' for name, value in card.metrics.items()))
    if lora:
        say(f'{Path(out).with_suffix(".lora.safetensors")}: the adapters alone')


def _read_data(card: Card, model: str, data: str, *, holdout: float, seed: int, flip: bool) -> Data:
    """Read the data as the model of the card takes them."""
    if card.task == 'text-generation':
        sizes = card.config.context, card.config.vocab_size
        return bx.zoo.text_file(data, tokenizer_of(card, model), *sizes, holdout=holdout)
    if card.task != 'image-classification':
        raise ValueError(
            f'{model!r} is for {card.task}, expected one for image-classification or text-generation; '
            'others train in a loop of your own, which the page on fine-tuning shows'
        )
    prepare = preprocessor_of(card, model)
    return bx.zoo.image_folder(
        data, prepare, holdout=holdout, seed=seed, flip=flip, labels=card.labels
    )


def _with_adapters(params: bx.Params, card: Card, rank: int, seed: int) -> bx.Params:
    """Add adapters to all blocks, to be trained with the head of a classifier."""
    adapted = bx.lora(params, _ADAPTED, rank=rank, alpha=2.0 * rank, seed=seed)
    head = families()[card.family].head
    return adapted.unfreeze(head.pattern) if head else adapted


def _print_epoch(row: Epoch) -> None:
    """Print a row above the bar, and at once where there is none."""
    say(
        f'epoch {row.epoch}: loss {row.loss:.3f}, accuracy {row.accuracy:.1%}; '
        f'held out {row.held_out_loss:.3f}, {row.held_out_accuracy:.1%}'
    )


COMMANDS = (finetune,)
