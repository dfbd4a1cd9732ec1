"""Tell how likely a model finds the tokens of texts."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from blox.params import Params
from blox.zoo.running.generation import bucket_of, token_rows

# Logits of a batch, at most.
_MOST_LOGITS = 1 << 26


def beginning(config: Any) -> list[int]:
    """Return the token that whole texts are read after: the one that ends texts, where the model has one."""
    return [end for end in config.end_tokens if end < config.vocab_size][:1]


def text_figures(nats: float, tokens: int, size: int) -> dict[str, float]:
    """Return what so many nats mean for a text of so many tokens, and bytes."""
    with np.errstate(over='ignore'):
        perplexity = float(np.exp(nats / tokens))
    return {
        'bits_per_byte': nats / math.log(2) / size,
        'loss': nats / tokens,
        'perplexity': perplexity,
    }


def log_probabilities(
    model: Any, params: Params, texts: Sequence[Sequence[int]]
) -> list[Float[np.ndarray, ' others']]:
    """Return of each text, a sequence of token ids, the natural logarithm of each token's probability.

    It is that after all tokens before it, so that the first has none: of n tokens there are n - 1. Where
    a model has a token that ends texts, as GPT-2 has, put that first for the probability of a whole text.
    They are float32 at least.

    Raises ValueError for fewer than two tokens, more than the model's context and one, and ids outside the
    vocabulary.

    >>> import blox as bx
    >>> model, params = bx.zoo.load('gpt2-pydocs')
    >>> ids = bx.zoo.tokenizer('gpt2-pydocs').encode('The for statement').ids
    >>> (found,) = log_probabilities(model, params, [ids])
    >>> found.shape == (len(ids) - 1,), (found < 0).all()
    (True, np.True_)
    """
    return list(each_log_probabilities(model, params, texts))


def each_log_probabilities(
    model: Any, params: Params, texts: Sequence[Sequence[int]]
) -> Iterator[Float[np.ndarray, ' others']]:
    """Yield what `log_probabilities` returns, batch by batch."""
    rows, context = token_rows(model, texts), model.config.context
    for i, row in enumerate(rows):
        if not 2 <= row.size <= context + 1:
            raise ValueError(f'text {i}: expected 2 to {context + 1} tokens, found {row.size}')
    if not rows:
        return
    length = min(bucket_of(max(row.size for row in rows) - 1), context)
    count = max(1, min(len(rows), _MOST_LOGITS // (length * model.config.vocab_size)))
    for start in range(0, len(rows), count):
        part = rows[start : start + count]
        ids = np.zeros((count, length + 1), np.int32)
        for row, own in zip(ids, part):
            row[: own.size] = own
        found = np.asarray(_log_probabilities(model, params, jnp.asarray(ids)))
        yield from (row[: own.size - 1] for row, own in zip(found, part))


@functools.partial(jax.jit, static_argnums=0)
def _log_probabilities(
    model: Any, params: Params, ids: Int[Array, 'batch length']
) -> Float[Array, 'batch others']:
    logits = model(params, ids[:, :-1])[0]
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    picked = jnp.take_along_axis(logits, ids[:, 1:, None], 2)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)
