"""Measure a model on data, example by example."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from tokenizers import Tokenizer

from blox.params import Params
from blox.wording import printable
from blox.zoo.catalog.card import Card
from blox.zoo.evaluating import metrics
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
from blox.zoo.evaluating.report import Evaluation, Item
from blox.zoo.inputs.text import Text, trouble
from blox.zoo.inputs.tokenizers import parse_tokenizer
from blox.zoo.loading.load import text_preprocessor_of
from blox.zoo.models import families
from blox.zoo.running.batches import TextBatches, run_images
from blox.zoo.running.embedding import (
    TEMPLATE,
    TWO_TOWERS,
    label_embeddings,
    text_embedder,
    zero_shot,
)
from blox.zoo.running.scoring import score

Rows = Iterator[tuple[int, Sequence[float]]]
Note = Callable[[str, str], None]

# Texts that are tokens at one time.
_WINDOW = 4096
# Logits of a batch of windows of text, at most.
_MOST_LOGITS = 1 << 26


class Work(NamedTuple):
    """What is to be computed of data, and what becomes of it.

    Attributes:
      names: of each example, and what is right of it.
      run: makes rows of numbers of the examples with these indices; some may have none.
      report: makes the evaluation of the rows of all.
    """

    names: list[tuple[str, str]]
    run: Callable[[list[int]], Rows]
    report: Callable[[Mapping[int, Sequence[float]]], Evaluation]


def evaluate(
    model: Any,
    params: Params,
    data: str | os.PathLike[str],
    *,
    card: Card,
    labels: Sequence[str] = (),
    templates: Sequence[str] = (TEMPLATE,),
    journal: str | os.PathLike[str] | None = None,
    note: Note = lambda name, what: None,
) -> Evaluation:
    """Measure a model on data that it was not trained on.

    What `data` is depends on the model's task, as its card says it:
    'image-classification': a folder with a directory of images for each class (of one with parts, `test/`,
    else `val/`), or a CSV file with the columns file and label. Classes are known by label or number;
    where as many names as classes are neither, their sorted order is the classes'.
    'zero-shot-image-classification': the same; `labels` are the classes, by default all names there
    are in sorted order, and each stands in all `templates`.
    'text-classification': a CSV file with the columns text and label, and text2 for pairs.
    'sentence-embedding': a CSV file with the columns sentence1, sentence2 and score.
    'text-generation': a text file, or a folder of files that end in .txt, each read from its beginning.

    `note` is told of each example that cannot be read, which is left out, and what of a text was cut.
    With `journal` rows are kept in that file as they are computed; called again after an interruption
    with the same file, model and data, it goes on from there.

    Raises ValueError for data that does not fit the model, and for tasks that are not among these.
    """
    path = existing(data)
    work = _work(model, params, card, path, labels, templates, note)
    about = {
        'model': card.name,
        'weights': fingerprint(params) if journal else '',
        'config': repr(card.config),
        'data': hashlib.sha256(repr(work.names).encode('utf-8', 'surrogateescape')).hexdigest(),
    }
    with Journal(journal, about) as kept:
        left = [i for i in range(len(work.names)) if i not in kept.rows]
        done = len(work.names) - len(left)
        with tqdm.tqdm(
            total=len(work.names), initial=done, unit='example', leave=False, disable=None
        ) as progress:
            for i, row in work.run(left):
                kept.add(i, row)
                progress.update()
        if not kept.rows:
            raise ValueError(f'{str(path)!r}: none of {len(work.names)} examples could be read')
        return work.report(kept.rows)


def _work(
    model: Any,
    params: Params,
    card: Card,
    path: Path,
    labels: Sequence[str],
    templates: Sequence[str],
    note: Note,
) -> Work:
    if labels and card.task != TWO_TOWERS:
        raise ValueError(f'{card.name!r} is for {card.task}, whose labels are its own')
    match card.task:
        case 'image-classification':
            return _images(
                model, params, card, labelled_images(path), _own_scores(model, card), note
            )
        case 'zero-shot-image-classification':
            found = labelled_images(path)
            chosen = tuple(labels) or tuple(sorted({*found.names}))
            prepare = text_preprocessor_of(card, _tokenizer(card))
            vectors = label_embeddings(model, params, prepare, chosen, templates)
            call = zero_shot(model, vectors)
            return _images(model, params, card, found, call, note, chosen)
        case 'text-classification':
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


def _own_scores(model: Any, card: Card) -> Callable[[Params, jax.Array], jax.Array]:
    """Return the program from images to scores of the classes that the model has."""
    count = families()[card.family].count_classes(card.config)
    if not count:
        raise ValueError(f'{card.name!r} has no head, and so no classes to tell apart')
    if card.scores == 'none':
        raise ValueError(f'{card.name!r} gives values, not classes')
    return lambda params, images: score(model(params, images)[0], card.scores)


def _images(
    model: Any,
    params: Params,
    card: Card,
    found: Labelled,
    call: Callable[[Params, jax.Array], jax.Array],
    note: Note,
    labels: tuple[str, ...] = (),
) -> Work:
    if card.preprocessor is None:
        raise ValueError(f'no image preprocessing is known for {card.name!r}')
    prepare, scores = card.preprocessor, model.config.scores if labels else card.scores
    targets, labels = _targets(card, found, labels)
    files = [Path(file) for file in found.inputs if isinstance(file, Path)]

    def run(left: list[int]) -> Rows:
        def skip(k: int, error: Exception) -> None:
            note(printable(files[left[k]]), str(getattr(error, 'strerror', None) or error))

        own = [files[i] for i in left]
        for k, row in run_images(call, params, prepare, own, skip):
            yield left[k], _judged(row, targets[left[k]], scores)

    return _classifier(card, found, targets, labels, run, [str(file) for file in files])


def _relative(name: str, root: Path | None) -> str:
    """Return the name of an example that holds wherever the data is looked at from."""
    return os.path.relpath(name, root) if root else name


def _texts(model: Any, params: Params, card: Card, found: Labelled, note: Note) -> Work:
    if card.scores == 'none' or not model.config.num_classes:
        raise ValueError(f'{card.name!r} gives values, or has no head: it tells no classes apart')
    targets, labels = _targets(card, found)
    prepare = text_preprocessor_of(card, _tokenizer(card))
    texts = [text for text in found.inputs if not isinstance(text, Path)]
    names = [text if isinstance(text, str) else ' | '.join(text) for text in texts]
    call = lambda params, *inputs: score(model(params, *inputs)[0], card.scores)  # noqa: E731

    def run(left: list[int]) -> Rows:
        batches = TextBatches(model, params, max(len(left), 1), call)
        for i, row in _over_texts(model, batches, prepare, left, texts, names, note, prompt=''):
            yield i, _judged(row, targets[i], card.scores)

    return _classifier(card, found, targets, labels, run, names)


def _over_texts(
    model: Any,
    batches: TextBatches,
    prepare: Any,
    left: list[int],
    texts: Sequence[Text],
    names: Sequence[str],
    note: Note,
    *,
    prompt: str | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the index of each text that the model can take, and what it makes of it."""
    # Tokens take more memory than texts.
    for start in range(0, len(left), _WINDOW):
        part = left[start : start + _WINDOW]
        sound = {}
        for i, one in zip(part, prepare.encode([texts[i] for i in part], prompt=prompt)):
            if wrong := trouble(one, model.config):
                note(names[i][:60], wrong)
                continue
            if one.is_cut:
                note(names[i][:60], f'cut to its first {len(one.ids)} tokens')
            sound[i] = one
        for keys, rows in batches(sound):
            yield from zip(keys, rows)


