"""Drawing in pieces: the very bits of a program for each shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blox as bx
from blox.drawing import PIECE, draw_pieces, draws_pieces
from blox.initialization import Request, init_part
from blox.layers.initializers import (
    Constant,
    LecunNormal,
    Normal,
    Ones,
    TruncatedNormal,
    VarianceScaling,
    Zeros,
)
from blox.params import fold_path, path_words

INITIALIZERS = [
    Zeros(),
    Ones(),
    Constant(1e-3),
    Normal(0.02),
    TruncatedNormal(0.02),
    LecunNormal(),
    VarianceScaling(2.0, 'fan_out', 'normal'),
    VarianceScaling(1 / 3, 'fan_in', 'uniform'),
    VarianceScaling(1.0, 'fan_avg', 'truncated_normal'),
]
# Less than a piece, and two with a rest.
SHAPES = [(3, 3, 5, 16), (2 * PIECE // 100, 101)]
PATH = 'net/w'


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_pieces_have_the_bits_of_a_program_for_the_shape(shape):
    key, requests = jax.random.key(5), [Request(i, shape, jnp.float32) for i in INITIALIZERS]
    recipes = [recipe for request in requests if (recipe := request.recipe())]
    assert len(recipes) == len(requests)
    words = np.stack([path_words(PATH)] * len(recipes))
    found = draw_pieces(key, words, recipes, [shape] * len(recipes))

    for request, a in zip(requests, found):
        b = jax.jit(request.draw)(fold_path(key, path_words(PATH)))
        assert (a.shape, a.dtype, a.committed) == (b.shape, b.dtype, b.committed)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), request.initializer


@pytest.mark.parametrize(
    ('initializer', 'shape', 'dtype'),
    [
        (Normal(1.0), (64, 4), jnp.float32),  # XLA rounds short rows in a way of its own.
        (Normal(1.0), (), jnp.float32),
        (Normal(1.0), (64, 64), jnp.bfloat16),
        (LecunNormal(), (64,), jnp.float32),
        (jax.nn.initializers.normal(), (64, 64), jnp.float32),
    ],
    ids=['short rows', 'scalar', 'half precision', 'refused', 'of unknown making'],
)
def test_what_pieces_would_not_get_right_has_no_recipe(initializer, shape, dtype):
    assert Request(initializer, shape, dtype).recipe() is None


def test_pieces_are_for_concrete_keys_of_the_hash_that_they_know():
    key = jax.random.key(0)
    assert draws_pieces(key)
    assert draws_pieces(jax.random.PRNGKey(0))
    assert not draws_pieces(jax.random.key(0, impl='rbg'))
    with jax.threefry_partitionable(False):
        assert not draws_pieces(key)
    seen = []
    jax.jit(lambda other: seen.extend(map(draws_pieces, (other, key))))(key)
    assert seen == [False, False]


def test_values_are_where_the_key_is():
    key = jax.device_put(jax.random.key(0), jax.devices()[-1])
    params = bx.init(bx.Linear(bx.Graph('net'), 8), jnp.ones((1, 2)), seed=key)
    assert params['net/w'].value.devices() == key.devices()


@pytest.mark.parametrize('changes', [False, True])
def test_a_part_of_init_has_the_values_of_the_whole(changes):
    def start(params, x):
        x, params = model(params, x)
        return x, params.set('net/0/w', 2 * params['net/0/w'].value) if changes else params

    net, x = bx.Graph('net'), jnp.ones((1, 16))
    model = bx.Sequential(net, [bx.Linear(net / f'{i}', 16) for i in range(3)])
    whole = bx.init(start, x, seed=3).partition('net/0/*')[0]
    part = init_part('net/0/*', start, x, seed=3)
    assert jax.tree.structure(part) == jax.tree.structure(whole)
    for path, param in whole.items():
        assert jnp.array_equal(part[path].value, param.value)


def bent(initializer, **fields):
    """An initializer with what its annotations do not allow, as users may give it."""
    for name, value in fields.items():
        object.__setattr__(initializer, name, value)
    return initializer


def first_weights(initializer):
    layer = bx.Linear(bx.Graph('net'), 16, w_init=initializer)
    return bx.init(layer, jnp.ones((1, 2)))['net/w'].value


def test_constants_of_several_numbers_and_bad_choices_go_the_former_way():
    w = first_weights(bent(Constant(0.0), value=np.arange(16.0)))
    np.testing.assert_array_equal(w, np.broadcast_to(np.arange(16.0), (2, 16)))
    with pytest.raises(ValueError, match='invalid mode'):
        first_weights(bent(VarianceScaling(1.0, 'fan_in', 'normal'), mode='fan'))
    assert np.signbit(first_weights(Constant(-0.0))).all()
