"""The two ways to attend: as written, and by a platform's kernel."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import blox as bx
from blox.layers import attend

BATCH, HEADS = 2, 3


def normal(seed, length, head_dim=16, dtype=jnp.float64):
    return jax.random.normal(jax.random.key(seed), (BATCH, length, HEADS, head_dim), dtype)


def mask_of_keys(length):
    """Some keys of the first sequence and none of the second's, from the left in both."""
    keys = jax.random.bernoulli(jax.random.key(9), 0.5, (BATCH, 1, 1, length))
    return keys.at[1].set(False).at[0, ..., :2].set(False)


def with_gradients(function, *arrays):
    @jax.jit
    def run(*arrays):
        outputs, vjp = jax.vjp(function, *arrays)
        return [outputs, *vjp(jnp.sin(outputs))]

    return run(*arrays)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


# The kernels themselves do not run here. What is done around them does, around the exact path.


def exact_kernel(q, k, v, is_causal, scale):
    return attend.exact(q, k, v, None, is_causal=is_causal, scale=scale)


def cudnn_of(*args: Any) -> Any:
    return attend._cudnn(*args)


def exact_cudnn(q, k, v, key_value_seq_lengths=None, query_seq_lengths=None, **options):
    mask = None
    if key_value_seq_lengths is not None:
        places = jnp.arange(k.shape[1], dtype=jnp.int32)[None, None, None]
        mask = places < key_value_seq_lengths[:, None, None, None]
    return attend.exact(q, k, v, mask, **options)


@pytest.mark.parametrize('is_causal', [False, True])
def test_barred_keys_are_masked_keys(x64, is_causal):
    arrays, mask = [normal(seed, 9) for seed in range(3)], mask_of_keys(9)
    options = {'is_causal': is_causal, 'scale': 0.3}

    def by_kernel(q, k, v):
        return attend._by_kernel(exact_kernel, q, k, v, mask, **options)

    def exact(q, k, v):
        return attend.exact(q, k, v, mask, **options)

    assert_same(with_gradients(by_kernel, *arrays), with_gradients(exact, *arrays))


@pytest.mark.parametrize('is_causal', [False, True])
@pytest.mark.parametrize('length', [8, 9])
def test_lengths_are_made_even_for_cudnn(monkeypatch, x64, length, is_causal):
    monkeypatch.setattr(attend, '_call_cudnn', exact_cudnn)
    arrays = [normal(seed, length) for seed in range(3)]

    def fused(q, k, v):
        return cudnn_of(q, k, v, is_causal, 0.3)

    def exact(q, k, v):
        return exact_kernel(q, k, v, is_causal, 0.3)

    assert_same(with_gradients(fused, *arrays), with_gradients(exact, *arrays))


def test_vmap_of_odd_lengths_is_a_loop(monkeypatch, x64):
    monkeypatch.setattr(attend, '_call_cudnn', exact_cudnn)
    arrays = [jnp.stack([normal(seed, 5), normal(seed + 3, 5)]) for seed in range(3)]
    run = partial(with_gradients, lambda q, k, v: cudnn_of(q, k, v, False, 0.3))
    each = [run(*(x[i] for x in arrays)) for i in range(2)]
    assert_same(jax.vmap(run)(*arrays), [jnp.stack(pair) for pair in zip(*each)])


@pytest.mark.parametrize('length', [1, 127, 128, 300])
def test_causal_parts_make_the_whole(x64, length):
    arrays, everything = [normal(seed, length) for seed in range(3)], jnp.ones((1, 1, 1, 1), bool)
    options = {'is_causal': True, 'scale': 0.3}
    in_parts = with_gradients(lambda q, k, v: attend.exact(q, k, v, None, **options), *arrays)
    whole = with_gradients(lambda q, k, v: attend.exact(q, k, v, everything, **options), *arrays)
    assert_same(in_parts, whole)