def _targets(
    card: Card, found: Labelled, labels: tuple[str, ...] = ()
) -> tuple[list[int], tuple[str, ...]]:
    """Return the class of each example, and the name of each class."""
    count = len(labels) or families()[card.family].count_classes(card.config)
    known = labels or card.labels
    numbers = class_numbers(found.names, known, count)
    names = {number: name for name, number in numbers.items()}
    shown = tuple(known) or tuple(names.get(i, str(i)) for i in range(count))
    return [numbers[name] for name in found.names], shown


def _judged(row: np.ndarray, target: int, scores: str) -> tuple[float, ...]:
    predicted, rank, own, best = metrics.judge(row, target)
    # Of scores that are judged each by itself none is the probability of one class among all.
    return predicted, rank, own if scores == 'softmax' else math.nan, best


def _classifier(
    card: Card,
    found: Labelled,
    targets: Sequence[int],
    labels: tuple[str, ...],
    run: Callable[[list[int]], Rows],
    names: Sequence[str],
) -> Work:
    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        order = sorted(rows)
        predicted, ranks, own, best = np.array([rows[i] for i in order]).T
        right = np.array([targets[i] for i in order])
        judged = metrics.Judged(right, predicted.astype(int), ranks.astype(int), own, best)
        table = metrics.confusion(judged, len(labels))
        items = tuple(
            Item(names[i], labels[t], labels[int(p)], float(s), int(r))
            for i, t, p, s, r in zip(order, right, predicted, best, ranks)
        )
        return Evaluation(
            card.task,
            found.note,
            len(order),
            len(targets) - len(order),
            metrics.classification(judged, table),
            metrics.by_class(table, labels),
            table,
            labels,
            metrics.reliability(judged),
            items,
        )

    stable = [_relative(name, found.root) for name in names]
    return Work([*zip(stable, map(str, targets))], run, report)


