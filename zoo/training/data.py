"""Data to fine-tune on, and their batches by step.

Batches come from grain's MapDataset, in which the batch of a step is a function of the seed and
that step alone: the state of the whole pipeline is one number, so training goes on at any step as
if it had not stopped. Examples are read by grain's threads, ahead of the model; Pillow lets go of
Python's lock while it decodes. It brings no other framework along.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

# The target that fills a batch up and does not count; of values it is NaN.
IGNORED = -1
THREADS = min(os.cpu_count() or 1, 16)

Example: TypeAlias = Any
Pair: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, repr=False)
class Data:
    """Examples to train on, and others to measure with.

    Attributes:
      training, held_out: the examples, each of any kind that `read` takes.
      read: from an example to its inputs and targets, without the batch axis. Inputs are an array, or a
        tuple of those that the model takes; targets classes as integers, or a floating-point value of
        each class. In training it gets a random generator, to augment with; in measuring None.
      labels: names of the classes, or of the values, in the order of the targets; () where those are
        tokens.
      fingerprint: tells these data from others.
      summary: for people.
      test: examples that choose nothing: the best is scored on them once, at the end.
      scores: what logits are to be, as a card has it: 'sigmoid' for any number of classes of each
        example, 'none' for values; '' for one class of each.
      counts: how many of `training` have each class, () where that is not known.
      reading: how training reads examples, in words: what of it may change from one training to another.
      show: from an example to what people see of it, an image or a text; None where nothing is known.
    """

    training: Sequence[Example]
    held_out: Sequence[Example]
    read: Callable[[Example, np.random.Generator | None], Pair]
    labels: tuple[str, ...] = ()
    fingerprint: str = ''
    summary: str = ''
    test: Sequence[Example] = ()
    scores: str = ''
    counts: tuple[int, ...] = ()
    show: Callable[[Example], Image.Image | str] | None = None
    reading: str = ''

    def __post_init__(self) -> None:
        if self.scores not in ('', 'softmax', 'sigmoid', 'none'):
            raise ValueError(f"expected scores '', 'sigmoid' or 'none', found {self.scores!r}")

    def __repr__(self) -> str:
        tested = f', {len(self.test)} to test' if self.test else ''
        return f'Data({len(self.training)} to train on, {len(self.held_out)} held out{tested})'


def training_batches(
    data: Data, size: int, seed: int, start: int = 0
) -> Generator[Pair, None, None]:
    """Yield batches of training examples from step `start` on, without end.

    Each epoch has an order of its own, and takes every example once; batches run across its ends.
    """
    import grain  # Only training needs it.

    # What grain repeats without end it cannot put into batches of one.
    ordered = grain.MapDataset.source(data.training).seed(seed).shuffle().repeat(2**31)
    return _read_ahead(ordered.random_map(data.read).batch(size)[start:])


def batches_to_measure(
    data: Data, examples: Sequence[Example], size: int
) -> Generator[Pair, None, None]:
    """Yield examples, held out or to test, in their order; IGNORED targets fill the last batch up."""
    import grain

    def read(i: int) -> Pair:
        inputs, targets = data.read(examples[min(i, len(examples) - 1)], None)
        fill = IGNORED if np.issubdtype(np.asarray(targets).dtype, np.integer) else np.nan
        return inputs, targets if i < len(examples) else np.full_like(targets, fill)

    count = -(-len(examples) // size) * size
    return _read_ahead(grain.MapDataset.range(count).map(read).batch(size))


def _read_ahead(batches: Any) -> Generator[Pair, None, None]:
    import grain

    threads = min(THREADS, 4)  # Each makes a whole batch.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(batches.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


# What kinds of data share.


def check_fraction(holdout: float) -> None:
    """Raise ValueError unless a part of the data, and not all, would be held out."""
    if not 0 < holdout < 1:
        raise ValueError(f'expected to hold out a fraction between 0 and 1, found {holdout}')
