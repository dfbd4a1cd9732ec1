"""The folder of a training, which holds its state until the result is there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from blox import checkpoint
from blox.atomic import lock
from blox.param import RNG
from blox.params import Params
from blox.tensorfile import TensorFile, fail, parse_json
from blox.wording import cut
from blox.zoo.training.data import Data
from blox.zoo.training.plan import Plan
from blox.zoo.training.state import Epoch, State

_FILE = 'state.safetensors'
# The header's metadata entry that says whose state a file's tensors are, and after which step.
_KEY = 'blox.training'
_MOST_SECONDS = 120


class Folder:
    """The folder of one training; a state kept in it replaces the one before, whole or not at all.

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
        """Keep other processes from the training. Raise FileExistsError if one is at it."""
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

    def keep(self, state: State) -> None:
        """Write a state, unless it is there already. Raise DivergedError for one of no use."""
        if state.step == self._step:
            return
        state.check_finite()
        began = time.monotonic()
        self.path.mkdir(exist_ok=True)
        about = {'identity': self.identity, 'step': state.step, 'history': state.history}
        entries = Params.from_entries(_named(_arrays(state)), finalized=True)
        checkpoint.save(self.path / _FILE, entries, {_KEY: json.dumps(about)})
        self._kept_at = time.monotonic()
        self._took, self._step = self._kept_at - began, state.step

    def keep_if_due(self, state: State) -> None:
        """Keep the state after an epoch if that costs little, and any after two minutes."""
        passed = time.monotonic() - self._kept_at
        if passed > _MOST_SECONDS or (state.ends_epoch and passed > 20 * self._took):
            self.keep(state)

    @property
    def is_begun(self) -> bool:
        """Tell whether a state was kept."""
        return is_begun(self.path)

    def restore(self, first: State, steps: int) -> State:
        """Read the state that was kept, made like the first one; return that if none was.

        Raises ValueError if the folder is of another training, CheckpointError if its state is not
        as it was kept, or of none of so many `steps`.
        """
        if not self.is_begun:
            return first
        file = TensorFile(self.path / _FILE)
        about = parse_json(file.path, file.metadata.get(_KEY, '{}'), _KEY)
        if not _is_sound(about):
            what = f'{_KEY}: expected what a training keeps, found {about}; remove its folder'
            fail(file.path, what)
        self._check_identity(about['identity'])
        if about['step'] > steps:
            what = f'expected a step of 1 to {steps}, found {about["step"]}; remove its folder'
            fail(file.path, what)
        file.check_digests()
        self._step = about['step']
        history = tuple(Epoch(*row) for row in about['history'])
        state = first._replace(step=self._step, history=history)
        found = checkpoint.params_of(file, copy=True)
        return state._replace(**_filled(file.path, _arrays(state), found))

    def _check_identity(self, found: Mapping[str, str]) -> None:
        wrong = [
            f'{name} {cut(str(self.identity.get(name)), 60)}, found {cut(str(found.get(name)), 60)}'
            for name in sorted({*self.identity, *found})
            if self.identity.get(name) != found.get(name)
        ]
        if wrong:
            raise ValueError(
                f'{str(self.path)!r} is of another training: expected {"; ".join(wrong)}; start '
                'that one again to go on with it, or remove the folder, or name another file'
            )

    def remove(self) -> None:
        """Remove the folder and what this class and interrupted savers left in it."""
        for path in (self.path / _FILE, *self.path.glob(f'.{_FILE}.*.blox-tmp')):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # There may be files of others.
            self.path.rmdir()


def is_begun(path: Path) -> bool:
    """Tell whether a training has kept a state in the folder at `path`."""
    return (path / _FILE).exists()


def _arrays(state: State) -> dict[str, Any]:
    """Return those fields of a state that are arrays; `best` only once there is one."""
    names = ('params', 'optimizer', 'totals', 'average', *(['best'] if state.history else []))
    return {name: getattr(state, name) for name in names}


def _is_sound(about: Mapping[str, Any]) -> bool:
    """Tell whether this is what `keep` writes of a state."""
    if set(about) != {'identity', 'step', 'history'}:
        return False
    history = about['history']
    return (
        isinstance(about['identity'], dict)
        and type(about['step']) is int
        and about['step'] > 0
        and isinstance(history, list)
        and all(isinstance(row, list) and len(row) == len(Epoch._fields) for row in history)
        and all(type(x) in (int, float) and math.isfinite(x) for row in history for x in row)
        and [row[0] for row in history] == [*range(1, len(history) + 1)]
        and all(0 < row[1] <= about['step'] for row in history)
    )


def _named(tree: Any) -> dict[str, jax.Array]:
    """Return the leaves of a tree by names of their places, such as 'params/vit/head/w'."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')


def _filled(path: Path, tree: Any, found: Params) -> Any:
    """Return `tree` with the values that `found` has under its leaves' names."""
    expected = {name: (x.shape, x.dtype) for name, x in _named(tree).items()}
    if {name: (p.shape, p.dtype) for name, p in found.items()} != expected:
        fail(path, 'its tensors do not fit the training that it is of; remove its folder')
    return jax.tree_util.tree_map_with_path(lambda place, _: found[_name(place)].value, tree)


def identity_of(model: Any, params: Params, data: Data, plan: Plan) -> dict[str, str]:
    """Say all that decides a training's result, by name."""
    choices = {name.replace('_', ' '): str(value) for name, value in plan._asdict().items()}
    found = {
        'data': data.fingerprint,
        'reading of data': data.reading,
        'model': repr(model.config),
        'weights': _digest(params),
    }
    return {**choices, **found}


def _digest(params: Params) -> str:
    """Hash all values and flags."""
    made = hashlib.sha256()
    for path, param in params.items():
        value = jax.random.key_data(param.value[0]) if path == RNG else param.value
        made.update(f'{path} {param.trainable} {value.dtype} {value.shape}'.encode())
        made.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    return made.hexdigest()
