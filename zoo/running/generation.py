"""Generate text: prefill, then a loop on the device, in one jitted program."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from blox.params import Params, as_key

_SMALLEST_BUCKET = 16


class Generation(NamedTuple):
    """Tokens that `generate` adds to each prompt.

    Attributes:
      tokens: [batch, max_new_tokens] int32; what follows a sequence's end is zeros.
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


class _Progress(NamedTuple):
    """State of the loop: the last logits, the model's state and which sequences have ended."""

    logits: Float[Array, 'batch vocab']
    state: Any
    is_done: Bool[Array, ' batch']
    step: Int[Array, '']


def generate(
    model: Any,
    params: Params,
    prompts: Sequence[Sequence[int]] | np.ndarray | jax.Array,
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_tokens: Sequence[int] | None = None,
    seed: int | jax.Array = 0,
) -> Generation:
    """Continue each prompt, a sequence of token ids; lengths may differ within the batch.

    One jitted program. It is compiled anew for another model object, structure or dtypes of
    Params, batch size, `max_new_tokens`, or power of two that the longest prompt fits in; not for
    other lengths, seeds or ways of sampling. Rows depend on each other in their random numbers alone.

    Args:
      model: a module with `initial_state(batch_size, room, dtype)`, `step` and `config.context`.
      temperature: logits are divided by it; 0 takes the likeliest token each time.
      top_k: sample among this many likeliest tokens; 0 for all.
      top_p: sample among the fewest likeliest tokens whose probabilities reach this sum.
      stop_tokens: a sequence ends with the first of these; with the checkpoint's own,
        `model.config.end_tokens`, if none are named; () for no end.
      seed: an int or a key; the same seed gives the same tokens.

    Raises ValueError for an empty prompt, ids outside the vocabulary, and for prompts that leave
    no room for `max_new_tokens` in the model's context.
    """
    tokens, lengths = _pad(model, prompts, max_new_tokens)
    sampling = _sampling(model.config, temperature, top_k, top_p, stop_tokens)
    return _generate(model, params, tokens, lengths, sampling, _key(seed), max_new_tokens)


def stream(
    model: Any,
    params: Params,
    prompt: Sequence[int],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_tokens: Sequence[int] | None = None,
    seed: int | jax.Array = 0,
) -> Iterator[int]:
    """Yield the tokens of `generate` for one prompt, as they come.

    Arguments and errors are those of `generate`; a bad prompt is refused at the call.
    """
    tokens, lengths = _pad(model, [prompt], max_new_tokens)
    sampling = _sampling(model.config, temperature, top_k, top_p, stop_tokens)
    key = _key(seed)

    # A function of its own, so that a bad prompt is refused here and not at the first token.
    def tokens_as_they_come() -> Iterator[int]:
        progress = _prefill(model, params, tokens, lengths, max_new_tokens)
        for _ in range(max_new_tokens):
            token, progress = _advance(model, params, progress, sampling, key)
            yield int(token[0])
            if progress.is_done[0]:
                return

    return tokens_as_they_come()


