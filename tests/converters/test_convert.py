"""Converters by specs and small made-up files: the tables' laws, what fits, what is refused."""

import dataclasses
import functools
import importlib
import re
from pathlib import Path

import jax
import jax.experimental
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import blox as bx
from blox.converters import convert, explain, export, layouts
from blox.converters.convert import external, model_spec
from blox.converters.mapping.rules import Entry, Rule, plan, respell
from blox.converters.mapping.transforms import (
    HWIO,
    IDENTITY,
    T,
    join_axes,
    merge,
    prepend_zeros,
    transpose,
)
from blox.converters.sources.source import Source, Tensor
from blox.param import Param
from blox.params import Params
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.models import families

TRANSFORMER = {'width': 8, 'depth': 2, 'heads': 2, 'mlp_dim': 12}
IMAGES = {'image_size': (8, 8), 'num_classes': 3}
TINY = {
    'bert': {**TRANSFORMER, 'vocab_size': 11, 'context': 6},
    'gpt2': {**TRANSFORMER, 'vocab_size': 11, 'context': 6},
    'resnet': {**IMAGES, 'depths': (1, 2), 'widths': (4, 6)},
    'vit': {**IMAGES, **TRANSFORMER, 'patch_size': (4, 4)},
}
# What no published variant has.
ODD = {
    'bert': [{'pooler': False}, {'token_types': 1}, {'pool': 'mean', 'normalize': True}],
    'gpt2': [{'tied_head': False}, {'mlp_dim': 20}, {'scale_attention': False}],
    'resnet': [
        {'num_classes': 0},
        {'block': 'basic'},
        {'block': 'basic', 'depths': (2,), 'widths': (64,)},
        {'depths': (2,), 'widths': (16,)},
        {'depths': (2,), 'widths': (16,), 'stem_width': 8},
        {'groups': 2, 'group_width': 32, 'widths': (4, 8)},
        {'stem': 'small', 'stride_on': 'conv1', 'in_channels': 1},
    ],
    'vit': [
        {'num_classes': 0},
        {'num_classes': 0, 'pre_logits': 8},
        {'pre_logits': 5},
        {'pool': 'avg'},
        {'pool': 'avg', 'class_token': False},
        {'qkv_bias': False},
        {'image_size': (8, 12), 'patch_size': (2, 4), 'in_channels': 1},
    ],
}


def tiny(family, **fields):
    return families()[family].config(**TINY[family] | fields)


SMALL = {
    **{f'{family}-tiny': tiny(family) for family in TINY},
    **{f'{family}-{odd}': tiny(family, **odd) for family, odds in ODD.items() for odd in odds},
}
CONFIGS = {
    **{name: c for family in families().values() for name, c in family.variants.items()},
    **SMALL,
}


def family_of(config):
    return next(f for f in families().values() if type(config) is f.config)


def build(config):
    return family_of(config).build(config)


@functools.cache
def spec_of(config):
    """What `model_spec` gives, the rng apart, in half the time."""
    model, entries = build(config), {}

    def get_param(
        self, params, name, shape, initializer, dtype=jnp.float32, *flags, merged=True, **named
    ):
        entries[f'{self.path}/{name}'] = Param(jax.ShapeDtypeStruct(shape, dtype), *flags, **named)
        return jnp.zeros(shape, dtype), params

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bx.Module, 'get_param', get_param)
        # Other tests check the shapes that annotations state.
        patch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
        jax.eval_shape(lambda *inputs: model(Params(0), *inputs)[0], *model.example_inputs())
    return Params.from_entries(entries, finalized=True)


@pytest.fixture(autouse=True)
def _specs_made_once(monkeypatch):
    module = importlib.import_module('blox.converters.convert')
    monkeypatch.setattr(module, 'model_spec', lambda model: spec_of(model.config))


@functools.cache
def planned(config, layout):
    return plan(layouts(family_of(config).name)[layout].rules(config), spec_of(config))


def pairs(configs):
    return [(name, layout) for name, c in configs.items() for layout in layouts(family_of(c).name)]


