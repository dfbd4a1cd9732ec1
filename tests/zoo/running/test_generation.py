"""Generation: greedy and sampled tokens, batches, streams, seeds, and what is compiled when."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blox as bx
from blox.zoo.running import generation
from blox.zoo.running.generation import Sampling, sample

VOCAB, CONTEXT = 13, 64
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11]]


@pytest.fixture(scope='module')
def model():
    sizes = {'vocab_size': VOCAB, 'context': CONTEXT, 'width': 16, 'mlp_dim': 32}
    return bx.zoo.create('gpt2', **sizes, depth=2, heads=2, tied_head=False)


@pytest.fixture(scope='module')
def params(model):
    """Large random weights, so that tokens depend on all that came before."""
    rng = np.random.default_rng(1)
    params = bx.zoo.init(model)
    for path, param in params.partition('**/w')[0].items():
        params = params.set(path, rng.normal(0, 1, param.shape))
    return params


@pytest.fixture(scope='module')
def naive(model, params):
    """Greedy tokens without a cache: the whole text goes through the model for each of them.

    `change` gets the tokens so far and makes other logits.
    """

    @jax.jit
    def next_logits(tokens, length):
        return model(params, tokens[None])[0][0, length - 1]

    def tokens(prompt, count, change=lambda ids, logits: logits):
        ids = list(prompt)
        for _ in range(count):
            padded = np.pad(ids, (0, CONTEXT - len(ids))).astype(np.int32)
            logits = np.array(next_logits(padded, np.int32(len(ids))))
            ids.append(int(change(ids, logits).argmax()))
        return ids[len(prompt) :]

    return tokens


# Greedy tokens.


@pytest.mark.parametrize('prompt', PROMPTS, ids=len)
def test_greedy_equals_a_loop_without_cache(model, params, naive, prompt):
    tokens, lengths = bx.zoo.generate(model, params, [prompt], max_new_tokens=20, temperature=0)
    assert tokens[0].tolist() == naive(prompt, 20)
    assert lengths.tolist() == [20]
    assert tokens.dtype == lengths.dtype == jnp.int32


def test_the_model_under_test_does_not_repeat_itself(naive):
    continuations = [naive(prompt, 20) for prompt in PROMPTS]
    assert all(len(set(tokens)) > 4 for tokens in continuations)
    assert len(set(map(tuple, continuations))) == 3


def test_greedy_goes_to_the_end_of_the_context(model, params, naive):
    prompt = np.random.default_rng(1).integers(0, VOCAB, 33).tolist()
    tokens, _ = bx.zoo.generate(model, params, [prompt], max_new_tokens=31, temperature=0)
    assert tokens[0].tolist() == naive(prompt, 31)


def test_prompts_of_unequal_length_go_in_one_batch(model, params, naive):
    tokens, _ = bx.zoo.generate(model, params, PROMPTS, max_new_tokens=20, temperature=0)
    assert tokens.tolist() == [naive(prompt, 20) for prompt in PROMPTS]


@pytest.mark.parametrize('kind', [np.asarray, jnp.asarray], ids=['numpy', 'jax'])
def test_prompts_are_the_rows_of_an_array(model, params, kind):
    rows = [[1, 2, 3], [4, 5, 6]]
    expected = bx.zoo.generate(model, params, rows, max_new_tokens=4)
    found = bx.zoo.generate(model, params, kind(rows, np.int32), max_new_tokens=4)
    assert found.tokens.tolist() == expected.tokens.tolist()


def test_bfloat16_weights_generate(model, params):
    cast = params.cast(jnp.bfloat16)
    tokens, lengths = bx.zoo.generate(model, cast, PROMPTS, max_new_tokens=20, temperature=0)
    assert lengths.tolist() == [20, 20, 20]
    assert set(tokens.ravel().tolist()) <= set(range(VOCAB))
    state = model.initial_state(1, 4, cast.dtype)
    assert state.caches[0].keys.dtype == jnp.bfloat16


@pytest.mark.usefixtures('x64')
def test_float64_weights_generate(model, params, naive):
    wide = params.cast(jnp.float64)
    tokens, _ = bx.zoo.generate(model, wide, PROMPTS[:1], max_new_tokens=8, temperature=0)
    assert tokens[0].tolist() == naive(PROMPTS[0], 8)


def test_generation_runs_under_jit(model, params, naive):
    @jax.jit
    def both(params):
        tokens, _ = bx.zoo.generate(model, params, PROMPTS[:1], max_new_tokens=5, temperature=0)
        return tokens

    assert both(params)[0].tolist() == naive(PROMPTS[0], 5)


# Stop tokens.


def cut(tokens, stops):
    """The tokens up to the first stop token, which stays."""
    ends = [i for i, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens


def test_a_sequence_ends_with_its_first_stop_token(model, params, naive):
    whole = [naive(prompt, 20) for prompt in PROMPTS]
    stop = next(t for t in range(VOCAB) if len({len(cut(row, [t])) for row in whole}) > 1)
    expected = [cut(row, [stop, VOCAB]) for row in whole]
    options = {'max_new_tokens': 20, 'temperature': 0, 'stop_tokens': [stop, VOCAB]}
    tokens, lengths = bx.zoo.generate(model, params, PROMPTS, **options)
    assert lengths.tolist() == [len(row) for row in expected]
    assert tokens.tolist() == [row + [0] * (20 - len(row)) for row in expected]


def test_all_sequences_may_end_at_once(model, params, naive):
    first = naive(PROMPTS[0], 1)
    prompts, options = [PROMPTS[0]] * 2, {'max_new_tokens': 20, 'stop_tokens': first}
    tokens, lengths = bx.zoo.generate(model, params, prompts, temperature=0, **options)
    assert lengths.tolist() == [1, 1]
    assert tokens.tolist() == [first + [0] * 19] * 2


def test_a_stop_token_in_the_prompt_ends_nothing(model, params, naive):
    prompt = list(range(VOCAB))
    expected = naive(prompt, 6)
    stops = [token for token in prompt if token not in expected]
    options = {'max_new_tokens': 6, 'temperature': 0, 'stop_tokens': stops}
    tokens, _ = bx.zoo.generate(model, params, [prompt], **options)
    assert tokens[0].tolist() == expected


# Streams and seeds.

SAMPLED = {'max_new_tokens': 24, 'temperature': 1.5, 'top_k': 9, 'top_p': 0.95}


@pytest.mark.parametrize('stops', [(), (0, 1, 2)], ids=['no stop token', 'stop tokens'])
@pytest.mark.parametrize('seed', [0, 5])
def test_stream_yields_what_generate_returns(model, params, seed, stops):
    options = SAMPLED | {'seed': seed, 'stop_tokens': stops}
    tokens, lengths = bx.zoo.generate(model, params, [PROMPTS[0]], **options)
    streamed = list(bx.zoo.stream(model, params, PROMPTS[0], **options))
    assert streamed == tokens[0, : lengths[0]].tolist()
    assert all(type(token) is int for token in streamed)


def test_stream_comes_token_by_token(model, params):
    tokens = bx.zoo.stream(model, params, PROMPTS[0], **SAMPLED)
    assert [next(tokens) for _ in range(3)] == list(
        bx.zoo.stream(model, params, PROMPTS[0], **SAMPLED)
    )[:3]


def test_the_seed_decides_the_tokens(model, params):
    def tokens(seed):
        return bx.zoo.generate(model, params, PROMPTS, **SAMPLED, seed=seed).tokens.tolist()

    assert tokens(3) == tokens(3) == tokens(jax.random.key(3))
    assert tokens(3) != tokens(4)


def test_equal_prompts_in_a_batch_go_their_own_ways(model, params):
    tokens = bx.zoo.generate(model, params, [PROMPTS[0]] * 4, **SAMPLED).tokens.tolist()
    assert len(set(map(tuple, tokens))) == 4


def test_the_rng_of_the_params_has_no_say(model, params):
    moved = params.next_key()[1]
    before, after = (bx.zoo.generate(model, p, PROMPTS, **SAMPLED) for p in (params, moved))
    assert np.array_equal(before.tokens, after.tokens)


# What restrains the choice.


@pytest.mark.parametrize('penalty', [1.5, 0.5])
def test_tokens_that_were_there_are_penalized(model, params, naive, penalty):
    def change(ids, logits):
        own = logits[[*{*ids}]]
        logits[[*{*ids}]] = np.where(own > 0, own / penalty, own * penalty)
        return logits

    options = {'max_new_tokens': 9, 'temperature': 0, 'repetition_penalty': penalty}
    tokens, _ = bx.zoo.generate(model, params, PROMPTS, **options)
    expected = [naive(prompt, 9, change) for prompt in PROMPTS]
    assert tokens.tolist() == expected
    assert expected != [naive(prompt, 9) for prompt in PROMPTS]
    assert list(bx.zoo.stream(model, params, PROMPTS[2], **options)) == expected[2]


def test_no_sequence_ends_before_it_is_long_enough(model, params, naive):
    plain = naive(PROMPTS[2], 20)
    # The first token that was not there before, after some.
    place = next(i for i, token in enumerate(plain) if i > 2 and token not in plain[:i])
    options = {'max_new_tokens': 20, 'temperature': 0, 'stop_tokens': [plain[place]]}
    for least in (0, place):
        found = bx.zoo.generate(model, params, PROMPTS[2:], min_new_tokens=least, **options)
        assert found.lengths.tolist() == [place + 1]

    def change(ids, logits):
        if len(ids) - len(PROMPTS[2]) <= place:
            logits[plain[place]] = -np.inf
        return logits

    found = bx.zoo.generate(model, params, PROMPTS[2:], min_new_tokens=place + 1, **options)
    expected = naive(PROMPTS[2], 20, change)
    assert found.lengths[0] > place + 1
    assert found.tokens[0, : found.lengths[0]].tolist() == expected[: found.lengths[0]]


def test_a_process_sees_the_tokens_so_far_and_changes_the_logits(model, params, naive):
    def process(tokens, lengths, logits):
        """Rule out the last two tokens."""
        rows = jnp.arange(len(tokens))
        for back in (1, 2):
            last = jnp.take_along_axis(tokens, lengths[:, None] - back, 1)[:, 0]
            last = jnp.where(lengths >= back, last, VOCAB)
            logits = logits.at[rows, last].set(-jnp.inf, mode='drop')
        return logits

    def change(ids, logits):
        logits[ids[-2:]] = -np.inf
        return logits

    options = {'max_new_tokens': 8, 'temperature': 0, 'process': process}
    tokens, _ = bx.zoo.generate(model, params, PROMPTS, **options)
    expected = [naive(prompt, 8, change) for prompt in PROMPTS]
    assert tokens.tolist() == expected
    assert list(bx.zoo.stream(model, params, PROMPTS[1], **options)) == expected[1]


def test_several_sequences_of_a_prompt_lie_one_after_another(model, params, naive):
    found = bx.zoo.generate(
        model, params, PROMPTS, max_new_tokens=5, temperature=0, num_return_sequences=2
    )
    assert found.tokens.tolist() == [naive(p, 5) for p in PROMPTS for _ in range(2)]
    drawn = bx.zoo.generate(
        model, params, PROMPTS[:1], max_new_tokens=20, temperature=2.0, num_return_sequences=3
    )
    assert len({tuple(row) for row in drawn.tokens.tolist()}) == 3


def test_text_leads_to_the_tokenizer(model, params):
    prompts: Any
    for prompts in ('a text', ['a text']):
        with pytest.raises(TypeError, match=r'found text: bx.zoo.tokenizer\(NAME\).encode'):
            bx.zoo.generate(model, params, prompts)


# What is computed.


def test_the_head_reads_one_state_of_each_prompt(model, params):
    tokens, lengths = jnp.ones((2, 16), jnp.int32), jnp.full(2, 3, jnp.int32)
    sampling = generation._sampling(model.config, 0.0, 0, 1.0, ())
    program = jax.make_jaxpr(generation._begin, static_argnums=(0, 6))(
        model, params, tokens, lengths, sampling, jax.random.key(0), 4
    )
    assert f'f32[2,1,{VOCAB}]' in str(program)
    assert f'f32[2,16,{VOCAB}]' not in str(program)


def test_no_step_is_taken_after_the_last_token(model, params, monkeypatch):
    taken = []
    advance = generation._advance
    monkeypatch.setattr(generation, '_advance', lambda *args: taken.append(1) or advance(*args))
    assert len(list(bx.zoo.stream(model, params, PROMPTS[0], max_new_tokens=5))) == 5
    assert len(taken) == 4


def test_steps_of_a_stream_write_the_caches_where_they_are(model, params):
    tokens, lengths = jnp.ones((1, 16), jnp.int32), jnp.ones(1, jnp.int32)
    sampling, key = generation._sampling(model.config, 0.0, 0, 1.0, ()), jax.random.key(0)
    chosen, state = generation._begin(model, params, tokens, lengths, sampling, key, 4)
    generation._advance(model, params, chosen, state, sampling, key)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.caches))


# Sampling.

DISTINCT = [2.0, -1.0, 0.5, 1.5, 0.0, -0.5, 1.0]
TIED = [1.0, 2.0, 1.0, 0.0, 1.0, 2.0, 0.0]
FLAT = [0.0] * 7
CUTS = [
    {},
    {'top_k': 1},
    {'top_k': 3},
    {'top_k': 7},
    {'top_k': 100},
    {'top_p': 0.3},
    {'top_p': 0.7},
    {'top_p': 0.95},
    {'top_p': 1e-6},
    {'top_k': 4, 'top_p': 0.6},
    {'top_k': 2, 'top_p': 0.99},
    {'temperature': 0.5},
    {'temperature': 0.5, 'top_p': 0.8},
    {'temperature': 3.0, 'top_p': 0.8},
    {'temperature': 3.0, 'top_k': 5, 'top_p': 0.9},
]


def reference(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Each token's probability: 0 unless its logit is at least the last admitted one's."""
    scaled = np.asarray(logits, np.float64) / temperature
    ranked = np.sort(scaled)[::-1][: top_k or None]
    sums = np.cumsum(np.exp(ranked) / np.exp(ranked).sum())
    last = ranked[min(np.sum(sums < top_p), len(ranked) - 1)]
    weights = np.where(scaled >= last, np.exp(scaled), 0)
    return weights / weights.sum()


