"""Models whose blocks run under one scan: the same function, values and files as without."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import declared, tiny
from jax import export
from jax.sharding import PartitionSpec
from safetensors.flax import load_file
from small_models import answer, inputs_for, model_of, random_params

import blox as bx
from blox.params import stacks_of

RATES = {
    'drop_path_rate': 0.4,
    'dropout_rate': 0.2,
    'attention_dropout_rate': 0.2,
    'scale_attention_by_depth': True,
}


def deep(family, **fields):
    """A config of three blocks, or a stage of three."""
    config = tiny(family)
    depths = ('depth', 'image_depth', 'text_depth')
    size = {name: 3 for name in depths if hasattr(config, name)}
    size = size or {'depths': (3, *config.depths[1:])}
    return dataclasses.replace(config, **size, **fields)


def varied(family, **fields):
    """The same, in which all that may differ by block does."""
    rates = {name: rate for name, rate in RATES.items() if hasattr(tiny(family), name)}
    return deep(family, **rates, **fields)


def pair(config, dtype=jnp.float32):
    """A model and Params; the same scanned; inputs."""
    scanned = model_of(dataclasses.replace(config, scan=True))
    params = random_params(config, dtype)
    stacked = params
    for stack in stacks(scanned):
        stacked = stacked.stack(*stack)
    return (model_of(config), params), (scanned, stacked), inputs_for(config)


def stacks(model):
    return stacks_of(bx.spec(model, *model.example_inputs()))


def close(a, b, **bounds):
    assert list(a) == list(b)
    # By NumPy, which compiles nothing for each shape.
    found, expected = (
        {path: np.asarray(p.value) for path, p in params.items() if path != 'rng'}
        for params in (a, b)
    )
    largest = max(abs(value).max() for value in expected.values())
    for path, value in expected.items():
        np.testing.assert_allclose(found[path] / largest, value / largest, err_msg=path, **bounds)
    if 'rng' in b:
        assert int(a['rng'].value[1]) == int(b['rng'].value[1])


families = pytest.mark.parametrize('family', declared())


@families
def test_every_family_has_blocks_to_scan(family):
    assert stacks(model_of(deep(family, scan=True)))


@pytest.mark.parametrize(
    ('family', 'remat'), [*((name, False) for name in declared()), ('vit', True), ('resnet', True)]
)
def test_outputs_gradients_and_state_are_the_same(x64, family, remat):
    config = varied(family, remat=remat)
    (model, params), (scanned, stacked), inputs = pair(config, jnp.float64)
    inputs = [x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in inputs]

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.grad, has_aux=True)
    def gradients(trainable, rest, model):
        whole = trainable.merge(rest)
        trained, after = model(whole, *inputs, is_training=True)
        evaluated, _ = model(whole, *inputs)
        return (answer(trained) ** 2).sum(), (answer(trained), answer(evaluated), after)

    expected, (*outputs, after) = gradients(*params.split_trainable(), model)
    found, (*scanned_outputs, scanned_after) = gradients(*stacked.split_trainable(), scanned)
    for a, b in zip(scanned_outputs, outputs):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    close(found.unstack(), expected, atol=1e-10)
    close(scanned_after.unstack(), after, atol=1e-10)


@families
def test_initial_values_are_the_same(family):
    (model, _), (scanned, stacked), _ = pair(deep(family))
    found = bx.zoo.init(scanned, seed=2)
    assert jax.tree.structure(found) == jax.tree.structure(stacked)
    close(found.unstack(), bx.zoo.init(model, seed=2), atol=0)


@families
def test_features_and_taps_are_the_same(family):
    (model, params), (scanned, stacked), inputs = pair(deep(family))
    expected, _ = jax.jit(model.features)(params, *inputs)
    found, after = jax.jit(scanned.features)(stacked, *inputs)
    assert list(found) == list(expected)
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert list(after) == list(stacked)
    (_, taps), _ = jax.eval_shape(bx.tap(scanned, '**'), stacked, *inputs)
    (_, expected), _ = jax.eval_shape(bx.tap(model, '**'), params, *inputs)
    assert taps == expected


@families
def test_files_are_the_same_and_load_stacked(family, tmp_path):
    (model, params), (scanned, stacked), _ = pair(deep(family))
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    bx.zoo.save(tmp_path / 'a/model.safetensors', model, params)
    bx.zoo.save(tmp_path / 'b/model.safetensors', scanned, stacked)
    written = [(tmp_path / name / 'model.safetensors').read_bytes() for name in 'ab']
    assert written[0] == written[1]
    loaded, again = bx.zoo.load(tmp_path / 'a/model.safetensors', scan=True)
    assert loaded.config == scanned.config
    assert jax.tree.structure(again) == jax.tree.structure(stacked)
    close(again.unstack(), params, atol=0)
    narrow = bx.zoo.load(tmp_path / 'a/model.safetensors', scan=True, dtype=jnp.bfloat16)[1]
    assert narrow.dtype == jnp.bfloat16
    assert bx.zoo.diff(params, stacked).same


@families
def test_exports_are_the_same(family, tmp_path):
    (model, params), (scanned, stacked), _ = pair(deep(family))
    tables = bx.converters.layouts(family)
    formats = [f for f in ('hf', 'timm') if f in tables and not tables[f].beyond(model.config)]
    for name, (one, values) in {'a': (model, params), 'b': (scanned, stacked)}.items():
        bx.converters.export(tmp_path / name, one, values, formats[0])
    written = [file for file in (tmp_path / 'a').rglob('*') if file.is_file()]
    for file in written:
        other = tmp_path / 'b' / file.relative_to(tmp_path / 'a')
        assert file.read_bytes() == other.read_bytes()
    loaded, again = bx.zoo.load(tmp_path / 'a', scan=True)
    assert loaded.config.scan
    close(again.unstack(), params, atol=0)


@families
def test_adapters_are_the_same(family, tmp_path):
    (model, params), (scanned, stacked), inputs = pair(deep(family))
    where = lambda path, param: 'block' in path and path.endswith('/w')  # noqa: E731
    plain, adapted = (bx.lora(p, where, rank=2, seed=1) for p in (params, stacked))
    close(adapted.unstack(), plain, atol=0)
    # Those of a fresh adapter add nothing.
    more = lambda path, p: path.endswith('_b')  # noqa: E731
    plain, adapted = (
        p.merge(jax.tree.map(lambda x: x + 0.1, p.partition(more)[0])) for p in (plain, adapted)
    )
    found, expected = jax.jit(scanned)(adapted, *inputs)[0], jax.jit(model)(plain, *inputs)[0]
    np.testing.assert_allclose(answer(found), answer(expected), rtol=1e-4, atol=1e-5)
    close(bx.merge_lora(adapted).unstack(), bx.merge_lora(plain), atol=1e-6)
    bx.save_lora(tmp_path / 'a', plain)
    bx.save_lora(tmp_path / 'b', adapted)
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()
    close(bx.load_lora(tmp_path / 'a', stacked).unstack(), plain, atol=0)


@pytest.mark.parametrize('family', ['vit', 'gpt2', 'bert'])
def test_adapters_go_to_peft_and_back(family, tmp_path):
    (model, params), (scanned, stacked), _ = pair(deep(family))
    where = f'{family}/block*/attn/qkv/w'
    plain, adapted = (bx.lora(p, where, rank=2, seed=1) for p in (params, stacked))
    bx.converters.export_peft(tmp_path / 'a', model, plain)
    bx.converters.export_peft(tmp_path / 'b', scanned, adapted)
    for file in (tmp_path / 'a').iterdir():
        assert file.read_bytes() == (tmp_path / 'b' / file.name).read_bytes()
    found = bx.converters.import_peft(tmp_path / 'a', scanned, stacked)
    expected = bx.converters.import_peft(tmp_path / 'a', model, params)
    close(found.unstack(), expected, atol=0)


def test_rules_for_a_mesh_hold_for_stacked_blocks(tmp_path):
    (model, params), _, inputs = pair(deep('vit'))
    bx.zoo.save(tmp_path / 'vit.safetensors', model, params)
    mesh = jax.make_mesh((2, 2), ('data', 'model'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rules = {'vit/block*/mlp/fc1/w': PartitionSpec(None, 'model')}
    loaded, placed = bx.zoo.load(tmp_path / 'vit.safetensors', scan=True, mesh=mesh, rules=rules)
    assert placed['vit/block*/mlp/fc1/w'].value.sharding.spec == PartitionSpec(None, None, 'model')
    np.testing.assert_allclose(
        jax.jit(loaded)(placed, *inputs)[0],
        jax.jit(model)(params, *inputs)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_generation_is_the_same():
    (model, params), (scanned, stacked), _ = pair(varied('gpt2'))
    options = {'max_new_tokens': 3, 'temperature': 1.0, 'stop_tokens': ()}
    expected = bx.zoo.generate(model, params, [[1, 2], [3]], **options)
    found = bx.zoo.generate(scanned, stacked, [[1, 2], [3]], **options)
    np.testing.assert_array_equal(found.tokens, expected.tokens)


def test_a_compiled_program_gives_the_same(tmp_path):
    (model, params), (scanned, stacked), inputs = pair(deep('vit'))
    bx.zoo.compile(tmp_path / 'program', scanned, stacked)
    weights = load_file(tmp_path / 'program')
    program = export.deserialize(bytearray(weights.pop('program').tobytes()))
    assert 'vit/block*/norm1/scale' in weights
    np.testing.assert_allclose(
        jax.jit(program.call)(weights, *inputs),
        jax.jit(model)(params, *inputs)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_params_of_a_loop_lead_to_the_scan_and_back():
    (model, params), (scanned, stacked), inputs = pair(deep('vit'))
    with pytest.raises(ValueError, match='or load the model with scan=True'):
        scanned(params, *inputs)
    # A model that does not scan takes each block's part.
    np.testing.assert_allclose(
        jax.jit(model)(stacked, *inputs)[0],
        jax.jit(model)(params, *inputs)[0],
        rtol=1e-5,
        atol=1e-6,
    )
