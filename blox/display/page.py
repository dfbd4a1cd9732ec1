"""The tree as treescope renders it: in a notebook, and as an HTML page."""

from __future__ import annotations

import dataclasses
import html
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from blox.display.tree import Leaf, Node, build, flag, place, role, runs
from blox.graph import Graph
from blox.module import Module
from blox.param import describe
from blox.params import Params
from blox.wording import some

_ALARM = 'background: #b00020; color: white; font-weight: bold'
# Lines are as wide as the window, where treescope's are as long as they are.
_WRAPPED = 'white-space: pre-wrap; overflow-wrap: anywhere'
# Nothing may be fetched, whatever a name or a card holds: treescope's scripts are in the page.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; font-src data:"
)
_STYLE = f"""
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 1.5em; overflow-wrap: anywhere }}
h1 {{ font-size: 1.4em; margin: 0 0 0.5em }}
th {{ color: #666; font-weight: normal; padding-right: 1.5em; text-align: left }}
th, td {{ vertical-align: top }}
th {{ white-space: nowrap }}
.alarm {{ {_ALARM}; padding: 0.3em 0.6em }}
treescope-container {{ overflow-x: auto; padding-left: 1em }}
"""
_LEGEND = (
    'Param[T] is trainable, Param[N] is not. Statistics are of finite numbers. '
    'Click a name to fold or unfold it.'
)


def to_html(
    graph: Graph | Module, params: Params, *, about: Mapping[str, object] | None = None
) -> str:
    """Return a self-contained HTML page, which fetches nothing, of what a notebook shows.

    Each parameter has its shape, dtype, size, statistics, sharding and metadata; NaN and Inf are
    marked, here and on top. The page holds only a few values, those at the edges. `about` is more
    to say on top, texts by name; its 'name' is the title.
    """
    import treescope

    node = build(graph, params, measured=True)
    title = html.escape(str((about or {}).get('name', node.path)))
    body = treescope.render_to_html(Rendered(node), ignore_exceptions=True)
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


def _verdict(node: Node) -> str:
    """Say whether all numbers are finite, and which are not; nothing of a spec."""
    leaves = [leaf for leaf in node.leaves() if leaf.statistics]
    broken = [f'{leaf.path}: {leaf.alarm}' for leaf in leaves if leaf.alarm]
    if not broken:
        return '<p>All numbers are finite.</p>' if leaves else ''
    found = html.escape(some(broken, 20, '; '))
    return f'<p class="alarm">Not all numbers are finite: {found}</p>'


class Rendered(NamedTuple):
    """A tree that treescope shows as foldable parts."""

    root: Node

    def __treescope_repr__(self, path: str | None, subtree_renderer: Any) -> Any:
        from treescope import rendering_parts as parts

        tree = _render_node('', self.root, subtree_renderer, expanded=True)
        return dataclasses.replace(tree, renderable=parts.custom_style(tree.renderable, _WRAPPED))


def _render_node(prefix: str, node: Node, subtree_renderer: Any, *, expanded: bool) -> Any:
    """Render a foldable part; of alike siblings the first alone is unfolded.

    A module of arguments alone, as a dropout, is folded to one line of them.
    """
    from treescope import rendering_parts as parts

    children = [
        _render_item(name, item, subtree_renderer, expanded=i == 0)
        for run in runs(node.items)
        for i, (name, item) in enumerate(run)
    ]
    inside = parts.indented_children(children, comma_separated=True)
    broken = sum(1 for leaf in node.leaves() if leaf.alarm)
    arguments = [f'{name}={item}' for name, item in node.items if isinstance(item, str)]
    has_parts = len(arguments) < len(node.items)
    folded = '...' if has_parts else ', '.join(arguments)
    return parts.build_custom_foldable_tree_node(
        label=parts.siblings(
            f'{prefix}{node.title} ',
            parts.comment_color(parts.text(node.comment)),
            _marked(f'NaN or Inf in {broken} below' if broken else '', _ALARM),
            '(',
        ),
        contents=parts.siblings(
            parts.fold_condition(collapsed=parts.text(folded), expanded=inside), ')'
        ),
        path=node.path,
        expand_state=(
            parts.ExpandState.EXPANDED if expanded and has_parts else parts.ExpandState.COLLAPSED
        ),
    )


def _render_item(
    name: str, item: Node | Leaf | str, subtree_renderer: Any, *, expanded: bool
) -> Any:
    from treescope import rendering_parts as parts

    if isinstance(item, Node):
        return _render_node(f'{name}=', item, subtree_renderer, expanded=expanded)
    if isinstance(item, Leaf):
        return _render_leaf(name, item, subtree_renderer)
    return parts.text(f'{name}={item}')


def _render_leaf(name: str, leaf: Leaf, subtree_renderer: Any) -> Any:
    """Render a line of the most telling facts, which unfolds to one for each fact."""
    from treescope import rendering_parts as parts

    facts = [parts.text(f'{fact}={value}') for fact, value in leaf.facts().items()]
    rows = parts.indented_children(
        [*facts, _render_value(leaf, subtree_renderer)], comma_separated=True
    )
    if leaf.measured:
        line = parts.abbreviation_color(parts.text(_line(leaf)))
        rows = parts.fold_condition(collapsed=line, expanded=rows)
    note, alarm = _marked(role(leaf.param), 'color: #0061a8'), _marked(leaf.alarm, _ALARM)
    return parts.build_custom_foldable_tree_node(
        label=parts.text(f'{name}={flag(leaf.param)}('),
        contents=parts.siblings(rows, ')', note, alarm),
        path=leaf.path,
    )


def _render_value(leaf: Leaf, subtree_renderer: Any) -> Any:
    from treescope import rendering_parts as parts

    with warnings.catch_warnings():
        # Treescope's own statistics warn of arrays that are NaN or Inf all over.
        warnings.simplefilter('ignore')
        value = subtree_renderer(leaf.param.value, path=None)
    return parts.siblings_with_annotations('value=', value)


def _line(leaf: Leaf) -> str:
    facts, where = leaf.facts(), place(leaf.param.value)
    known = [facts[name] for name in ('size', 'statistics') if name in facts]
    split = [where] if ' over ' in where else []
    return '  '.join([describe(leaf.param.value), *known, *split])


def _marked(text: str, style: str) -> Any:
    from treescope import rendering_parts as parts

    return parts.siblings(' ', parts.custom_style(parts.text(text), style)) if text else ''
