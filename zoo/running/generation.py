"""Generate text: prefill, then a loop on the device, in one jitted program."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from blox.params import Params, as_key

_SMALLEST_BUCKET = 16
# What XLA's CPU backend runs at once of a vocabulary.
_LANES = 64


class Generation(NamedTuple):
    """Tokens that `generate` adds to each prompt.

    Attributes:
      tokens: [batch, max_new_tokens] int32; what follows a sequence's end is zeros. Several for a prompt
        lie one after another.
      lengths: [batch] int32, how many of them are real, the stop token included.
    """

    tokens: Int[Array, 'batch new']
    lengths: Int[Array, ' batch']


class Sampling(NamedTuple):
    """Settings that choose the next token: arrays, so that other values need no other program."""

    temperature: Float[Array, '']
    top_k: Int[Array, '']
    top_p: Float[Array, '']
    stop_tokens: Int[Array, ' stops']
    repetition_penalty: Float[Array, '']
    min_new_tokens: Int[Array, '']


# Makes other logits [batch, vocab] of tokens [batch, room], lengths [batch] and logits.
Process: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class _Chosen(NamedTuple):
    """The token chosen last for each sequence, whether the sequence ends there, and its place.

    Attributes:
      tokens, lengths: each prompt and what was chosen after it, and how many they are.
    """

    token: Int[Array, ' batch']
    is_done: Bool[Array, ' batch']
    place: Int[Array, '']
    tokens: Int[Array, 'batch room']
    lengths: Int[Array, ' batch']


def generate(
    model: Any,
    params: Params,
    prompts: Sequence[Sequence[int]] | np.ndarray | jax.Array,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
    num_return_sequences: int = 1,
    stop_tokens: Sequence[int] | None = None,
    process: Process | None = None,
    seed: int | jax.Array = 0,
) -> Generation:
    """Continue each prompt, a sequence of token ids; lengths may differ within the batch.

    One jitted program. It is compiled anew for another model object, structure or dtypes of
    Params, batch size, `max_new_tokens`, `process`, or power of two that the longest prompt fits in; not
    for other lengths, seeds or ways of sampling. Rows depend on each other in their random numbers alone.

    Args:
      model: a module with `initial_state(batch_size, room, dtype)`, `advance`, `logits` and
        `config.context`, as GPT2 has them.
      temperature: logits are divided by it; 0 takes the likeliest token each time.
      top_k: sample among this many likeliest tokens; 0 for all.
      top_p: sample among the fewest likeliest tokens whose probabilities reach this sum.
      repetition_penalty: what positive logits of tokens that are in the prompt or were chosen are divided by,
        and negative ones multiplied (Keskar et al., 2019, arXiv:1909.05858).
      min_new_tokens: no sequence ends before it has so many.
      num_return_sequences: how many to make of each prompt; they differ where tokens are drawn.
      process: `(tokens, lengths, logits) -> logits`, a pure function that changes the logits [batch, vocab] of the next
        tokens before one is chosen: of the tokens [batch, room] so far the first `lengths` count.
      stop_tokens: a sequence ends with the first of these; with the checkpoint's own,
        `model.config.end_tokens`, if none are named; () for no end.
      seed: an int or a key; the same seed gives the same tokens.

    Raises ValueError for an empty prompt, ids outside the vocabulary, and for prompts that leave
    no room for `max_new_tokens` in the model's context.
    """
    if num_return_sequences < 1:
        raise ValueError(f'expected num_return_sequences > 0, found {num_return_sequences}')
    tokens, lengths = padded_prompts(model, prompts, max_new_tokens)
    tokens, lengths = (jnp.repeat(x, num_return_sequences, 0) for x in (tokens, lengths))
    params = params.unstack()  # So a token does not take each block's part out of the whole.
    sampling = _sampling(
        model.config, temperature, top_k, top_p, stop_tokens, repetition_penalty, min_new_tokens
    )
    return _generate(model, params, tokens, lengths, sampling, _key(seed), max_new_tokens, process)


def stream(
    model: Any,
    params: Params,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
    stop_tokens: Sequence[int] | None = None,
    process: Process | None = None,
    seed: int | jax.Array = 0,
) -> Iterator[int]:
    """Yield the tokens of `generate` for one prompt, as they come.

    Arguments and errors are those of `generate`; a bad prompt is refused at the call.
    """
    tokens, lengths = padded_prompts(model, [prompt], max_new_tokens)
    params = params.unstack()  # So a token does not take each block's part out of the whole.
    sampling = _sampling(
        model.config, temperature, top_k, top_p, stop_tokens, repetition_penalty, min_new_tokens
    )
    key = _key(seed)

    # A function of its own, so that a bad prompt is refused here and not at the first token.
    def tokens_as_they_come() -> Iterator[int]:
        chosen, state = _begin(
            model, params, tokens, lengths, sampling, key, max_new_tokens, process
        )
        for place in range(max_new_tokens):
            now = chosen
            # The device goes on with this token while the host waits for it and hands it out.
            if place + 1 < max_new_tokens:
                chosen, state = _advance(model, params, chosen, state, sampling, key, process)
            token, is_done = jax.device_get((now.token, now.is_done))
            yield int(token[0])
            if is_done[0]:
                return

    return tokens_as_they_come()


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _generate(
    model: Any,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    sampling: Sampling,
    key: jax.Array,
    max_new_tokens: int,
    process: Process | None,
) -> Generation:
    chosen, state = _begin(model, params, tokens, lengths, sampling, key, max_new_tokens, process)
    batch = tokens.shape[0]
    out = jnp.zeros((batch, max_new_tokens), jnp.int32).at[:, 0].set(chosen.token)
    counts = jnp.ones(batch, jnp.int32)

    def unfinished(carry: tuple[jax.Array, jax.Array, _Chosen, Any]) -> jax.Array:
        chosen = carry[2]
        return (chosen.place + 1 < max_new_tokens) & ~chosen.is_done.all()

    def body(
        carry: tuple[jax.Array, jax.Array, _Chosen, Any],
    ) -> tuple[jax.Array, jax.Array, _Chosen, Any]:
        out, counts, before, state = carry
        chosen, state = _advance(model, params, before, state, sampling, key, process)
        out = out.at[:, chosen.place].set(jnp.where(before.is_done, 0, chosen.token))
        return out, counts + (~before.is_done).astype(jnp.int32), chosen, state

    out, counts, _, _ = jax.lax.while_loop(unfinished, body, (out, counts, chosen, state))
    return Generation(out, counts)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _begin(
    model: Any,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    sampling: Sampling,
    key: jax.Array,
    max_new_tokens: int,
    process: Process | None = None,
) -> tuple[_Chosen, Any]:
    """Run the prompts through the model at once and choose the first token of each."""
    batch, bucket = tokens.shape
    room = min(bucket + max_new_tokens, model.config.context)
    state = model.initial_state(batch, room, params.dtype)
    (x, state), _ = model.advance(params, tokens, state, lengths)
    # The head reads the last states alone: of a short prompt it is most of the work.
    last = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
    before = _Chosen(
        token=jnp.zeros(batch, jnp.int32),
        is_done=jnp.zeros(batch, bool),
        place=jnp.full((), -1, jnp.int32),
        tokens=jnp.pad(tokens, ((0, 0), (0, max_new_tokens))),
        lengths=lengths,
    )
    return _choose(model, params, last, before, sampling, key, process), state


# The state is donated: its caches are written where they are, and not copied for each token.
@functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=3)
def _advance(
    model: Any,
    params: Params,
    chosen: _Chosen,
    state: Any,
    sampling: Sampling,
    key: jax.Array,
    process: Process | None = None,
) -> tuple[_Chosen, Any]:
    """Feed the model the tokens chosen last, and choose those that follow."""
    # A sequence that has ended stays where it is, so it never runs out of its room.
    lengths = jnp.where(chosen.is_done, 0, 1)
    (x, state), _ = model.advance(params, chosen.token[:, None], state, lengths)
    return _choose(model, params, x, chosen, sampling, key, process), state


def _choose(
    model: Any,
    params: Params,
    x: Float[Array, 'batch 1 width'],
    before: _Chosen,
    sampling: Sampling,
    key: jax.Array,
    process: Process | None,
) -> _Chosen:
    """Choose each sequence's token after those before, of the states `x` that the model has there."""
    place, tokens, lengths = before.place + 1, before.tokens, before.lengths
    logits = model.logits(params, x)[0][:, 0].astype(jnp.float32)
    logits = _restrained(logits, tokens, lengths, place, sampling)
    if process is not None:
        logits = process(tokens, lengths, logits)
    token = sample(logits, sampling, jax.random.fold_in(key, place))
    is_end = (token[:, None] == sampling.stop_tokens[None]).any(1)
    rows = jnp.arange(len(token), dtype=jnp.int32)
    # Past the end of the room nothing is written.
    tokens = tokens.at[rows, jnp.where(before.is_done, tokens.shape[1], lengths)].set(token)
    lengths = jnp.where(before.is_done, lengths, lengths + 1)
    return _Chosen(token, before.is_done | is_end, place, tokens, lengths)


