"""The site as it is built: its links, and its pages and search in headless Chromium."""

import functools
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from documents import ROOT
from helpers import example

BROWSER = example('screenshot')
HOST = 'http://site/'
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('mkdocs') is None,
    reason='needs mkdocs: pip install -r docs/requirements.txt',
)
needs_chromium = pytest.mark.skipif(
    BROWSER.find_chromium() is None, reason='needs chromium: apt-get install chromium'
)
# Where typing a name into the search field leads, first of all entries.
FOUND = {
    'bx.zoo.load': 'api/zoo/#blox.zoo.load',
    'load_for_classes': 'api/zoo/#blox.zoo.load_for_classes',
    'MultiHeadAttention': 'api/layers/#blox.MultiHeadAttention',
    'Params.partition': 'api/core/#blox.Params.partition',
    'fine-tuning': 'fine-tuning/',
    'evaluating': 'evaluating/',
}


@pytest.fixture(scope='module')
def site():
    """The folder that a strict build writes."""
    build = ['mkdocs', 'build', '--quiet', '--strict', '-f', 'docs/mkdocs.yml']
    # Tutorials train: XLA's flags are those for programs that run once.
    env = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    call = [sys.executable, '-m', *build]
    done = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ROOT / 'build' / 'site'


@pytest.fixture(scope='module')
def address(site):
    """Where the site is served, as pages that fetch their search index need it."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f'http://127.0.0.1:{server.server_port}/'
        server.shutdown()


@pytest.fixture(scope='module')
def browser():
    with BROWSER.Browser() as browser:
        yield browser


def pages(site):
    return sorted(str(path.relative_to(site)) for path in site.rglob('*.html'))


class Links(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.places = set(), {''}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.places |= {value for name, value in attrs if name in ('id', 'name')}
        self.links |= {value for name, value in attrs if name in ('href', 'src') and value}


def test_every_link_within_the_site_leads_to_something(site):
    read = {page: Links((site / page).read_text('utf-8')) for page in pages(site)}
    broken = []
    for page, found in read.items():
        for link in found.links:
            target, place = urldefrag(urljoin(HOST + page, link))
            if not target.startswith(HOST):
                continue
            path = Path(unquote(target.removeprefix(HOST)))
            path = str(path / 'index.html' if (site / path).is_dir() else path)
            is_there = unquote(place) in read[path].places if path in read else True
            if not (site / path).is_file() or not is_there:
                broken.append(f'{page}: {link}')
    assert broken == []
    assert len(read) > 25


@needs_chromium
@pytest.mark.parametrize('width', [1300, 400])
def test_every_page_opens_without_an_error_and_is_as_wide_as_the_window(
    site, address, browser, width
):
    wrong = {}
    for page in pages(site):
        browser.open(address + page, width)
        found = browser.run('document.documentElement.scrollWidth')
        if found > width or browser.errors:
            wrong[page] = found, browser.errors
    assert wrong == {}


@needs_chromium
def test_a_page_that_is_too_wide_is_told(browser, tmp_path):
    page = tmp_path / 'page.html'
    page.write_text('<div style="width: 500px">wide</div>')
    browser.open(page.as_uri(), 400)
    assert browser.run('document.documentElement.scrollWidth') > 400


@needs_chromium
@pytest.mark.parametrize('words', FOUND)
def test_the_search_finds(address, browser, words):
    browser.open(f'{address}?q={words}')
    results = "[...document.querySelectorAll('.md-search-result__link')]"
    browser.wait(f'{results}.length')
    found = browser.run(f'{results}.slice(0, 2).map(link => link.pathname + link.hash)')
    assert f'/{FOUND[words]}' in found
