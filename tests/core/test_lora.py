"""Adapters: what they add, that merging adds the same, and files of them for one base alone."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import layer, normal, random_params, table

import blox as bx
from blox.adapters import adapter_entries

IMAGE = normal(2, 6, 5, 4)
LAYERS = {
    'linear': (lambda: bx.Linear(layer(), 3), normal(2, 5, 4)),
    'conv': (lambda: bx.Conv(layer(), 3, 3, stride=2, padding=1), IMAGE),
    'conv that wraps': (lambda: bx.Conv(layer(), 3, 3, padding_mode='circular'), IMAGE),
    'conv with dilation': (lambda: bx.Conv(layer(), 3, (3, 1), dilation=2), IMAGE),
    'conv in groups': (lambda: bx.Conv(layer(), 6, 3, groups=2), IMAGE),
    'transposed conv': (lambda: bx.ConvTranspose(layer(), 3, 3, stride=2), IMAGE),
    'embed': (lambda: bx.Embed(layer(), 9, 4), np.array([[1, 8], [0, 3]])),
    'attention': (lambda: bx.MultiHeadAttention(layer(), 8, 2), normal(2, 3, 8)),
    'gru': (lambda: bx.GRU(layer(), 4), normal(2, 3, 5)),
}


def trained(params, seed=7):
    """Adapters as training leaves them: `b` is no longer zero."""
    own, rest = params.partition('**/*_lora_*')
    noise = iter(range(seed, seed + len(own)))
    return jax.tree.map(lambda x: x + normal(*x.shape, seed=next(noise)), own).merge(rest)


def weights(path, param):
    return len(param.shape) > 1


def outputs_of(model, params, inputs):
    outputs, _ = model(params, jnp.asarray(inputs))
    return jax.tree.leaves(outputs)[0]


@pytest.fixture
def base():
    model = bx.Linear(bx.Graph('net'), 6)
    return model, bx.init(model, jax.ShapeDtypeStruct((1, 4), np.float32), seed=3)


@table(LAYERS)
def test_merging_gives_the_same_outputs_as_adapters(row, x64):
    make, inputs = row
    model = make()
    plain = random_params(model, inputs)
    adapted = trained(bx.lora(plain, weights, rank=2))
    found = outputs_of(model, adapted, inputs)
    np.testing.assert_allclose(
        found, outputs_of(model, bx.merge_lora(adapted), inputs), rtol=1e-12, atol=1e-12
    )
    assert abs(found - outputs_of(model, plain, inputs)).max() > 0.01


@table(LAYERS)
def test_nothing_changes_at_first(row, x64):
    make, inputs = row
    model = make()
    plain = random_params(model, inputs)
    adapted = bx.lora(plain, weights, rank=2)
    np.testing.assert_array_equal(
        outputs_of(model, adapted, inputs), outputs_of(model, plain, inputs)
    )


def test_thirds_of_a_fused_projection_have_adapters_of_their_own(x64):
    model, inputs = bx.MultiHeadAttention(layer(), 6, 2), jnp.asarray(normal(2, 3, 6))
    plain = random_params(model, inputs)
    adapted = trained(bx.lora(plain, 'layer/qkv/w', rank=2, alpha=3, parts='qv'))
    merged = bx.merge_lora(adapted)
    change = np.asarray(merged['layer/qkv/w'].value - plain['layer/qkv/w'].value)
    a, b = (adapted[f'layer/qkv/w_lora_v_{x}'].value for x in 'ab')
    np.testing.assert_allclose(change[:, 12:], 1.5 * a @ b, rtol=1e-12)
    assert not change[:, 6:12].any()
    np.testing.assert_allclose(
        model(adapted, inputs)[0], model(merged, inputs)[0], rtol=1e-12, atol=1e-12
    )


def test_parts_of_shared_keys_and_values_are_as_wide_as_these_are():
    attention = bx.MultiHeadAttention(bx.Graph('layer'), 8, 4, kv_heads=1)
    params = bx.init(attention, jnp.ones((1, 3, 8)))
    found = bx.lora(params, 'layer/qkv/w', rank=2, parts='qkv')
    b = {part: found[f'layer/qkv/w_lora_{part}_b'] for part in 'qkv'}
    assert {part: (x.metadata['start'], x.shape[1]) for part, x in b.items()} == {
        'q': (0, 8),
        'k': (8, 2),
        'v': (10, 2),
    }


def test_the_base_is_frozen_and_shared(base):
    _, params = base
    adapted = bx.lora(params, '**/w', rank=2)
    trainable, rest = adapted.split_trainable()
    assert list(trainable) == ['net/w_lora_a', 'net/w_lora_b']
    assert all(rest[path].value is params[path].value for path in params)
    assert list(bx.merge_lora(adapted)) == list(params)


def test_a_frozen_weight_costs_no_gradient():
    model = bx.Linear(bx.Graph('net'), 96)
    inputs = jnp.ones((8, 64))
    full = bx.init(model, inputs)

    def flops(params):
        trainable, rest = params.split_trainable()
        gradient = jax.jit(jax.grad(lambda t, r: model(t.merge(r), inputs)[0].sum()))
        cost = gradient.lower(trainable, rest).compile().cost_analysis() or {}
        return cost['flops']

    weight_gradient = 2 * 8 * 64 * 96
    assert flops(full) >= weight_gradient
    assert flops(bx.lora(full, '**/w', rank=1)) < weight_gradient / 4


def test_adapters_are_wider_than_a_narrow_base(base):
    model, params = base
    adapted = bx.lora(params.cast(jnp.bfloat16), '**/w', rank=2)
    assert adapted['net/w_lora_a'].dtype == jnp.float32
    outputs, _ = model(trained(adapted), jnp.ones((2, 4), jnp.bfloat16))
    assert outputs.dtype == jnp.bfloat16
    assert bx.merge_lora(adapted)['net/w'].dtype == jnp.bfloat16


def test_the_seed_and_the_path_decide_alone(base):
    _, params = base
    a, b, c = (bx.lora(params, '**/w', seed=s)['net/w_lora_a'].value for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert abs(a).max() <= 0.5


@table(
    {
        'no rank': ({'where': '**/w', 'rank': 0}, 'a rank of 1 or more'),
        'no scale': ({'where': '**/w', 'alpha': 1e39}, 'an alpha that float32 holds'),
        'no weights': ({'where': '**/b'}, 'names no weights to adapt'),
        'unknown parts': ({'where': '**/w', 'parts': 'qx'}, "expected parts of 'q', 'k', 'v'"),
        'parts twice': ({'where': '**/w', 'parts': 'qq'}, 'each once'),
        'no fused projection': (
            {'where': '**/u', 'parts': 'q'},
            'need the fused projection of an attention',
        ),
        'misspelt': ({'where': 'nett/w'}, 'matches none'),
    }
)
def test_what_cannot_be_adapted_is_refused(row):
    arguments, message = row
    params = bx.Params.from_entries(
        {'net/w': jnp.ones((2, 6)), 'net/u': jnp.ones((2, 3)), 'net/b': jnp.ones(6)}
    )
    with pytest.raises(ValueError, match=message):
        bx.lora(params, **arguments)


def test_adapters_upon_adapters_are_refused(base):
    adapted = bx.lora(base[1], '**/w')
    with pytest.raises(ValueError, match='have adapters already'):
        bx.lora(adapted, '**/w')


def test_a_file_of_adapters_fits_its_base_alone(base, tmp_path):
    _, params = base
    adapted = trained(bx.lora(params, '**/w', rank=2)).unfreeze('net/b')
    bx.save_lora(tmp_path / 'a.safetensors', adapted)
    loaded = bx.load_lora(tmp_path / 'a.safetensors', params)
    for path, param in adapted.items():
        assert loaded[path].trainable == param.trainable
        assert loaded[path].metadata == param.metadata
        if path != 'rng':
            np.testing.assert_array_equal(loaded[path].value, param.value)
    other = params.set('net/w', params['net/w'].value.at[0, 0].add(1e-7))
    with pytest.raises(bx.CheckpointError, match=r'another base: net/w: expected float32\[4,6\]'):
        bx.load_lora(tmp_path / 'a.safetensors', other)
    with pytest.raises(bx.CheckpointError, match="'net/extra': unexpected"):
        bx.load_lora(
            tmp_path / 'a.safetensors', params.merge(bx.Params.from_entries({'net/extra': 1.0}))
        )


def test_another_head_than_the_one_trained_is_refused(tmp_path):
    _, params = bx.zoo.load('vit-digits', num_classes=3)
    adapted = bx.lora(params, 'vit/block0/attn/qkv/w').unfreeze('vit/head/*')
    bx.save_lora(tmp_path / 'a.safetensors', adapted)
    with pytest.raises(bx.CheckpointError, match=r'vit/head/w of \(96, 10\), found \(96, 3\)'):
        bx.load_lora(tmp_path / 'a.safetensors', bx.zoo.load('vit-digits')[1])
    with pytest.raises(bx.CheckpointError, match=r'found adapters: bx\.load_lora'):
        bx.zoo.load(tmp_path / 'a.safetensors')


def test_adapters_of_a_model_take_kilobytes(tmp_path):
    _, params = bx.zoo.load('vit-digits')
    adapted = bx.lora(params, 'vit/block*/attn/qkv/w', rank=2)
    bx.save_lora(tmp_path / 'a.safetensors', adapted)
    assert (tmp_path / 'a.safetensors').stat().st_size < 50_000 < params.nbytes / 30
    whole = bx.load_lora(tmp_path / 'a.safetensors', params)
    assert list(whole) == list(adapted)


def _edited(path, edit):
    """Rewrites what the file's header says of its base."""
    from blox.tensorfile import TensorFile, write_tensors

    file = TensorFile(path)
    metadata = dict(file.metadata)
    edit(metadata)
    copy = path.with_name('edited.safetensors')
    write_tensors(copy, {name: np.array(x) for name, x in file.items()}, metadata)
    shutil.move(copy, path)


