"""Measure a model on data, example by example."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm

from blox.params import Params
from blox.wording import counted, printable
from blox.zoo.catalog.card import Card
from blox.zoo.evaluating import metrics, several
from blox.zoo.evaluating.examples import (
    Labelled,
    class_numbers,
    existing,
    labelled_images,
    labelled_texts,
    plain_texts,
    scored_pairs,
)
from blox.zoo.evaluating.journal import Journal, fingerprint
from blox.zoo.evaluating.report import Evaluation, Likeness, classified
from blox.zoo.inputs.text import Text, trouble
from blox.zoo.loading.load import read_card, text_preprocessor_of, tokenizer_of
from blox.zoo.models import families, family_of
from blox.zoo.running.batches import TextBatches, run_images
from blox.zoo.running.embedding import (
    TEMPLATE,
    TWO_TOWERS,
    label_embeddings,
    text_embedder,
    zero_shot_logits,
)
from blox.zoo.running.likelihood import beginning, each_log_probabilities, text_figures

Rows = Iterator[tuple[int, Sequence[float]]]
Note = Callable[[str, str], None]

# Tasks whose evaluation has classes.
OF_CLASSES = ('image-classification', 'text-classification', TWO_TOWERS)
# Texts that are tokens at one time, for tokens take more memory than texts; embeddings too.
_WINDOW = 4096


class Work(NamedTuple):
    """What is to be computed of data, and what becomes of it.

    Attributes:
      items: what tells the examples apart from those of other data.
      width: how many numbers there are of an example.
      run: makes rows of numbers of the examples with these indices; some may have none.
      report: makes the evaluation of the rows of all.
    """

    items: list[str]
    width: int
    run: Callable[[list[int]], Rows]
    report: Callable[[Mapping[int, Sequence[float]]], Evaluation]


def evaluate(
    model: Any,
    params: Params,
    data: str | os.PathLike[str],
    *,
    card: Card | str,
    labels: Sequence[str] = (),
    templates: Sequence[str] = (),
    journal: str | os.PathLike[str] | None = None,
    note: Note = lambda name, what: None,
) -> Evaluation:
    """Measure a model on data that it was not trained on.

    What `data` is depends on the model's task, as its card, or that of the name given, says it:
    'image-classification': a folder with a directory of images for each class (of one with parts, `test/`,
    else `val/`), or a CSV file with the columns file and label. Classes are known by label or number;
    where as many names as classes are neither, their natural order is the classes'.
    'zero-shot-image-classification': the same; `labels` are the classes, by default all names there
    are in sorted order, and each stands in all `templates`.
    'text-classification': a CSV file with the columns text and label, and text2 for pairs.
    Of both, where the card's scores are 'sigmoid' or 'none': a CSV file with labels or numbers in the place of
    label, as `image_table` and `text_table` read them. Of a file with a column split, test or val is taken.
    'sentence-embedding': a CSV file with the columns sentence1, sentence2 and score.
    'text-generation': a text file, or a folder of files that end in .txt, each read from its beginning.

    `note` is told of each example that cannot be read, which is left out, and of texts that were cut.
    With `journal` rows are kept in that file as they are computed; called again after an interruption
    with the same file, model and data, it goes on from there.

    Raises ValueError for data that does not fit the model, for a card of another model, and for tasks that
    are not among these.
    """
    path = existing(data)
    card = read_card(card) if isinstance(card, str) else card
    _check(model, card, labels, templates)
    work = _work(model, params, card, path, labels, templates or (TEMPLATE,), note)
    about = _identity(params, card, work, labels, templates) if journal else {}
    with Journal(journal, about, len(work.items), work.width) as kept:
        left = [i for i in range(len(work.items)) if i not in kept.rows]
        done = len(work.items) - len(left)
        with tqdm.tqdm(
            total=len(work.items), initial=done, unit='example', leave=False, disable=None
        ) as progress:
            for i, row in work.run(left):
                kept.add(i, row)
                progress.update()
        if not kept.rows:
            raise ValueError(
                f'{str(path)!r}: none of {counted(len(work.items), "example")} could be read'
            )
        return work.report(kept.rows)


def _check(model: Any, card: Card, labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raise ValueError for a card of another model, and what a model does not take."""
    if card.family != family_of(model).name or not model.config.computes_as(card.config):
        raise ValueError(
            f'the card of {card.name!r} is of another model: bx.zoo.read_card takes the arguments of bx.zoo.load, '
            f'overrides among them. Expected {model.config}, found {card.config}'
        )
    if isinstance(labels, str) or isinstance(templates, str):
        raise ValueError('expected lists of labels and of templates, found a text')
    if (labels or templates) and card.task != TWO_TOWERS:
        raise ValueError(
            f'{card.name!r} is for {card.task}, which takes no labels and no templates'
        )


