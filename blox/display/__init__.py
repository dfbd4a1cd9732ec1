"""Looking at a model: its graph with arguments, parameters and sizes, as text or HTML."""

import sys

from blox.display.page import Rendered, to_html
from blox.display.table import to_text
from blox.display.tree import build
from blox.display.tree_text import tree_text
from blox.graph import Graph
from blox.module import Module
from blox.params import Params
from blox.wording import format_bytes

__all__ = ['display', 'format_bytes', 'to_html', 'to_text', 'tree_text']


def display(graph: Graph | Module, params: Params) -> None:
    """Show a graph, or a module, with its parameters: rich in a notebook, text in a terminal."""
    if _in_notebook():
        import treescope

        treescope.display(Rendered(build(graph, params)), ignore_exceptions=True)
    else:
        print(tree_text(graph, params))


def _in_notebook() -> bool:
    ipython = sys.modules.get('IPython')
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, 'kernel')