@functools.partial(jax.jit, static_argnums=(0, 6))
def _generate(
    model: Any,
    params: Params,
    tokens: jax.Array,
    lengths: jax.Array,
    sampling: Sampling,
    key: jax.Array,
    max_new_tokens: int,
) -> Generation:
    progress = _prefill(model, params, tokens, lengths, max_new_tokens)
    batch = tokens.shape[0]
    carry = (jnp.zeros((batch, max_new_tokens), jnp.int32), jnp.zeros(batch, jnp.int32), progress)

    def unfinished(carry: tuple[jax.Array, jax.Array, _Progress]) -> jax.Array:
        progress = carry[2]
        return (progress.step < max_new_tokens) & ~progress.is_done.all()

    def body(
        carry: tuple[jax.Array, jax.Array, _Progress],
    ) -> tuple[jax.Array, jax.Array, _Progress]:
        out, counts, progress = carry
        token, after = _advance(model, params, progress, sampling, key)
        out = out.at[:, progress.step].set(jnp.where(progress.is_done, 0, token))
        return out, counts + (~progress.is_done).astype(jnp.int32), after

    out, counts, _ = jax.lax.while_loop(unfinished, body, carry)
    return Generation(out, counts)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _prefill(
    model: Any, params: Params, tokens: jax.Array, lengths: jax.Array, max_new_tokens: int
) -> _Progress:
    """Run the prompts through the model at once."""
    batch, bucket = tokens.shape
    room = min(bucket + max_new_tokens, model.config.context)
    state = model.initial_state(batch, room, params.dtype)
    (logits, state), _ = model.step(params, tokens, state, lengths)
    last = jnp.take_along_axis(logits, lengths[:, None, None] - 1, axis=1)[:, 0]
    return _Progress(last, state, jnp.zeros(batch, bool), jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def _advance(
    model: Any, params: Params, progress: _Progress, sampling: Sampling, key: jax.Array
) -> tuple[jax.Array, _Progress]:
    """Choose each sequence's next token and feed it to the model."""
    token = sample(progress.logits, sampling, jax.random.fold_in(key, progress.step))
    is_done = progress.is_done | (token[:, None] == sampling.stop_tokens[None]).any(1)
    # A sequence that has ended stays where it is, so it never runs out of its room.
    lengths = jnp.where(is_done, 0, 1)
    (logits, state), _ = model.step(params, token[:, None], progress.state, lengths)
    return token, _Progress(logits[:, 0], state, is_done, progress.step + 1)


def sample(
    logits: Float[Array, 'batch vocab'], sampling: Sampling, key: jax.Array
) -> Int[Array, ' batch']:
    """Draw one token for each row of logits."""
    logits = logits.astype(jnp.float32)
    greedy = logits.argmax(-1).astype(jnp.int32)
    # The largest logit becomes 0, so that no temperature overflows.
    scaled = (logits - logits.max(-1, keepdims=True)) / jnp.where(
        sampling.temperature > 0, sampling.temperature, 1
    )
    ranked = jnp.sort(scaled, axis=-1, descending=True)
    # A token stays if its logit is at least that of the last one that top_k and top_p admit.
    vocab = logits.shape[-1]
    k = jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, vocab), vocab)
    rank = jnp.arange(vocab, dtype=jnp.int32)[None]
    in_top_k = rank < k
    probabilities = jax.nn.softmax(jnp.where(in_top_k, ranked, -jnp.inf))
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # Rounding may let the sum reach 1 before its end, so a top_p of 1 is taken by its word.
    nucleus = (before < sampling.top_p) | (sampling.top_p >= 1) | (rank == 0)
    admitted = in_top_k & nucleus
    threshold = jnp.where(admitted, ranked, jnp.inf).min(-1, keepdims=True)
    kept = jnp.where(scaled >= threshold, scaled, -jnp.inf)
    drawn = jax.random.categorical(key, kept).astype(jnp.int32)
    return jnp.where(sampling.temperature > 0, drawn, greedy)


def _sampling(
    config: Any, temperature: float, top_k: int, top_p: float, stop_tokens: Sequence[int] | None
) -> Sampling:
    if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1):
        raise ValueError(
            'expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1, '
            f'found {temperature}, {top_k} and {top_p}'
        )
    ends = getattr(config, 'end_tokens', ()) if stop_tokens is None else stop_tokens
    stops = np.asarray(ends, np.int32).reshape(-1)
    return Sampling(
        jnp.asarray(temperature, jnp.float32),
        jnp.asarray(top_k, jnp.int32),
        jnp.asarray(top_p, jnp.float32),
        # Padded with what is no token, so that their number needs no other program either.
        jnp.asarray(np.pad(stops, (0, 8 - len(stops) % 8), constant_values=-1)),
    )


def _key(seed: int | jax.Array) -> jax.Array:
    """Return a key of the new kind, whatever `seed` is."""
    key = as_key(seed)
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key if typed else jax.random.wrap_key_data(key)


def _pad(
    model: Any, prompts: Any, max_new_tokens: int
) -> tuple[Int[Array, 'batch bucket'], Int[Array, ' batch']]:
    """Return prompts, padded on the right to a power of two, and their lengths."""
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
    if not rows or max_new_tokens < 1:
        raise ValueError(
            f'expected prompts and max_new_tokens > 0, found {len(rows)} prompts and '
            f'max_new_tokens {max_new_tokens}'
        )
    longest = max(row.size for row in rows)
    if longest + max_new_tokens > config.context:
        raise ValueError(
            f'{len(rows)} prompts of up to {longest} tokens and max_new_tokens {max_new_tokens} '
            f'do not fit a context of {config.context}'
        )
    bucket = _SMALLEST_BUCKET
    while bucket < longest:
        bucket *= 2
    tokens = np.zeros((len(rows), min(bucket, config.context)), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : row.size] = row
    return jnp.asarray(tokens), jnp.asarray([row.size for row in rows], jnp.int32)
