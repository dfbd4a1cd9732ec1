"""Tensor: one array of a checkpoint, whatever file holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """One array of a checkpoint.

    Attributes:
      read: returns it, as a view where the container allows.
      file: the file that it lies in, for messages.
      release: tells the system that the view's memory is not needed for now.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    file: Path
    release: Callable[[], None] = lambda: None