def _restrained(
    logits: jax.Array,
    tokens: jax.Array,
    lengths: jax.Array,
    place: jax.Array,
    sampling: Sampling,
) -> jax.Array:
    """Penalize tokens that were there, and rule out those that would end a sequence too soon."""
    vocab = logits.shape[1]
    rows = jnp.arange(len(tokens), dtype=jnp.int32)[:, None]
    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    # What is beyond a vocabulary is dropped.
    there = jnp.where(places < lengths[:, None], tokens, vocab)
    seen = jnp.zeros(logits.shape, bool).at[rows, there].set(True, mode='drop')
    penalty = sampling.repetition_penalty
    logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    stops = jnp.where(sampling.stop_tokens < 0, vocab, sampling.stop_tokens)
    ends = jnp.zeros(vocab, bool).at[stops].set(True, mode='drop')
    return jnp.where(ends & (place < sampling.min_new_tokens), -jnp.inf, logits)


def sample(
    logits: Float[Array, 'batch vocab'], sampling: Sampling, key: jax.Array
) -> Int[Array, ' batch']:
    """Draw one token for each row of logits."""
    logits = logits.astype(jnp.float32)
    # One program for all ways of sampling, which runs no more than the one asked for.
    is_cut = (sampling.top_k > 0) | (sampling.top_p < 1)
    way = jnp.where(sampling.temperature > 0, 1 + is_cut.astype(jnp.int32), 0)
    return jax.lax.switch(way, (_likeliest, _among_all, _among_some), logits, sampling, key)


