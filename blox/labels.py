"""Labels for Params by path pattern, as optimizers and meshes ask for them."""

from collections.abc import Mapping
from typing import TypeVar

import jax

from blox import paths
from blox.params import Params
from blox.wording import some

_Label = TypeVar('_Label')


def labels(params: Params, rules: Mapping[str, _Label]) -> Params:
    """Return the tree of `params` with labels for values: that of the first pattern that fits.

    It is what `optax.masked`, `optax.multi_transform` and the `mask` of `optax.adamw` take. A pattern
    that matches nothing, or an entry that none matches, is a ValueError: end with '**'.

    >>> import blox as bx, jax.numpy as jnp
    >>> params = bx.init(bx.Linear(bx.Graph('head'), 3), jnp.ones((1, 5))).split_trainable()[0]
    >>> labels(params, {'**/b': 'no decay', '**': 'decay'})
    Params(2 entries, 0 parameters, finalized)
      head/b  'no decay'
      head/w  'decay'
    """
    chosen = first_matching(params, rules)
    if missing := [path for path in params if path not in chosen]:
        raise ValueError(
            f"no pattern of {list(rules)} matches {some(missing, 3)}: end with '**' for the rest"
        )
    return spread(params, chosen)


def first_matching(params: Params, rules: Mapping[str, _Label]) -> dict[str, _Label]:
    """Map each path that a pattern matches to the label of the first such pattern."""
    found: dict[str, _Label] = {}
    for pattern, label in rules.items():
        for path in paths.select(pattern, params.items()):
            found.setdefault(path, label)
    return found


def spread(params: Params, chosen: Mapping[str, _Label]) -> Params:
    """Return the tree of `params` with `chosen[path]` in each leaf's place."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(params)
    # A leaf's key path starts with the entry's path; the rng has two leaves under its own.
    return treedef.unflatten(chosen[keys[0].key] for keys, _ in leaves)
