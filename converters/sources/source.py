"""Opening external checkpoints: names, dtypes, shapes and lazy views, whatever the container.

A folder as transformers or timm saves it, one .safetensors file, an index of shards, a .npz of
NumPy, or a file of torch.save. Opening reads no tensor's data, save that torch's files of before
1.6 are read whole.
"""

from __future__ import annotations

import math
import os
import re
import stat
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np

from blox.converters.sources.npz import ZIP_ERRORS, NpzFile
from blox.tensorfile import IMPOSTORS, MAX_TENSORS, TensorFile, fail, parse_json

# What a folder's weights may be called, the first that is there counts.
_INDEXES = ('model.safetensors.index.json', 'pytorch_model.bin.index.json')
WEIGHTS = ('model.safetensors', _INDEXES[0], 'pytorch_model.bin', _INDEXES[1])
_INDEX = '.index.json'
_TORCH_SUFFIXES = ('.bin', '.pth', '.pt')
_ZIP = b'PK\x03\x04'
_MAX_JSON_BYTES = 16 * 2**20
_SHARD = re.compile(r'(.+)-\d+-of-(\d+)(\.\w+)')


@dataclass(frozen=True)
class Tensor:
    """One array of a checkpoint.

    Attributes:
      read: gives it as a view where the container allows.
      release: tells the system that the view's memory is not needed for now.
      file: where it lies, for messages.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    file: Path
    release: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Source:
    """An open checkpoint: its tensors by name, and what the folder's other files say.

    Attributes:
      config: the content of config.json.
      files: other JSON files by name, of a folder that is not written yet.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Return whether the checkpoint is a folder with a file of this name."""
        return name in self.files or (self.path.is_dir() and (self.path / name).is_file())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder; CheckpointError if it is none."""
        if name in self.files:
            return self.files[name]
        return read_json(_inside(self.path, self.path, name))

    def read_object(self, name: str) -> dict[str, Any]:
        """Read the JSON object in a file of the folder; CheckpointError if it is none."""
        found = self.read_json(name)
        if not isinstance(found, dict):
            fail(self.path / name, 'expected a JSON object, found a list')
        return found


def open_source(path: str | os.PathLike[str]) -> Source:
    """The checkpoint at `path`: a folder or a file.

    Raises CheckpointError, which names the file, for what is malformed or of an unknown kind,
    and OSError for what cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return Source(path, _open_file(path))
    config = path / 'config.json'
    fields = read_object(config) if os.path.lexists(config) else {}
    return Source(path, _open_file(_weights_in(path)), fields)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; CheckpointError if it is none."""
    fields = read_json(path)
    if not isinstance(fields, dict):
        fail(path, 'expected a JSON object, found a list')
    return fields


def read_json(path: Path) -> Any:
    """The JSON in a file: an object, or a list of objects."""
    _check_regular(path)
    with open(path, 'rb') as file:
        content = file.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        fail(path, f'expected at most {_MAX_JSON_BYTES} bytes of JSON')
    try:
        text = content.decode('utf-8')
    except UnicodeDecodeError as error:
        fail(path, f'expected JSON in UTF-8, found byte {error.start} that is not')
    if not text.lstrip().startswith('['):
        return parse_json(path, text, path.name)
    parsed = parse_json(path, f'{{"items": {text}}}', path.name)
    items = parsed['items']
    if len(parsed) > 1 or not all(isinstance(item, dict) for item in items):
        fail(path, 'expected a JSON object or a list of them')
    return items


def _weights_in(folder: Path) -> Path:
    """The one file of weights, or index of shards, in a folder."""
    found = [name for name in WEIGHTS if os.path.lexists(folder / name)]
    safe = [name for name in found if 'safetensors' in name] or found
    if len(safe) > 1:
        fail(folder, f'expected either one file of weights or an index, found {", ".join(safe)}')
    if not safe:
        suffixes = ('.safetensors', '.npz', '.pth')
        safe = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)
    if len(safe) != 1:
        fail(folder, f'expected {" or ".join(WEIGHTS)}, found {", ".join(safe) or "none of them"}')
    return folder / safe[0]


def _open_file(path: Path) -> dict[str, Tensor]:
    if path.name.endswith(_INDEX):
        return _open_shards(path)
    tensors = _open_torch(path) if path.suffix in _TORCH_SUFFIXES else _open_lazy(path)
    for name in tensors:
        if not name or not name.isprintable() or '..' in name.split('/'):
            fail(path, 'expected a printable name without ".." segments', name)
    return tensors


def _open_lazy(path: Path) -> dict[str, Tensor]:
    """The tensors of a .npz, or else of a .safetensors file."""
    if path.suffix == '.npz':
        _check_start(path, 'a .npz, which is a zip archive', _ZIP)
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


def _check_regular(path: Path) -> None:
    # Opening a FIFO would wait for a writer, so look before.
    if not stat.S_ISREG(path.stat().st_mode):
        fail(path, 'expected a regular file, found a folder, pipe or device')


