"""The page of `blox show --html`, in headless Chromium where that is installed."""

import html
import json
import re

import jax.numpy as jnp
import pytest
from helpers import example

import blox as bx

BROWSER = example('screenshot')
pytestmark = pytest.mark.skipif(
    BROWSER.find_chromium() is None, reason='needs chromium: apt-get install chromium'
)
# Writes down what a reader sees of the tree, before and after two of its lines are unfolded.
LOOK = """
  tree().style.contentVisibility = 'visible'  // whether or not a frame was drawn
  const before = tree().innerText
  unfold('pos_embed=')
  unfold('block1=')
  const seen = document.body.appendChild(document.createElement('pre'))
  seen.id = 'seen'
  seen.textContent = JSON.stringify([before, tree().innerText])
"""


def opened(page, folder):
    """The page's DOM in the end, what was written to the console, and what it asked for."""
    path, log = folder / 'page.html', folder / 'net.json'
    path.write_text(page, 'utf-8')
    result = BROWSER.browse(path, '--dump-dom', '--enable-logging=stderr', f'--log-net-log={log}')
    console = [line for line in result.stderr.splitlines() if 'CONSOLE' in line]
    events = [event.get('params', {}) for event in json.loads(log.read_text())['events']]
    # What Chromium asks for on its own behalf has no page for its origin.
    asked = [e['url'] for e in events if e.get('initiator', 'not an origin') != 'not an origin']
    return result.stdout, console, asked


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """What is seen of a page before and after a click, its console, and what it asked for."""
    model, params = bx.zoo.load('vit-digits')
    params = params.set('vit/block1/norm1/offset', jnp.full(96, jnp.nan)).freeze('vit/norm/*')
    page = bx.to_html(model, params, about={'name': 'x', 'task': '<img src="http://a.test/">'})
    folder = tmp_path_factory.mktemp('page')
    dom, console, asked = opened(BROWSER.with_script(page, LOOK), folder)
    (seen,) = re.findall('<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    return *json.loads(html.unescape(seen)), console, asked


def test_it_fetches_nothing_and_has_no_errors(shown):
    _, _, console, asked = shown
    assert (console, asked) == ([], [])


def test_it_shows_parameters_once_its_scripts_ran(shown):
    before = shown[0]
    assert 'patch_embed=Conv # Param: 480 (1.9 KB)(' in before
    assert 'w=Param[T](float32[96,10]  960 (3.8 KB)  mean ' in before
    assert re.search(r'scale=Param\[N\]\(float32\[96\].*\) frozen', before)
    assert 'block1=Block # Param: 74784 (292.1 KB) NaN or Inf in 1 below(...)' in before


def test_its_lines_unfold(shown):
    before, after, _, _ = shown
    assert before.count('norm1=LayerNorm') == 1
    assert after.count('norm1=LayerNorm') == 2
    assert re.search(r'offset=Param\[T\]\(float32\[96\].* 96 NaN', after)
    assert 'sharding=cpu:0' not in before
    assert 'sharding=cpu:0' in after


def test_a_page_that_fetches_or_fails_is_found_out(tmp_path):
    page = '<img src="http://a.test/b.png"><script>throw Error("no")</script>'
    _, console, asked = opened(page, tmp_path)
    assert set(asked) == {'http://a.test/b.png'}
    assert len(console) == 1


def test_a_page_of_ours_cannot_fetch(tmp_path):
    graph = bx.Graph('net')
    page = bx.to_html(graph, bx.Params(0)).replace('<h1>', '<img src="http://a.test/b.png"><h1>')
    _, console, asked = opened(page, tmp_path)
    assert asked == []
    assert 'Content Security Policy' in console[0]


def test_the_picture_of_the_documentation_can_be_drawn(tmp_path):
    BROWSER.draw(tmp_path / 'images' / 'show.png')
    size = (tmp_path / 'images' / 'show.png').stat().st_size
    assert 30_000 < size < 300_000
