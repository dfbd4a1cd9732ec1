"""Models of the zoo to a file and back: what is kept, drawn anew, placed and refused."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import blox as bx
from blox.graph import Graph
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.catalog.card import Card

TRANSFORMER = {'width': 16, 'depth': 1, 'heads': 2, 'mlp_dim': 32}
SIZES = {
    'bert': ('minilm-l6', {'vocab_size': 50, 'context': 32, **TRANSFORMER}),
    'gpt2': ('gpt2', {'vocab_size': 50, 'context': 32, **TRANSFORMER}),
    'vit': ('vit-b16', {'image_size': 8, 'patch_size': 4, 'num_classes': 3, **TRANSFORMER}),
    'resnet': (
        'resnet18',
        {
            'image_size': 8,
            'depths': (1,),
            'widths': (8,),
            'stem': 'small',
            'stem_width': 8,
            'num_classes': 3,
        },
    ),
}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """By family: a tiny model, its Params, and the file that they were saved to."""
    folder = tmp_path_factory.mktemp('saved')
    found = {}
    for family, (name, overrides) in SIZES.items():
        model = bx.zoo.create(name, **overrides)
        params, path = bx.zoo.init(model, seed=1), folder / f'{family}.safetensors'
        bx.zoo.save(path, model, params)
        found[family] = model, params, path
    return found


def tampered(source, path, card=None, config=None, tensors=None, metadata=None):
    """A copy of a saved file at `path`, with changes; a value of None removes the entry."""
    file = TensorFile(source)
    fields = json.loads(file.metadata['blox.model'])
    if config is not None:
        fields['config'] = changed(fields['config'], config)
    fields = changed(fields, card or {})
    header = {**file.metadata, 'blox.model': json.dumps(fields)}
    write_tensors(path, changed(dict(file), tensors or {}), changed(header, metadata or {}))
    return path


def changed(old, new):
    return {name: value for name, value in {**old, **new}.items() if value is not REMOVED}


REMOVED = object()


def same(a, b):
    """Whether two Params have the same structure and bits, the rng's apart."""
    a, b = (params.partition(lambda path, _: path != 'rng')[0] for params in (a, b))
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )


def output(model, params):
    inputs = [jnp.ones(x.shape, x.dtype) for x in model.example_inputs()]
    outputs, _ = jax.jit(model)(params, *inputs)
    return np.asarray(getattr(outputs, 'embedding', outputs).astype(jnp.float32))


# What is kept.


@pytest.mark.parametrize('family', SIZES)
def test_a_model_and_its_params_come_back(saved, family):
    model, params, path = saved[family]
    restored, loaded = bx.zoo.load(path)
    assert restored.config == model.config
    assert type(restored) is type(model)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert same(loaded, params)
    assert (output(restored, loaded) == output(model, params)).all()


@pytest.mark.parametrize('family', SIZES)
def test_saving_what_was_loaded_gives_the_same_bytes(saved, tmp_path, family):
    files = [tmp_path / name / 'model.safetensors' for name in 'ab']
    source = saved[family][2]
    for path in files:
        path.parent.mkdir()
        bx.zoo.save(path, *bx.zoo.load(source))
        source = path
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_rng_is_made_from_the_seed(saved):
    _, params = bx.zoo.load(saved['gpt2'][2], seed=7)
    key, counter = params['rng'].value
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(7))).all()
    assert counter == 0


def test_flags_that_the_caller_set_come_back(saved, tmp_path):
    model, params, _ = saved['vit']
    frozen = params.freeze('vit/block*/**')
    bx.zoo.save(tmp_path / 'a.safetensors', model, frozen)
    assert same(bx.zoo.load(tmp_path / 'a.safetensors')[1], frozen)


def test_the_card_is_kept_and_names_the_models_own_config(saved, tmp_path):
    model, params, _ = saved['vit']
    card = dataclasses.replace(
        bx.zoo.card('vit-digits'), name='mine', labels=('a', 'b', 'ü'), metrics={'loss': 0.5}
    )
    bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    read = bx.zoo.Card.from_file(TensorFile(tmp_path / 'a.safetensors'))
    assert read.config == model.config
    assert read.weights == tmp_path / 'a.safetensors'
    assert (read.name, read.labels, read.metrics) == ('mine', ('a', 'b', 'ü'), {'loss': 0.5})
    assert bx.zoo.preprocessor(tmp_path / 'a.safetensors') == card.preprocessor