def _check_start(path: Path, expected: str, *magics: bytes) -> bytes:
    """The first bytes of a file, which must be one of `magics`."""
    _check_regular(path)
    with open(path, 'rb') as file:
        start = file.read(32)
    if not start.startswith(magics):
        found = [what for magic, what in IMPOSTORS.items() if start.lstrip().startswith(magic)]
        found += ['a safetensors file'] * (start[8:9] == b'{')
        fail(path, f'expected {expected}, found {(found or [repr(start[:8])])[0]}')
    return start


# Indexes of shards.


def _open_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index names, each in the shard it says."""
    index = read_json(path)
    where = index.get('weight_map') if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where:
        fail(path, 'expected a weight_map from tensor names to files, found none')
    for name, shard in where.items():
        if not isinstance(shard, str):
            fail(path, f'expected the name of a file in weight_map, found {shard!r}', name)
    shards = {name: _shard(path, name) for name in sorted(set(where.values()))}
    _check_generation(path, shards)
    tensors: dict[str, Tensor] = {}
    for shard, file in shards.items():
        found = _open_file(file)
        expected = {name for name, place in where.items() if place == shard}
        if found.keys() != expected:
            missing, more = sorted(expected - found.keys()), sorted(found.keys() - expected)
            fail(path, f'{shard!r}: not found there {missing}, not in the index {more}')
        tensors |= found
    _check_total(path, index, tensors)
    return tensors


def _shard(index: Path, name: str) -> Path:
    suffix = Path(index.name.removesuffix(_INDEX)).suffix
    is_name = PurePosixPath(name).name == name and '\\' not in name and name.isprintable()
    if not is_name or not name.endswith(suffix) or name.endswith(_INDEX):
        fail(index, f'expected names of {suffix} files in the same folder, found {name!r}')
    shard = _inside(index, index.parent, name)
    if not os.path.lexists(shard):
        fail(index, f'expected its shards beside it, found no {name!r}')
    return shard


def _inside(about: Path, folder: Path, name: str) -> Path:
    """`folder / name`, which must not lead out of the folder, nor by links.

    In a cache of the Hub a snapshot's files are links into the repository's `blobs`.
    """
    try:
        root, target = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, NUL
        fail(about, f'expected the name of a file, found {name!r}')
    snapshots = [parent.parent for parent in root.parents if parent.name == 'snapshots']
    places = [root, *(repository / 'blobs' for repository in snapshots[:1])]
    if not any(target.is_relative_to(place) for place in places):
        fail(about, f'expected a file in its folder, found {name!r}, which leads out of it')
    return folder / name


def _check_total(path: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    metadata = index.get('metadata', {})
    if not isinstance(metadata, dict):
        fail(path, f'expected metadata to be an object, found {type(metadata).__name__}')
    size = sum(math.prod(t.shape) * t.dtype.itemsize for t in tensors.values())
    total = metadata.get('total_size', size)
    # torch's files hold tied tensors once, its totals now once and now twice; and older versions
    # of transformers count a bool as an eighth of a byte.
    is_exact = all(t.dtype != np.bool_ for t in tensors.values())
    if total != size and is_exact and path.name.endswith('.safetensors' + _INDEX):
        fail(path, f'expected total_size {size}, the bytes of all tensors, found {total!r}')


def _check_generation(path: Path, shards: Iterable[str]) -> None:
    """All shards must be of one save, and all of that save's in the index."""
    matches = [m for m in map(_SHARD.fullmatch, shards) if m]
    totals = {(m[1], m[3]): m[2] for m in matches}
    mixed = [m[0] for m in matches if totals[m[1], m[3]] != m[2]]
    strays = [
        file.name
        for file in path.parent.iterdir()
        if (m := _SHARD.fullmatch(file.name)) and (m[1], m[3]) in totals and m[0] not in shards
    ]
    if mixed or strays:
        fail(path, f'expected shards of one save, found also {", ".join(sorted(mixed + strays))}')


# torch.save's files.


def _open_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by torch's restricted loader, which runs no code."""
    is_zip = _check_start(path, 'a torch file', _ZIP, b'\x80').startswith(_ZIP)
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
    """What torch found, without its advice to load the file unrestricted."""
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
    """Records must be as long as the tensors say: torch maps them without a look."""
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


# Other views of the same tensors.


class _Stack:
    """The slices of a tensor along its first axis: it is read once, until all are released."""

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
    """`source` with each tensor under `prefix` as its slices along the first axis.

    'blocks/w' of shape [2, 3] becomes 'blocks_0/w' and 'blocks_1/w', of shape [3].
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.tensors.items():
        at = name.find(prefix)
        slices = {name: tensor} if at < 0 else _slices(tensor, name, at + len(prefix))
        if doubled := [one for one in slices if at >= 0 and one in source.tensors]:
            fail(source.path, f'expected either it or {doubled[0]!r}, found both', name)
        tensors |= slices
    return Source(source.path, tensors, source.config)


def _slices(tensor: Tensor, name: str, at: int) -> dict[str, Tensor]:
    """A tensor for each block, its number before the '/' that ends at `at`."""
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
