"""What `display` shows, in a terminal and as a page."""

import sys
import types

import jax
import jax.numpy as jnp
import pytest
import treescope

import blox as bx
from blox.display import _build


class Head(bx.Module):
    """Uses a module that lives elsewhere."""

    def __init__(self, graph: bx.Graph, size: int, readout: bx.Module) -> None:
        super().__init__(graph)
        self.size = size
        self.hidden = bx.Linear(graph.child('hidden'), size)
        self.readout = readout

    def __call__(self, params, inputs):
        x, params = self.hidden(params, inputs)
        return self.readout(params, jax.nn.relu(x))


@pytest.fixture
def net():
    graph = bx.Graph('net')
    readout = bx.Linear(graph / 'readout', 1)
    model = Head(graph / 'mlp', 32, readout)
    return graph, bx.init(model, jnp.ones((1, 10)))


SHOWN = """\
net: Graph # Param: 385 (1.5 KB)(
  rng=Param[N]((key<fry>[], uint32[]), metadata={'tag': 'rng'}),
  readout=Linear # Param: 33 (132.0 B)(
    output_size=1,
    b=Param[T](float32[1]),
    w=Param[T](float32[32,1]),
  ),
  mlp=Head # Param: 352 (1.4 KB)(
    size=32,
    readout=<Linear at net/readout>,
    hidden=Linear # Param: 352 (1.4 KB)(
      output_size=32,
      b=Param[T](float32[32]),
      w=Param[T](float32[10,32]),
    ),
  ),
)"""


def test_text_shows_arguments_parameters_sizes_and_links(net):
    assert bx.to_text(*net) == SHOWN


def test_display_prints_text_in_a_terminal(net, capsys):
    bx.display(*net)
    assert capsys.readouterr().out == SHOWN + '\n'


def test_a_part_of_the_graph_can_be_shown(net):
    graph, params = net
    text = bx.to_text(graph.children[0], params)
    assert text.startswith('readout: Linear # Param: 33 (132.0 B)(')
    assert 'hidden' not in text


def test_a_spec_can_be_shown(net):
    graph, params = net
    abstract = jax.eval_shape(lambda: params)
    assert bx.to_text(graph, abstract) == SHOWN
    assert bx.to_html(graph, abstract).endswith('</html>\n')


def test_frozen_parameters_and_others_without_a_node_are_shown(net):
    graph, params = net
    extra = bx.Params.from_entries({'net/elsewhere/lora': jnp.ones(2)})
    text = bx.to_text(graph, params.freeze('net/readout/*').merge(extra))
    assert 'w=Param[N](float32[32,1])' in text
    assert '  net/elsewhere/lora=Param[T](float32[2]),' in text


def test_html_is_one_page_that_fetches_nothing(net):
    page = bx.to_html(*net)
    assert page.startswith('<!doctype html>')
    assert '<title>net</title>' in page
    assert not [word for word in ('src="http', 'href="http', '@import') if word in page]


def test_html_says_what_the_text_says(net):
    text = treescope.render_to_text(_build(*net))
    for part in ('net: Graph # Param: 385 (1.5 KB)(', 'readout=<Linear at net/readout>', 'size=32'):
        assert part in text


def test_a_notebook_gets_the_rich_view(net, monkeypatch):
    shown = []
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, 'IPython', types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr('treescope.display', lambda value, **kwargs: shown.append(value))
    bx.display(*net)
    assert shown[0].title == 'net: Graph'
