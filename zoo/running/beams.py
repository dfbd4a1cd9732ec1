"""Beam search: the likeliest texts as wholes, not token by token."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from blox.params import Params
from blox.zoo.running.generation import padded_prompts, stops_of

# What takes a sequence out of the running.
_OUT = -1e9
EARLY = (False, True, 'never')


class Beams(NamedTuple):
    """Tokens that `beam_search` adds to each prompt, the best first; several lie one after another.

    Attributes:
      tokens: [batch, max_new_tokens] int32; what follows a sequence's end is zeros.
      lengths: [batch] int32, how many of them are real, the stop token included.
      scores: [batch] float32, log-probabilities divided by the length to the power of `length_penalty`.
    """

    tokens: Int[Array, 'batch new']
    lengths: Int[Array, ' batch']
    scores: Float[Array, ' batch']


class _Search(NamedTuple):
    """How a search goes on."""

    beams: int
    max_new_tokens: int
    length_penalty: float
    early_stopping: bool | str
    stops: tuple[int, ...]


class _Found(NamedTuple):
    """Sequences of each prompt, [prompts, beams]: those that run, and the best that have ended.

    Attributes:
      place: how many tokens each running one has.
      parents: which beam each running one goes on from.
      may_improve: whether a running one could still be better than one that has ended, [prompts, 1].
      is_over: whether every choice of the last step was the end of its sequence.
    """

    place: Int[Array, '']
    tokens: Int[Array, 'prompts beams new']
    scores: Float[Array, 'prompts beams']
    parents: Int[Array, 'prompts beams']
    ended_tokens: Int[Array, 'prompts beams new']
    ended_scores: Float[Array, 'prompts beams']
    ended_lengths: Int[Array, 'prompts beams']
    has_ended: Bool[Array, 'prompts beams']
    may_improve: Bool[Array, 'prompts 1']
    is_over: Bool[Array, '']


def beam_search(
    model: Any,
    params: Params,
    prompts: Sequence[Sequence[int]] | np.ndarray | jax.Array,
    *,
    num_beams: int = 4,
    max_new_tokens: int = 64,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    num_return_sequences: int = 1,
    stop_tokens: Sequence[int] | None = None,
) -> Beams:
    """Continue each prompt by the likeliest sequences that a search of `num_beams` finds, as transformers does.

    `length_penalty` above 0 prefers longer sequences. With `early_stopping` a prompt is done once `num_beams`
    sequences have ended; without it, once no running one is likely to be better, or, where it is 'never', can be.
    Other arguments and errors are those of `generate`; it is one jitted program.
    """
    if not (num_beams > 0 and 0 < num_return_sequences <= num_beams):
        raise ValueError(
            'expected num_beams > 0 and num_return_sequences up to as many, found '
            f'{num_beams} and {num_return_sequences}'
        )
    # Numbers equal bools, and would share their program.
    if not any(early_stopping is way for way in EARLY[:2]) and early_stopping != 'never':
        raise ValueError(
            f"expected early_stopping False, True or 'never', found {early_stopping!r}"
        )
    tokens, lengths = padded_prompts(model, prompts, max_new_tokens)
    stops = tuple(sorted({*stops_of(model.config, stop_tokens).tolist()}))
    search = _Search(num_beams, max_new_tokens, float(length_penalty), early_stopping, stops)
    found = _search(model, params.unstack(), tokens, lengths, search)
    best = slice(None, num_return_sequences)
    return Beams(
        found.ended_tokens[:, best].reshape(-1, max_new_tokens),
        found.ended_lengths[:, best].reshape(-1),
        found.ended_scores[:, best].reshape(-1),
    )


@functools.partial(jax.jit, static_argnums=(0, 4))
def _search(
    model: Any, params: Params, tokens: jax.Array, lengths: jax.Array, search: _Search
) -> _Found:
    batch, bucket = tokens.shape
    room = min(bucket + search.max_new_tokens, model.config.context)
    state = model.initial_state(batch, room, params.dtype)
    (x, state), _ = model.advance(params, tokens, state, lengths)
    x = jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)
    each = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), search.beams)
    x, state = _of_sequences((x, state), each, batch)
    found = _choose(model, params, x, _first(batch, search), search)

    def goes_on(carry: tuple[_Found, Any]) -> jax.Array:
        found = carry[0]
        all_ended = found.has_ended.all() if search.early_stopping is True else jnp.array(False)
        return found.may_improve.any() & ~all_ended & ~found.is_over

    def body(carry: tuple[_Found, Any]) -> tuple[_Found, Any]:
        found, state = carry
        rows = jnp.arange(batch, dtype=jnp.int32)[:, None] * search.beams + found.parents
        state = _of_sequences(state, rows.reshape(-1), batch * search.beams)
        last = jnp.take(found.tokens, found.place - 1, axis=2).reshape(-1, 1)
        (x, state), _ = model.advance(params, last, state, jnp.ones(len(last), jnp.int32))
        return _choose(model, params, x, found, search), state

    return jax.lax.while_loop(goes_on, body, (found, state))[0]


def _first(batch: int, search: _Search) -> _Found:
    """Return what there is before the first token: one beam that counts, and nothing that has ended."""
    shape = batch, search.beams
    tokens = jnp.zeros((*shape, search.max_new_tokens), jnp.int32)
    out = jnp.full(shape, _OUT, jnp.float32)
    zeros = jnp.zeros(shape, jnp.int32)
    return _Found(
        place=jnp.zeros((), jnp.int32),
        tokens=tokens,
        scores=out.at[:, 0].set(0),
        parents=zeros,
        ended_tokens=tokens,
        ended_scores=out,
        ended_lengths=zeros,
        has_ended=jnp.zeros(shape, bool),
        may_improve=jnp.ones((batch, 1), bool),
        is_over=jnp.array(False),
    )


def _choose(model: Any, params: Params, x: jax.Array, before: _Found, search: _Search) -> _Found:
    """Choose the likeliest continuations of all beams, of the states `x` that the model has there."""
    logits = model.logits(params, x)[0][:, 0].astype(jnp.float32)
    batch, beams = before.scores.shape
    vocab = logits.shape[-1]
    totals = jax.nn.log_softmax(logits).reshape(batch, beams, vocab) + before.scores[
        ..., None
    ].astype(jnp.float32)
    # So many that as many as there are beams go on, even if all others end.
    count = min(max(2, 1 + len(search.stops)), vocab) * beams
    scores, places = jax.lax.top_k(totals.reshape(batch, -1), count)
    parents, token = places // vocab, (places % vocab).astype(jnp.int32)
    tokens = _picked(before.tokens, parents).at[:, :, before.place].set(token)
    is_end = jnp.isin(token, jnp.asarray(search.stops or (-1,), jnp.int32))
    is_end = is_end | (before.place + 1 == search.max_new_tokens)
    return _with_ended(before, tokens, scores, parents, is_end, search)


def _with_ended(
    before: _Found,
    tokens: jax.Array,
    scores: jax.Array,
    parents: jax.Array,
    is_end: jax.Array,
    search: _Search,
) -> _Found:
    """Keep the best that run and the best that have ended, of the continuations, best first."""
    beams, length = search.beams, before.place + 1
    running, order = jax.lax.top_k(jnp.where(is_end, scores + _OUT, scores), beams)
    # Only what is among the best counts as ended.
    ends = is_end & jnp.broadcast_to(jnp.arange(scores.shape[1]) < beams, is_end.shape)
    closed = ~before.may_improve
    if search.early_stopping is True:
        closed = closed | before.has_ended.all(1, keepdims=True)
    ended = scores / length.astype(jnp.float32) ** search.length_penalty
    ended = jnp.where(closed, ended + _OUT, ended)
    ended = jnp.where(ends, ended, ended + _OUT)
    merged = jnp.concatenate([before.ended_scores, ended], 1)
    ended_scores, best = jax.lax.top_k(merged, beams)
    lengths = jnp.broadcast_to(length, scores.shape)

    def kept(old: jax.Array, new: jax.Array) -> jax.Array:
        return _picked(jnp.concatenate([old, new], 1), best)

    has_ended = kept(before.has_ended, ends)
    far = (
        search.max_new_tokens
        if search.early_stopping == 'never' and search.length_penalty > 0
        else length
    )
    best_possible = running[:, :1] / jnp.asarray(far, jnp.float32) ** search.length_penalty
    worst = jnp.where(has_ended, ended_scores.min(1, keepdims=True), _OUT)
    improves = (best_possible > worst).any(1, keepdims=True)
    return _Found(
        place=length,
        tokens=_picked(tokens, order),
        scores=running,
        parents=_picked(parents, order),
        ended_tokens=kept(before.ended_tokens, tokens),
        ended_scores=ended_scores,
        ended_lengths=kept(before.ended_lengths, lengths),
        has_ended=has_ended,
        may_improve=before.may_improve & improves,
        is_over=is_end.all(),
    )


def _of_sequences(tree: Any, chosen: jax.Array, count: int) -> Any:
    """Return the chosen ones of `count` sequences, each of which has as many rows of every array."""

    def rows(a: jax.Array) -> jax.Array:
        return a.reshape(count, -1, *a.shape[1:])[chosen].reshape(-1, *a.shape[1:])

    return jax.tree.map(rows, tree)


def _picked(values: jax.Array, places: jax.Array) -> jax.Array:
    """Return the values of each prompt at these places, [prompts, places, ...]."""
    places = places.reshape(*places.shape, *[1] * (values.ndim - 2))
    return jnp.take_along_axis(values, places, axis=1)
