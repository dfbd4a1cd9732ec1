"""What `mkdocs build` does besides: pictures, pages of models, notebooks, and a look at requests.

Pictures show the objects that a page's own code makes: its blocks run here as they do in the
tests. Notebooks are the scripts in docs/tutorials, executed anew at each build.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).parent
sys.path += [str(DOCS), str(DOCS.parent / 'tests')]

from documents import PAGES, ROOT, blocks, run, workplace
from notebooks import executed
from offline import requests
from pictures import blocks_svg, graph_svg, params_svg, weights_svg

import blox as bx

# Headings of the reference, and where pages show a picture that was drawn.
_ENTRY = re.compile(
    r'(<h\d id="([\w.]+)" class="doc doc-heading">\s*(?:<span [^>]*>)?)(blox\.)?(\w[\w.]*)'
)
_PICTURE = re.compile(r'<img alt="([^"]*)" src="[./]*generated/(\w+)\.svg"\s*/?>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is made at each build to the files of the site."""
    for name, content in _generated():
        files.append(File.generated(config, name, content=content))
    return files


def _generated() -> Iterator[tuple[str, str | bytes]]:
    yield from _pictures()
    model, params = bx.zoo.load('vit-digits')
    yield 'generated/vit-digits.html', bx.to_html(model, params)
    yield 'generated/blocks.svg', blocks_svg(model.graph, params)
    for script in sorted((DOCS / 'tutorials').glob('*.py')):
        yield from executed(script.stem, script.read_text('utf-8'), ROOT).items()


def _pictures() -> Iterator[tuple[str, str]]:
    page = PAGES / 'mental-model.md'
    with workplace() as folder:
        made = run(page, blocks(page), folder)
    yield 'generated/graph.svg', graph_svg(made['graph'], made['params'])
    yield 'generated/params.svg', params_svg(made['frozen'])
    rows = [('before', made['before']), ('after', made['after'])]
    yield 'generated/randomness.svg', weights_svg(rows)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts pictures into the page, to have its colors, and heads entries as users type them."""
    if page.file.src_uri.startswith('api/'):
        # Its names are found, not the groups that they are in.
        html = _ENTRY.sub(_typed, html.replace('<h2 ', '<h2 data-search-exclude '))
    return _PICTURE.sub(lambda found: _inline(found[1], found[2], files), html)


def _typed(found: re.Match[str]) -> str:
    """The heading of a function or class with `bx.zoo.load`, that of a method with `Params.set`."""
    start, place, is_root, name = found.groups()
    return f'{start}bx.{name}' if is_root else f'{start}{place.split(".")[-2]}.{name}'


def _inline(alt: str, name: str, files: Files) -> str:
    drawn = files.get_file_from_path(f'generated/{name}.svg').content_string
    return drawn.replace('<svg ', f'<svg role="img" aria-label="{alt}" ', 1)


def on_post_build(config: MkDocsConfig) -> None:
    """Fails where a page or style sheet would ask something of another host."""
    site = Path(config.site_dir)
    pages = [path for path in site.rglob('*') if path.suffix in ('.html', '.css')]
    found = [
        f'{path.relative_to(site)}: {address}'
        for path in pages
        for address in requests(path.read_text(encoding='utf-8'))
    ]
    if found:
        raise PluginError(f'expected pages that ask nothing of other hosts, found {found}')
