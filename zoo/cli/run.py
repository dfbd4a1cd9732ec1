"""Commands of `blox` that run models, predict, embed and generate."""

import codecs
import csv as csv_format
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import tqdm
from tokenizers import Encoding, Tokenizer

import blox as bx
from blox.atomic import atomic_write
from blox.wording import cut, printable
from blox.zoo.cli.shared import AS_JSON, MODEL, check_free, find, read, tokenizer_of
from blox.zoo.running import batches
from blox.zoo.training.images import IMAGE_SUFFIXES

# Tokens that end a text, in GPT-2 and models made from it.
_ENDS = ('<|endoftext|>', '</s>', '<eos>')
# A table of the pairs of more texts than these tells nothing.
_MOST_IN_TABLE = 20
# Texts that are tokens at one time: tokens take more memory than texts.
_WINDOW = 4096


def _option(name: str, default: float, kind: click.ParamType, help: str) -> Any:
    """Make an option that takes a number."""
    return click.option(name, default=default, type=kind, metavar='N', show_default=True, help=help)


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('images', nargs=-1, required=True)
@_option('--top', 1, click.IntRange(1), 'How many classes of each.')
@click.option('--csv', metavar='FILE', help='Write a new CSV file; - for stdout.')
@AS_JSON
def predict(model: str, images: tuple[str, ...], top: int, csv: str | None, as_json: bool) -> None:
    """Classify IMAGES, files or folders of them.

    Prints each file's likeliest classes with probabilities. Files that cannot be read are
    reported and left out; the exit code is then 1.

    \b
    Example: blox predict vit-b16 cat.jpg photos/ --top 5
             blox predict vit-b16 photos/ --csv photos.csv
    """
    _check_one(csv, as_json, '--csv')
    if csv and csv != '-':
        check_free(csv)
    found = find(model, 'image-classification')
    prepare = found.card.preprocessor
    if prepare is None:
        raise ValueError(
            f'no image preprocessing is known for {model!r}: a preprocessor_config.json beside '
            'its weights would say'
        )
    files = _image_files(images)
    rows = _classify(*read(found, model), prepare, files, found.card.labels, top)
    if csv:
        _write_csv(csv, rows)
    elif as_json:
        print(json.dumps([_as_json(*row) for row in rows], indent=2))
    else:
        width = max((len(printable(file)) for file, _ in rows), default=0)
        for file, best in rows:
            answer = '  '.join(f'{label} {100 * p:5.1f} %' for label, p in best)
            print(f'{printable(file):<{width}}  {answer}')
    if len(rows) < len(files):
        sys.exit(1)


def _check_one(out: str | None, as_json: bool, option: str) -> None:
    if out is not None and as_json:
        raise click.UsageError(f'expected {option} or --json, found both.')


