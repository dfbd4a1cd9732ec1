"""Memory that JAX uses in place on a CPU."""

import math
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

# What JAX asks of an array's address, so as not to copy it.
ALIGNMENT = 64


def aligned(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Return an array of zeros whose memory JAX takes as it is."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    # NumPy asks for huge pages for large arrays, and waits for them where memory is in pieces.
    memory = np.frombuffer(mmap.mmap(-1, nbytes + ALIGNMENT), np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + nbytes].view(dtype).reshape(shape)
