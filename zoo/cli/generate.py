"""The command of `blox` that continues a text: generate."""

from typing import Any

import click

from blox.zoo.cli.inputs import read_text
from blox.zoo.cli.shared import MODEL, find, number, read, say, tokenizer_of
from blox.zoo.running.writing import likeliest, written

# What chooses one token after the other.
_OF_CHANCE = ('temperature', 'top_k', 'top_p', 'repetition_penalty', 'min_new_tokens', 'seed')


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('prompt')
@number('--max-new-tokens', click.IntRange(1), 'At most this many.', 96)
@number('--temperature', click.FloatRange(0), '0 takes the likeliest.', 0.7)
@number('--top-k', click.IntRange(0), '0 for all tokens.', 0)
@number('--top-p', click.FloatRange(0, 1, min_open=True), '1 for all tokens.', 0.95)
@number('--repetition-penalty', click.FloatRange(0, min_open=True), 'Above 1 for fewer.', 1.0)
@number('--min-new-tokens', click.IntRange(0), 'At least this many.', 0)
@number('--beams', click.IntRange(1), 'Search for the likeliest whole with so many.')
@click.option('--stop', 'stops', metavar='TEXT', multiple=True, help='End before it.')
@number('--seed', click.INT, 'The same gives the same text.', 0)
def generate(
    model: str, prompt: str, seed: int, stops: tuple[str, ...], beams: int | None, **options: Any
) -> None:
    """Continue PROMPT, or the text of stdin for -, printing the text as it comes.

    It ends with a token that ends a text, as the model says, or where the model's context is full.

    \b
    Example: blox generate gpt2 'Once upon a time' --temperature 0
    """
    if beams and (drawn := [name for name in _OF_CHANCE if _is_given(name)]):
        names = ', '.join(f'--{name.replace("_", "-")}' for name in drawn)
        raise click.UsageError(f'--beams takes the likeliest of all, and no {names}.')
    prompt = read_text() if prompt == '-' else prompt
    found = find(model, 'text-generation')
    tokenizer = tokenizer_of(found.card, model)
    net, params = read(found, model)
    if beams:
        limit = options['max_new_tokens']
        given = net, params, tokenizer, prompt
        say(prompt + likeliest(*given, stops=stops, max_new_tokens=limit, num_beams=beams))
        return
    pieces = written(net, params, tokenizer, prompt, stops=stops, seed=seed, **options)
    say(prompt, end='')
    for piece in pieces:
        say(piece, end='')
    say('')


def _is_given(name: str) -> bool:
    """Tell whether an option stands in the command."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


COMMANDS = (generate,)
