"""Text files to fine-tune on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from blox.wording import counted, printable
from blox.zoo.datasets.texts import read_text
from blox.zoo.training.data import IGNORED, Data, Pair, check_fraction


def text_file(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    context: int,
    vocab_size: int,
    *,
    holdout: float = 0.1,
) -> Data:
    """Read a UTF-8 text to train on, the last tenth of whose tokens, or `holdout`, is held out.

    An example is as many tokens as a model of `context` sees, each with the one that follows
    it as target. Training starts each window somewhere else in every epoch.

    Raises ValueError for what is not UTF-8, too short, or has tokens beyond `vocab_size`.
    """
    tokens = _tokens(Path(path), tokenizer, vocab_size)
    check_fraction(holdout)
    cut = len(tokens) - min(max(round(holdout * len(tokens)), 2), len(tokens) - 2)
    training, held_out = tokens[:cut], tokens[cut:]
    length = min(context, len(training) - 1)
    count = (len(training) - 1) // length
    name = printable(Path(path).resolve().name)
    return Data(
        training=[(training, i * length) for i in range(count)],
        held_out=[(held_out, start) for start in range(0, len(held_out) - 1, length)],
        read=lambda example, rng: _read_window(example, length, rng),
        fingerprint=hashlib.sha256(f'{cut} {length} '.encode() + tokens.tobytes()).hexdigest(),
        summary=f'{name}: {counted(len(tokens), "token")}, the last {len(held_out)} held out',
    )


def _tokens(path: Path, tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    tokens = np.asarray(tokenizer.encode(read_text(path)).ids, np.int32)
    if len(tokens) < 4:
        raise ValueError(f'{str(path)!r}: expected 4 tokens or more, found {len(tokens)}')
    if tokens.max() >= vocab_size:
        raise ValueError(f'{str(path)!r}: expected tokens below {vocab_size}, found {tokens.max()}')
    return tokens


def _read_window(
    example: tuple[np.ndarray, int], length: int, rng: np.random.Generator | None
) -> Pair:
    """Return `length` tokens and those that follow them; IGNORED follows the last."""
    tokens, start = example
    if rng is not None:
        start = min(start + int(rng.integers(length)), len(tokens) - 1 - length)
    window = tokens[start : start + length + 1]
    missing = length + 1 - len(window)
    return (
        np.pad(window[:-1], (0, missing)),
        np.pad(window[1:], (0, missing), constant_values=IGNORED),
    )
