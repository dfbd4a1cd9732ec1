"""Labels by path pattern, for optimizers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

import blox as bx


@pytest.fixture
def params():
    return bx.Params.from_entries(
        {'net/a/w': jnp.ones((2, 2)), 'net/a/b': jnp.ones(2), 'net/head/w': jnp.ones((2, 3))}
    )


def test_the_first_pattern_that_fits_decides(params):
    found = bx.labels(params, {'**/b': 'none', 'net/head/*': 'head', '**': 'body'})
    assert {path: param.value for path, param in found.items()} == {
        'net/a/b': 'none',
        'net/a/w': 'body',
        'net/head/w': 'head',
    }


def test_an_entry_without_label_is_refused(params):
    with pytest.raises(ValueError, match=r"matches net/a/b: end with '\*\*'"):
        bx.labels(params, {'**/w': 1})
    with pytest.raises(ValueError, match='matches none'):
        bx.labels(params, {'**/c': 1, '**': 2})


def test_the_rng_is_labelled_as_it_is_built():
    found = bx.labels(bx.Params(seed=0), {'**': 'x'})
    assert jax.tree.leaves(found) == ['x', 'x']


def test_optax_takes_them_for_masks_and_groups(params):
    mask = bx.labels(params, {'**/b': False, '**': True})
    groups = bx.labels(params, {'net/head/*': 'fast', '**': 'slow'})
    optimizer = optax.chain(
        optax.add_decayed_weights(1.0, mask=mask),
        optax.multi_transform({'fast': optax.sgd(1.0), 'slow': optax.sgd(0.5)}, groups),
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates: Any
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert {path: float(param.value.max()) for path, param in updates.items()} == {
        'net/a/b': 0.0,
        'net/a/w': -0.5,
        'net/head/w': -1.0,
    }
