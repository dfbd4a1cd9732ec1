"""BERT: a NumPy reference, padding, what its options do and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from helpers import normal, random_params, table
from reference import below

import blox as bx
from blox.zoo.models.bert import BERTConfig

close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12, strict=True)

SIZES = {
    'vocab_size': 11,
    'context': 8,
    'token_types': 3,
    'width': 12,
    'depth': 2,
    'heads': 3,
    'mlp_dim': 20,
}
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 6))
TYPES = np.random.default_rng(1).integers(0, 3, (3, 6))
LENGTHS = np.array([6, 1, 4])
MASK = np.arange(6) < LENGTHS[:, None]
BATCH = (TOKENS, MASK, TYPES)
POOLS = ('first', 'mean', 'pooler')


def bert(**options):
    """A tiny BERT, and Params for it that are random at every place."""
    model = bx.zoo.create('bert-base', **SIZES | options)
    return model, random_params(lambda params: model(params, jnp.asarray(TOKENS)))


def on_device(*inputs):
    return [jnp.asarray(x) for x in inputs]


def arrays(params):
    """NumPy arrays by the rest of their paths."""
    return {
        path.removeprefix('bert/'): np.asarray(param.value)
        for path, param in params.items()
        if path != 'rng'
    }


# What it computes.


def expected_states(p, config, tokens, mask, types):
    tables = {'token_embed': tokens, 'type_embed': types, 'pos_embed': np.arange(tokens.shape[1])}
    x = sum(reference.embed(below(p, name), ids) for name, ids in tables.items())
    x = reference.layer_norm(below(p, 'norm'), x, config.norm_eps)
    for i in range(config.depth):
        b = below(p, f'block{i}')
        y = reference.attention(below(b, 'attn'), x, config.heads, mask=mask[:, None, None])
        x = reference.layer_norm(below(b, 'norm1'), x + y, config.norm_eps)
        y = reference.mlp(below(b, 'mlp'), x, config.activation)
        x = reference.layer_norm(below(b, 'norm2'), x + y, config.norm_eps)
    return x


def expected_outputs(p, config, tokens, mask, types):
    """[states, the pooler's output if there is one, embeddings]."""
    x = expected_states(p, config, tokens, mask, types)
    pooled = [np.tanh(reference.linear(below(p, 'pooler'), x[:, 0]))] if config.pooler else []
    embedding = {
        'first': x[:, 0],
        'mean': np.stack([row[kept].mean(0) for row, kept in zip(x, mask)]),
        'pooler': pooled[0] if pooled else None,
    }[config.pool]
    if config.normalize:
        embedding = embedding / np.sqrt((embedding**2).sum(1, keepdims=True))
    return [x, *pooled, embedding]


OPTIONS = {
    'first token': {},
    'mean': {'pool': 'mean'},
    'pooler': {'pool': 'pooler'},
    'no pooler': {'pooler': False},
    'mean, normalized': {'pool': 'mean', 'normalize': True},
    'pooler, normalized': {'pool': 'pooler', 'normalize': True},
    'tanh gelu': {'activation': 'gelu_tanh'},
    'large eps': {'norm_eps': 0.1},
}


@pytest.mark.usefixtures('x64')
@table(OPTIONS)
def test_it_agrees_with_a_plain_reference(row):
    model, params = bert(**row)
    outputs, after = jax.jit(model)(params, *BATCH)
    expected = expected_outputs(arrays(params), model.config, *BATCH)
    found = jax.tree.leaves(outputs)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        close(ours, theirs)
    assert jax.tree.structure(after) == jax.tree.structure(params)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('pool', POOLS)
def test_its_derivatives_agree_with_a_plain_reference(pool):
    model, params = bert(pool=pool, normalize=True)
    params, rest = params.partition(lambda path, _: path != 'rng')
    directions = [normal(*param.shape, seed=7) for param in params.values()]
    names, structure = list(arrays(params)), jax.tree.structure(params)

    def compute(params):
        return model(params.merge(rest), *on_device(*BATCH))[0].embedding

    def compute_expected(*point):
        outputs = expected_outputs(dict(zip(names, point)), model.config, *BATCH)
        return [outputs[-1]]

    found = jax.jit(lambda p, v: jax.jvp(compute, (p,), (v,))[1])(
        params, structure.unflatten(directions)
    )
    point = list(arrays(params).values())
    close(found, reference.derivative(compute_expected, point, directions)[0])


@pytest.mark.usefixtures('x64')
def test_gradients_backward_equal_those_forward():
    model, params = bert(pool='mean', normalize=True)
    params, rest = params.partition(lambda path, _: path != 'rng')
    direction = jax.tree.map(lambda x: jnp.asarray(normal(*x.shape, seed=7)), params)

    def loss(params):
        outputs, _ = model(params.merge(rest), *on_device(*BATCH))
        return sum(jnp.sin(x).sum() for x in outputs)

    gradient = jax.jit(jax.grad(loss))(params)
    forward = jax.jit(lambda p, v: jax.jvp(loss, (p,), (v,))[1])(params, direction)
    products = jax.tree.map(lambda g, v: (g * v).sum(), gradient, direction)
    close(sum(jax.tree.leaves(products)), forward)


@pytest.mark.usefixtures('x64')
def test_one_sequence_at_a_time_under_vmap_gives_the_batch():
    model, params = bert(pool='mean')
    expected, _ = jax.jit(model)(params, *BATCH)

    def one(tokens, mask, types):
        outputs, _ = model(params, tokens[None], mask[None], types[None])
        return jax.tree.map(lambda x: x[0], outputs)

    found = jax.jit(jax.vmap(one))(TOKENS, MASK, TYPES)
    for ours, theirs in zip(found, expected):
        close(ours, theirs)


# Masks and types.


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('pool', POOLS)
def test_padding_does_not_change_the_embedding_of_a_sentence(pool):
    model, params = bert(pool=pool, normalize=True)
    batch, _ = jax.jit(model)(params, *BATCH)
    for i, n in enumerate(LENGTHS):
        alone, _ = jax.jit(model)(params, TOKENS[i : i + 1, :n], None, TYPES[i : i + 1, :n])
        close(batch.embedding[i], alone.embedding[0])
        close(batch.tokens[i, :n], alone.tokens[0])


@pytest.mark.usefixtures('x64')
def test_what_the_padding_holds_does_not_matter():
    model, params = bert(pool='mean')
    others = np.where(MASK, TOKENS, (TOKENS + 1) % 11)
    first, second = (jax.jit(model)(params, t, MASK)[0].embedding for t in (TOKENS, others))
    unmasked = jax.jit(model)(params, others)[0].embedding
    assert np.array_equal(first, second)
    assert np.abs(first - unmasked)[LENGTHS < 6].max() > 0.01


@pytest.mark.parametrize(
    ('given', 'meant'),
    [
        ({'mask': MASK.astype(np.int32)}, {'mask': MASK}),
        ({}, {'mask': np.ones_like(MASK)}),
        ({}, {'types': np.zeros_like(TYPES)}),
    ],
    ids=['a mask of integers', 'no mask', 'no types'],
)
def test_it_means_the_same_to_give(given, meant):
    model, params = bert(pool='mean')
    found, expected = (jax.jit(model)(params, TOKENS, **kw)[0] for kw in (given, meant))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected))


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('pool', POOLS)
def test_a_normalized_embedding_has_length_one(pool):
    (model, params), (plain, _) = bert(pool=pool, normalize=True), bert(pool=pool)
    found, before = (jax.jit(m)(params, TOKENS, MASK)[0].embedding for m in (model, plain))
    lengths = np.sqrt(np.square(before).sum(1, keepdims=True))
    close(np.square(found).sum(1), np.ones(3))
    close(found * lengths, before)
    assert np.abs(lengths - 1).min() > 0.1


