"""The command of `blox` that continues a text: generate."""

from typing import Any

import click

import blox as bx
from blox.zoo.cli.shared import MODEL, find, number, read, say, tokenizer_of
from blox.zoo.inputs.text import is_utf8


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('prompt')
@number('--max-new-tokens', click.IntRange(1), 'At most this many.', 96)
@number('--temperature', click.FloatRange(0), '0 takes the likeliest.', 0.7)
@number('--top-k', click.IntRange(0), '0 for all tokens.', 0)
@number('--top-p', click.FloatRange(0, 1, min_open=True), '1 for all tokens.', 0.95)
@number('--seed', click.INT, 'The same gives the same text.', 0)
def generate(model: str, prompt: str, seed: int, **options: Any) -> None:
    """Continue PROMPT, printing the text as it comes.

    It ends with a token that ends a text, as the model says, or where the model's context is full.

    \b
    Example: blox generate gpt2 'Once upon a time' --temperature 0
    """
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
        # Bytes of an unfinished character decode to U+FFFD; wait for the rest of it.
        if not text.endswith('\ufffd'):
            say(text[len(printed) :], end='')
            printed = text
    say(text[len(printed) :])


COMMANDS = (generate,)
