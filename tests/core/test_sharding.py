"""Placing Params on a mesh by path patterns."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import blox as bx


@pytest.fixture
def mesh():
    return jax.make_mesh((2, 2), ('data', 'model'))


@pytest.fixture
def params():
    net = bx.Graph('net')
    mlp = bx.Sequential(net, [bx.Linear(net / 'up', 8), bx.Linear(net / 'down', 4)])
    return bx.init(mlp, jnp.ones((1, 4)))


def test_rules_place_what_they_match_and_the_rest_is_replicated(mesh, params):
    placed = bx.shard(params, mesh, {'net/up/w': PartitionSpec(None, 'model')})
    up = placed['net/up/w'].value
    assert up.sharding == NamedSharding(mesh, PartitionSpec(None, 'model'))
    assert up.addressable_shards[0].data.shape == (4, 4)
    assert placed['net/down/w'].value.sharding.is_fully_replicated
    assert placed['rng'].value[1].sharding.is_fully_replicated
    assert placed._structure is params._structure


def test_a_rule_for_everything_leaves_the_rng_replicated(mesh):
    params = bx.init(bx.Linear(bx.Graph('up'), 8, use_bias=False), jnp.ones((1, 4)))
    placed = bx.shard(params, mesh, {'**': PartitionSpec('model')})
    assert placed['up/w'].value.sharding.spec == PartitionSpec('model')
    assert all(leaf.sharding.is_fully_replicated for leaf in placed['rng'].value)


def test_the_first_matching_rule_decides(mesh, params):
    rules = {'net/up/w': PartitionSpec('model'), '**/w': PartitionSpec(None, 'data')}
    found = bx.shardings(params, mesh, rules)
    assert found['net/up/w'].value.spec == PartitionSpec('model')
    assert found['net/down/w'].value.spec == PartitionSpec(None, 'data')


def test_shardings_fit_jit(mesh, params):
    rules = {'net/up/w': PartitionSpec(None, ('data', 'model'))}
    double = jax.jit(
        lambda p: jax.tree.map(lambda x: x + x, p.split_trainable()[0]),
        in_shardings=(bx.shardings(params, mesh, rules),),
    )
    assert double(params)['net/up/w'].value.shape == (4, 8)


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ({'net/side/w': PartitionSpec('model')}, "'net/side/w' matches none"),
        ({'net/up/b': PartitionSpec(None, 'model')}, "'net/up/b'.*more axes than shape"),
        ({'net/up/w': PartitionSpec('pipe')}, "names 'pipe'; the mesh has"),
        ({'net/up/w': PartitionSpec(('data', 'model', 'data'))}, 'splits an axis of 4 into 8'),
    ],
)
def test_rules_that_do_not_fit_are_refused(mesh, params, rules, message):
    with pytest.raises(ValueError, match=message):
        bx.shard(params, mesh, rules)
