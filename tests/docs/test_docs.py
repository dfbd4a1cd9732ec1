"""The documentation's code runs, and prints what the pages say.

Pages that show a reference library run in tests/parity.
"""

import ast
import importlib
import re
import sys
from xml.etree import ElementTree

import jax.numpy as jnp
import pytest
from documents import NAMES, PAGES, ROOT, Block, blocks, needs, run, workplace

import blox as bx

# Blocks that are shown and not run, by page: they download, or show what is no more.
SHOWN = {
    'adding-a-family.md': 3,
    'data-and-checkpoints.md': 1,
    'evaluating.md': 1,
    'from-transformers.md': 6,
    'loading.md': 7,
    'onnx.md': 1,
    'scaling.md': 2,
    'serving.md': 2,
    'start.md': 1,
}


@pytest.mark.parametrize('name', [name for name in NAMES if not needs(name)])
def test_blocks_run_and_print_what_follows_them(name):
    with workplace() as folder:
        run(PAGES / name, blocks(PAGES / name), folder)


def test_blocks_that_are_only_shown_are_few_and_python():
    shown = {name: [b for b in blocks(PAGES / name) if b.kind in ('py', 'sh')] for name in NAMES}
    assert {name: len(found) for name, found in shown.items() if found} == SHOWN
    for found in shown.values():
        for block in found:
            if block.kind == 'py':
                ast.parse(block.text)


def test_every_block_has_a_kind_that_is_known():
    kinds = {block.kind for name in NAMES for block in blocks(PAGES / name)}
    assert kinds <= {'python', 'bash', 'text', 'py', 'sh', 'toml'}
    fences = sum((PAGES / name).read_text('utf-8').count('```') for name in NAMES)
    assert fences == 2 * sum(len(blocks(PAGES / name)) for name in NAMES)


def test_a_page_that_prints_something_else_is_told(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text("```python\nprint('one')\n```\n\n```text\ntwo\n```\n")
    assert blocks(page) == [Block('python', '', "print('one')\n"), Block('text', '', 'two\n')]
    with pytest.raises(AssertionError, match=r"page.md says 'two\\n', found 'one\\n'"):
        run(page, blocks(page), tmp_path)


FIRST, LAST = 'from documents import ROOT, blocks, run\n', '    run(README, found, ROOT)\n'
WRONG_EXCERPTS = {
    'another word': ('tests/docs/test_readme.py', FIRST.replace('run', 'walk')),
    'half a line': ('tests/docs/test_readme.py', FIRST.replace(', run', '')),
    'lines left out silently': ('tests/docs/test_readme.py', FIRST + LAST),
    'another order': ('tests/docs/test_readme.py', f'{LAST}...\n{FIRST}'),
    'no such file': ('tests/docs/test_read.py', FIRST),
}


@pytest.mark.parametrize('name', WRONG_EXCERPTS)
def test_an_excerpt_that_is_not_of_its_file_is_told(tmp_path, name):
    run(PAGES, [Block('python', 'tests/docs/test_readme.py', f'{FIRST}...\n{LAST}')], tmp_path)
    title, text = WRONG_EXCERPTS[name]
    with pytest.raises(AssertionError, match=f'pages shows .*{title}'):
        run(PAGES, [Block('python', title, text)], tmp_path)


def documented():
    """What the reference pages have, by the name that stands there."""
    pages = '\n'.join(page.read_text('utf-8') for page in (PAGES / 'api').glob('*.md'))
    places = [name.rpartition('.') for name in re.findall(r'^::: (.+)$', pages, re.MULTILINE)]
    return {
        f'{module}.{name}': getattr(importlib.import_module(module), name)
        for module, _, name in places
    }


@pytest.mark.parametrize('module', [bx, bx.zoo, bx.converters], ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(module):
    public = {name: getattr(module, name) for name in module.__all__}
    found = list(documented().values())
    missing = {name for name, value in public.items() if value not in found}
    assert missing - {'converters', 'zoo'} == set()


def test_the_reference_means_objects_where_modules_have_the_same_name():
    assert [name for name in documented() if name in sys.modules] == []


def test_what_the_front_page_claims_is_measured_on_the_page_it_leads_to():
    claims = re.findall(
        r'^- (\*\*.+?)\[[^\[]+\]\(([\w-]+\.md)[^)]*\)$',
        (PAGES / 'index.md').read_text('utf-8'),
        re.MULTILINE | re.DOTALL,
    )
    assert len(claims) == 4
    for claim, page in claims:
        figures = set(re.findall(r'\d[\d.e-]*\d', claim))
        text = (PAGES / page).read_text('utf-8')
        assert {figure for figure in figures if figure not in text} == set(), page
        assert figures


@pytest.fixture
def _scripts(monkeypatch):
    """The modules in docs/, which is no package."""
    monkeypatch.syspath_prepend(ROOT / 'docs')


@pytest.mark.usefixtures('_scripts')
def test_the_site_tells_requests_to_other_hosts_from_links():
    requests = importlib.import_module('offline').requests

    assert (
        requests('<a href="https://a.org"><img src="b.png"><link rel=canonical href=//c.org>') == []
    )
    assert requests('<link rel="preconnect" href="https://fonts.org">') == ['https://fonts.org']
    assert requests("<script async src='//cdn.org/x.js'></script>") == ['//cdn.org/x.js']
    assert requests('@import "https://a.org/b.css"; x{background:url(http://c.org/d.png)}') == [
        'https://a.org/b.css',
        'http://c.org/d.png',
    ]


@pytest.mark.usefixtures('_scripts')
def test_pictures_show_what_they_are_drawn_of():
    pictures = importlib.import_module('pictures')

    graph = bx.Graph('net')
    params = bx.init(bx.Linear(graph / 'head', 3), jnp.ones((1, 2))).freeze('**/b')
    drawn = pictures.graph_svg(graph, params)
    texts = [node.text for node in ElementTree.fromstring(drawn).iter() if node.text]
    assert texts[1:] == [
        'net',
        'Graph',
        'head',
        'Linear',
        'net/head/b',
        'float32[3]',
        'net/head/w',
        'float32[2,3]',
    ]
    assert pictures.params_svg(params).count(pictures.FROZEN) == 2  # One is the legend's.
    assert pictures.weights_svg([('one', params)]).count('<rect x=') == 6
    places = re.findall('<title>(.*?)</title>', pictures.blocks_svg(graph, params))
    assert places == ['net/head/b', 'net/head/w', 'net/head', 'net']