every_layout = pytest.mark.parametrize(('name', 'layout'), pairs(CONFIGS))


def params_of(config, dtype=np.float32):
    """Random Params of a config; variances are positive."""
    rng = np.random.default_rng(0)
    entries = {}
    for path, param in spec_of(config).items():
        value = rng.normal(size=param.shape).astype(dtype)
        value = abs(value) if path.endswith('/var') else value
        if path == 'vit/pos_embed':
            value[:, :1] = 0  # Only so can big_vision have it.
        entries[path] = Param(jnp.asarray(value, dtype), param.trainable, param.metadata)
    return Params.from_entries(entries).merge(Params(0)).finalize()


def source_of(arrays, config=None, path='made-up'):
    """An open checkpoint of arrays by name."""
    tensors = {
        name: Tensor(array.dtype, array.shape, lambda array=array: array, Path(path))
        for name, array in arrays.items()
    }
    return Source(Path(path), tensors, config or {})


def assert_same(a, b):
    """Equal Params: paths, flags, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path in a:
        if path != 'rng':
            x, y = np.asarray(a[path].value), np.asarray(b[path].value)
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), path


@pytest.mark.parametrize('family', TINY)
def test_the_specs_here_are_the_models_own(family):
    own = model_spec(build(tiny(family))).partition(f'{family}/**')[0]
    assert jax.tree.structure(spec_of(tiny(family))) == jax.tree.structure(own)
    assert jax.tree.leaves(spec_of(tiny(family))) == jax.tree.leaves(own)


# The laws of every table.


@every_layout
def test_every_path_has_names_of_its_own(name, layout):
    config = CONFIGS[name]
    entries = planned(config, layout)
    names = [theirs for entry in entries.values() for theirs in entry.names]
    assert set(entries) == set(spec_of(config))
    assert len(set(names)) == len(names) >= len(entries)
    assert all(len(entry.names) == len(entry.shapes) for entry in entries.values())


@every_layout
def test_transforms_are_permutations(name, layout):
    for entry in planned(CONFIGS[name], layout).values():
        if entry.via == IDENTITY:
            assert entry.shapes == (entry.shape,)
        else:
            check_permutation(entry.via, entry.shape, entry.shapes)


@functools.cache
def check_permutation(via, shape, external_shapes):
    """The external arrays hold each number of ours once, and forward restores it exactly."""
    numbers = np.arange(np.prod(shape, dtype=int), dtype=np.uint32).reshape(shape)
    zeros = numbers.size - sum(int(np.prod(x, dtype=int)) for x in external_shapes)
    if zeros:  # Ours starts with zeros that the others lack.
        numbers = np.pad(numbers[:, 1:], ((0, 0), (1, 0), (0, 0)))
        assert zeros == numbers[:, 0].size
    arrays = via.inverse(numbers, len(external_shapes))
    assert tuple(array.shape for array in arrays) == external_shapes
    seen = np.zeros(numbers.size, bool)
    for array in arrays:
        seen[array.reshape(-1)] = True
    assert seen.sum() == numbers.size - zeros
    np.testing.assert_array_equal(via.forward(arrays), numbers, strict=True)


@every_layout
def test_names_that_a_library_saves_are_read_as_its_own(name, layout):
    config = CONFIGS[name]
    table = layouts(family_of(config).name)[layout]
    for entry in planned(config, layout).values():
        for theirs in entry.names:
            saved = respell(theirs, table.published(config))
            assert respell(saved, table.spellings) == theirs
            assert not table.ignores(theirs)


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


# What a plan refuses.

SPEC = Params.from_entries(
    {path: Param(jax.ShapeDtypeStruct((2, 3), np.float32)) for path in ('net/a0/w', 'net/a1/w')}
)
RULE = Rule('net/a{i}/w', 'a.{i}.weight', T)


def test_a_plan_says_what_each_path_is_made_of():
    assert plan((RULE,), SPEC) == {
        f'net/a{i}/w': Entry(f'net/a{i}/w', (2, 3), (f'a.{i}.weight',), ((3, 2),), T)
        for i in range(2)
    }


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ((Rule('net/a0/w', 'x'),), "'net/a1/w': expected one rule, found none"),
        (
            (RULE, Rule('net/a1/{x}', 'x')),
            "rule 'net/a1/{x}': matches no path",
        ),
        (
            (RULE, Rule('net/a1/w', 'x')),
            "'net/a1/w': expected one rule, found 'net/a{i}/w', 'net/a1/w'",
        ),
        ((RULE, RULE), "'net/a0/w': expected one rule, found 'net/a{i}/w', 'net/a{i}/w'"),
        ((Rule('net/a{i}/w', 'x'),), "'x': claimed by 'net/a0/w' and 'net/a1/w'"),
        ((RULE, Rule('net/b{i}/w', 'b')), "rule 'net/b{i}/w': matches no path"),
    ],
)
def test_a_plan_refuses_rules_that_do_not_fit(rules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(rules, SPEC)


def test_a_plan_lists_everything_at_once():
    with pytest.raises(ValueError, match=r'^[^;]+; [^;]+; [^;]+$'):
        plan((Rule('net/a0/w', 'x'), Rule('b', 'y'), Rule('c', 'z')), SPEC)


@pytest.mark.parametrize(
    ('path', 'fields'),
    [
        ('net/a0/w', {'i': 0}),
        ('net/a10/w', {'i': 10}),
        ('net/a00/w', None),
        ('net/a01/w', None),
        ('net/a/w', None),
        ('net/a-1/w', None),
        ('net/a\u0661/w', None),
        ('net/a1/w\n', None),
        ('my/net/a1/w', None),
    ],
)
def test_fields_are_numbers_without_leading_zeros(path, fields):
    assert RULE.match(path) == fields


def test_fields_count_from_one_less_where_a_rule_says_so():
    rule = Rule('stage{s}/block{b}', ('a.{s-1}.{b}', 'b.{s}'))
    assert rule.names({'s': 3, 'b': 0}) == ('a.2.0', 'b.3')


def test_a_dot_in_a_path_is_a_dot():
    assert Rule('a.b', 'x').match('a.b') == {}
    assert Rule('a.b', 'x').match('acb') is None


# Transforms.

TRANSFORMS = {
    'identity': (IDENTITY, (2, 3), [(2, 3)]),
    'dense': (T, (2, 3), [(3, 2)]),
    'convolution': (HWIO, (2, 3, 4, 5), [(5, 4, 2, 3)]),
    'cycle': (transpose(1, 2, 0), (2, 3, 4), [(4, 2, 3)]),
    'join first': (join_axes(0, 2), (6, 5), [(2, 3, 5)]),
    'join last': (join_axes(1, 3), (5, 6), [(5, 3, 2)]),
    'merge rows': (merge(axis=0), (6, 2), [(2, 2)] * 3),
    'merge columns': (merge(axis=1), (2, 6), [(2, 2)] * 3),
    'q, k, v': (merge(axis=0) >> T, (4, 6), [(2, 4)] * 3),
    'heads': (join_axes(1, 2) >> merge(axis=1), (4, 12), [(4, 2, 2)] * 3),
    'prepend': (prepend_zeros(axis=1), (1, 5, 2), [(1, 4, 2)]),
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_transforms_give_the_shapes_they_say(name):
    via, shape, external_shapes = TRANSFORMS[name]
    assert via.external_shapes(shape, len(external_shapes)) == external_shapes
    check_permutation(via, shape, tuple(external_shapes))


def test_transforms_put_numbers_where_the_layouts_say():
    weights = [np.full((2, 3), i) + np.arange(2)[:, None] * 10 for i in range(3)]
    assert (merge(axis=0) >> T).forward(weights)[0].tolist() == [0, 10, 1, 11, 2, 12]
    kernel = np.arange(12).reshape(1, 3, 4)
    assert join_axes(1, 3).forward([kernel])[0].tolist() == list(range(12))
    image = np.arange(120).reshape(2, 3, 4, 5)
    assert HWIO.forward([image])[3, 4, 2, 1] == image[1, 2, 3, 4]


def test_shapes_of_the_largest_arrays_need_no_memory():
    assert HWIO.external_shapes((2**20,) * 2 + (2**8,) * 2) == [(2**8,) * 2 + (2**20,) * 2]


@pytest.mark.parametrize('via', [IDENTITY, HWIO, join_axes(0, 2), prepend_zeros(0)], ids=repr)
def test_only_a_merge_makes_several_arrays_one(via):
    with pytest.raises(ValueError, match='expected 2 external arrays, found 1'):
        via.inverse(np.zeros((2, 2, 2, 2)), 2)


@given(
    hnp.array_shapes(min_dims=3, max_dims=4, max_side=4),
    st.integers(1, 3),
    st.permutations(range(2)),
    st.permutations(range(2)),
)
def test_chains_of_transforms_are_undone(shape, count, axes, order):
    arrays = list(np.arange(count * np.prod(shape)).reshape(count, *shape))
    axes = (*axes, *range(2, len(shape) - 1))
    last = (merge(axis=axes[0]), transpose(*axes))
    via = join_axes(axes[0], shape[axes[0]]) >> last[order[0]] >> last[order[1]]
    ours = via.forward(arrays)
    assert sorted(ours.flat) == list(range(ours.size))
    assert via.external_shapes(ours.shape, count) == [shape] * count
    for found, expected in zip(via.inverse(ours, count), arrays):
        np.testing.assert_array_equal(found, expected, strict=True)


# There and back.


@pytest.mark.parametrize(('name', 'layout'), pairs(SMALL))
def test_params_go_out_and_come_back(name, layout):
    config = SMALL[name]
    params, model = params_of(config), build(config)
    source = source_of(external(model, params, layout))
    found = explain(source, model)
    assert (found.layout, found.problems, found.ok) == (layout, [], True)
    assert {*found.names.values(), *found.ignored} == set(source.tensors)
    assert_same(convert(source, model), params)


@pytest.mark.parametrize(
    ('name', 'layout', 'prefix'),
    [
        ('bert-tiny', 'hf', 'bert.'),
        ('gpt2-tiny', 'hf', 'transformer.'),
        ('resnet-tiny', 'hf', 'resnet.'),
        ('vit-tiny', 'hf', 'vit.'),
    ],
)
def test_a_prefix_changes_nothing(name, layout, prefix):
    params, model = params_of(SMALL[name]), build(SMALL[name])
    bare = {n.removeprefix(prefix): x for n, x in external(model, params, layout).items()}
    own = {n if n.startswith(('classifier', 'lm_head')) else prefix + n: x for n, x in bare.items()}
    assert set(bare) != set(own)
    assert_same(convert(source_of(bare), model), params)
    assert_same(convert(source_of(own), model), params)


def test_the_parameters_keep_their_flags_and_the_rng_is_of_the_seed():
    model = build(tiny('resnet'))
    arrays = external(model, params_of(model.config), 'timm')
    found = convert(source_of(arrays), model, seed=7)
    made = bx.zoo.init(model, seed=7)
    assert jax.tree.structure(found) == jax.tree.structure(made.set('rng', found['rng']))
    key, counter = found['rng'].value
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(7))).all()
    assert counter == 0


def test_counters_of_batches_are_regenerated():
    model = build(tiny('resnet'))
    values = external(model, params_of(model.config), 'timm')
    counters = {name: x for name, x in values.items() if name.endswith('num_batches_tracked')}
    assert set(counters) == {
        name.replace('running_var', 'num_batches_tracked') for name in values if 'var' in name
    }
    assert {(x.shape, str(x.dtype), int(x)) for x in counters.values()} == {((), 'int64', 0)}
    values = {name: x for name, x in values.items() if name not in counters}
    assert_same(convert(source_of(values), model), params_of(model.config))


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float16, np.float32])
def test_values_keep_their_dtype_both_ways(tmp_path, dtype):
    model = build(tiny('gpt2'))
    params = params_of(model.config, dtype)
    export(tmp_path, model, params)
    assert_same(convert(tmp_path, model), params)
    export(tmp_path / 'again', model, convert(tmp_path, model))
    files = [folder / 'model.safetensors' for folder in (tmp_path, tmp_path / 'again')]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize('layout', ['hf', 'timm', 'google'])
def test_params_are_no_views_of_the_file(tmp_path, layout):
    """Others may write to the file in place."""
    path, model = tmp_path / 'model.safetensors', build(tiny('vit', width=16, mlp_dim=16))
    params = params_of(model.config)
    write_tensors(path, external(model, params, layout), {})
    found = convert(path, model)
    aligned = [info.start % 64 == 0 for info in TensorFile(path).tensors.values()]
    assert any(aligned)
    with open(path, 'r+b') as file:
        file.write(b'\xff' * path.stat().st_size)
    assert_same(found, params)


def test_params_lie_on_the_callers_default_device():
    model = build(tiny('gpt2'))
    device = jax.devices()[1]
    with jax.default_device(device):
        params = convert(source_of(external(model, params_of(model.config), 'hf')), model)
    assert {leaf.device for leaf in jax.tree.leaves(params.partition('gpt2/**')[0])} == {device}


def test_x64_that_is_on_for_one_thread_alone_holds():
    enable_x64 = vars(jax if hasattr(jax, 'enable_x64') else jax.experimental)['enable_x64']
    model = build(tiny('gpt2'))
    source = source_of(external(model, params_of(model.config), 'hf'))
    with pytest.raises(ValueError, match='float64 takes jax_enable_x64'):
        convert(source, model, dtype=jnp.dtype('float64'))
    with enable_x64(True):
        params = convert(source, model, dtype=jnp.dtype('float64'))
    assert params['gpt2/norm/scale'].dtype == jnp.float64


# Google's .npz.


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
    params, model = params_of(config), build(config)
    np.savez(tmp_path / 'a.npz', **change(flax_arrays(params, config, **names)))
    found = explain(tmp_path / 'a.npz', model)
    assert (found.layout, found.problems) == (layout, [])
    assert_same(convert(tmp_path / 'a.npz', model), params)


# What fits and what does not.


def gpt2_source(**changes):
    """A tiny GPT-2's checkpoint with some arrays changed; those that are None are absent."""
    arrays = external(build(tiny('gpt2')), params_of(tiny('gpt2')), 'hf')
    arrays = {name.removeprefix('transformer.'): value for name, value in arrays.items()}
    arrays |= {name.replace('__', '.'): value for name, value in changes.items()}
    return source_of({name: value for name, value in arrays.items() if value is not None})