def test_a_sequence_of_padding_alone_does_no_harm():
    model, params = bert(pool='mean', normalize=True)
    trainable, rest = params.cast(jnp.float32).split_trainable()

    def loss(trainable):
        outputs, _ = model(trainable.merge(rest), *on_device(TOKENS, np.zeros_like(MASK)))
        return outputs.embedding.sum(), outputs.embedding

    gradients, embedding = jax.jit(jax.grad(loss, has_aux=True))(trainable)
    assert not embedding.any()
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


# Shapes and refusals.


def test_its_outputs_have_these_shapes():
    model, params = bert()
    outputs, _ = jax.jit(model)(params, TOKENS)
    assert [x.shape for x in outputs] == [(3, 6, 12), (3, 12), (3, 12)]


def test_without_a_pooler_it_has_no_such_output_nor_parameters():
    model, params = bert(pooler=False)
    assert jax.jit(model)(params, TOKENS)[0].pooled is None
    assert set(bert()[1]) - set(params) == {'bert/pooler/b', 'bert/pooler/w'}


@pytest.mark.parametrize('name', ['minilm-l6', 'minilm-l12'])
def test_minilm_embeds_by_the_normalized_mean(name):
    config = bx.zoo.card(name).config
    assert isinstance(config, BERTConfig)
    assert (config.pool, config.normalize, config.pooler) == ('mean', True, True)


@pytest.mark.parametrize('length', [0, 9])
def test_sequences_longer_than_the_context_and_empty_ones_are_refused(length):
    model, params = bert()
    with pytest.raises(ValueError, match=f"'bert' sees 1 to 8 tokens, found {length}"):
        model(params, jnp.zeros((1, length), int))


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize(
    ('inputs', 'message'),
    [
        ({'mask': MASK[:1]}, r'expects mask .* \(3, 6\), found bool of \(1, 6\)'),
        ({'mask': MASK[:, :4]}, r'expects mask .* \(3, 6\), found bool of \(3, 4\)'),
        ({'mask': MASK.astype('float32')}, r'expects mask of integers .*, found float32'),
        ({'types': TYPES[0]}, r'expects types .* \(3, 6\), found int64 of \(6,\)'),
        ({'types': TYPES.astype('float32')}, r'expects types of integers .*, found float32'),
    ],
    ids=['one row', 'too short', 'floats', 'types of one sequence', 'types in floats'],
)
def test_masks_and_types_unlike_the_tokens_are_refused(inputs, message):
    model, params = bert()
    with pytest.raises(ValueError, match=message):
        model(params, TOKENS, **inputs)


@pytest.mark.parametrize(
    ('tokens', 'types'), [(TOKENS * 0 - 1, None), (TOKENS * 0 + 11, None), (TOKENS, TYPES * 0 + 3)]
)
def test_ids_outside_a_table_give_nan(tokens, types):
    model, params = bert()
    outputs, _ = jax.jit(model)(params, tokens, None, types)
    assert np.isnan(outputs.embedding).all()
