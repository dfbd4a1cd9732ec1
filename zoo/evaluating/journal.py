"""Keep what was found of each example, so that an interrupted evaluation goes on where it was."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from blox.param import is_floating
from blox.params import Params
from blox.tensorfile import CheckpointError
from blox.wording import differences

# Bytes of each parameter that tell Params apart.
_SAMPLE = 1 << 16


class Journal:
    """Rows of numbers by example: in memory, and in a file of JSON lines where one is named.

    The file's first line says of what it is; it goes on only where that is the same, and a last
    line that was cut is left out.
    """

    def __init__(self, path: str | os.PathLike[str] | None, about: Mapping[str, Any]) -> None:
        self.rows: dict[int, list[float]] = {}
        self._file = None
        if path is None:
            return
        file = Path(path)
        header = json.dumps(dict(about), sort_keys=True)
        kept = file.read_bytes() if file.exists() else b''
        # A line is whole once it has ended.
        lines = kept[: kept.rfind(b'\n') + 1].splitlines()
        if lines:
            self._read(file, lines, json.loads(header))
        self._file = open(file, 'r+b' if kept else 'wb')  # noqa: SIM115
        self._file.truncate(sum(len(line) + 1 for line in lines))
        self._file.seek(0, os.SEEK_END)
        if not lines:
            self._write(header)

    def _read(self, file: Path, lines: Sequence[bytes], about: Mapping[str, Any]) -> None:
        try:
            found, *rows = (json.loads(line) for line in lines)
            read = {int(i): [float(x) for x in values] for i, *values in rows}
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f'{str(file)!r}: expected lines that an evaluation wrote, found others: {error}'
            ) from error
        if not isinstance(found, dict) or found != about:
            said = found if isinstance(found, dict) else {}
            raise CheckpointError(
                f'{str(file)!r} is of another evaluation: {"; ".join(differences(about, said))}; '
                'remove it, or name another file'
            )
        self.rows = read

    def add(self, index: int, row: Sequence[float]) -> None:
        """Keep the row of an example."""
        self.rows[index] = [float(x) for x in row]
        self._write(json.dumps([index, *self.rows[index]]))

    def _write(self, line: str) -> None:
        if self._file:
            self._file.write(line.encode() + b'\n')
            self._file.flush()

    def __enter__(self) -> 'Journal':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file:
            self._file.close()


def fingerprint(params: Params) -> str:
    """Return a hash of paths, shapes and the first bytes of each parameter."""
    digest = hashlib.sha256()
    for path, param in params.items():
        if is_floating(param.value):
            value = np.asarray(param.value).reshape(-1)
            count = _SAMPLE // value.dtype.itemsize
            digest.update(f'{path} {param.shape} {value.dtype}\0'.encode())
            digest.update(np.ascontiguousarray(value[:count]).tobytes())
    return digest.hexdigest()
