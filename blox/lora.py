"""Making, merging, saving and loading low-rank adapters; see `blox.adapters` for what they are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from blox import checkpoint
from blox.adapters import (
    PARTS,
    TAG,
    adapted,
    adapter_entries,
    is_adapted,
    is_adapter,
    is_scale,
    part_columns,
    wider,
)
from blox.param import RNG, Param, describe, is_floating
from blox.params import Params, restacked, stacked_as, stacks_of
from blox.paths import Where
from blox.stacking import unstack
from blox.tensorfile import TensorFile, fail, parse_json
from blox.wording import counted, differences, some

# How the path of an adapter's half ends.
_END = re.compile(rf'_{TAG}_([{"".join(PARTS)}]_)?[ab]$')
# The header's metadata entry that says what base the adapters of a file are for.
_KEY = 'blox.lora'


def lora(
    params: Params,
    where: Where,
    rank: int = 8,
    alpha: float = 16.0,
    seed: int | jax.Array = 0,
    parts: str = '',
) -> Params:
    """Add adapters to train beside the weights that `where` names, and freeze all else.

    Biases and other vectors that `where` names get none. `a` starts uniform, within
    1 / sqrt(inputs), and `b` at zero, so at first nothing changes; they are float32 at least.
    The arrays of `params` are shared, not copied. `parts` is for an attention's fused projection
    'qkv': 'qv' gives its columns for queries and for values adapters of their own.

    >>> import blox as bx
    >>> params = bx.init(bx.Linear(bx.Graph('head'), 3), jnp.ones((1, 5)))
    >>> lora(params, 'head/w', rank=2).split_trainable()[0]
    Params(2 entries, 16 parameters, finalized)
      head/w_lora_a  float32[5,2], metadata={'tag': 'lora'}
      head/w_lora_b  float32[2,3], metadata={'scale': 8.0, 'start': 0, 'tag': 'lora'}
    """
    if rank < 1 or not is_scale(alpha):
        what = 'expected a rank of 1 or more and an alpha that float32 holds'
        raise ValueError(f'{what}, found {rank}, {alpha}')
    if is_adapted(params):
        raise ValueError('these Params have adapters already: bx.merge_lora(params) first')
    if not set(parts) <= set(PARTS) or len(set(parts)) < len(parts):
        raise ValueError(f"expected parts of 'q', 'k', 'v', each once, found {parts!r}")
    chosen, _ = params.partition(where)
    weights = {path: param for path, param in chosen.items() if _is_weight(param)}
    if not weights:
        paths = counted(len(chosen), 'path')
        raise ValueError(f'{where!r} names no weights to adapt: of {paths} none')
    entries: dict[str, Param] = {}
    # Of stacked blocks each gets its own, as if it were alone.
    for path, param in unstack({path: _shape_of(param) for path, param in weights.items()}):
        entries |= _new_adapters(path, param, rank, alpha / rank, Params(seed), parts)
    stacks = stacks_of(Params.from_entries(weights))
    adapters = stacked_as(entries, stacks, finalized=params.initialized)
    return params.freeze().merge(adapters)


def _shape_of(param: Param) -> Param:
    value = jax.ShapeDtypeStruct(param.shape, param.dtype)
    return dataclasses.replace(param, value=value)


def _is_weight(param: Param) -> bool:
    return len(param.shape) > 1 and is_floating(param.value) and not param.is_state


def _new_adapters(
    path: str, param: Param, rank: int, scale: float, rng: Params, parts: str
) -> dict[str, Param]:
    """Return the entries for one weight: one adapter, or one for each of `parts`."""
    *inputs, outputs = param.shape
    columns = part_columns(math.prod(inputs), outputs) if parts else {'': range(outputs)}
    if not columns:
        raise ValueError(
            f'{path!r}: parts {parts!r} need the fused projection of an attention, with outputs for '
            f'queries, keys and values; found a weight of {param.shape}'
        )
    dtype = wider(jnp.dtype(jnp.float32), param.dtype)
    bound = 1 / math.sqrt(math.prod(inputs))
    entries = {}
    for part in sorted(parts) or ['']:
        prefix = f'{path}_{TAG}_{part}_' if part else f'{path}_{TAG}_'
        key, _ = rng.initial_key(f'{prefix}a')
        a = jax.random.uniform(key, (*inputs, rank), dtype, -bound, bound)
        own = columns[part]
        b = jnp.zeros((rank, len(own)), dtype)
        entries |= adapter_entries(prefix, a, b, scale, own.start)
    return entries


def merge_lora(params: Params) -> Params:
    """Add each adapter to the weight that it adapts, in that weight's dtype: plain Params.

    Trainable flags stay as they are: what was frozen is; `unfreeze()` makes all trainable.
    """
    owners = {_owner(path) for path, param in params.items() if is_adapter(param)}
    involved, rest = params.partition(lambda path, p: path in owners or is_adapter(p))
    own = involved.unstack()
    _, plain = own.partition(lambda _, param: is_adapter(param))
    for path in {_owner(path) for path, param in own.items() if is_adapter(param)}:
        plain = plain.set(path, adapted(own, path, own[path].value))
    return rest.merge(restacked(plain, involved))


def _owner(path: str) -> str:
    """Return the path of the weight that the adapter at `path` adapts."""
    return path.rpartition(f'_{TAG}_')[0]


# Files of adapters.


def save_lora(path: str | os.PathLike[str], params: Params) -> None:
    """Write adapters alone, without the base that they adapt, to one safetensors file.

    All else that is trainable (a new head) or state (batch statistics) is in it too; of every
    other entry, the base, the file keeps a hash. Raises ValueError if there are no adapters.
    """
    if not is_adapted(params):
        raise ValueError('these Params have no adapters to save: bx.lora(params, where) adds some')
    own, base = params.unstack().partition(lambda _, p: p.trainable or p.is_state or is_adapter(p))
    metadata = {_KEY: json.dumps(_hashes(base), separators=(',', ':'), sort_keys=True)}
    checkpoint.save(path, own, metadata)


def load_lora(path: str | os.PathLike[str], base: Params) -> Params:
    """Freeze `base` and add the adapters of a file that `save_lora` wrote, trainable as they were.

    Raises CheckpointError, which names what differs, unless `base` is bit for bit what they were
    trained on, and for malformed files.
    """
    file = TensorFile(path)
    if _KEY not in file.metadata:
        fail(file.path, f'expected adapters saved by bx.save_lora, found no {_KEY!r} in its header')
    own, given, base = checkpoint.params_of(file), base, base.unstack()
    hashes = parse_json(file.path, file.metadata[_KEY], _KEY)
    if wrong := [name for name in own if name in base and own[name].shape != base[name].shape]:
        shapes = (f'{name} of {base[name].shape}, found {own[name].shape}' for name in wrong)
        fail(file.path, f'it is for another base: expected {"; ".join(shapes)}')
    kept = base.partition(lambda name, _: name not in own)[0]
    if wrong := differences(hashes, _hashes(kept)):
        fail(file.path, f'its adapters are for another base: {some(wrong, 4, "; ")}')
    loaded = kept.freeze().merge(own).finalize()
    if wrong := [clause for path in own for clause in _unfit(loaded, path)]:
        fail(file.path, f'adapters that do not fit: {"; ".join(wrong)}')
    return restacked(loaded, given)


def _unfit(params: Params, path: str) -> Iterator[str]:
    """Yield what is wrong with the half of an adapter at `path`, given the rest and its weight."""
    is_half, owner = is_adapter(params[path]), _owner(path)
    if is_half != bool(_END.search(path)):
        yield f'{path}: expected a path as w_{TAG}_a and the tag {TAG!r}, or neither'
    if not is_half or not _END.search(path):
        return
    other = path[:-1] + {'a': 'b', 'b': 'a'}[path[-1]]
    if owner not in params or other not in params or not is_adapter(params[other]):
        yield f'{path}: expected beside it {owner} and {other}'
        return
    if not is_floating(params[path].value):
        yield f'{path}: expected a floating-point dtype, found {params[path].dtype}'
    if path.endswith('a'):
        return
    w, a, b = (params[name].shape for name in (owner, other, path))
    scale, start = (params[path].metadata.get(name) for name in ('scale', 'start'))
    if not (len(a) == len(w) > 1 and len(b) == 2 and a == (*w[:-1], b[0])):
        yield f'{path}: expected shapes for {owner} {w}, found {a} and {b}'
    elif (
        type(scale) is not float
        or not is_scale(scale)
        or type(start) is not int
        or not 0 <= start <= w[-1] - b[1]
    ):
        yield f'{path}: expected a scale and a start that leaves room, found {scale}, {start}'


def _hashes(params: Params) -> dict[str, str]:
    """Return the dtype, shape and sha256 of each entry, by path."""
    found = {}
    for path, param in params.items():
        if path != RNG:
            data = np.ascontiguousarray(param.value).reshape(-1).view(np.uint8)
            found[path] = f'{describe(param.value)} {hashlib.sha256(data.data).hexdigest()}'
    return found
