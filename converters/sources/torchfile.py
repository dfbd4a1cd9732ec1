"""Read files of torch.save by torch's restricted loader, which runs no code."""

from __future__ import annotations

import argparse
import contextlib
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from blox.converters.sources.files import ZIP, check_start
from blox.converters.sources.npz import ZIP_ERRORS
from blox.converters.sources.states import Contents, State, find_state, inner_states
from blox.converters.sources.tensor import Tensor
from blox.tensorfile import fail
from blox.wording import some

_ADVICE = (
    'where it was made, save the weights alone: torch.save(model.state_dict(), FILE), or of a '
    "checkpoint its part: torch.save(checkpoint['state_dict'], FILE)"
)


def open_torch(path: Path, state: str = '') -> Contents:
    """Return the tensors of a state dict, or of the one in a training checkpoint.

    `state` names one of several there. CheckpointError for any other content.
    """
    is_zip = check_start(path, 'a torch file', ZIP, b'\x80').startswith(ZIP)
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{str(path)!r} is a torch file: install torch to read it ('pip install torch'), "
            'or save it as .safetensors where torch is'
        ) from None
    try:
        with (
            warnings.catch_warnings(action='ignore'),
            _namespaces(),
        ):  # on pickles of other versions
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except Exception as error:  # pickle, zip and torch each raise their own.
        fail(path, f"expected what torch's restricted loader reads: {_torch_reason(error)}")
    found = find_state(path, content, state, lambda value: isinstance(value, torch.Tensor))
    _check_state_dict(path, found)
    tensors = {name: _torch_tensor(path, name, value) for name, value in found.content.items()}
    if is_zip:
        _check_records(path, content)
    if not found.place:
        return Contents(tensors)
    states = inner_states(content, lambda value: isinstance(value, torch.Tensor))
    notes = {name: value for name, value in content.items() if name not in states}
    return Contents(tensors, notes, tuple(states), state in found.place)


def _namespaces() -> contextlib.AbstractContextManager[Any]:
    """Let the restricted loader make argparse's Namespace: timm, DeiT and torchvision save theirs."""
    from torch import serialization

    # torch 2.5 was the first to have it.
    is_known = hasattr(serialization, 'safe_globals')
    allow = serialization.safe_globals if is_known else contextlib.nullcontext
    return allow([argparse.Namespace])


def _torch_reason(error: Exception) -> str:
    """Return what torch found, without its advice to load the file unrestricted."""
    text = str(error).split('WeightsUnpickler error:')[-1].strip()
    if found := re.search(r'GLOBAL (\S+)', text):
        return f'found {found[1]}, which is no tensor; {_ADVICE}'
    return text.split('\n')[0].split(' In PyTorch')[0]


def _check_state_dict(path: Path, state: State) -> None:
    import torch

    content, where = state.content, f' in {"/".join(state.place)!r}' if state.place else ''
    if not isinstance(content, Mapping) or not content:
        fail(path, f'expected names to tensors, found {type(content).__name__} without any{where}')
    wrong = {
        name if isinstance(name, str) else type(name): type(value).__name__
        for name, value in content.items()
        if not isinstance(name, str) or not isinstance(value, torch.Tensor)
    }
    if wrong:
        inner = inner_states(content, lambda value: isinstance(value, torch.Tensor))
        choice = f'; state= takes one of {some(inner, 4)}' if inner else ''
        what = f'expected names to tensors{where}, as a state_dict is; save that part alone, in a '
        fail(path, f'{what}file of its own{choice}. Found {wrong}')


def _torch_tensor(path: Path, name: str, tensor: Any) -> Tensor:
    import torch

    try:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            array = tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        else:
            array = tensor.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, meta
        fail(path, f'expected a dense tensor of numbers: {str(error).splitlines()[0]}', name)
    return Tensor(array.dtype, array.shape, lambda: array, path)


def _check_records(path: Path, content: Any) -> None:
    """Check that records are as long as the tensors say: torch maps them without a look."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = [info for info in archive.infolist() if '/data/' in info.filename]
    except ZIP_ERRORS as error:
        fail(path, f'expected a sound zip archive: {error}')
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        fail(path, 'expected tensors without compression, found a torch file packed again')
    storages = [tensor.untyped_storage() for tensor in _all_tensors(content)]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    expected = sorted(size for size in sizes.values() if size)
    found = sorted(record.file_size for record in records if record.file_size)
    if expected != found:
        fail(path, f'expected tensors of {expected} bytes, found {found}')


def _all_tensors(content: Any) -> Iterator[Any]:
    """Return every tensor with a storage in what a file holds, the optimizer's too."""
    import torch

    # What holds itself is looked into once; what is looked into is kept by `content`.
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided:
                yield value
        elif id(value) not in seen:
            seen.add(id(value))
            left += _parts(value)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, argparse.Namespace):
        return [*vars(value).values()]
    return [*value] if isinstance(value, list | tuple | set) else []
