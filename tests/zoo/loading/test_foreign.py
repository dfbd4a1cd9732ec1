"""Folders and files of other libraries as models of the zoo: found out, loaded, changed, refused."""

import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, table
from safetensors.numpy import load_file, save_file
from scipy.ndimage import zoom
from tokenizers import Tokenizer, models

import blox as bx
from blox import CheckpointError, Params
from blox.converters.convert import external
from blox.tensorfile import write_tensors
from blox.zoo.catalog.published import published
from blox.zoo.loading.places import model_spec

TRANSFORMER = {'width': 16, 'depth': 2, 'heads': 2, 'mlp_dim': 32}
VIT = {'image_size': (8, 12), 'patch_size': 4, 'num_classes': 3, 'norm_eps': 1e-6, **TRANSFORMER}
RESNET = {'image_size': 32, 'depths': (1, 1), 'widths': (8, 16), 'num_classes': 3}
TEXT = {'vocab_size': 50, 'context': 32, **TRANSFORMER}
# By folder: a name in the catalog, what is changed of it, the layout.
FOLDERS = {
    'vit-hf': ('vit-b16', VIT, 'hf'),
    'vit-timm': ('vit-b16', VIT, 'timm'),
    'resnet-hf': ('resnet18', RESNET, 'hf'),
    'resnet-timm': ('resnet18', RESNET, 'timm'),
    'gpt2-hf': ('gpt2', TEXT, 'hf'),
    'bert-hf': ('all-minilm-l6', TEXT, 'hf'),
}
IMAGES = ('vit-hf', 'vit-timm', 'resnet-hf', 'resnet-timm')
LABELS = ('cat', 'dog', 'tröll')


def tiny(name):
    """A model for a row of FOLDERS, random Params at every place, and a card."""
    entry, overrides, layout = FOLDERS[name]
    model = bx.zoo.create(entry, **overrides)
    params = randomized(model)
    card = dataclasses.replace(bx.zoo.card(entry), config=model.config, preprocessor=None)
    if name not in IMAGES:
        return model, params, dataclasses.replace(card, tokenizer=words())
    rounding = 'down' if layout == 'hf' else 'even'
    prepare = bx.zoo.ImagePreprocessor(
        model.config.image_size,
        tuple(length * 2 for length in model.config.image_size),
        layout == 'timm',
        'bilinear',
        (0.5, 0.4, 0.3),
        (0.2, 0.3, 0.4),
        rounding,
    )
    return model, params, dataclasses.replace(card, labels=LABELS, preprocessor=prepare)


def randomized(model):
    """Params for a model, random at every place."""
    params = model_spec(model).partition(lambda path, _: path != 'rng')[0]
    for i, (path, param) in enumerate(params.items()):
        value = normal(*param.shape, seed=i).astype(np.float32) / 2
        value = abs(value) + 1 if path.endswith('/var') else value
        params = params.set(path, jnp.asarray(value), strict=False)
    return params


def words():
    """The text of a small tokenizer.json."""
    vocabulary = {'?': 0, 'a': 1, 'b': 2}
    return Tokenizer(models.WordLevel(vocabulary, unk_token='?')).to_str()


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """By name of its folder: a model, its Params, its card, and where it was exported to."""
    root, found = tmp_path_factory.mktemp('exported'), {}
    for name, (_, _, layout) in FOLDERS.items():
        model, params, card = tiny(name)
        bx.zoo.export(root / name, model, params, layout, card=card)
        found[name] = model, params, card, root / name
    return found


@pytest.fixture
def edited(exported, tmp_path):
    """Call it for a copy of a folder whose config.json has other fields; None removes one."""

    def edit(name, fields, **files):
        folder = Path(shutil.copytree(exported[name][3], tmp_path / name))
        config = {**json.loads((folder / 'config.json').read_text()), **fields}
        config = {key: value for key, value in config.items() if value is not None}
        for file, content in {'config': config, **files}.items():
            (folder / f'{file}.json').write_text(json.dumps(content))
        return folder

    return edit


