"""What tests of the command line share: calling it, and small models for it."""

import dataclasses
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import blox as bx
from blox.zoo.cli.main import main

DIGITS = Path(__file__).parents[1] / 'examples' / 'digits'
END = '<|endoftext|>'
INTERRUPTIBLE = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)'


def blox(*args):
    """What the command prints and how it exits."""
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def printed(*args):
    result = blox(*args)
    assert result.exit_code == 0, result.output
    assert result.stderr == ''
    return result.stdout


def fails(*args):
    """The one line that the command prints when it fails."""
    result = blox(*args)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith('Error: ')
    return line


def misused(*args):
    """The one line that the command prints when it is called in a wrong way."""
    result = blox(*args)
    assert (result.exit_code, result.stdout) == (2, '')
    (line,) = result.stderr.splitlines()
    assert line.endswith(" --help'.")
    return line


def byte_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=257, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([], trainer)
    return tokenizer


def write_model(path, context, bias=None):
    """A text model with random weights; `bias` prefers a token above all others."""
    tokenizer = byte_tokenizer()
    sizes = {'vocab_size': tokenizer.get_vocab_size(), 'context': context, 'width': 16}
    sizes['end_tokens'] = (tokenizer.token_to_id(END),)
    model = bx.zoo.create('gpt2', **sizes, mlp_dim=16, depth=1, heads=2)
    params, rng = bx.zoo.init(model), np.random.default_rng(0)
    embeddings = rng.normal(size=params['gpt2/token_embed/w'].shape)
    # A token that points where the last norm's offset does is always the likeliest.
    if bias is not None:
        params = params.set('gpt2/norm/offset', 20 * embeddings[bias])
    params = params.set('gpt2/token_embed/w', embeddings)
    card = dataclasses.replace(bx.zoo.card('gpt2'), tokenizer=tokenizer.to_str())
    bx.zoo.save(path, model, params, card=card)
    return path


def write_encoder(path, vocab_size=257, ends=True, card=None, **fields):
    """A BERT with random weights, of sentences or another task; its tokenizer ends texts with END."""
    tokenizer = byte_tokenizer()
    if ends:
        end = (END, tokenizer.token_to_id(END))
        pair = f'$A {END} $B:1 {END}:1'
        tokenizer.post_processor = processors.TemplateProcessing(
            f'$A {END}', pair, special_tokens=[end]
        )
    sizes = {'width': 16, 'depth': 1, 'heads': 2, 'mlp_dim': 32, 'context': 64}
    model = bx.zoo.create('minilm-l6', vocab_size=vocab_size, **sizes, **fields)
    said = {'tokenizer': tokenizer.to_str(), **(card or {})}
    card = dataclasses.replace(bx.zoo.card('minilm-l6'), **said)
    params = bx.zoo.init(model)
    shape = params['bert/token_embed/w'].shape
    params = params.set('bert/token_embed/w', np.random.default_rng(0).normal(size=shape))
    bx.zoo.save(path, model, params, card=card)
    return path


def write_clip(path, **fields):
    """A CLIP of gray images and bytes with random weights; texts begin and end with END."""
    tokenizer = byte_tokenizer()
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        f'{END} $A {END}', special_tokens=[(END, end)]
    )
    sizes = {'width': 16, 'depth': 1, 'heads': 2, 'mlp_dim': 16}
    towers = {f'{tower}_{name}': n for tower in ('image', 'text') for name, n in sizes.items()}
    about = {'image_size': 8, 'patch_size': 4, 'in_channels': 1, 'context': 40, 'embed_dim': 16}
    # Tokens of a random tower differ little where they are not the last.
    about |= {'text_pool': 'last', 'text_causal': False}
    model = bx.zoo.create('clip-b32', **{**towers, **about, 'vocab_size': 257, **fields})
    params, rng = bx.zoo.init(model), np.random.default_rng(0)
    for name in params:
        if name.endswith(('/w', '_token', '_embed')):
            params = params.set(name, rng.normal(size=params[name].shape) / 2)
    prepare = bx.zoo.preprocessor('vit-digits')
    said = {'tokenizer_config': {'pad_token': 'a'}, 'scores': ''}
    card = dataclasses.replace(
        bx.zoo.card('clip-b32'),
        config=model.config,
        preprocessor=prepare,
        tokenizer=tokenizer.to_str(),
        **said,
    )
    bx.zoo.save(path, model, params, card=card)
    return path