def refusal(source, model, **options):
    with pytest.raises(bx.CheckpointError) as caught:
        convert(source, model, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(repr(str(source.path)))
    return message


WTE = np.asarray(params_of(tiny('gpt2'))['gpt2/token_embed/w'].value)
MASK = np.tril(np.ones((1, 1, 6, 6), np.float32))

PROBLEMS = {
    'missing': (gpt2_source(ln_f__weight=None), ['transformer.ln_f.weight: missing']),
    'unexpected': (gpt2_source(more=WTE), ["'more': unexpected"]),
    'another block': (
        gpt2_source(h__2__ln_1__weight=WTE[0]),
        ["'h.2.ln_1.weight': unexpected"],
    ),
    'a leading zero': (
        gpt2_source(h__1__ln_1__weight=None, h__01__ln_1__weight=WTE[0]),
        ['transformer.h.1.ln_1.weight: missing', "'h.01.ln_1.weight': unexpected"],
    ),
    'a suffix of a name that is ignored': (
        gpt2_source(h__0__attn__more__bias=MASK),
        ["'h.0.attn.more.bias': unexpected"],
    ),
    'another shape': (
        gpt2_source(wte__weight=WTE[:-1]),
        ['wte.weight: expected shape (11, 8), found (10, 8)'],
    ),
    'another rank': (
        gpt2_source(ln_f__bias=WTE[:1]),
        ['ln_f.bias: expected shape (8,), found (1, 8)'],
    ),
    'transposed': (
        gpt2_source(h__0__attn__c_attn__weight=np.zeros((24, 8), np.float32)),
        ['h.0.attn.c_attn.weight: expected shape (8, 24), found (24, 8)'],
    ),
    **{
        f'data of {dtype}': (
            gpt2_source(wpe__weight=np.ones((6, 8), dtype)),
            [f'wpe.weight: expected a floating-point dtype, found {dtype}'],
        )
        for dtype in ('int8', 'int64', 'uint32', 'bool', 'complex64')
    },
    'two for one': (
        gpt2_source(transformer__wte__weight=WTE),
        ["'transformer.wte.weight' and 'wte.weight': two for one parameter"],
    ),
    'everything at once': (
        gpt2_source(
            wte__weight=WTE[:-1],
            wpe__weight=np.ones((6, 8), int),
            ln_f__bias=None,
            ln_f__scale=WTE[0],
            transformer__ln_f__weight=WTE[0],
        ),
        [
            'wte.weight: expected shape',
            'wpe.weight: expected a floating-point dtype',
            'transformer.ln_f.bias: missing',
            "'ln_f.scale': unexpected",
            "'transformer.ln_f.weight' and 'ln_f.weight': two for one parameter",
        ],
    ),
}


@pytest.mark.parametrize(('source', 'expected'), PROBLEMS.values(), ids=list(PROBLEMS))
def test_what_does_not_fit_is_listed_in_one_error(source, expected):
    model = build(tiny('gpt2'))
    found = explain(source, model)
    assert not found.ok
    assert len(found.problems) == len(expected)
    message = refusal(source, model)
    for problem in expected:
        assert problem in message
        assert f'problem: {problem}' in str(found)


def test_nothing_is_read_before_all_names_fit():
    def read():
        raise AssertionError('it was read')

    source = gpt2_source(ln_f__weight=None)
    unread = {name: dataclasses.replace(x, read=read) for name, x in source.tensors.items()}
    refusal(Source(source.path, unread), build(tiny('gpt2')))


def test_an_explanation_is_a_table_of_all_paths():
    source, model = gpt2_source(h__0__attn__bias=MASK), build(tiny('gpt2', tied_head=False))
    text = str(explain(source, model)).splitlines()
    assert text[0] == "made-up: 29 paths from layout 'hf'"
    assert len(text) == 1 + 29 + 2
    assert 'gpt2/block0/attn/qkv/w [8, 24]  <-  h.0.attn.c_attn.weight' in [
        ' '.join(line.split()).replace(' <- ', '  <-  ') for line in text
    ]
    assert text[-2:] == ['ignored: h.0.attn.bias', 'problem: lm_head.weight: missing']
    assert any(line.endswith('<-  lm_head.weight (missing)') for line in text)


IGNORED = {
    'masks of old files': ('gpt2', {'h.0.attn.bias': MASK, 'h.1.attn.masked_bias': MASK[0, 0, 0]}),
    'masks under a prefix': ('gpt2', {'transformer.h.0.attn.bias': MASK.astype(bool)}),
    'a tied head': ('gpt2', {'lm_head.weight': WTE}),
    'positions': ('bert', {'embeddings.position_ids': np.arange(6)[None]}),
    'heads of pretraining': (
        'bert',
        {'cls.predictions.bias': WTE[0], 'cls.seq_relationship.weight': WTE},
    ),
}


@pytest.mark.parametrize(('family', 'more'), IGNORED.values(), ids=list(IGNORED))
def test_what_changes_nothing_is_ignored_and_said(family, more):
    params, model = params_of(tiny(family)), build(tiny(family))
    source = source_of(external(model, params, 'hf') | more)
    assert set(explain(source, model).ignored) == set(more)
    assert_same(convert(source, model), params)


def test_old_names_of_norms_in_bert():
    params, model = params_of(tiny('bert')), build(tiny('bert'))
    old = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
    arrays = {
        f'bert.{respell(name, old.items())}': x for name, x in external(model, params, 'hf').items()
    }
    assert sum(name.endswith('gamma') for name in arrays) == 5
    assert_same(convert(source_of(arrays), model), params)


def test_a_head_that_the_config_does_not_tie_is_a_parameter():
    model = build(tiny('gpt2', tied_head=False))
    found = convert(gpt2_source(lm_head__weight=WTE + 1), model)
    assert (np.asarray(found['gpt2/head/w'].value) == WTE.T + 1).all()


# Values that are refused.


def changed(array, value, dtype=None):
    """A copy of `array` with `value` in one place."""
    array = np.array(array, dtype)
    array[(0,) * array.ndim] = value
    return array


@pytest.mark.parametrize(
    'head',
    [WTE + 1, WTE[:, :4], WTE.astype(np.float64), changed(WTE, -WTE[0, 0])],
    ids=['others', 'another shape', 'another dtype', 'one other'],
)
def test_a_tied_head_that_differs_is_refused(head):
    message = refusal(gpt2_source(lm_head__weight=head), build(tiny('gpt2')))
    assert "tensor 'lm_head.weight': expected the same values as in 'wte.weight'" in message


@pytest.mark.parametrize(
    ('value', 'found'), [(np.nan, 'NaN'), (np.inf, 'infinity'), (-np.inf, 'infinity')]
)
@pytest.mark.parametrize('dtype', [np.float32, np.float16, jnp.bfloat16])
def test_values_that_are_not_finite_are_refused(value, found, dtype):
    source = gpt2_source(wte__weight=None, transformer__wte__weight=changed(WTE, value, dtype))
    message = refusal(source, build(tiny('gpt2')))
    assert f"tensor 'transformer.wte.weight': expected finite values, found {found}" in message


def test_values_whose_sum_is_not_finite_are_kept():
    large = np.full_like(WTE, 3e38)
    found = convert(gpt2_source(wte__weight=large), build(tiny('gpt2')))
    assert (np.asarray(found['gpt2/token_embed/w'].value) == large).all()


@pytest.mark.parametrize('layout', ['timm', 'hf'])
def test_a_negative_variance_is_refused(layout):
    model = build(tiny('resnet'))
    params = params_of(model.config)
    path = 'resnet/stage2/block0/shortcut/norm/var'
    params = params.set(path, changed(params[path].value, -1e-3))
    message = refusal(source_of(external(model, params, layout)), model)
    assert f'expected variances of 0 or more for {path}, found negative' in message


# The dtype of what is made.

DOUBLE = gpt2_source(wte__weight=WTE.astype(np.float64))


def test_float64_is_not_cut_short_in_silence():
    message = refusal(DOUBLE, build(tiny('gpt2')))
    assert "'wte.weight': JAX would cut float64 values short: pass dtype=jnp.float32" in message


def test_float64_is_cast_where_the_caller_says_so():
    found = convert(DOUBLE, build(tiny('gpt2')), dtype=jnp.float32)
    assert_same(found, params_of(tiny('gpt2')))


@pytest.mark.usefixtures('x64')
def test_float64_is_kept_where_jax_has_it():
    found = convert(DOUBLE, build(tiny('gpt2')))['gpt2/token_embed/w'].value
    assert found.dtype == jnp.float64
    assert (np.asarray(found) == WTE).all()


@pytest.mark.parametrize(
    ('stored', 'value', 'dtype'),
    [
        (np.float64, 1e39, np.float32),
        (np.float32, 7e4, np.float16),
        (np.float32, -3.4e38, jnp.bfloat16),
        (jnp.bfloat16, 7e4, np.float16),
    ],
)
def test_values_that_overflow_are_refused(stored, value, dtype):
    array = changed(WTE, value, stored)
    message = refusal(gpt2_source(wte__weight=array), build(tiny('gpt2')), dtype=dtype)
    assert f"tensor 'wte.weight': values are too large for {np.dtype(dtype)}" in message


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_dtype_casts_every_value(dtype):
    model = build(tiny('resnet'))
    params = params_of(model.config)
    found = convert(source_of(external(model, params, 'hf')), model, dtype=dtype)
    assert_same(found, params.cast(dtype))


def test_a_dtype_of_integers_is_refused():
    with pytest.raises(ValueError, match=r'expected a floating-point dtype, found .*int32'):
        convert(gpt2_source(), build(tiny('gpt2')), dtype=jnp.int32)