@pytest.fixture
def catalog(exported, monkeypatch):
    """The catalog with the tiny models' sizes under the names that they were made from."""
    for entry, model in (('vit-b16', 'vit-hf'), ('resnet18', 'resnet-hf'), ('gpt2', 'gpt2-hf')):
        overrides = dataclasses.asdict(exported[model][0].config)
        monkeypatch.setitem(published(), entry, published()[entry]._replace(overrides=overrides))


def bits(params):
    """Dtype and bytes at every path but the rng's."""
    values = {path: np.asarray(p.value) for path, p in params.items() if path != 'rng'}
    return {path: (value.dtype, value.shape, value.tobytes()) for path, value in values.items()}


def output(model, params):
    inputs = [jnp.ones(x.shape, x.dtype) for x in model.example_inputs()]
    outputs, _ = jax.jit(model)(params, *inputs)
    return np.asarray(getattr(outputs, 'embedding', outputs))


def message(error, call):
    """What a call's error says, in one line."""
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# What a folder says.


@pytest.mark.parametrize('name', FOLDERS)
def test_a_folder_gives_the_params_and_config_that_it_was_made_of(exported, name):
    model, params, _, folder = exported[name]
    found, loaded = bx.zoo.load(folder)
    expected = model.config
    if name == 'resnet-hf':  # whose files do not speak of the size of images
        expected = dataclasses.replace(expected, image_size=(224, 224))
    assert found.config == expected
    assert bits(loaded) == bits(params)
    assert [p.is_state for p in loaded.values()] == [
        p.is_state for p in bx.zoo.init(model).values()
    ]


@pytest.mark.parametrize('name', FOLDERS)
def test_a_folders_card_has_what_its_files_say(exported, name):
    _, _, card, folder = exported[name]
    found = bx.zoo.read_card(folder)
    assert (found.name, found.family, found.task) == (name, card.family, card.task)
    assert (found.labels, found.preprocessor) == (card.labels, card.preprocessor)
    assert (found.source, found.layout) == ('', FOLDERS[name][2])


@pytest.mark.parametrize('name', IMAGES)
def test_a_folders_preprocessor_is_at_hand(exported, name):
    _, _, card, folder = exported[name]
    assert bx.zoo.preprocessor(folder) == card.preprocessor


@pytest.mark.parametrize('name', ['gpt2-hf', 'bert-hf'])
def test_a_folders_tokenizer_is_at_hand(exported, name):
    assert bx.zoo.tokenizer(exported[name][3]).encode('b').ids == [2]


@pytest.mark.parametrize('kind', [str, Path, lambda folder: f'{folder}{os.sep}'])
def test_a_folder_may_be_text_or_a_path(exported, kind):
    _, params, _, folder = exported['vit-hf']
    assert bits(bx.zoo.load(kind(folder))[1]) == bits(params)


def test_the_folder_one_is_in_has_a_name(exported, monkeypatch):
    monkeypatch.chdir(exported['vit-hf'][3])
    assert bx.zoo.read_card('.').name == 'vit-hf'


