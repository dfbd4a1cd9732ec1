"""Commands of `blox` that say what is known of models: list, info."""

import json
from typing import Any

import click

import blox as bx
from blox.converters.target import model_spec
from blox.wording import format_bytes, printable, some
from blox.zoo.cli.shared import AS_JSON, MODEL, find, say
from blox.zoo.models import families

# The facts that `info` prints, in its order.
FACTS = (
    'name',
    'family',
    'task',
    'parameters',
    'bytes',
    'summary',
    'config',
    'metrics',
    'preprocessor',
    'tokenizer',
    'labels',
    'scores',
    'texts',
    'generation',
    'training',
    'data',
    'license',
    'paper',
    'source',
    'layout',
    'commit',
    'sha256',
    'changes',
)


@click.command('list')
@click.argument('pattern', default='*')
@AS_JSON
def list_command(pattern: str, as_json: bool) -> None:
    """List the models whose names fit PATTERN.

    Each comes with its task and where its weights are: included, in a repository of the Hugging
    Face Hub, or nowhere, for an architecture alone.

    \b
    Example: blox list 'vit-b*'
    """
    rows = []
    for name in bx.zoo.list_models(pattern):
        found = bx.zoo.card(name)
        rows.append(
            {
                'name': name,
                'task': found.task,
                'weights': found.weights is not None,
                'source': found.source,
            }
        )
    if not rows:
        raise ValueError(f'no model fits {pattern!r}')
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    width = max(len(row['name']) for row in rows)
    for row in rows:
        kind = 'weights included' if row['weights'] else row['source'] or 'architecture'
        say(f'{row["name"]:<{width}}  {row["task"]:<20}  {kind}')


@click.command(epilog=MODEL)
@click.argument('model')
@AS_JSON
def info(model: str, as_json: bool) -> None:
    """Show what is known of MODEL.

    For a name that `blox list` prints nothing is downloaded; a repository is, once.

    \b
    Example: blox info vit-b16
    """
    in_catalog = model in bx.zoo.list_models()
    found = bx.zoo.card(model) if in_catalog else find(model).card
    params = model_spec(families()[found.family].build(found.config))
    fields = found.fields()
    fields['tokenizer'] = bool(found.tokenizer)
    fields = {'parameters': params.num_params, 'bytes': params.nbytes, **fields}
    if as_json:
        say(json.dumps(fields, indent=2))
        return
    fields['parameters'], fields['bytes'] = f'{params.num_params:,}', format_bytes(params.nbytes)
    fields['tokenizer'] = 'included' if found.tokenizer else ''
    # What all models of texts have unless they say more, and models of images never.
    fields['texts'] = fields['texts'] if found.texts != bx.zoo.TextSettings() else {}
    fields['scores'] = found.scores if found.labels else ''
    for name in FACTS:
        if fields[name]:
            say(f'{name + ":":<13} {printable(plain(fields[name]))}')


def plain(value: Any) -> str:
    """Return a header's value on one line, the first ten of a long list."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {item}' for name, item in value.items())
    if isinstance(value, list):
        return some(value)
    return str(value)


COMMANDS = (list_command, info)
