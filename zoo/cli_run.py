"""Commands of `blox` that run models, predict, embed and generate, and what all commands share."""

import codecs
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from tokenizers import Tokenizer

import blox as bx
from blox.atomic import atomic_write
from blox.zoo.card import Card
from blox.zoo.family import families
from blox.zoo.opening import Checkpoint, open_checkpoint
from blox.zoo.tokenization import parse_tokenizer

MODEL = (
    'MODEL is a name that `blox list` prints, a repository of the Hugging Face Hub (org/name or '
    'org/name@revision), a folder that transformers or timm saved, or a file that blox saved.'
)
AS_JSON = click.option('--json', 'as_json', is_flag=True, help='Print JSON.')

_IMAGES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')
# What ends a text, by the tokenizers of GPT-2 and of models made from it.
_ENDS = ('<|endoftext|>', '</s>', '<eos>')
# Of more texts than these, a table of pairs tells nothing.
_MOST_IN_TABLE = 20


def _option(name: str, default: float, kind: click.ParamType, help: str) -> Any:
    """An option that takes a number."""
    return click.option(name, default=default, type=kind, metavar='N', show_default=True, help=help)


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('images', nargs=-1, required=True)
@_option('--top', 1, click.IntRange(1), 'How many classes of each.')
@AS_JSON
def predict(model: str, images: tuple[str, ...], top: int, as_json: bool) -> None:
    """Classify IMAGES, files or folders of them.

    Prints each file's likeliest classes with probabilities. Files that cannot be read are
    reported and left out; the exit code is then 1.

    \b
    Example: blox predict vit-b16 cat.jpg photos/ --top 5
    """
    found = find(model, 'image-classification')
    prepare = found.card.preprocessor
    if prepare is None:
        raise ValueError(
            f'no image preprocessing is known for {model!r}: a preprocessor_config.json beside '
            'its weights would say'
        )
    files = _image_files(images)
    rows = _classify(*read(found, model), prepare, files, found.card.labels, top)
    if as_json:
        print(json.dumps([_as_json(*row) for row in rows], indent=2))
    else:
        width = max((len(shown(file)) for file, _ in rows), default=0)
        for file, best in rows:
            answer = '  '.join(f'{label} {100 * p:5.1f} %' for label, p in best)
            print(f'{shown(file):<{width}}  {answer}')
    if len(rows) < len(files):
        sys.exit(1)


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


