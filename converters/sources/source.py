"""Open external checkpoints: names, dtypes, shapes and lazy views, whatever the container.

A folder as transformers, timm or open_clip saves it, one .safetensors file, an index of shards, a .npz of
NumPy, or a file of torch.save: a state dict, or a training checkpoint that holds one. Opening reads
no tensor's data, save that torch's files of before 1.6 are read whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blox.converters.sources.container import open_file
from blox.converters.sources.files import check_object, inside, read_json, read_object
from blox.converters.sources.shards import INDEX, open_shards
from blox.converters.sources.states import Contents, under_prefix, without_averages
from blox.converters.sources.tensor import Tensor
from blox.tensorfile import fail

# Names of a folder's weights; the first that is there counts.
_INDEXES = ('model.safetensors.index.json', 'pytorch_model.bin.index.json')
WEIGHTS = ('model.safetensors', _INDEXES[0], 'pytorch_model.bin', _INDEXES[1])
# What a folder's config may be called, with the names of weights that go with it; the first counts.
CONFIGS = {
    'config.json': WEIGHTS,
    'open_clip_config.json': ('open_clip_model.safetensors', 'open_clip_pytorch_model.bin'),
}


@dataclass(frozen=True)
class Source:
    """An open checkpoint: its tensors by name, and its folder's other files.

    Attributes:
      config: the content of config.json, or of open_clip_config.json where there is no other.
      files: other JSON files by name, of a folder that is not written yet.
      notes: plain values that a training checkpoint holds beside its weights.
      prefix: what the names of the state that was asked for start with, '' for all names.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ''

    def has(self, name: str) -> bool:
        """Return whether the checkpoint is a folder with a file of this name."""
        return name in self.files or (self.path.is_dir() and (self.path / name).is_file())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder; CheckpointError if it is none."""
        if name in self.files:
            return self.files[name]
        return read_json(inside(self.path, self.path, name))

    def read_object(self, name: str) -> dict[str, Any]:
        """Read the JSON object in a file of the folder; CheckpointError if it is none."""
        return check_object(self.path / name, self.read_json(name))


def open_source(path: str | os.PathLike[str], state: str = '') -> Source:
    """Open the checkpoint at `path`: a folder or a file.

    A training checkpoint holds several states: 'state_dict' or 'model', and perhaps an average such as
    'model_ema'. `state` names the one to take, by its entry in a torch file or by what its names
    start with; '' takes the plain one. The log says which, and what lies beside it.

    Raises CheckpointError, which names the file, for what is malformed or of an unknown kind,
    and OSError for what cannot be read.
    """
    path = Path(path)
    config = config_in(name for name in CONFIGS if os.path.lexists(path / name))
    fields = read_object(path / config) if path.is_dir() and config else {}
    weights = _weights_in(path, CONFIGS.get(config, WEIGHTS)) if path.is_dir() else path
    contents = _open(weights, state)
    is_prefix = bool(state) and not contents.is_chosen
    tensors = (
        under_prefix(path, contents, state)
        if is_prefix
        else without_averages(path, contents.tensors)
    )
    prefix = f'{state}.' if is_prefix else ''
    return Source(path, tensors, fields, notes=contents.notes, prefix=prefix)


def config_in(names: Iterable[str]) -> str:
    """Return which of a folder's files is its config; '' if none is."""
    there = {*names}
    return next((name for name in CONFIGS if name in there), '')


def _weights_in(folder: Path, names: Sequence[str]) -> Path:
    """Find the one file of weights, or index of shards, in a folder."""
    found = [name for name in names if os.path.lexists(folder / name)]
    safe = [name for name in found if 'safetensors' in name] or found
    if len(safe) > 1:
        fail(folder, f'expected either one file of weights or an index, found {", ".join(safe)}')
    if not safe:
        suffixes = ('.safetensors', '.npz', '.pth')
        safe = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)
    if len(safe) != 1:
        fail(folder, f'expected {" or ".join(names)}, found {", ".join(safe) or "none of them"}')
    return folder / safe[0]


def _open(path: Path, state: str) -> Contents:
    is_index = path.name.endswith(INDEX)
    return Contents(open_shards(path)) if is_index else open_file(path, state)
