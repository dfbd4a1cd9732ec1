"""Files of our own that do not fit, or whose headers are unsound."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GRAY, flip
from own_files import REMOVED, tampered

import blox as bx
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.catalog.card import Card


def test_all_that_differs_is_in_one_error(saved, tmp_path):
    float32 = np.float32
    path = tampered(
        saved['gpt2'][2],
        tmp_path / 'a.safetensors',
        tensors={
            'gpt2/norm/scale': REMOVED,
            'gpt2/norm/offset': np.ones(3, float32),
            'gpt2/extra': np.ones(3, float32),
            'gpt2/pos_embed/w': np.ones((6, 8), np.int32),
        },
    )
    with pytest.raises(bx.CheckpointError) as caught:
        bx.zoo.load(path)
    message = str(caught.value)
    assert message.startswith(repr(str(path)))
    assert 'gpt2/norm/scale: missing' in message
    assert "'gpt2/extra': unexpected" in message
    assert 'gpt2/norm/offset: expected shape (8,), found (3,)' in message
    assert (
        "'gpt2/pos_embed/w': expected a floating-point dtype of 16 bits or more, found int32"
        in message
    )


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
        {'gpt2/norm/mean': np.ones(8, np.float32)},
    ],
)
def test_an_unexpected_tensor_is_refused_wherever_it_is(saved, tmp_path, tensors):
    path = tampered(saved['gpt2'][2], tmp_path / 'a.safetensors', tensors=tensors)
    with pytest.raises(bx.CheckpointError, match=f'{next(iter(tensors))}.*unexpected'):
        bx.zoo.load(path)


def test_double_precision_is_refused_by_name(saved, tmp_path):
    tensors = {'gpt2/norm/scale': np.ones(8)}
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


def test_a_file_that_does_not_say_what_its_params_are_is_refused(saved, tmp_path):
    path = tampered(saved['vit'][2], tmp_path / 'a.safetensors', metadata={'blox.params': REMOVED})
    with pytest.raises(bx.CheckpointError, match=r"a\.safetensors.*expected 'blox\.params'"):
        bx.zoo.load(path)


def test_a_tag_does_not_make_state_of_a_weight(saved, tmp_path):
    tagged = {'vit/head/w': {'tag': 'batch_stats'}}
    description = {'finalized': True, 'frozen': [], 'metadata': tagged, 'rng': 'threefry2x32'}
    metadata = {'blox.params': json.dumps(description)}
    path = tampered(saved['vit'][2], tmp_path / 'a.safetensors', metadata=metadata)
    with pytest.raises(
        bx.CheckpointError, match='vit/head/w: expected to be marked as a parameter, found batch'
    ):
        bx.zoo.load(path)


@pytest.mark.parametrize('name', ['float8_e4m3fn', 'float8_e5m2'])
def test_numbers_that_mean_nothing_without_scales_are_refused(saved, tmp_path, name):
    value = np.zeros(8, jnp.dtype(name))
    path = tampered(
        saved['gpt2'][2], tmp_path / 'a.safetensors', tensors={'gpt2/norm/scale': value}
    )
    with pytest.raises(
        bx.CheckpointError, match=f"'gpt2/norm/scale': .* 16 bits or more, .*{name}"
    ):
        bx.zoo.load(path)


# Content.


def test_a_check_finds_any_byte_that_changed(saved, tmp_path):
    path = tmp_path / 'a.safetensors'
    for name, info in TensorFile(saved['vit'][2]).tensors.items():
        shutil.copy(saved['vit'][2], path)
        flip(path, info.stop - 1)
        with pytest.raises(bx.CheckpointError, match=f'tensor {name!r}: expected the bytes that'):
            bx.zoo.load(path, check=True)
    bx.zoo.load(saved['vit'][2], check=True)


@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_what_is_not_finite_is_saved_with_a_warning_and_refused(saved, tmp_path, caplog, value):
    model, params, _ = saved['vit']
    path = tmp_path / 'a.safetensors'
    bad = params.set('vit/head/b', np.full(params['vit/head/b'].shape, float(value), np.float32))
    bx.zoo.save(path, model, bad)
    what = 'NaN' if value == 'nan' else 'infinity'
    (record,) = caplog.records
    assert f'vit/head/b: expected finite values, found {what}' in record.getMessage()
    for check in (False, True):
        with pytest.raises(bx.CheckpointError, match=f'vit/head/b: expected finite .* {what}'):
            bx.zoo.load(path, check=check)
    assert not np.isfinite(bx.load(path)['vit/head/b'].value).any()


def test_values_that_are_too_large_for_a_dtype_are_refused(saved, tmp_path):
    model, params, _ = saved['vit']
    large = np.full(params['vit/head/b'].shape, 70_000, np.float32)
    bx.zoo.save(tmp_path / 'a.safetensors', model, params.set('vit/head/b', large))
    bx.zoo.load(tmp_path / 'a.safetensors', dtype='bfloat16')
    with pytest.raises(bx.CheckpointError, match='values are too large for float16: vit/head/b'):
        bx.zoo.load(tmp_path / 'a.safetensors', dtype='float16')


def test_values_that_nobody_looked_at_are_looked_at(saved, tmp_path):
    bad = np.full(saved['vit'][1]['vit/head/b'].shape, np.nan, np.float32)
    changes = {'tensors': {'vit/head/b': bad}, 'metadata': {'blox.finite': REMOVED}}
    path = tampered(saved['vit'][2], tmp_path / 'a.safetensors', **changes)
    with pytest.raises(bx.CheckpointError, match='vit/head/b: expected finite values, found NaN'):
        bx.zoo.load(path)


def test_a_file_that_is_no_models_is_refused(tmp_path):
    path = tmp_path / 'a.safetensors'
    write_tensors(path, {'w': np.ones(2, np.float32)}, {'format': 'pt'})
    with pytest.raises(bx.CheckpointError, match=r"a\.safetensors.*no 'blox\.model'.*bx\.load"):
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
    'a preprocessor of other channels': (
        'vit',
        {'card': {'preprocessor': dataclasses.asdict(GRAY)}},
        ['expected a preprocessor of 3 channels, found 1'],
    ),
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
    'an int for a bool': (*config('vit', qkv_bias=0), ['qkv_bias', "{'qkv_bias': 0}"]),
    'an int for text': (*config('gpt2', activation=5), ['activation', '5']),
    'an int for a pair': (*config('vit', image_size=8), ['image_size', '8']),
    'text for a pair': (*config('vit', image_size='88'), ['image_size', "'88'"]),
    'one for a pair': (*config('vit', image_size=[8]), ['image_size', '(8,)']),
    'floats in a pair': (*config('vit', patch_size=[4.0, 4.0]), ['patch_size', '4.0']),
    'text in a list': (*config('resnet', depths=['1']), ['depths', "'1'"]),
    'lists in a list': (*config('resnet', depths=[[1]]), ['depths', '[1]']),
    'an object for a list': (*config('resnet', widths={}), ['widths', '{}']),
    'no layers': (*config('gpt2', depth=0), ['depth in [1, 256]']),
    'a thousand million layers': (*config('gpt2', depth=10**9), ['depth in [1, 256]']),
    'a thousand million layers of vit': (*config('vit', depth=10**9), ['depth in [1, 256]']),
    'a thousand million blocks': (*config('resnet', depths=[10**9]), ['at most 256 blocks']),
    'a hundred thousand depths': (*config('resnet', depths=[1] * 10**5), ['at most 256 blocks']),
    'more depths than widths': (*config('resnet', depths=[1] * 9), ['as many depths as widths']),
    'a negative width': (*config('gpt2', width=-16), ['width > 0']),
    'a width of a thousand million': (*config('gpt2', width=10**9), ['gpt2/norm/scale']),
    'a width beyond all arrays': (*config('gpt2', width=HUGE), ['width']),
    'an mlp_dim beyond all arrays': (*config('gpt2', mlp_dim=2**63), ['mlp_dim']),
    'a vocabulary beyond all arrays': (*config('gpt2', vocab_size=2**100), ['vocab_size']),
    'an image beyond all arrays': (*config('resnet', image_size=[2**70] * 2), ['image_size']),
    'heads that do not divide the width': (*config('vit', heads=3), ['heads that divide width']),
    'patches larger than images': (
        *config('vit', patch_size=[300, 3]),
        ['patch_size that fits into image_size'],
    ),
    'no patch size': (*config('vit', patch_size=[0, 0]), ['positive']),
    'an unknown activation': (*config('vit', activation='GELU'), ['activation of gelu']),
    'an activation with ANSI': (*config('vit', activation='\x1b[31m'), [r"'\x1b[31m'"]),
    'an epsilon that is NaN': (*config('gpt2', norm_eps=math.nan), ['NaN is not JSON']),
    'an epsilon that is infinite': (*config('gpt2', norm_eps=math.inf), ['Infinity is not JSON']),
    'an epsilon of zero': (*config('gpt2', norm_eps=0.0), ['norm_eps > 0']),
    'a negative epsilon': (*config('resnet', bn_eps=-1e-5), ['bn_eps > 0']),
    'a dropout rate of one': (*config('gpt2', dropout_rate=1.0), ['dropout_rate in [0, 1)']),
    'a decay above one': (*config('resnet', bn_decay=2.0), ['bn_decay <= 1']),
    'groups in basic blocks': (
        *config('resnet', block='basic', groups=2),
        ['only with bottlenecks'],
    ),
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


def test_an_unsound_tokenizer_is_an_error_of_the_file(saved, tmp_path):
    model, params, path = saved['gpt2']
    card = dataclasses.replace(Card.from_file(TensorFile(path)), tokenizer='{}')
    bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    with pytest.raises(bx.CheckpointError, match=r'a\.safetensors.*: model: expected an object'):
        bx.zoo.tokenizer(tmp_path / 'a.safetensors')
