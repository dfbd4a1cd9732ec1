"""The `blox` command."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np

import blox as bx
from blox.display import format_bytes
from blox.zoo.family import families
from blox.zoo.loading import model_spec, read_card

_IMAGES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')


class _Group(click.Group):
    """Turns the errors that users can mend into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
@click.version_option(bx.__version__)
def main() -> None:
    """Pretrained models for JAX."""


@main.command('list')
@click.argument('pattern', default='*')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def list_command(pattern: str, as_json: bool) -> None:
    """List the models in the catalog whose names fit PATTERN."""
    rows = []
    for name in bx.zoo.list_models(pattern):
        found = bx.zoo.card(name)
        rows.append({'name': name, 'task': found.task, 'weights': found.weights is not None})
    if not rows:
        raise ValueError(f'no model fits {pattern!r}')
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(len(row['name']) for row in rows)
    for row in rows:
        kind = 'weights included' if row['weights'] else 'architecture'
        print(f'{row["name"]:<{width}}  {row["task"]:<20}  {kind}')


@main.command()
@click.argument('model')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def info(model: str, as_json: bool) -> None:
    """Show what is known of MODEL, a catalog name or a file."""
    found = read_card(model)
    params = model_spec(families()[found.family].build(found.config))
    fields = found.fields()
    fields['tokenizer'] = bool(found.tokenizer)
    fields = {'parameters': params.num_params, 'bytes': params.nbytes, **fields}
    if as_json:
        print(json.dumps(fields, indent=2))
        return
    fields['parameters'], fields['bytes'] = f'{params.num_params:,}', format_bytes(params.nbytes)
    for name in ('name', 'family', 'task', 'parameters', 'bytes', 'summary'):
        print(f'{name + ":":<13} {fields[name]}')
    for name in ('config', 'metrics', 'preprocessor', 'labels', 'training', 'data', 'license'):
        if fields[name]:
            print(f'{name + ":":<13} {_plain(fields[name])}')


@main.command()
@click.argument('model')
@click.argument('images', nargs=-1, required=True)
@click.option('--top', default=1, show_default=True, help='How many classes to print.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def predict(model: str, images: tuple[str, ...], top: int, as_json: bool) -> None:
    """Classify IMAGES, files or folders of them, with MODEL, a catalog name or a file.

    Files that cannot be read are reported and left out; the exit code is then 1.
    """
    net, params = bx.zoo.load(model)
    files, labels = _image_files(images), read_card(model).labels
    batches = _read_images(bx.zoo.preprocessor(model), files)
    read = [file for file in files if file in batches]
    classes = _classify(net, params, [batches[file] for file in read], labels, max(top, 1))
    if as_json:
        print(json.dumps([_as_json(*row) for row in zip(read, classes)], indent=2))
    else:
        width = max((len(str(file)) for file in read), default=0)
        for file, best in zip(read, classes):
            answer = '  '.join(f'{label} {100 * p:5.1f} %' for label, p in best)
            print(f'{file!s:<{width}}  {answer}')
    if len(read) < len(files):
        sys.exit(1)


@main.command()
@click.argument('model')
@click.argument('prompt')
@click.option('--max-new-tokens', default=96, show_default=True, help='At most this many.')
@click.option('--temperature', default=0.7, show_default=True, help='0 takes the likeliest.')
@click.option('--top-k', default=0, show_default=True, help='0 for all tokens.')
@click.option('--top-p', default=0.95, show_default=True, help='1 for all tokens.')
@click.option('--seed', default=0, show_default=True)
def generate(model: str, prompt: str, seed: int, **options: Any) -> None:
    """Continue PROMPT with MODEL, a catalog name or a file, printing the text as it comes."""
    net, params = bx.zoo.load(model)
    tokenizer = bx.zoo.tokenizer(model)
    prompt_ids = tokenizer.encode(prompt).ids
    room = net.config.context - len(prompt_ids)
    options['max_new_tokens'] = min(options['max_new_tokens'], max(room, 1))
    end = tokenizer.token_to_id('<|endoftext|>')
    options['stop_tokens'] = [] if end is None else [end]
    tokens = bx.zoo.stream(net, params, prompt_ids, seed=seed, **options)
    print(prompt, end='', flush=True)
    ids, shown, text = [], '', ''
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        # Bytes of an unfinished character decode to U+FFFD; wait for the rest of it.
        if not text.endswith('\ufffd'):
            print(text[len(shown) :], end='', flush=True)
            shown = text
    print(text[len(shown) :])


def _read_images(prepare: bx.zoo.ImagePreprocessor, files: list[Path]) -> dict[Path, np.ndarray]:
    """The batch of one image of each file that can be read; the others are reported."""
    batches = {}
    for file in files:
        try:
            batches[file] = prepare(file)
        except (OSError, ValueError) as error:
            click.echo(f'{click.format_filename(file)}: {error}', err=True)
    return batches


def _classify(
    net: Any, params: bx.Params, images: list[np.ndarray], labels: Sequence[str], top: int
) -> list[list[tuple[str, float]]]:
    """The `top` likeliest labels of each image, with probabilities; in batches of one size."""
    size = min(len(images), 64)
    apply = jax.jit(lambda params, x: jax.nn.softmax(net(params, x)[0].astype(jnp.float32)))
    found = []
    for start in range(0, len(images), max(size, 1)):
        batch = np.concatenate(images[start : start + size])
        padded = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
        for row in np.asarray(apply(params, padded))[: len(batch)]:
            best = np.argsort(-row, kind='stable')[:top]
            found.append([(labels[i] if i < len(labels) else str(i), float(row[i])) for i in best])
    return found


def _image_files(names: tuple[str, ...]) -> list[Path]:
    """The files named, and the images in the folders named, sorted."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if not name:
            raise ValueError('expected the name of a file or folder, found nothing')
        if path.is_dir():
            found = sorted(f for f in path.rglob('*') if f.suffix.lower() in _IMAGES)
            if not found:
                raise ValueError(f'{name!r} holds no images')
            files += found
        else:
            files.append(path)
    return files


def _as_json(file: Path, classes: list[tuple[str, float]]) -> dict[str, Any]:
    return {
        'file': str(file),
        'classes': [{'label': label, 'probability': p} for label, p in classes],
    }


def _plain(value: Any) -> str:
    """A header's value on one line."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {_plain(item)}' for name, item in value.items())
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)