def test_plain_load_gives_the_params_of_a_models_file(saved):
    _, params, path = saved['resnet']
    assert same(bx.load(path), params)


# What is drawn anew.


@pytest.mark.parametrize('family', ['vit', 'resnet'])
def test_other_num_classes_start_a_fresh_head_and_keep_the_rest(saved, family):
    _, params, path = saved[family]
    model, loaded = bx.zoo.load(path, num_classes=5, seed=3)
    head = f'{family}/head/*'
    fresh, kept = loaded.partition(head)
    assert model.config.num_classes == 5
    assert same(kept, params.partition(head)[1])
    assert same(fresh, bx.zoo.init(model, seed=3).partition(head)[0])
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
        ('gpt2', {'depth': 2}, 'gpt2/block1/attn/proj/b: missing'),
        ('gpt2', {'tied_head': False}, 'gpt2/head/w: missing'),
        ('gpt2', {'context': 33}, 'gpt2/pos_embed/w: expected shape (33, 16), found (32, 16)'),
        ('vit', {'patch_size': 2}, 'vit/pos_embed: expected shape (1, 17, 16), found (1, 5, 16)'),
        ('vit', {'class_token': False, 'pool': 'avg'}, "'vit/cls_token': unexpected"),
        ('vit', {'num_classes': 5, 'depth': 2}, 'vit/block1/attn/proj/b: missing'),
        ('resnet', {'depths': (2,)}, 'resnet/stage1/block1/conv1/conv/w: missing'),
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
        'gpt2/block0/attn/qkv/w': PartitionSpec(None, 'x'),
        'gpt2/block0/mlp/fc1/w': PartitionSpec('x'),
        'gpt2/block0/mlp/fc2/w': PartitionSpec('x'),
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
        ({'gpt2/token_embed/w': PartitionSpec('x')}, "'gpt2/token_embed/w'.*50 into 4"),
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


# What does not fit.


def test_all_that_differs_is_in_one_error(saved, tmp_path):
    float32 = np.float32
    path = tampered(
        saved['gpt2'][2],
        tmp_path / 'a.safetensors',
        tensors={
            'gpt2/norm/scale': REMOVED,
            'gpt2/norm/offset': np.ones(3, float32),
            'gpt2/extra': np.ones(3, float32),
            'gpt2/pos_embed/w': np.ones((32, 16), np.int32),
        },
    )
    with pytest.raises(bx.CheckpointError) as caught:
        bx.zoo.load(path)
    message = str(caught.value)
    assert message.startswith(repr(str(path)))
    assert 'gpt2/norm/scale: missing' in message
    assert "'gpt2/extra': unexpected" in message
    assert 'gpt2/norm/offset: expected shape (16,), found (3,)' in message
    assert "'gpt2/pos_embed/w': expected a floating-point dtype, found int32" in message


def test_a_fresh_head_excuses_nothing_else(saved, tmp_path):
    tensors = {'resnet/head/extra': np.ones(3, np.float32), 'resnet/stem/conv/w': REMOVED}
    path = tampered(saved['resnet'][2], tmp_path / 'a.safetensors', tensors=tensors)
    with pytest.raises(bx.CheckpointError, match='resnet/stem/conv/w: missing'):
        bx.zoo.load(path, num_classes=5)


@pytest.mark.parametrize(
    'tensors',
    [
        {'rng/extra': np.ones(3, np.int32)},
        {'other/w': np.ones(3, np.float32)},
        {'gpt2/norm/mean': np.ones(16, np.float32)},
    ],
)
def test_an_unexpected_tensor_is_refused_wherever_it_is(saved, tmp_path, tensors):
    path = tampered(saved['gpt2'][2], tmp_path / 'a.safetensors', tensors=tensors)
    with pytest.raises(bx.CheckpointError, match=f'{next(iter(tensors))}.*unexpected'):
        bx.zoo.load(path)


def test_double_precision_is_refused_by_name(saved, tmp_path):
    tensors = {'gpt2/norm/scale': np.ones(16)}
    path = tampered(saved['gpt2'][2], tmp_path / 'a.safetensors', tensors=tensors)
    with pytest.raises(bx.CheckpointError, match=r"'gpt2/norm/scale'.*float64"):
        bx.zoo.load(path)


