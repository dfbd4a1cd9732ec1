"""What runs the code on a page: README.md and those in docs/pages."""

import ast
import contextlib
import glob
import importlib
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from blox.zoo.catalog import entries as catalog
from blox.zoo.catalog.published import published
from blox.zoo.cli.main import main
from blox.zoo.models import families

ROOT = Path(__file__).parent.parent
PAGES = ROOT / 'docs' / 'pages'
NAMES = sorted(str(page.relative_to(PAGES)) for page in PAGES.rglob('*.md'))
# What the `parity` extra installs: blocks that import one of these run in tests/parity alone.
REFERENCES = frozenset({'equinox', 'flax', 'peft', 'timm', 'torch', 'torchvision', 'transformers'})

# Packages whose files are found by being there: a page may write some.
_FOUND_BY_FILE = ('zoo.models', 'converters.tables', 'zoo.catalog.published')
_FENCE = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
      kind: `python` and `bash` run, `text` is what the block before it prints, others are shown.
      title: over the block; a block of Python under a file's name is that file, and not run.
      text: what stands between the fences.
    """

    kind: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(page.read_text(encoding='utf-8'))]


def references(block: Block) -> set[str]:
    """Libraries that a block of Python imports and that blox does without."""
    if block.kind != 'python':
        return set()
    nodes = list(ast.walk(ast.parse(block.text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or '' for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition('.')[0] for name in names} & REFERENCES


def needs(name: str) -> set[str]:
    """Libraries that a page imports and that blox does without."""
    return set().union(*map(references, blocks(PAGES / name)))


@contextlib.contextmanager
def users_settings():
    """JAX's own defaults for promotion and precision, which users have."""
    with (
        jax.numpy_rank_promotion('allow'),
        jax.numpy_dtype_promotion('standard'),
        jax.default_matmul_precision('default'),
    ):
        yield


def run(page: Path, found: list[Block], folder: Path) -> dict[str, Any]:
    """Runs `found`, blocks of a page, in order, in one namespace and in `folder`.

    AssertionError where something else is printed than the block that follows says.
    """
    namespace, printed = {'__name__': page.stem}, ''
    with contextlib.chdir(folder), users_settings():
        for block in found:
            if block.kind == 'text':
                assert printed == block.text, f'{page.name} says {block.text!r}, found {printed!r}'
            elif block.title.endswith('.py'):
                write(folder / block.title, block.text)
            elif block.kind in _RUNNERS:
                printed = _RUNNERS[block.kind](page, block.text, namespace)
    return namespace


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """A new folder with the repository's examples, where a page may add a family to the zoo."""
    packages = [importlib.import_module(f'blox.{name}') for name in _FOUND_BY_FILE]
    paths = [package.__path__ for package in packages]
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT / 'examples', Path(folder) / 'examples')
        for package, name in zip(packages, _FOUND_BY_FILE):
            package.__path__ = [*package.__path__, str(Path(folder, *name.split('.')))]
        _forget()
        try:
            yield Path(folder)
        finally:
            for package, path in zip(packages, paths):
                package.__path__ = path
            _forget()


def _forget() -> None:
    """Lets the zoo look anew for families."""
    families.cache_clear()
    catalog._variants.cache_clear()
    published.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def _python(page: Path, text: str, namespace: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, str(page), 'exec'), namespace)
    return out.getvalue()


def _bash(page: Path, text: str, namespace: dict[str, Any]) -> str:
    """Runs lines of `blox` as its command would, in this process: starting JAX takes seconds."""
    out = io.StringIO()
    for line in text.replace('\\\n', '').splitlines():
        command, *words = shlex.split(line, comments=True) or ['']
        assert command in ('blox', ''), f'{page.name}: only lines of blox run, found {line!r}'
        arguments = [path for word in words for path in sorted(glob.glob(word)) or [word]]
        with contextlib.redirect_stdout(out), _answers(arguments[0]):
            main(arguments, standalone_mode=False)
    return out.getvalue()


@contextlib.contextmanager
def _answers(command: str) -> Iterator[None]:
    """Exit code 1 of `blox diff` is no failure: the two differ."""
    try:
        yield
    except SystemExit as error:
        if (command, error.code) != ('diff', 1):
            raise


_RUNNERS = {'python': _python, 'bash': _bash}
