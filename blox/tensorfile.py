"""The safetensors container: strict header parsing, memory-mapped views, aligned writing.

Layout (https://github.com/huggingface/safetensors): 8 bytes of header length, little-endian; a JSON
header from tensor name to dtype, shape and offsets; the tensors' bytes, without gaps.
What we write has its data start at a multiple of 64 bytes and the tensors whose size is a
multiple of 64 first, so that JAX can use the mapped file's memory as it is.
"""

import hashlib
import json
import math
import mmap
import os
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from blox.atomic import atomic_write
from blox.memory import ALIGNMENT
from blox.wording import counted, cut, printable

# Hashing is bound by the processor, and lets go of Python's lock.
_THREADS = min(os.cpu_count() or 1, 8)
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSORS = 100_000
MAX_RANK = 64  # NumPy's own limit
_METADATA = '__metadata__'
# The metadata entry with the SHA-256 of each tensor's bytes, where a file has one.
DIGESTS = 'blox.sha256'
_DIGEST_LENGTH = 64

DTYPES: dict[str, np.dtype] = {
    'BOOL': np.dtype(np.bool_),
    'U8': np.dtype(np.uint8),
    'I8': np.dtype(np.int8),
    'U16': np.dtype(np.uint16),
    'I16': np.dtype(np.int16),
    'U32': np.dtype(np.uint32),
    'I32': np.dtype(np.int32),
    'U64': np.dtype(np.uint64),
    'I64': np.dtype(np.int64),
    'F8_E4M3': np.dtype(jnp.float8_e4m3fn),
    'F8_E5M2': np.dtype(jnp.float8_e5m2),
    'F16': np.dtype(np.float16),
    'BF16': np.dtype(jnp.bfloat16),
    'F32': np.dtype(np.float32),
    'F64': np.dtype(np.float64),
    'C64': np.dtype(np.complex64),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}

# Without a time in it, the start of a gzip file may pass for the length of a header.
_GZIP = b'\x1f\x8b\x08'
# What people have under a checkpoint's name when it is none.
IMPOSTORS = {
    b'version https://git-lfs': "a Git-LFS pointer, not the file itself; run 'git lfs pull'",
    b'<': 'an HTML or XML page, perhaps of a failed download',
    b'PK\x03\x04': 'a zip archive, perhaps a torch or npz file',
    _GZIP: 'gzip-compressed',
    b'\x80': 'a Python pickle, perhaps a torch file',
    b'\x93NUMPY': 'a NumPy .npy file',
    b'{': 'JSON text, perhaps an index of shards',
}


class CheckpointError(ValueError):
    """A checkpoint that is malformed, or does not fit what it is loaded into."""


@dataclass(frozen=True)
class TensorInfo:
    """The place of a tensor: `start` and `stop` are bytes from the start of the file."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


class MappedFile(Mapping[str, np.ndarray]):
    """A file's arrays by name, as views of its mapped memory where that is possible.

    `tensors` says where each lies: `start` and `stop`, in bytes from the start of the file.
    """

    tensors: dict[str, Any]
    _map: mmap.mmap

    def release(self, name: str) -> None:
        """Let the system take the tensor's memory back; the next use reads the file again."""
        info = self.tensors[name]
        start = info.start - info.start % mmap.PAGESIZE
        if hasattr(mmap, 'MADV_DONTNEED') and info.stop > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, info.stop - start)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors


