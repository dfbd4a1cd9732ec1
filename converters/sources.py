"""Opening external checkpoints: names, dtypes, shapes and lazy views, whatever the container.

A folder as transformers or timm saves it, one .safetensors file, an index of shards, a .npz of
NumPy, or a file of torch.save. Opening reads no tensor's data, torch's files apart.
"""

from __future__ import annotations

import ast
import os
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np

from blox.tensorfile import CheckpointError, TensorFile, fail, parse_json

# What a folder's weights may be called, the first that is there counts.
_INDEXES = ('model.safetensors.index.json', 'pytorch_model.bin.index.json')
WEIGHTS = ('model.safetensors', _INDEXES[0], 'pytorch_model.bin', _INDEXES[1])
_TORCH_SUFFIXES = ('.bin', '.pth', '.pt')
# Far above any published checkpoint's, and far below what fills a machine's memory by accident.
_MAX_NPZ_BYTES = 2**36
_MAX_JSON_BYTES = 16 * 2**20


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
    """An open checkpoint: its tensors by name, and what the folder's other files say."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Whether the checkpoint is a folder with a file of this name."""
        return self.path.is_dir() and (self.path / name).is_file()

    def read_json(self, name: str) -> Any:
        """A JSON file of the folder; CheckpointError if it is none."""
        return read_json(_inside(self.path, self.path, name))


