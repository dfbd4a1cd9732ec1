"""Trains a small GPT-2 on the language reference that every CPython carries for `help()`.

    python examples/train_pydocs.py

Data: `pydoc_data.topics` (Python Software Foundation License Version 2). Every tenth topic is held
out, and paragraphs of those that also stand in other topics are taken out of the training text.
"""

import argparse
import dataclasses
import platform
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import blox as bx

NAME = 'gpt2-pydocs'
END = '<|endoftext|>'
VOCAB, CONTEXT = 1024, 256
# So little text is soon learnt by heart: few steps, much dropout and weight decay.
STEPS, BATCH, PEAK_RATE = 1000, 16, 2e-3


def split_topics(topics: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Names of held-out topics, and the training texts of the others."""
    names = sorted(topics)
    held_out = names[::10]
    seen = {p for name in held_out for p in topics[name].split('\n\n')}
    texts = [
        '\n\n'.join(p for p in topics[name].split('\n\n') if p not in seen)
        for name in names
        if name not in held_out
    ]
    return held_out, texts


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train(
    tokenizer: Tokenizer, texts: list[str], seed: int, steps: int
) -> tuple[object, bx.Params]:
    """A trained model and its Params."""
    end = tokenizer.token_to_id(END)
    stream = np.concatenate([[end, *tokenizer.encode(text).ids] for text in texts])
    model = bx.zoo.create(
        'gpt2',
        vocab_size=VOCAB,
        context=CONTEXT,
        width=96,
        depth=5,
        heads=4,
        mlp_dim=384,
        embed_dropout_rate=0.2,
        attention_dropout_rate=0.0,
        dropout_rate=0.2,
        end_tokens=(end,),
    )
    params = bx.zoo.init(model, seed)
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, steps // 20, steps, PEAK_RATE / 20)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            rate,
            b2=0.98,
            weight_decay=0.3,
            mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p),
        ),
    )
    state = optimizer.init(params.split_trainable()[0])

    @jax.jit
    def step(params, state, tokens):
        trainable, rest = params.split_trainable()

        def loss_fn(trainable, rest):
            logits, new = model(trainable.merge(rest), tokens[:, :-1], is_training=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
            return losses.mean(), new.split_trainable()[1]

        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable, rest)
        updates, state = optimizer.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates).merge(rest), state, loss

    rng = np.random.default_rng(seed)
    with tqdm.trange(steps, desc=NAME, unit='step') as bar:
        for i in bar:
            starts = rng.integers(0, len(stream) - CONTEXT - 1, BATCH)
            tokens = np.stack([stream[s : s + CONTEXT + 1] for s in starts])
            params, state, loss = step(params, state, jnp.asarray(tokens, jnp.int32))
            if i % 20 == 0:
                bar.set_postfix(loss=f'{loss:.3f}')
    return model, params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=Path(f'{NAME}.safetensors'))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--steps', type=int, default=STEPS)
    args = parser.parse_args()
    held_out, texts = split_topics(topics)
    tokenizer = train_tokenizer(texts)
    model, params = train(tokenizer, texts, args.seed, args.steps)
    card = bx.zoo.Card(
        name=NAME,
        family='gpt2',
        config=model.config,
        task='text-generation',
        summary="A small GPT-2 that writes in the manner of Python's language reference.",
        training=f'examples/train_pydocs.py --seed {args.seed} --steps {args.steps}, '
        f'Python {platform.python_version()}',
        data=f'pydoc_data.topics of CPython {platform.python_version()} without the held-out topics '
        f'{", ".join(held_out)}; Python Software Foundation License Version 2',
        license='MIT',
        tokenizer=tokenizer.to_str(),
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in held_out:
            Path(folder, f'{name}.txt').write_text(topics[name], 'utf-8')
        bits = bx.zoo.evaluate(model, params, folder, card=card).metrics['bits_per_byte']
    print(f'{NAME}: {params.num_params:,} parameters, {bits:.3f} bits per byte held out')
    card = dataclasses.replace(card, metrics={'held_out_bits_per_byte': round(bits, 3)})
    bx.zoo.save(args.out, model, params, card=card)
    print(f'saved {args.out}, {args.out.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