NO_FLAGS = json.dumps({'finalized': False, 'frozen': [], 'metadata': {}, 'rng': 'threefry2x32'})


@pytest.mark.parametrize('description', [REMOVED, NO_FLAGS])
def test_batch_statistics_are_state_or_the_file_is_refused(saved, tmp_path, description):
    path = tampered(
        saved['resnet'][2], tmp_path / 'a.safetensors', metadata={'blox.params': description}
    )
    try:
        _, params = bx.zoo.load(path)
    except bx.CheckpointError:
        return
    assert params['resnet/stem/norm/mean'].is_state
    assert not params['resnet/stem/norm/mean'].trainable


@pytest.mark.parametrize('family', SIZES)
def test_params_that_do_not_fit_the_model_are_not_saved(saved, tmp_path, family):
    model, params, _ = saved[family]
    path = next(name for name in params if name != 'rng')
    wrong = params.set(path, jnp.ones((7, 7, 7)), strict=False)
    with pytest.raises(ValueError, match=rf'{path}: expected shape .*, found \(7, 7, 7\)'):
        bx.zoo.save(tmp_path / 'a.safetensors', model, wrong)
    with pytest.raises(ValueError, match=f'{path}: missing'):
        bx.zoo.save(tmp_path / 'a.safetensors', model, params.partition(path)[1])
    assert os.listdir(tmp_path) == []


def test_a_model_that_is_none_of_the_zoos_is_not_saved(tmp_path):
    layer = bx.Linear(bx.Graph('head'), 3)
    with pytest.raises(TypeError, match='Linear is not a model of the zoo: bert, gpt2'):
        bx.zoo.save(tmp_path / 'a.safetensors', layer, bx.Params(seed=0))


def test_a_file_that_is_no_models_is_refused(tmp_path):
    path = tmp_path / 'a.safetensors'
    write_tensors(path, {'w': np.ones(2, np.float32)}, {'format': 'pt'})
    with pytest.raises(bx.CheckpointError, match=r"a\.safetensors.*no 'blox\.model'.*bx\.load"):
        bx.zoo.load(path)


@pytest.mark.parametrize('load', [bx.zoo.load, bx.zoo.preprocessor, bx.zoo.tokenizer])
def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r'a\.safetensors'):
        load(tmp_path / 'a.safetensors')


def test_an_unknown_name_is_an_error_that_names_the_nearest():
    with pytest.raises(
        ValueError, match="no model 'vit-digit' in the catalog; nearest: vit-digits"
    ):
        bx.zoo.load('vit-digit')


def test_a_name_without_weights_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r'vit-b32.*without weights.*load one of vit-b32-384'):
        bx.zoo.load('vit-b32')


def test_a_folder_of_the_same_name_hides_no_model(tmp_path, monkeypatch):
    (tmp_path / 'vit-digits').mkdir()
    monkeypatch.chdir(tmp_path)
    assert bx.zoo.load('vit-digits')[1].initialized


@pytest.mark.parametrize(
    ('family', 'config'),
    [
        ('gpt2', {'depth': 1000}),
        ('vit', {'depth': 1000}),
        ('resnet', {'depths': [1000] * 1000, 'widths': [8] * 1000}),
    ],
)
def test_a_model_far_beyond_its_file_is_refused_before_it_is_built(
    saved, tmp_path, monkeypatch, family, config
):
    path = tampered(saved[family][2], tmp_path / 'a.safetensors', config=config)
    made, real = [], Graph.__init__

    def count(graph, name):
        made.append(name)
        assert len(made) < 5000, 'it is being built'
        real(graph, name)

    monkeypatch.setattr(Graph, '__init__', count)
    with pytest.raises(bx.CheckpointError):
        bx.zoo.load(path)


# Headers. The annotations of blox are checked in these tests; for users they are not, so files with
# wrong headers are opened in a process where they are not either.


def config(family, **fields):
    return family, {'config': fields}


def card(**fields):
    return 'gpt2', {'card': fields}


