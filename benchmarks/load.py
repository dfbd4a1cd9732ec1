"""Loading a 500 MB file of our own: time and resident memory, against reading its bytes.

    python benchmarks/load.py

Limits that the project holds itself to: 20 ms, and 5 % of the file's size in resident memory.
The file is in the page cache for all of them.
"""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import machine, median, table
from safetensors.numpy import load_file

import blox as bx

TENSORS, SHAPE, ROUNDS = 125, (1024, 1024), 7


def resident() -> int:
    """Bytes of physical memory that this process holds, shared file pages included."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * mmap.PAGESIZE


def measure(function: Callable[[], Any]) -> tuple[float, int]:
    """Seconds, and bytes by which resident memory grew while the result lived."""
    before = resident()
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    seconds = time.perf_counter() - start
    grown = resident() - before
    del result
    return seconds, grown


def ways(path: str) -> dict[str, Callable[[], Any]]:
    return {
        "reading the file's bytes": lambda: Path(path).read_bytes(),
        'bx.load': lambda: bx.load(path),
        'bx.load, copy=True': lambda: bx.load(path, copy=True),
        'safetensors.numpy.load_file': lambda: load_file(path),
    }


def measure_in_a_process_of_its_own(way: str, path: str) -> list[tuple[float, int]]:
    """What `measure` gives in each round, in a process that has not held such memory before."""
    command = [sys.executable, __file__, way, path]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'model.safetensors')
        rng = np.random.default_rng(0)
        entries = {f'net/{i}': jnp.asarray(rng.random(SHAPE, np.float32)) for i in range(TENSORS)}
        bx.save(path, bx.Params.from_entries(entries, finalized=True))
        size = os.path.getsize(path)
        runs = {way: measure_in_a_process_of_its_own(way, path) for way in ways(path)}
    raw = median([seconds for seconds, _ in runs["reading the file's bytes"]])
    rows = []
    for way, run in runs.items():
        seconds, grown = median([s for s, _ in run]), max(g for _, g in run)
        rows.append(
            [way, f'{1e3 * seconds:.1f}', f'{seconds / raw:.3f}', f'{100 * grown / size:.1f} %']
        )
    print(machine())
    print(
        f"a file of {size / 1e6:.0f} MB with {TENSORS} tensors, {ROUNDS} rounds in a process of each way's own, median times"
    )
    print(table(['', 'ms', 'ratio to reading', 'resident memory / size, most'], rows))


if __name__ == '__main__':
    if len(sys.argv) == 3:
        jax.devices()  # starting JAX is no part of loading
        print(json.dumps([measure(ways(sys.argv[2])[sys.argv[1]]) for _ in range(ROUNDS)]))
    else:
        main()