def _image_files(names: tuple[str, ...]) -> list[Path]:
    """Return the files named, and the images in the folders named, sorted."""
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if not name:
            raise ValueError('expected the name of a file or folder, found nothing')
        if path.is_dir():
            found = sorted(f for f in path.rglob('*') if f.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise ValueError(f'{name!r} holds no images')
            files += found
        else:
            files.append(path)
    return files


_Row: TypeAlias = tuple[Path, list[tuple[str, float]]]


def _classify(
    model: Any,
    params: bx.Params,
    prepare: bx.zoo.ImagePreprocessor,
    files: list[Path],
    labels: Sequence[str],
    top: int,
) -> list[_Row]:
    """Return the `top` likeliest labels of each file that can be read; report the others."""
    found = []
    with tqdm.tqdm(total=len(files), unit='image', leave=False, disable=None) as progress:

        def report(file: Path, error: Exception) -> None:
            _report(printable(file), getattr(error, 'strerror', None) or error)
            progress.update()

        for file, row in batches.classify(model, params, prepare, files, report):
            found.append((file, _best(row, labels, top)))
            progress.update()
    return found


def _report(place: str, reason: object) -> None:
    tqdm.tqdm.write(f'{place}: {printable(reason)}', file=sys.stderr)


def _best(row: np.ndarray, labels: Sequence[str], top: int) -> list[tuple[str, float]]:
    best = np.argsort(-row, kind='stable')[:top]
    return [(labels[i] if i < len(labels) else str(i), float(row[i])) for i in map(int, best)]


def _as_json(file: Path, classes: list[tuple[str, float]]) -> dict[str, Any]:
    return {
        'file': str(file),
        'classes': [{'label': label, 'probability': p} for label, p in classes],
    }


def _write_csv(out: str, rows: list[_Row]) -> None:
    """Write a header, and a line for each file: its name, labels and probabilities."""
    most = max((len(best) for _, best in rows), default=1)
    names = [f'{name}{i}' for i in ('', *range(2, most + 1)) for name in ('label', 'probability')]
    lines = [_csv_line(['file', *names])]
    for file, best in rows:
        cells = (cell for label, p in best for cell in (label, f'{p:.6g}'))
        lines.append(_csv_line([file, *cells]))
    # A file's name need not be UTF-8.
    content = ''.join(lines).encode('utf-8', 'surrogateescape')
    if out == '-':
        sys.stdout.buffer.write(content)
        return
    with atomic_write(out) as stream:
        stream.write(content)
    print(f'{out}: {len(rows)} files')


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO(newline='')
    # It quotes cells with the characters that end its lines, so let those be both.
    csv_format.writer(text, lineterminator='\r\n').writerow(cells)
    return text.getvalue().removesuffix('\r\n') + '\n'


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('texts', nargs=-1)
@click.option('--file', metavar='FILE', help='Embed its lines, empty ones too; - for stdin.')
@click.option('--npy', metavar='FILE', help='Write a new .npy file, float32 [texts, width].')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: a list of numbers each.')
def embed(
    model: str, texts: tuple[str, ...], file: str | None, npy: str | None, as_json: bool
) -> None:
    """Embed TEXTS, for comparing what they mean.

    Without --npy and --json it prints how alike they are: the cosine of each pair. Texts that are
    too long or not UTF-8 are reported, and the exit code is then 1; what they have in the
    place of an embedding is a row of NaN, null in JSON.

    \b
    Example: blox embed all-minilm-l6 'A cat sat.' 'A kitten rested.'
             blox embed all-minilm-l6 --file lines.txt --npy lines.npy
    """
    _check_one(npy, as_json, '--npy')
    if npy:
        check_free(npy)
    lines = _texts(texts, file)
    if not (npy or as_json) and len(lines) > _MOST_IN_TABLE:
        raise ValueError(f'expected --npy or --json for {len(lines)} texts, found neither')
    found = find(model, 'sentence-embedding')
    tokenizer = tokenizer_of(found.card, model)
    vectors, troubles = _embeddings(*read(found, model), tokenizer, lines)
    for i, trouble in troubles.items():
        place = f'text {i + 1}' if i < len(texts) else f'{file}, line {i + 1 - len(texts)}'
        _report(printable(place), trouble)
    if npy:
        _write_npy(npy, vectors, len(troubles))
    elif as_json:
        rows = [None if i in troubles else row.tolist() for i, row in enumerate(vectors)]
        print(json.dumps(rows))
    else:
        sound = [i for i in range(len(lines)) if i not in troubles]
        _print_cosines([printable(lines[i])[:40] for i in sound], vectors[sound])
    if troubles:
        sys.exit(1)


def _texts(texts: Sequence[str], file: str | None) -> list[str]:
    """Return the texts and then the lines of `file`; what is not UTF-8 becomes lone surrogates."""
    found = list(texts)
    if file is not None:
        with click.open_file(file, 'rb') as stream:
            content = stream.read().removeprefix(codecs.BOM_UTF8)
        lines = content.removesuffix(b'\n').split(b'\n') if content else []
        found += [line.removesuffix(b'\r').decode('utf-8', 'surrogateescape') for line in lines]
    if not found:
        raise ValueError('expected texts to embed: as arguments, or as lines of --file')
    return found


def _embeddings(
    model: Any, params: bx.Params, tokenizer: Tokenizer, texts: Sequence[str]
) -> tuple[np.ndarray, dict[int, str]]:
    """Return a row for each text, of NaN where there is trouble, and what the trouble is."""
    vectors = np.full((len(texts), model.config.width), np.nan, np.float32)
    troubles: dict[int, str] = {}
    embedder = batches.Embedder(model, params, len(texts))

    def tokens(start: int) -> list[Encoding]:
        part = texts[start : start + _WINDOW]
        return tokenizer.encode_batch([text if _is_utf8(text) else '' for text in part])

    windows = range(0, len(texts), _WINDOW)
    with tqdm.tqdm(total=len(texts), unit='text', leave=False, disable=None) as progress:
        for start, found in batches.ahead(tokens, windows, 1):
            ids = {i: encoding.ids for i, encoding in enumerate(found.result(), start)}
            wrong = {i: _trouble(texts[i], ids[i], model.config) for i in ids}
            troubles |= {i: trouble for i, trouble in wrong.items() if trouble}
            sound = {i: ids[i] for i in ids if not wrong[i]}
            progress.update(len(ids) - len(sound))
            for rows, values in embedder(sound):
                vectors[rows] = values
                progress.update(len(rows))
    return vectors, troubles


def _trouble(text: str, ids: Sequence[int], config: Any) -> str:
    """Say what keeps a text with these tokens from being embedded; '' if nothing does."""
    start = cut(text, 30)
    if not _is_utf8(text):
        return f'expected text in UTF-8, found {text[:30]!r}'
    if not 0 < len(ids) <= config.context:
        return f'expected 1 to {config.context} tokens, found {len(ids)} in {start!r}'
    if max(ids) >= config.vocab_size:
        return f'expected tokens below {config.vocab_size}, found {max(ids)} in {start!r}'
    return ''


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_npy(out: str, vectors: np.ndarray, skipped: int) -> None:
    with atomic_write(out) as stream:
        np.save(stream, vectors)
    left_out = f', {skipped} of them NaN: see above' if skipped else ''
    print(f'{out}: float32 {list(vectors.shape)}{left_out}')


def _print_cosines(names: Sequence[str], vectors: np.ndarray) -> None:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    width = max(map(len, names), default=0)
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
    if not _is_utf8(prompt):
        raise ValueError(f'PROMPT: expected text in UTF-8, found {prompt[:30]!r}')
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
