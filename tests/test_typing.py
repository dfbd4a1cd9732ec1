"""A user's script as pyright sees it: what `bx.zoo` returns is typed, and Params cannot be changed."""

import json
import subprocess
import sys

import pytest

pytest.importorskip('pyright')

SCRIPT = """\
import jax.numpy as jnp

import blox as bx

model, params = bx.zoo.load('vit-digits')
reveal_type(model)
reveal_type(params)
reveal_type(bx.zoo.create('gpt2'))
reveal_type(bx.zoo.init(model, 0))

images = jnp.zeros((1, 8, 8, 1))
logits, params = model(params, images)
found, params = model.features(params, images, ['block0'])
reveal_type(params)
reveal_type(found)
print(model.config.width, model.feature_info(), params['vit/head/w'].value, logits)
"""
FROZEN = "params['x'] = 3"


@pytest.fixture(scope='module')
def seen(tmp_path_factory):
    """Everything that pyright says of the script, and of the same with an assignment."""
    folder = tmp_path_factory.mktemp('typing')
    (folder / 'fine.py').write_text(SCRIPT)
    (folder / 'wrong.py').write_text(f'{SCRIPT}{FROZEN}\n')
    command = [sys.executable, '-m', 'pyright', '--outputjson', '--pythonpath', sys.executable]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, cwd=folder)
    return json.loads(done.stdout)['generalDiagnostics']


def said(seen, file, severity):
    return [
        one['message'] for one in seen if one['file'].endswith(file) and one['severity'] == severity
    ]


def test_what_the_zoo_returns_is_typed(seen):
    assert said(seen, 'fine.py', 'information') == [
        'Type of "model" is "ZooModel"',
        'Type of "params" is "Params"',
        'Type of "bx.zoo.create(\'gpt2\')" is "ZooModel"',
        'Type of "bx.zoo.init(model, 0)" is "Params"',
        'Type of "params" is "Params"',
        'Type of "found" is "dict[str, Any]"',
    ]


def test_a_script_that_calls_a_model_is_fine(seen):
    assert said(seen, 'fine.py', 'error') == []


def test_an_assignment_to_params_is_an_error(seen):
    (message,) = said(seen, 'wrong.py', 'error')
    assert '__setitem__' in message
    assert 'Params' in message
