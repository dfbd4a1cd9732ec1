"""Importing blox brings in little more than JAX."""

import subprocess
import sys

import pytest

import blox as bx


def modules_after(statement: str) -> set[str]:
    code = f'import sys; {statement}; print(" ".join(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return {name.partition('.')[0] for name in done.stdout.split()}


@pytest.mark.parametrize('module', ['torch', 'transformers', 'huggingface_hub', 'treescope', 'PIL'])
def test_importing_blox_does_not_import(module):
    assert module not in modules_after('import blox')


def test_the_zoo_is_imported_at_its_first_use():
    assert 'tokenizers' not in modules_after('import blox')
    assert 'tokenizers' in modules_after('import blox; blox.zoo')


def test_loading_a_model_imports_no_torch():
    found = modules_after("import blox as bx; bx.zoo.load('resnet-digits')")
    assert not {'torch', 'transformers', 'huggingface_hub', 'scipy'} & found


def test_the_library_lists_what_users_need_and_no_more():
    assert {'zoo', 'converters', 'Params', 'load'} < set(dir(bx)) == set(bx.__all__)
    assert all(getattr(bx, name) is not None for name in dir(bx))
