"""Conversion by specs and small made-up files: what fits, what is refused, in which dtype."""

import dataclasses

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import assert_same, model_of, params_of, source_of
from families import tiny

import blox as bx
from blox.converters import convert, explain, export
from blox.converters.exporting import external
from blox.converters.mapping.rules import respell
from blox.converters.sources.source import Source
from blox.tensorfile import TensorFile, write_tensors


def test_the_parameters_keep_their_flags_and_the_rng_is_of_the_seed():
    model = model_of(tiny('resnet'))
    arrays = external(model, params_of(model.config), 'timm')
    found = convert(source_of(arrays), model, seed=7)
    made = bx.zoo.init(model, seed=7)
    assert jax.tree.structure(found) == jax.tree.structure(made.set('rng', found['rng']))
    key, counter = found['rng'].value
    assert (jax.random.key_data(key) == jax.random.key_data(jax.random.key(7))).all()
    assert counter == 0


def test_counters_of_batches_are_regenerated():
    model = model_of(tiny('resnet'))
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
    model = model_of(tiny('gpt2'))
    params = params_of(model.config, dtype)
    export(tmp_path, model, params)
    assert_same(convert(tmp_path, model), params)
    export(tmp_path / 'again', model, convert(tmp_path, model))
    files = [folder / 'model.safetensors' for folder in (tmp_path, tmp_path / 'again')]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize('layout', ['hf', 'timm', 'google'])
def test_params_are_no_views_of_the_file(tmp_path, layout):
    """Others may write to the file in place."""
    path, model = tmp_path / 'model.safetensors', model_of(tiny('vit', width=16, mlp_dim=16))
    params = params_of(model.config)
    write_tensors(path, external(model, params, layout), {})
    found = convert(path, model)
    aligned = [info.start % 64 == 0 for info in TensorFile(path).tensors.values()]
    assert any(aligned)
    with open(path, 'r+b') as file:
        file.write(b'\xff' * path.stat().st_size)
    assert_same(found, params)


def test_params_lie_on_the_callers_default_device():
    model = model_of(tiny('gpt2'))
    device = jax.devices()[1]
    with jax.default_device(device):
        params = convert(source_of(external(model, params_of(model.config), 'hf')), model)
    assert {leaf.device for leaf in jax.tree.leaves(params.partition('gpt2/**')[0])} == {device}


def test_x64_that_is_on_for_one_thread_alone_holds():
    enable_x64 = vars(jax if hasattr(jax, 'enable_x64') else jax.experimental)['enable_x64']
    model = model_of(tiny('gpt2'))
    source = source_of(external(model, params_of(model.config), 'hf'))
    with pytest.raises(ValueError, match='float64 takes jax_enable_x64'):
        convert(source, model, dtype=jnp.dtype('float64'))
    with enable_x64(True):
        params = convert(source, model, dtype=jnp.dtype('float64'))
    assert params['gpt2/norm/scale'].dtype == jnp.float64


# What fits and what does not.


def gpt2_source(**changes):
    """A tiny GPT-2's checkpoint with some arrays changed; those that are None are absent."""
    arrays = external(model_of(tiny('gpt2')), params_of(tiny('gpt2')), 'hf')
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
    'missing': (gpt2_source(ln_f__weight=None), ['ln_f.weight: missing']),
    'unexpected': (gpt2_source(more=WTE), ["'more': unexpected"]),
    'another block': (
        gpt2_source(h__2__ln_1__weight=WTE[0]),
        ["'h.2.ln_1.weight': unexpected"],
    ),
    'a leading zero': (
        gpt2_source(h__1__ln_1__weight=None, h__01__ln_1__weight=WTE[0]),
        ['h.1.ln_1.weight: missing', "'h.01.ln_1.weight': unexpected"],
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
            [f'wpe.weight: expected a floating-point dtype of 16 bits or more, found {dtype}'],
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
            'ln_f.bias: missing',
            "'ln_f.scale': unexpected",
            "'transformer.ln_f.weight' and 'ln_f.weight': two for one parameter",
        ],
    ),
}


@pytest.mark.parametrize(('source', 'expected'), PROBLEMS.values(), ids=list(PROBLEMS))
def test_what_does_not_fit_is_listed_in_one_error(source, expected):
    model = model_of(tiny('gpt2'))
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
    refusal(Source(source.path, unread), model_of(tiny('gpt2')))


def test_an_explanation_is_a_table_of_all_paths():
    source, model = gpt2_source(h__0__attn__bias=MASK), model_of(tiny('gpt2', tied_head=False))
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
    params, model = params_of(tiny(family)), model_of(tiny(family))
    source = source_of(external(model, params, 'hf') | more)
    assert set(explain(source, model).ignored) == set(more)
    assert_same(convert(source, model), params)


def test_old_names_of_norms_in_bert():
    params, model = params_of(tiny('bert')), model_of(tiny('bert'))
    old = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
    arrays = {
        f'bert.{respell(name, old.items())}': x for name, x in external(model, params, 'hf').items()
    }
    assert sum(name.endswith('gamma') for name in arrays) == 5
    assert_same(convert(source_of(arrays), model), params)


