"""NumPy's .npz, strictly: what is not compressed is a view of the mapped file.

Layout: a zip archive of .npy files, each a line of text with dtype, shape and order, and the data
(https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html). numpy.savez compresses
nothing, savez_compressed deflates.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from blox.tensorfile import DTYPES, MAX_RANK, MAX_TENSORS, MappedFile, fail
from blox.wording import counted

# All that zipfile raises for a malformed archive.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
    UnicodeError,
)
# The end of a zip archive: a mark and how many members there are.
_END = struct.Struct('<4s6xH10x')
# By compression, how many times longer than packed a member may be; deflate can do no better.
_RATIOS = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
# Far above any published checkpoint's, and far below what fills a machine's memory by accident.
_MAX_BYTES = 2**36
_MAX_HEADER_BYTES = 2**12
# Formats of the header's length, by version.
_LENGTHS = {b'\x93NUMPY\1\0': '<H', b'\x93NUMPY\2\0': '<I', b'\x93NUMPY\3\0': '<I'}
_HEADER = re.compile(
    r"\{'descr': '([<>|])(\w+)', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\}\s*"
)
# NumPy has no bfloat16 of its own and writes it as two bytes without a meaning.
_DTYPES = {dtype.str[1:]: dtype for dtype in DTYPES.values() if dtype.str[1:] != 'V1'}


@dataclass(frozen=True)
class Member:
    """An array of a .npz.

    Attributes:
      dtype: in the machine's byte order; `swapped` says that the file has the other.
      offset: where the data starts in the unpacked .npy.
      start: where the .npy, packed or not, starts in the file.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    swapped: bool
    order: Literal['C', 'F']
    offset: int
    start: int
    info: zipfile.ZipInfo

    @property
    def stop(self) -> int:
        """Where the .npy ends in the file."""
        return self.start + self.info.compress_size


