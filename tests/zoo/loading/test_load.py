"""Loading with overrides, in another dtype, on a mesh."""

import dataclasses
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import declared
from folders import COLORS, HEADS, as_npz, bits, output
from helpers import message, table
from jax.sharding import Mesh, PartitionSpec
from own_files import same
from safetensors.numpy import load_file, save_file
from scipy.ndimage import zoom
from small_models import answer

import blox as bx
from blox.zoo.models import families


def with_classes(family: str, count: int) -> dict[str, Any]:
    """Overrides for a head of so many classes: of a model of texts another task too."""
    of_text = {'task': 'text-classification'} if hasattr(families()[family].config, 'task') else {}
    return {'num_classes': count, **of_text}


# What overrides of our own files change.


@pytest.mark.parametrize('family', [name for name in declared() if families()[name].head])
def test_other_num_classes_of_a_file_start_a_fresh_head_and_keep_the_rest(saved, family):
    _, params, path = saved[family]
    head = families()[family].head
    assert head is not None
    overrides = with_classes(family, 5)
    model, loaded = bx.zoo.load(path, seed=3, **overrides)
    fresh, kept = loaded.partition(head.pattern)
    assert families()[family].count_classes(model.config) == 5
    assert same(kept, params.partition(lambda path, _: path in kept)[0])
    assert same(fresh, bx.zoo.init(model, seed=3).partition(head.pattern)[0])
    assert output(model, loaded).shape == (1, 5)


def test_a_fresh_head_depends_on_the_seed_and_nothing_else_does(saved):
    path = saved['resnet'][2]
    first, other = (bx.zoo.load(path, num_classes=5, seed=seed)[1] for seed in (1, 2))
    different = [p for p in first if p != 'rng' and (first[p].value != other[p].value).any()]
    assert different == ['resnet/head/w']


def test_the_stored_number_of_classes_keeps_the_head(saved):
    _, params, path = saved['resnet']
    assert same(bx.zoo.load(path, num_classes=3, seed=9)[1], params)


def test_no_classes_take_the_head_off_and_a_number_puts_one_on(saved, tmp_path):
    path = tmp_path / 'a.safetensors'
    bare, features = bx.zoo.load(saved['vit'][2], num_classes=0)
    assert [name for name in features if 'head' in name] == []
    bx.zoo.save(path, bare, features)
    model, params = bx.zoo.load(path, num_classes=4)
    assert output(model, params).shape == (1, 4)


def test_fields_that_change_no_parameter_may_be_changed(saved):
    _, params, path = saved['gpt2']
    model, loaded = bx.zoo.load(path, norm_eps=1e-3, dropout_rate=0.5)
    assert (model.config.norm_eps, model.config.dropout_rate) == (1e-3, 0.5)
    assert same(loaded, params)


@pytest.mark.parametrize(
    ('family', 'overrides', 'expected'),
    [
        ('gpt2', {'depth': 3}, 'gpt2/block2/attn/proj/b: missing'),
        ('gpt2', {'tied_head': False}, 'gpt2/head/w: missing'),
        ('gpt2', {'width': 4}, 'gpt2/block0/norm1/scale: expected shape (4,), found (8,)'),
        ('vit', {'width': 4}, 'vit/block0/norm1/scale: expected shape (4,), found (8,)'),
        ('vit', {'class_token': False, 'pool': 'avg'}, "'vit/cls_token': unexpected"),
        ('vit', {'num_classes': 5, 'depth': 3}, 'vit/block2/attn/proj/b: missing'),
        ('resnet', {'depths': (2, 2, 1, 1)}, 'resnet/stage1/block1/conv1/conv/w: missing'),
    ],
)
def test_any_other_change_is_refused(saved, family, overrides, expected):
    with pytest.raises(ValueError, match='overrides do not fit') as caught:
        bx.zoo.load(saved[family][2], **overrides)
    assert str(saved[family][2]) in str(caught.value)
    assert expected in str(caught.value)


def test_an_unknown_field_is_an_error_that_lists_the_known(saved):
    with pytest.raises(TypeError, match=r'no config field layers; it has .*depth'):
        bx.zoo.load(saved['gpt2'][2], layers=2)


