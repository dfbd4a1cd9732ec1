"""The comparison itself: it names the layer at fault, and leaves everything as it was."""

import functools
import json
import math
import sys

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, pair, timm, torch, transformers
from families import build, declared, every_library, family_of, small, tiny
from safetensors.numpy import load_file, save_file

import blox as bx
from blox.converters import layouts
from blox.zoo.comparing import parity
from blox.zoo.comparing.parity import (
    LayerError,
    compare,
    diverging,
    layer_outputs,
    random_inputs,
    verify,
)
from blox.zoo.models import families


@pytest.fixture(scope='module')
def gpt2(tmp_path_factory):
    return pair(CASES['gpt2'], tmp_path_factory.mktemp('gpt2'))


@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    return pair(CASES['resnet timm basic'], tmp_path_factory.mktemp('resnet'))


def changed(made, path):
    """The model's Params, a little off at `path`."""
    value = np.array(made.params[path].value)
    value.flat[0] += 1e-3
    return made.params.set(path, jnp.asarray(value))


def verified(made, params=None, model=None):
    params = made.params if params is None else params
    return verify(made.saved, made.case.layout, model or made.model, params)


# Verdicts.


def test_equal_models_are_said_to_be_equal(gpt2):
    report = verified(gpt2)
    assert report.diverging is None
    assert report.worst('float64').error < 1e-13 < report.worst('float32').error < 1e-5
    assert report.reference == f'transformers {transformers.__version__}, GPT2LMHeadModel'


@pytest.mark.parametrize(
    ('parameter', 'first'),
    [
        ('gpt2/pos_embed/w', 'gpt2/pos_embed'),
        ('gpt2/block0/norm1/scale', 'gpt2/block0/norm1'),
        ('gpt2/block1/attn/qkv/w', 'gpt2/block1/attn'),
        ('gpt2/block2/mlp/fc2/b', 'gpt2/block2/mlp'),
        ('gpt2/norm/offset', 'gpt2/norm'),
    ],
)
def test_the_first_layer_that_diverges_is_named(gpt2, parameter, first):
    report = verified(gpt2, changed(gpt2, parameter))
    assert report.diverging is not None
    assert report.diverging.path == first
    assert str(report).endswith(f'diverges first at {first!r}')


@pytest.mark.parametrize(
    ('field', 'first'),
    [
        ({'activation': 'gelu'}, 'gpt2/block0/mlp'),
        ({'norm_eps': 1e-6}, 'gpt2/block0/norm1'),
        ({'scale_attention_by_depth': True}, 'gpt2/block1/attn'),
    ],
    ids=str,
)
def test_a_wrong_config_diverges(gpt2, field, first):
    family = families()['gpt2']
    report = verified(gpt2, model=family.build(family.override(gpt2.model.config, field)))
    assert report.diverging is not None
    assert report.diverging.path == first


def test_a_wrong_statistic_of_a_resnet_diverges(resnet):
    found = verified(resnet, changed(resnet, 'resnet/stage2/block0/shortcut/norm/mean'))
    assert found.diverging is not None
    assert found.diverging.path == 'resnet/stage2/block0/shortcut'


def test_rows_stand_in_the_order_of_execution(gpt2):
    paths = [row.path for row in verified(gpt2).rows['float64']]
    block = [f'gpt2/block0{part}' for part in ('/norm1', '/attn', '/norm2', '/mlp', '')]
    assert paths[2:7] == block
    assert paths[-1] == 'gpt2'


def test_nan_diverges():
    rows = [LayerError('a', 1e-12, 1.0), LayerError('b', math.nan, 1.0)]
    assert diverging(rows, 1e-10) == rows[1]
    assert diverging(rows[:1], 1e-10) is None


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"'net': expected \(3,\), .*found \(2, 3\)"):
        parity.layer_error('net', np.ones((2, 3)), np.ones(3))


def test_a_report_is_a_table_and_json(gpt2):
    report = verified(gpt2)
    lines = str(report).splitlines()
    assert lines[1].split() == ['layer', 'float64', 'float32']
    assert len(lines) == len(report.rows['float64']) + 4
    assert lines[-2].startswith('worst ')
    assert lines[-1] == 'equal up to rounding'
    assert json.loads(json.dumps(report.fields()))['diverging'] is None


# What it works with.


@pytest.mark.parametrize(('family', 'layout'), every_library())
def test_rules_for_layers_match_modules_that_run(family, layout):
    rules, matched = set(), set()
    table = layouts(family)[layout]
    for config in small().values():
        if family_of(config).name != family or table.beyond(config):
            continue
        model = build(config)
        params = bx.spec(model, *model.example_inputs())
        paths = [path for path, _ in model.graph.walk()]
        outputs = functools.partial(layer_outputs, model, paths)
        run = jax.eval_shape(outputs, params, *model.example_inputs())
        rules.update(table.layers(model.config))
        matched.update(r for r in rules if any(r.match(path) is not None for path in run))
    assert matched == rules


