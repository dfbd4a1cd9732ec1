"""Draws the documentation's pictures, as SVG, from the objects that they show."""

import html
import math
from collections.abc import Iterator, Sequence

import numpy as np

import blox as bx

ROW = 26
TRAINABLE, FROZEN, STATE = '#3d8fd1', '#b08968', '#8a97a8'
# Colors of a page where there is one around the picture.
_STYLE = (
    '.drawn text{font:13px ui-monospace,monospace;fill:var(--md-default-fg-color,#263238)}'
    '.drawn .faint{fill:var(--md-default-fg-color--light,#78909c)}'
    '.drawn .inside{fill:#16213a}'
    '.drawn path{fill:none;stroke:#8a97a8}'
)
# Blocks of a graph by their depth, and those of Params.
_LEVELS = ('#f4a259', '#2a9d8f', '#3d8fd1', '#8fb8de')
_ENTRY, _STEP = '#e9c46a', 52


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


def blocks_svg(graph: bx.Graph, params: bx.Params) -> str:
    """The graph as blocks on blocks, and below them the entries of Params, which are flat.

    An entry is as wide as the root of its size, so that biases are seen beside matrices.
    """
    nodes = {node.path: (node, depth) for node, depth in _nodes(graph)}
    owners = [(path, path.rpartition('/')[0]) for path in _in_order(graph, params)]
    widths = {path: math.sqrt(params[path].size) for path, _ in owners}
    scale, x, spans = 600 / sum(widths.values()), 20.0, {}
    floor = _STEP * (1 + max(depth for _, depth in nodes.values())) + 2.5 * ROW
    count = f'Params: {len(owners)} entries, {params.num_params:,} numbers, each at its path'
    parts = [
        _text(20, -0.3, f'Graph: the modules of {graph.name}'),
        _text(20, floor / ROW - 1.2, count),
    ]
    for path, owner in owners:
        width = scale * widths[path]
        while owner:
            start, _ = spans.get(owner, (x, x))
            spans[owner] = start, x + width
            owner = owner.rpartition('/')[0]
        parts.append(_block(x, floor, width, path, 'w' if path.endswith('/w') else '', _ENTRY))
        x += width
    for path, (start, end) in spans.items():
        node, depth = nodes[path]
        color = _LEVELS[min(depth, len(_LEVELS) - 1)]
        parts.append(_block(start, _STEP * depth + ROW, end - start, path, node.name, color))
    return _framed(640, floor + _STEP + 10, parts)


def _in_order(graph: bx.Graph, params: bx.Params) -> Iterator[str]:
    """The paths of entries as modules come, those of a module's own first."""
    for node, _ in _nodes(graph):
        yield from (path for path in params if path.rpartition('/')[0] == node.path)


def _block(x: float, y: float, width: float, path: str, name: str, color: str) -> str:
    """A block with its name, where that fits."""
    place = f'x="{x:.1f}" y="{y + 10}" width="{max(width - 1.5, 1):.1f}" height="{_STEP - 4}"'
    middle = f'x="{x + width / 2:.1f}" y="{y + 10 + _STEP / 2}" text-anchor="middle"'
    fits = len(name) * 8 < width
    label = f'<text {middle} class="inside">{html.escape(name)}</text>' if fits else ''
    title = f'<title>{html.escape(path)}</title>'
    return f'<rect {place} rx="3" fill="{color}">{title}</rect>{label}'


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
    return _framed(width, ROW * rows + 20, parts)


def _framed(width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg class="drawn" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}"><style>{_STYLE}</style>{"".join(parts)}</svg>\n'
    )