# How it is placed.


def test_dtype_casts_floating_point_values_alone(saved):
    model, params, path = saved['resnet']
    loaded = bx.zoo.load(path, dtype=jnp.bfloat16)[1]
    assert {str(x.value.dtype) for name, x in loaded.items() if name != 'rng'} == {'bfloat16'}
    assert same(loaded, params.cast(jnp.bfloat16))
    assert loaded['rng'].value[1].dtype == jnp.uint32
    assert np.isfinite(output(model, loaded)).all()


def test_rules_place_params_on_the_mesh_as_they_say(saved):
    _, params, path = saved['gpt2']
    mesh = Mesh(np.array(jax.devices()[:4]), ('x',))
    rules = {'**/qkv/w': PartitionSpec(None, 'x'), '**/fc?/w': PartitionSpec('x')}
    loaded = bx.zoo.load(path, mesh=mesh, rules=rules)[1]
    specs = {name: param.value.sharding.spec for name, param in loaded.items() if name != 'rng'}
    assert {name: spec for name, spec in specs.items() if spec != PartitionSpec()} == {
        f'gpt2/block{i}/{name}/w': PartitionSpec(None, 'x') if 'qkv' in name else PartitionSpec('x')
        for i in range(2)
        for name in ('attn/qkv', 'mlp/fc1', 'mlp/fc2')
    }
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(loaded)} == {4}
    assert same(loaded, params)


def test_without_rules_params_are_replicated_on_the_mesh(saved):
    mesh = Mesh(np.array(jax.devices()[:2]), ('x',))
    loaded = bx.zoo.load(saved['gpt2'][2], mesh=mesh)[1]
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(loaded))
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(loaded)} == {2}


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ({'vit/**': PartitionSpec('x')}, r"'vit/\*\*'"),
        ({'gpt2/norm/scale': PartitionSpec('y')}, "'gpt2/norm/scale'.*'y'"),
        ({'gpt2/norm/scale': PartitionSpec(None, 'x')}, "'gpt2/norm/scale'.*more axes"),
        ({'gpt2/token_embed/w': PartitionSpec('x')}, "'gpt2/token_embed/w'.*11 into 4"),
    ],
)
def test_rules_that_fit_nothing_or_no_shape_are_refused(saved, rules, message):
    mesh = Mesh(np.array(jax.devices()[:4]), ('x',))
    with pytest.raises(ValueError, match=message):
        bx.zoo.load(saved['gpt2'][2], mesh=mesh, rules=rules)


def test_rules_without_a_mesh_are_refused(saved):
    with pytest.raises((TypeError, ValueError), match='mesh'):
        bx.zoo.load(saved['gpt2'][2], rules={'**/qkv/w': PartitionSpec(None, 'x')})


def test_a_dtype_that_holds_no_weights_is_refused(saved):
    with pytest.raises((TypeError, ValueError), match='int8'):
        bx.zoo.load(saved['gpt2'][2], dtype=jnp.int8)


# What overrides of folders change.


@pytest.mark.parametrize('name', HEADS)
def test_other_num_classes_start_a_fresh_head_and_keep_the_rest(exported, name):
    _, params, card, folder = exported[name]
    head = families()[card.family].head
    assert head is not None
    model, loaded = bx.zoo.load(folder, **with_classes(card.family, 5), seed=3)
    fresh, kept = loaded.partition(head.pattern)
    assert bits(kept) == bits(params.partition(lambda path, _: path in kept)[0])
    assert bits(fresh) == bits(bx.zoo.init(model, 3).partition(head.pattern)[0])
    assert bx.zoo.read_card(folder, **with_classes(card.family, 5)).labels == ()
    assert bx.zoo.read_card(folder, num_classes=len(card.labels)).labels == card.labels


