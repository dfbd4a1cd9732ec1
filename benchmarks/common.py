"""What the benchmarks share: medians, ratios and the name of the machine."""

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def machine() -> str:
    """Processor, cores, JAX and device: what a figure means nothing without."""
    model = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith('model name')]
        model = f'{names[0].partition(":")[2].strip()}, {len(names)} cores' if names else model
    return (
        f'{model}; Python {platform.python_version()}; jax {jax.__version__} on {jax.devices()[0]}'
    )


def alternate(functions: dict[str, Callable[[], Any]], calls: int) -> dict[str, list[float]]:
    """Seconds of each of `calls` calls, the functions taking turns so that noise hits all alike."""
    for function in functions.values():
        for _ in range(10):
            jax.block_until_ready(function())
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(calls):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            times[name].append(time.perf_counter() - start)
    return times


def median(times: list[float]) -> float:
    return statistics.median(times)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
