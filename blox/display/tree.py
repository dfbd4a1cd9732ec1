"""The tree that is shown of a graph: its nodes, with modules' arguments, parameters and sizes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jax.sharding import NamedSharding

from blox.graph import Graph
from blox.module import Module, short
from blox.param import RNG, Param
from blox.params import Params
from blox.statistics import Statistics, statistics
from blox.wording import format_bytes

Item: TypeAlias = 'tuple[str, Node | Leaf | str]'


@dataclass
class Leaf:
    """A parameter; a page tells more of it if it is `measured`."""

    path: str
    param: Param
    measured: bool

    @functools.cached_property
    def statistics(self) -> Statistics | None:
        return statistics(self.param.value) if self.measured else None

    @property
    def alarm(self) -> str:
        return self.statistics.alarm if self.statistics else ''

    def facts(self) -> dict[str, str]:
        """Return all that is known of the parameter, by name."""
        param, metadata = self.param, dict(self.param.metadata) or ''
        facts: dict[str, Any] = {'metadata': metadata}
        if self.measured:
            facts = {
                'shape': param.shape,
                'dtype': param.dtype,
                'size': f'{param.size:,} ({format_bytes(param.nbytes)})' if param.size else '',
                'statistics': self.statistics or '',
                'sharding': place(param.value),
                'metadata': metadata,
            }
        return {name: str(fact) for name, fact in facts.items() if fact != ''}


@dataclass
class Node:
    """A graph node as it is shown. Items are (name, nested node, parameter, or text)."""

    title: str
    comment: str
    path: str
    items: list[tuple[str, Node | Leaf | str]] = field(default_factory=list)

    def leaves(self) -> Iterator[Leaf]:
        """Yield the parameters of this node and of those below."""
        for _, item in self.items:
            if isinstance(item, Node):
                yield from item.leaves()
            elif isinstance(item, Leaf):
                yield item

    def parts(self) -> tuple[Any, ...]:
        """Return types and parameters by name, here and below, but no arguments of modules."""
        inner = [(name, item.parts()) for name, item in self.items if isinstance(item, Node)]
        own = [(name, repr(item.param)) for name, item in self.items if isinstance(item, Leaf)]
        return self.title, *inner, *own


def build(graph: Graph | Module, params: Params, *, measured: bool = False) -> Node:
    """Build the tree of a graph, or of a module's graph, with its parameters."""
    graph = graph.graph if isinstance(graph, Module) else graph
    params = params.unstack()
    places: dict[str, list[tuple[str, Leaf]]] = {}
    for path, param in params.items():
        above, _, name = path.rpartition('/')
        places.setdefault(above, []).append((name, Leaf(path, param, measured)))
    root = _build_node(graph, params, places)
    root.title = f'{graph.name}: {root.title}'
    if RNG in params:
        root.items.insert(0, (RNG, Leaf(RNG, params[RNG], measured)))
    inside = graph.path + '/'
    for above, entries in places.items():
        # What the graph has no node for is shown by its whole path.
        if above.startswith(inside):
            root.items += [(leaf.path, leaf) for _, leaf in entries]
    return root


def _build_node(graph: Graph, params: Params, places: dict[str, list[tuple[str, Leaf]]]) -> Node:
    module = graph.module
    below = [param for path, param in params.items() if path.startswith(graph.path + '/')]
    numbers = sum(param.size for param in below if not param.is_state)
    size = format_bytes(sum(param.nbytes for param in below))
    node = Node(type(module or graph).__name__, f'# Param: {numbers:,} ({size})', graph.path)
    if module is not None:
        node.items += [(name, short(value)) for name, value in module.arguments().items()]
        node.items += list(_links(module))
    node.items += places.pop(graph.path, [])
    node.items += [(child.name, _build_node(child, params, places)) for child in graph.children]
    return node


def _links(module: Module) -> Iterator[tuple[str, str]]:
    """Yield the modules that this one holds but that live elsewhere in the graph."""
    for name, value in vars(module).items():
        if isinstance(value, Module) and value.graph.parent is not module.graph:
            yield name, short(value)


def runs(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Group neighbouring nodes that have the same parts and parameters; all else stays alone."""

    def likeness(item: Item) -> object:
        node = item[1]
        return node.parts() if isinstance(node, Node) and any(node.leaves()) else object()

    return (list(run) for _, run in itertools.groupby(items, likeness))


def flag(param: Param) -> str:
    """Say whether a parameter is trainable."""
    return 'Param[T]' if param.trainable else 'Param[N]'


def role(param: Param) -> str:
    """Say what a parameter that is not trained is there for."""
    if param.is_state:
        return str(param.metadata['tag'])
    return '' if param.trainable else 'frozen'


def place(value: Any) -> str:
    """Name the device that an array is on, or say how it is spread over several."""
    sharding = getattr(value, 'sharding', None)
    if sharding is None:
        return ''
    devices = sharding.device_set
    first = min(devices, key=lambda device: device.id)
    if len(devices) == 1:
        return f'{first.platform}:{first.id}'
    where = f'{len(devices)} {first.platform} devices'
    if sharding.is_fully_replicated:
        return f'copied to {where}'
    if isinstance(sharding, NamedSharding):
        axes = ', '.join(f'{name} {size}' for name, size in sharding.mesh.shape.items())
        return f'{tuple(sharding.spec)} over {where} ({axes})'
    return f'split over {where}'
