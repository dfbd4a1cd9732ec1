"""Commands of `blox` about checkpoints: convert, export, explain, verify."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import jax.numpy as jnp

import blox as bx
from blox import converters
from blox.converters.tables import families as converted_families
from blox.wording import counted, some
from blox.zoo.cli.shared import AS_JSON, DTYPE, MODEL, check_free, find, read, say, status
from blox.zoo.loading.place import Place
from blox.zoo.loading.places import resolve
from blox.zoo.loading.weights import BareWeights
from blox.zoo.models import families

_SOURCE = (
    'SOURCE is a folder that transformers, timm or open_clip saved, a repository of the Hugging Face Hub '
    '(org/name or org/name@revision), or, with --as, weights alone: a .safetensors, .npz, .pth, .pt, '
    '.ckpt, .pth.tar or .bin file, or an index of shards.'
)
_AS = click.option(
    '--as', 'name', metavar='NAME', help='The catalog entry that SOURCE has weights of.'
)

_STATE = click.option(
    '--state',
    metavar='STATE',
    default='',
    help='The state of a training checkpoint to take, as model_ema.',
)
# Libraries that models are exported for, and compared with, by the first of their layouts.
_LIBRARIES = {'hf': 'transformers', 'timm': 'timm', 'open_clip': 'open_clip'}
FORMATS = tuple(_LIBRARIES)


@click.command(epilog=_SOURCE)
@click.argument('source')
@click.argument('out')
@_AS
@_STATE
@DTYPE
def convert(source: str, out: str, name: str | None, state: str, dtype: str | None) -> None:
    """Convert SOURCE to one new file, OUT.

    The file holds weights, config, labels, preprocessing and tokenizer; all commands and
    bx.zoo.load take it for a model.

    \b
    Example: blox convert my-bert/ my-bert.safetensors
             blox convert resnet50.pth r50.safetensors --as resnet50
    """
    if Path(out).suffix != '.safetensors':
        raise ValueError(f'expected OUT to end in .safetensors, found {out!r}')
    check_free(out)
    found = find(name, source=source, state=state) if name else find(source, state=state)
    _check_says(found)
    model, params = read(found, source, dtype and jnp.dtype(dtype))
    with status(f'writing {out}'):
        bx.zoo.save(out, model, params, card=found.card)
    say(f'{out}: {type(model).__name__}, {counted(f"{params.num_params:,}", "parameter")}')


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('out')
@click.option(
    '--format',
    default='hf',
    show_default=True,
    type=click.Choice(FORMATS),
    help='Who opens it.',
)
def export(model: str, out: str, format: str) -> None:
    """Write MODEL as a folder that another library opens.

    OUT is a new or empty folder. With --format hf transformers opens it, else the library of that name;
    torchvision reads the weights of a ResNet in format timm.

    \b
    Example: blox export vit-digits digits-hf/
             blox export resnet50 r50-timm/ --format timm
    """
    folder = Path(out)
    is_empty = folder.is_dir() and not any(folder.iterdir())
    if os.path.lexists(folder) and not is_empty:
        raise FileExistsError(f'{out!r} is no empty folder: empty it, or name another')
    found = find(model)
    net, params = read(found, model)
    with status(f'writing {out}'):
        bx.zoo.export(folder, net, params, format, card=found.card)
    say(f'{out}: {", ".join(sorted(path.name for path in folder.iterdir()))}')


@click.command(epilog=_SOURCE)
@click.argument('source')
@_AS
@_STATE
@AS_JSON
def explain(source: str, name: str | None, state: str, as_json: bool) -> None:
    """Show which name in SOURCE becomes what.

    Reads names and shapes alone, no weights. The exit code is 1 if a name is missing,
    unexpected or of another shape.

    \b
    Example: blox explain my-bert/
             blox explain resnet50.pth --as resnet50
    """
    found = find(source)
    if found.is_own:
        raise ValueError(f'{source!r} is of no other library: there is nothing to explain')
    # What was downloaded, not what a repository is converted to: that takes the weights.
    place = (
        BareWeights(found.folder, bx.zoo.card(name), state)
        if name
        else resolve(found.folder, state=state)
    )
    _check_says(place)
    model = families()[place.card.family].build(place.card.config)
    explanation = converters.explain(place.source, model)
    say(json.dumps(explanation.fields(), indent=2) if as_json else explanation)
    if not explanation.ok:
        sys.exit(1)


@click.command(epilog=MODEL)
@click.argument('model')
@click.option('--format', type=click.Choice(FORMATS), help='The library to compare with.')
@click.option('--against', metavar='SOURCE', help='A folder or repository for the library to open.')
@AS_JSON
def verify(model: str, format: str | None, against: str | None, as_json: bool) -> None:
    """Check MODEL's file, and compare it with the library it is from, layer by layer.

    A file of our own must hold the very bytes that were saved, all finite. The comparison needs
    that library, such as timm or transformers, with torch: it opens the folder or repository that MODEL is,
    or an export. Prints each layer's error in float64 and float32; if one diverges, the exit code is 1.

    \b
    Example: blox verify my-bert/
             blox verify my-bert.safetensors --against my-bert/
    """
    found = find(model)
    if found.is_own:
        with status(f'checking {model}'):
            found.check()
        say(f'{model}: as it was saved, all values finite', err=as_json)
        if found.card.family not in converted_families():
            say(f'{model}: no other library has its family, to compare it with', err=as_json)
            return
    net, params = read(found, model)
    with tempfile.TemporaryDirectory() as exported:
        folder, layout = _saved(find(against) if against else found, format)
        if against:
            _check_fits(against, folder, layout, net)
        elif not layout:
            folder, layout = Path(exported), format or _format_of(found.card.layout)
            bx.zoo.export(folder, net, params, layout)
        report = _report(folder, layout, net, params)
    say(json.dumps(report.fields(), indent=2) if as_json else report)
    if report.diverging:
        sys.exit(1)


COMMANDS = (convert, export, explain, verify)


def _check_says(place: Place) -> None:
    """Raise ValueError for weights alone, which nobody named."""
    if place.is_bare:
        raise ValueError(
            f'{str(place)!r} does not say what model it is of: name it, as in --as resnet50'
        )


def _saved(place: Place, format: str | None) -> tuple[Path, str]:
    """Return the folder that a library saved, and its layout; '' if it is none of `format`."""
    return place.folder, place.layout if format in (None, _format_of(place.layout)) else ''


def _check_fits(against: str, folder: Path, layout: str, model: Any) -> None:
    """Raise ValueError if the folder to compare with is of another model, or of no library's."""
    if not layout:
        raise ValueError(f'{against!r} is no folder or repository of the library to compare with')
    if problems := converters.explain(folder, model).problems:
        raise ValueError(f'{against!r} is of another model: {some(problems, 4, "; ")}')


def _report(folder: Path, layout: str, model: Any, params: bx.Params) -> Any:
    from blox.zoo.comparing import parity

    library = parity.import_reference(_LIBRARIES[_format_of(layout)])
    if library.__name__ == 'transformers':
        # Its bars do not look whether there is a terminal.
        library.utils.logging.disable_progress_bar()
    with status(f'comparing with {library.__name__}'):
        return parity.verify(folder, layout, model, params)


def _format_of(layout: str) -> str:
    """Return the format of the library that a layout is of, transformers' unless another's name begins it."""
    return next((format for format in FORMATS if layout.startswith(format)), 'hf')