class NpzFile(MappedFile):
    """A .npz: mapping from name to a read-only array.

    Opening reads and checks the members' headers alone; data is checked whenever it is asked for.
    Raises CheckpointError, which names file, array, expected and found.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        name = None
        try:
            with open(self.path, 'rb') as file, zipfile.ZipFile(file) as archive:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                infos = archive.infolist()
                self._check_directory(infos)
                self.tensors: dict[str, Member] = {}
                for info in infos:
                    name = info.filename.removesuffix('.npy')
                    with archive.open(info) as stream:
                        self.tensors[name] = self._member(name, info, stream.read)
        except ZIP_ERRORS as error:
            fail(self.path, f'expected a sound zip archive: {error}', name)
        self._check_layout()

    def __getitem__(self, name: str) -> np.ndarray:
        member = self.tensors[name]
        data = self._unpacked(name, member)
        if 0 in member.shape:
            return np.empty(member.shape, member.dtype)
        array = np.frombuffer(data, member.dtype, offset=member.offset)
        if member.dtype == np.bool_ and array.view(np.uint8).max() > 1:
            fail(self.path, 'expected bool bytes 0 or 1, found others', name)
        array = array.byteswap() if member.swapped else array
        return array.reshape(member.shape, order=member.order)

    def _check_directory(self, infos: list[zipfile.ZipInfo]) -> None:
        """Check what the archive says of its members, before any is looked at."""
        if not 0 < len(infos) <= MAX_TENSORS:
            fail(self.path, f'expected 1 to {MAX_TENSORS} arrays, found {len(infos)}')
        ((name, count),) = Counter(info.filename for info in infos).most_common(1)
        if count > 1:
            fail(self.path, f'expected one member of a name, found {count}', name)
        for info in infos:
            name, packed, size = info.orig_filename, info.compress_size, info.file_size
            if not name.endswith('.npy') or name != info.filename:
                fail(self.path, 'expected a member NAME.npy', name)
            if info.compress_type not in _RATIOS:
                what = 'expected no compression or deflate (method 8)'
                fail(self.path, f'{what}, found method {info.compress_type}', name)
            if size > packed * _RATIOS[info.compress_type]:
                fail(
                    self.path,
                    f'expected what {counted(packed, "byte")} may hold, found {size}',
                    name,
                )
        if (total := sum(info.file_size for info in infos)) > _MAX_BYTES:
            fail(self.path, f'expected at most {_MAX_BYTES} unpacked bytes, found {total}')

    def _member(self, name: str, info: zipfile.ZipInfo, read: Callable[[int], bytes]) -> Member:
        """Read the header of a .npy, which must fit the member's size."""
        code = _LENGTHS.get(read(8))
        if code is None:
            fail(self.path, 'expected a .npy of version 1, 2 or 3, found something else', name)
        (length,) = struct.unpack(code, read(struct.calcsize(code)))
        text = read(min(length, _MAX_HEADER_BYTES)).decode('latin1')
        found = _HEADER.fullmatch(text)
        dtype = _DTYPES.get(found[2]) if found else None
        if found is None or dtype is None or (found[1] == '>' and dtype == jnp.bfloat16):
            what = 'expected the header of an array of numbers'
            fail(self.path, f'{what}, found {text.strip()!r}', name)
        shape = tuple(int(size) for size in found[4].split(',') if size.strip())
        if len(shape) > MAX_RANK or math.prod(max(size, 1) for size in shape) >= 2**59:
            what = f'expected a shape of at most {MAX_RANK} sizes and 2**59 values'
            fail(self.path, f'{what}, found {shape}', name)
        offset = 8 + struct.calcsize(code) + length
        expected = offset + math.prod(shape) * dtype.itemsize
        if info.file_size != expected:
            fail(self.path, f'expected {counted(expected, "byte")}, found {info.file_size}', name)
        order = 'F' if found[3] == 'True' else 'C'
        return Member(dtype, shape, found[1] == '>', order, offset, self._start(info), info)

    def _check_layout(self) -> None:
        """Raise CheckpointError if members overlap, or the archive does not fill the file."""
        position = 0
        ordered = sorted(self.tensors.items(), key=lambda item: item[1].info.header_offset)
        size = len(self._map)
        for name, member in ordered:
            if member.info.header_offset < position:
                fail(self.path, f'expected it at byte {position}, found an overlap', name)
            position = member.stop
            if position > size:
                what = f'expected data up to byte {position}'
                fail(self.path, f'{what}, found a file of {size}', name)
        mark, count = _END.unpack(self._map[-_END.size :])
        if ordered[0][1].info.header_offset or mark != b'PK\5\6':
            fail(self.path, 'expected a zip archive alone, found bytes before or after it')
        if count not in (len(ordered), 2**16 - 1):  # the latter: more than fit here
            expected = f'{counted(count, "array")}, as its end says'
            fail(self.path, f'expected {expected}, found {len(ordered)}')

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Return where a member's bytes start: its name and extra fields come again before them."""
        header = info.header_offset
        return header + 30 + sum(struct.unpack_from('<HH', self._map, header + 26))

    def _unpacked(self, name: str, member: Member) -> memoryview:
        info = member.info
        if self._map.size() < member.stop:
            fail(self.path, 'has been cut short since it was opened', name)
        data = memoryview(self._map)[member.start : member.stop]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            data = self._inflated(name, data, info.file_size)
        if (found := zlib.crc32(data)) != info.CRC:
            fail(self.path, f'expected the checksum {info.CRC:08x}, found {found:08x}', name)
        return data

    def _inflated(self, name: str, data: memoryview, size: int) -> memoryview:
        engine = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than it may have, to see whether it has.
            found = engine.decompress(data, size + 1)
        except zlib.error as error:
            fail(self.path, f'cannot be unpacked: {error}', name)
        if len(found) != size or not engine.eof or engine.unused_data:
            expected = f'exactly {counted(size, "byte")} when unpacked'
            fail(self.path, f'expected {expected}, found others', name)
        return memoryview(found)