def test_recording_changes_neither_the_model_nor_its_classes(gpt2):
    before = [(type(m), type(m).__call__) for _, m in gpt2.model.graph.walk()]
    compare(gpt2.saved, 'hf', gpt2.model, gpt2.params, gpt2.inputs)
    assert [(type(m), type(m).__call__) for _, m in gpt2.model.graph.walk()] == before


def test_recorded_outputs_are_those_of_the_modules(resnet):
    model, params = resnet.model, resnet.params
    inputs = jnp.asarray(resnet.inputs[0])
    found = layer_outputs(model, ['resnet/stem', 'resnet'], params, inputs)
    assert list(found) == ['resnet/stem', 'resnet']
    np.testing.assert_array_equal(found['resnet/stem'], model.stem[0](params, inputs)[0])
    np.testing.assert_array_equal(found['resnet'], model(params, inputs)[0])


def test_hooks_and_64_bit_types_are_taken_back(gpt2):
    reference = gpt2.reference
    compare(reference, 'hf', gpt2.model, gpt2.params, gpt2.inputs)
    assert not any(module._forward_hooks for module in reference.modules())
    assert verified(gpt2).diverging is None
    assert jnp.ones(1).dtype == jnp.float32


def test_64_bit_types_of_one_thread_alone_stay_there(gpt2):
    with vars(jax if hasattr(jax, 'enable_x64') else jax.experimental)['enable_x64'](True):
        verified(gpt2)
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]


def test_hooks_are_taken_back_after_an_error(gpt2):
    with pytest.raises(IndexError):
        parity.reference_outputs(gpt2.reference, 'hf', gpt2.model, [np.array([[50]], np.int32)])
    assert not any(module._forward_hooks for module in gpt2.reference.modules())


@pytest.mark.parametrize('family', declared())
def test_random_inputs_fit_their_model(family):
    model = build(tiny(family))
    inputs = random_inputs(model)
    params = bx.spec(model, *model.example_inputs())
    jax.eval_shape(model, params, *inputs)
    assert all((a == b).all() for a, b in zip(inputs, random_inputs(model)))
    assert (inputs[0] != random_inputs(model, seed=1)[0]).any()
    assert len(inputs) == (2 if family in ('bert', 'clip') else 1)


def test_a_mask_of_random_inputs_is_ragged_and_never_empty():
    _, mask = random_inputs(bx.zoo.create('bert-base'))
    assert mask.sum(1).tolist() == [24, 12, 1]


# Refusals.


@pytest.mark.parametrize('missing', ['torch', 'timm', 'transformers'])
def test_without_its_library_a_comparison_says_what_to_install(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=f'{missing}: pip install {missing}$'):
        parity.import_reference(missing)


def test_a_layout_without_a_library_is_refused(gpt2):
    with pytest.raises(ValueError, match="known for 'gpt2' in layout 'google'"):
        verify(gpt2.saved, 'google', gpt2.model, gpt2.params)


def test_a_reference_that_would_start_at_random_is_refused(gpt2, tmp_path):
    gpt2.reference.save_pretrained(tmp_path)
    file = tmp_path / 'model.safetensors'
    weights = load_file(file)
    del weights['transformer.h.2.ln_1.bias']
    save_file(weights, file, {'format': 'pt'})
    with pytest.raises(
        ValueError, match=r'of GPT2LMHeadModel, found no transformer\.h\.2\.ln_1\.bias'
    ):
        verify(tmp_path, 'hf', gpt2.model, gpt2.params)


def test_a_reference_without_the_modules_is_refused(gpt2):
    with pytest.raises(ValueError, match='Linear has no modules transformer'):
        compare(torch.nn.Linear(2, 2), 'hf', gpt2.model, gpt2.params, gpt2.inputs)


def test_the_encoder_of_a_bert_with_other_heads_is_compared(tmp_path):
    made = pair(CASES['bert'], tmp_path / 'encoder')
    config = made.reference.config
    other = transformers.BertForMaskedLM(config).eval()
    other.bert.load_state_dict(made.reference.state_dict(), strict=False)
    other.save_pretrained(tmp_path / 'masked')
    model = families()['bert'].build(
        families()['bert'].override(made.model.config, {'pooler': False})
    )
    params = made.params.partition('bert/pooler/*')[1]
    report = verify(tmp_path / 'masked', 'hf', model, params)
    assert report.diverging is None
    assert report.rows['float64'][-1].path == 'bert.tokens'


def test_timm_is_the_reference_of_its_own_layout(resnet):
    assert verified(resnet).reference == f'timm {timm.__version__}, ResNet'
