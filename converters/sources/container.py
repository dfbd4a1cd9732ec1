"""Open one file of tensors, of whichever kind its name says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from blox.converters.sources.files import ZIP, check_start
from blox.converters.sources.npz import NpzFile
from blox.converters.sources.tensor import Tensor
from blox.converters.sources.torchfile import open_torch
from blox.tensorfile import TensorFile, check_name

_TORCH_SUFFIXES = ('.bin', '.pth', '.pt')


def open_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors file, a .npz or a file of torch.save.

    Raises CheckpointError, which names the file, for what is malformed.
    """
    tensors = open_torch(path) if path.suffix in _TORCH_SUFFIXES else _open_lazy(path)
    for name in tensors:
        check_name(path, name)
    return tensors


def _open_lazy(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .npz, or else of a .safetensors file."""
    if path.suffix == '.npz':
        check_start(path, 'a .npz, which is a zip archive', ZIP)
    file = NpzFile(path) if path.suffix == '.npz' else TensorFile(path)
    return {
        name: Tensor(
            info.dtype,
            info.shape,
            partial(file.__getitem__, name),
            path,
            partial(file.release, name),
        )
        for name, info in file.tensors.items()
    }
