"""nanoGPT's ckpt.pt: transformers' names for transposed weights, and sizes beside them."""

import dataclasses

import numpy as np
import pytest
from checkpoints import assert_same, model_of, params_of, source_of
from families import tiny

import blox as bx
from blox.converters import convert, explain
from blox.converters.exporting import external

TURNED = ('c_attn.weight', 'c_proj.weight', 'c_fc.weight')


def nanogpt_arrays(config, prefix=''):
    """A GPT-2's values by nanoGPT's names, each matrix turned by hand."""
    arrays = external(model_of(config), params_of(config), 'hf')
    arrays |= {'lm_head.weight': arrays['transformer.wte.weight']}
    return {f'{prefix}{name}': x.T if name.endswith(TURNED) else x for name, x in arrays.items()}


# A width that some matrices share on both sides, and one that none does.
SIZES = [{'mlp_dim': 32}, {'mlp_dim': 8}, {'depth': 1, 'mlp_dim': 12}]


@pytest.mark.parametrize('fields', SIZES)
@pytest.mark.parametrize('prefix', ['', '_orig_mod.', 'module._orig_mod.'])
def test_shapes_tell_nanogpts_files_from_transformers(fields, prefix):
    config = tiny('gpt2', **fields)
    source = source_of(nanogpt_arrays(config, prefix))
    found = explain(source, model_of(config))
    assert (found.layout, found.problems) == ('nanogpt', [])
    assert_same(convert(source, model_of(config)), params_of(config))


def test_a_file_of_both_layouts_is_refused():
    config = tiny('gpt2')
    arrays = nanogpt_arrays(config)
    name = 'transformer.h.1.attn.c_attn.weight'
    source = source_of({**arrays, name: arrays[name].T})
    assert explain(source, model_of(config)).problems == [
        f'{name}: expected shape (24, 8), found (8, 24)'
    ]


def test_masks_of_attention_without_flash_are_ignored():
    config = tiny('gpt2')
    mask = {'transformer.h.0.attn.bias': np.tril(np.ones((1, 1, 6, 6), np.float32))}
    source = source_of(nanogpt_arrays(config) | mask)
    assert {*explain(source, model_of(config)).ignored} == {*mask, 'lm_head.weight'}


def test_a_head_that_is_not_the_token_table_is_refused():
    config = tiny('gpt2')
    arrays = nanogpt_arrays(config)
    arrays['lm_head.weight'] = arrays['lm_head.weight'] + 1
    with pytest.raises(bx.CheckpointError, match='to which the config ties it; found others'):
        convert(source_of(arrays), model_of(config))


# Sizes in the file.

ARGS = {'n_layer': 2, 'n_head': 2, 'n_embd': 8, 'block_size': 6, 'bias': True, 'dropout': 0.25}
ARGS |= {'vocab_size': 11}
CONFIG = tiny('gpt2', mlp_dim=32)


@pytest.fixture
def saved(tmp_path):
    """Writes a ckpt.pt with arguments of the model, as its training script does."""
    torch = pytest.importorskip('torch')

    def save(left_out='-', **changes):
        arrays = nanogpt_arrays(CONFIG, '_orig_mod.')
        arrays = {name: array for name, array in arrays.items() if not name.endswith(left_out)}
        content = {'model': {name: torch.tensor(x.copy()) for name, x in arrays.items()}}
        content |= {'model_args': {**ARGS, **changes}, 'iter_num': 10, 'config': {'lr': 1e-3}}
        content |= {'optimizer': {'state': {0: {'step': torch.tensor(1.0)}}, 'param_groups': []}}
        torch.save(content, tmp_path / 'ckpt.pt')
        return tmp_path / 'ckpt.pt'

    return save


def test_sizes_are_those_that_the_file_says(saved):
    model, params = bx.zoo.load('gpt2', source=saved())
    expected = dataclasses.replace(
        CONFIG,
        activation='gelu',
        norm_eps=1e-5,
        end_tokens=(),
        tied_head=True,
        **dict.fromkeys(('embed_dropout_rate', 'dropout_rate', 'attention_dropout_rate'), 0.25),
    )
    assert model.config == expected
    assert_same(params, params_of(CONFIG))


def test_a_model_without_biases_has_zeros(saved):
    _, params = bx.zoo.load('gpt2', source=saved('.bias', bias=False))
    expected = params_of(CONFIG)
    for path, param in params_of(CONFIG).items():
        if path.endswith(('/b', '/offset')):
            expected = expected.set(path, np.zeros(param.shape, param.dtype))
    assert_same(params, expected)


@pytest.mark.parametrize(
    ('left_out', 'said'), [('.bias', True), ('ln_f.bias', False), ('c_proj.bias', False)]
)
def test_biases_that_are_missing_otherwise_are_missing(saved, left_out, said):
    with pytest.raises(bx.CheckpointError, match=r'\.bias: missing'):
        bx.zoo.load('gpt2', source=saved(left_out, bias=said))


def test_the_activation_of_old_versions_is_an_override(saved):
    assert bx.zoo.load('gpt2', source=saved(), activation='gelu_tanh')[0].config.activation == (
        'gelu_tanh'
    )


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'bias': 'no'}, "bias 'no'"),
        ({'n_layer': '2'}, "n_layer '2'"),
        ({'rotary': True}, 'rotary True'),
        ({'n_embd': 10**12}, 'width'),
        ({'n_head': 3}, 'heads that divide width'),
    ],
)
def test_arguments_that_no_model_of_ours_has_are_refused_by_name(saved, change, said):
    path = saved(**change)
    with pytest.raises(bx.CheckpointError, match=said) as caught:
        bx.zoo.load('gpt2', source=path)
    assert str(caught.value).startswith(repr(str(path)))


def test_arguments_of_another_model_are_no_sizes(tmp_path, saved):
    torch = pytest.importorskip('torch')
    content = torch.load(saved(), weights_only=True)
    torch.save({**content, 'model_args': {'img_size': 8}}, tmp_path / 'other.pt')
    with pytest.raises(
        bx.CheckpointError, match=r'c_proj.bias: expected shape \(768,\), found \(8,\)'
    ):
        bx.zoo.load('gpt2', source=tmp_path / 'other.pt', depth=2)
