"""Run blocks that are alike under one `jax.lax.scan`: compiled once, not once for each block."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from blox.initialization import FIRST_PASS
from blox.module import Module, equal, short
from blox.param import RNG
from blox.params import Params
from blox.stacking import STACKED, member
from blox.wording import some

_UNROLLED: ContextVar[bool] = ContextVar('unrolled', default=False)

# What a block keeps: values by the path below the block, and the attribute's name.
_Attributes: TypeAlias = Mapping[tuple[str, str], Any]


def scan(
    blocks: Sequence[Module], params: Params, x: Any, *args: Any, remat: bool = False, **kwargs: Any
) -> tuple[Any, Params]:
    """Run `x, params = block(params, x, *args, **kwargs)` for each of `blocks`, as one program.

    Outputs, gradients, random numbers and initial values are those of a loop over the blocks; the
    time that compiling takes does not grow with their number. `x` keeps its shapes and dtypes. The
    blocks' entries are stacked in `params`, as `params.stack('net/block{i}')` makes them; those
    that a first call makes come out stacked.

    Blocks are alike but for floating-point numbers that they keep, such as rates of dropout, which
    are scanned too: a block gets such a number as a traced array, so its code cannot branch on it.
    With `remat` a gradient computes a block again instead of keeping its inner values. Where single
    blocks are looked at, as by `bx.tap`, they run one by one.

    Raises ValueError that names what differs, and for Params that are not stacked.

    >>> import blox as bx
    >>> net = bx.Graph('net')
    >>> blocks = [bx.Linear(net / f'block{i}', 3) for i in range(5)]
    >>> bx.init(lambda params, x: scan(blocks, params, x), jnp.ones((1, 3)))
    Params(3 entries, 60 parameters, finalized)
      net/block*/b  float32[5,3], metadata={'stacked': (0, 5)}
      net/block*/w  float32[5,3,3], metadata={'stacked': (0, 5)}
      rng           (key<fry>[], uint32[]), trainable=False, metadata={'tag': 'rng'}
    """
    before, first = _numbering(blocks)
    numbers = {} if _UNROLLED.get() else _numbers(blocks)
    stacked = _stacked_paths(params, before, first, len(blocks))
    is_new = not (stacked or params.initialized)
    if is_new or _UNROLLED.get():
        for block in blocks:
            call = _call(block, args, kwargs)
            x, params = (jax.checkpoint(call) if remat else call)(params, x)
        return x, _stacked(params, before, first) if is_new else params
    if not stacked and any(path.startswith(f'{before}{first}/') for path in params):
        raise ValueError(
            f'a scan over {blocks[0].path!r} and those after it takes stacked Params: '
            f"params.stack('{before}{{i}}'{f', first={first}' if first else ''}), "
            'or load the model with scan=True'
        )
    if own := [path for block in blocks for path in params if path.startswith(f'{block.path}/')]:
        raise ValueError(
            f'{own[0]!r} is there by itself beside stacked entries of its blocks: stack all that they '
            'have, or none'
        )
    return _scan(blocks[0], stacked, numbers, len(blocks), params, x, args, kwargs, remat=remat)


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Have `scan` run block by block, until the block ends, where what is inside is looked at."""
    token = _UNROLLED.set(True)
    try:
        yield
    finally:
        _UNROLLED.reset(token)


def is_unrolled() -> bool:
    """Tell whether `scan` runs block by block here."""
    return _UNROLLED.get()


def _scan(
    block: Module,
    stacked: Sequence[str],
    numbers: Mapping[tuple[str, str], jax.Array],
    count: int,
    params: Params,
    x: Any,
    args: Any,
    kwargs: Any,
    *,
    remat: bool,
) -> tuple[Any, Params]:
    """Run a block `count` times, each time with its own part of the stacked entries and numbers."""
    # Each stacked path, and that of the block that runs in the place of all.
    own = {path: f'{block.path}/{path.partition("*/")[2]}' for path in stacked}
    rest = params.partition(lambda path, _: path not in own)[0]

    def run(x: Any, rng: Any, values: Any, numbers: Any) -> tuple[Any, Any, Any]:
        entries = {own[path]: member(params[path], value) for path, value in values.items()}
        whole = rest.merge(Params.from_entries(entries, finalized=params.initialized))
        whole = whole.set(RNG, rng) if rng else whole
        x, after = _with_numbers(block, numbers)(whole, x, *args, **kwargs)
        changed = [path for path in after if not _is_kept(path, whole, after)]
        if lost := [path for path in changed if path not in entries and path != RNG]:
            raise ValueError(
                f'{block.path!r} cannot run under a scan: it returns {some(lost, 3)} changed, which '
                'is not its own; for jax.checkpoint pass remat=True'
            )
        moved = {path: after[name].value for path, name in own.items() if name in changed}
        return x, after[RNG].value if rng else rng, moved

    step = jax.checkpoint(run) if remat else run

    def body(carry: Any, scanned: Any) -> tuple[Any, Any]:
        x, rng, moved = step(*carry, *scanned)
        return (x, rng), moved

    rng = params[RNG].value if RNG in params else ()
    values = {path: params[path].value for path in own}
    (x, rng), moved = jax.lax.scan(body, (x, rng), (values, numbers), length=count)
    for path, value in moved.items():
        params = params.set(path, value)
    return x, params.set(RNG, rng) if rng else params


