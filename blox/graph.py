"""Graph: the address of a module, such as 'net/mlp/hidden'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blox.module import Module


class Graph:
    """A node in the tree of names under which modules keep their parameters.

    >>> net = Graph('net')
    >>> net.child('mlp').child('hidden').path
    'net/mlp/hidden'
    >>> (net / 'readout').path
    'net/readout'
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name or '/' in name:
            raise ValueError(f"a graph name must be a non-empty string without '/', not {name!r}")
        self.name = name
        self.parent: Graph | None = None
        self.module: Module | None = None
        self._children: dict[str, Graph] = {}

    def child(self, name: str) -> Graph:
        """Add a node below this one. Raises ValueError if the name is taken."""
        if name in self._children:
            raise ValueError(f'{self.path!r} already has a child {name!r}; choose another name')
        node = Graph(name)
        node.parent = self
        self._children[name] = node
        return node

    __truediv__ = child

    @property
    def path(self) -> str:
        """The names from the root to this node, joined by '/'."""
        return self.name if self.parent is None else f'{self.parent.path}/{self.name}'

    @property
    def root(self) -> Graph:
        """The node without a parent above this one, or this one."""
        return self if self.parent is None else self.parent.root

    @property
    def children(self) -> tuple[Graph, ...]:
        """The nodes right below this one, in the order in which they were added."""
        return tuple(self._children.values())

    def attach(self, module: Module) -> None:
        """Make `module` the owner of this node. A node has at most one."""
        if self.module is not None:
            raise ValueError(
                f'{self.path!r} already belongs to a {type(self.module).__name__}; '
                f'give this {type(module).__name__} a node of its own: graph.child(name)'
            )
        self.module = module

    def walk(self) -> Iterator[tuple[str, Module]]:
        """Yield (path, module) of every owned node, this one first, depth first."""
        if self.module is not None:
            yield self.path, self.module
        for node in self.children:
            yield from node.walk()

    def __repr__(self) -> str:
        return f'Graph({self.path!r})'