class TensorFile(MappedFile):
    """A safetensors file: mapping from name to a read-only view of the mapped file.

    Opening reads and checks the header alone. Raises CheckpointError, which names file, tensor,
    expected and found, for a file that breaks the format, and OSError for one that cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        check_regular(self.path)
        with open(self.path, 'rb') as file:
            size = os.fstat(file.fileno()).st_size
            header, data_start = _read_header(self.path, file.read(8), size, file.read)
            self.metadata: dict[str, str] = _check_metadata(self.path, header)
            self.tensors: dict[str, TensorInfo] = {
                name: _check_tensor(self.path, name, entry, data_start)
                for name, entry in header.items()
            }
            _check_layout(self.path, self.tensors, data_start, size)
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def check_digests(self) -> None:
        """Raise CheckpointError unless the header and all bytes are those that were saved."""
        if DIGESTS not in self.metadata:
            fail(self.path, 'expected a digest of each tensor, found none: blox.save writes them')
        stated = parse_json(self.path, self.metadata[DIGESTS], DIGESTS)
        if stated.keys() != self.tensors.keys() | {_METADATA}:
            fail(self.path, f'{DIGESTS}: expected a digest of each tensor, found others')
        if stated[_METADATA] != _header_digest(self.tensors, self.metadata):
            fail(self.path, 'expected the header that was saved, found another')
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, found in zip(self, pool.map(lambda name: _digest(self[name]), self)):
                self.release(name)
                if found != stated[name]:
                    what = 'expected the bytes that were saved, found others'
                    fail(self.path, f'{what} (sha256 {found[:16]}...)', name)

    def __getitem__(self, name: str) -> np.ndarray:
        info = self.tensors[name]
        count = math.prod(info.shape)
        if count == 0:
            return np.empty(info.shape, info.dtype)
        if self._map.size() < info.stop:  # Reading past the end would kill the process.
            fail(self.path, 'expected the file to stay as it was opened, found it cut short', name)
        view = np.frombuffer(self._map, info.dtype, count, info.start).reshape(info.shape)
        if info.dtype == np.bool_ and view.view(np.uint8).max() > 1:
            fail(self.path, 'expected BOOL bytes 0 or 1, found others', name)
        return view


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str],
    *,
    digests: bool = False,
) -> None:
    """Write arrays, NumPy's or JAX's, to a safetensors file, atomically and durably.

    With `digests` the header says the SHA-256 of each, for `TensorFile.check_digests`. The same
    tensors in the same order, with the same metadata, give the same bytes.
    """
    if not tensors:
        raise ValueError(f'{str(path)!r}: there are no tensors to save')
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f'{str(path)!r}: {len(tensors)} tensors, readers accept {MAX_TENSORS}')
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f'metadata {key!r}: expected a string to a string, found {value!r}')
    codes = {name: _code(Path(path), name, array) for name, array in tensors.items()}
    ordered = sorted(tensors, key=lambda name: tensors[name].nbytes % ALIGNMENT != 0)
    header: dict[str, Any] = {}
    position = 0
    for name in ordered:
        array = tensors[name]
        header[name] = {
            'dtype': codes[name],
            'shape': list(array.shape),
            'data_offsets': [position, position + array.nbytes],
        }
        position += array.nbytes
    # Of a digest only the length is known before its tensor is written.
    found = dict.fromkeys([*ordered, _METADATA], '0' * _DIGEST_LENGTH) if digests else {}
    encoded = _encoded(header, metadata, found)
    if len(encoded) > MAX_HEADER_BYTES:
        raise ValueError(
            f'{str(path)!r}: a header of {len(encoded)} bytes, readers accept {MAX_HEADER_BYTES}'
        )
    with atomic_write(path) as file, ThreadPoolExecutor(1) as pool:
        file.write(struct.pack('<Q', len(encoded)))
        file.write(encoded)
        for name in ordered:
            array = _contiguous(tensors[name])
            hashing = pool.submit(_digest, array) if digests else None
            file.write(_bytes(array))
            if hashing:
                found[name] = hashing.result()
        if digests:
            infos = {n: TensorInfo(np.dtype(a.dtype), a.shape, 0, 0) for n, a in tensors.items()}
            found[_METADATA] = _header_digest(infos, metadata)
            file.seek(8)
            file.write(_encoded(header, metadata, found))


def _encoded(
    header: Mapping[str, Any], metadata: Mapping[str, str], digests: Mapping[str, str]
) -> bytes:
    """Return the header with its metadata, padded to where the data may start."""
    entries = dict(metadata)
    if digests:
        entries[DIGESTS] = json.dumps(digests, separators=(',', ':'))
    about = {_METADATA: dict(sorted(entries.items()))} if entries else {}
    encoded = json.dumps({**about, **header}, separators=(',', ':'), allow_nan=False).encode()
    return encoded + b' ' * (-(len(encoded) + 8) % ALIGNMENT)


def _header_digest(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> str:
    """Hash what a header says beside where the bytes lie: dtypes, shapes and metadata."""
    kinds = {n: [_CODES[x.dtype.newbyteorder('=')], list(x.shape)] for n, x in tensors.items()}
    texts = {name: text for name, text in metadata.items() if name != DIGESTS}
    about = json.dumps([sorted(kinds.items()), sorted(texts.items())])
    return hashlib.sha256(about.encode()).hexdigest()


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(_bytes(array)).hexdigest()


def _code(path: Path, name: str, array: Any) -> str:
    """Return the format's name for the array's dtype."""
    check_name(path, name)
    if not hasattr(array, '__array__'):
        raise TypeError(f'{name!r}: expected an array, found {type(array).__name__}')
    try:
        return _CODES[np.dtype(array.dtype).newbyteorder('=')]
    except (KeyError, TypeError):  # NumPy knows nothing of JAX's keys.
        raise ValueError(f'{name!r}: safetensors files have no dtype {array.dtype}') from None


def _contiguous(array: Any) -> np.ndarray:
    """Return the array in C order, little-endian, whatever its strides."""
    array = np.asarray(array, order='C')
    return array.astype(array.dtype.newbyteorder('<'), copy=False)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def what_is_not_finite(array: np.ndarray) -> str:
    """Return 'NaN' or 'infinity' if floating-point values have one, '' if they are finite."""
    dtype = array.dtype if array.dtype.itemsize > 2 else np.float32
    # A sum is the fastest look at all values; one of finite ones may overflow, so look again then.
    with np.errstate(all='ignore'):
        if np.isfinite(array.sum(dtype=dtype)) or np.isfinite(array).all():
            return ''
        return 'NaN' if np.isnan(array).any() else 'infinity'


def holds_weights(dtype: Any) -> bool:
    """Return whether models compute in a dtype: floating-point, of 16 bits or more.

    Narrower ones mean nothing without scales, which other tensors hold, each library's in its way.
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize > 1


