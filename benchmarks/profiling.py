"""Which operations a program of this library spends its time in.

    python benchmarks/profiling.py vit-b16
    python benchmarks/profiling.py gpt2-step --calls 5 --top 20

The program is the first of a row of `models.py`. Times are of XLA's own trace: events of its
operations, summed by what the compiled program says of each: its kind, the primitive of JAX that
it stems from, and the line that asked for it. Operations that run at once each count.

(The file is not `profile.py`: a script's own folder is searched first, and torch's
and Python's own profilers import a module of that name.)
"""

import argparse
import re
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from common import machine, table
from models import ROWS, small
from programs import blox

# What holds other operations takes their time too.
HOLDERS = {'while', 'call', 'conditional'}
OPERATION = re.compile(r'(?:ROOT )?%?([\w.-]+) = .*?\s([a-z][\w-]*)\(')
NAME = re.compile(r'op_name="([^"]*)"')
FRAME = re.compile(r'stack_frame_id=(\d+)')
# A program begins with tables, whose lines are numbered: files, places in them, and calls, of which
# an operation names the innermost.
ENTRIES = {
    'FileNames': re.compile(r'(\d+) "(.*)"$'),
    'FileLocations': re.compile(r'(\d+) \{file_name_id=(\d+) .*?line=(\d+)'),
    'StackFrames': re.compile(r'(\d+) \{file_location_id=(\d+)'),
}


class Operation(NamedTuple):
    """What a compiled program says of one of its operations."""

    kind: str
    primitive: str = ''
    source: str = ''


def operations(text: str) -> dict[str, Operation]:
    """Read a compiled program's text: the name of each operation, and what it is."""
    lines = [line.strip() for line in text.splitlines()]
    sources = sources_by_call(lines)
    found = {}
    for line in lines:
        if operation := OPERATION.match(line):
            name, opcode = operation.groups()
            primitive, frame = NAME.search(line), FRAME.search(line)
            found[name] = Operation(
                # A fusion's name tells what is in it.
                kind(name) if opcode == 'fusion' else opcode,
                primitive[1].rpartition('/')[2] if primitive else '',
                sources.get(frame[1], '') if frame else '',
            )
    return found


def sources_by_call(lines: list[str]) -> dict[str, str]:
    """Read the tables at a program's head: the number of each call, and its folder/file:line."""
    tables: dict[str, dict[str, Any]] = {heading: {} for heading in ENTRIES}
    heading = ''
    for line in lines:
        if match := heading and ENTRIES[heading].match(line):
            tables[heading][match[1]] = match.groups()[1:]
        else:
            heading = line if line in ENTRIES else ''
    files, places, calls = tables.values()
    sources = {}
    for number, (place,) in calls.items():
        file, line = places[place]
        sources[number] = f'{"/".join(Path(files[file][0]).parts[-2:])}:{line}'
    return sources


def kind(name: str) -> str:
    """Return an operation's name without the number that makes it unlike others."""
    return re.sub(r'(\.\d+|\.clone|\.remat)+$', '', name)


def durations(call: Callable[[], Any], calls: int) -> dict[str, float]:
    """Return the seconds that each operation takes a call, by name."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                call()
        (file,) = Path(folder).rglob('*.xplane.pb')
        data = jax.profiler.ProfileData.from_file(str(file))
    seconds: dict[str, float] = defaultdict(float)
    events = (event for plane in data.planes for line in plane.lines for event in line.events)
    with warnings.catch_warnings():
        # The type of an event's statistics says not which module it is of.
        warnings.simplefilter('ignore', DeprecationWarning)
        for event in events:
            if name := dict(event.stats).get('hlo_op'):
                seconds[str(name)] += event.duration_ns / 1e9 / calls
    return dict(seconds)


def by_kind(
    seconds: dict[str, float], known: dict[str, Operation]
) -> list[tuple[Operation, int, float]]:
    """Sum what is alike, the largest first: how many operations there are, and their seconds."""
    groups: dict[Operation, list[float]] = defaultdict(list)
    for name, taken in seconds.items():
        what = known.get(name, Operation(kind(name)))
        if what.kind not in HOLDERS:
            groups[what].append(taken)
    sums = [(what, len(taken), sum(taken)) for what, taken in groups.items()]
    return sorted(sums, key=lambda each: -each[2])


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('row', choices=[name for name in ROWS if 'init' not in name])
    parser.add_argument('--calls', type=int, default=3)
    parser.add_argument('--top', type=int, default=15)
    parser.add_argument('--small', action='store_true')
    args = parser.parse_args(words)
    entry = ROWS[args.row].entries[0]
    sizes = small(entry.model, entry.sizes) if args.small else entry.sizes
    program = blox.build(entry.work, entry.model, sizes)
    # Decoding shows no program: its operations have names alone.
    known = operations(program.compile().as_text()) if program.compile else {}
    program.call()
    sums = by_kind(durations(program.call, args.calls), known)
    total = sum(taken for *_, taken in sums)
    print(f'{machine()}\n{ROWS[args.row].title}: {1e3 * total:.1f} ms in operations a call\n')
    cells = []
    for what, count, taken in sums[: args.top]:
        cells.append([*what, f'{count}', f'{1e3 * taken:.1f}', f'{100 * taken / total:.1f} %'])
    print(table(['operation', 'of', 'asked for in', 'times', 'ms', 'share'], cells))


if __name__ == '__main__':
    main()
