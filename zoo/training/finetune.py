"""Fine-tuning: a pretrained model trained on, with data of its user."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from blox.params import Params
from blox.wording import counted
from blox.zoo.catalog.card import Card, default_scores
from blox.zoo.models import family_of
from blox.zoo.training import result
from blox.zoo.training.data import Data
from blox.zoo.training.folder import Folder, identity_of
from blox.zoo.training.loop import score, train
from blox.zoo.training.plan import Plan, make_plan
from blox.zoo.training.state import Epoch, best_of


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
    schedule: str = 'cosine',
    warmup: float | None = None,
    weight_decay: float = 0.05,
    layer_decay: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | str = (),
    mixup: float = 0.0,
    cutmix: float = 0.0,
    ema: float = 0.0,
    patience: int = 0,
    choose_by: str | None = None,
    seed: int = 0,
    dtype: Any = None,
    freeze_statistics: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Params, tuple[Epoch, ...]]:
    """Train what is trainable in `params`; return the best of it, and what each epoch came to.

    What is frozen gets no gradient and no optimizer state: freeze a part, or pass `bx.lora(params, ...)`
    or `bx.zoo.tune_last(model, params, n)`, to train the rest. A batch norm whose scale and offset are
    frozen works with the statistics that it has, which stay, unless `freeze_statistics` is False. `dtype`
    is what the model computes in; parameters and optimizer keep their own.

    The loss is what `card.scores`, or without a card `data.scores`, are trained by: cross entropy for a
    softmax, binary cross entropy for a sigmoid, squared error for values. `label_smoothing` gives that share
    of each target to all classes alike. `class_weights` are those of torch's losses, or 'balanced': inverse
    to how often a class is there. `mixup` and `cutmix`, timm's alphas, mix images of a batch.

    AdamW takes the steps. Its rate rises for `warmup`, a share of them (a tenth, at most 500, unless it is
    given), and falls to zero by `schedule`: 'cosine', 'linear', or not at all for 'constant'. Matrices
    decay by `weight_decay`. Each block below the head learns more slowly by the factor `layer_decay`.
    `epochs`, `batch_size` and `learning_rate` are chosen by how much data and how many trainable
    parameters there are.

    After each epoch the held-out examples are measured. The best epoch is chosen by the highest 'accuracy',
    then the lowest loss, or by what `choose_by` names: 'loss', which it is of texts and values,
    'balanced_accuracy' or 'macro_f1'. After `patience` epochs without a better one it ends early. With
    `ema`, such as 0.999, what is measured and returned is an average of the parameters over the steps,
    which moves so slowly, at first faster.

    With `out`, a name ending in .safetensors, the best is saved there as `bx.zoo.save` does, adapters
    merged; `card` says more of it, and so do its scores on `data.test`, if there is any. Beside it
    come a .csv and a .png of the epochs, an .html page that shows these, what is taken for what, and the
    worst mistakes, and the adapters alone as .lora.safetensors. Until then a
    folder, .training, holds the state: the same call, repeated after an interruption, goes on from
    there, to the very same result.

    Raises ValueError for data that do not fit the model, for a folder of another training, and if
    the loss is no longer finite, after saving the best so far; MemoryError if memory does not suffice.

    >>> import numpy as np
    >>> import blox as bx
    >>> model, params = bx.zoo.load('resnet-digits', num_classes=2)
    >>> halves = lambda i, rng: (np.full((8, 8, 1), i % 2, np.float32), np.array(i % 2))
    >>> data = Data(range(8), range(4), halves, labels=('dark', 'light'))
    >>> tuned, history = finetune(model, params.freeze().unfreeze('resnet/head/*'), data, epochs=9)
    >>> history[-1].held_out_accuracy
    1.0
    """
    plan = make_plan(
        params,
        data,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
        mixup=mixup,
        cutmix=cutmix,
        ema=ema,
        patience=patience,
        choose_by=choose_by,
        seed=seed,
        dtype=dtype,
        freeze_statistics=freeze_statistics,
        scores=_scores(model, data, card),
    )
    _check_task(model, data)
    if plan.way.mixing.is_on and family_of(model).task_of(model.config) != 'image-classification':
        raise ValueError('mixup and cutmix are of images, found a model of texts')
    result.check_show(data)
    with _memory_errors(plan):
        if out is not None:
            return _finetune_to(Path(out), model, params, data, plan, card, on_epoch)
        state, wrong = train(model, params, data, plan, None, on_epoch)
    if wrong:
        raise _diverged(wrong, plan)
    return params.merge(state.best), state.history


def _finetune_to(
    out: Path,
    model: Any,
    params: Params,
    data: Data,
    plan: Plan,
    card: Card | None,
    on_epoch: Callable[[Epoch], None] | None,
) -> tuple[Params, tuple[Epoch, ...]]:
    """Train with a folder for the state, and write the files."""
    card = result.card_before(card, out.stem, model, data)
    folder = Folder(out, identity_of(model, params, data, plan))
    result.check_name(out)
    with folder.held():
        if not folder.is_begun:
            result.check_free(out)
        state, wrong = train(model, params, data, plan, folder, on_epoch)
        if not state.history:
            raise _diverged(wrong, plan)
        params = params.merge(state.best)
        scores = score(model, params, data, data.test, plan) if data.test else None
        card = result.card_after(card, params, plan, state.history, scores)
        result.write(out, model, params, card, data, plan, state.history)
        folder.remove()
    if wrong:
        epoch = best_of(state.history, plan.choose_by).epoch
        saved = f'{str(out)!r} is the best before, of epoch {epoch}; '
        raise _diverged(wrong, plan, saved)
    return params, state.history


def _scores(model: Any, data: Data, card: Card | None) -> str:
    """Return what logits are trained to be. ValueError if the card and the data disagree."""
    family = family_of(model)
    usual = default_scores(
        model.config, family.task_of(model.config), family.count_classes(model.config)
    )
    if not data.scores:
        return card.scores if card else usual
    if card and card.scores != data.scores:
        raise ValueError(
            f'expected a card whose scores are {data.scores!r}, as of these data, found '
            f'{card.scores!r}: bx.zoo.load_for_classes(NAME, data.labels, scores=data.scores) gives one'
        )
    return data.scores


def _check_task(model: Any, data: Data) -> None:
    """Raise ValueError for a model that cannot learn from the data."""
    family = family_of(model)
    task = family.task_of(model.config)
    expected = 'image-classification' if data.labels else 'text-generation'
    if task != expected and not (
        data.labels and task in ('text-classification', 'token-classification')
    ):
        raise ValueError(f'these data are for {expected}, found a model for {task}')
    classes = family.count_classes(model.config)
    if data.labels and classes != len(data.labels):
        raise ValueError(
            f'expected a model of {counted(len(data.labels), "class", "classes")}, found {classes}: '
            'bx.zoo.load_for_classes(NAME, data.labels) gives one'
        )


def _diverged(wrong: str, plan: Plan, saved: str = '') -> ValueError:
    return ValueError(f'{wrong}: {saved}try a learning rate below {plan.learning_rate:.3g}')


@contextlib.contextmanager
def _memory_errors(plan: Plan) -> Iterator[None]:
    """Raise MemoryError, with what to try, where JAX has an error of its own."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        raise MemoryError(
            f'memory does not suffice for batches of {plan.batch_size}: try smaller ones, '
            'bfloat16, or adapters'
        ) from error
