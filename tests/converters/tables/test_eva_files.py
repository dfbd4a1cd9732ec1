"""DINOv3's files of transformers: registers, and none."""

import json

import numpy as np
import pytest
from families import build, fitted
from folders import randomized
from safetensors.numpy import load_file, save_file

import blox as bx
from blox import CheckpointError

REGISTERS = 'embeddings.register_tokens'


def written(folder, **fields):
    """A folder of transformers, and what it was made of."""
    model = build(fitted('eva', 'hf', **fields))
    params = randomized(model)
    bx.converters.export(folder, model, params, 'hf')
    return model, params


def test_a_model_without_registers_goes_out_with_an_empty_array_of_them(tmp_path):
    _, params = written(tmp_path)
    found = load_file(tmp_path / 'model.safetensors')
    assert found[REGISTERS].shape == (1, 0, 16)
    assert not found['embeddings.mask_token'].any()
    # Files of others may lack both.
    kept = {n: x for n, x in found.items() if n not in (REGISTERS, 'embeddings.mask_token')}
    save_file(kept, tmp_path / 'model.safetensors')
    assert 'eva/reg_token' not in params
    loaded = bx.zoo.load(tmp_path)[1]
    assert all(np.array_equal(loaded[path].value, params[path].value) for path in params)


@pytest.mark.parametrize('said', [0, 3, None])
def test_other_registers_than_there_are_are_refused(tmp_path, said):
    written(tmp_path, registers=2)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['num_register_tokens'] = said
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf'as {REGISTERS} of \(1, 2, 16\) has, found'):
        bx.zoo.load(tmp_path)