def _check_classes(card: Card) -> None:
    """Raise ValueError for a model that does not tell one class from others."""
    count = families()[card.family].count_classes(card.config)
    if count < 2 or card.scores == 'none':
        found = 'gives values' if card.scores == 'none' else f'has {count or "no"} class'
        raise ValueError(
            f'{card.name!r} {found}; expected a model that tells classes apart, or a table of such values'
        )


def _identity(
    params: Params,
    card: Card,
    work: Work,
    labels: Sequence[str],
    templates: Sequence[str],
) -> dict[str, Any]:
    """Return all that decides what is computed of each example."""
    texts = card.tokenizer + repr((card.tokenizer_config, card.texts))
    return {
        'model': card.name,
        'weights': fingerprint(params),
        'config': repr(card.config),
        'scores': card.scores,
        'preprocessing': f'{card.preprocessor} {_digest([texts])}',
        'labels': list(labels),
        'templates': list(templates),
        'data': _digest(work.items),
    }


def _digest(items: Iterable[str]) -> str:
    text = '\0'.join(items)
    return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()


def _work(
    model: Any,
    params: Params,
    card: Card,
    path: Path,
    labels: Sequence[str],
    templates: Sequence[str],
    note: Note,
) -> Work:
    match card.task:
        case 'image-classification':
            call = lambda params, images: model(params, images)[0]  # noqa: E731
            if several.is_rated(path, card):
                data = several.rated(path, card, of_images=True)
                return _rated(card, data, _run_files(params, card, data.files, call, note), note)
            _check_classes(card)
            found = labelled_images(path)
            return _images(params, card, found, call, card.labels, note, in_order=True)
        case 'zero-shot-image-classification':
            found = labelled_images(path)
            chosen = tuple(labels) or tuple(sorted(found.classes))
            prepare = text_preprocessor_of(card, tokenizer_of(card, card.name))
            vectors = label_embeddings(model, params, prepare, chosen, templates)
            call = zero_shot_logits(model, vectors)
            return _images(params, card, found, call, chosen, note, in_order=False)
        case 'text-classification':
            if several.is_rated(path, card):
                data = several.rated(path, card, of_images=False)
                return _rated(card, data, _run_texts(model, params, card, data.texts, note), note)
            _check_classes(card)
            return _texts(model, params, card, labelled_texts(path), note)
        case 'sentence-embedding':
            return _pairs(model, params, card, path, note)
        case 'text-generation':
            return _windows(model, params, card, path)
    raise ValueError(
        f'{card.name!r} is for {card.task}; classifiers of images and texts, embeddings of sentences and '
        'models that write texts can be evaluated'
    )


# Classifiers.


_Logits = Callable[[list[int]], Iterator[tuple[int, np.ndarray]]]


def _images(
    params: Params,
    card: Card,
    found: Labelled,
    call: Callable[[Params, jax.Array], jax.Array],
    labels: tuple[str, ...],
    note: Note,
    *,
    in_order: bool,
) -> Work:
    names = [str(file) for file in found.files]
    run = _run_files(params, card, found.files, call, note)
    return _classifier(card, found, labels, names, run, note, in_order=in_order)