def _likeliest(logits: jax.Array, sampling: Sampling, key: jax.Array) -> jax.Array:
    return logits.argmax(-1).astype(jnp.int32)


def _among_all(logits: jax.Array, sampling: Sampling, key: jax.Array) -> jax.Array:
    return _draw(_scaled(logits, sampling), key)


def _among_some(logits: jax.Array, sampling: Sampling, key: jax.Array) -> jax.Array:
    scaled = _scaled(logits, sampling)
    # A token stays if its logit is at least that of the last one that top_k and top_p admit.
    # For GPT-2's vocabulary a sort takes 16 ms on two CPU cores, where the passes of two searches
    # take 1 to 2; a GPU takes 0.4 ms for 32 sorts, and longer for as many small kernels.
    least = jax.lax.platform_dependent(
        scaled, sampling.top_k, sampling.top_p, cpu=_least_by_search, default=_least_by_sort
    )
    return _draw(jnp.where(scaled >= least, scaled, -jnp.inf), key)


def _scaled(logits: jax.Array, sampling: Sampling) -> jax.Array:
    # The largest logit becomes 0, so that no temperature overflows.
    return (logits - logits.max(-1, keepdims=True)) / sampling.temperature


def _draw(logits: jax.Array, key: jax.Array) -> jax.Array:
    """Draw as `jax.random.categorical` does."""
    # Its noise, but made in rows of 64, which run in vector registers: for one row of 50,257 that
    # takes 0.7 ms instead of 3.2 on JAX 0.10's CPU backend.
    noise = jax.random.gumbel(key, (-(-logits.size // _LANES), _LANES), logits.dtype)
    noise = noise.reshape(-1)[: logits.size].reshape(logits.shape)
    return (logits + noise).argmax(-1).astype(jnp.int32)


def _least_by_sort(
    scaled: Float[Array, 'batch vocab'], top_k: Int[Array, ''], top_p: Float[Array, '']
) -> Float[Array, 'batch 1']:
    """Return the least of each sequence's logits that top_k and top_p admit."""
    ranked = jnp.sort(scaled, axis=-1, descending=True)
    vocab = scaled.shape[-1]
    k = jnp.where(top_k > 0, jnp.minimum(top_k, vocab), vocab)
    rank = jnp.arange(vocab, dtype=jnp.int32)[None]
    in_top_k = rank < k
    probabilities = jax.nn.softmax(jnp.where(in_top_k, ranked, -jnp.inf))
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounding may let the sum reach 1 before its end, so a top_p of 1 is taken by its word.
    nucleus = (before < top_p) | (top_p >= 1) | (rank == 0)
    return jnp.where(in_top_k & nucleus, ranked, jnp.inf).min(-1, keepdims=True)


def _least_by_search(
    scaled: Float[Array, 'batch vocab'], top_k: Int[Array, ''], top_p: Float[Array, '']
) -> Float[Array, 'batch 1']:
    """Return the same without an order, for logits of which the largest is 0.

    The floats from 0 to -inf are in the order of their bits without the sign, so that 31 halvings
    of these end at the one looked for.
    """
    batch, vocab = scaled.shape
    # A sum over rows of 64 runs in vector registers, and one along a row does not.
    padding = ((0, 0), (0, -vocab % _LANES))
    rows = jnp.pad(scaled, padding, constant_values=-jnp.inf).reshape(batch, -1, _LANES)
    bits, weights = jnp.abs(rows).view(jnp.int32), jnp.exp(rows)

    def count(end: jax.Array) -> jax.Array:
        """Return how many logits of each sequence have bits up to `end`."""
        return (bits <= end[:, None, None]).sum(1, dtype=jnp.int32).sum(1, dtype=jnp.int32)

    def mass(end: jax.Array) -> jax.Array:
        """Return the sum of the weights of the logits that have bits below `end`."""
        return jnp.where(bits < end[:, None, None], weights, 0).sum(1).sum(1)

    top_k = jnp.minimum(top_k, vocab)
    zero = jnp.zeros(batch, jnp.int32)
    infinity = zero + np.float32(np.inf).view(np.int32)
    # Where nothing is to be searched, it starts at its end.
    start = jnp.where(top_k > 0, zero - 1, infinity - 1)
    _, last = _halve(lambda end: count(end) < top_k, start, infinity)
    # Of those that are tied with the last of top_k, as many are in its sum as make it k.
    tied = jnp.where(top_k > 0, top_k - count(last - 1), 0).astype(jnp.float32)
    total = mass(last) + tied * jnp.exp(-last.view(jnp.float32))
    start = jnp.where(top_p < 1, zero, last)
    least, _ = _halve(lambda end: mass(end) < top_p * total, start, last + 1)
    return -least.view(jnp.float32)[:, None]


def _halve(
    is_low: Callable[[jax.Array], jax.Array], low: jax.Array, high: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the neighbours from `low` to `high` of which `is_low` holds for the first alone."""

    def narrow(ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = low + (high - low) // 2
        goes_up = is_low(middle)
        return jnp.where(goes_up, middle, low), jnp.where(goes_up, high, middle)

    return jax.lax.while_loop(lambda ends: (ends[1] - ends[0] > 1).any(), narrow, (low, high))


def _sampling(
    config: Any,
    temperature: float,
    top_k: int,
    top_p: float,
    stop_tokens: Sequence[int] | None,
    repetition_penalty: float = 1.0,
    min_new_tokens: int = 0,
) -> Sampling:
    if not (repetition_penalty > 0 and min_new_tokens >= 0):
        raise ValueError(
            'expected repetition_penalty > 0 and min_new_tokens >= 0, '
            f'found {repetition_penalty} and {min_new_tokens}'
        )
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            'expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1, '
            f'found {temperature}, {top_k} and {top_p}'
        )
    stops = stops_of(config, stop_tokens)
    return Sampling(
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(top_k, jnp.int32),
        jnp.asarray(top_p, jnp.float32),
        # Padded with what is no token, so that their number needs no other program either.
        jnp.asarray(np.pad(stops, (0, 8 - len(stops) % 8), constant_values=-1)),
        jnp.asarray(repetition_penalty, jnp.float32),
        jnp.asarray(min_new_tokens, jnp.int32),
    )


def stops_of(config: Any, stop_tokens: Sequence[int] | None) -> np.ndarray:
    """Return the tokens that end a sequence: those named, else the checkpoint's own."""
    ends = getattr(config, 'end_tokens', ()) if stop_tokens is None else stop_tokens
    return np.asarray(ends, np.int32).reshape(-1)


def _key(seed: int | jax.Array) -> jax.Array:
    """Return a key of the new kind, whatever `seed` is."""
    key = as_key(seed)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if typed else jax.random.wrap_key_data(key)


def padded_prompts(
    model: Any, prompts: Any, max_new_tokens: int
) -> tuple[Int[Array, 'batch bucket'], Int[Array, ' batch']]:
    """Return prompts, padded on the right to a power of two, and their lengths."""
    rows, context = token_rows(model, prompts), model.config.context
    if not rows or max_new_tokens < 1:
        raise ValueError(
            f'expected prompts and max_new_tokens > 0, found {len(rows)} prompts and '
            f'max_new_tokens {max_new_tokens}'
        )
    longest = max(row.size for row in rows)
    if longest + max_new_tokens > context:
        raise ValueError(
            f'{len(rows)} prompts of up to {longest} tokens and max_new_tokens {max_new_tokens} '
            f'do not fit a context of {context}'
        )
    tokens = np.zeros((len(rows), min(bucket_of(longest), context)), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : row.size] = row
    return jnp.asarray(tokens), jnp.asarray([row.size for row in rows], jnp.int32)


def bucket_of(length: int) -> int:
    """Return the power of two that stands for this many tokens, so that few programs are made."""
    bucket = _SMALLEST_BUCKET
    while bucket < length:
        bucket *= 2
    return bucket


def token_rows(model: Any, prompts: Any) -> list[np.ndarray]:
    """Return the token ids of each prompt. Raise ValueError for what the model cannot read."""
    if isinstance(prompts, str) or (isinstance(prompts, Sequence) and str in map(type, prompts)):
        raise TypeError(
            'expected prompts of token ids, found text: bx.zoo.tokenizer(NAME).encode(TEXT).ids makes them'
        )
    rows = [np.asarray(prompt) for prompt in prompts]
    config = model.config
    if getattr(config, 'task', 'text-generation') != 'text-generation':
        raise ValueError(
            f'expected a model for text-generation, found one for {config.task}; '
            "bx.zoo.load(NAME, task='text-generation') takes it if it is there"
        )
    for i, row in enumerate(rows):
        if row.size == 0:
            raise ValueError(f'prompt {i} is empty: expected at least one token id')
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise ValueError(
                f'prompt {i}: expected a sequence of token ids, found {row.dtype}{list(row.shape)}'
            )
        if row.min() < 0 or row.max() >= config.vocab_size:
            raise ValueError(
                f'prompt {i}: expected ids in [0, {config.vocab_size}), '
                f'found {row.min()} to {row.max()}'
            )
    return rows