def test_causal_parts_leave_work_out():
    x = jax.ShapeDtypeStruct((1, 256, 1, 32), jnp.float32)

    def operations(is_causal):
        attention = partial(attend.exact, mask=None, is_causal=is_causal, scale=1.0)
        return (jax.jit(attention).lower(x, x, x).cost_analysis() or {})['flops']

    assert operations(is_causal=True) < 0.8 * operations(is_causal=False)


# Which kernel a program has shows in its text, whatever it is compiled on.


@pytest.fixture(scope='module')
def cudnn():
    """JAX believes that there is a cuDNN, and so do we, to the end of this file."""
    with pytest.MonkeyPatch.context() as patch:
        checked = 'jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version'
        patch.setattr(checked, lambda: 91000)
        attend._has_cudnn.cache_clear()
        yield
    attend._has_cudnn.cache_clear()
    # JAX remembers calls that it traced.
    jax.clear_caches()


KERNELS = {
    'cuda': '__cudnn$fmhaSoftmax(',
    'cuda-gradient': '__cudnn$fmhaSoftmaxBackward(',
    'tpu': 'tpu_custom_call',
}


def layer(**options):
    options = {'width': 128, 'heads': 2, **options}
    return bx.MultiHeadAttention(bx.Graph('layer'), **options)


def kernels_in(function, *inputs):
    """Return the kernels, by platform, in what `function` is lowered to."""
    found = set()
    for platform in ('cpu', 'cuda', 'tpu'):
        lowered = jax.jit(function).trace(*inputs).lower(lowering_platforms=(platform,))
        text = lowered.as_text()
        found |= {name for name, call in KERNELS.items() if call in text}
        if platform == 'cpu':
            assert not found
    return found


def params_and_inputs(attention, length=1024, dtype=jnp.bfloat16):
    inputs = jax.ShapeDtypeStruct((BATCH, length, attention.width), jnp.float32)
    params = bx.spec(attention, inputs)
    return params.cast(dtype), jax.ShapeDtypeStruct(inputs.shape, dtype)


def kernels_of(attention, length=1024, dtype=jnp.bfloat16, mask=None, **options):
    params, inputs = params_and_inputs(attention, length, dtype)
    return kernels_in(lambda p, x: attention(p, x, mask, **options)[0], params, inputs)


BOTH = {'cuda', 'tpu'}
# What a layer is called with, and where it takes a kernel.
CHOICES = {
    'bfloat16': ({}, {}, BOTH),
    'float16': ({}, {'dtype': jnp.float16}, {'cuda'}),
    'float32': ({}, {'dtype': jnp.float32}, set()),
    'causal': ({'is_causal': True}, {}, BOTH),
    'odd': ({}, {'length': 197}, {'cuda'}),
    'short': ({}, {'length': 128}, set()),
    'keys': ({}, {'mask': mask_of_keys(1024)}, BOTH),
    'causal-keys': ({'is_causal': True}, {'mask': mask_of_keys(1024)}, BOTH),
    'float16-keys': ({}, {'dtype': jnp.float16, 'mask': mask_of_keys(1024)}, set()),
    'queries': ({}, {'mask': jnp.ones((1, 1, 1024, 1024), bool)}, set()),
    'narrow': ({'width': 24}, {}, {'tpu'}),
    'wide': ({'width': 512}, {}, set()),
    'wide-keys': ({'width': 256}, {'mask': mask_of_keys(1024)}, set()),
    'exact': ({'implementation': 'exact'}, {}, set()),
    'dropout': ({'attention_dropout_rate': 0.1}, {'is_training': True}, set()),
    'dropout-off': ({'attention_dropout_rate': 0.1}, {}, BOTH),
}


def test_without_cudnn_the_program_is_exact():
    assert not attend._has_cudnn()
    assert kernels_of(layer(), length=197) == set()


def test_several_tpus_take_no_kernel(monkeypatch):
    monkeypatch.setattr(attend, '_has_several_tpus', lambda: True)
    assert kernels_of(layer()) == set()


@pytest.mark.parametrize(('options', 'call', 'expected'), CHOICES.values(), ids=CHOICES)
def test_kernels_are_taken_where_they_are_right(cudnn, options, call, expected):
    assert kernels_of(layer(**options), **call) == expected


