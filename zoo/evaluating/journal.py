"""Keep what was found of each example, so that an interrupted evaluation goes on where it was."""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np

from blox.atomic import lock
from blox.param import RNG
from blox.params import Params
from blox.tensorfile import CheckpointError
from blox.wording import differences

# The first key of a journal's first line, by which any other file is told.
_START = b'{"blox.evaluation": '


class Journal:
    """Rows of numbers by example: in memory, and in a file of JSON lines where one is named.

    The file's first line says of what it is. It goes on where `about` is the same, of as many examples
    and numbers of each; a last line that was cut is left out. One process writes it at a time.
    Raises CheckpointError for a file that is another's, or of something else.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, about: Mapping[str, Any], count: int, width: int
    ) -> None:
        self.rows: dict[int, list[float]] = {}
        self._file = None
        if path is None:
            return
        self._path, self._count, self._width = Path(path), count, width
        # What JSON makes of it, which is what a file gives back.
        said = json.loads(json.dumps(dict(about)))
        self._file = open(self._path, 'a+b')  # noqa: SIM115
        try:
            self._go_on(said)
        except BaseException:
            self._file.close()
            raise

    def _go_on(self, about: dict[str, Any]) -> None:
        assert self._file is not None
        if lock(self._file.fileno()) is False:
            raise CheckpointError(f'{str(self._path)!r}: another process is writing it')
        self._file.seek(0)
        kept = self._file.read()
        if kept and not (kept.startswith(_START) or _START.startswith(kept)):
            self._refuse('expected a file that an evaluation wrote, found another')
        end = kept.rfind(b'\n') + 1  # A line is whole once it has ended.
        if end:
            self._read(kept[:end].split(b'\n')[:-1], about)
        self._file.truncate(end)
        if not end:
            self._write(json.dumps({'blox.evaluation': about}))

    def _read(self, lines: Sequence[bytes], about: dict[str, Any]) -> None:
        try:
            found = dict(json.loads(lines[0])['blox.evaluation'])
            # Rows of other data may be of other examples.
            if wrong := differences(about, found):
                self._refuse(f'it is of another evaluation: {"; ".join(wrong)}')
            rows = (json.loads(line) for line in lines[1:])
            self.rows = {self._index(i): self._numbers(values) for i, *values in rows}
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            self._refuse(f'expected lines that an evaluation wrote, found others: {error}')

    def _index(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value < self._count:
            raise ValueError(f'an example {value!r} of {self._count}')
        return value

    def _numbers(self, values: Sequence[Any]) -> list[float]:
        numbers = [float(value) for value in values]
        if len(numbers) != self._width or not all(map(math.isfinite, numbers)):
            raise ValueError(f'{values!r} where {self._width} numbers were expected')
        return numbers

    def _refuse(self, what: str) -> NoReturn:
        raise CheckpointError(f'{str(self._path)!r}: {what}; remove it, or name another file')

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
    """Return a hash of all parameters and their paths."""
    digest = hashlib.sha256()
    for path, param in params.items():
        if path != RNG:
            value = np.ascontiguousarray(param.value)
            digest.update(f'{path} {param.shape} {value.dtype}\0'.encode())
            digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
