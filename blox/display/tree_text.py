"""The tree as text, as a terminal shows it."""

from collections.abc import Iterable, Iterator

from blox.display.tree import Item, Leaf, Node, build, flag, runs
from blox.graph import Graph
from blox.module import Module
from blox.param import Param
from blox.params import Params


def tree_text(graph: Graph | Module, params: Params, *, brief: bool = False) -> str:
    """Return what `display` prints in a terminal.

    With `brief`, only the first of neighbours that have the same parts and parameters, such as a
    model's blocks, is printed, and a line says which are like it.

    >>> import blox as bx, jax.numpy as jnp
    >>> graph = bx.Graph('head')
    >>> params = bx.init(bx.Linear(graph, 3), jnp.ones((1, 2)))
    >>> print(tree_text(graph, params))
    head: Linear # Param: 9 (36.0 B)(
      rng=Param[N]((key<fry>[], uint32[]), metadata={'tag': 'rng'}),
      output_size=3,
      b=Param[T](float32[3]),
      w=Param[T](float32[2,3]),
    )
    """
    node = build(graph, params)
    return '\n'.join([f'{node.title} {node.comment}(', *_lines(node, '  ', brief), ')'])


def _lines(node: Node, indent: str, brief: bool = False) -> Iterator[str]:
    for name, item in _shortened(node.items) if brief else node.items:
        if isinstance(item, Node):
            if item.items:
                yield f'{indent}{name}={item.title} {item.comment}('
                yield from _lines(item, indent + '  ', brief)
                yield f'{indent}),'
            else:
                yield f'{indent}{name}={item.title}(),'
        elif isinstance(item, Leaf):
            yield f'{indent}{name}={flag(item.param)}({_described(item.param)}),'
        else:
            yield f'{indent}{name}={item},'


def _shortened(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the first of items that are alike, and a line about the others."""
    for run in runs(items):
        yield run[0]
        others = [name for name, _ in run[1:]]
        if others:
            equal = len({tuple(_lines(node, '')) for _, node in run if isinstance(node, Node)}) == 1
            like = 'like' if equal else 'parameters like'
            yield '..'.join(dict.fromkeys([others[0], others[-1]])), f'{like} {run[0][0]}'


def _described(param: Param) -> str:
    return repr(param).removeprefix('Param(').removesuffix(')').replace(', trainable=False', '')
