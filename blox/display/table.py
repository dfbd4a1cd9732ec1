"""A model's parameters as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from blox.display.tree import Leaf, Node, build, runs
from blox.graph import Graph
from blox.module import Module
from blox.param import describe
from blox.params import Params
from blox.wording import counted, format_bytes, in_columns

_Row: TypeAlias = tuple[str, str, str, str, str]

_HEAD: _Row = ('path', 'shape', 'dtype', 'count', '')
_LEGEND = 'T: trainable, F: frozen, S: state, which a model updates itself'


def to_text(graph: Graph | Module, params: Params, *, brief: bool = False) -> str:
    """Return a table of a graph's or a module's parameters: paths, shapes, dtypes, counts.

    With `brief`, only the first of neighbours that have the same parts and parameters, such as a
    model's blocks, is written, and a line counts those that are like it.

    >>> import blox as bx, jax.numpy as jnp
    >>> graph = bx.Graph('head')
    >>> params = bx.init(bx.Linear(graph, 300), jnp.ones((1, 20))).freeze('head/b')
    >>> print(to_text(graph, params))
    path    shape    dtype     count
    head/b  300      float32     300  F
    head/w  20, 300  float32   6,000  T
    rng              key<fry>         S
    <BLANKLINE>
    6,300 parameters (24.6 KB), 6,000 of them trainable
    T: trainable, F: frozen, S: state, which a model updates itself
    """
    root = build(graph, params)
    rows = [*_rows(root, brief)]
    # State comes last, as in Params.
    rows = [*(row for row in rows if row[0] != 'rng'), *(row for row in rows if row[0] == 'rng')]
    width = max(len(row[3]) for row in (_HEAD, *rows))
    lines = [(*row[:3], row[3].rjust(width), row[4]) for row in (_HEAD, *rows)]
    others = len(params.unstack()) - len([*root.leaves()])
    rest = (
        [f'{counted(others, "entry", "entries")} more, of no part of {root.path}'] if others else []
    )
    return '\n'.join([in_columns(lines), '', _total(root), *rest, _LEGEND])


def _rows(node: Node, brief: bool) -> Iterator[_Row]:
    """Yield a row for each parameter of a node and of those below."""
    for run in runs(node.items) if brief else ([item] for item in node.items):
        first = run[0][1]
        if isinstance(first, Leaf):
            yield _row(first)
        elif isinstance(first, Node):
            yield from _rows(first, brief)
            alike = [item for _, item in run[1:] if isinstance(item, Node)]
            if alike:
                names = dict.fromkeys((alike[0].path, alike[-1].path))
                leaves = [leaf.param for one in alike for leaf in one.leaves()]
                count = sum(param.size for param in leaves if not param.is_state)
                yield ' .. '.join(names), f'as {first.path}', '', f'{count:,}', ''


def _row(leaf: Leaf) -> _Row:
    param = leaf.param
    flag = 'S' if param.is_state else 'T' if param.trainable else 'F'
    if isinstance(param.value, tuple):
        return leaf.path, '', str(param.value[0].dtype), '', flag
    if not hasattr(param.value, 'shape'):  # A label, or a sharding.
        return leaf.path, '', describe(param.value), '', flag
    shape = ', '.join(map(str, param.shape)) or '()'
    return leaf.path, shape, str(param.dtype), f'{param.size:,}', flag


def _total(root: Node) -> str:
    params = [leaf.param for leaf in root.leaves() if not leaf.param.is_state]
    total = sum(param.size for param in params)
    trainable = sum(param.size for param in params if param.trainable)
    size = format_bytes(sum(leaf.param.nbytes for leaf in root.leaves()))
    which = 'all' if trainable == total else f'{trainable:,}'
    return f'{counted(f"{total:,}", "parameter")} ({size}), {which} of them trainable'