def open_source(path: str | os.PathLike[str]) -> Source:
    """The checkpoint at `path`: a folder or a file.

    Raises CheckpointError, which names the file, for what is malformed or of an unknown kind,
    and OSError for what cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return Source(path, _open_file(path))
    config = read_json(path / 'config.json') if (path / 'config.json').is_file() else {}
    return Source(path, _open_file(_weights_in(path)), config)


def read_json(path: Path) -> Any:
    """The JSON in a file: an object, or a list of objects."""
    if path.stat().st_size > _MAX_JSON_BYTES:
        fail(path, f'expected at most {_MAX_JSON_BYTES} bytes of JSON')
    try:
        text = path.read_text('utf-8')
    except UnicodeDecodeError as error:
        fail(path, f'expected JSON in UTF-8, found byte {error.start} that is not')
    if not text.lstrip().startswith('['):
        return parse_json(path, text, path.name)
    items = parse_json(path, f'{{"items": {text}}}', path.name)['items']
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        fail(path, 'expected a JSON object or a list of them')
    return items


def _weights_in(folder: Path) -> Path:
    """The one file of weights, or index of shards, in a folder."""
    found = [name for name in WEIGHTS if (folder / name).is_file()]
    safe = [name for name in found if 'safetensors' in name] or found
    if len(safe) > 1:
        fail(folder, f'expected either one file of weights or an index, found {", ".join(safe)}')
    if safe:
        return folder / safe[0]
    others = [
        f.name for f in sorted(folder.glob('*')) if f.suffix in ('.safetensors', '.npz', '.pth')
    ]
    if len(others) == 1:
        return folder / others[0]
    fail(folder, f'expected {" or ".join(WEIGHTS)}, found {", ".join(others) or "none of them"}')


def _open_file(path: Path) -> dict[str, Tensor]:
    if path.name.endswith('.index.json'):
        return _open_shards(path)
    if path.suffix == '.npz':
        return _open_npz(path)
    if path.suffix in _TORCH_SUFFIXES:
        return _open_torch(path)
    return _open_safetensors(path)


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    file = TensorFile(path)
    return {
        name: Tensor(
            info.dtype,
            info.shape,
            lambda name=name: file[name],
            path,
            lambda name=name: file.release(name),
        )
        for name, info in file.tensors.items()
    }


# Indexes of shards.


def _open_shards(path: Path) -> dict[str, Tensor]:
    """The tensors of all shards that an index names, each in the shard it says."""
    index = read_json(path)
    where = index.get('weight_map') if isinstance(index, dict) else None
    if not isinstance(where, dict) or not where:
        fail(path, 'expected a weight_map from tensor names to files, found none')
    if not all(isinstance(name, str) for name in where.values()):
        fail(path, 'expected weight_map to map strings to strings')
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(where.values())):
        found = _open_file(_shard(path, shard))
        expected = {name for name, file in where.items() if file == shard}
        if set(found) != expected:
            missing, more = sorted(expected - set(found)), sorted(set(found) - expected)
            fail(path, f'{shard}: not found there {missing}, not in the index {more}')
        tensors |= found
    _check_total(path, index, tensors)
    _check_strays(path, set(where.values()))
    return tensors


def _shard(index: Path, name: str) -> Path:
    if PurePosixPath(name).name != name or '\\' in name or name.endswith('.index.json'):
        fail(index, f'expected names of files in the same folder, found {name!r}')
    shard = _inside(index, index.parent, name)
    if not shard.is_file():
        fail(index, f'expected the shard {name!r} beside it, found none')
    return shard


def _inside(about: Path, folder: Path, name: str) -> Path:
    """`folder / name`, which must not lead out of the folder, nor by links.

    In a cache of the Hub a snapshot's files are links into the repository's `blobs`.
    """
    place = folder / name
    root, target = folder.resolve(), place.resolve()
    snapshot = root.parent.name == 'snapshots'
    blobs = root.parent.parent / 'blobs'
    if not target.is_relative_to(root) and not (snapshot and target.is_relative_to(blobs)):
        fail(about, f'expected a file in its folder, found {name!r}, which leads out of it')
    return place


def _check_total(path: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    metadata = index.get('metadata')
    total = metadata.get('total_size') if isinstance(metadata, dict) else None
    size = sum(int(np.prod(t.shape, dtype=object)) * t.dtype.itemsize for t in tensors.values())
    # torch's files hold tied tensors once, its totals now once and now twice.
    if isinstance(total, int) and total != size and path.name == _INDEXES[0]:
        fail(path, f'expected total_size {size}, the bytes of all tensors, found {total}')


def _check_strays(path: Path, shards: set[str]) -> None:
    """Shards that the index does not name are of another save than the others."""
    kind = re.compile(r'(.+)-\d+-of-\d+\.(safetensors|bin)')
    stems = {m[1] for m in map(kind.fullmatch, shards) if m}
    strays = [
        file.name
        for file in path.parent.iterdir()
        if (m := kind.fullmatch(file.name)) and m[1] in stems and file.name not in shards
    ]
    suffixes = {Path(shard).suffix for shard in shards}
    strays = sorted(name for name in strays if Path(name).suffix in suffixes)
    if strays:
        fail(path, f'expected no other shards beside its own, found {", ".join(strays)}')


# NumPy's .npz.


def _open_npz(path: Path) -> dict[str, Tensor]:
    """The members of a .npz, each read when asked for."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        fail(path, f'expected a .npz, which is a zip archive: {error}')
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        doubled = next(name for name in names if names.count(name) > 1)
        fail(path, f'expected members of different names, found {doubled!r} twice')
    if sum(member.file_size for member in members) > _MAX_NPZ_BYTES:
        fail(path, f'expected at most {_MAX_NPZ_BYTES} bytes when unpacked')
    return {
        member.filename.removesuffix('.npy'): _npz_tensor(path, archive, member)
        for member in members
    }


