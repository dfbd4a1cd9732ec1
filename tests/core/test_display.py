"""What `display` shows, in a terminal and as a page."""

import math
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import treescope
from helpers import normal, unpacked
from jax.sharding import PartitionSpec

import blox as bx
from blox.display import tree_text
from blox.statistics import Statistics, statistics


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


@pytest.fixture(scope='module')
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
    assert tree_text(*net) == SHOWN


def test_display_prints_text_in_a_terminal(net, capsys):
    bx.display(*net)
    assert capsys.readouterr().out == SHOWN + '\n'


def test_a_part_of_the_graph_can_be_shown(net):
    graph, params = net
    text = tree_text(graph.children[0], params)
    assert text.startswith('readout: Linear # Param: 33 (132.0 B)(')
    assert 'hidden' not in text


def test_a_spec_can_be_shown(net):
    graph, params = net
    abstract = jax.eval_shape(lambda: params)
    assert tree_text(graph, abstract) == SHOWN
    assert bx.to_html(graph, abstract).endswith('</html>\n')


def test_frozen_parameters_and_others_without_a_node_are_shown(net):
    graph, params = net
    extra = bx.Params.from_entries({'net/elsewhere/lora': jnp.ones(2)})
    text = tree_text(graph, params.freeze('net/readout/*').merge(extra))
    assert 'w=Param[N](float32[32,1])' in text
    assert '  net/elsewhere/lora=Param[T](float32[2]),' in text


class Stack(bx.Module):
    """Linear layers of these sizes, as block0, block1 and so on, after a dropout for each."""

    def __init__(self, graph: bx.Graph, sizes: tuple[int, ...]) -> None:
        super().__init__(graph)
        self.drops = [bx.Dropout(graph / f'drop{i}', i / 10) for i in range(len(sizes))]
        self.blocks = [bx.Linear(graph / f'block{i}', size) for i, size in enumerate(sizes)]

    def __call__(self, params, x):
        for block in self.blocks:
            x, params = block(params, x)
        return x, params


def brief(*sizes, frozen=()):
    """The lines of each block in the brief text of a Stack."""
    model = Stack(bx.Graph('stack'), sizes)
    params = bx.spec(model, jnp.ones((1, 4))).freeze(frozen)
    return re.findall(r'^  (block.*)', tree_text(model, params, brief=True), re.MULTILINE)


def test_brief_text_prints_one_of_blocks_that_are_alike():
    whole = 'block0=Linear # Param: 20 (80.0 B)('
    assert brief(4, 4, 4) == [whole, 'block1..block2=like block0,']
    assert brief(4, 4, 8)[:2] == [whole, 'block1=like block0,']
    assert len(brief(4, 8, 4)) == 3
    assert len(brief(4, 4, 4, frozen='stack/block1/w')) == 3


def test_brief_text_says_where_arguments_differ():
    class Twin(bx.Module):
        def __init__(self, graph: bx.Graph) -> None:
            super().__init__(graph)
            self.norms = [bx.LayerNorm(graph / f'norm{i}', eps=10.0**-i) for i in range(3)]

        def __call__(self, params, x):
            for norm in self.norms:
                x, params = norm(params, x)
            return x, params

    model = Twin(bx.Graph('twin'))
    text = tree_text(model, bx.spec(model, jnp.ones((1, 4))), brief=True)
    assert '\n  norm1..norm2=parameters like norm0,\n' in text


def test_adapters_are_shown_in_their_module(net):
    graph, params = net
    text = tree_text(graph, bx.lora(params, 'net/readout/w', rank=2))
    readout = text[text.index('readout=Linear') :].partition('  ),')[0]
    assert 'w=Param[N](float32[32,1])' in readout
    assert re.search(r'w_lora_a=Param\[T\]\(float32\[32,2\], .*lora', readout)
    assert 'w_lora_b=Param[T](float32[2,1]' in readout


# Statistics.


def measured(value) -> Statistics:
    found = statistics(value)
    assert found is not None
    return found


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'float8_e4m3fn', 'int8'])
def test_statistics_are_those_of_all_numbers(dtype):
    # Three pieces and a bit; float32 sums would be wrong in the fourth digit.
    x = (10 * normal(200_000) + 30).astype(jnp.dtype(dtype))
    x[:50_000] = 0
    found, wide = measured(jnp.asarray(x)), x.astype(np.float64)
    expected = wide.mean(), wide.std(), wide.min(), wide.max(), (wide == 0).mean(), 0, 0
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_statistics_count_nan_and_inf_and_leave_them_out():
    x = normal(200_000).astype(np.float32)
    x[[3, 70_000, 199_999]] = np.nan, np.inf, -np.inf
    x[65_536:65_540] = np.nan
    found, finite = measured(x), x[np.isfinite(x)].astype(np.float64)
    np.testing.assert_allclose(found[:4], (finite.mean(), finite.std(), finite.min(), finite.max()))
    assert found.alarm == '5 NaN, 2 Inf'


