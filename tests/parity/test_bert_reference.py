"""Our BERT against transformers: the same weights give the same states, embeddings and gradients.

Everything is in float64 with large random weights, where any wrong choice shows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import randomized, torch, transformers

import blox as bx
from blox.zoo.models import families

pytestmark = pytest.mark.usefixtures('x64')
RNG = np.random.default_rng(0)

SIZES = {'vocab_size': 50, 'context': 24, 'width': 32, 'depth': 3, 'heads': 4, 'mlp_dim': 48}
LENGTHS = np.array([13, 1, 7, 12])
MASK = np.arange(13) < LENGTHS[:, None]
# Not 0, the reference's padding, whose row of the table gets no gradient there.
TOKENS = RNG.integers(1, 50, MASK.shape)
TYPES = RNG.integers(0, 2, MASK.shape)

TABLES = {'token_embed': 'word', 'pos_embed': 'position', 'type_embed': 'token_type'}
NAMES = {
    'attn/proj': 'attention.output.dense',
    'norm1': 'attention.output.LayerNorm',
    'mlp/fc1': 'intermediate.dense',
    'mlp/fc2': 'output.dense',
    'norm2': 'output.LayerNorm',
}


def arrays(reference):
    return {name: value.numpy() for name, value in reference.state_dict().items()}


def ours(config, entries):
    """Our model of `config`, and Params that hold `entries` where it expects them."""
    model = families()['bert'].build(config)
    params = bx.spec(model, *model.example_inputs()).partition('rng')[1]
    values = dict(entries)
    assert set(values) == set(params)
    for path, value in values.items():
        params = params.set(path, jnp.asarray(value, jnp.float64), strict=False)
    return model, params


def entries(state, depth):
    """transformers.BertModel's values by our paths."""
    for our_name, their_name in TABLES.items():
        yield f'bert/{our_name}/w', state[f'embeddings.{their_name}_embeddings.weight']
    yield from pair(state, 'bert/norm', 'embeddings.LayerNorm')
    for i in range(depth):
        block, theirs = f'bert/block{i}', f'encoder.layer.{i}'
        parts = [f'{theirs}.attention.self.{name}' for name in ('query', 'key', 'value')]
        yield (
            f'{block}/attn/qkv/w',
            np.concatenate([state[f'{part}.weight'].T for part in parts], 1),
        )
        yield f'{block}/attn/qkv/b', np.concatenate([state[f'{part}.bias'] for part in parts])
        for our_name, their_name in NAMES.items():
            yield from pair(state, f'{block}/{our_name}', f'{theirs}.{their_name}')
    if 'pooler.dense.weight' in state:
        yield from pair(state, 'bert/pooler', 'pooler.dense')


def pair(state, place, theirs):
    """The two parameters of a norm or of a dense layer."""
    weight, bias = (state[f'{theirs}.{name}'] for name in ('weight', 'bias'))
    names = ('scale', 'offset') if weight.ndim == 1 else ('w', 'b')
    return zip((f'{place}/{name}' for name in names), (weight.T, bias))


def models(theirs, field):
    """A reference of transformers, ours, and Params with its weights."""
    config = families()['bert'].override(bx.zoo.card('bert-base').config, SIZES | field)
    their_config = transformers.BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp_dim,
        max_position_embeddings=config.context,
        **theirs,
    )
    reference = transformers.BertModel(their_config, add_pooling_layer=config.pooler)
    reference = randomized(reference).double()
    return reference, *ours(config, entries(arrays(reference), config.depth))


def embedding(outputs, mask, config):
    """The sentence embedding of the reference's outputs, as sentence-transformers makes it."""
    states = outputs.last_hidden_state
    if config.pool == 'mean':
        weights = mask[..., None].to(states.dtype)
        found = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    else:
        found = states[:, 0] if config.pool == 'first' else outputs.pooler_output
    return torch.nn.functional.normalize(found) if config.normalize else found


def expected_outputs(reference, config):
    """[states, the pooler's output if there is one, embeddings]."""
    tokens, mask, types = (torch.tensor(x) for x in (TOKENS, MASK, TYPES))
    outputs = reference(tokens, attention_mask=mask.long(), token_type_ids=types)
    pooled = [outputs.pooler_output] if config.pooler else []
    return [outputs.last_hidden_state, *pooled, embedding(outputs, mask, config)]


def close(found, expected):
    """Equal to 1e-12 of the largest value."""
    scale = max(np.abs(expected).max(), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * scale, strict=True)


OPTIONS = [
    ({}, {}),
    ({}, {'pooler': False}),
    ({}, {'pool': 'pooler'}),
    ({}, {'pool': 'mean', 'normalize': True}),
    ({}, {'pool': 'mean', 'pooler': False, 'heads': 8, 'mlp_dim': 128}),
    ({'hidden_act': 'gelu_new'}, {'activation': 'gelu_tanh'}),
    ({'hidden_act': 'relu'}, {'activation': 'relu', 'normalize': True}),
    ({'layer_norm_eps': 1e-2}, {'norm_eps': 1e-2}),
    ({'type_vocab_size': 3}, {'token_types': 3}),
]


@pytest.mark.parametrize(('theirs', 'field'), OPTIONS, ids=str)
def test_bert_equals_transformers(theirs, field):
    reference, model, params = models(theirs, field)
    outputs, _ = jax.jit(model)(params, TOKENS, MASK, TYPES)
    expected = expected_outputs(reference, model.config)
    found = jax.tree.leaves(outputs)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert np.abs(b.detach().numpy()).max() > 0.1
        close(a, b.detach().numpy())


def test_bert_without_mask_and_types_equals_transformers():
    reference, model, params = models({}, {'pool': 'mean'})
    outputs, _ = jax.jit(model)(params, TOKENS)
    theirs = reference(torch.tensor(TOKENS))
    close(outputs.tokens, theirs.last_hidden_state.detach().numpy())
    close(outputs.pooled, theirs.pooler_output.detach().numpy())
    close(outputs.embedding, theirs.last_hidden_state.mean(1).detach().numpy())


@pytest.mark.parametrize(('theirs', 'field'), OPTIONS, ids=str)
def test_gradients_of_bert_equal_transformers(theirs, field):
    reference, model, params = models(theirs, field)
    expected = expected_outputs(reference, model.config)
    weights = [RNG.normal(size=tuple(x.shape)) for x in expected]
    torch.autograd.backward(expected, [torch.tensor(w) for w in weights])
    gradients = {name: p.grad.numpy() for name, p in reference.named_parameters()}

    def loss(params):
        outputs, _ = model(params, *(jnp.asarray(x) for x in (TOKENS, MASK, TYPES)))
        return sum((x * w).sum() for x, w in zip(jax.tree.leaves(outputs), weights))

    found = jax.jit(jax.grad(loss))(params)
    assert set(found) == set(params)
    for path, gradient in entries(gradients, model.config.depth):
        assert np.abs(gradient).max() > 1e-3, path
        close(found[path].value, gradient)
