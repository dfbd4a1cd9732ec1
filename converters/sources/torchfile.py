"""Read files of torch.save by torch's restricted loader, which runs no code."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from blox.converters.sources.files import ZIP, check_start
from blox.converters.sources.npz import ZIP_ERRORS
from blox.converters.sources.tensor import Tensor
from blox.tensorfile import fail


def open_torch(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict. CheckpointError for any other content."""
    is_zip = check_start(path, 'a torch file', ZIP, b'\x80').startswith(ZIP)
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{str(path)!r} is a torch file: install torch to read it ('pip install torch'), "
            'or save it as .safetensors where torch is'
        ) from None
    try:
        with warnings.catch_warnings(action='ignore'):  # on pickles of other versions
            state = torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except Exception as error:  # pickle, zip and torch each raise their own.
        fail(path, f"expected what torch's restricted loader reads: {_torch_reason(error)}")
    _check_state_dict(path, state)
    tensors = {name: _torch_tensor(path, name, value) for name, value in state.items()}
    if is_zip:
        _check_records(path, state)
    return tensors


def _torch_reason(error: Exception) -> str:
    """Return what torch found, without its advice to load the file unrestricted."""
    text = str(error).split('WeightsUnpickler error:')[-1].strip()
    if found := re.search(r'GLOBAL (\S+)', text):
        return f'found {found[1]}, which is no tensor'
    return text.split('\n')[0].split(' In PyTorch')[0]


def _check_state_dict(path: Path, state: Any) -> None:
    import torch

    if not isinstance(state, Mapping) or not state:
        fail(path, f'expected names to tensors, found {type(state).__name__} without any')
    wrong = {
        name if isinstance(name, str) else type(name): type(value).__name__
        for name, value in state.items()
        if not isinstance(name, str) or not isinstance(value, torch.Tensor)
    }
    if wrong:
        fail(
            path,
            'expected names to tensors, as a state_dict is; save that part alone, in a file of '
            f'its own. Found {wrong}',
        )


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


def _check_records(path: Path, state: Mapping[str, Any]) -> None:
    """Check that records are as long as the tensors say: torch maps them without a look."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = [info for info in archive.infolist() if '/data/' in info.filename]
    except ZIP_ERRORS as error:
        fail(path, f'expected a sound zip archive: {error}')
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        fail(path, 'expected tensors without compression, found a torch file packed again')
    storages = [tensor.untyped_storage() for tensor in state.values()]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    expected = sorted(size for size in sizes.values() if size)
    found = sorted(record.file_size for record in records if record.file_size)
    if expected != found:
        fail(path, f'expected tensors of {expected} bytes, found {found}')
