"""Commands of `blox` that say what is known of models: list, info."""

import json
from typing import Any

import click

import blox as bx
from blox.converters.target import model_spec
from blox.wording import format_bytes, printable, some
from blox.zoo.catalog.card import Card
from blox.zoo.cli.shared import AS_JSON, MODEL, find, say
from blox.zoo.loading.listing import ModelList, describe, measured
from blox.zoo.loading.places import catalog_name
from blox.zoo.models import families


@click.command('list')
@click.argument('words', nargs=-1)
@click.option('--here', is_flag=True, help='Only models that are on this machine.')
@AS_JSON
def list_command(words: tuple[str, ...], here: bool, as_json: bool) -> None:
    """List the models that fit all WORDS: parts of their names, tasks, data, licenses, sizes of images.

    A word with `*`, `?` or `[` is a pattern of the whole name.

    \b
    Example: blox list vit 384
    """
    found = bx.zoo.list_models(*words)
    rows = [row for row in found.rows if row.is_here or not here]
    if not rows:
        what = f'no model fits {" ".join(words)!r}' if words else 'no model is there'
        raise ValueError(f'{what}{" on this machine" if here else ""}; `blox list` prints all')
    if as_json:
        say(json.dumps([row._asdict() for row in rows], indent=2))
        return
    say(str(ModelList(row.name for row in rows)))


@click.command(epilog=MODEL)
@click.argument('model')
@AS_JSON
def info(model: str, as_json: bool) -> None:
    """Show what is known of MODEL.

    For a name that `blox list` prints nothing is downloaded; a repository is, once.

    \b
    Example: blox info vit-b16
    """
    entry = in_catalog(model)
    found = entry or find(model).card
    params = model_spec(families()[found.family].build(found.config))
    if as_json:
        fields = {**found.fields(), 'tokenizer': bool(found.tokenizer)}
        sizes = {'parameters': params.num_params, 'bytes': params.nbytes}
        say(json.dumps({**sizes, **fields}, indent=2))
        return
    lines = facts(found, params)
    if entry:
        lines |= _weights(entry)
    for name, text in lines.items():
        say(f'{name + ":":<13} {printable(text)}')


def in_catalog(model: str) -> Card | None:
    """Return the card of a name in the catalog, None for any other MODEL."""
    name = catalog_name(model)
    return bx.zoo.card(name) if name else None


def facts(card: Card, params: bx.Params) -> dict[str, str]:
    """Return what is known of a model, by what it is called, each on one line; what is not is left out."""
    lines = {name: plain(value) for name, value in card.fields().items()}
    lines |= {
        'parameters': f'{params.num_params:,}',
        'bytes': format_bytes(params.nbytes),
        'config': repr(card.config),
        'preprocessor': _prepared(card.preprocessor) if card.preprocessor else '',
        'tokenizer': 'included' if card.tokenizer else '',
        'metrics': ', '.join(measured({name: value}) for name, value in card.metrics.items()),
        'scores': card.scores if card.labels else '',
        # What all models of texts have unless they say more, and models of images never.
        'texts': lines['texts'] if card.texts != bx.zoo.TextSettings() else '',
    }
    return {name: lines[name] for name in _FACTS if lines[name]}


# In the order of printing.
_FACTS = (
    *('name', 'family', 'task', 'summary', 'parameters', 'bytes', 'config', 'preprocessor'),
    *('tokenizer', 'metrics', 'labels', 'scores', 'texts', 'generation', 'training', 'data'),
    *('license', 'paper', 'source', 'layout', 'commit', 'sha256', 'changes'),
)


def _prepared(by: bx.zoo.ImagePreprocessor) -> str:
    """Say how images become inputs."""
    (height, width), (tall, wide) = by.size, by.resize
    how = 'covering' if by.keep_ratio else 'stretched to'
    numbers = [' '.join(f'{x:g}' for x in values) for values in (by.mean, by.std)]
    return (
        f'{height} x {width} pixels from the centre, {how} {tall} x {wide} ({by.interpolation}); '
        f'mean {numbers[0]}, std {numbers[1]}'
    )


def _weights(entry: Card) -> dict[str, str]:
    """Say where the weights of a name in the catalog are, and how it is loaded."""
    listed = describe(entry.name)
    if not listed.source:
        return {'weights': f'none; bx.zoo.create({entry.name!r}) makes the model alone'}
    where = 'on this machine' if listed.is_here else f'{listed.source}, downloaded at the first use'
    return {'weights': where, 'python': f'model, params = bx.zoo.load({entry.name!r})'}


def plain(value: Any) -> str:
    """Return a header's value on one line, the first ten of a long list."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {item}' for name, item in value.items())
    if isinstance(value, list):
        return some(value)
    return str(value)


COMMANDS = (list_command, info)
