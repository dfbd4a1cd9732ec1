"""Looking at a model: its graph with arguments, parameters and sizes, as text or HTML."""

from __future__ import annotations

import functools
import html
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from jax.sharding import NamedSharding

from blox.graph import Graph
from blox.module import Module
from blox.param import RNG, Param, describe
from blox.params import Params
from blox.statistics import Statistics, statistics

_Item: TypeAlias = 'tuple[str, _Node | _Leaf | str]'

_ALARM = 'background: #b00020; color: white; font-weight: bold'
# Nothing may be fetched, whatever a name or a card holds: treescope's scripts are in the page.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; font-src data:"
)
_STYLE = f"""
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 1.5em }}
h1 {{ font-size: 1.4em; margin: 0 0 0.5em }}
th {{ color: #666; font-weight: normal; padding-right: 1.5em; text-align: left }}
th, td {{ overflow-wrap: anywhere; vertical-align: top }}
th {{ white-space: nowrap }}
.alarm {{ {_ALARM}; padding: 0.3em 0.6em }}
treescope-container {{ overflow-x: auto; padding-left: 1em }}
"""
_LEGEND = (
    'Param[T] is trainable, Param[N] is not. Statistics are of finite numbers. '
    'Click a name to fold or unfold it.'
)


@dataclass
class _Leaf:
    """A parameter, of which a page tells more if it is `measured`."""

    path: str
    param: Param
    measured: bool

    @functools.cached_property
    def statistics(self) -> Statistics | None:
        return statistics(self.param.value) if self.measured else None

    @property
    def alarm(self) -> str:
        return self.statistics.alarm if self.statistics else ''

    def render(self, name: str, subtree_renderer: Any) -> Any:
        """A line of the most telling facts, which unfolds to one for each fact."""
        from treescope import rendering_parts as parts

        facts = [parts.text(f'{fact}={value}') for fact, value in self._facts().items()]
        rows = parts.indented_children(
            [*facts, self._render_value(subtree_renderer)], comma_separated=True
        )
        if self.measured:
            line = parts.abbreviation_color(parts.text(self._line()))
            rows = parts.fold_condition(collapsed=line, expanded=rows)
        role, alarm = _marked(_role(self.param), 'color: #0061a8'), _marked(self.alarm, _ALARM)
        return parts.build_custom_foldable_tree_node(
            label=parts.text(f'{name}={_flag(self.param)}('),
            contents=parts.siblings(rows, ')', role, alarm),
            path=self.path,
        )

    def _render_value(self, subtree_renderer: Any) -> Any:
        from treescope import rendering_parts as parts

        with warnings.catch_warnings():
            # Treescope's own statistics warn of arrays that are NaN or Inf all over.
            warnings.simplefilter('ignore')
            value = subtree_renderer(self.param.value, path=None)
        return parts.siblings_with_annotations('value=', value)

    def _line(self) -> str:
        facts, place = self._facts(), _place(self.param.value)
        known = [facts[name] for name in ('size', 'statistics') if name in facts]
        split = [place] if ' over ' in place else []
        return '  '.join([describe(self.param.value), *known, *split])

    def _facts(self) -> dict[str, str]:
        param, metadata = self.param, dict(self.param.metadata) or ''
        facts: dict[str, Any] = {'metadata': metadata}
        if self.measured:
            facts = {
                'shape': param.shape,
                'dtype': param.dtype,
                'size': f'{param.size:,} ({format_bytes(param.nbytes)})' if param.size else '',
                'statistics': self.statistics or '',
                'sharding': _place(param.value),
                'metadata': metadata,
            }
        return {name: str(fact) for name, fact in facts.items() if fact != ''}


@dataclass
class _Node:
    """What is shown of one graph node. Items are (name, nested node, parameter, or text)."""

    title: str
    comment: str
    path: str
    items: list[tuple[str, _Node | _Leaf | str]] = field(default_factory=list)

    def leaves(self) -> Iterator[_Leaf]:
        """The parameters of this node and of those below."""
        for _, item in self.items:
            if isinstance(item, _Node):
                yield from item.leaves()
            elif isinstance(item, _Leaf):
                yield item

    def parts(self) -> tuple[Any, ...]:
        """Types and parameters by name, here and below, whatever the modules' arguments are."""
        inner = [(name, item.parts()) for name, item in self.items if isinstance(item, _Node)]
        own = [(name, repr(item.param)) for name, item in self.items if isinstance(item, _Leaf)]
        return self.title, *inner, *own

    def render(self, prefix: str, subtree_renderer: Any, *, expanded: bool) -> Any:
        """A foldable part; of alike siblings the first alone is unfolded."""
        from treescope import rendering_parts as parts

        children = [
            _render_item(name, item, subtree_renderer, expanded=i == 0)
            for run in _runs(self.items)
            for i, (name, item) in enumerate(run)
        ]
        inside = parts.indented_children(children, comma_separated=True)
        broken = sum(1 for leaf in self.leaves() if leaf.alarm)
        return parts.build_custom_foldable_tree_node(
            label=parts.siblings(
                f'{prefix}{self.title} ',
                parts.comment_color(parts.text(self.comment)),
                _marked(f'NaN or Inf in {broken} below' if broken else '', _ALARM),
                '(',
            ),
            contents=parts.siblings(
                parts.fold_condition(collapsed=parts.text('...'), expanded=inside), ')'
            ),
            path=self.path,
            expand_state=parts.ExpandState.EXPANDED if expanded else parts.ExpandState.COLLAPSED,
        )

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        return self.render('', subtree_renderer, expanded=True)


