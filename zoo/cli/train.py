"""The command of `blox` that trains: finetune."""

import functools
from pathlib import Path
from typing import Any

import click

import blox as bx
from blox.zoo.catalog.card import Card
from blox.zoo.cli.shared import Sectioned, number, say, status
from blox.zoo.cli.training_data import open_for, read_data
from blox.zoo.evaluating.metrics import BY_CLASS
from blox.zoo.loading.load import with_max_tokens
from blox.zoo.models import families
from blox.zoo.training import result
from blox.zoo.training.augment import CROPS
from blox.zoo.training.classes import read_for_classes
from blox.zoo.training.descent import SCHEDULES
from blox.zoo.training.folder import is_begun
from blox.zoo.training.state import Epoch

_EPILOG = 'N is chosen by the data and the model where nothing is said of it.'
# The convolutions and dense layers of every family's blocks.
_ADAPTED = '**/block*/**/w'


# The options of `finetune`, by what they are about: a line each.
SECTIONS = {
    'Options': ('out', 'epochs', 'batch-size', 'learning-rate', 'holdout', 'seed', 'dtype', 'help'),
    'What is trained': ('lora', 'rank', 'tune-last', 'freeze', 'layer-decay'),
    'How steps are taken': (
        *('schedule', 'warmup', 'weight-decay', 'label-smoothing', 'balanced'),
        *('ema', 'patience', 'choose-by'),
    ),
    'Images': (
        *('image-size', 'flip', 'crop', 'scale', 'rand-augment', 'erase', 'mixup', 'cutmix'),
    ),
    'Texts in a table': ('max-tokens',),
}


