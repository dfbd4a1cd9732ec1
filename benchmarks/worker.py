"""One library at work in a process of its own: `models.py` starts it and gives it turns.

It reads one JSON object a line from its input, and answers each with one on its output. It imports
nothing but the library that it is told to, so that one interpreter need not hold all of them.
"""

import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any


def memory(field: str) -> int:
    """Return a field of this process's memory in bytes: VmRSS (now) or VmHWM (the most ever)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1]) * 1024
    raise ValueError(f'expected a field of /proc/self/status, found {field!r}')


def busy() -> float:
    """Return the seconds that all cores have computed since the machine started."""
    _, user, nice, system, *_ = Path('/proc/stat').read_text().split(maxsplit=4)
    return (int(user) + int(nice) + int(system)) / os.sysconf('SC_CLK_TCK')


class Worker:
    """What one library does for one line of a table."""

    def __init__(self, library: str) -> None:
        self.library, self.absent = None, ''
        try:
            self.library = importlib.import_module(f'programs.{library}')
        except Exception as error:  # Some fail in other ways beside a JAX that is too new for them.
            self.absent = f'does not import: {type(error).__name__}: {error}'
        self.imported = memory('VmRSS')
        self.idle_since, self.idle_used = time.perf_counter(), time.process_time()

    def about(self) -> dict[str, Any]:
        """Return the versions at work, and what is missing."""
        python = f'Python {platform.python_version()}'
        if self.library is None:
            return {'missing': self.absent}
        return {'versions': f'{self.library.versions()} on {python}'}

    def prepare(self, work: str, model: str, sizes: dict[str, Any], flops: bool) -> dict[str, Any]:
        """Build a program and call it once; say why not if the library has none."""
        start = time.perf_counter()
        try:
            self.program = self.library.build(work, model, sizes)
        except NotImplementedError as error:
            return {'missing': str(error)}
        built = time.perf_counter()
        self.program.call()
        found = {
            'build': built - start,
            'first': time.perf_counter() - built,
            'parameters': self.program.parameters,
        }
        self.idle_since, self.idle_used = time.perf_counter(), time.process_time()
        if flops and self.program.compile:
            found['flops'] = self.program.compile().cost_analysis()['flops']
        return found

    def turn(self, seconds: float) -> dict[str, Any]:
        """Call the program once, and again until `seconds` are over.

        A call before that is not counted: a machine may have taken back the memory that was free during
        the wait, and a step of GPT-2 then takes 2.8 s instead of 2.1.

        Returns the seconds of each call, the share of the wait before that was spent computing
        (threads that spin would take it from the others), and the share of the cores' time that
        other processes took during the turn.
        """
        waited = time.perf_counter() - self.idle_since
        # In a short wait there is little but the order to read.
        spun = (time.process_time() - self.idle_used) / waited if waited > 0.1 else 0.0
        self.program.call()
        begin, before, used = time.perf_counter(), busy(), time.process_time()
        end, times = begin + seconds, []
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            self.program.call()
            times.append(time.perf_counter() - start)
        self.idle_since, self.idle_used = time.perf_counter(), time.process_time()
        taken = busy() - before - (self.idle_used - used)
        available = (self.idle_since - begin) * len(os.sched_getaffinity(0))
        return {'times': times, 'spun': spun, 'others': max(taken, 0) / available}

    def peak(self) -> dict[str, Any]:
        """Return the most memory that was held beyond what the imports took."""
        return {'peak': memory('VmHWM') - self.imported}


def main() -> None:
    # What libraries print goes elsewhere than the answers.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(getattr(worker, order.pop('do'))(**order)), file=answers, flush=True)


if __name__ == '__main__':
    main()