def _npz_tensor(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    name = member.filename.removesuffix('.npy')
    if member.filename == name or not name.isprintable() or '..' in name.split('/'):
        fail(path, 'expected members NAME.npy with printable names', member.filename)
    try:
        with archive.open(member) as stream:
            dtype, shape, fortran, start = _npy_header(path, name, stream.read)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        fail(path, f'cannot be unpacked: {error}', name)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if member.file_size != start + size:
        fail(path, f'expected {start + size} bytes, found {member.file_size}', name)

    def read() -> np.ndarray:
        try:
            data = archive.read(member)
        except Exception as error:  # zlib's errors have no common base.
            fail(path, f'cannot be unpacked: {error}', name)
        array = np.frombuffer(data, dtype, offset=start)
        array = array.reshape(shape, order='F' if fortran else 'C')
        return array.astype(dtype.newbyteorder('='), copy=False)

    return Tensor(dtype.newbyteorder('='), shape, read, path)


def _npy_header(
    path: Path, name: str, read: Callable[[int], bytes]
) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """dtype, shape, whether in Fortran's order, and where the data starts, of a .npy."""
    magic = read(8)
    if magic[:6] != b'\x93NUMPY' or magic[6] not in (1, 2, 3):
        fail(path, 'expected a .npy', name)
    width, code = (2, '<H') if magic[6] == 1 else (4, '<I')
    (length,) = struct.unpack(code, read(width).ljust(width, b'\0'))
    if length > 2**16:
        fail(path, f'expected a header of at most {2**16} bytes, found {length}', name)
    text = read(length).decode('latin1')
    try:
        header = ast.literal_eval(text)
        dtype = np.dtype(header['descr'])
        shape, fortran = tuple(header['shape']), header['fortran_order']
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        fail(path, f'expected the header of a .npy, found {text[:80]!r}', name)
    # NumPy has no bfloat16 of its own and writes it as two bytes without a meaning.
    dtype = np.dtype(jnp.bfloat16) if dtype == np.dtype('V2') else dtype
    if dtype.hasobject or dtype.fields is not None or not dtype.itemsize:
        fail(path, f'expected numbers, found dtype {dtype}', name)
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        fail(path, f'expected a shape, found {shape!r}', name)
    return dtype, shape, bool(fortran), 8 + width + length


# torch.save's files.


def _open_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by torch's restricted loader, which runs no code."""
    try:
        import torch
    except ImportError:
        raise ImportError(
            f"{str(path)!r} is a torch file: install torch to read it ('pip install torch'), "
            'or save it as .safetensors where torch is'
        ) from None
    with open(path, 'rb') as file:
        is_zip = file.read(4) == b'PK\x03\x04'
    try:
        state = torch.load(path, map_location='cpu', weights_only=True, mmap=is_zip)
    except Exception as error:  # pickle, zip and torch each raise their own.
        reason = str(error).strip().split('\n')[0]
        fail(path, f"expected a torch file that torch's restricted loader reads: {reason}")
    if not isinstance(state, Mapping):
        fail(path, f'expected names to tensors, found {type(state).__name__}')
    wrong = {
        str(name): type(value).__name__
        for name, value in state.items()
        if not isinstance(name, str) or not isinstance(value, torch.Tensor)
    }
    if wrong:
        fail(
            path,
            'expected names to tensors, as a state_dict is; save that part of the file alone. '
            f'Found {wrong}',
        )
    return {name: _torch_tensor(path, name, value) for name, value in state.items()}


def _torch_tensor(path: Path, name: str, tensor: Any) -> Tensor:
    import torch

    if not name or not name.isprintable():
        fail(path, 'expected a printable name', name)
    try:
        if tensor.dtype == torch.bfloat16:
            array = tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        else:
            array = tensor.numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, meta
        fail(path, f'expected a dense tensor of numbers: {error}', name)
    return Tensor(array.dtype, array.shape, lambda: array, path)


# Other views of the same tensors.


def unstacked(source: Source, prefix: str) -> Source:
    """`source` with each tensor under `prefix` as its slices along the first axis.

    'blocks/w' of shape [2, 3] becomes 'blocks_0/w' and 'blocks_1/w', of shape [3].
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in source.tensors.items():
        at = name.find(prefix)
        if at < 0:
            tensors[name] = tensor
            continue
        start, rest = name[: at + len(prefix) - 1], name[at + len(prefix) :]
        for i in range(tensor.shape[0] if tensor.shape else 0):
            if (slice_name := f'{start}_{i}/{rest}') in source.tensors:
                raise CheckpointError(f'{str(source.path)!r}: both {name!r} and {slice_name!r}')
            tensors[slice_name] = _slice(tensor, i)
    return Source(source.path, tensors, source.config)


def _slice(tensor: Tensor, i: int) -> Tensor:
    return Tensor(tensor.dtype, tensor.shape[1:], lambda: tensor.read()[i], tensor.file)
