"""Write files of CSV that a spreadsheet opens without harm."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence

from blox.atomic import atomic_write
from blox.zoo.cli.shared import say

# How a cell starts that a spreadsheet would compute; an apostrophe before it makes it a text.
_FORMULAS = ('=', '+', '-', '@', '\t', '\r')


def write_csv(out: str, lines: Iterable[Sequence[object]], what: str) -> None:
    """Write lines of cells to a new file, and say `what` they are; - stands for stdout."""
    # A file's name need not be UTF-8.
    content = ''.join(map(_csv_line, lines)).encode('utf-8', 'surrogateescape')
    if out == '-':
        sys.stdout.buffer.write(content)
        return
    with atomic_write(out) as stream:
        stream.write(content)
    say(f'{out}: {what}')


def _csv_line(cells: Sequence[object]) -> str:
    """Write a line of cells that a spreadsheet takes for texts and numbers, never for formulas."""
    texts = [cell if isinstance(cell, float) else _harmless(str(cell)) for cell in cells]
    text = io.StringIO(newline='')
    # It quotes cells with the characters that end its lines, so let those be both.
    csv.writer(text, lineterminator='\r\n').writerow(texts)
    return text.getvalue().removesuffix('\r\n') + '\n'


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text
