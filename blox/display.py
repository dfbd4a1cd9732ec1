"""Looking at a model: its graph with arguments, parameters and sizes, as text or HTML."""

from __future__ import annotations

import html
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from blox.graph import Graph
from blox.module import Module
from blox.param import RNG, Param
from blox.params import Params


@dataclass
class _Node:
    """What is shown of one graph node. Items are (name, nested node, Param, or text)."""

    title: str
    comment: str
    items: list[tuple[str, _Node | Param | str]] = field(default_factory=list)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope import rendering_parts as parts

        children = []
        for name, item in self.items:
            if isinstance(item, _Node):
                rendering = item._render(f'{name}=', path, subtree_renderer)
            elif isinstance(item, Param):
                rendering = _render_param(name, item, path, subtree_renderer)
            else:
                rendering = parts.siblings(f'{name}={item}')
            children.append(rendering)
        return parts.build_foldable_tree_node_from_children(
            prefix=parts.siblings(
                self.title, ' ', parts.comment_color(parts.text(self.comment)), '('
            ),
            children=children,
            suffix=')',
            comma_separated=True,
            path=path,
            expand_state=parts.ExpandState.EXPANDED,
        )

    def _render(self, prefix: str, path: str | None, subtree_renderer: Any) -> Any:
        titled = _Node(prefix + self.title, self.comment, self.items)
        return titled.__treescope_repr__(path, subtree_renderer)


def _render_param(name: str, param: Param, path: str | None, subtree_renderer: Any) -> Any:
    from treescope import rendering_parts as parts

    children: list[Any] = [
        parts.siblings_with_annotations('value=', subtree_renderer(param.value, path=None))
    ]
    if param.metadata:
        children.insert(0, parts.siblings(f'metadata={dict(param.metadata)}'))
    return parts.build_foldable_tree_node_from_children(
        prefix=f'{name}={_flag(param)}(',
        children=children,
        suffix=')',
        comma_separated=True,
        path=path,
    )


def display(graph: Graph | Module, params: Params) -> None:
    """Shows a graph, or a module, with its parameters: rich in a notebook, text in a terminal."""
    if _in_notebook():
        import treescope

        treescope.display(_build(graph, params), ignore_exceptions=True)
    else:
        print(to_text(graph, params))


def to_text(graph: Graph | Module, params: Params) -> str:
    """What `display` prints in a terminal.

    >>> import blox as bx, jax.numpy as jnp
    >>> graph = bx.Graph('head')
    >>> params = bx.init(bx.Linear(graph, 3), jnp.ones((1, 2)))
    >>> print(to_text(graph, params))
    head: Linear # Param: 9 (36.0 B)(
      rng=Param[N]((key<fry>[], uint32[]), metadata={'tag': 'rng'}),
      output_size=3,
      b=Param[T](float32[3]),
      w=Param[T](float32[2,3]),
    )
    """
    node = _build(graph, params)
    return '\n'.join([f'{node.title} {node.comment}(', *_lines(node, '  '), ')'])


def to_html(graph: Graph | Module, params: Params) -> str:
    """A self-contained HTML page of what `display` shows in a notebook."""
    import treescope

    graph = graph.graph if isinstance(graph, Module) else graph
    body = treescope.render_to_html(_build(graph, params), ignore_exceptions=True)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<title>{html.escape(graph.name)}</title></head><body>{body}</body></html>\n'
    )


def format_bytes(count: float) -> str:
    """A number of bytes with its unit.

    >>> format_bytes(132), format_bytes(1540), format_bytes(102228128)
    ('132.0 B', '1.5 KB', '97.5 MB')
    """
    for unit in ('B', 'KB', 'MB', 'GB'):
        if count < 1024:
            return f'{count:.1f} {unit}'
        count /= 1024
    return f'{count:.1f} TB'


def _build(graph: Graph | Module, params: Params) -> _Node:
    graph = graph.graph if isinstance(graph, Module) else graph
    places: dict[str, list[tuple[str, Param]]] = {}
    for path, param in params.items():
        place, _, name = path.rpartition('/')
        places.setdefault(place, []).append((name, param))
    root = _build_node(graph, params, places)
    root.title = f'{graph.name}: {root.title}'
    if RNG in params:
        root.items.insert(0, (RNG, params[RNG]))
    inside = graph.path + '/'
    for place, entries in places.items():
        # What the graph has no node for, such as adapters, is shown by its whole path.
        if place.startswith(inside):
            root.items += [(f'{place}/{name}', param) for name, param in entries]
    return root


def _build_node(graph: Graph, params: Params, places: dict[str, list[tuple[str, Param]]]) -> _Node:
    module = graph.module
    below = [param for path, param in params.items() if path.startswith(graph.path + '/')]
    numbers = sum(param.size for param in below if not param.is_state)
    size = format_bytes(sum(param.nbytes for param in below))
    node = _Node(type(module or graph).__name__, f'# Param: {numbers} ({size})')
    if module is not None:
        node.items += [(name, _short(value)) for name, value in module.arguments().items()]
        node.items += list(_links(module))
    node.items += places.pop(graph.path, [])
    node.items += [(child.name, _build_node(child, params, places)) for child in graph.children]
    return node


def _links(module: Module) -> Iterator[tuple[str, str]]:
    """The modules that this one holds but that live elsewhere in the graph."""
    for name, value in vars(module).items():
        if isinstance(value, Module) and value.graph.parent is not module.graph:
            yield name, _short(value)


def _lines(node: _Node, indent: str) -> Iterator[str]:
    for name, item in node.items:
        if isinstance(item, _Node):
            if item.items:
                yield f'{indent}{name}={item.title} {item.comment}('
                yield from _lines(item, indent + '  ')
                yield f'{indent}),'
            else:
                yield f'{indent}{name}={item.title}(),'
        elif isinstance(item, Param):
            yield f'{indent}{name}={_flag(item)}({_described(item)}),'
        else:
            yield f'{indent}{name}={item},'


def _flag(param: Param) -> str:
    return 'Param[T]' if param.trainable else 'Param[N]'


def _described(param: Param) -> str:
    return repr(param).removeprefix('Param(').removesuffix(')').replace(', trainable=False', '')


def _short(value: Any) -> str:
    """A value on one line; a function by its name."""
    if isinstance(value, Module):
        return f'<{type(value).__name__} at {value.path}>'
    if callable(value) and hasattr(value, '__name__'):
        return value.__name__
    if isinstance(value, tuple | list) and any(callable(item) for item in value):
        return f'[{", ".join(_short(item) for item in value)}]'
    return repr(value)


def _in_notebook() -> bool:
    ipython = sys.modules.get('IPython')
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, 'kernel')