@table(
    {
        'not adapters': (lambda m: m.pop('blox.lora'), 'expected adapters saved by bx.save_lora'),
        'not JSON': (lambda m: m.update({'blox.lora': '{'}), 'blox.lora'),
        'not hashes': (lambda m: m.update({'blox.lora': '{"net/w": 3}'}), 'another base'),
        'a list': (lambda m: m.update({'blox.lora': '[]'}), 'blox.lora'),
    }
)
def test_a_file_that_says_otherwise_is_refused(row, base, tmp_path):
    edit, message = row
    bx.save_lora(tmp_path / 'a.safetensors', bx.lora(base[1], '**/w'))
    _edited(tmp_path / 'a.safetensors', edit)
    with pytest.raises(bx.CheckpointError, match=message):
        bx.load_lora(tmp_path / 'a.safetensors', base[1])


@table(
    {
        'no scale': (lambda entry: entry.pop('scale'), 'scale'),
        'scale a text': (lambda entry: entry.update(scale='x'), 'scale'),
        'start past the end': (lambda entry: entry.update(start=5), 'start'),
        'start below zero': (lambda entry: entry.update(start=-1), 'start'),
        'scale infinite': (lambda entry: entry.update(scale=float('inf')), 'scale'),
        'no tag': (lambda entry: entry.pop('tag'), "the tag 'lora', or neither"),
    }
)
def test_a_file_whose_adapters_do_not_fit_is_refused(row, base, tmp_path):
    spoil, message = row

    def edit(metadata):
        description = json.loads(metadata['blox.params'])
        spoil(description['metadata']['net/w_lora_b'])
        metadata['blox.params'] = json.dumps(description).replace('Infinity', '1e999')

    bx.save_lora(tmp_path / 'a.safetensors', bx.lora(base[1], '**/w'))
    _edited(tmp_path / 'a.safetensors', edit)
    with pytest.raises(bx.CheckpointError, match=message):
        bx.load_lora(tmp_path / 'a.safetensors', base[1])


