"""Folders and weights of other libraries as models of the zoo."""

import argparse
import dataclasses
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from families import declared, libraries_of
from folders import (
    FOLDERS,
    as_bare_file,
    as_bare_folder,
    as_npz,
    as_shards,
    bits,
    output,
    randomized,
    shard,
)
from helpers import message
from safetensors.numpy import load_file, save_file

import blox as bx
from blox import CheckpointError
from blox.converters import layouts
from blox.converters.exporting import external
from blox.tensorfile import write_tensors
from blox.zoo.models import families


@pytest.mark.parametrize('name', FOLDERS)
def test_a_folder_gives_the_params_and_config_that_it_was_made_of(exported, name):
    model, params, _, folder = exported[name]
    found, loaded = bx.zoo.load(folder)
    family, layout = FOLDERS[name]
    usual = families()[family].config()
    unsaid = {
        field: getattr(usual, field) for field in layouts(family)[layout].unsaid(model.config)
    }
    assert found.config == dataclasses.replace(model.config, **unsaid)
    assert bits(loaded) == bits(params)
    assert [p.is_state for p in loaded.values()] == [
        p.is_state for p in bx.zoo.init(model).values()
    ]


# Layouts of libraries that hold one model, of families that have two.
ALIKE = {name: libraries_of(name).keys() - said.fitted.keys() for name, said in declared().items()}


@pytest.mark.parametrize('family', [name for name, alike in ALIKE.items() if len(alike) > 1])
def test_the_same_weights_in_two_layouts_are_one_model(exported, family):
    made = [exported[f'{family}-{layout}'] for layout in sorted(ALIKE[family])]
    size = made[-1][0].config.image_size
    one, other = (bx.zoo.load(folder, image_size=size) for *_, folder in made)
    assert bits(one[1]) == bits(other[1])
    assert one[0].config == other[0].config
    assert (output(*one) == output(*other)).all()


def test_an_index_of_shards_is_followed(exported, tmp_path):
    _, params, _, folder = exported['gpt2-hf']
    for file in shard(folder, tmp_path / 'sharded'):
        assert file.exists()
    assert bits(bx.zoo.load(tmp_path / 'sharded')[1]) == bits(params)


@pytest.mark.parametrize('name', FOLDERS)
def test_a_tensor_too_few_and_one_too_many_are_both_named(edited, name):
    folder = edited(name, {})
    (weights,) = folder.glob('*.safetensors')
    tensors = load_file(weights)
    lacking = next(key for key in sorted(tensors) if key.endswith('weight'))
    more = {'extra': np.zeros(1, np.float32)}
    rest = {key: value for key, value in tensors.items() if key != lacking}
    save_file({**rest, **more}, weights)
    said = message(CheckpointError, lambda: bx.zoo.load(folder))
    assert f'{lacking}: missing' in said
    assert "'extra': unexpected" in said


@pytest.mark.usefixtures('catalog')
@pytest.mark.parametrize('num_classes', [0, 5])
def test_weights_alone_bring_their_own_head(tmp_path, num_classes):
    model = bx.zoo.create('vit-b16', num_classes=num_classes)
    path, params = tmp_path / 'tuned.safetensors', randomized(model)
    write_tensors(path, external(model, params, 'timm'), {})
    loaded, found = bx.zoo.load('vit-b16', source=path)
    assert loaded.config.num_classes == num_classes
    assert bits(found) == bits(params)


@pytest.mark.usefixtures('catalog')
def test_float64_weights_load_in_a_dtype_that_jax_holds(tmp_path):
    model = bx.zoo.create('gpt2')
    values = external(model, randomized(model), 'hf')
    path = tmp_path / 'wide.safetensors'
    write_tensors(path, {n: v.astype(np.float64) for n, v in values.items()}, {})
    assert 'dtype=jnp.float32' in message(
        bx.CheckpointError, lambda: bx.zoo.load('gpt2', source=path)
    )
    params = bx.zoo.load('gpt2', source=path, dtype=jnp.float32)[1]
    assert params['gpt2/token_embed/w'].dtype == jnp.float32


@pytest.mark.usefixtures('catalog')
@pytest.mark.parametrize('dtype', [None, jnp.float32, jnp.bfloat16])
def test_weights_of_mixed_dtypes_load_as_stored_or_cast(tmp_path, dtype):
    model = bx.zoo.create('gpt2')
    values = external(model, randomized(model), 'hf')
    halves = {n: v.astype(np.float16) if n.endswith('weight') else v for n, v in values.items()}
    write_tensors(tmp_path / 'mixed.safetensors', halves, {})
    params = bx.zoo.load('gpt2', source=tmp_path / 'mixed.safetensors', dtype=dtype)[1]
    found = {params['gpt2/token_embed/w'].dtype, params['gpt2/norm/offset'].dtype}
    assert found == ({jnp.dtype(dtype)} if dtype else {jnp.dtype('float16'), jnp.dtype('float32')})


# Training checkpoints.


@pytest.fixture
def checkpoint(tmp_path):
    """A training checkpoint of a wrapped GPT-2, with an average; and the Params of both."""
    torch = pytest.importorskip('torch')
    model = bx.zoo.create('gpt2')
    plain = randomized(model)
    average = plain.set('gpt2/norm/scale', plain['gpt2/norm/scale'].value + 1)
    states = {
        name: {f'module.{n}': torch.tensor(v) for n, v in external(model, params, 'hf').items()}
        for name, params in (('model', plain), ('model_ema', average))
    }
    torch.save({**states, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'last.pth.tar')
    return tmp_path / 'last.pth.tar', {'': plain, 'model': plain, 'model_ema': average}


@pytest.mark.usefixtures('catalog')
def test_a_training_checkpoint_is_loaded_by_the_state_that_is_named(checkpoint, caplog):
    path, expected = checkpoint
    for state, params in expected.items():
        with caplog.at_level(logging.INFO, 'blox'):
            found = bx.zoo.load('gpt2', source=path, state=state)[1]
        assert bits(found) == bits(params)
        assert f'took the weights in {state or "model"!r}' in caplog.text.splitlines()[-1]
        assert bx.zoo.read_card('gpt2', source=path, state=state).layout == 'hf'


@pytest.mark.parametrize(
    ('name', 'options'), [('vit-digits', {}), ('vit-digits', {'source': 'vit-digits.safetensors'})]
)
def test_a_state_of_what_is_no_training_checkpoint_is_refused(tmp_path, name, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bx.zoo.save('vit-digits.safetensors', *bx.zoo.load('vit-digits'))
    said = message(ValueError, lambda: bx.zoo.load(name, state='model_ema', **options))
    assert "state='model_ema' is one of the states in a training checkpoint" in said


@pytest.mark.parametrize('write', [as_bare_file, as_bare_folder, as_npz, as_shards])
def test_weights_without_a_name_say_what_to_do(exported, tmp_path, write):
    path = write(exported, tmp_path)
    said = message(CheckpointError, lambda: bx.zoo.load(path))
    assert str(path) in said
    assert "bx.zoo.load('resnet50', source=PATH)" in said
