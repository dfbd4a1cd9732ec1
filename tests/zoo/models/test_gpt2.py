"""GPT-2: causal attention, generation step by step, and how its parts are scaled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import tiny
from small_models import forward, model_of, random_params

import blox as bx


def gpt2(**fields):
    return model_of(tiny('gpt2', **{'context': 8, 'width': 48, 'heads': 12, **fields}))


def gpt2_in_float64(**overrides):
    model = gpt2(context=16, **overrides)
    return model, random_params(model.config, jnp.float64)


def some_tokens(batch=2, length=12):
    return jnp.asarray(np.random.default_rng(3).integers(0, 11, (batch, length)), jnp.int32)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('place', [1, 6, 11])
def test_gpt2_does_not_look_ahead(place):
    model, params = gpt2_in_float64()
    tokens = some_tokens()
    changed = tokens.at[:, place].set((tokens[:, place] + 1) % 11)
    before, after = (forward(model.config)(params, t)[0] for t in (tokens, changed))
    np.testing.assert_allclose(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
    assert (np.abs(after - before)[:, place:].max((0, 2)) > 1e-6).all()


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
    ('chunks', 'options'),
    [
        ((12,), {}),
        ((1,) * 12, {}),
        ((4, 1, 4, 3), {}),
        ((4, 4, 4), {'tied_head': False}),
        ((4, 4, 4), {'scale_attention': False}),
        ((4, 4, 4), {'scale_attention_by_depth': True}),
    ],
    ids=str,
)
def test_gpt2_step_by_step_equals_all_at_once(chunks, options):
    model, params = gpt2_in_float64(**options)
    tokens = some_tokens()
    expected, _ = forward(model.config)(params, tokens)
    state, step, start, found = model.initial_state(2, 12, jnp.float64), jax.jit(model.step), 0, []
    for size in chunks:
        (logits, state), _ = step(params, tokens[:, start : start + size], state)
        found.append(logits)
        start += size
    np.testing.assert_allclose(np.concatenate(found, 1), expected, rtol=0, atol=1e-12)
    assert state.position.tolist() == [12, 12]


@pytest.mark.usefixtures('x64')
def test_gpt2_advances_to_the_states_that_its_logits_are_made_of():
    model, params = gpt2_in_float64()
    tokens, state = some_tokens(), model.initial_state(2, 12, jnp.float64)
    (expected, after), _ = jax.jit(model.step)(params, tokens, state)
    (x, advanced), _ = jax.jit(model.advance)(params, tokens, state)
    found, _ = model.logits(params, x[:, -1:])
    np.testing.assert_allclose(found, expected[:, -1:], rtol=0, atol=1e-12)
    assert advanced.position.tolist() == after.position.tolist()


def step_unevenly(model, params, tokens, advances, room):
    """Each row's logits, where row i goes on by `advances[n][i]` tokens in step n."""
    state, step = model.initial_state(len(tokens), room, jnp.float64), jax.jit(model.step)
    positions, found = np.zeros(len(tokens), int), [[] for _ in tokens]
    for lengths in advances:
        padded = np.full((len(tokens), max(lengths)), 7, np.int32)
        for i, n in enumerate(lengths):
            padded[i, :n] = tokens[i, positions[i] : positions[i] + n]
        (logits, state), _ = step(params, jnp.asarray(padded), state, jnp.asarray(lengths, 'int32'))
        for i, n in enumerate(lengths):
            found[i].append(logits[i, :n])
        positions += np.asarray(lengths)
    return [np.concatenate(rows) for rows in found]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('room', [16, 12], ids=['room to spare', 'room for the tokens alone'])
@pytest.mark.parametrize(
    'advances',
    [[(5, 2), (3, 6), (0, 1), (4, 3)], [(7, 1), (4, 4), (1, 7)]],
    ids=['growing and idle', 'padded to the end'],
)
def test_gpt2_steps_by_uneven_lengths(advances, room):
    model, params = gpt2_in_float64()
    tokens = some_tokens()
    expected, _ = forward(model.config)(params, tokens)
    found = step_unevenly(model, params, np.asarray(tokens), advances, room)
    for row, whole in zip(found, expected):
        np.testing.assert_allclose(row, whole[: len(row)], rtol=0, atol=1e-12)


@pytest.mark.parametrize('chunks', [(6, 1, 1), (4, 4), (8,), (5, 2, 1)])
def test_gpt2_past_its_room_gives_nan(chunks):
    model = gpt2()
    params, state, found = random_params(model.config), model.initial_state(2, 6), []
    step = jax.jit(model.step)
    for size in chunks:
        (logits, state), _ = step(params, jnp.zeros((2, size), jnp.int32), state)
        found.append(logits)
    assert np.isnan(np.concatenate(found, 1)[:, 6:]).all()


def test_gpt2_has_room_for_its_context_by_default():
    model = gpt2()
    assert model.initial_state(3).caches[0].room == 8


def test_gpt2_refuses_more_tokens_than_its_context():
    model = gpt2()
    with pytest.raises(ValueError, match="'gpt2' sees 1 to 8 tokens, found 9"):
        forward(model.config)(random_params(model.config), jnp.zeros((1, 9), jnp.int32))


@pytest.mark.parametrize('token', [-1, 11])
def test_gpt2_gives_nan_for_ids_outside_its_vocabulary(token):
    model = gpt2()
    logits, _ = forward(model.config)(
        random_params(model.config), jnp.full((1, 1), token, jnp.int32)
    )
    assert np.isnan(logits).all()


def test_gpt2_heads_differ_in_one_matrix():
    tied, own = (random_params(gpt2(tied_head=tied).config) for tied in (True, False))
    assert set(own) - set(tied) == {'gpt2/head/w'}
    assert own['gpt2/head/w'].shape == (48, 11)


# How its parts are scaled.


@pytest.mark.usefixtures('x64')
def test_gpt2_scales_the_attention_of_block_i_by_i_plus_1():
    scaled, plain = (gpt2(depth=3, scale_attention_by_depth=flag) for flag in (True, False))
    params = random_params(scaled.config, jnp.float64)
    same = params
    for i in range(3):
        for name in ('w', 'b'):
            path = f'gpt2/block{i}/attn/qkv/{name}'
            value = np.array(params[path].value)
            value[..., :48] /= i + 1  # The queries.
            same = same.set(path, jnp.asarray(value))
    tokens = some_tokens(length=8)
    expected, _ = forward(plain.config)(same, tokens)
    found, _ = forward(scaled.config)(params, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_gpt2_starts_smaller_what_adds_to_the_residual_stream():
    model = gpt2(width=96, mlp_dim=96, depth=3)
    params = bx.zoo.init(model)
    for i in range(3):
        for name in ('attn/qkv', 'attn/proj', 'mlp/fc1', 'mlp/fc2'):
            expected = 0.02 / (6**0.5 if name in ('attn/proj', 'mlp/fc2') else 1)
            found = float(params[f'gpt2/block{i}/{name}/w'].value.std())
            assert found == pytest.approx(expected, rel=0.05)