def test_without_learned_positions_another_image_size_changes_no_weights(exported):
    model, params, card, folder = exported['eva-hf']
    assert 'eva/pos_embed' not in params
    other, loaded = bx.zoo.load(folder, image_size=(16, 24))
    assert bits(loaded) == bits(params)
    assert bx.zoo.read_card(folder, image_size=(16, 24)).changes == ()
    twice = tuple(2 * n for n in card.preprocessor.resize)
    assert bx.zoo.preprocessor(folder, image_size=(16, 24)).resize == twice
    assert (other.config.image_size, model.config.image_size) == ((16, 24), (8, 12))
    output(other, loaded)


@pytest.mark.parametrize('name', ['vit-hf', 'vit-timm'])
def test_another_image_size_resizes_positions_and_the_preprocessor_follows(exported, name):
    _, params, card, folder = exported[name]
    model, loaded = bx.zoo.load(folder, image_size=(16, 24))
    assert loaded['vit/pos_embed'].value.shape == (1, 4 * 6 + 1, 8)
    changed = {path for path, value in bits(loaded).items() if value != bits(params)[path]}
    assert changed == {'vit/pos_embed'}
    assert (output(model, loaded) != output(*exported[name][:2])).any()
    prepare = bx.zoo.preprocessor(folder, image_size=(16, 24))
    twice = {'size': (16, 24), 'resize': tuple(2 * n for n in card.preprocessor.resize)}
    assert prepare == dataclasses.replace(card.preprocessor, **twice)


def test_each_layouts_positions_are_resized_in_its_own_way(exported):
    hf, timm = (bx.zoo.load(exported[name][3], image_size=16)[1] for name in ('vit-hf', 'vit-timm'))
    assert [path for path in hf if bits(hf).get(path) != bits(timm).get(path)] == ['vit/pos_embed']


@pytest.mark.usefixtures('catalog')
def test_googles_positions_are_resized_by_scipy(exported, tmp_path):
    path = as_npz(exported, tmp_path)
    positions = np.asarray(exported['vit-hf'][1]['vit/pos_embed'].value)
    grid = np.asarray(zoom(positions[0, 1:].reshape(2, 3, 8), (5 / 2, 4 / 3, 1), order=1))
    found = bx.zoo.load('vit-b16', source=path, image_size=(20, 16))[1]['vit/pos_embed'].value
    expected = np.concatenate([positions[:, :1], grid.reshape(1, 20, 8)], 1)
    assert (np.asarray(found) == expected).all()


@pytest.mark.parametrize('name', ['resnet-hf', 'resnet-timm'])
def test_a_resnets_images_change_no_parameter(exported, name):
    _, params, _, folder = exported[name]
    assert bits(bx.zoo.load(folder, image_size=48)[1]) == bits(params)
    for size in (48, 224):
        assert bx.zoo.preprocessor(folder, image_size=size).size == (size, size)
    assert bx.zoo.read_card(folder, image_size=48).changes == ()


