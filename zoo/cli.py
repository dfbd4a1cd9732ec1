"""The `blox` command: listing, running and embedding; `cli_files` has what works on files."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import blox as bx
from blox.atomic import atomic_write
from blox.display import format_bytes
from blox.zoo.family import families
from blox.zoo.opening import model_spec

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
        print(json.dumps(rows, indent=2))
        return
    width = max(len(row['name']) for row in rows)
    for row in rows:
        kind = 'weights included' if row['weights'] else row['source'] or 'architecture'
        print(f'{row["name"]:<{width}}  {row["task"]:<20}  {kind}')


@main.command()
@click.argument('model')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def info(model: str, as_json: bool) -> None:
    """Show what is known of MODEL.

    MODEL is a catalog name, a repository of the Hub (org/name or org/name@revision), a folder
    that transformers or timm saved, or a file. For a name nothing is downloaded.
    """
    found = bx.zoo.card(model) if model in bx.zoo.list_models() else bx.zoo.read_card(model)
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
    for name in _DETAILS:
        if fields[name]:
            print(f'{name + ":":<13} {_plain(fields[name])}')


@main.command()
@click.argument('model')
@click.argument('images', nargs=-1, required=True)
@click.option('--top', default=1, show_default=True, help='How many classes to print.')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON.')
def predict(model: str, images: tuple[str, ...], top: int, as_json: bool) -> None:
    """Classify IMAGES, files or folders of them, with MODEL, as for `info`.

    Files that cannot be read are reported and left out; the exit code is then 1.
    """
    net, params = bx.zoo.load(model)
    files, labels = _image_files(images), bx.zoo.read_card(model).labels
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
@click.argument('texts', nargs=-1)
@click.option('--file', type=click.File(encoding='utf-8'), help='Embed its lines; - for stdin.')
@click.option('--out', type=click.Path(dir_okay=False), help='Write a .npy file [texts, width].')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: a list of numbers a text.')
def embed(model: str, texts: tuple[str, ...], file: Any, out: str | None, as_json: bool) -> None:
    """Embed TEXTS with MODEL, as for `info`, one of task sentence-embedding.

    Without --out and --json it prints how alike they are: the cosine of each pair.
    """
    lines = [*texts, *(line.rstrip('\r\n') for line in file or ())]
    if not lines:
        raise ValueError('expected texts to embed: as arguments, or as lines of --file')
    net, params = bx.zoo.load(model)
    if families()[net.path].task != 'sentence-embedding':
        raise ValueError(f'{model!r} is for {families()[net.path].task}, not sentence-embedding')
    encoded = [e.ids for e in bx.zoo.tokenizer(model).encode_batch(lines)]
    for line, ids in zip(lines, encoded):
        if len(ids) > net.config.context:
            raise ValueError(
                f'{line[:40]!r}... has {len(ids)} tokens, {model!r} sees {net.config.context}'
            )
    vectors = _embeddings(net, params, encoded)
    if out:
        with atomic_write(out) as stream:
            np.save(stream, vectors)
    elif as_json:
        print(json.dumps(vectors.tolist()))
    else:
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        width = max(len(line) for line in lines)
        for line, row in zip(lines, unit @ unit.T):
            print(f'{line:<{width}}  ' + ' '.join(f'{cosine:6.3f}' for cosine in row))


@main.command()
@click.argument('model')
@click.argument('prompt')
@click.option('--max-new-tokens', default=96, show_default=True, help='At most this many.')
@click.option('--temperature', default=0.7, show_default=True, help='0 takes the likeliest.')
@click.option('--top-k', default=0, show_default=True, help='0 for all tokens.')
@click.option('--top-p', default=0.95, show_default=True, help='1 for all tokens.')
@click.option('--seed', default=0, show_default=True)
def generate(model: str, prompt: str, seed: int, **options: Any) -> None:
    """Continue PROMPT with MODEL, as for `info`, printing the text as it comes."""
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


_DETAILS = (
    'config',
    'metrics',
    'preprocessor',
    'labels',
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


def _embeddings(net: Any, params: bx.Params, lines: list[list[int]]) -> np.ndarray:
    """An embedding of each line's tokens; lines of like length share a batch, padded to a power of 2."""
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    apply = jax.jit(lambda params, tokens, mask: net(params, tokens, mask)[0].embedding)
    found: dict[int, np.ndarray] = {}
    with tqdm.tqdm(total=len(lines), unit='text', disable=None) as progress:
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            longest = max(len(lines[i]) for i in rows)
            length = min(max(1 << (longest - 1).bit_length(), 8), net.config.context)
            tokens, mask = np.zeros((32, length), np.int32), np.zeros((32, length), bool)
            mask[:, 0] = True  # of the rows that fill the batch up
            for row, i in enumerate(rows):
                tokens[row, : len(lines[i])], mask[row] = (
                    lines[i],
                    np.arange(length) < len(lines[i]),
                )
            vectors = np.asarray(apply(params, tokens, mask), np.float32)
            found |= dict(zip(rows, vectors))
            progress.update(len(rows))
    return np.stack([found[i] for i in range(len(lines))])


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


# At the end, for it adds its commands to `main`.
from blox.zoo import cli_files as cli_files  # noqa: E402
