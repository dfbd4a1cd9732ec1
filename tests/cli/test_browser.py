"""The page of `blox show --html`, in headless Chromium where that is installed."""

import re

import jax.numpy as jnp
import pytest
from helpers import example

import blox as bx

BROWSER = example('screenshot')
pytestmark = pytest.mark.skipif(
    BROWSER.find_chromium() is None, reason='needs chromium: apt-get install chromium'
)
# All of the tree, whether or not a frame was drawn.
SEEN = (
    f"{BROWSER.TREE}.style.setProperty('content-visibility', 'visible'), {BROWSER.TREE}.innerText"
)


@pytest.fixture(scope='module')
def browser():
    with BROWSER.Browser() as browser:
        yield browser


@pytest.fixture(scope='module')
def shown(browser, tmp_path_factory):
    """What is seen of a page before and after two clicks, its console, and what it asked for."""
    model, params = bx.zoo.load('vit-digits')
    params = params.set('vit/block1/norm1/offset', jnp.full(96, jnp.nan)).freeze('vit/norm/*')
    html = bx.to_html(model, params, about={'name': 'x', 'task': '<img src="http://a.test/">'})
    page = tmp_path_factory.mktemp('page') / 'page.html'
    page.write_text(html, 'utf-8')
    BROWSER.open_model(browser, page)
    before = browser.run(SEEN)
    BROWSER.unfold(browser, 'pos_embed=')
    BROWSER.unfold(browser, 'block1=')
    return before, browser.run(SEEN), browser.errors, asked(browser)


def asked(browser):
    """What a page asked for besides itself, and what it holds."""
    return [url for url in browser.requests[1:] if not url.startswith('data:')]


def test_it_fetches_nothing_and_has_no_errors(shown):
    _, _, console, asked = shown
    assert (console, asked) == ([], [])


def test_it_shows_parameters_once_its_scripts_ran(shown):
    before = shown[0]
    assert 'patch_embed=Conv # Param: 480 (1.9 KB)(' in before
    assert 'w=Param[T](float32[96,10]  960 (3.8 KB)  mean ' in before
    assert re.search(r'scale=Param\[N\]\(float32\[96\].*\) frozen', before)
    assert 'dropout=Dropout # Param: 0 (0.0 B)(rate=0.1)' in before
    assert 'block1=Block # Param: 74,784 (292.1 KB) NaN or Inf in 1 below(...)' in before


def test_its_lines_unfold(shown):
    before, after, _, _ = shown
    assert before.count('norm1=LayerNorm') == 1
    assert after.count('norm1=LayerNorm') == 2
    assert re.search(r'offset=Param\[T\]\(float32\[96\].* 96 NaN', after)
    assert 'sharding=cpu:0' not in before
    assert 'sharding=cpu:0' in after


@pytest.mark.parametrize('width', [1300, 400])
@pytest.mark.parametrize('name', ['vit-digits', 'gpt2-pydocs'])
def test_its_lines_wrap_at_the_edge_of_the_window(browser, tmp_path, name, width):
    page = tmp_path / 'page.html'
    page.write_text(bx.to_html(*bx.zoo.load(name), about={'name': 'path/' * 40}), 'utf-8')
    BROWSER.open_model(browser, page, width)
    BROWSER.unfold(browser, 'pos_embed=')
    assert browser.run('document.documentElement.scrollWidth') == width
    assert browser.run(f'{BROWSER.TREE}.scrollWidth') < width


def test_a_page_that_fetches_or_fails_is_found_out(browser, tmp_path):
    page = tmp_path / 'page.html'
    page.write_text('<img src="http://a.test/b.png"><script>throw Error("no")</script>')
    browser.open(page.as_uri())
    assert asked(browser) == ['http://a.test/b.png']
    assert [error.split()[0] for error in browser.errors] == ['Error:', 'Failed']


def test_a_page_of_ours_cannot_fetch(browser, tmp_path):
    page, graph = tmp_path / 'page.html', bx.Graph('net')
    html = bx.to_html(graph, bx.Params(0)).replace('<h1>', '<img src="http://a.test/b.png"><h1>')
    page.write_text(html, 'utf-8')
    browser.open(page.as_uri())
    assert asked(browser) == []
    assert 'Content Security Policy' in browser.errors[0]


def test_the_picture_of_the_documentation_can_be_drawn(tmp_path):
    BROWSER.draw(tmp_path / 'images' / 'show.png')
    size = (tmp_path / 'images' / 'show.png').stat().st_size
    assert 30_000 < size < 300_000