def test_a_folder_goes_before_a_repository_of_its_name(exported, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path('org').mkdir()
    Path('org/name').symlink_to(exported['gpt2-hf'][3])
    assert bits(bx.zoo.load('org/name')[1]) == bits(exported['gpt2-hf'][1])


@pytest.mark.parametrize('family', ['vit', 'resnet'])
def test_the_same_weights_in_two_layouts_are_one_model(exported, family):
    size = exported[f'{family}-timm'][0].config.image_size
    folders = (exported[f'{family}-{layout}'][3] for layout in ('hf', 'timm'))
    one, other = (bx.zoo.load(folder, image_size=size) for folder in folders)
    assert bits(one[1]) == bits(other[1])
    assert one[0].config == other[0].config
    assert (output(*one) == output(*other)).all()


def test_labels_that_are_numbers_are_none(edited):
    labels = {str(i): f'LABEL_{i}' for i in range(3)}
    assert bx.zoo.read_card(edited('vit-hf', {'id2label': labels})).labels == ()


def test_timm_descriptions_stand_for_the_names_of_classes(edited):
    folder = edited('vit-timm', {'label_descriptions': {'cat': 'a cat, sleeping'}})
    assert bx.zoo.read_card(folder).labels == ('a cat, sleeping', *LABELS[1:])


@table(
    {
        'another pooling': ({'pooling_mode_cls_token': True}, [], ('first', False)),
        'normalized': ({'pooling_mode_mean_tokens': True}, ['Normalize'], ('mean', True)),
    }
)
def test_the_modules_of_sentence_transformers_say_how_to_pool(row, edited):
    pooling, more, expected = row
    kinds = {'': 'Transformer', '1_Pooling': 'Pooling', **dict.fromkeys(more, 'Normalize')}
    modules = [{'path': path, 'type': f'sentence_transformers.{k}'} for path, k in kinds.items()]
    folder = edited('bert-hf', {}, modules=modules)
    (folder / '1_Pooling/config.json').write_text(json.dumps(pooling))
    config = bx.zoo.read_card(folder).config
    assert (config.pool, config.normalize) == expected


def test_an_index_of_shards_is_followed(exported, tmp_path):
    _, params, _, folder = exported['gpt2-hf']
    for file in shard(folder, tmp_path / 'sharded'):
        assert file.exists()
    assert bits(bx.zoo.load(tmp_path / 'sharded')[1]) == bits(params)


def shard(folder, into, count=2):
    """Writes a folder again, its weights in shards; the index and the shards."""
    into.mkdir()
    (into / 'config.json').write_bytes((folder / 'config.json').read_bytes())
    tensors = load_file(folder / 'model.safetensors')
    files = [f'model-{i + 1:05}-of-{count:05}.safetensors' for i in range(count)]
    where = {name: files[i % count] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({n: tensors[n] for n in tensors if where[n] == file}, into / file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = into / 'model.safetensors.index.json'
    index.write_text(json.dumps({'metadata': {'total_size': total}, 'weight_map': where}))
    return [index, *(into / file for file in files)]


# Weights for a name in the catalog.


def as_folder(exported, _):
    return exported['vit-hf'][3]


def as_bare_file(exported, folder):
    (folder / 'weights.safetensors').write_bytes(
        (exported['vit-timm'][3] / 'model.safetensors').read_bytes()
    )
    return folder / 'weights.safetensors'


def as_bare_folder(exported, folder):
    return as_bare_file(exported, folder).parent


def as_npz(exported, folder):
    model, params, _, _ = exported['vit-hf']
    tensors: dict[str, Any] = external(model, params, 'google')
    np.savez(folder / 'weights.npz', **tensors)
    return folder / 'weights.npz'


def as_shards(exported, folder):
    return shard(exported['vit-hf'][3], folder / 'sharded')[0]


def as_own_file(exported, folder):
    bx.zoo.save(folder / 'own.safetensors', *exported['vit-hf'][:2])
    return folder / 'own.safetensors'


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
        'a size, bare': ('resnet18-microsoft', 'resnet-hf/model.safetensors', ['64', '8']),
    }
)
def test_a_source_of_another_model_is_refused_and_both_are_named(row, exported):
    name, path, expected = row
    source = exported['vit-hf'][3].parent / path
    said = message(ValueError, lambda: bx.zoo.load(name, source=source))
    assert all(part in said for part in [path.split('/')[0], *expected])


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
@pytest.mark.parametrize('write', [as_folder, as_bare_file, as_own_file])
def test_overrides_go_with_a_source(exported, tmp_path, write):
    path = write(exported, tmp_path)
    model, params = bx.zoo.load('vit-b16', source=path, num_classes=5, dtype=jnp.bfloat16)
    assert output(model, params).shape == (1, 5)
    assert params['vit/norm/scale'].value.dtype == jnp.bfloat16


def test_a_source_needs_a_name_in_the_catalog(exported):
    with pytest.raises(ValueError, match=r"no model 'vitb16' in the catalog; nearest: .*vit-b16"):
        bx.zoo.load('vitb16', source=exported['vit-hf'][3])


@pytest.mark.usefixtures('catalog')
@pytest.mark.parametrize('name', ['vit-hf', 'vit-hf/model.safetensors'])
def test_only_repositories_have_revisions(exported, name):
    path = exported['vit-hf'][3].parent / name
    for arguments in ((path, None), ('vit-b16', path), ('vit-digits', None)):
        with pytest.raises(ValueError, match='no repository: only those have revisions'):
            bx.zoo.load(arguments[0], source=arguments[1], revision='main')


# What overrides change.


@pytest.mark.parametrize('name', IMAGES)
def test_other_num_classes_start_a_fresh_head_and_keep_the_rest(exported, name):
    _, params, card, folder = exported[name]
    model, loaded = bx.zoo.load(folder, num_classes=5, seed=3)
    fresh, kept = loaded.partition(f'{card.family}/head/*')
    assert bits(kept) == bits(params.partition(f'{card.family}/head/*')[1])
    assert bits(fresh) == bits(bx.zoo.init(model, 3).partition(f'{card.family}/head/*')[0])
    assert bx.zoo.read_card(folder, num_classes=5).labels == ()
    assert bx.zoo.read_card(folder, num_classes=3).labels == LABELS


@pytest.mark.parametrize('name', ['vit-hf', 'vit-timm'])
def test_another_image_size_resizes_positions_and_the_preprocessor_follows(exported, name):
    _, params, card, folder = exported[name]
    model, loaded = bx.zoo.load(folder, image_size=(16, 24))
    assert loaded['vit/pos_embed'].value.shape == (1, 4 * 6 + 1, 16)
    changed = {path for path, value in bits(loaded).items() if value != bits(params)[path]}
    assert changed == {'vit/pos_embed'}
    assert (output(model, loaded) != output(*exported[name][:2])).any()
    prepare = bx.zoo.preprocessor(folder, image_size=(16, 24))
    twice = {'size': (16, 24), 'resize': tuple(2 * n for n in card.preprocessor.resize)}
    assert prepare == dataclasses.replace(card.preprocessor, **twice)


def test_each_layouts_positions_are_resized_in_its_own_way(exported):
    hf, timm = (bx.zoo.load(exported[name][3], image_size=16)[1] for name in IMAGES[:2])
    assert [path for path in hf if bits(hf).get(path) != bits(timm).get(path)] == ['vit/pos_embed']


@pytest.mark.usefixtures('catalog')
def test_googles_positions_are_resized_by_scipy(exported, tmp_path):
    path = as_npz(exported, tmp_path)
    positions = np.asarray(exported['vit-hf'][1]['vit/pos_embed'].value)
    grid = np.asarray(zoom(positions[0, 1:].reshape(2, 3, 16), (5 / 2, 4 / 3, 1), order=1))
    found = bx.zoo.load('vit-b16', source=path, image_size=(20, 16))[1]['vit/pos_embed'].value
    expected = np.concatenate([positions[:, :1], grid.reshape(1, 20, 16)], 1)
    assert (np.asarray(found) == expected).all()


@pytest.mark.parametrize('name', ['resnet-hf', 'resnet-timm'])
def test_a_resnets_images_change_no_parameter(exported, name):
    _, params, _, folder = exported[name]
    assert bits(bx.zoo.load(folder, image_size=48)[1]) == bits(params)
    for size in (48, 224):
        assert bx.zoo.preprocessor(folder, image_size=size).size == (size, size)
    assert bx.zoo.read_card(folder, image_size=48).changes == ()


@pytest.mark.parametrize('name', IMAGES)
@pytest.mark.parametrize('count', [1, 6])
def test_other_channels_keep_what_images_of_equal_channels_give(exported, name, count):
    model, params, _, folder = exported[name]
    gray = np.random.default_rng(0).normal(size=(2, *model.config.image_size, 1)).astype(np.float32)
    changed, loaded = bx.zoo.load(folder, in_channels=count)
    expected, _ = jax.jit(model)(params, jnp.asarray(gray.repeat(3, -1)))
    found, _ = jax.jit(changed)(loaded, jnp.asarray(gray.repeat(count, -1)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize('name', IMAGES)
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
    assert params['vit/pos_embed'].value.shape == (1, 17, 16)
    assert params['vit/patch_embed/w'].value.shape == (4, 4, 1, 16)
    assert {str(p.value.dtype) for path, p in params.items() if path != 'rng'} == {'bfloat16'}


def test_a_head_may_be_taken_off(exported):
    model, params = bx.zoo.load(exported['resnet-timm'][3], num_classes=0)
    assert not [path for path in params if '/head/' in path]
    assert output(model, params).shape == (1, 16)


@table(
    {
        'depth': ('vit-hf', {'depth': 3}, 'vit/block2/attn/proj/b: missing'),
        'patches': ('vit-timm', {'patch_size': 2}, 'vit/patch_embed/w: expected shape'),
        'a wider stage': ('resnet-hf', {'widths': (8, 32)}, 'resnet/head/w: expected shape'),
        'context': ('gpt2-hf', {'context': 64}, 'gpt2/pos_embed/w: expected shape (64, 16)'),
        'a pooler': ('bert-hf', {'pooler': False}, "'bert/pooler/w': unexpected"),
    }
)
def test_overrides_that_do_not_fit_are_refused(row, exported):
    name, overrides, expected = row
    said = message(ValueError, lambda: bx.zoo.load(exported[name][3], **overrides))
    assert str(exported[name][3]) in said
    assert expected in said


def test_channels_change_from_three_alone(edited):
    folder = edited('vit-hf', {'num_channels': 1})
    tensors = load_file(folder / 'model.safetensors')
    name = 'vit.embeddings.patch_embeddings.projection.weight'
    save_file({**tensors, name: tensors[name][:, :1].copy()}, folder / 'model.safetensors')
    assert bx.zoo.load(folder)[0].config.in_channels == 1
    with pytest.raises(ValueError, match='in_channels can change from 3 alone, found 1'):
        bx.zoo.load(folder, in_channels=2)


# What is said of changes.

CHANGES: dict[str, Any] = {
    'num_classes': (5, 'num_classes 3 -> 5: vit/head/* started anew'),
    'image_size': (16, 'image_size (8, 12) -> (16, 16): vit/pos_embed resized'),
    'in_channels': (1, 'in_channels 3 -> 1: vit/patch_embed/w resized'),
}


def test_the_card_says_what_overrides_change(exported):
    folder = exported['vit-hf'][3]
    assert bx.zoo.read_card(folder).changes == ()
    assert bx.zoo.read_card(folder, dropout_rate=0.5, num_classes=3).changes == ()
    overrides: dict[str, Any] = {field: value for field, (value, _) in CHANGES.items()}
    found = bx.zoo.read_card(folder, **overrides).changes
    assert sorted(found) == sorted(line for _, line in CHANGES.values())


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


@pytest.mark.parametrize('name', IMAGES[:2])
def test_a_saved_model_is_resized_as_its_source_would_be(exported, tmp_path, name):
    folder, path = exported[name][3], tmp_path / 'a.safetensors'
    bx.zoo.save(path, *bx.zoo.load(folder), card=bx.zoo.read_card(folder))
    assert bits(bx.zoo.load(path, image_size=16)[1]) == bits(bx.zoo.load(folder, image_size=16)[1])


# What is refused.


@table(
    {
        'vit, an activation': ('vit-hf', {'hidden_act': 'mish'}, 'hidden_act'),
        'vit, an unknown field': ('vit-hf', {'use_rope': True}, 'use_rope'),
        'vit, quantized': ('vit-hf', {'quantization_config': {'bits': 4}}, 'quantization_config'),
        'vit, an odd epsilon': ('vit-hf', {'layer_norm_eps': -1.0}, 'norm_eps > 0'),
        'vit, heads of text': ('vit-hf', {'num_attention_heads': 'two'}, 'heads'),
        'vit timm, registers': ('vit-timm', {'model_args': {'reg_tokens': 4}}, 'reg_tokens'),
        'vit timm, a pool': ('vit-timm', {'model_args': {'global_pool': 'map'}}, 'global_pool'),
        'vit timm, an unknown field': ('vit-timm', {'distilled': True}, 'distilled'),
        'vit timm, no pretrained_cfg': ('vit-timm', {'pretrained_cfg': 'none'}, 'config.json'),
        'resnet, an activation': ('resnet-hf', {'hidden_act': 'gelu'}, 'hidden_act'),
        'resnet, a stride': ('resnet-hf', {'downsample_in_first_stage': True}, 'first_stage'),
        'resnet timm, a stem': ('resnet-timm', {'model_args': {'stem_type': 'deep'}}, 'stem_type'),
        'gpt2, cross attention': ('gpt2-hf', {'add_cross_attention': True}, 'add_cross_attention'),
        'gpt2, an unknown field': ('gpt2-hf', {'alibi': True}, 'alibi'),
        'bert, positions': ('bert-hf', {'position_embedding_type': 'relative_key'}, 'relative_key'),
        'bert, a decoder': ('bert-hf', {'is_decoder': True}, 'is_decoder'),
        'a billion blocks': ('gpt2-hf', {'n_layer': 10**9}, 'depth'),
    }
)
def test_what_changes_the_function_is_refused_by_name(row, edited):
    name, fields, expected = row
    folder = edited(name, fields)
    said = message(CheckpointError, lambda: bx.zoo.load(folder))
    assert str(folder) in said
    assert expected in said


@table(
    {
        'of transformers': (
            'vit-hf',
            {'model_type': 'swin'},
            ["'swin'", 'bert, gpt2, resnet, vit'],
        ),
        'a list': ('vit-hf', {'model_type': ['vit']}, ["['vit']", 'bert, gpt2, resnet, vit']),
        'none': ('vit-hf', {'model_type': None}, ['None', 'bert, gpt2, resnet, vit']),
        'of timm': (
            'vit-timm',
            {'architecture': 'vit_base_patch17_224'},
            ["'vit_base_patch17_224'", 'vit_base_patch16_224', 'resnet, vit'],
        ),
        'of timm, a list': ('vit-timm', {'architecture': ['vit']}, ["['vit']", 'resnet, vit']),
    }
)
def test_another_kind_of_model_is_refused_and_the_known_are_listed(row, edited):
    name, fields, expected = row
    folder = edited(name, fields)
    for call in (bx.zoo.load, bx.zoo.read_card):
        said = message(CheckpointError, lambda call=call: call(folder))
        assert all(part in said for part in [str(folder), *expected])


@pytest.mark.parametrize('file', ['config', 'preprocessor_config'])
def test_a_list_is_no_object(edited, file, caplog):
    folder = edited('vit-hf', {}, **{file: [{}]})
    if file == 'config':
        said = message(CheckpointError, lambda: bx.zoo.load(folder))
    else:
        bx.zoo.load(folder)
        said = caplog.text
    assert f'{file}.json' in said
    assert 'expected a JSON object, found a list' in said


def test_a_card_of_other_classes_is_not_exported(tmp_path):
    model, params = bx.zoo.load('vit-digits', num_classes=3)
    with pytest.raises(ValueError, match=r'expected a card with 3 labels.*found 10'):
        bx.zoo.export(tmp_path, model, params, card=bx.zoo.read_card('vit-digits'))


@pytest.mark.parametrize('write', [as_bare_file, as_bare_folder, as_npz, as_shards])
def test_weights_without_a_name_say_what_to_do(exported, tmp_path, write):
    path = write(exported, tmp_path)
    said = message(CheckpointError, lambda: bx.zoo.load(path))
    assert str(path) in said
    assert "bx.zoo.load('resnet50', source=PATH)" in said


@pytest.mark.parametrize('name', ['nosuch.safetensors', 'org/nosuch', './nosuch', '/nosuch'])
def test_a_path_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in [Path(name)] + [name] * (name != 'org/nosuch'):
        assert name.removeprefix('./') in message(FileNotFoundError, lambda p=path: bx.zoo.load(p))


def test_no_name_is_no_folder(exported, monkeypatch):
    monkeypatch.chdir(exported['vit-hf'][3])
    for arguments in (('', None), ('vit-b16', '')):
        with pytest.raises(ValueError, match='expected the name of a model or of a file'):
            bx.zoo.load(arguments[0], source=arguments[1])


def test_a_folder_of_neither_library_is_refused(tmp_path):
    (tmp_path / 'config.json').write_text('{"library_name": "blox"}')
    with pytest.raises(FileNotFoundError, match=r'model\.safetensors'):
        bx.zoo.load(tmp_path)


@pytest.mark.parametrize('name', FOLDERS)
def test_a_tensor_too_few_and_one_too_many_are_both_named(edited, name):
    folder = edited(name, {})
    tensors = load_file(folder / 'model.safetensors')
    lacking = next(key for key in sorted(tensors) if key.endswith('weight'))
    more = {'extra': np.zeros(1, np.float32)}
    rest = {key: value for key, value in tensors.items() if key != lacking}
    save_file({**rest, **more}, folder / 'model.safetensors')
    said = message(CheckpointError, lambda: bx.zoo.load(folder))
    assert f'{lacking}: missing' in said
    assert "'extra': unexpected" in said


# Preprocessing that is not known.


@table(
    {
        'a kind': ({'image_processor_type': 'SegformerImageProcessor'}, 'Segformer'),
        'a field': ({'image_processor_type': 'ViTImageProcessor', 'do_flip': True}, 'do_flip'),
    }
)
def test_unknown_preprocessing_is_warned_of_and_the_model_loads(row, edited, caplog):
    fields, expected = row
    folder = edited('vit-hf', {}, preprocessor_config=fields)
    with caplog.at_level(logging.WARNING, logger='blox'):
        bx.zoo.load(folder)
    (warning,) = caplog.messages
    assert str(folder) in warning
    assert expected in warning
    with pytest.raises(ValueError, match='no image preprocessing is known'):
        bx.zoo.preprocessor(folder)


def test_unknown_preprocessing_of_timm_is_warned_of_too(edited, caplog):
    pretrained = {'input_size': [3, 8, 12], 'crop_mode': 'border'}
    folder = edited('vit-timm', {'pretrained_cfg': pretrained})
    with caplog.at_level(logging.WARNING, logger='blox'):
        assert bx.zoo.read_card(folder).preprocessor is None
    assert "crop_mode center or squash; found {'crop_mode': 'border'}" in caplog.text


def test_a_path_is_never_a_name_in_the_catalog(exported, monkeypatch, tmp_path):
    shutil.copytree(exported['gpt2-hf'][3], tmp_path / 'gpt2')
    monkeypatch.chdir(tmp_path)
    assert bits(bx.zoo.load(Path('gpt2'))[1]) == bits(exported['gpt2-hf'][1])


def test_a_name_that_ends_as_a_folder_is_one():
    with pytest.raises(FileNotFoundError, match='my-finetune'):
        bx.zoo.load('my-finetune/')


@pytest.mark.parametrize(('mode', 'pool'), [('mean', 'mean'), ('cls', 'first')])
def test_pooling_as_new_versions_of_sentence_transformers_write_it(edited, mode, pool):
    folder = edited('bert-hf', {})
    (folder / '1_Pooling' / 'config.json').write_text(
        json.dumps({'embedding_dimension': 16, 'pooling_mode': mode, 'include_prompt': True})
    )
    assert bx.zoo.load(folder)[0].config.pool == pool


def test_a_pooling_that_no_folder_can_say_is_not_exported(exported, tmp_path):
    model, params = bx.zoo.load(exported['bert-hf'][3], pool='pooler')
    with pytest.raises(ValueError, match="no folder says pool 'pooler'"):
        bx.zoo.export(tmp_path / 'out', model, params)
    assert not (tmp_path / 'out').exists()


def test_a_folder_without_pooling_and_the_catalog_agree(exported, tmp_path):
    folder = Path(shutil.copytree(exported['bert-hf'][3], tmp_path / 'plain'))
    (folder / 'modules.json').unlink()
    assert bx.zoo.load(folder)[0].config.pool == bx.zoo.card('bert-base').config.pool == 'mean'


def test_params_that_do_not_fit_are_not_exported(exported, tmp_path):
    model, params, _, _ = exported['gpt2-hf']
    for wrong in (params.partition('gpt2/norm/*')[1], params.merge(Params(0).set('more/w', 1.0))):
        with pytest.raises(ValueError, match=r'params do not fit .*(missing|unexpected)'):
            bx.zoo.export(tmp_path / 'out', model, wrong)
    assert not (tmp_path / 'out').exists()