def frequencies(logits, count=8000, temperature=1.0, top_k=0, top_p=1.0):
    sampling = Sampling(
        *(jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p), jnp.zeros(0, jnp.int32)),
        *(jnp.float32(1), jnp.int32(0)),
    )
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits)))
    drawn = jax.jit(sample)(rows, sampling, jax.random.key(0))
    return np.bincount(drawn, minlength=len(logits)) / count


@pytest.mark.parametrize('options', CUTS, ids=str)
@pytest.mark.parametrize('logits', [DISTINCT, TIED, FLAT], ids=['distinct', 'tied', 'flat'])
def test_samples_follow_the_reference(logits, options):
    expected, found = reference(logits, **options), frequencies(logits, **options)
    assert set(np.flatnonzero(found)) == set(np.flatnonzero(expected))
    np.testing.assert_allclose(found, expected, atol=0.025)


@pytest.mark.parametrize('logits', [DISTINCT, TIED, FLAT], ids=['distinct', 'tied', 'flat'])
@pytest.mark.parametrize('options', [{}, {'top_k': 3}, {'top_p': 0.5}], ids=str)
def test_temperature_zero_takes_the_first_of_the_likeliest(logits, options):
    found = frequencies(logits, count=50, temperature=0.0, **options)
    assert found[int(np.argmax(logits))] == 1


