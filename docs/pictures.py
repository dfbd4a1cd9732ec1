"""Draws the documentation's pictures, as SVG, from the objects that they show."""

import html
from collections.abc import Iterator, Sequence

import numpy as np

import blox as bx

ROW = 26
TRAINABLE, FROZEN, STATE = '#3f51b5', '#8d6e63', '#9e9e9e'
_STYLE = (
    'text{font:13px ui-monospace,monospace;fill:#263238}'
    '.faint{fill:#78909c}path{fill:none;stroke:#b0bec5}'
)


def graph_svg(graph: bx.Graph, params: bx.Params) -> str:
    """The graph as a tree, Params as a list, and which entries each module asked for."""
    nodes, paths = list(_nodes(graph)), [path for path in params if path != 'rng']
    left = {node.path: i for i, (node, _) in enumerate(nodes)}
    offset = (len(nodes) - len(paths)) / 2
    places = {path: (y + max(offset, 0)) for y, path in enumerate(paths)}
    left = {path: y + max(-offset, 0) for path, y in left.items()}
    ends = {}
    parts = []
    for node, depth in nodes:
        kind = type(node.module).__name__ if node.module else 'Graph'
        x, y = 20 + 28 * depth, left[node.path]
        parts.append(_text(x, y, node.name) + _text(x + 9 * len(node.name) + 8, y, kind, 'faint'))
        ends[node.path] = x + 8 * (len(node.name) + len(kind)) + 24
        if node.parent is not None:
            up = _middle(left[node.parent.path]) + 8
            parts.append(f'<path d="M{x - 20},{up}V{_middle(y)}h14"/>')
    for path, y in places.items():
        owner = path.rpartition('/')[0]
        start, end = _middle(left[owner]), _middle(y)
        parts.append(f'<path d="M{ends[owner]},{start}C320,{start} 300,{end} 380,{end}"/>')
        parts.append(_entry(390, y, path, params[path]))
    return _svg(780, max(len(nodes), len(paths)), parts)


def params_svg(params: bx.Params) -> str:
    """Params as rows, colored by what may change them."""
    parts = [_entry(20, y, path, param) for y, (path, param) in enumerate(params.items())]
    legend = (('trainable', TRAINABLE), ('frozen', FROZEN), ('state', STATE))
    for y, (name, color) in enumerate(legend):
        parts.append(_square(600, y, color) + _text(624, y, name))
    return _svg(780, len(params), parts)


def weights_svg(rows: Sequence[tuple[str, bx.Params]]) -> str:
    """The matrices of some Params, one row each, as shades from blue over white to red."""
    weights = [[path for path in params if path.endswith('/w')] for _, params in rows]
    columns = sorted({path for found in weights for path in found})
    parts = []
    for row, (name, params) in enumerate(rows):
        parts.append(_text(20, 6 * row + 2, name))
        for column, path in enumerate(columns):
            if path in params:
                x = 150 + 220 * column
                parts += [_text(x, 6 * row, path), *_shades(x, 6 * row + 1, params[path].value)]
    return _svg(180 + 220 * len(columns), 6 * len(rows), parts)


def _nodes(graph: bx.Graph, depth: int = 0) -> Iterator[tuple[bx.Graph, int]]:
    yield graph, depth
    for child in graph.children:
        yield from _nodes(child, depth + 1)


def _entry(x: float, y: float, path: str, param: bx.Param) -> str:
    """A row for an entry of Params: its color, path and shape."""
    color = STATE if param.is_state else TRAINABLE if param.trainable else FROZEN
    shown = repr(param).removeprefix('Param(').partition(', trainable')[0].removesuffix(')')
    return _square(x, y, color) + _text(x + 24, y, path) + _text(x + 200, y, shown, 'faint')


def _shades(x: float, y: float, values: object) -> Iterator[str]:
    array = np.asarray(values)[:8, :16]
    for (i, j), share in np.ndenumerate(array / np.abs(array).max()):
        fade = round(255 * (1 - abs(share)))
        color = f'rgb(255,{fade},{fade})' if share > 0 else f'rgb({fade},{fade},255)'
        place = f'x="{x + 12 * j}" y="{ROW * y + 12 * i + 10}"'
        yield f'<rect {place} width="12" height="12" fill="{color}"/>'


def _middle(y: float) -> float:
    return ROW * y + ROW / 2 + 10


def _text(x: float, y: float, text: str, kind: str = '') -> str:
    return f'<text x="{x}" y="{_middle(y) + 4}" class="{kind}">{html.escape(text)}</text>'


def _square(x: float, y: float, color: str) -> str:
    return f'<rect x="{x}" y="{_middle(y) - 7}" width="14" height="14" rx="3" fill="{color}"/>'


def _svg(width: int, rows: int, parts: Sequence[str]) -> str:
    height = ROW * rows + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}"><style>{_STYLE}</style>'
        f'<rect width="{width}" height="{height}" rx="8" fill="#fafafa"/>{"".join(parts)}</svg>\n'
    )