def fail(path: Path, what: str, tensor: str | None = None, *, most: int = 500) -> NoReturn:
    """Raise CheckpointError in one line, safe to print whatever the file holds.

    No part of it is longer than `most` characters, for a file's own text may be of any length.
    """
    where = '' if tensor is None else f': tensor {cut(repr(tensor), most)}'
    raise CheckpointError(f'{str(path)!r}{where}: {printable(cut(what, most))}')


def check_regular(path: Path) -> None:
    """Raise CheckpointError unless the path is a regular file."""
    # Opening a FIFO would wait for a writer, so look before.
    if not stat.S_ISREG(path.stat().st_mode):
        fail(path, 'expected a regular file, found a folder, pipe or device')


def _read_header(path: Path, start: bytes, size: int, read: Any) -> tuple[dict[str, Any], int]:
    """Return the parsed header and where the data starts."""
    if size < 8:
        fail(path, f'expected a safetensors file of 8 bytes or more, found {counted(size, "byte")}')
    (length,) = struct.unpack('<Q', start)
    if length > min(MAX_HEADER_BYTES, size - 8):
        beginning = start + read(32)
        for magic, found in IMPOSTORS.items():
            if beginning.lstrip().startswith(magic):
                fail(path, f'expected a safetensors file, found {found}')
        fail(
            path,
            f'expected a header of at most {counted(min(MAX_HEADER_BYTES, size - 8), "byte")}, '
            f'found a length of {length}; the file is cut short or not a safetensors file',
        )
    encoded = read(length)
    if start.startswith(_GZIP) and not encoded.startswith(b'{'):
        fail(path, f'expected a safetensors file, found {IMPOSTORS[_GZIP]}')
    try:
        text = encoded.decode('utf-8')
    except UnicodeDecodeError as error:
        fail(path, f'expected a header in UTF-8, found byte {error.start} that is not')
    if not text.startswith('{'):
        fail(path, f"expected a header that starts with '{{', found {text[:8]!r}")
    header = parse_json(path, text, 'the header')
    count = len(header) - (_METADATA in header)
    if count > MAX_TENSORS:
        fail(path, f'expected at most {MAX_TENSORS} tensors, found {count}')
    return header, 8 + length


