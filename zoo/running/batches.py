"""Run many images or texts: read ahead by threads, computed in batches by few programs."""

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np

from blox.params import Params
from blox.zoo.inputs.text import EncodedText, Padding, pad

_IMAGES, _TEXTS = 64, 32  # in a batch at most

_T = TypeVar('_T')
_R = TypeVar('_R')


def ahead(
    function: Callable[[_T], _R], items: Iterable[_T], room: int
) -> Generator[tuple[_T, Future[_R]], None, None]:
    """Yield each item and what `function` makes of it, which threads do for `room` items ahead."""
    pool = ThreadPoolExecutor(min(room, os.cpu_count() or 1))
    waiting: deque[tuple[_T, Future[_R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) > room:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def run_images(
    call: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    prepare: Callable[[Any], np.ndarray],
    files: Sequence[Any],
    report: Callable[[int, Exception], None],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of each file that can be read, and what `call` makes of its image, in order.

    `prepare` makes a batch of one image of a file, or of what else it takes for an image; those for which it
    raises OSError or ValueError go to `report`. All batches have one size, so there is one program.
    """
    if not files:
        return
    size = _room(len(files), _IMAGES)
    if len(files) > size:  # Of many, what leaves least over.
        size = math.ceil(len(files) / math.ceil(len(files) / size))
    apply = jax.jit(call)

    def computed(batch: Mapping[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        images = np.concatenate([*batch.values()])
        images = np.pad(images, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
        return zip(batch, _at_least_float32(apply(params, images)))

    batch: dict[int, np.ndarray] = {}
    for i, image in ahead(lambda i: prepare(files[i]), range(len(files)), 2 * size):
        try:
            batch[i] = image.result()
        except (OSError, ValueError) as error:
            report(i, error)
        if batch and (len(batch) == size or i == len(files) - 1):
            yield from computed(batch)
            batch = {}


class TextBatches:
    """What `call` makes of `(params, *inputs)`, outputs of a text model, for many texts.

    Texts of like length share a batch of one size, padded to a power of two: from the
    shortest to a context of 512 that makes seven programs. The program gets the first `takes` inputs
    of a batch, or as many as the model has.
    """

    def __init__(
        self,
        model: Any,
        params: Params,
        most: int,
        call: Callable[..., jax.Array],
        *,
        takes: int = 0,
        padding: Padding = Padding(),
    ) -> None:
        self._size = _room(most, _TEXTS)
        self._context = model.config.context
        self._takes = takes or len(model.takes)
        self._padding = padding
        self._params = params
        self._apply = jax.jit(call)

    def __call__(self, texts: Mapping[int, EncodedText]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield, batch by batch, some of the keys and what their texts give, [keys, ...].

        It is float32, or float64 where the model is.
        """
        order = sorted(texts, key=lambda key: len(texts[key].ids))
        for start in range(0, len(order), self._size):
            keys = order[start : start + self._size]
            longest = len(texts[keys[-1]].ids)
            length = min(max(1 << (longest - 1).bit_length(), 8), self._context)
            length = self._padding.length or length
            batch = pad([texts[key] for key in keys], self._size, length, self._padding)
            found = self._apply(self._params, *batch[: self._takes])
            yield keys, _at_least_float32(found)[: len(keys)]


def _room(count: int, most: int) -> int:
    """Return a power of two with room for so many, or the most: whoever asks often has few programs."""
    return min(1 << max(count - 1, 0).bit_length(), most)


def _at_least_float32(found: jax.Array) -> np.ndarray:
    return np.asarray(found, np.promote_types(found.dtype, np.float32))