@table(
    {
        'a part of no name': (('net/w_lora_z_', np.float32), 'a path as w_lora_a'),
        'integers': (('net/w_lora_', np.int32), 'a floating-point dtype, found int32'),
    }
)
def test_a_file_of_adapters_that_no_layer_would_add_is_refused(row, base, tmp_path):
    (prefix, dtype), message = row
    adapted = bx.lora(base[1], 'net/w')
    plain = adapted.partition('net/w_lora_*')[1]
    halves = adapter_entries(prefix, np.ones((4, 2), dtype), np.ones((2, 6), dtype), 1.0, 0)
    spoilt = plain.merge(bx.Params.from_entries(halves, finalized=True))
    bx.save_lora(tmp_path / 'a.safetensors', spoilt)
    with pytest.raises(bx.CheckpointError, match=message):
        bx.load_lora(tmp_path / 'a.safetensors', base[1])


def test_params_without_adapters_are_no_adapters(base, tmp_path):
    with pytest.raises(ValueError, match='no adapters to save'):
        bx.save_lora(tmp_path / 'a.safetensors', base[1])


WRITERS = {
    'save': bx.zoo.save,
    'export': bx.zoo.export,
    'compile': bx.zoo.compile,
    'convert': bx.converters.export,
}


@table(WRITERS)
def test_a_model_is_written_without_adapters_or_not_at_all(row, tmp_path):
    model, params = bx.zoo.load('vit-digits')
    with pytest.raises(ValueError, match=r'have adapters: bx\.merge_lora\(params\) makes'):
        row(tmp_path / 'x.safetensors', model, bx.lora(params, 'vit/head/w'))
    assert not list(tmp_path.iterdir())