# Embeddings of sentences.


def _pairs(model: Any, params: Params, card: Card, path: Path, note: Note) -> Work:
    pairs = scored_pairs(path)
    prepare = text_preprocessor_of(card, _tokenizer(card))

    def run(left: list[int]) -> Rows:
        texts = [*dict.fromkeys(text for i in left for text in pairs.texts[i])]
        places = {text: k for k, text in enumerate(texts)}
        batches = text_embedder(model, params, prepare, max(len(texts), 1))
        every = list(range(len(texts)))
        rows = dict(_over_texts(model, batches, prepare, every, texts, texts, note))
        for i in left:
            a, b = (rows.get(places[text]) for text in pairs.texts[i])
            if a is not None and b is not None:
                yield i, (_cosine(a, b),)

    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        order = sorted(rows)
        found = np.array([rows[i][0] for i in order])
        wanted = np.array([pairs.scores[i] for i in order])
        if len(order) < 2:
            raise ValueError(f'{str(path)!r}: expected two pairs or more, found {len(order)}')
        figures = metrics.correlation(found, wanted)
        left_out = len(pairs.texts) - len(order)
        return Evaluation(card.task, printable(path), len(order), left_out, figures)

    names = [(' | '.join(pair), str(value)) for pair, value in zip(*pairs)]
    return Work(names, run, report)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


# Texts.


class _Window(NamedTuple):
    """Tokens of one text, of which all but the first are to be told from those before them."""

    text: str
    start: int
    ids: list[int]


def _windows(model: Any, params: Params, card: Card, path: Path) -> Work:
    texts, tokenizer, context = plain_texts(path), _tokenizer(card), card.config.context
    windows: list[_Window] = []
    size = 0
    for name, text in texts.items():
        encoded = tokenizer.encode(text)
        # Where the model has a token that ends texts, the next one begins after it.
        begin = [card.config.end_tokens[0]] if card.config.end_tokens else []
        ids = [*begin, *encoded.ids]
        windows += [
            _Window(name, start, ids[start : start + context + 1])
            for start in range(0, len(ids) - 1, context)
        ]
        unseen = 0 if begin else encoded.offsets[0][1]
        size += len(text[unseen:].encode())
    if not windows:
        raise ValueError(f'{str(path)!r}: expected two tokens or more, found one')

    def run(left: list[int]) -> Rows:
        yield from _nats(model, params, [windows[i].ids for i in left], left)

    def report(rows: Mapping[int, Sequence[float]]) -> Evaluation:
        nats, tokens = np.array([*rows.values()]).sum(0)
        figures = {
            'bits_per_byte': nats / math.log(2) / size,
            'loss': nats / tokens,
            'perplexity': math.exp(nats / tokens),
        }
        data = f'{printable(path)}: {int(tokens)} tokens, {size} bytes'
        return Evaluation(
            card.task, data, len(texts), 0, {name: float(x) for name, x in figures.items()}
        )

    digests = [(f'{one.text} {one.start}', _digest(one.ids)) for one in windows]
    return Work(digests, run, report)


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(ids).encode()).hexdigest()


def _nats(model: Any, params: Params, texts: Sequence[Sequence[int]], keys: Sequence[int]) -> Rows:
    """Yield the key of each sequence, how many nats its tokens take after the first, and their number."""
    if not texts:
        return
    longest = max(map(len, texts)) - 1
    count = max(1, min(len(texts), _MOST_LOGITS // (longest * model.config.vocab_size)))
    apply = jax.jit(functools.partial(_batch_nats, model))
    for start in range(0, len(texts), count):
        part = texts[start : start + count]
        ids = np.zeros((count, longest + 1), np.int32)
        mask = np.zeros((count, longest), bool)
        for row, own in enumerate(part):
            ids[row, : len(own)] = own
            mask[row, : len(own) - 1] = True
        found = np.asarray(apply(params, jnp.asarray(ids), jnp.asarray(mask)), np.float64)
        for key, own, nats in zip(keys[start:], part, found):
            yield key, (float(nats), len(own) - 1)


def _batch_nats(model: Any, params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
    logits = model(params, ids[:, :-1])[0].astype(jnp.float32)
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
    return jnp.where(mask, nats, 0).sum(-1)


def _tokenizer(card: Card) -> Tokenizer:
    if not card.tokenizer:
        raise ValueError(f'no tokenizer is known for {card.name!r}')
    return parse_tokenizer(Path(card.name), card.tokenizer)
