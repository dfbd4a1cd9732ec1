"""Named intermediates of a model, for detection and retrieval heads."""

from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from blox.params import Params
from blox.scan import unrolled
from blox.wording import counted


class Feature(NamedTuple):
    """One of the arrays that `model.features` gives.

    Attributes:
      name: the step of the model that gives it.
      channels: the size of its last axis.
      strides: pixels of the image for one place of its map, down and across; () for what is no
        map: pooled features, states of tokens.
    """

    name: str
    channels: int
    strides: tuple[int, ...] = ()


# A model's computation: after each step its name, the value so far, and Params.
Steps: TypeAlias = Iterator[tuple[str, Any, Params]]


def finish(steps: Steps) -> tuple[Any, Params]:
    """Return what the last of `steps` gives."""
    _, value, params = deque(steps, maxlen=1).pop()
    return value, params


def named(
    prefix: str, steps: Steps
) -> Generator[tuple[str, Any, Params], None, tuple[Any, Params]]:
    """Yield `steps` by names that begin with `prefix`, and return what the last one gives."""
    last = deque[tuple[Any, Params]](maxlen=1)
    for name, value, params in steps:
        last.append((value, params))
        yield f'{prefix}{name}', value, params
    return last.pop()


def collect(
    steps: Steps,
    known: Sequence[Feature],
    names: Sequence[str] | None,
) -> tuple[OrderedDict[str, Any], Params]:
    """Return what `steps` gives at `names`, all known ones if None; what comes after is not run."""
    available = [feature.name for feature in known]
    wanted = set(available if names is None else names)
    if unknown := sorted(wanted - set(available)) or (not wanted and ['none']):
        raise ValueError(
            f'expected names of features, found {", ".join(unknown)}; '
            f'the model has {", ".join(available)}'
        )
    # A plain dict would come out of jit in the order of its keys.
    found = OrderedDict()
    with unrolled():
        for name, x, params in steps:
            if name in wanted:
                found[name] = x
            if len(found) == len(wanted):
                return found, params
    raise RuntimeError(f'the model gave no {", ".join(sorted(wanted - set(found)))}')


def map_names(known: Sequence[Feature], out_indices: Sequence[int]) -> list[str]:
    """Return the names of the maps at `out_indices`; negative ones count from the last."""
    maps = [feature.name for feature in known if feature.strides]
    wrong = [i for i in out_indices if not -len(maps) <= i < len(maps)]
    if wrong or not out_indices:
        raise ValueError(
            f'expected out_indices of {counted(len(maps), "map")} ({", ".join(maps)}), '
            f'found {out_indices}'
        )
    return [maps[i] for i in out_indices]