def _classify(
    model: Any,
    params: bx.Params,
    prepare: bx.zoo.ImagePreprocessor,
    files: list[Path],
    labels: Sequence[str],
    top: int,
) -> list[tuple[Path, list[tuple[str, float]]]]:
    """The `top` likeliest labels of each file that can be read; in batches of one size."""
    size = min(len(files), 64)
    apply = jax.jit(lambda params, x: jax.nn.softmax(model(params, x)[0].astype(jnp.float32)))
    found = []
    with tqdm.tqdm(total=len(files), unit='image', leave=False, disable=None) as progress:
        for start in range(0, len(files), size):
            chunk = files[start : start + size]
            batch = _read_images(prepare, chunk)
            if batch:
                images = np.concatenate([image for _, image in batch])
                padded = np.pad(images, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
                rows = np.asarray(apply(params, padded))
                found += [(file, _best(row, labels, top)) for (file, _), row in zip(batch, rows)]
            progress.update(len(chunk))
    return found


def _read_images(
    prepare: bx.zoo.ImagePreprocessor, files: list[Path]
) -> list[tuple[Path, np.ndarray]]:
    """The batch of one image of each file that can be read; the others are reported."""
    found = []
    for file in files:
        try:
            found.append((file, prepare(file)))
        except (OSError, ValueError) as error:
            reason = getattr(error, 'strerror', None) or error
            tqdm.tqdm.write(f'{shown(file)}: {shown(reason)}', file=sys.stderr)
    return found


def _best(row: np.ndarray, labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    best = np.argsort(-row, kind='stable')[:top]
    return [(labels[i] if i < len(labels) else str(i), float(row[i])) for i in map(int, best)]


def _as_json(file: Path, classes: list[tuple[str, float]]) -> dict[str, Any]:
    return {
        'file': str(file),
        'classes': [{'label': label, 'probability': p} for label, p in classes],
    }


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('texts', nargs=-1)
@click.option('--file', metavar='FILE', help='Embed its lines, empty ones too; - for stdin.')
@click.option('--out', metavar='FILE', help='Write a new .npy file, float32 [texts, width].')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: a list of numbers each.')
def embed(
    model: str, texts: tuple[str, ...], file: str | None, out: str | None, as_json: bool
) -> None:
    """Embed TEXTS, for comparing what they mean.

    Without --out and --json it prints how alike they are: the cosine of each pair.

    \b
    Example: blox embed all-minilm-l6 'A cat sat.' 'A kitten rested.'
             blox embed all-minilm-l6 --file lines.txt --out lines.npy
    """
    if out:
        check_free(out)
    lines = _texts(texts, file)
    if not (out or as_json) and len(lines) > _MOST_IN_TABLE:
        raise ValueError(f'expected --out or --json for {len(lines)} texts, found neither')
    found = find(model, 'sentence-embedding')
    encoded = _encoded(tokenizer_of(found.card, model), lines, found.card.config)
    vectors = _embeddings(*read(found, model), encoded)
    if out:
        with atomic_write(out) as stream:
            np.save(stream, vectors)
        print(f'{out}: float32 {list(vectors.shape)}')
    elif as_json:
        print(json.dumps(vectors.tolist()))
    else:
        _print_cosines([shown(text)[:40] for _, text in lines], vectors)


def _texts(texts: Sequence[str], file: str | None) -> list[tuple[str, str]]:
    """Each text, after where it comes from."""
    found = [(f'text {i}', text) for i, text in enumerate(texts, 1)]
    if file is not None:
        with click.open_file(file, 'rb') as stream:
            content = stream.read().removeprefix(codecs.BOM_UTF8)
        lines = content.removesuffix(b'\n').split(b'\n') if content else []
        found += [(f'{file}, line {i}', _decoded(line)) for i, line in enumerate(lines, 1)]
    if not found:
        raise ValueError('expected texts to embed: as arguments, or as lines of --file')
    for place, text in found:
        _check_text(place, text)
    return found


def _decoded(line: bytes) -> str:
    """A line as arguments come: what is not UTF-8 as lone surrogates."""
    return line.removesuffix(b'\r').decode('utf-8', 'surrogateescape')


def _check_text(place: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f'{place}: expected text in UTF-8, found {text[:30]!r}') from error


def _encoded(
    tokenizer: Tokenizer, lines: Sequence[tuple[str, str]], config: Any
) -> list[list[int]]:
    """The tokens of each text, as many as the model sees and of its vocabulary."""
    found = [encoding.ids for encoding in tokenizer.encode_batch([text for _, text in lines])]
    for (place, text), ids in zip(lines, found):
        start = text[:30] + '...' * (len(text) > 30)
        if not 0 < len(ids) <= config.context:
            raise ValueError(
                f'{place}: expected 1 to {config.context} tokens, found {len(ids)} in {start!r}'
            )
        if max(ids) >= config.vocab_size:
            raise ValueError(
                f'{place}: expected tokens below {config.vocab_size}, found {max(ids)} in {start!r}'
            )
    return found


def _embeddings(model: Any, params: bx.Params, lines: list[list[int]]) -> np.ndarray:
    """An embedding of each line's tokens; lines of like length share a batch."""
    order = sorted(range(len(lines)), key=lambda i: len(lines[i]))
    size = min(len(lines), 32)
    apply = jax.jit(lambda params, tokens, mask: model(params, tokens, mask)[0].embedding)
    found: dict[int, np.ndarray] = {}
    with tqdm.tqdm(total=len(lines), unit='text', leave=False, disable=None) as progress:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            tokens, mask = _padded([lines[i] for i in rows], size, model.config.context)
            found |= dict(zip(rows, np.asarray(apply(params, tokens, mask), np.float32)))
            progress.update(len(rows))
    return np.stack([found[i] for i in range(len(lines))])


def _padded(lines: list[list[int]], size: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask [size, length], the length a power of two: few shapes, few programs."""
    longest = max(map(len, lines))
    shape = (size, min(max(1 << (longest - 1).bit_length(), 8), most))
    tokens, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
    mask[:, 0] = True  # of the rows that fill the batch up
    for row, ids in enumerate(lines):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return tokens, mask


def _print_cosines(names: Sequence[str], vectors: np.ndarray) -> None:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    width = max(map(len, names))
    for name, row in zip(names, unit @ unit.T):
        print(f'{name:<{width}}  ' + ' '.join(f'{cosine:6.3f}' for cosine in row))


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('prompt')
@_option('--max-new-tokens', 96, click.IntRange(1), 'At most this many.')
@_option('--temperature', 0.7, click.FloatRange(0), '0 takes the likeliest.')
@_option('--top-k', 0, click.IntRange(0), '0 for all tokens.')
@_option('--top-p', 0.95, click.FloatRange(0, 1, min_open=True), '1 for all tokens.')
@_option('--seed', 0, click.INT, 'The same gives the same text.')
def generate(model: str, prompt: str, seed: int, **options: Any) -> None:
    """Continue PROMPT, printing the text as it comes.

    It ends with the tokenizer's end of text, or where the model's context is full.

    \b
    Example: blox generate gpt2 'Once upon a time' --temperature 0
    """
    found = find(model, 'text-generation')
    tokenizer = tokenizer_of(found.card, model)
    net, params = read(found, model)
    _check_text('PROMPT', prompt)
    prompt_ids = tokenizer.encode(prompt).ids
    room = net.config.context - len(prompt_ids)
    options['max_new_tokens'] = min(options['max_new_tokens'], max(room, 1))
    ends = [tokenizer.token_to_id(token) for token in _ENDS]
    options['stop_tokens'] = [end for end in ends if end is not None]
    tokens = bx.zoo.stream(net, params, prompt_ids, seed=seed, **options)
    print(prompt, end='', flush=True)
    ids, printed, text = [], '', ''
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        # Bytes of an unfinished character decode to U+FFFD; wait for the rest of it.
        if not text.endswith('\ufffd'):
            print(text[len(printed) :], end='', flush=True)
            printed = text
    print(text[len(printed) :])


COMMANDS = (predict, embed, generate)


# What commands share.


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
    return tqdm.tqdm(desc=shown(text), bar_format='{desc} ...', leave=False, disable=None)


def shown(value: object) -> str:
    """A text, path or error on one line that any terminal takes as it is."""
    return ''.join(
        char if char.isprintable() else char.encode('unicode_escape').decode()
        for char in str(value)
    )


def check_free(out: str) -> None:
    """Raises OSError unless a new file can be made at `out`: better before long work than after."""
    path = Path(out)
    if os.path.lexists(path):
        raise FileExistsError(f'{out!r} is there already: remove it, or name another')
    if not os.access(path.absolute().parent, os.W_OK):
        raise OSError(f'cannot write {out!r}: its folder is missing or not writable')