def _render_item(
    name: str, item: _Node | _Leaf | str, subtree_renderer: Any, *, expanded: bool
) -> Any:
    from treescope import rendering_parts as parts

    if isinstance(item, _Node):
        return item.render(f'{name}=', subtree_renderer, expanded=expanded)
    if isinstance(item, _Leaf):
        return item.render(name, subtree_renderer)
    return parts.text(f'{name}={item}')


def _marked(text: str, style: str) -> Any:
    from treescope import rendering_parts as parts

    return parts.siblings(' ', parts.custom_style(parts.text(text), style)) if text else ''


def display(graph: Graph | Module, params: Params) -> None:
    """Shows a graph, or a module, with its parameters: rich in a notebook, text in a terminal."""
    if _in_notebook():
        import treescope

        treescope.display(_build(graph, params), ignore_exceptions=True)
    else:
        print(to_text(graph, params))


def to_text(graph: Graph | Module, params: Params, *, brief: bool = False) -> str:
    """What `display` prints in a terminal.

    With `brief`, of neighbours that have the same parts and parameters, such as a model's
    blocks, the first alone is printed, and a line says which are like it.

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
    return '\n'.join([f'{node.title} {node.comment}(', *_lines(node, '  ', brief), ')'])


def to_html(
    graph: Graph | Module, params: Params, *, about: Mapping[str, object] | None = None
) -> str:
    """A self-contained HTML page of what `display` shows in a notebook, that fetches nothing.

    Each parameter has its shape, dtype, size, statistics, sharding and metadata; NaN and Inf are
    marked, here and on top. Of the values only a few at the edges are in the page. `about` is more
    to say on top, texts by name, of which 'name' is the title.
    """
    import treescope

    node = _build(graph, params, measured=True)
    title = html.escape(str((about or {}).get('name', node.path)))
    body = treescope.render_to_html(node, ignore_exceptions=True)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>'
        f'{_table(about or {})}{_verdict(node)}<p>{_LEGEND}</p>{body}</body></html>\n'
    )


def _table(about: Mapping[str, object]) -> str:
    rows = (
        f'<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in about.items()
        if name != 'name'
    )
    return f'<table>{"".join(rows)}</table>'


def _verdict(node: _Node) -> str:
    """Whether all numbers are finite, and which are not; nothing of shapes alone."""
    leaves = [leaf for leaf in node.leaves() if leaf.statistics]
    broken = [f'{leaf.path}: {leaf.alarm}' for leaf in leaves if leaf.alarm]
    if not broken:
        return '<p>All numbers are finite.</p>' if leaves else ''
    more = [f'and {len(broken) - 20} more'] if len(broken) > 20 else []
    found = html.escape('; '.join(broken[:20] + more))
    return f'<p class="alarm">Not all numbers are finite: {found}</p>'


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


def _build(graph: Graph | Module, params: Params, *, measured: bool = False) -> _Node:
    graph = graph.graph if isinstance(graph, Module) else graph
    places: dict[str, list[tuple[str, _Leaf]]] = {}
    for path, param in params.items():
        place, _, name = path.rpartition('/')
        places.setdefault(place, []).append((name, _Leaf(path, param, measured)))
    root = _build_node(graph, params, places)
    root.title = f'{graph.name}: {root.title}'
    if RNG in params:
        root.items.insert(0, (RNG, _Leaf(RNG, params[RNG], measured)))
    inside = graph.path + '/'
    for place, entries in places.items():
        # What the graph has no node for is shown by its whole path.
        if place.startswith(inside):
            root.items += [(leaf.path, leaf) for _, leaf in entries]
    return root


def _build_node(graph: Graph, params: Params, places: dict[str, list[tuple[str, _Leaf]]]) -> _Node:
    module = graph.module
    below = [param for path, param in params.items() if path.startswith(graph.path + '/')]
    numbers = sum(param.size for param in below if not param.is_state)
    size = format_bytes(sum(param.nbytes for param in below))
    node = _Node(type(module or graph).__name__, f'# Param: {numbers} ({size})', graph.path)
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


def _lines(node: _Node, indent: str, brief: bool = False) -> Iterator[str]:
    for name, item in _shortened(node.items) if brief else node.items:
        if isinstance(item, _Node):
            if item.items:
                yield f'{indent}{name}={item.title} {item.comment}('
                yield from _lines(item, indent + '  ', brief)
                yield f'{indent}),'
            else:
                yield f'{indent}{name}={item.title}(),'
        elif isinstance(item, _Leaf):
            yield f'{indent}{name}={_flag(item.param)}({_described(item.param)}),'
        else:
            yield f'{indent}{name}={item},'


def _shortened(items: Iterable[_Item]) -> Iterator[_Item]:
    """Of items that are alike the first, and a line about the others."""
    for run in _runs(items):
        yield run[0]
        others = [name for name, _ in run[1:]]
        if others:
            equal = (
                len({tuple(_lines(node, '')) for _, node in run if isinstance(node, _Node)}) == 1
            )
            like = 'like' if equal else 'parameters like'
            yield '..'.join(dict.fromkeys([others[0], others[-1]])), f'{like} {run[0][0]}'


def _runs(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Neighbouring nodes that have the same parts and parameters, together; all else alone."""

    def likeness(item: _Item) -> object:
        node = item[1]
        return node.parts() if isinstance(node, _Node) and any(node.leaves()) else object()

    return (list(run) for _, run in itertools.groupby(items, likeness))


def _flag(param: Param) -> str:
    return 'Param[T]' if param.trainable else 'Param[N]'


def _described(param: Param) -> str:
    return repr(param).removeprefix('Param(').removesuffix(')').replace(', trainable=False', '')


def _role(param: Param) -> str:
    """What a parameter that is not trained is there for."""
    if param.is_state:
        return str(param.metadata['tag'])
    return '' if param.trainable else 'frozen'


def _place(value: Any) -> str:
    """The device that an array is on, or how it is spread over several of them."""
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
