"""Text as a model writes it, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from tokenizers import Tokenizer

from blox.params import Params
from blox.zoo.inputs.text import is_utf8
from blox.zoo.running.generation import stream


def written(
    model: Any,
    params: Params,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    stops: Sequence[str] = (),
    max_new_tokens: int = 96,
    seed: int | jax.Array = 0,
    **options: Any,
) -> Iterator[str]:
    """Yield what a model writes after a prompt as it comes, in pieces that are whole characters.

    It ends before the first of `stops`, with a token that ends a text, or where the model's context is
    full. `options` are those of `stream`. Raises ValueError for a prompt that is not UTF-8 or has no tokens.
    """
    if '' in stops:
        raise ValueError('expected texts to stop before, found an empty one')
    if not is_utf8(prompt):
        raise ValueError(f'expected a prompt in UTF-8, found {prompt[:30]!r}')
    ids = tokenizer.encode(prompt).ids
    room = max(model.config.context - len(ids), 1)
    tokens = stream(
        model, params, ids, max_new_tokens=min(max_new_tokens, room), seed=seed, **options
    )
    return _pieces(tokens, tokenizer, stops)


def _pieces(tokens: Iterator[int], tokenizer: Tokenizer, stops: Sequence[str]) -> Iterator[str]:
    ids: list[int] = []
    given, text = 0, ''
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if end := _first(stops, text):
            text = text[: end[0]]
            break
        # Bytes of an unfinished character decode to U+FFFD, and a stop may have begun: wait for the rest.
        safe = len(text) - _held_back(stops, text)
        if not text.endswith('\ufffd') and safe > given:
            yield text[given:safe]
            given = safe
    if text[given:]:
        yield text[given:]


def _first(stops: Sequence[str], text: str) -> list[int]:
    """Return where the first of the stops is in a text, [] for none."""
    return sorted(place for stop in stops if (place := text.find(stop)) >= 0)[:1]


def _held_back(stops: Sequence[str], text: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop."""
    starts = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(starts, default=0)
