"""Commands of `blox` that look inside: show, diff."""

import json
import sys
from typing import Any

import click

import blox as bx
from blox.atomic import atomic_write
from blox.converters.target import model_spec
from blox.display import tree_text
from blox.wording import counted, format_bytes
from blox.zoo.catalog.card import Card
from blox.zoo.cli.about import facts, in_catalog
from blox.zoo.cli.shared import AS_JSON, MODEL, check_free, find, read, say, status
from blox.zoo.models import families


@click.command(epilog=MODEL)
@click.argument('model')
@click.option('--html', metavar='FILE', help='Write a page to this new file instead.')
def show(model: str, html: str | None) -> None:
    """Show the parts of MODEL, with parameters and sizes.

    Blocks that are alike are printed once. The page has all of them, to fold and unfold, with
    statistics of each parameter (NaN and Inf are marked), where it is placed, and where the
    model is from. It opens without a network. For a name that `blox list` prints, text needs no
    download; the page has shapes alone of an architecture without weights.

    \b
    Example: blox show vit-b16
             blox show my-model.safetensors --html my-model.html
    """
    if html is None:
        _, net, params = _opened(model, download=False)
        _print_lines(tree_text(net, params, brief=True))
        return
    check_free(html)
    card, net, params = _opened(model, download=True)
    with status(f'writing {html}'):
        page = bx.to_html(net, params, about=facts(card, params)).encode()
        with atomic_write(html) as file:
            file.write(page)
    say(f'{html}: {format_bytes(len(page))}, {counted(f"{params.num_params:,}", "parameter")}')


def _opened(model: str, *, download: bool) -> tuple[Card, Any, bx.Params]:
    """Return card, model and Params of MODEL; a spec for a name without weights at hand."""
    entry = in_catalog(model)
    if entry and not entry.weights and not (download and entry.source):
        net = families()[entry.family].build(entry.config)
        return entry, net, model_spec(net)
    found = find(model)
    return found.card, *read(found, model)


@click.command(epilog=f'{MODEL} Exit codes: 0 the same; 1 they differ; 2 trouble.')
@click.argument('a', metavar='MODEL')
@click.argument('b', metavar='OTHER')
@click.option('--top', type=click.IntRange(1), metavar='N', help='The N largest changes alone.')
@AS_JSON
def diff(a: str, b: str, top: int | None, as_json: bool) -> None:
    """Show what changed from MODEL to OTHER, by path.

    Prints for each parameter that differs ||b - a|| / ||a|| and the largest |b - a|, or what is
    missing or of another shape; and the config fields that differ.

    \b
    Example: blox diff vit-digits my-finetune.safetensors --top 10
    """
    with status('comparing'):
        found = bx.zoo.diff(a, b)
    listed = found.top(top) if top else found
    if as_json:
        say(json.dumps(listed.fields(), indent=2, allow_nan=False))
    else:
        _print_lines(str(listed))
    if not found.same:
        sys.exit(1)


COMMANDS = (show, diff)


def _print_lines(text: str) -> None:
    for line in text.split('\n'):
        say(line)
