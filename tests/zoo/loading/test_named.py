"""Weights in the place of a catalog entry's own: folders, files, and those of other models."""

import jax.numpy as jnp
import pytest
from folders import (
    as_bare_file,
    as_bare_folder,
    as_folder,
    as_npz,
    as_own_file,
    as_shards,
    bits,
    output,
)
from helpers import message, table

import blox as bx

# What is made of a tiny ViT, and the facts of its layout: activation, epsilon.
SOURCES = {
    'a folder': (as_folder, 'hf', ('gelu', 1e-6)),
    'a bare file': (as_bare_file, 'timm', ('gelu', 1e-6)),
    'a bare folder': (as_bare_folder, 'timm', ('gelu', 1e-6)),
    "Google's": (as_npz, 'google', ('gelu_tanh', 1e-6)),
    'an index': (as_shards, 'hf', ('gelu', 1e-12)),
    'our own': (as_own_file, '', ('gelu', 1e-6)),
}


@pytest.mark.usefixtures('catalog')
@table(SOURCES)
def test_a_source_takes_the_place_of_an_entrys_own(row, exported, tmp_path):
    write, layout, facts = row
    path = write(exported, tmp_path)
    model, params = bx.zoo.load('vit-b16', source=path)
    assert bits(params) == bits(exported['vit-hf'][1])
    assert (model.config.activation, model.config.norm_eps) == facts
    found = bx.zoo.read_card('vit-b16', source=str(path))
    assert (found.name, found.layout, found.source) == ('vit-b16', layout, '')
    # Whose they are, nobody knows.
    assert (found.license, found.summary) == ('', '')
    assert found.paper == bx.zoo.card('vit-b16').paper


@pytest.mark.usefixtures('catalog')
def test_a_source_says_how_images_are_prepared_or_the_entry_does(exported, tmp_path):
    path = as_bare_file(exported, tmp_path)
    entry = bx.zoo.card('vit-b16').preprocessor
    assert bx.zoo.preprocessor('vit-b16', source=path) == entry
    folder = exported['vit-hf'][3]
    assert bx.zoo.preprocessor('vit-b16', source=folder) == exported['vit-hf'][2].preprocessor


@pytest.mark.usefixtures('catalog')
@table(
    {
        'a family': ('vit-b16', 'gpt2-hf', ["'vit'", "'gpt2'"]),
        'a family, bare': ('gpt2', 'resnet-hf/model.safetensors', ['GPT2', 'resnet']),
        'a size': ('vit-s16-augreg', 'vit-timm', ['vit-s16-augreg', 'vit/block2/']),
        'a size, bare': (
            'resnet18-microsoft',
            'resnet-hf/model.safetensors',
            ['64', "'hf' of transformers"],
        ),
    }
)
def test_a_source_of_another_model_is_refused_and_both_are_named(row, exported):
    name, path, expected = row
    source = exported['vit-hf'][3].parent / path
    said = message(ValueError, lambda: bx.zoo.load(name, source=source))
    assert all(part in said for part in [path.split('/')[0], *expected])


@pytest.mark.usefixtures('catalog')
@pytest.mark.parametrize('write', [as_folder, as_bare_file, as_own_file])
def test_overrides_go_with_a_source(exported, tmp_path, write):
    path = write(exported, tmp_path)
    model, params = bx.zoo.load('vit-b16', source=path, num_classes=5, dtype=jnp.bfloat16)
    assert output(model, params).shape == (1, 5)
    assert params['vit/norm/scale'].value.dtype == jnp.bfloat16