def _is_kept(path: str, before: Params, after: Params) -> bool:
    """Tell whether a call passed on what is at `path` as it was."""
    return path in before and after[path].value is before[path].value


def _call(block: Module, args: Any, kwargs: Any) -> Any:
    return lambda params, x: block(params, x, *args, **kwargs)


def _numbering(blocks: Sequence[Module]) -> tuple[str, int]:
    """Return what the blocks' paths have before their numbers, and the first of these."""
    found = re.fullmatch(r'(.*[^0-9])([0-9]+)', blocks[0].path) if blocks else None
    if found:
        before, first = found[1], int(found[2])
        if [block.path for block in blocks] == [f'{before}{first + i}' for i in range(len(blocks))]:
            return before, first
    raise ValueError(
        "expected blocks whose paths count on, as 'net/block0', 'net/block1'; found "
        f'{some([block.path for block in blocks], 3) or "none"}'
    )


def _stacked_paths(params: Params, before: str, first: int, count: int) -> list[str]:
    """Return the paths of the blocks' stacked entries. ValueError for those of other blocks."""
    found = [path for path in params if path.startswith(f'{before}*/')]
    for path in found:
        if (there := params[path].metadata[STACKED]) != (first, first + count):
            raise ValueError(
                f'{path!r}: expected blocks {first} to {first + count - 1}, '
                f'found {there[0]} to {there[1] - 1}'
            )
    return found


def _stacked(params: Params, before: str, first: int) -> Params:
    """Stack the entries of new blocks; in `bx.init` once they are drawn."""
    first_pass, stack = FIRST_PASS.get(), (f'{before}{{i}}', first)
    if not any(path.startswith(f'{before}{first}/') for path in params):
        return params
    if first_pass is None:
        return params.stack(*stack)
    if stack not in first_pass.stacks:
        first_pass.stacks.append(stack)
    return params


# What blocks keep beside their parameters.


def _numbers(blocks: Sequence[Module]) -> dict[tuple[str, str], jax.Array]:
    """Return the numbers in which blocks differ, [blocks] each. ValueError for all other differences."""
    kept = [_attributes(block) for block in blocks]
    varying = []
    for block, found in zip(blocks, kept):
        for key in dict.fromkeys((*kept[0], *found)):
            a, b = kept[0].get(key), found.get(key)
            if type(a) is type(b) is float:
                varying += [key] if a != b else []
            elif not equal(a, b):
                below, name = key
                raise ValueError(
                    f'{blocks[0].path!r} and {block.path!r} cannot run under one scan: {name} of '
                    f'{(below or "each")!r} is {short(a)} and {short(b)}; no more than numbers like '
                    'rates may differ, so run them one by one'
                )
    # Stacked one by one, they are of weak type as Python's are: bfloat16 times one of them stays so.
    return {key: jnp.stack([jnp.asarray(found[key]) for found in kept]) for key in varying}


def _attributes(block: Module) -> _Attributes:
    """Return what the modules of a block keep, and their classes."""
    found: dict[tuple[str, str], Any] = {}
    for path, module in block.graph.walk():
        below = path[len(block.path) :]
        found[below, 'the class'] = type(module)
        for name, value in vars(module).items():
            if name != 'graph':
                found[below, name] = _comparable(value, block.path)
    return found


def _comparable(value: Any, path: str) -> Any:
    """Return `value` with modules below `path` as their places there; others are themselves."""
    if isinstance(value, Module) and value.path.startswith(f'{path}/'):
        return 'a module at', value.path[len(path) :]
    if isinstance(value, Mapping):
        return {name: _comparable(item, path) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(item, path) for item in value]
    return value


def _with_numbers(block: Module, numbers: Mapping[tuple[str, str], jax.Array]) -> Module:
    """Return a copy of a block that keeps these numbers, or the block itself if there are none."""
    if not numbers:
        return block
    parent = block.graph.parent
    copied = copy.deepcopy(block, {id(parent): parent})
    modules = {path[len(block.path) :]: module for path, module in copied.graph.walk()}
    for (below, name), value in numbers.items():
        setattr(modules[below], name, value)
    return copied