@pytest.mark.parametrize('temperature', [1e-3, 1e-6, 1e-30, 2e-38])
def test_a_tiny_temperature_takes_the_likeliest(temperature):
    assert frequencies(DISTINCT[::-1], count=50, temperature=temperature)[-1] == 1
    large = np.multiply(DISTINCT[::-1], 20)
    assert frequencies(large, count=50, temperature=temperature)[-1] == 1


def test_large_logits_do_not_overflow():
    assert frequencies([3e38, -3e38, 0.0], count=50)[0] == 1


def test_tokens_that_are_ruled_out_are_never_drawn():
    found = frequencies([0.0, -np.inf, 0.0, -np.inf])
    assert np.flatnonzero(found).tolist() == [0, 2]


# What is compiled when.


def programs():
    """How many there are of `generate` by now."""
    return generation._generate._cache_size()  # pyright: ignore[reportAttributeAccessIssue]


def compiled(model, params, prompts, **options):
    """How many programs a call to `generate` adds."""
    before = programs()
    bx.zoo.generate(model, params, prompts, max_new_tokens=8, **options)
    return programs() - before


@pytest.fixture
def warm(model, params):
    """A model of its own, called once."""
    fresh = bx.zoo.create('gpt2', **vars(model.config))
    assert compiled(fresh, params, [[1] * 5]) == 1
    return fresh


