"""Tensors that hold all blocks along their first axis, seen as one tensor a block."""

from __future__ import annotations

import dataclasses
import threading
from functools import partial

import numpy as np

from blox.converters.sources.source import Source
from blox.converters.sources.tensor import Tensor
from blox.tensorfile import MAX_TENSORS, fail


class _Stack:
    """Slices of a tensor along its first axis: it is read once, until all are released."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.array: np.ndarray | None = None
        self.used = set(range(tensor.shape[0]))
        self.lock = threading.Lock()

    def read(self, i: int) -> np.ndarray:
        with self.lock:
            if self.array is None:
                self.array = self.tensor.read()
            return self.array[i]

    def release(self, i: int) -> None:
        with self.lock:
            self.used.discard(i)
            if not self.used:
                self.array = None
            self.tensor.release()


def unstacked(source: Source, prefix: str) -> Source:
    """Return `source` with each tensor under `prefix` cut into its slices along the first axis.

    'blocks/w' of shape [2, 3] becomes 'blocks_0/w' and 'blocks_1/w', of shape [3]. CheckpointError
    if a slice's name is taken, or if there is no first axis.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.tensors.items():
        at = name.find(prefix)
        slices = {name: tensor} if at < 0 else _slices(tensor, name, at + len(prefix))
        if doubled := [one for one in slices if at >= 0 and one in source.tensors]:
            fail(source.path, f'expected either it or {doubled[0]!r}, found both', name)
        tensors |= slices
    return dataclasses.replace(source, tensors=tensors)


def _slices(tensor: Tensor, name: str, at: int) -> dict[str, Tensor]:
    """Return a tensor for each block; its number stands before the '/' that ends at `at`."""
    if not tensor.shape or not 0 < tensor.shape[0] <= MAX_TENSORS:
        fail(tensor.file, f'expected an axis of blocks first, found shape {tensor.shape}', name)
    stack = _Stack(tensor)
    return {
        f'{name[: at - 1]}_{i}/{name[at:]}': Tensor(
            tensor.dtype,
            tensor.shape[1:],
            partial(stack.read, i),
            tensor.file,
            partial(stack.release, i),
        )
        for i in range(tensor.shape[0])
    }
