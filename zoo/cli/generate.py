"""The command of `blox` that continues a text: generate."""

from collections.abc import Sequence
from typing import Any

import click

import blox as bx
from blox.zoo.cli.inputs import read_text
from blox.zoo.cli.shared import MODEL, find, number, read, say, tokenizer_of
from blox.zoo.inputs.text import is_utf8


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('prompt')
@number('--max-new-tokens', click.IntRange(1), 'At most this many.', 96)
@number('--temperature', click.FloatRange(0), '0 takes the likeliest.', 0.7)
@number('--top-k', click.IntRange(0), '0 for all tokens.', 0)
@number('--top-p', click.FloatRange(0, 1, min_open=True), '1 for all tokens.', 0.95)
@number('--repetition-penalty', click.FloatRange(0, min_open=True), 'Above 1 for fewer.', 1.0)
@number('--min-new-tokens', click.IntRange(0), 'At least this many.', 0)
@click.option('--stop', 'stops', metavar='TEXT', multiple=True, help='End before it.')
@number('--seed', click.INT, 'The same gives the same text.', 0)
def generate(model: str, prompt: str, seed: int, stops: tuple[str, ...], **options: Any) -> None:
    """Continue PROMPT, or the text of stdin for -, printing the text as it comes.

    It ends with a token that ends a text, as the model says, or where the model's context is full.

    \b
    Example: blox generate gpt2 'Once upon a time' --temperature 0
    """
    if '' in stops:
        raise ValueError('expected a text after --stop, found nothing')
    prompt = read_text() if prompt == '-' else prompt
    found = find(model, 'text-generation')
    tokenizer = tokenizer_of(found.card, model)
    net, params = read(found, model)
    if not is_utf8(prompt):
        raise ValueError(f'PROMPT: expected text in UTF-8, found {prompt[:30]!r}')
    prompt_ids = tokenizer.encode(prompt).ids
    room = net.config.context - len(prompt_ids)
    options['max_new_tokens'] = min(options['max_new_tokens'], max(room, 1))
    tokens = bx.zoo.stream(net, params, prompt_ids, seed=seed, **options)
    say(prompt, end='')
    ids, printed, text = [], '', ''
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if end := _first(stops, text):
            text = text[: end[0]]
            break
        # Bytes of an unfinished character decode to U+FFFD, and a stop may have begun: wait for the rest.
        safe = text[: len(text) - _held_back(stops, text)]
        if not text.endswith('\ufffd') and len(safe) > len(printed):
            say(safe[len(printed) :], end='')
            printed = safe
    say(text[len(printed) :])


def _first(stops: Sequence[str], text: str) -> list[int]:
    """Return where the first of the stops is in a text, [] for none."""
    return sorted(place for stop in stops if (place := text.find(stop)) >= 0)[:1]


def _held_back(stops: Sequence[str], text: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop."""
    starts = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(starts, default=0)


COMMANDS = (generate,)
