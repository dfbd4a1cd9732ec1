"""The command of `blox` that makes embeddings of texts: embed."""

import codecs
import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
import numpy as np
import tqdm

import blox as bx
from blox.atomic import atomic_write
from blox.wording import cut, printable
from blox.zoo.cli.shared import (
    MODEL,
    check_free,
    check_one_output,
    find,
    read,
    report,
    say,
    tokenizer_of,
)
from blox.zoo.inputs.text import EncodedText, is_utf8, trouble
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.running import batches

# A table of the pairs of more texts than these tells nothing.
_MOST_IN_TABLE = 20
# Texts that are tokens at one time: tokens take more memory than texts.
_WINDOW = 4096


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('texts', nargs=-1)
@click.option('--file', metavar='FILE', help='Embed its lines, empty ones too; - for stdin.')
@click.option('--prompt-name', metavar='NAME', help="One of the model's prompts, put before each.")
@click.option('--prompt', metavar='TEXT', help='A prompt of your own; an empty one for none.')
@click.option('--npy', metavar='FILE', help='Write a new .npy file, float32 [texts, width].')
@click.option('--json', 'as_json', is_flag=True, help='Print JSON: a list of numbers each.')
def embed(
    model: str,
    texts: tuple[str, ...],
    file: str | None,
    prompt_name: str | None,
    prompt: str | None,
    npy: str | None,
    as_json: bool,
) -> None:
    """Embed TEXTS, for comparing what they mean.

    Without --npy and --json it prints how alike they are: the cosine of each pair. Long texts are
    cut, which is said. Texts that are not UTF-8 are reported, and the exit code is then 1; what
    they have in the place of an embedding is a row of NaN, null in JSON.

    \b
    Example: blox embed all-minilm-l6 'A cat sat.' 'A kitten rested.'
             blox embed all-minilm-l6 --file lines.txt --npy lines.npy
    """
    check_one_output(npy, as_json, '--npy')
    if npy:
        check_free(npy)
    lines = _texts(texts, file)
    if not (npy or as_json) and len(lines) > _MOST_IN_TABLE:
        raise ValueError(f'expected --npy or --json for {len(lines)} texts, found neither')
    found = find(model, 'sentence-embedding')
    prepare = text_preprocessor_of(found.card, tokenizer_of(found.card, model))

    def note(i: int, what: str) -> None:
        place = f'text {i + 1}' if i < len(texts) else f'{file}, line {i + 1 - len(texts)}'
        report(printable(place), what)

    encode = functools.partial(prepare.encode, prompt_name=prompt_name, prompt=prompt)
    encode([''])  # What is wrong with a prompt shows before the model is read.
    vectors, troubles = _embeddings(*read(found, model), encode, lines, note)
    if npy:
        _write_npy(npy, vectors, len(troubles))
    elif as_json:
        rows = [None if i in troubles else row.tolist() for i, row in enumerate(vectors)]
        say(json.dumps(rows))
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
    model: Any,
    params: bx.Params,
    encode: Callable[[Sequence[str]], list[EncodedText]],
    texts: Sequence[str],
    note: Callable[[int, str], None],
) -> tuple[np.ndarray, set[int]]:
    """Return a row for each text, of NaN where there is trouble, and where that is; `note` what."""
    vectors = np.full((len(texts), model.config.width), np.nan, np.float32)
    troubles: set[int] = set()
    embedder = batches.TextBatches(
        model, params, len(texts), lambda params, *inputs: model(params, *inputs)[0].embedding
    )

    def tokens(start: int) -> list[EncodedText]:
        part = texts[start : start + _WINDOW]
        return encode([text if is_utf8(text) else '' for text in part])

    windows = range(0, len(texts), _WINDOW)
    with tqdm.tqdm(total=len(texts), unit='text', leave=False, disable=None) as progress:
        for start, found in batches.ahead(tokens, windows, 1):
            encoded = dict(enumerate(found.result(), start))
            for i, text in encoded.items():
                if wrong := _trouble(texts[i], text, model.config):
                    troubles.add(i)
                    note(i, wrong)
                elif text.is_cut:
                    note(i, f'cut to its first {len(text.ids)} tokens')
            sound = {i: text for i, text in encoded.items() if i not in troubles}
            progress.update(len(encoded) - len(sound))
            for rows, values in embedder(sound):
                vectors[rows] = values
                progress.update(len(rows))
    return vectors, troubles


def _trouble(text: str, encoded: EncodedText, config: Any) -> str:
    """Say what keeps a text with these tokens from being embedded; '' if nothing does."""
    if not is_utf8(text):
        return f'expected text in UTF-8, found {text[:30]!r}'
    wrong = trouble(encoded, config)
    return f'{wrong} in {cut(text, 30)!r}' if wrong else ''


def _write_npy(out: str, vectors: np.ndarray, skipped: int) -> None:
    with atomic_write(out) as stream:
        np.save(stream, vectors)
    left_out = f', {skipped} of them NaN: see above' if skipped else ''
    say(f'{out}: float32 {list(vectors.shape)}{left_out}')


def _print_cosines(names: Sequence[str], vectors: np.ndarray) -> None:
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    width = max(map(len, names), default=0)
    for name, row in zip(names, unit @ unit.T):
        say(f'{name:<{width}}  ' + ' '.join(f'{cosine:6.3f}' for cosine in row))


COMMANDS = (embed,)
