"""What `import blox` adds to `import jax`.

    python benchmarks/imports.py

Limit that the project holds itself to: 0.15 s.
"""

import subprocess
import sys

from common import machine, median, table

ROUNDS = 9
CODE = 'import time; s = time.perf_counter(); {}; print(time.perf_counter() - s)'


def seconds(statement: str) -> float:
    done = subprocess.run(
        [sys.executable, '-c', CODE.format(statement)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    times: dict[str, list[float]] = {'import jax': [], 'import jax, blox': []}
    for _ in range(ROUNDS):
        for statement, taken in times.items():
            taken.append(seconds(statement))
    alone, both = (median(taken) for taken in times.values())
    print(machine())
    rows = [
        [name, f'{median(taken):.3f}', f'{min(taken):.3f}-{max(taken):.3f}']
        for name, taken in times.items()
    ]
    rows.append(['blox adds', f'{both - alone:.3f}', f'ratio {both / alone:.2f}'])
    print(table([f'medians of {ROUNDS} processes', 's', 'range'], rows))


if __name__ == '__main__':
    main()
