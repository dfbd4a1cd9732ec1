"""Texts to train on, wherever it is said what is right of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from blox.wording import some
from blox.zoo.datasets.targets import Targets
from blox.zoo.inputs.text import Text, TextPreprocessor, pad, trouble
from blox.zoo.training.data import Data
from blox.zoo.training.dividing import described, divided


def text_data(
    name: str,
    texts: Sequence[Text],
    targets: Targets,
    prepare: TextPreprocessor,
    config: Any,
    holdout: float,
    seed: int,
) -> Data:
    """Make data of texts, all as long as the longest. Raises ValueError for what the model cannot take."""
    # As evaluation has them: prompts are for embeddings.
    encoded = prepare.encode(texts, prompt='')
    wrong = [(i, why) for i, one in enumerate(encoded) if (why := trouble(one, config))]
    if wrong:
        raise ValueError(f'{name!r}: {some([f"row {i + 1}: {why}" for i, why in wrong])}')
    parts = divided(name, targets, holdout, seed)
    # A multiple of eight, as most hardware likes it.
    length = prepare.padding.length or -(-max(len(text.ids) for text in encoded) // 8) * 8
    length = min(length, config.context)

    def read(i: int, rng: np.random.Generator | None) -> tuple[Any, np.ndarray]:
        batch = pad([encoded[i]], 1, length, prepare.padding)
        return type(batch)(*(array[0] for array in batch)), targets.rows[i]

    def show(i: int) -> str:
        text = texts[i]
        return text if isinstance(text, str) else ' | '.join(text)

    identity = repr([(x.ids, x.types, y.tolist()) for x, y in zip(encoded, targets.rows)])
    training, held_out, test = parts
    return Data(
        training,
        held_out,
        read,
        targets.labels,
        hashlib.sha256(f'{parts}{length}{identity}'.encode()).hexdigest(),
        described(name, targets, parts, f'texts of up to {length} tokens'),
        test,
        targets.scores,
        targets.counts(training),
        show,
    )