HUGE = 2**62
# Name of the case: the family whose file it is made from, the changes, what its refusal must say.
HEADERS = {
    'a summary that moves the cursor': (*card(summary='\x1b]0;x\x07'), ['summary a text']),
    'a label that moves the cursor': (*card(labels=['\x1b[2J']), ['labels a list of texts']),
    'an unknown family': (*card(family='lenet'), ["'lenet'"]),
    'a family that is no text': (*card(family=[]), ['blox.model']),
    'no family': (*card(family=REMOVED), ['family: missing']),
    'no config': (*card(config=REMOVED), ['config: missing']),
    'a null config': (*card(config=None), ['blox.model']),
    'a list for a config': (*card(config=[]), ['config an object']),
    'text for a config': (*card(config='gpt2'), ['blox.model']),
    'no name': (*card(name=REMOVED), ['name: missing']),
    'no labels': (*card(labels=REMOVED), ['labels: missing']),
    'null labels': (*card(labels=None), ['blox.model']),
    'labels in one text': (*card(labels='cat'), ['labels']),
    'labels that are numbers': (*card(labels=[1, 2]), ['labels']),
    'a name that is a number': (*card(name=5), ['name']),
    'a task that is a number': (*card(task=5), ['task']),
    'a task of another family': (*card(task='image-classification'), ['task']),
    'a license that is null': (*card(license=None), ['license']),
    'metrics that are text': (*card(metrics={'loss': 'low'}), ['metrics']),
    'metrics in a list': (*card(metrics=[]), ['metrics']),
    'a tokenizer that is a number': (*card(tokenizer=5), ['tokenizer']),
    'a list for a preprocessor': (*card(preprocessor=[]), ['preprocessor']),
    'text for a preprocessor': (*card(preprocessor='crop'), ['preprocessor']),
    'an empty preprocessor': (*card(preprocessor={}), ['Preprocessor']),
    'a field that cards have not': (*card(author='me'), ["'author'"]),
    'a field of a card with ANSI': (*card(**{'\x1b[31m\n': 1}), ['x1b']),
    'a missing field': (*config('gpt2', depth=REMOVED), ['depth: missing']),
    'an unknown field': (*config('gpt2', layers=2), ["'layers': unexpected"]),
    'an unknown field with ANSI': (
        *config('gpt2', **{'\x1b[31m\n': 2}),
        [r"'\x1b[31m\n': unexpected"],
    ),
    'text for an int': (*config('gpt2', depth='1'), ['depth', "'1'"]),
    'text for another int': (*config('gpt2', width='16'), ['width', "'16'"]),
    'a bool for an int': (*config('gpt2', heads=True), ['heads', 'True']),
    'a float for an int': (*config('gpt2', heads=2.0), ['heads', '2.0']),
    'null for an int': (*config('vit', num_classes=None), ['num_classes', 'None']),
    'a list for an int': (*config('vit', depth=[1]), ['depth']),
    'a bool for a float': (*config('gpt2', norm_eps=True), ['norm_eps', 'True']),
    'text for a float': (*config('gpt2', norm_eps='1e-5'), ['norm_eps', "'1e-5'"]),
    'text for a bool': (*config('gpt2', tied_head='no'), ['tied_head', "'no'"]),
    'an int for a bool': (*config('vit', qkv_bias=0), ['qkv_bias', 'qkv_bias=0']),
    'an int for text': (*config('gpt2', activation=5), ['activation', '5']),
    'an int for a pair': (*config('vit', image_size=8), ['image_size', '8']),
    'text for a pair': (*config('vit', image_size='88'), ['image_size', "'88'"]),
    'one for a pair': (*config('vit', image_size=[8]), ['image_size', '(8,)']),
    'floats in a pair': (*config('vit', patch_size=[4.0, 4.0]), ['patch_size', '4.0']),
    'text in a list': (*config('resnet', depths=['1']), ['depths', "'1'"]),
    'lists in a list': (*config('resnet', depths=[[1]]), ['depths', '[1]']),
    'an object for a list': (*config('resnet', widths={}), ['widths', '{}']),
    'no layers': (*config('gpt2', depth=0), ['0 < depth']),
    'a thousand million layers': (*config('gpt2', depth=10**9), ['depth <= 256']),
    'a thousand million layers of vit': (*config('vit', depth=10**9), ['depth <= 256']),
    'a thousand million blocks': (*config('resnet', depths=[10**9]), ['at most 256 blocks']),
    'more depths than widths': (
        *config('resnet', depths=[1] * 10**5),
        ['as many depths as widths'],
    ),
    'a negative width': (*config('gpt2', width=-16), ['positive width']),
    'a width of a thousand million': (*config('gpt2', width=10**9), ['gpt2/norm/scale']),
    'a width beyond all arrays': (*config('gpt2', width=HUGE), ['width']),
    'an mlp_dim beyond all arrays': (*config('gpt2', mlp_dim=2**63), ['mlp_dim']),
    'a vocabulary beyond all arrays': (*config('gpt2', vocab_size=2**100), ['vocab_size']),
    'an image beyond all arrays': (*config('resnet', image_size=[2**70] * 2), ['image_size']),
    'heads that do not divide the width': (*config('vit', heads=3), ['heads that divide width']),
    'patches that do not tile': (*config('vit', patch_size=[3, 3]), ['patches that tile']),
    'no patch size': (*config('vit', patch_size=[0, 0]), ['positive']),
    'an unknown activation': (*config('vit', activation='GELU'), ['activation of gelu']),
    'an activation with ANSI': (*config('vit', activation='\x1b[31m'), [r"'\x1b[31m'"]),
    'an epsilon that is NaN': (*config('gpt2', norm_eps=math.nan), ['NaN is not JSON']),
    'an epsilon that is infinite': (*config('gpt2', norm_eps=math.inf), ['Infinity is not JSON']),
    'an epsilon of zero': (*config('gpt2', norm_eps=0.0), ['norm_eps > 0']),
    'a negative epsilon': (*config('resnet', bn_eps=-1e-5), ['bn_eps > 0']),
    'a dropout rate of one': (*config('gpt2', dropout_rate=1.0), ['dropout rates in [0, 1)']),
    'a decay above one': (*config('resnet', bn_decay=2.0), ['bn_decay <= 1']),
    'groups in basic blocks': (*config('resnet', groups=2), ['only with bottlenecks']),
}
OPEN = """
import json, sys
import blox as bx
for path in sys.argv[1:]:
    try:
        bx.zoo.load(path)
        print(json.dumps(['loaded', '']))
    except BaseException as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope='module')
def opened(saved, tmp_path_factory):
    """By case of HEADERS: the file, and the kind and message of the error of opening it."""
    folder = tmp_path_factory.mktemp('tampered')
    paths = [folder / f'{number}.safetensors' for number in range(len(HEADERS))]
    for path, (family, changes, _) in zip(paths, HEADERS.values()):
        tampered(saved[family][2], path, **changes)
    home = Path(bx.__file__).parents[1]
    process = subprocess.run(
        [sys.executable, '-W', 'error', '-c', OPEN, *map(str, paths)],
        env={**os.environ, 'PYTHONPATH': str(home), 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        timeout=120,
        check=True,
    )
    results = map(json.loads, process.stdout.splitlines())
    return {case: (path, *result) for case, path, result in zip(HEADERS, paths, results)}


@pytest.mark.parametrize('case', HEADERS)
def test_a_header_is_refused_in_one_line_that_says_what_is_wrong(opened, case):
    path, kind, message = opened[case]
    assert kind == 'CheckpointError'
    assert message.startswith(repr(str(path)))
    assert message.isprintable()
    assert len(message) < 5000
    assert [part for part in HEADERS[case][2] if part not in message] == []


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'metrics': {'loss': math.nan}}, 'metrics an object of finite numbers'),
        ({'labels': ('a', 'b')}, 'labels for each of num_classes 3'),
        ({'summary': 'two\nlines'}, 'summary a text'),
    ],
)
def test_a_card_that_would_not_load_is_not_saved(saved, tmp_path, changes, message):
    model, params, path = saved['vit']
    card = dataclasses.replace(Card.from_file(TensorFile(path)), **changes)
    with pytest.raises(ValueError, match=message):
        bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    assert os.listdir(tmp_path) == []


def test_params_that_would_not_load_are_not_saved(saved, tmp_path):
    model, params, _ = saved['resnet']
    plain = bx.Params.from_entries({path: p.value for path, p in params.items() if path != 'rng'})
    with pytest.raises(ValueError, match='resnet/stem/norm/mean: not marked as batch statistics'):
        bx.zoo.save(tmp_path / 'a.safetensors', model, plain)


def test_an_unsound_tokenizer_is_an_error_of_the_file(saved, tmp_path):
    model, params, path = saved['gpt2']
    card = dataclasses.replace(Card.from_file(TensorFile(path)), tokenizer='{}')
    bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    with pytest.raises(bx.CheckpointError, match='expected a tokenizer that works'):
        bx.zoo.tokenizer(tmp_path / 'a.safetensors')