OPTIONS = [
    {'temperature': 0},
    {'temperature': 0.3},
    {'top_k': 4},
    {'top_p': 0.5},
    {'seed': 17},
    {'seed': jax.random.key(17)},
    *({'stop_tokens': stops} for stops in ((), (3,), (3, 4, 5))),
]


def test_other_options_and_lengths_in_the_bucket_need_no_other_program(warm, params):
    found = {str(options): compiled(warm, params, [[2] * 5], **options) for options in OPTIONS}
    found |= {length: compiled(warm, params, [[1] * length]) for length in (1, 4, 15, 16)}
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize('prompts', [[[1] * 17], [[1] * 5, [2]]], ids=['bucket', 'batch'])
def test_another_bucket_or_batch_is_another_program(warm, params, prompts):
    assert compiled(warm, params, prompts) == 1
    assert compiled(warm, params, prompts) == 0


# Errors.


@pytest.mark.parametrize(
    ('prompts', 'message'),
    [
        ([[1], []], 'prompt 1 is empty'),
        ([], '0 prompts'),
        ([[1, VOCAB]], r'prompt 0: expected ids in \[0, 13\), found 1 to 13'),
        ([[1], [-1, 2]], r'prompt 1: expected ids in \[0, 13\), found -1 to 2'),
        (np.ones((1, 2)), r'prompt 0: expected a sequence of token ids, found float64\[2\]'),
        (np.ones((1, 2, 2), np.int32), r'prompt 0: .* found int32\[2, 2\]'),
        ([[1] * CONTEXT], '1 prompts of up to 64 tokens and max_new_tokens 8 do not fit a context'),
        ([[1], [1] * 57], '2 prompts of up to 57 tokens'),
    ],
)
def test_prompts_that_do_not_fit_are_refused(model, params, prompts, message):
    with pytest.raises(ValueError, match=message):
        bx.zoo.generate(model, params, prompts, max_new_tokens=8)


