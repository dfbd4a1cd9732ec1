"""The state of a training, kept in a folder beside its result until that is there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from blox import checkpoint
from blox.atomic import lock
from blox.param import RNG
from blox.params import Params
from blox.tensorfile import TensorFile, fail, parse_json
from blox.zoo.training.step import State

_FILE = 'state.safetensors'
# The header's metadata entry that says whose state a file's tensors are, and of which step.
_KEY = 'blox.training'
_MOST_SECONDS = 120


class Epoch(NamedTuple):
    """What an epoch came to: means over its batches, and over the held-out examples after it."""

    epoch: int
    step: int
    loss: float
    accuracy: float
    held_out_loss: float
    held_out_accuracy: float


class Best(NamedTuple):
    """The parameters and batch statistics after the best epoch so far."""

    trainable: Params
    stats: Params


class Position(NamedTuple):
    """Where a training is: all that it takes to go on from there."""

    step: int
    state: State
    best: Best | None = None
    best_epoch: int = 0
    history: tuple[Epoch, ...] = ()

    @property
    def ends_epoch(self) -> bool:
        """Whether this is the end of an epoch."""
        return bool(self.history) and self.history[-1].step == self.step


class DivergedError(ValueError):
    """The loss is not finite, and never will be again."""


class Folder:
    """The folder of one training; what is kept in it replaces what was, whole or not at all.

    Attributes:
      path: beside the result, with the suffix '.training'.
      identity: the choices, data and weights that decide the result, by name.
    """

    def __init__(self, out: Path, identity: Mapping[str, str]) -> None:
        self.path = out.with_suffix('.training')
        self.identity = dict(identity)
        self._kept_at, self._took, self._step = time.monotonic(), 0.0, 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from the training. Raises FileExistsError if one is at it."""
        if os.name != 'posix':
            yield
            return
        self.path.mkdir(exist_ok=True)
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if lock(descriptor) is False:
                what = f'{str(self.path)!r}: a training that goes on elsewhere'
                raise FileExistsError(f'{what} has this name: wait for it, or name another file')
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # It is not empty.
                    self.path.rmdir()
        finally:
            os.close(descriptor)

    def keep(self, position: Position) -> None:
        """Writes a position, unless it is there already. Raises DivergedError for one of no use."""
        if position.step == self._step:
            return
        check_finite(position)
        began = time.monotonic()
        self.path.mkdir(exist_ok=True)
        about = {
            'identity': self.identity,
            'step': position.step,
            'best_epoch': position.best_epoch,
            'history': position.history,
        }
        entries = Params.from_entries(_named((position.state, position.best)), finalized=True)
        checkpoint.save(self.path / _FILE, entries, {_KEY: json.dumps(about)})
        self._kept_at = time.monotonic()
        self._took, self._step = self._kept_at - began, position.step

    def keep_if_due(self, position: Position) -> None:
        """Keeps the position after an epoch if that costs little, and any after two minutes."""
        passed = time.monotonic() - self._kept_at
        if passed > _MOST_SECONDS or (position.ends_epoch and passed > 20 * self._took):
            self.keep(position)

    @property
    def is_begun(self) -> bool:
        """Whether a position was kept."""
        return (self.path / _FILE).exists()

    def restore(self, position: Position) -> Position:
        """The position that was kept, made like `position`, the first; that itself if none was.

        Raises ValueError if the folder is of another training.
        """
        if not self.is_begun:
            return position
        file = TensorFile(self.path / _FILE)
        about = parse_json(file.path, file.metadata.get(_KEY, '{}'), _KEY)
        if not _is_sound(about):
            fail(
                file.path,
                f'{_KEY}: expected what a training keeps, found {about}; remove its folder',
            )
        self._check_identity(about['identity'])
        first = Best(position.state.trainable, position.state.stats)
        best = first if about['best_epoch'] else None
        found = checkpoint.params_of(file, copy=True)
        state, best = _filled(file.path, (position.state, best), found)
        history = tuple(Epoch(*row) for row in about['history'])
        self._step = about['step']
        return Position(about['step'], state, best, about['best_epoch'], history)

    def _check_identity(self, found: Mapping[str, str]) -> None:
        wrong = [
            f'{name} {self.identity.get(name)!s:.20}, found {found.get(name)!s:.20}'
            for name in sorted({*self.identity, *found})
            if self.identity.get(name) != found.get(name)
        ]
        if wrong:
            raise ValueError(
                f'{str(self.path)!r} is of another training: expected {"; ".join(wrong)}; start '
                'that one again to go on with it, or remove the folder, or name another file'
            )

    def remove(self) -> None:
        """Removes the folder and what this class and interrupted savers left in it."""
        for path in (self.path / _FILE, *self.path.glob(f'.{_FILE}.*.blox-tmp')):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # There may be files of others.
            self.path.rmdir()


def _is_sound(about: Mapping[str, Any]) -> bool:
    """Whether this is what `keep` writes of a position."""
    if set(about) != {'identity', 'step', 'best_epoch', 'history'}:
        return False
    history, numbers = about['history'], (about['step'], about['best_epoch'])
    return (
        isinstance(about['identity'], dict)
        and isinstance(history, list)
        and all(isinstance(row, list) and len(row) == len(Epoch._fields) for row in history)
        and all(type(x) in (int, float) for row in history for x in row)
        and all(type(x) is int for x in numbers)
        and 0 <= about['best_epoch'] <= len(history)
    )


def check_finite(position: Position) -> None:
    """Raises DivergedError unless the loss of this epoch so far is finite."""
    if not math.isfinite(float(position.state.totals[0])):
        raise DivergedError(f'the loss is not finite at step {position.step}')


def _named(tree: Any) -> dict[str, jax.Array]:
    """The leaves of a tree by names of their places, such as '0/trainable/vit/head/w'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def _filled(path: Path, tree: Any, found: Params) -> Any:
    """`tree` with the values that `found` has under its leaves' names."""
    expected = {name: (x.shape, x.dtype) for name, x in _named(tree).items()}
    if {name: (p.shape, p.dtype) for name, p in found.items()} != expected:
        fail(path, 'its tensors do not fit the training that it is of; remove its folder')
    return jax.tree_util.tree_map_with_path(lambda place, _: found[_name(place)].value, tree)


def digest(params: Params) -> str:
    """A hash of all values and flags."""
    made = hashlib.sha256()
    for path, param in params.items():
        value = jax.random.key_data(param.value[0]) if path == RNG else param.value
        made.update(f'{path} {param.trainable} {value.dtype} {value.shape}'.encode())
        made.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return made.hexdigest()
