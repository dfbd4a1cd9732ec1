"""The command of `blox` that tells how likely a text is: score."""

import json

import click

import blox as bx
from blox.zoo.cli.inputs import read_text
from blox.zoo.cli.shared import AS_JSON, MODEL, find, read, say, tokenizer_of
from blox.zoo.inputs.text import is_utf8
from blox.zoo.running.likelihood import beginning, text_figures


@click.command(epilog=MODEL)
@click.argument('model')
@click.argument('text')
@AS_JSON
def score(model: str, text: str, as_json: bool) -> None:
    """Tell how likely MODEL finds TEXT, or the text of stdin for -.

    Prints each token after the natural logarithm of its probability after those before it. Where the model has
    a token that ends texts, the text begins after it; else the first token has none.

    \b
    Example: blox score gpt2 'The capital of France is Paris.'
    """
    text = read_text() if text == '-' else text
    if not text or not is_utf8(text):
        raise ValueError(f'TEXT: expected text in UTF-8, found {text[:30]!r}')
    found = find(model, 'text-generation')
    tokenizer, config = tokenizer_of(found.card, model), found.card.config
    encoded = tokenizer.encode(text)
    net, params = read(found, model)
    (logs,) = bx.zoo.log_probabilities(net, params, [[*beginning(config), *encoded.ids]])
    spans = encoded.offsets[len(encoded.ids) - len(logs) :]
    tokens = [
        {'token': text[start:end], 'log_probability': round(float(log), 4)}
        for (start, end), log in zip(spans, logs)
    ]
    size = len(text[spans[0][0] :].encode())
    total = float(logs.sum(dtype='float64'))
    said = text_figures(-total, len(logs), size)
    figures = {
        'log_probability': round(total, 4),
        **{name: round(said[name], 4) for name in ('bits_per_byte', 'perplexity')},
    }
    if as_json:
        say(json.dumps({**figures, 'tokens': tokens}, indent=2))
        return
    for row in tokens:
        say(f'{row["log_probability"]:9.4f}  {row["token"]!r}')
    say(', '.join(f'{name} {value:.4f}' for name, value in figures.items()))


COMMANDS = (score,)
