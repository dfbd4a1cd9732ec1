"""Placing Params on a mesh: rules from path patterns to `jax.sharding.PartitionSpec`."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from blox.labels import first_matching, spread
from blox.param import RNG
from blox.params import Params
from blox.stacking import STACKED


def shardings(params: Params, mesh: Mesh, rules: Mapping[str, PartitionSpec]) -> Params:
    """Return a NamedSharding for each value, as `jax.jit` and `jax.device_put` take them.

    The first rule whose pattern matches a path decides; what none matches is replicated. A
    pattern that matches nothing, or a spec that does not fit a shape, is a ValueError.
    """
    # What no rule names is replicated, and the rng, a key and a counter, always.
    ruled = first_matching(params, rules)
    # A rule speaks of one block's shape: the axis of stacked ones goes before it.
    ruled |= {
        path: PartitionSpec(None, *spec)
        for path, spec in ruled.items()
        if STACKED in params[path].metadata
    }
    chosen = dict.fromkeys(params, PartitionSpec()) | ruled
    chosen |= {RNG: PartitionSpec()}
    for path, param in params.items():
        _check_fit(path, param.shape, chosen[path], mesh)
    return spread(params, {path: NamedSharding(mesh, spec) for path, spec in chosen.items()})


def shard(params: Params, mesh: Mesh, rules: Mapping[str, PartitionSpec]) -> Params:
    """Place `params` on `mesh` by `rules`; see `shardings`.

    Models are written for meshes whose axes are of type Auto, where the compiler propagates
    shardings: `jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))`.
    """
    return jax.device_put(params, shardings(params, mesh, rules))


def _check_fit(path: str, shape: tuple[int, ...], spec: PartitionSpec, mesh: Mesh) -> None:
    if len(spec) > len(shape):
        raise ValueError(f'{path!r}: {spec} has more axes than shape {shape}')
    for size, names in zip(shape, spec):
        parts = 1
        for name in _names(names):
            if name not in mesh.shape:
                raise ValueError(f'{path!r}: {spec} names {name!r}; the mesh has {mesh.axis_names}')
            parts *= mesh.shape[name]
        if size % parts:
            raise ValueError(f'{path!r}: {spec} splits an axis of {size} into {parts}')


def _names(names: Any) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a PartitionSpec."""
    if names is None:
        return ()
    return (names,) if isinstance(names, str) else tuple(names)
