"""Open one file of tensors, of whichever kind its name says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from blox.converters.sources.files import ZIP, check_start
from blox.converters.sources.npz import NpzFile
from blox.converters.sources.states import Contents
from blox.converters.sources.tensor import Tensor
from blox.converters.sources.torchfile import open_torch
from blox.tensorfile import TensorFile, check_name

TORCH_SUFFIXES = ('.bin', '.pth', '.pt', '.ckpt', '.pth.tar')


def open_file(path: Path, state: str = '') -> Contents:
    """Return the tensors of a .safetensors file, a .npz or a file of torch.save.

    `state` names one of several states that a torch file may hold. Raises CheckpointError, which
    names the file, for what is malformed.
    """
    is_torch = path.name.endswith(TORCH_SUFFIXES)
    contents = open_torch(path, state) if is_torch else Contents(_open_lazy(path))
    for name in contents.tensors:
        check_name(path, name)
    return contents


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