@pytest.mark.parametrize(
    'options',
    [
        {'temperature': -0.1},
        {'temperature': float('nan')},
        {'top_k': -1},
        {'top_p': 0.0},
        {'top_p': 1.1},
        {'top_p': float('nan')},
        {'repetition_penalty': 0.0},
        {'min_new_tokens': -1},
        {'num_return_sequences': 0},
    ],
    ids=str,
)
def test_bad_sampling_values_are_refused(model, params, options):
    with pytest.raises(ValueError, match=r'expected .*>.* found'):
        bx.zoo.generate(model, params, [[1]], max_new_tokens=4, **options)


@pytest.mark.parametrize('count', [0, -1, CONTEXT])
def test_a_count_of_tokens_that_does_not_fit_is_refused(model, params, count):
    with pytest.raises(ValueError, match=f'max_new_tokens {count}'):
        bx.zoo.generate(model, params, [[1]], max_new_tokens=count)


@pytest.mark.parametrize('prompt', [[], [VOCAB]], ids=['empty', 'outside'])
def test_stream_refuses_what_generate_refuses(model, params, prompt):
    with pytest.raises(ValueError, match='prompt 0'):
        next(bx.zoo.stream(model, params, prompt))


@pytest.mark.parametrize('shape', [(1, 7), (3, 64), (2, 1001)], ids=str)
@pytest.mark.parametrize('kind', ['distinct', 'tied', 'with some ruled out', 'flat'])
def test_a_search_admits_what_a_sort_does(shape, kind):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, shape).astype(np.float32)
    if kind == 'tied':
        logits = logits.round()
    elif kind == 'with some ruled out':
        logits[:, ::3] = -np.inf
    elif kind == 'flat':
        logits[:] = 0
    logits -= logits.max(1, keepdims=True)
    search, order = jax.jit(generation._least_by_search), jax.jit(generation._least_by_sort)
    for top_k in (0, 1, 2, 5, 63, 2000):
        for top_p in (1e-6, 0.3, 0.9, 0.999, 1.0) if top_k else (1e-6, 0.3, 0.9, 0.999):
            cuts = jnp.int32(top_k), jnp.float32(top_p)
            assert np.array_equal(search(logits, *cuts), order(logits, *cuts)), cuts


def test_the_noise_is_that_of_categorical():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 101)), jnp.float32)
    key = jax.random.key(5)
    drawn, expected = generation._draw(logits, key), jax.random.categorical(key, logits)
    assert np.array_equal(drawn, expected)


def test_a_top_p_of_one_keeps_the_whole_tail():
    # In float32 the sum of these probabilities reaches 1 long before their end.
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(1, 50257)) * 3, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 64)
    sampling = generation._sampling(None, 1.0, 0, 1.0, ())
    drawn = jax.vmap(lambda key: generation.sample(logits, sampling, key))(keys)
    plain = jax.vmap(lambda key: jax.random.categorical(key, logits - logits.max()))(keys)
    assert np.array_equal(drawn, plain)


def test_an_old_key_is_a_seed_as_a_new_one_is(model, params):
    old, new = jax.random.PRNGKey(3), jax.random.key(3)
    found = [bx.zoo.generate(model, params, [[1]], max_new_tokens=8, seed=s) for s in (old, new)]
    assert np.array_equal(found[0].tokens, found[1].tokens)