def test_statistics_of_what_has_no_finite_numbers():
    assert all(map(math.isnan, measured(np.full(3, np.nan))[:5]))
    for value in (jnp.zeros((0, 3)), jax.random.key(0), jax.ShapeDtypeStruct((2,), jnp.float32)):
        assert statistics(value) is None
    jax.make_jaxpr(lambda x: pytest.fail('of a tracer') if statistics(x) else x)(1.0)


def test_statistics_of_a_sharded_array_count_each_place_once():
    x = np.arange(1024, dtype=np.float32).reshape(32, 32)
    for spec in (PartitionSpec(), PartitionSpec('model'), PartitionSpec(None, ('data', 'model'))):
        placed = jax.device_put(x, jax.sharding.NamedSharding(mesh(), spec))
        np.testing.assert_allclose(measured(placed), measured(x), rtol=1e-12)


def mesh():
    return jax.make_mesh((2, 2), ('data', 'model'), axis_types=(jax.sharding.AxisType.Auto,) * 2)


# The page.


def test_html_is_one_page_that_may_fetch_nothing(net):
    page = bx.to_html(*net)
    assert page.startswith('<!doctype html>')
    assert '<title>net</title>' in page
    assert "default-src 'none'; " in page
    assert not [word for word in ('src="http', 'href="http', '@import') if word in page]


def test_html_has_the_facts_of_each_parameter(net):
    graph, params = net
    params = params.set('net/readout/w', jnp.arange(32.0)[:, None]).freeze('net/mlp/**')
    text = unpacked(bx.to_html(graph, params))
    shown = 'float32[32,1]  32 (128.0 B)  mean 15.5  std 9.23  min 0  max 31  zeros 3.12 %'
    assert f'w=Param[T]({shown}' in text
    for fact in ('shape=(32, 1)', 'dtype=float32', 'sharding=cpu:0', 'value='):
        assert fact in text
    assert text.count(' frozen') == 2


def test_html_says_how_parameters_are_split(net):
    graph, params = net
    rules = {'net/mlp/hidden/w': PartitionSpec(None, ('data', 'model'))}
    text = unpacked(bx.to_html(graph, bx.shard(params, mesh(), rules)))
    where = '4 cpu devices'
    assert f"(None, ('data', 'model')) over {where} (data 2, model 2)" in text
    assert text.count(f'sharding=copied to {where}') == 3


def test_html_is_loud_about_nan_and_inf(net):
    graph, params = net
    assert '<p>All numbers are finite.</p>' in bx.to_html(graph, params)
    page = bx.to_html(graph, params.set('net/mlp/hidden/b', jnp.full(32, np.nan).at[0].set(np.inf)))
    assert 'class="alarm">Not all numbers are finite: net/mlp/hidden/b: 31 NaN, 1 Inf<' in page
    assert unpacked(page).count('NaN or Inf in 1 below') == 3


def test_html_says_what_is_known_of_a_model(net):
    page = bx.to_html(*net, about={'name': 'A <b>', 'license': '<script>MIT</script>'})
    assert '<title>A &lt;b&gt;</title>' in page
    assert '<th>license</th><td>&lt;script&gt;MIT&lt;/script&gt;</td>' in page


def test_html_does_not_grow_with_arrays():
    model = bx.Linear(bx.Graph('wide'), 2048)
    params = bx.spec(model, jnp.ones((1, 2048)))
    params = params.set('wide/w', jnp.asarray(normal(2048, 2048), jnp.float32), strict=False)
    assert len(bx.to_html(model, params)) < 50_000


def test_a_notebook_gets_the_rich_view(net, monkeypatch):
    shown = []
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, 'IPython', types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr('treescope.display', lambda value, **kwargs: shown.append(value))
    bx.display(*net)
    text = treescope.render_to_text(shown[0])
    for part in ('net: Graph # Param: 385 (1.5 KB)(', 'readout=<Linear at net/readout>', 'size=32'):
        assert part in text
    assert 'mean' not in text