def parse_json(path: Path, text: str, what: str) -> dict[str, Any]:
    """Parse a JSON object without repeated keys, NaN or Infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (repeated, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            fail(path, f'{what}: key {repeated!r} stands there twice')
        return found

    def no_constant(name: str) -> NoReturn:
        fail(path, f'{what}: {name} is not JSON')

    try:
        parsed = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except RecursionError:
        fail(path, f'{what}: JSON is nested too deeply')
    except CheckpointError:
        raise
    except ValueError as error:
        fail(path, f'{what}: expected JSON, found {error}')
    if not isinstance(parsed, dict):
        fail(path, f'{what}: expected a JSON object, found {type(parsed).__name__}')
    return parsed


def _check_metadata(path: Path, header: dict[str, Any]) -> dict[str, str]:
    """Take the metadata out of the header."""
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        fail(path, f'expected {_METADATA} to map strings to strings')
    return metadata


def check_name(path: Path, name: str) -> None:
    """Raise CheckpointError unless a tensor of a file may have this name."""
    if not name or not name.isprintable() or '..' in name.split('/') or name == _METADATA:
        fail(path, 'expected a printable name without ".." segments', name)


def _check_tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    check_name(path, name)
    if not isinstance(entry, dict) or set(entry) != {'dtype', 'shape', 'data_offsets'}:
        found = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
        fail(path, f'expected exactly dtype, shape and data_offsets, found {found}', name)
    dtype = DTYPES.get(entry['dtype']) if isinstance(entry['dtype'], str) else None
    if dtype is None:
        fail(path, f'expected a dtype of {", ".join(DTYPES)}, found {entry["dtype"]!r}', name)
    shape, offsets = entry['shape'], entry['data_offsets']
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        what = f'expected a shape of at most {MAX_RANK} non-negative integers'
        fail(path, f'{what} below 2**63, found {shape!r}', name)
    if math.prod(max(d, 1) for d in shape) * dtype.itemsize >= 2**63:
        fail(path, f'expected a shape of fewer than 2**63 bytes, found {shape!r}', name)
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        fail(path, f'expected data_offsets [start, stop], found {offsets!r}', name)
    expected = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != expected:
        fail(
            path,
            f'expected {counted(expected, "byte")} for {entry["dtype"]}{shape}, '
            f'found {offsets[1] - offsets[0]}',
            name,
        )
    return TensorInfo(dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_sizes(values: Any) -> bool:
    # bool is a kind of int in Python, but true is no size.
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_layout(path: Path, tensors: dict[str, TensorInfo], data_start: int, size: int) -> None:
    """Check that tensors cover the data exactly: no overlap, no hole, nothing cut off or left."""
    if not tensors:
        fail(path, 'expected tensors, found none')
    position = data_start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != position:
            kind = 'an overlap' if info.start < position else 'a hole'
            fail(path, f'expected its data at byte {position}, found {kind} at {info.start}', name)
        if info.stop > size:
            fail(path, f'expected data up to byte {info.stop}, found a file of {size}', name)
        position = info.stop
    if position != size:
        fail(path, f'expected the file to end at byte {position}, found {size - position} more')