def test_gpus_before_ampere_take_no_kernel(cudnn, monkeypatch):
    turing = type('Gpu', (), {'compute_capability': '7.5'})
    monkeypatch.setattr(jax, 'local_devices', lambda backend: [turing])
    attend._has_cudnn.cache_clear()
    assert not attend._has_cudnn()
    attend._has_cudnn.cache_clear()


TRANSFORMS = {
    'grad': lambda f: lambda p, x: jax.grad(f)(x, p),
    'remat': lambda f: lambda p, x: jax.grad(jax.checkpoint(f))(x, p),
    'vmap': lambda f: lambda p, x: jax.vmap(jax.grad(f), in_axes=(0, None))(x[:, None], p),
    'scan': lambda f: (
        lambda p, x: jax.grad(
            lambda x: jax.lax.scan(lambda total, _: (total + f(x, p), None), 0.0, length=2)[0]
        )(x)
    ),
}


@pytest.mark.parametrize('transform', TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize('length', [197, 1024])
def test_kernels_stay_under_transformations(cudnn, transform, length):
    attention = layer()
    mask = jnp.arange(length)[None, None, None] < 150

    def loss(x, params):
        return jnp.square(attention(params, x, mask)[0].astype(jnp.float32)).sum()

    found = kernels_in(transform(loss), *params_and_inputs(attention, length))
    expected = {'cuda', 'cuda-gradient'}
    assert found == (expected if length == 197 else {*expected, 'tpu'})


def test_exported_programs_have_the_kernel(cudnn):
    attention = layer(is_causal=True)
    params, inputs = params_and_inputs(attention)
    # JAX promises nothing of cuDNN's calls in files.
    checks = [export.DisabledSafetyCheck.custom_call('__cudnn$fmhaSoftmax')]
    for platform in ('cuda', 'tpu'):
        exported = export.export(
            jax.jit(lambda p, x: attention(p, x)[0]), platforms=[platform], disabled_checks=checks
        )(params, inputs)
        assert KERNELS[platform] in exported.mlir_module()


def test_programs_of_any_size_are_exact(cudnn):
    attention = layer(is_causal=True)
    params, _ = params_and_inputs(attention)
    shape = export.symbolic_shape('batch, length, 128')
    exported = export.export(jax.jit(lambda p, x: attention(p, x)[0]), platforms=['cuda', 'tpu'])(
        params, jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    )
    assert not any(call in exported.mlir_module() for call in KERNELS.values())


def test_tapped_attention_shows_its_weights(cudnn):
    attention = layer()
    params, inputs = params_and_inputs(attention)
    tapped = bx.tap(attention, 'layer/attention_dropout')
    (_, taps), _ = jax.eval_shape(tapped, params, inputs)
    assert taps['layer/attention_dropout'].shape == (BATCH, 2, 1024, 1024)
    assert kernels_in(lambda p, x: tapped(p, x)[0], params, inputs) == set()


def test_steps_with_a_cache_are_exact(cudnn):
    attention = layer(is_causal=True)
    params, inputs = params_and_inputs(attention)
    state = attention.initial_state(BATCH, 1024, jnp.bfloat16)

    def step(params, x):
        return attention.step(params, x[:, :1], state, jnp.zeros(BATCH, jnp.int32))[0]

    assert kernels_in(step, params, inputs) == set()


def test_on_cpu_it_is_the_exact_path(cudnn):
    inputs = jax.random.normal(jax.random.key(0), (1, 130, 128))
    params, inputs = bx.init(layer(), inputs).cast(jnp.bfloat16), inputs.astype(jnp.bfloat16)
    outputs = [jax.jit(layer(implementation=i))(params, inputs)[0] for i in ('auto', 'exact')]
    np.testing.assert_array_equal(*outputs)


def test_another_implementation_is_refused():
    with pytest.raises(ValueError, match=r"'layer': expected implementation .* found 'flash'"):
        layer(implementation='flash')
