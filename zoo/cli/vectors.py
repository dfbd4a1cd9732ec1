"""Embed files of images and texts, and report what cannot be embedded."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

import blox as bx
from blox.wording import counted, cut
from blox.zoo.cli.inputs import over_images
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import EncodedText, TextPreprocessor, is_utf8, trouble
from blox.zoo.running.batches import ahead
from blox.zoo.running.embedding import embedding_width, image_embedder, text_embedder

# Texts that are tokens at one time: tokens take more memory than texts.
_WINDOW = 4096


def embed_inputs(
    model: Any,
    params: bx.Params,
    prepare_image: ImagePreprocessor | None,
    prepare_text: TextPreprocessor | None,
    inputs: Sequence[Path | str],
    note: Callable[[int, str], None],
    **prompts: str | None,
) -> np.ndarray:
    """Return a row for each image's file or text, float32, of NaN where there is trouble.

    `note` is told what is wrong with a text; that of a file is reported. A way to prepare is missing
    only where nothing needs it.
    """
    vectors = _empty(model, inputs)
    files = {i: given for i, given in enumerate(inputs) if isinstance(given, Path)}
    texts = {i: given for i, given in enumerate(inputs) if isinstance(given, str)}
    if files and prepare_image:
        vectors[[*files]] = embed_files(model, params, prepare_image, [*files.values()])
    if texts and prepare_text:
        keys = [*texts]

        def note_text(i: int, what: str) -> None:
            note(keys[i], what)

        made = _embed_texts(model, params, prepare_text, [*texts.values()], note_text, **prompts)
        vectors[keys] = made
    return vectors


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how alike each row of `a` and each of `b` are."""
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (a, b))
    return a @ b.T


def embed_files(
    model: Any, params: bx.Params, prepare: ImagePreprocessor, files: Sequence[Path]
) -> np.ndarray:
    """Return a row for each file, float32, of NaN where it cannot be read, which is reported."""
    vectors = _empty(model, files)
    for i, row in over_images(image_embedder(model), params, prepare, files):
        vectors[i] = row
    return vectors


def _embed_texts(
    model: Any,
    params: bx.Params,
    prepare: TextPreprocessor,
    texts: Sequence[str],
    note: Callable[[int, str], None],
    **prompts: str | None,
) -> np.ndarray:
    """Return a row for each text, float32, of NaN where there is trouble; `note` is told what."""
    vectors = _empty(model, texts)
    embedder = text_embedder(model, params, prepare, len(texts))

    def tokens(start: int) -> list[EncodedText]:
        part = texts[start : start + _WINDOW]
        return prepare.encode([text if is_utf8(text) else '' for text in part], **prompts)

    windows = range(0, len(texts), _WINDOW)
    with tqdm.tqdm(total=len(texts), unit='text', leave=False, disable=None) as progress:
        for start, found in ahead(tokens, windows, 1):
            sound = {}
            for i, text in enumerate(found.result(), start):
                if wrong := _trouble(texts[i], text, model.config):
                    note(i, wrong)
                    progress.update()
                    continue
                if text.is_cut:
                    note(i, f'cut to its first {counted(len(text.ids), "token")}')
                sound[i] = text
            for rows, values in embedder(sound):
                vectors[rows] = values
                progress.update(len(rows))
    return vectors


def _empty(model: Any, items: Sequence[Any]) -> np.ndarray:
    return np.full((len(items), embedding_width(model)), np.nan, np.float32)


def _trouble(text: str, encoded: EncodedText, config: Any) -> str:
    """Say what keeps a text with these tokens from being embedded; '' if nothing does."""
    if not is_utf8(text):
        return f'expected text in UTF-8, found {text[:30]!r}'
    wrong = trouble(encoded, config)
    return f'{wrong} in {cut(text, 30)!r}' if wrong else ''
