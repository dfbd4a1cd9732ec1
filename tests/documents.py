"""Run the code on pages: README.md and those in docs/pages."""

import ast
import contextlib
import glob
import io
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from blox.zoo import models
from blox.zoo.cli.main import main

ROOT = Path(__file__).parent.parent
PAGES = ROOT / 'docs' / 'pages'
NAMES = sorted(str(page.relative_to(PAGES)) for page in PAGES.rglob('*.md'))
# What the `parity` extra installs: blocks that import one of these run in tests/parity alone.
REFERENCES = frozenset(
    {
        'equinox',
        'flax',
        'haiku',
        'jax2onnx',
        'onnxruntime',
        'orbax',
        'peft',
        'timm',
        'torch',
        'torchvision',
        'transformers',
    }
)

_FENCE = re.compile(r'^```(\w+)(?: title="([^"\n]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_LEFT_OUT = re.compile(r'^ *\.\.\.\n', re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
      kind: `python` and `bash` run, `text` is what the block before it prints, others are shown.
      title: over the block; under a file's name it is an excerpt of that file, and not run.
      text: what stands between the fences.
    """

    kind: str
    title: str
    text: str

    @property
    def is_excerpt(self) -> bool:
        return self.title.endswith(('.py', '.toml'))


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in _FENCE.findall(page.read_text(encoding='utf-8'))]


def references(block: Block) -> set[str]:
    """Return the libraries that a block of Python imports and that blox does without."""
    if block.kind != 'python' or block.is_excerpt:
        return set()
    nodes = list(ast.walk(ast.parse(block.text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or '' for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition('.')[0] for name in names} & REFERENCES


def needs(name: str) -> set[str]:
    """Return the libraries that a page imports and that blox does without."""
    return set().union(*map(references, blocks(PAGES / name)))


@contextlib.contextmanager
def users_settings():
    """Set JAX's own defaults for promotion and precision, which users have."""
    with (
        jax.numpy_rank_promotion('allow'),
        jax.numpy_dtype_promotion('standard'),
        jax.default_matmul_precision('default'),
    ):
        yield


@contextlib.contextmanager
def families_as_they_are() -> Iterator[None]:
    """Forget what is registered meanwhile."""
    before = dict(models._registered)
    try:
        yield
    finally:
        models._registered.clear()
        models._registered.update(before)
        models.families.cache_clear()


def run(page: Path, found: list[Block], folder: Path) -> dict[str, Any]:
    """Run `found`, blocks of a page, in order, in one namespace and in `folder`.

    AssertionError where something else is printed than the block that follows says, and where an
    excerpt is not what its file says.
    """
    namespace, printed = {'__name__': page.stem}, ''
    with contextlib.chdir(folder), users_settings(), families_as_they_are():
        for block in found:
            if block.kind == 'text':
                assert printed == block.text, f'{page.name} says {block.text!r}, found {printed!r}'
            elif block.is_excerpt:
                check_excerpt(page, block)
            elif block.kind in _RUNNERS:
                printed = _RUNNERS[block.kind](page, block.text, namespace)
    return namespace


def check_excerpt(page: Path, block: Block) -> None:
    """Look for `block` in the repository's file that its title names, word for word.

    A line of `...` stands for lines that are left out. AssertionError where there is no such file
    or it says something else.
    """
    path = ROOT / block.title
    assert path.is_file(), f'{page.name} shows {block.title}, which the repository has not'
    rest = path.read_text(encoding='utf-8')
    for part in _LEFT_OUT.split(block.text):
        _, found, rest = f'\n{rest}'.partition(f'\n{part}')
        assert found, f'{page.name} shows of {block.title} what is not there: {part!r}'


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """Make a new folder that has the repository's examples."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT / 'examples', Path(folder) / 'examples')
        yield Path(folder)


def _python(page: Path, text: str, namespace: dict[str, Any]) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, str(page), 'exec'), namespace)
    return out.getvalue()


def _bash(page: Path, text: str, namespace: dict[str, Any]) -> str:
    """Run lines of `blox` as its command would, in this process: starting JAX takes seconds."""
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
    """Take exit code 1 of `blox diff` for no failure: the two differ."""
    try:
        yield
    except SystemExit as error:
        if (command, error.code) != ('diff', 1):
            raise


_RUNNERS = {'python': _python, 'bash': _bash}
