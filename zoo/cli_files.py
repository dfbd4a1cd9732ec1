"""Commands of `blox` that read and write checkpoints: convert, export, explain, verify."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

import blox as bx
from blox import converters
from blox.zoo.cli import main
from blox.zoo.family import families
from blox.zoo.foreign import read_card
from blox.zoo.opening import local_path

_AS = click.option(
    '--as',
    'name',
    help='The catalog entry that these are weights of, where no config.json says more.',
)


@main.command()
@click.argument('source')
@click.argument('out', type=click.Path(dir_okay=False))
@_AS
@click.option('--dtype', help='Cast to float32, bfloat16, float16 or float64.')
def convert(source: str, out: str, name: str | None, dtype: str | None) -> None:
    """Convert SOURCE to one file of our own, OUT.

    SOURCE is a folder that transformers or timm saved, a repository of the Hub (org/name or
    org/name@revision), or, with --as, a file of weights: .safetensors, .npz, .pth or an index.
    """
    which: dict[str, Any] = {'source': source} if name else {}
    model, params = bx.zoo.load(name or source, dtype=dtype, **which)
    bx.zoo.save(out, model, params, card=bx.zoo.read_card(name or source, **which))
    print(f'{out}: {type(model).__name__}, {params.num_params:,} parameters')


@main.command()
@click.argument('model')
@click.argument('out', type=click.Path(file_okay=False))
@click.option('--format', default='hf', show_default=True, help="'hf' or 'timm'.")
def export(model: str, out: str, format: str) -> None:
    """Write MODEL, as for `info`, as a folder OUT that another library opens.

    With --format hf that is transformers; with timm it is timm, and torchvision for the weights
    of a ResNet.
    """
    net, params = bx.zoo.load(model)
    bx.zoo.export(out, net, params, format, card=bx.zoo.read_card(model))
    print(f'{out}: {", ".join(sorted(path.name for path in Path(out).iterdir()))}')


@main.command()
@click.argument('source')
@_AS
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def explain(source: str, name: str | None, as_json: bool) -> None:
    """Show what in SOURCE, as for `convert`, maps to what, from its header alone.

    The exit code is 1 if something is missing, unexpected or of another shape.
    """
    opened = converters.open_source(local_path(source))
    found = bx.zoo.card(name) if name else read_card(opened, source)
    explanation = converters.explain(opened, families()[found.family].build(found.config))
    print(json.dumps(explanation.fields(), indent=2) if as_json else explanation)
    if not explanation.ok:
        sys.exit(1)


@main.command()
@click.argument('model')
@click.option('--format', help="'hf' or 'timm': which library to compare with.")
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def verify(model: str, format: str | None, as_json: bool) -> None:
    """Compare MODEL, as for `info`, layer by layer with the library that it comes from.

    Needs the reference libraries: pip install 'blox-zoo[parity]'. Prints each layer's error in
    float64; the exit code is 1, and the first layer that diverges is named, unless all agree.
    """
    from blox.zoo.parity import verify as compare

    net, params = bx.zoo.load(model)
    card = bx.zoo.read_card(model)
    layout = format or card.layout or 'hf'
    with tempfile.TemporaryDirectory() as folder:
        theirs = local_path(model)
        if not (theirs.is_dir() and layout == card.layout):
            # No folder of that library: it gets our export, which ours reads back elsewhere.
            theirs = Path(folder)
            bx.zoo.export(theirs, net, params, layout)
        report = compare(theirs, layout, net, params)
    print(json.dumps(report.fields(), indent=2) if as_json else report)
    if report.diverging:
        sys.exit(1)
