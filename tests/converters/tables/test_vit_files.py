"""ViT's .npz files of Google's: names of flax, old and new, one block an array or all."""

import numpy as np
import pytest
from checkpoints import assert_same, model_of, params_of
from families import tiny

from blox.converters import convert, explain, layouts


def test_big_vision_lacks_the_class_tokens_position():
    rule = next(
        r for r in layouts('vit')['big_vision'].rules(tiny('vit')) if r.ours == 'vit/pos_embed'
    )
    theirs = np.arange(1.0, 9.0).reshape(1, 4, 2)
    ours = rule.via.forward([theirs])
    assert ours[0, 0].tolist() == [0, 0]
    assert (ours[:, 1:] == theirs).all()
    with pytest.raises(ValueError, match='expected zeros first along axis 1, found others'):
        rule.via.inverse(ours + 1)


def flax_arrays(params, config, attention='MultiHeadDotProductAttention_0', norm2=1, mlp=0):
    """A ViT's values by flax's names, each made by hand."""
    x = {path: np.asarray(param.value) for path, param in params.items() if path != 'rng'}
    heads = (config.heads, config.width // config.heads)
    arrays = {
        'cls': x['vit/cls_token'],
        'Transformer/posembed_input/pos_embedding': x['vit/pos_embed'],
        **dense_arrays(x, 'vit/patch_embed', 'embedding'),
        **norm_arrays(x, 'vit/norm', 'Transformer/encoder_norm'),
        **dense_arrays(x, 'vit/head', 'head'),
    }
    for i in range(config.depth):
        ours, theirs = f'vit/block{i}', f'Transformer/encoderblock_{i}'
        arrays |= norm_arrays(x, f'{ours}/norm1', f'{theirs}/LayerNorm_0')
        arrays |= norm_arrays(x, f'{ours}/norm2', f'{theirs}/LayerNorm_{norm2}')
        for j in range(2):
            arrays |= dense_arrays(x, f'{ours}/mlp/fc{j + 1}', f'{theirs}/MlpBlock_{mlp}/Dense_{j}')
        kernels = np.split(x[f'{ours}/attn/qkv/w'], 3, 1)
        biases = np.split(x[f'{ours}/attn/qkv/b'], 3)
        for name, kernel, bias in zip(('query', 'key', 'value'), kernels, biases):
            arrays[f'{theirs}/{attention}/{name}/kernel'] = kernel.reshape(-1, *heads)
            arrays[f'{theirs}/{attention}/{name}/bias'] = bias.reshape(heads)
        arrays[f'{theirs}/{attention}/out/kernel'] = x[f'{ours}/attn/proj/w'].reshape(*heads, -1)
        arrays[f'{theirs}/{attention}/out/bias'] = x[f'{ours}/attn/proj/b']
    return arrays


def dense_arrays(x, ours, theirs):
    return {f'{theirs}/kernel': x[f'{ours}/w'], f'{theirs}/bias': x[f'{ours}/b']}


def norm_arrays(x, ours, theirs):
    return {f'{theirs}/scale': x[f'{ours}/scale'], f'{theirs}/bias': x[f'{ours}/offset']}


OLD = {'attention': 'MultiHeadDotProductAttention_1', 'norm2': 2, 'mlp': 3}


def scanned(arrays):
    """`arrays` with all blocks of one name in one array."""
    stacked = {}
    for name in sorted(arrays, key=lambda name: len(name)):
        head, _, rest = name.partition('encoderblock_')
        index, _, rest = rest.partition('/')
        key = f'{head}encoderblock/{rest}' if index else name
        stacked.setdefault(key, []).append(arrays[name])
    return {k: np.stack(v) if 'encoderblock' in k else v[0] for k, v in stacked.items()}


def without_class_position(arrays):
    values = dict(arrays)
    values['pos_embedding'] = values.pop('Transformer/posembed_input/pos_embedding')[:, 1:]
    return values


def under(prefix):
    return lambda arrays: {prefix + name: value for name, value in arrays.items()}


@pytest.mark.parametrize(
    ('names', 'change', 'layout'),
    [
        ({}, dict, 'google'),
        (OLD, dict, 'google'),
        (OLD, under('opt/target/'), 'google'),
        ({}, under('params/'), 'google'),
        (OLD, scanned, 'google'),
        ({}, without_class_position, 'big_vision'),
        (
            {},
            lambda arrays: under('params/img/')(scanned(without_class_position(arrays))),
            'big_vision',
        ),
    ],
    ids=['new', 'old', 'old opt/target', 'params', 'scanned', 'big_vision', 'big_vision scanned'],
)
def test_every_npz_of_google_gives_the_same_params(tmp_path, names, change, layout):
    config = tiny('vit', depth=12)
    params, model = params_of(config), model_of(config)
    np.savez(tmp_path / 'a.npz', **change(flax_arrays(params, config, **names)))
    found = explain(tmp_path / 'a.npz', model)
    assert (found.layout, found.problems) == (layout, [])
    assert_same(convert(tmp_path / 'a.npz', model), params)