@click.command(cls=Sectioned, sections=SECTIONS, epilog=_EPILOG)
@click.argument('model')
@click.argument('data')
@click.option('--out', metavar='FILE', required=True, help='A new .safetensors file.')
@number('--epochs', click.INT, 'Rounds over the data.')
@number('--batch-size', click.INT, 'Examples in a step.')
@number('--learning-rate', click.FLOAT, 'At its peak.')
@number('--holdout', click.FLOAT, 'The fraction to measure with.', 0.1)
@number('--seed', click.INT, 'The same gives the same file.', 0)
@click.option('--dtype', type=click.Choice(['float32', 'bfloat16']), help='To compute in.')
@click.option('--lora', is_flag=True, help='Adapters and the head alone.')
@number('--rank', click.IntRange(1), 'Of adapters; 8 unless named.')
@number('--tune-last', click.INT, 'So many blocks, and what follows; 0: the head.')
@click.option(
    '--freeze',
    metavar='PATTERN',
    multiple=True,
    help="Keep these, such as 'vit/block*/**'; repeatable.",
)
@number('--layer-decay', click.FLOAT, 'Factor of the rate, block by block from above.')
@click.option(
    '--schedule',
    type=click.Choice(SCHEDULES),
    metavar='NAME',
    help='cosine (unless named), linear or constant.',
)
@number('--warmup', click.FLOAT, 'Fraction of the steps; a tenth unless named.')
@number('--weight-decay', click.FLOAT, 'Of matrices; 0.05 unless named.')
@number('--label-smoothing', click.FLOAT, 'Share of a target that all classes have.')
@click.option('--balanced', is_flag=True, help='Rare classes count as much as others.')
@number('--ema', click.FLOAT, 'Decay of averaged weights, such as 0.999.')
@number('--patience', click.INT, 'End after so many epochs without a better one.')
@click.option(
    '--choose-by',
    type=click.Choice(['accuracy', 'loss', *BY_CLASS]),
    metavar='NAME',
    help='accuracy, loss, macro_f1 or balanced_accuracy.',
)
@number('--image-size', click.IntRange(1), 'Height and width.')
@click.option('--flip', is_flag=True, help='Mirror half of the images.')
@click.option(
    '--crop',
    type=click.Choice(CROPS),
    metavar='KIND',
    default='slight',
    help='slight, none, or resized as in timm.',
)
@number('--scale', click.FLOAT, 'Least share of a resized crop; else 0.08.')
@number('--rand-augment', click.FLOAT, 'Magnitude, up to 10.')
@number('--erase', click.FLOAT, 'Chance of random erasing.')
@number('--mixup', click.FLOAT, 'Alpha, such as 0.8.')
@number('--cutmix', click.FLOAT, 'Alpha, such as 1.')
@number('--max-tokens', click.IntRange(1), 'Cut to so many.')
def finetune(
    model: str,
    data: str,
    out: str,
    lora: bool,
    rank: int | None,
    tune_last: int | None,
    freeze: tuple[str, ...],
    balanced: bool,
    holdout: float,
    seed: int,
    image_size: int | None,
    max_tokens: int | None,
    flip: bool,
    crop: str,
    scale: float | None,
    rand_augment: float | None,
    erase: float | None,
    **options: Any,
) -> None:
    """Train MODEL on DATA; FILE is the best epoch, beside it are curves and mistakes.

    DATA: a folder with a directory per class; a CSV file of file or text, and of label, labels or numbers; a
    text file; or a folder that `datasets` saved. Run again after an interruption, it goes on.

    \b
    Example: blox finetune vit-digits photos/ --out mine.safetensors
    """
    if rank and not lora:
        raise click.UsageError('--rank is of the adapters that --lora adds.')
    if lora and tune_last is not None:
        raise click.UsageError('expected --lora or --tune-last, found both.')
    if scale is not None and crop != 'resized':
        raise click.UsageError('--scale is of --crop resized.')
    folder = Path(out).with_suffix('.training')
    result.check_name(Path(out))
    if not is_begun(folder):
        result.check_free(Path(out))
    augmentation = bx.zoo.Augmentation(
        crop,
        (0.08 if scale is None else scale, 1.0),
        magnitude=rand_augment or 0.0,
        erase=erase or 0.0,
    )
    about = {'holdout': holdout, 'seed': seed}
    pretrained, wanted = open_for(model, data, image_size, max_tokens)
    changes = {'--flip': flip, '--crop': crop != 'slight', '--rand-augment': rand_augment}
    changes |= {'--erase': erase, **{f'--{x}': options[x] for x in ('mixup', 'cutmix')}}
    if pretrained.card.task != 'image-classification' and any(changes.values()):
        given = ', '.join(name for name, value in changes.items() if value)
        raise click.UsageError(f'{given}: {model!r} is for {pretrained.card.task}, not of images.')
    with status(f'reading {data}'):
        examples = read_data(
            pretrained.card, model, data, wanted, max_tokens, about, flip, augmentation
        )
    say(examples.summary)
    # Classes are not learned as values, even by a model of values of the same names.
    were_values = pretrained.card.scores == 'none' and examples.labels
    scores = examples.scores or ('softmax' if were_values else '')
    with status(f'reading {model}'):
        net, params, card = read_for_classes(
            pretrained, examples.labels, scores=scores, seed=seed, **wanted
        )
    card = with_max_tokens(card, max_tokens or 0)
    if lora:
        params = _with_adapters(params, card, rank or 8, seed)
    if tune_last is not None:
        params = bx.zoo.tune_last(net, params, tune_last)
    params = params.freeze(freeze)
    if is_begun(folder):
        say(f'{folder}: going on')
    options = {name: value for name, value in options.items() if value is not None}
    if balanced:
        options['class_weights'] = 'balanced'
    row = functools.partial(_print_epoch, card.scores, options.get('choose_by', ''))
    try:
        bx.zoo.finetune(
            net, params, examples, out=out, card=card, seed=seed, on_epoch=row, **options
        )
    except KeyboardInterrupt:
        what = 'run the same command again to go on' if is_begun(folder) else 'nothing was kept'
        say(f'\n{folder}: {what}', err=True)
        raise
    card = bx.zoo.read_card(out)
    say(card.training)
    say(f'{out}: ' + ', '.join(f'{name} {value}' for name, value in card.metrics.items()))
    say(f'{Path(out).with_suffix(".html")}: curves and mistakes')
    if lora:
        say(f'{Path(out).with_suffix(".lora.safetensors")}: the adapters alone')


def _with_adapters(params: bx.Params, card: Card, rank: int, seed: int) -> bx.Params:
    """Add adapters to all blocks, to be trained with the head of a classifier."""
    adapted = bx.lora(params, _ADAPTED, rank=rank, alpha=2.0 * rank, seed=seed)
    head = families()[card.family].head
    return adapted.unfreeze(head.pattern) if head else adapted


def _print_epoch(scores: str, choose_by: str, row: Epoch) -> None:
    """Print a row above the bar, and at once where there is none."""
    if scores == 'none':
        say(f'epoch {row.epoch}: loss {row.loss:.3g}; held out {row.held_out_loss:.3g}')
        return
    say(
        f'epoch {row.epoch}: loss {row.loss:.3f}, accuracy {row.accuracy:.1%}; '
        f'held out {row.held_out_loss:.3f}, {row.held_out_accuracy:.1%}'
        + (f', {choose_by} {row.score:.3f}' if choose_by in BY_CLASS else '')
    )


COMMANDS = (finetune,)
