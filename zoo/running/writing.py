"""Text as a model writes it, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from tokenizers import Tokenizer

from blox.params import Params
from blox.zoo.inputs.text import is_utf8
from blox.zoo.running.beams import beam_search
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
    ids, room = _begun(model, tokenizer, prompt, stops)
    tokens = stream(
        model, params, ids, max_new_tokens=min(max_new_tokens, room), seed=seed, **options
    )
    return _pieces(tokens, tokenizer, stops)


def likeliest(
    model: Any,
    params: Params,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    stops: Sequence[str] = (),
    max_new_tokens: int = 96,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
) -> str:
    """Return the best that `beam_search` finds to go on with after a prompt, up to the first of `stops`.

    Errors are those of `written`.
    """
    ids, room = _begun(model, tokenizer, prompt, stops)
    found = beam_search(
        model,
        params,
        [ids],
        num_beams=num_beams,
        max_new_tokens=min(max_new_tokens, room),
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
    text = tokenizer.decode(found.tokens[0, : int(found.lengths[0])].tolist())
    end = _first(stops, text)
    return text[: end[0]] if end else text


def _begun(
    model: Any, tokenizer: Tokenizer, prompt: str, stops: Sequence[str]
) -> tuple[list[int], int]:
    """Return a prompt's tokens, and how many more the model's context has room for."""
    if '' in stops:
        raise ValueError('expected texts to stop before, found an empty one')
    if not is_utf8(prompt):
        raise ValueError(f'expected a prompt in UTF-8, found {prompt[:30]!r}')
    ids = tokenizer.encode(prompt).ids
    return ids, max(model.config.context - len(ids), 1)


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