@pytest.mark.parametrize('name', COLORS)
@pytest.mark.parametrize('count', [1, 6])
def test_other_channels_keep_what_images_of_equal_channels_give(exported, name, count):
    model, params, _, folder = exported[name]
    gray = np.random.default_rng(0).normal(size=(2, *model.config.image_size, 1)).astype(np.float32)
    changed, loaded = bx.zoo.load(folder, in_channels=count)
    others = [jnp.ones(x.shape, x.dtype) for x in model.example_inputs()[1:]]
    expected, _ = jax.jit(model)(params, jnp.asarray(gray.repeat(3, -1)), *others)
    found, _ = jax.jit(changed)(loaded, jnp.asarray(gray.repeat(count, -1)), *others)
    found, expected = answer(found), np.asarray(answer(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize('name', COLORS)
def test_a_preprocessor_for_other_channels_is_not_known(exported, name):
    folder = exported[name][3]
    assert bx.zoo.read_card(folder, in_channels=1).preprocessor is None
    with pytest.raises(ValueError, match='no image preprocessing is known'):
        bx.zoo.preprocessor(folder, in_channels=1)


def test_overrides_go_together(exported):
    folder = exported['vit-timm'][3]
    overrides: dict[str, Any] = {'num_classes': 4, 'image_size': 16, 'in_channels': 1}
    model, params = bx.zoo.load(folder, **overrides, dtype=jnp.bfloat16, seed=2)
    assert bits(params) == bits(bx.zoo.load(folder, **overrides, seed=2)[1].cast(jnp.bfloat16))
    assert output(model, params).shape == (1, 4)
    assert params['vit/pos_embed'].value.shape == (1, 17, 8)
    assert params['vit/patch_embed/w'].value.shape == (4, 4, 1, 8)
    assert {str(p.value.dtype) for path, p in params.items() if path != 'rng'} == {'bfloat16'}


RESIZED: dict[str, Any] = {
    'more tokens': ('gpt2-hf', {'vocab_size': 400}, {'gpt2/token_embed/w'}),
    'less tokens': ('bert-hf', {'vocab_size': 7}, {'bert/token_embed/w'}),
    'longer texts': ('gpt2-hf', {'context': 64}, {'gpt2/pos_embed/w'}),
    'texts for an image': (
        'clip-hf',
        {'context': 12, 'vocab_size': 300},
        {'clip/text/pos_embed/w', 'clip/text/token_embed/w'},
    ),
    'patches': ('eva-timm', {'patch_size': 2}, {'eva/pos_embed', 'eva/patch_embed/w'}),
    'as many patches': (
        'vit-timm',
        {'patch_size': 8, 'image_size': (16, 24)},
        {'vit/patch_embed/w'},
    ),
}


@table(RESIZED)
def test_tokens_texts_and_patches_are_resized_and_nothing_else(exported, row):
    name, overrides, changed = row
    _, params, _, folder = exported[name]
    model, loaded = bx.zoo.load(folder, **overrides)
    assert {path for path in loaded if bits(loaded).get(path) != bits(params).get(path)} == changed
    assert all(np.isfinite(np.asarray(loaded[path].value)).all() for path in changed)
    said = ' '.join(bx.zoo.read_card(folder, **overrides).changes)
    assert all(f'{path} ' in said.replace(',', ' ') for path in changed)
    output(model, loaded)


def test_a_grid_of_another_form_is_resized_too(exported):
    folder = exported['vit-timm'][3]
    _, params = bx.zoo.load(folder, image_size=(12, 8))
    stored = exported['vit-timm'][1]
    assert params['vit/pos_embed'].shape == stored['vit/pos_embed'].shape
    assert bits(params)['vit/pos_embed'] != bits(stored)['vit/pos_embed']
    assert 'vit/pos_embed resized' in bx.zoo.read_card(folder, image_size=(12, 8)).changes[0]


def test_a_head_that_starts_anew_knows_no_labels(exported):
    card = bx.zoo.read_card(
        exported['bert-hf'][3], task='token-classification', num_classes=3, vocab_size=90
    )
    assert (card.labels, card.scores) == ((), 'softmax')
    assert not [line for line in card.changes if 'bert/head' in line and 'resized' in line]


def test_a_head_may_be_taken_off(exported):
    model, params = bx.zoo.load(exported['resnet-timm'][3], num_classes=0)
    assert not [path for path in params if '/head/' in path]
    assert output(model, params).shape == (1, 32)


@table(
    {
        'depth': ('vit-hf', {'depth': 3}, 'vit/block2/attn/proj/b: missing'),
        'a wider stage': ('resnet-hf', {'widths': (4, 6, 8, 16)}, 'resnet/head/w: expected shape'),
        'types': ('bert-hf', {'token_types': 1}, 'bert/type_embed/w: expected shape (1, 8)'),
    }
)
def test_overrides_that_do_not_fit_are_refused(row, exported):
    name, overrides, expected = row
    said = message(ValueError, lambda: bx.zoo.load(exported[name][3], **overrides))
    assert str(exported[name][3]) in said
    assert expected in said


def test_channels_change_from_three_alone(edited):
    prepare = {'image_processor_type': 'ViTImageProcessor', 'image_mean': [0.5], 'image_std': [0.5]}
    folder = edited('vit-hf', {'num_channels': 1}, preprocessor_config=prepare)
    tensors = load_file(folder / 'model.safetensors')
    name = 'vit.embeddings.patch_embeddings.projection.weight'
    save_file({**tensors, name: tensors[name][:, :1].copy()}, folder / 'model.safetensors')
    assert bx.zoo.load(folder)[0].config.in_channels == 1
    with pytest.raises(ValueError, match='in_channels can change from 3 alone, found 1'):
        bx.zoo.load(folder, in_channels=2)


# What is said of changes.

CHANGES: dict[str, Any] = {
    'num_classes': (5, 'num_classes 3 -> 5: vit/head*/* started anew'),
    'image_size': (16, 'image_size (8, 12) -> (16, 16): vit/pos_embed resized'),
    'in_channels': (1, 'in_channels 3 -> 1: vit/patch_embed/w resized'),
    'patch_size': (2, 'patch_size (4, 4) -> (2, 2): vit/pos_embed, vit/patch_embed/w resized'),
}


def test_the_card_says_what_overrides_change(exported):
    folder = exported['vit-hf'][3]
    assert bx.zoo.read_card(folder).changes == ()
    assert bx.zoo.read_card(folder, dropout_rate=0.5, num_classes=3).changes == ()
    overrides: dict[str, Any] = {field: value for field, (value, _) in CHANGES.items()}
    found = bx.zoo.read_card(folder, **overrides).changes
    assert sorted(found) == sorted(line for _, line in CHANGES.values())


def test_what_was_measured_holds_only_of_the_model_as_it_was():
    measured = bx.zoo.card('resnet-digits').metrics
    assert measured
    assert bx.zoo.read_card('resnet-digits').metrics == measured
    assert bx.zoo.read_card('resnet-digits', drop_path_rate=0.5).metrics == measured
    changes = {'num_classes': 3, 'in_channels': 3, 'image_size': (16, 16), 'bn_eps': 0.1}
    for field, value in changes.items():
        assert bx.zoo.read_card('resnet-digits', **{field: value}).metrics == {}


@pytest.mark.parametrize('field', CHANGES)
def test_the_logger_says_what_overrides_change(exported, caplog, field):
    folder, (value, line) = exported['vit-hf'][3], CHANGES[field]
    with caplog.at_level(logging.INFO, logger='blox'):
        bx.zoo.load(folder)
        assert caplog.messages == []
        bx.zoo.load(folder, **{field: value})
    assert caplog.messages == [f'{folder}: {line}']


def test_a_saved_card_keeps_its_changes_and_later_ones_are_added(exported, tmp_path):
    folder, path = exported['vit-hf'][3], tmp_path / 'a.safetensors'
    card = bx.zoo.read_card(folder, num_classes=5)
    bx.zoo.save(path, *bx.zoo.load(folder, num_classes=5), card=card)
    assert bx.zoo.read_card(path).changes == card.changes == (CHANGES['num_classes'][1],)
    both = bx.zoo.read_card(path, image_size=16).changes
    assert both == (CHANGES['num_classes'][1], CHANGES['image_size'][1])


@pytest.mark.parametrize('name', ['vit-hf', 'vit-timm'])
def test_a_saved_model_is_resized_as_its_source_would_be(exported, tmp_path, name):
    folder, path = exported[name][3], tmp_path / 'a.safetensors'
    bx.zoo.save(path, *bx.zoo.load(folder), card=bx.zoo.read_card(folder))
    assert bits(bx.zoo.load(path, image_size=16)[1]) == bits(bx.zoo.load(folder, image_size=16)[1])


@pytest.mark.parametrize(
    ('name', 'theirs', 'ours'),
    [
        ('vit-digits', 'num_labels', 'num_classes'),
        ('resnet-digits', 'in_chans', 'in_channels'),
        ('gpt2-pydocs', 'n_positions', 'context'),
    ],
)
def test_overrides_by_names_of_other_libraries_lead_to_ours(name, theirs, ours):
    overrides: dict[str, Any] = {theirs: 3}
    with pytest.raises(
        TypeError, match=f'no config field {theirs}; {theirs} is called {ours} here'
    ):
        bx.zoo.load(name, **overrides)
    with pytest.raises(TypeError, match='no config field hidden; it has '):
        bx.zoo.load(name, hidden=3)