def test_a_head_that_the_config_does_not_tie_is_a_parameter():
    model = model_of(tiny('gpt2', tied_head=False))
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
    message = refusal(gpt2_source(lm_head__weight=head), model_of(tiny('gpt2')))
    assert "tensor 'lm_head.weight': expected the same values as in 'wte.weight'" in message


@pytest.mark.parametrize(
    ('value', 'found'), [(np.nan, 'NaN'), (np.inf, 'infinity'), (-np.inf, 'infinity')]
)
@pytest.mark.parametrize('dtype', [np.float32, np.float16, jnp.bfloat16])
def test_values_that_are_not_finite_are_refused(value, found, dtype):
    source = gpt2_source(wte__weight=None, transformer__wte__weight=changed(WTE, value, dtype))
    message = refusal(source, model_of(tiny('gpt2')))
    assert f"tensor 'transformer.wte.weight': expected finite values, found {found}" in message


def test_values_whose_sum_is_not_finite_are_kept():
    large = np.full_like(WTE, 3e38)
    found = convert(gpt2_source(wte__weight=large), model_of(tiny('gpt2')))
    assert (np.asarray(found['gpt2/token_embed/w'].value) == large).all()


@pytest.mark.parametrize('layout', ['timm', 'hf'])
def test_a_negative_variance_is_refused(layout):
    model = model_of(tiny('resnet'))
    params = params_of(model.config)
    path = 'resnet/stage2/block0/shortcut/norm/var'
    params = params.set(path, changed(params[path].value, -1e-3))
    message = refusal(source_of(external(model, params, layout)), model)
    assert f'expected variances of 0 or more for {path}, found negative' in message


# The dtype of what is made.

DOUBLE = gpt2_source(wte__weight=WTE.astype(np.float64))


def test_float64_is_not_cut_short_in_silence():
    message = refusal(DOUBLE, model_of(tiny('gpt2')))
    assert "'wte.weight': JAX would cut float64 values short: pass dtype=jnp.float32" in message


def test_float64_is_cast_where_the_caller_says_so():
    found = convert(DOUBLE, model_of(tiny('gpt2')), dtype=jnp.float32)
    assert_same(found, params_of(tiny('gpt2')))


@pytest.mark.usefixtures('x64')
def test_float64_is_kept_where_jax_has_it():
    found = convert(DOUBLE, model_of(tiny('gpt2')))['gpt2/token_embed/w'].value
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
    message = refusal(gpt2_source(wte__weight=array), model_of(tiny('gpt2')), dtype=dtype)
    assert f"tensor 'wte.weight': values are too large for {np.dtype(dtype)}" in message


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_dtype_casts_every_value(dtype):
    model = model_of(tiny('resnet'))
    params = params_of(model.config)
    found = convert(source_of(external(model, params, 'hf')), model, dtype=dtype)
    assert_same(found, params.cast(dtype))


def test_a_dtype_of_integers_is_refused():
    with pytest.raises(ValueError, match=r'expected a floating-point dtype, found .*int32'):
        convert(gpt2_source(), model_of(tiny('gpt2')), dtype=jnp.int32)


HALVES = {
    'gpt2/token_embed/w': jnp.float16,
    'gpt2/pos_embed/w': jnp.bfloat16,
    'gpt2/norm/scale': jnp.float32,
}


def test_a_file_of_mixed_dtypes_keeps_each():
    source = gpt2_source(
        wte__weight=WTE.astype(np.float16), wpe__weight=np.ones((6, 8), jnp.bfloat16)
    )
    found = convert(source, model_of(tiny('gpt2')))
    assert {path: found[path].dtype for path in HALVES} == HALVES
    assert (np.asarray(found['gpt2/token_embed/w'].value) == WTE.astype(np.float16)).all()


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_file_of_mixed_dtypes_is_cast_to_one(dtype):
    source = gpt2_source(wte__weight=WTE.astype(np.float16))
    found = convert(source, model_of(tiny('gpt2')), dtype=dtype)
    assert {x.dtype for path, x in found.items() if path != 'rng'} == {jnp.dtype(dtype)}
    expected = WTE.astype(np.float16).astype(dtype)
    assert (np.asarray(found['gpt2/token_embed/w'].value) == expected).all()


QUERY = 'vit.encoder.layer.1.attention.attention.query.weight'


@pytest.mark.parametrize('narrow', [np.float16, jnp.bfloat16])
def test_parts_of_one_array_in_several_dtypes_are_refused_by_name(narrow):
    model = model_of(tiny('vit'))
    arrays = external(model, params_of(tiny('vit')), 'hf')
    source = source_of({**arrays, QUERY: arrays[QUERY].astype(narrow)})
    message = refusal(source, model)
    assert f"'{QUERY}' {np.dtype(narrow)}, '{QUERY.replace('query', 'key')}' float32" in message
    assert 'pass dtype=' in message
    found = convert(source, model, dtype=jnp.float32)['vit/block1/attn/qkv/w'].value
    rows = np.split(np.asarray(found), 3, axis=1)[0].T
    assert found.dtype == jnp.float32
    assert (rows == arrays[QUERY].astype(narrow).astype(np.float32)).all()
