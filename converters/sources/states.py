"""Find a model's weights in a training checkpoint, among optimizers, averages and settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from blox.converters.sources.tensor import Tensor
from blox.tensorfile import fail
from blox.wording import cut, printable, some

_LOG = logging.getLogger('blox')

# What training scripts call the weights themselves; the first that is there counts.
_PLAIN = (
    *('state_dict', 'model', 'module', 'net', 'network', 'model_state_dict', 'model_state'),
    *('params', 'weights'),
)
# What they call running averages of the weights.
_AVERAGES = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema_model', 'ema', 'params_ema')
# Names that wrappers put before those of the module that they wrap, in whatever order.
_WRAPPERS = ('module', '_orig_mod', '_forward_module', 'model', 'backbone', 'net')
# What averages count beside the weights.
_COUNTERS = ('n_averaged', 'num_updates', 'decay', 'initted', 'step')
# States lie no deeper than this, and no more wrappers are around a model.
_DEPTH = 4
_MOST_WRAPPERS = 8


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
      notes: plain values that a training checkpoint has beside its states.
      states: names of the entries that hold tensors.
      is_chosen: whether the tensors are those of the state that the caller asked for.
    """

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any] = {}
    states: tuple[str, ...] = ()
    is_chosen: bool = False


class State(NamedTuple):
    """One of a checkpoint's states: what it holds, and under which names it lies."""

    content: Any
    place: tuple[str, ...]


def find_state(path: Path, content: Any, wanted: str, is_tensor: Callable[[Any], bool]) -> State:
    """Return the state dict in what a torch file holds, which may be that itself.

    It is the one called `wanted`; without that the plain one, and an average where there is no other.
    What was taken, and what lies beside it, goes to the log.
    """
    state = State(content, ())
    for _ in range(_DEPTH):
        inner = inner_states(state.content, is_tensor)
        known = (*(() if wanted in state.place else (wanted,)), *_PLAIN, *_AVERAGES)
        name = next((name for name in known if name in inner), None)
        if name is None:
            break
        beside = printable(
            some([cut(repr(n), 40) for n in state.content if n != name]) or 'nothing'
        )
        _LOG.info('%s: took the weights in %r; beside them: %s', path, name, beside)
        state = State(state.content[name], (*state.place, name))
    return state


def inner_states(content: Any, is_tensor: Callable[[Any], bool]) -> list[str]:
    """Return the names of what holds tensors in a mapping, those of optimizers too."""
    if not isinstance(content, Mapping):
        return []
    return [
        name
        for name, value in content.items()
        if isinstance(name, str) and _holds_tensors(value, is_tensor, _DEPTH)
    ]


def _holds_tensors(value: Any, is_tensor: Callable[[Any], bool], depth: int) -> bool:
    return (
        depth > 0
        and isinstance(value, Mapping)
        and any(is_tensor(x) or _holds_tensors(x, is_tensor, depth - 1) for x in value.values())
    )


# States that share one level of names: 'model.norm.weight' and 'ema_model.norm.weight'.


def under_prefix(path: Path, contents: Contents, wanted: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `wanted` and a dot; CheckpointError if none do."""
    tensors = contents.tensors
    found = {name: x for name, x in tensors.items() if name.startswith(f'{wanted}.')}
    if not found:
        first = sorted({name.partition('.')[0] for name in tensors})
        names = f'names that start with {some([cut(name, 30) for name in first], 6)}'
        states = some([cut(name, 30) for name in contents.states], 6)
        what = f'expected a state {wanted!r}, or names that start with {wanted + "."!r}; found '
        fail(path, f'{what}{f"the states {states}, and " if states else ""}{names}')
    return found


def without_averages(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors but for averages of others of them; what is left out goes to the log."""
    rest = dict(tensors)
    for average in _AVERAGES:
        copy = {name for name in rest if name.startswith(f'{average}.')}
        if copy and _are_copies(copy, rest.keys() - copy):
            rest = {name: x for name, x in rest.items() if name not in copy}
            what = '%s: left out %d tensors under %r, an average: state=%r takes them instead'
            _LOG.info(what, path, len(copy), f'{average}.', average)
    return rest


def _are_copies(names: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether each name, its prefixes and counters apart, is among the others too."""
    return {_bare(name) for name in names} - {*_COUNTERS} <= {_bare(name) for name in others}


def _bare(name: str) -> str:
    """Return a name without what wrappers and averages put before it."""
    first, _, rest = name.partition('.')
    while rest and first in (*_WRAPPERS, *_AVERAGES):
        name = rest
        first, _, rest = name.partition('.')
    return name


def prefixes(names: Iterable[str], start: str) -> list[str]:
    """Return `start`, then what wrappers put after it: each the most frequent one below the last.

    >>> prefixes(['module.model.w', 'module.model.b', 'n'], '')
    ['', 'module.', 'module.model.']
    """
    names, found = [*names], [start]
    while len(found) <= _MOST_WRAPPERS:
        names = [name for name in names if name.startswith(found[-1])]
        longer = [f'{found[-1]}{wrapper}.' for wrapper in _WRAPPERS]
        counts = {prefix: sum(name.startswith(prefix) for name in names) for prefix in longer}
        most = max(counts, key=lambda prefix: counts[prefix])
        if not counts[most]:
            break
        found.append(most)
    return found


def is_counter(name: str) -> bool:
    """Return whether a name is of what torch's AveragedModel counts, and no parameter."""
    return name in _COUNTERS
