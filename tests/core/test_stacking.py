"""Params whose blocks are stacked, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import normal, table
from jax.sharding import PartitionSpec

import blox as bx
from blox.display import tree_text


def entry(i, shape=(2, 3), **said):
    return bx.Param(jnp.asarray(normal(*shape, seed=i), jnp.float32), **said)


@pytest.fixture
def params():
    entries = {f'net/block{i}/w': entry(i) for i in range(12)}
    entries |= {f'net/block{i}/norm/mean': entry(i, (4,), trainable=False) for i in range(12)}
    return bx.Params(0).merge(bx.Params.from_entries({**entries, 'net/head/w': entry(20)}))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path in a:
        if path != 'rng':
            np.testing.assert_array_equal(a[path].value, b[path].value)


def test_stacked_entries_have_a_leading_axis_in_the_order_of_numbers(params):
    stacked = params.stack('net/block{i}')
    assert list(stacked) == ['net/block*/norm/mean', 'net/block*/w', 'net/head/w', 'rng']
    assert stacked['net/block*/w'].shape == (12, 2, 3)
    for i in range(12):
        np.testing.assert_array_equal(
            stacked['net/block*/w'].value[i], params[f'net/block{i}/w'].value
        )
    assert not stacked['net/block*/norm/mean'].trainable
    assert stacked.num_params == params.num_params


def test_unstack_undoes_it(params):
    assert_same(params.stack('net/block{i}').unstack(), params)
    assert params.unstack() is params
    finalized = params.finalize()
    assert finalized.stack('net/block{i}').initialized
    assert_same(finalized.stack('net/block{i}').unstack(), finalized)


def test_blocks_before_the_first_stay(params):
    stacked = params.stack('net/block{i}', first=10)
    assert stacked['net/block*/w'].shape == (2, 2, 3)
    np.testing.assert_array_equal(stacked['net/block11/w'].value, params['net/block11/w'].value)
    assert_same(stacked.unstack(), params)


def test_stacking_works_under_jit_and_of_shapes_alone(params):
    stacked = params.stack('net/block{i}')
    assert_same(jax.jit(lambda p: p.stack('net/block{i}'))(params), stacked)
    assert_same(jax.jit(bx.Params.unstack)(stacked), params)
    shapes = jax.eval_shape(lambda p: p, params).stack('net/block{i}')
    assert shapes['net/block*/w'].shape == (12, 2, 3)
    assert shapes.unstack()['net/block3/w'].shape == shapes['net/block3/w'].shape == (2, 3)


def test_what_is_unstacked_outlives_what_it_came_from(params):
    stacked = params.stack('net/block{i}').partition('net/**')[0]
    own = stacked.unstack()
    jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(stacked)
    np.testing.assert_array_equal(own['net/block3/w'].value, params['net/block3/w'].value)


def test_a_blocks_own_path_leads_to_its_part(params):
    stacked = params.stack('net/block{i}').finalize()
    assert 'net/block3/w' in stacked
    assert 'net/block12/w' not in stacked
    assert stacked.get('net/block3/w').metadata == {}
    new = stacked.set('net/block3/w', jnp.ones((2, 3)))
    assert_same(new.unstack(), params.set('net/block3/w', jnp.ones((2, 3))).finalize())
    with pytest.raises(ValueError, match=r"'net/block3/w': expected shape \(2, 3\)"):
        stacked.set('net/block3/w', jnp.ones(3))
    with pytest.raises(ValueError, match=r'shares: set those of .net/block\*/w'):
        stacked.set('net/block3/w', entry(0, trainable=False))


def test_patterns_name_all_blocks_or_say_why_not(params):
    stacked = params.stack('net/block{i}')
    frozen = stacked.freeze('net/block*/w')
    assert_same(frozen.unstack(), params.freeze('net/block*/w'))
    with pytest.raises(ValueError, match='stacked blocks are one entry'):
        stacked.freeze('net/block3/w')


def test_a_block_is_not_there_twice(params):
    stacked = params.stack('net/block{i}')
    with pytest.raises(ValueError, match="'net/block0/norm/mean' would be there twice"):
        stacked.merge(params)


@table(
    {
        'shape': (entry(0, (3, 2)), r'must be alike, found net/block1/w .*\[3,2\].*block0'),
        'dtype': (bx.Param(jnp.ones((2, 3), jnp.bfloat16)), 'must be alike, found .*bfloat16'),
        'flag': (entry(0, trainable=False), 'must be alike, found .*trainable=False'),
        'metadata': (entry(0, metadata={'scale': 2.0}), "must be alike, found .*'scale': 2.0"),
    }
)
def test_blocks_that_differ_are_refused(params, row):
    other, message = row
    with pytest.raises(ValueError, match=message):
        params.set('net/block1/w', other, strict=False).stack('net/block{i}')


@table(
    {
        'no number': ('net/block', 'expected {i} once'),
        'two numbers': ('net/{i}/block{i}', 'expected {i} once'),
        'a star': ('net/*/block{i}', 'expected {i} once'),
        'nothing': ('net/blok{i}', 'matches none of 26 paths; nearest: net/block'),
    }
)
def test_patterns_that_name_no_blocks_are_refused(params, row):
    pattern, message = row
    with pytest.raises(ValueError, match=message):
        params.stack(pattern)


def test_a_missing_entry_is_named(params):
    some, _ = params.partition(lambda path, _: path != 'net/block7/w')
    with pytest.raises(ValueError, match='must be alike; missing: net/block7/w'):
        some.stack('net/block{i}')


def test_files_have_entries_of_each_block(params, tmp_path):
    bx.save(tmp_path / 'a', params)
    bx.save(tmp_path / 'b', params.stack('net/block{i}'))
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_rules_speak_of_one_block(params):
    mesh = jax.make_mesh((2, 2), ('data', 'model'))
    rules = {'net/block*/w': PartitionSpec('model', None)}
    stacked = params.stack('net/block{i}')
    found = bx.shardings(stacked, mesh, rules)
    assert found['net/block*/w'].value.spec == PartitionSpec(None, 'model', None)
    assert found['net/block*/norm/mean'].value.is_fully_replicated
    placed = bx.shard(stacked, mesh, rules)['net/block*/w'].value
    assert placed.addressable_shards[0].data.shape == (12, 1, 3)
    assert_same(bx.shard(stacked, mesh, rules).unstack(), params)


def test_a_tree_shows_each_block(params):
    linears = bx.Graph('net')
    for i in range(12):
        bx.Linear(linears / f'block{i}', 3)
    params = params.partition('net/block*/w')[0]
    assert tree_text(linears, params.stack('net/block{i}')) == tree_text(linears, params)


def test_what_is_not_stacked_comes_back_as_it_is(params):
    """Numbers without axes too."""
    params = params.merge(bx.Params.from_entries({'net/scale': entry(30, ())}))
    stacked = params.stack('net/block{i}')
    assert_same(stacked.unstack(), params)
    assert stacked.unstack()['net/head/w'].value is params['net/head/w'].value
