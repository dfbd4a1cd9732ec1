"""Fine-tuning: a pretrained model trained on, with data of its user."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from blox.adapters import is_adapted
from blox.lora import merge_lora, save_lora
from blox.params import Params
from blox.zoo.catalog.card import Card
from blox.zoo.loading.load import init, load, read_card
from blox.zoo.models import family_of
from blox.zoo.saving.save import save
from blox.zoo.training import curves
from blox.zoo.training.data import Data
from blox.zoo.training.loop import Plan, Run, train
from blox.zoo.training.resuming import Epoch, Folder, Position, digest


def finetune(
    model: Any,
    params: Params,
    data: Data,
    *,
    out: str | os.PathLike[str] | None = None,
    card: Card | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    dtype: Any = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Params, tuple[Epoch, ...]]:
    """Trains what is trainable in `params`; the best of it, and what each epoch came to.

    The best is that of the highest accuracy on the held-out examples, then of the lowest loss;
    for text of the lowest loss. What is frozen gets no gradient and no optimizer state: freeze a
    part, or pass `bx.lora(params, ...)`, to train the rest. AdamW takes the steps, with a warmup
    and a cosine. `epochs`, `batch_size` and `learning_rate` are chosen by
    how much data and how many trainable parameters there are. `dtype` is what the model
    computes in; parameters and optimizer keep their own. Where no batch norm is trained, the model
    runs as it does in evaluation, with the batch statistics that it has.

    With `out`, a name ending in .safetensors, the best is saved there as `bx.zoo.save` does, adapters
    merged; `card` says more of it. Beside it come a .csv and a .png of the epochs, and the adapters
    alone as .lora.safetensors. Until then a folder, .training, holds the state: the same call, repeated
    after an interruption, goes on from there, to the very same result.

    Raises ValueError for data that do not fit the model, for a folder of another training, and if
    the loss is no longer finite, after saving the best so far; MemoryError if memory does not suffice.

    >>> import numpy as np
    >>> model, params = load('resnet-digits', num_classes=2)
    >>> halves = lambda i, rng: (np.full((8, 8, 1), i % 2, np.float32), np.array(i % 2))
    >>> data = Data(range(8), range(4), halves, labels=('dark', 'light'))
    >>> tuned, history = finetune(model, params.freeze().unfreeze('resnet/head/*'), data, epochs=9)
    >>> history[-1].held_out_accuracy
    1.0
    """
    plan = _plan(params, data, epochs, batch_size, learning_rate, seed, dtype)
    _check(model, data)
    result = _Result(Path(out), model, params, data, plan, card) if out is not None else None
    with result.held() if result else contextlib.nullcontext():
        return _trained(Run.of(model, params, data, plan), params, result, on_epoch)


def _trained(
    run: Run, params: Params, result: _Result | None, on_epoch: Callable[[Epoch], None] | None
) -> tuple[Params, tuple[Epoch, ...]]:
    """The best Params and what each epoch came to, written if there is where."""
    first, plan = run.first(params), run.plan
    try:
        position, wrong = train(
            run,
            result.folder.restore(first) if result else first,
            result.folder if result else None,
            on_epoch,
        )
    except jax.errors.JaxRuntimeError as error:
        _raise_memory(error, plan)
    if position.best is None or (wrong and not result):
        raise ValueError(f'{wrong}: try a learning rate below {plan.learning_rate:.3g}')
    params = params.merge(position.best.trainable).merge(position.best.stats)
    if result:
        result.write(params, position)
    if wrong and result:
        best = f'{str(result.out)!r} is the best before, of epoch {position.best_epoch}'
        raise ValueError(f'{wrong}: {best}; try a learning rate below {plan.learning_rate:.3g}')
    return params, position.history


def load_for_classes(
    name_or_path: str | os.PathLike[str], labels: Sequence[str], *, seed: int = 0
) -> tuple[Any, Params, Card]:
    """A pretrained model for these classes, its Params in float32, all trainable, and its card.

    The head is drawn anew with `seed`, unless the model has these very labels in this order.

    >>> model, params, card = load_for_classes('vit-digits', ['cat', 'dog'])
    >>> params['vit/head/w'], card.changes
    (Param(float32[96,2]), ('vit/head/* started anew for 2 other classes',))
    """
    # What was said of the weights as they are does not hold of what is made of them.
    card = dataclasses.replace(read_card(name_or_path), training='', metrics={})
    if card.labels == tuple(labels):
        model, params = load(name_or_path, dtype=jnp.float32, seed=seed)
        return model, params.unfreeze(), card
    model, params = load(name_or_path, dtype=jnp.float32, seed=seed, num_classes=len(labels))
    head = family_of(model).fresh['num_classes']
    # As many other classes leave the head as it is.
    drawn = jax.jit(lambda: init(model, seed).partition(head)[0])()
    change = f'{head} started anew for {len(labels)} other classes'
    card = dataclasses.replace(
        card,
        config=model.config,
        labels=tuple(labels),
        summary='',
        changes=(*card.changes, change),
    )
    return model, params.merge(drawn).unfreeze(), card


# The choices.


def _plan(
    params: Params,
    data: Data,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    seed: int,
    dtype: Any,
) -> Plan:
    """What was asked for, and where nothing was, what suits the data and the parameters."""
    count, size = len(data.training), params.split_trainable()[0].num_params
    if not count or not len(data.held_out) or not size:
        raise ValueError(
            'expected examples to train on, others to measure with, and parameters to train; '
            f'found {count}, {len(data.held_out)} and {size}'
        )
    batch_size = min(batch_size if batch_size is not None else _batch_size(data), count)
    plan = Plan(
        epochs if epochs is not None else _epochs(data, max(batch_size, 1)),
        batch_size,
        learning_rate if learning_rate is not None else _learning_rate(size),
        seed,
        str(jnp.dtype(dtype)) if dtype is not None else '',
    )
    sound = plan.epochs > 0 and plan.batch_size > 0 and 0 < plan.learning_rate < math.inf
    if not sound or not 0 <= seed < 2**32:
        raise ValueError(
            'expected positive epochs, batch_size and learning_rate, and a seed below 2**32; '
            f'found {plan}'
        )
    return plan


def _batch_size(data: Data) -> int:
    """A power of two, at most a quarter of the examples."""
    most = 32 if data.labels else 8
    quarter = len(data.training) // 4
    return min(most, max(4, 1 << max(quarter.bit_length() - 1, 0)))


def _epochs(data: Data, batch_size: int) -> int:
    """About a thousand steps; a text is soon learnt by heart."""
    least, most = (3, 100) if data.labels else (2, 10)
    return min(max(round(1000 * batch_size / len(data.training)), least), most)


def _learning_rate(size: int) -> float:
    """1e-2 for a thousand parameters, 1e-3 for a million, 1e-4 for a hundred million."""
    ratio = 1e6 / size
    return 1e-3 * min(ratio ** (1 / 3), ratio ** (1 / 2))


def _check(model: Any, data: Data) -> None:
    """Raises ValueError for a model that cannot learn from the data."""
    family = family_of(model)
    expected = 'image-classification' if data.labels else 'text-generation'
    if family.task != expected:
        raise ValueError(f'these data are for {expected}, found a model for {family.task}')
    classes = getattr(model.config, 'num_classes', 0)
    if data.labels and classes != len(data.labels):
        raise ValueError(
            f'expected a model of {len(data.labels)} classes, found {classes}: '
            'bx.zoo.load_for_classes(NAME, data.labels) gives one'
        )


def _raise_memory(error: Exception, plan: Plan) -> NoReturn:
    if 'RESOURCE_EXHAUSTED' not in str(error):
        raise error
    raise MemoryError(
        f'memory does not suffice for batches of {plan.batch_size}: try smaller ones, bfloat16, '
        'or adapters'
    ) from error


# Files.

_SUFFIXES = ('.safetensors', '.csv', '.png', '.lora.safetensors')


class _Result:
    """The files that a training ends with. Raises ValueError or OSError if they cannot be made."""

    def __init__(
        self, out: Path, model: Any, params: Params, data: Data, plan: Plan, card: Card | None
    ) -> None:
        self.out, self.model, self.data, self.plan = out, model, data, plan
        self.card = _card(card, out.stem, model, data)
        self.folder = Folder(out, _identity(model, params, data, plan))
        if out.suffix != '.safetensors':
            raise ValueError(f"expected a name that ends in '.safetensors', found {str(out)!r}")
        if not os.access(out.absolute().parent, os.W_OK):
            raise OSError(f'cannot write {str(out)!r}: its folder is missing or not writable')

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from the files, which must be free or those of this training."""
        with self.folder.held():
            there = [p for p in map(self.out.with_suffix, _SUFFIXES) if os.path.lexists(p)]
            if there and not self.folder.is_begun:
                what = f'{str(there[0])!r} is there already'
                raise FileExistsError(f'{what}: remove it, or name another')
            yield

    def write(self, params: Params, position: Position) -> None:
        """Writes all of them, the model last, and removes the training's folder."""
        if is_adapted(params):
            save_lora(self.out.with_suffix('.lora.safetensors'), params)
        curves.write_csv(self.out.with_suffix('.csv'), position.history)
        curves.write_png(self.out.with_suffix('.png'), position.history)
        card = self._described(params, position)
        save(self.out, self.model, merge_lora(params).unfreeze(), card=card)
        self.folder.remove()

    def _described(self, params: Params, position: Position) -> Card:
        """The card, with what was done and measured."""
        row, plan = position.history[position.best_epoch - 1], self.plan
        trained = params.split_trainable()[0].num_params
        return dataclasses.replace(
            self.card,
            training=f'fine-tuned by AdamW: {trained:,} parameters'
            f'{", adapters among them" if is_adapted(params) else ""}, '
            f'{plan.epochs} epochs of {len(self.data.training)} examples, of which epoch {row.epoch} '
            f'is this, batches of {plan.batch_size}, learning rate {plan.learning_rate:.3g}, '
            f'seed {plan.seed}' + (f', computed in {plan.dtype}' if plan.dtype else ''),
            metrics={
                'held_out_accuracy': round(row.held_out_accuracy, 4),
                'held_out_loss': round(row.held_out_loss, 4),
            },
        )


def _card(card: Card | None, name: str, model: Any, data: Data) -> Card:
    """What is known before the training. Raises ValueError unless a file can say it."""
    family = family_of(model)
    base = card or Card(name, family.name, model.config, family.task)
    known = dataclasses.replace(
        base,
        name=name,
        family=family.name,
        config=model.config,
        task=family.task,
        labels=data.labels,
        data='; then '.join(text for text in (base.data, data.summary) if text),
        changes=(*base.changes, f'fine-tuned from {base.name}') if card else (),
    )
    known.to_header()
    return known


def _identity(model: Any, params: Params, data: Data, plan: Plan) -> dict[str, str]:
    """All that decides a training's result, by name."""
    choices = {name.replace('_', ' '): str(value) for name, value in plan._asdict().items()}
    found = {'data': data.fingerprint, 'model': repr(model.config), 'weights': digest(params)}
    return {**choices, **found}
