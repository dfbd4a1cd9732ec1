"""The README's Python runs, and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import jax
import pytest

README = Path(__file__).parent.parent / 'README.md'
FENCE = re.compile(r'^```(\w+)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return FENCE.findall(README.read_text(encoding='utf-8'))


@pytest.fixture
def _users_settings():
    """Users run in the repository's root, with JAX's own defaults for promotion and precision."""
    with (
        contextlib.chdir(README.parent),
        jax.numpy_rank_promotion('allow'),
        jax.numpy_dtype_promotion('standard'),
        jax.default_matmul_precision('default'),
    ):
        yield


@pytest.mark.usefixtures('_users_settings')
def test_python_blocks_run_and_print_what_follows_them():
    namespace, printed = {'__name__': 'readme'}, ''
    for kind, text in blocks():
        if kind == 'python':
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, str(README), 'exec'), namespace)
            printed = out.getvalue()
        elif kind == 'text':
            assert printed == text


def test_the_first_two_bash_blocks_install_and_use_then_test():
    commands = [text for kind, text in blocks() if kind == 'bash']
    assert commands[0].startswith('pip install .\nblox predict')
    assert 'blox generate gpt2-pydocs' in commands[0]
    assert commands[1] == 'pip install -e ".[test]"\npython -m pytest\n'
