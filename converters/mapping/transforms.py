"""Invertible array layouts: how external arrays become one of ours, and back.

Every transform is a permutation of indices, and `prepend_zeros` adds what is zero. Forward it takes
the arrays of one rule, as a list, and gives a list; at the end of a chain there is one array, ours.
Backward it undoes that. On NumPy arrays all but `merge` and `prepend_zeros` give views, so that the
device makes the only copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from blox.wording import counted


@runtime_checkable
class Layout(Protocol):
    """One step of a transform."""

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Bring the rule's arrays one step nearer to ours."""
        ...

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        """Undo `forward`; `count` is how many arrays the rule has on the other side."""
        ...


@dataclass(frozen=True)
class Transform:
    """Layout steps one after another, joined by `>>`.

    >>> (merge(axis=0) >> T).forward([np.ones((2, 3)), np.zeros((2, 3))]).shape
    (3, 4)
    """

    steps: tuple[Layout, ...] = ()

    def __rshift__(self, other: Transform) -> Transform:
        return Transform(self.steps + other.steps)

    def forward(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Make our array of the external ones."""
        for step in self.steps:
            arrays = step.forward(arrays)
        (array,) = arrays
        return array

    def inverse(self, array: np.ndarray, count: int = 1) -> list[np.ndarray]:
        """Make the `count` external arrays of ours."""
        arrays = [array]
        for step in reversed(self.steps):
            arrays = step.inverse(arrays, count)
        if len(arrays) != count:
            raise ValueError(f'expected {counted(count, "external array")}, found {len(arrays)}')
        return arrays

    def external_shapes(self, shape: tuple[int, ...], count: int = 1) -> list[tuple[int, ...]]:
        """Return the shapes of the external arrays that make ours of `shape`, without making any.

        >>> (merge(axis=0) >> T).external_shapes((8, 12), count=3)
        [(4, 8), (4, 8), (4, 8)]
        """
        # All places of this array are one and the same, and so it stays under the views below.
        hollow = np.broadcast_to(np.zeros((), np.uint8), shape)
        return [array.shape for array in self.inverse(hollow, count)]


@dataclass(frozen=True)
class _Transpose:
    axes: tuple[int, ...]

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [array.transpose(self.axes) for array in arrays]

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        back = tuple(int(i) for i in np.argsort(self.axes))
        return [array.transpose(back) for array in arrays]


@dataclass(frozen=True)
class _JoinAxes:
    axis: int
    first: int

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        a = self.axis
        return [
            x.reshape(*x.shape[:a], x.shape[a] * x.shape[a + 1], *x.shape[a + 2 :]) for x in arrays
        ]

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        a = self.axis
        return [x.reshape(*x.shape[:a], self.first, -1, *x.shape[a + 1 :]) for x in arrays]


@dataclass(frozen=True)
class _SplitAxis:
    axis: int
    first: int

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return _JoinAxes(self.axis, self.first).inverse(arrays, len(arrays))

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        return _JoinAxes(self.axis, self.first).forward(arrays)


@dataclass(frozen=True)
class _Merge:
    axis: int
    parts: tuple[int, ...]

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate(arrays, self.axis)]

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        (array,) = arrays
        if not self.parts:
            return np.split(array, count, self.axis)
        part = array.shape[self.axis] // sum(self.parts)
        return np.split(array, np.cumsum(self.parts[:-1]) * part, self.axis)


@dataclass(frozen=True)
class _PrependZeros:
    axis: int

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        (array,) = arrays
        widths = [(int(axis == self.axis), 0) for axis in range(array.ndim)]
        return [np.pad(array, widths)]

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        (array,) = arrays
        first, rest = np.split(array, [1], self.axis)
        if first.any():
            raise ValueError(f'expected zeros first along axis {self.axis}, found others')
        return [rest]


@dataclass(frozen=True)
class _Squeeze:
    axis: int

    def forward(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [x.squeeze(self.axis) for x in arrays]

    def inverse(self, arrays: list[np.ndarray], count: int) -> list[np.ndarray]:
        return [np.expand_dims(x, self.axis) for x in arrays]


IDENTITY = Transform()


def transpose(*axes: int) -> Transform:
    """Reorder axes: our axis i is the external axis `axes[i]`."""
    return Transform((_Transpose(axes),))


def join_axes(axis: int, first: int) -> Transform:
    """Join two external axes, `axis` of size `first` and the next one, into one of ours."""
    return Transform((_JoinAxes(axis, first),))


def split_axis(axis: int, first: int) -> Transform:
    """Split one external axis into two of ours: `axis` of size `first`, and the next one.

    >>> split_axis(1, 2).forward([np.ones((3, 8, 5))]).shape
    (3, 2, 4, 5)
    """
    return Transform((_SplitAxis(axis, first),))


def merge(axis: int, parts: tuple[int, ...] = ()) -> Transform:
    """Concatenate several external arrays along `axis` of ours: equal ones, or so many parts each.

    >>> merge(0, (1, 2)).external_shapes((12, 5), count=2)
    [(4, 5), (8, 5)]
    """
    return Transform((_Merge(axis, parts),))


def prepend_zeros(axis: int) -> Transform:
    """Put zeros first along `axis`: ours has one entry more there."""
    return Transform((_PrependZeros(axis),))


def squeeze(axis: int) -> Transform:
    """Leave out an external axis of size one."""
    return Transform((_Squeeze(axis),))


# Dense weights: theirs [outputs, inputs], ours [inputs, outputs].
T = transpose(1, 0)
# Convolution weights of images: theirs [outputs, inputs, height, width].
HWIO = transpose(2, 3, 1, 0)
