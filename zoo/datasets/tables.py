"""Tables: CSV files whose first line names their columns."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from blox.wording import some
from blox.zoo.datasets.folders import VALIDATION
from blox.zoo.datasets.texts import read_text

# What columns are called, by what is in them.
FILE = ('file', 'path', 'image', 'filename', 'file_name')
LABEL = ('label', 'class', 'target', 'category')
TEXT = ('text', 'sentence', 'premise', 'sentence1', 'text1')
OTHER_TEXT = ('text2', 'sentence2', 'hypothesis')


SPLIT = 'split'
PARTS = {
    **dict.fromkeys(('train', 'training'), 'training'),
    **dict.fromkeys((*VALIDATION, 'dev'), 'held_out'),
    'test': 'test',
}


class Table(NamedTuple):
    """Cells of a table by row.

    Attributes:
      names: of its columns, as they are written.
      head: the same in lower case, by which columns are found.
    """

    path: Path
    names: list[str]
    head: list[str]
    rows: list[list[str]]

    def find(self, known: Sequence[str], taken: Sequence[str] = ()) -> str:
        """Return the first known name that a column has and that is not taken, or ''."""
        found = next((name for name in known if name in self.head and name not in taken), '')
        if found and self.head.count(found) > 1:
            raise ValueError(f'{str(self.path)!r}: expected one column {found}, found several')
        return found

    def require(self, what: str, known: Sequence[str], taken: Sequence[str] = ()) -> str:
        """Return what `find` finds. ValueError for nothing."""
        if found := self.find(known, taken):
            return found
        others = ', '.join(name for name in known if name != what)
        raise ValueError(
            f'{str(self.path)!r}: expected a CSV file whose first line names a column {what} '
            f'(or {others}), found {some(self.head) or "none"}'
        )

    def column(self, name: str) -> list[str]:
        """Return the cells of a column."""
        place = self.head.index(name)
        return [row[place] for row in self.rows]


def read_table(path: Path, known: Collection[str]) -> Table:
    """Read a CSV file. Its cells are divided by commas, semicolons or tabs: what makes known names of its head.

    Raises ValueError for rows that have more or fewer cells than the first line.
    """
    text = read_text(path)
    # A cell is as long as a text; Python's own limit is 128 KB.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    tables = {mark: csv.reader(io.StringIO(text, newline=''), delimiter=mark) for mark in ',;\t'}
    try:
        names = {mark: [cell.strip() for cell in next(t, [])] for mark, t in tables.items()}
        heads = {mark: [name.lower() for name in own] for mark, own in names.items()}
        mark = max(heads, key=lambda mark: len({*heads[mark]} & {*known}))
        rows = []
        for row in tables[mark]:
            if row and len(row) != len(heads[mark]):
                raise ValueError(
                    f'{str(path)!r}: expected {len(heads[mark])} cells, as the first line names, in the '
                    f'row that ends in line {tables[mark].line_num}, found {len(row)}'
                )
            rows += [row] if row else []
    except csv.Error as error:
        raise ValueError(f'{str(path)!r}: expected a CSV file: {error}') from error
    return Table(path, names[mark], heads[mark], rows)


def columns(
    path: Path, wanted: Mapping[str, Sequence[str]], optional: str = ''
) -> list[tuple[str, ...]]:
    """Return by row the cells of the columns wanted, by any of their names.

    Raises ValueError for a column that is missing, and for no rows.
    """
    table = of_part(read_table(path, {name for known in wanted.values() for name in known}))
    chosen: list[str] = []
    for what, known in wanted.items():
        found = table.find(known, chosen)
        if found or what != optional:
            chosen.append(found or table.require(what, known, chosen))
    check_rows(table)
    return list(zip(*map(table.column, chosen)))


def of_part(table: Table) -> Table:
    """Return the rows that are not to be trained on: those of test, else of val, where a column 'split' says it."""
    if not table.find((SPLIT,)):
        return table
    parts = [PARTS.get(cell.strip().lower()) for cell in table.column(SPLIT)]
    part = next((name for name in ('test', 'held_out') if name in parts), None)
    if part is None:
        raise ValueError(
            f'{str(table.path)!r}: expected rows of test or val in column split, found none'
        )
    return table._replace(rows=[row for row, own in zip(table.rows, parts) if own == part])


def check_rows(table: Table) -> None:
    """Raise ValueError for a table without rows."""
    if not table.rows:
        raise ValueError(
            f'{str(table.path)!r}: expected rows below the names of columns, found none'
        )
