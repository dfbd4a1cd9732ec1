"""The place of each parameter between a model's inputs and its outputs, counted in blocks."""

from __future__ import annotations

import re
from typing import Any

from blox import paths
from blox.params import Params
from blox.stacking import members
from blox.zoo.models import family_of
from blox.zoo.running.embedding import TWO_TOWERS

_BLOCK = re.compile(r'.*/block\d+')


def tune_last(model: Any, params: Params, count: int) -> Params:
    """Freeze all but the last `count` blocks and what comes after them; of none, all but the head.

    Raises ValueError for more blocks than there are, and for stacked ones, which are frozen together.

    >>> import blox as bx
    >>> model, params = bx.zoo.load('vit-digits', num_classes=3)
    >>> [path for path in tune_last(model, params, 0).split_trainable()[0]]
    ['vit/head/b', 'vit/head/w']
    >>> tune_last(model, params, 2).split_trainable()[0].num_params
    150051
    """
    places = depths(model, params)
    has_head = family_of(model).count_classes(model.config) > 0
    least, blocks = 0 if has_head else 1, _count_blocks(model)
    if not least <= count <= blocks:
        raise ValueError(
            f'expected the number of blocks to train, {least} to {blocks}, found {count}'
        )
    if any(len(place) > 1 for place in places.values()):
        raise ValueError('blocks under one scan are frozen together: load without scan=True')
    tuned = {path for path, (place,) in places.items() if place > blocks - count}
    return params.freeze().unfreeze(lambda path, _: path in tuned)


def decay_factors(
    model: Any, params: Params, decay: float
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Return `decay` to the power of how many blocks each parameter is below the outputs, by path.

    The head has a factor of 1, the last block one of `decay`, the stem the least; stacked entries have
    one for each block. Without a head the last block has 1. () for no decay.
    """
    if decay == 1:
        return ()
    places = depths(model, params)
    top = max(place for own in places.values() for place in own)
    return tuple(
        (path, tuple(decay ** (top - place) for place in own)) for path, own in places.items()
    )


def depths(model: Any, params: Params) -> dict[str, tuple[int, ...]]:
    """Return the place of each trainable parameter, of a stacked one those of its blocks.

    It is 0 before the first block, then the number of the block, and one more than that of the last for the
    head. What lies between two blocks has the place of the second; the last norm that of the last block.
    """
    modules = _depths_of_modules(model)
    head = family_of(model).head
    top = _count_blocks(model) + 1

    def place(path: str) -> int:
        if head and paths.matches(head.pattern, path):
            return top
        while path not in modules:
            path = path.rpartition('/')[0]
        return modules[path]

    return {
        path: tuple(map(place, members(path, param.metadata) or [path]))
        for path, param in params.split_trainable()[0].items()
    }


def _depths_of_modules(model: Any) -> dict[str, int]:
    """Return the place of each module, the head's as that of the last block."""
    last, found, block = _count_blocks(model), {}, ''
    number = 0
    for path, _ in model.graph.walk():
        if _BLOCK.fullmatch(path):
            number, block = number + 1, path
        is_inside = path == block or path.startswith(f'{block}/')
        # Between two blocks a module belongs to the second.
        found[path] = number if is_inside or number in (0, last) else number + 1
    return found


def _count_blocks(model: Any) -> int:
    """Count a model's blocks. ValueError for two towers, whose blocks have no one order."""
    if family_of(model).task_of(model.config) == TWO_TOWERS:
        raise ValueError('the blocks of two towers have no one order: freeze and label by path')
    return sum(_BLOCK.fullmatch(path) is not None for path, _ in model.graph.walk())