def _run_files(
    params: Params,
    card: Card,
    files: Sequence[Path],
    call: Callable[[Params, jax.Array], jax.Array],
    note: Note,
) -> _Logits:
    """Return what gives the logits of those files that can be read."""
    if card.preprocessor is None:
        raise ValueError(f'no image preprocessing is known for {card.name!r}')
    prepare = card.preprocessor

    def run(left: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        def skip(k: int, error: Exception) -> None:
            file = files[left[k]]
            why = str(getattr(error, 'strerror', None) or error)
            note(printable(file), why.removeprefix(f'{str(file)!r} '))

        for k, row in run_images(call, params, prepare, [files[i] for i in left], skip):
            yield left[k], row

    return run


def _texts(model: Any, params: Params, card: Card, found: Labelled, note: Note) -> Work:
    names = [text if isinstance(text, str) else ' | '.join(text) for text in found.texts]
    run = _run_texts(model, params, card, found.texts, note)
    # Without labels of its own the order of names is all there is.
    return _classifier(card, found, card.labels, names, run, note, in_order=not card.labels)


def _run_texts(
    model: Any, params: Params, card: Card, texts: Sequence[Text], note: Note
) -> _Logits:
    """Return what gives the logits of those texts that the model can take."""
    prepare = text_preprocessor_of(card, tokenizer_of(card, card.name))
    call = lambda params, *inputs: model(params, *inputs)[0]  # noqa: E731

    def run(left: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        batches = TextBatches(model, params, max(len(left), 1), call)
        chosen = {i: texts[i] for i in left}
        # A classifier was trained without the prompts that are for embeddings.
        yield from _over_texts(model, batches, prepare, chosen, note, prompt='')

    return run


def _rated(card: Card, data: several.Rated, run_logits: _Logits, note: Note) -> Work:
    """Return the work of a model of several classes, or of values."""

    def run(left: list[int]) -> Rows:
        for i, logits in run_logits(left):
            if np.isfinite(logits).all():
                yield i, logits.tolist()
            else:
                note(printable(data.names[i])[:60], 'the model gives no finite scores of it')

    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        return several.report(card, data, rows, len(data.names) - len(rows))

    items = [f'{name} {row.tolist()}' for name, row in zip(data.names, data.targets)]
    count = families()[card.family].count_classes(card.config)
    return Work(items, count, run, report)


def _over_texts(
    model: Any,
    batches: TextBatches,
    prepare: Any,
    texts: Mapping[int, Text],
    note: Note,
    *,
    prompt: str | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the key of each text that the model can take, and what it makes of it."""
    keys, cut = list(texts), 0
    for start in range(0, len(keys), _WINDOW):
        part = keys[start : start + _WINDOW]
        sound = {}
        for key, one in zip(part, prepare.encode([texts[key] for key in part], prompt=prompt)):
            if wrong := trouble(one, model.config):
                note(printable(texts[key])[:60], wrong)
                continue
            cut += one.is_cut
            sound[key] = one
        for found, rows in batches(sound):
            yield from zip(found, rows)
    if cut:
        note(
            f'{cut} of {counted(len(keys), "text")}',
            f'cut to their first {counted(prepare.max_tokens, "token")}',
        )


def _classifier(
    card: Card,
    found: Labelled,
    labels: tuple[str, ...],
    names: Sequence[str],
    run_logits: _Logits,
    note: Note,
    *,
    in_order: bool,
) -> Work:
    count = families()[card.family].count_classes(card.config) or len(labels)
    numbers, how = class_numbers(found.classes, labels, count, in_order=in_order)
    called = {number: name for name, number in numbers.items()}
    labels = labels or tuple(called.get(i, str(i)) for i in range(count))
    targets = [numbers[name] for name in found.names]

    def run(left: list[int]) -> Rows:
        for i, logits in run_logits(left):
            if np.isfinite(logits).all():
                yield i, metrics.judge(logits, targets[i], card.scores)
            else:
                note(printable(names[i])[:60], 'the model gives no finite scores of it')

    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        order = sorted(rows)
        return classified(
            card.task,
            f'{found.note} ({how})' if how else found.note,
            [names[i] for i in order],
            [targets[i] for i in order],
            [rows[i] for i in order],
            labels,
            card.scores,
            left_out=len(targets) - len(order),
        )

    stable = [f'{item} {target}' for item, target in zip(found.items, targets)]
    return Work(stable, 4, run, report)


# Embeddings of sentences.


def _pairs(model: Any, params: Params, card: Card, path: Path, note: Note) -> Work:
    pairs = scored_pairs(path)
    prepare = text_preprocessor_of(card, tokenizer_of(card, card.name))

    def run(left: list[int]) -> Rows:
        batches = text_embedder(model, params, prepare, 2 * max(len(left), 1))
        for start in range(0, len(left), _WINDOW):
            part = left[start : start + _WINDOW]
            texts = dict(enumerate(dict.fromkeys(text for i in part for text in pairs.texts[i])))
            found = dict(_over_texts(model, batches, prepare, texts, note))
            vectors = {texts[key]: vector for key, vector in found.items()}
            for i in part:
                first, second = (vectors.get(text) for text in pairs.texts[i])
                if first is None or second is None:
                    continue
                if math.isfinite(cosine := _cosine(first, second)):
                    yield i, (cosine,)
                else:
                    note(
                        printable(pairs.texts[i])[:60], 'the model gives no finite embeddings of it'
                    )

    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        order = sorted(rows)
        items = tuple(Likeness(*pairs.texts[i], pairs.scores[i], rows[i][0]) for i in order)
        for name in ('score', 'cosine'):
            if len({getattr(item, name) for item in items}) < 2:
                raise ValueError(
                    f'{str(path)!r}: expected pairs of two different {name}s or more, found {len(items)} '
                    f'pairs of one, whose correlation is nothing'
                )
        figures = metrics.correlation(
            np.array([item.cosine for item in items]), np.array([item.score for item in items])
        )
        left_out = len(pairs.texts) - len(order)
        data = printable(path)
        return Evaluation(card.task, data, len(order), left_out, figures, items=items)

    return Work([repr(item) for item in zip(*pairs)], 1, run, report)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


# Texts.


def _windows(model: Any, params: Params, card: Card, path: Path) -> Work:
    tokenizer = tokenizer_of(card, card.name)
    texts, context = plain_texts(path), card.config.context
    windows: list[list[int]] = []
    size = 0
    for name, text in texts.items():
        encoded = tokenizer.encode(text)
        begin = beginning(card.config)
        ids = [*begin, *encoded.ids]
        if max(ids, default=0) >= card.config.vocab_size:
            raise ValueError(
                f'{name!r}: expected tokens below {card.config.vocab_size}, found {max(ids)}: the tokenizer is '
                "another model's"
            )
        # A window begins with the last token of the one before, which is told there.
        windows += [ids[i : i + context + 1] for i in range(0, len(ids) - 1, context)]
        unseen = 0 if begin or not encoded.ids else encoded.offsets[0][1]
        size += len(text[unseen:].encode())
    if not windows:
        raise ValueError(f'{str(path)!r}: expected two tokens or more, found one')

    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        nats, tokens = np.array([*rows.values()]).sum(0)
        if not math.isfinite(nats):
            raise ValueError(
                f'{card.name!r}: expected finite probabilities of tokens, found others'
            )
        figures = text_figures(float(nats), int(tokens), size)
        data = f'{printable(path)}, {counted(int(tokens), "token")} and {counted(size, "byte")}'
        return Evaluation(card.task, data, len(texts), 0, figures)

    run = functools.partial(_nats, model, params, windows)
    return Work([repr(ids) for ids in windows], 2, run, report)


def _nats(model: Any, params: Params, windows: Sequence[Sequence[int]], left: list[int]) -> Rows:
    """Yield of each window how many nats its tokens take after the first, and how many these are."""
    found = each_log_probabilities(model, params, [windows[i] for i in left])
    for i, logs in zip(left, found):
        yield i, (-float(logs.sum(dtype=np.float64)), len(logs))
