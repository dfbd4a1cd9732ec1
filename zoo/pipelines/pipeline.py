"""From a name to answers: a model with what makes its inputs, and answers of its outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image

from blox.params import Params
from blox.zoo.catalog.card import Card
from blox.zoo.inputs.images import ImageInput
from blox.zoo.inputs.text import EncodedText, TextPreprocessor, is_utf8, trouble
from blox.zoo.inputs.tokenizers import special_token
from blox.zoo.loading.load import load, read_card, text_preprocessor_of, tokenizer_of
from blox.zoo.running import answers
from blox.zoo.running.answers import Asked, Part
from blox.zoo.running.batches import run_images
from blox.zoo.running.embedding import (
    TEMPLATE,
    TWO_TOWERS,
    image_embedder,
    label_embeddings,
    text_embedder,
    zero_shot,
)
from blox.zoo.running.scoring import Answer, best, score
from blox.zoo.running.writing import likeliest, written


def pipeline(
    name_or_path: str | os.PathLike[str],
    *,
    task: str = '',
    labels: Sequence[str] = (),
    templates: Sequence[str] = (TEMPLATE,),
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    state: str = '',
    dtype: Any = None,
    seed: int = 0,
    **overrides: Any,
) -> Pipeline:
    """Load a model with all that leads from inputs as people have them to answers.

    What it takes and gives depends on the task, which the model's card says: images give a `Classifier`'s
    labels and scores, of a CLIP those of `labels`, each in all `templates`; texts what their task asks; prompts a
    `Writer`'s texts. `task='embedding'` gives an `Embedder` of images or texts; a model without a head gives one
    anyway. Another `task` is that of a head which the checkpoint has. Other arguments are those of `load`, and
    `overrides` change the config.

    Raises ValueError for a task that has no pipeline, and where the checkpoint lacks what it takes.

    >>> import numpy as np
    >>> classify = pipeline('vit-digits')
    >>> [answer.label for answer in classify(np.zeros((8, 8), np.uint8), top=1)]
    ['1']
    >>> write = pipeline('gpt2-pydocs')
    >>> write('The for statement', max_new_tokens=2, temperature=0)[:17]
    'The for statement'
    """
    if isinstance(labels, str) or isinstance(templates, str):
        raise ValueError(
            "expected lists of labels and of templates, such as ['a cat', 'a dog'], found a text"
        )
    where: dict[str, Any] = {'source': source, 'revision': revision, 'state': state}
    card = read_card(name_or_path, **where, **overrides)
    embeds = task in EMBEDDING
    if task and not embeds and task != card.task:
        overrides['task'] = task
        card = read_card(name_or_path, **where, **overrides)
    # What is wrong shows before the weights are read.
    kind = _kind_of(card, embeds)
    kind.check(card, labels)
    model, params = load(name_or_path, **where, dtype=dtype, seed=seed, **overrides)
    return kind(card, model, params, tuple(labels), tuple(templates))


def _kind_of(card: Card, embeds: bool) -> type[Pipeline]:
    """Return the pipeline for a card's task. ValueError if there is none."""
    is_of_images = card.task in ('image-classification', TWO_TOWERS)
    has_head = card.task == TWO_TOWERS or getattr(card.config, 'num_classes', 1) > 0
    if card.task == 'sentence-embedding' or (is_of_images and (embeds or not has_head)):
        return Embedder
    if embeds:
        raise ValueError(f'{card.name!r} is for {card.task}, and makes no embeddings')
    if is_of_images:
        return Classifier
    if card.task in answers.TASKS:
        return Reader
    if card.task == 'text-generation':
        return Writer
    raise ValueError(f'{card.name!r} is for {card.task}, which has no pipeline')


# Ours, and transformers' name of it.
EMBEDDING = ('embedding', 'feature-extraction')


class Pipeline:
    """A model, and what is between it and people.

    Attributes:
      card, model, params: as `read_card` and `load` give them; nothing is changed by a call.
      prepare: what makes a batch of images or of texts, None where the task needs none.
      apply: the pure function that is compiled, from params and a batch to scores or embeddings; None for
        texts, whose batches depend on their task.
    """

    prepare: Any = None
    apply: Callable[[Params, jax.Array], jax.Array] | None = None

    def __init__(
        self,
        card: Card,
        model: Any,
        params: Params,
        labels: tuple[str, ...],
        templates: tuple[str, ...],
    ) -> None:
        self.card, self.model, self.params = card, model, params

    @classmethod
    def check(cls, card: Card, labels: Sequence[str]) -> None:
        """Raise ValueError for a card that lacks what the pipeline takes, and for labels that it has no use for."""
        if len(labels):
            raise ValueError(f'{card.name!r} is for {card.task}, which takes no labels')

    if TYPE_CHECKING:
        # Each kind has a call of its own.
        __call__: Callable[..., Any]

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.card.name!r}, {self.card.task})'

    def _texts(self) -> TextPreprocessor:
        return text_preprocessor_of(self.card, tokenizer_of(self.card, self.card.name))


class Classifier(Pipeline):
    """Images to labels and scores."""

    @classmethod
    def check(cls, card: Card, labels: Sequence[str]) -> None:
        """Raise ValueError for a card without preprocessing, and for a CLIP without labels."""
        if card.task != TWO_TOWERS:
            super().check(card, labels)
        elif not len(labels):
            raise ValueError(
                f"{card.name!r} knows no labels of its own: pass labels=['a cat', ...]"
            )
        _preprocessor(card)

    def __init__(self, card: Card, model: Any, params: Params, labels: Any, templates: Any) -> None:
        super().__init__(card, model, params, labels, templates)
        self.prepare, self.labels = _preprocessor(card), labels or card.labels
        if card.task != TWO_TOWERS:
            call = lambda params, images: score(model(params, images)[0], card.scores)  # noqa: E731
        else:
            vectors = label_embeddings(model, params, self._texts(), labels, templates)
            call = zero_shot(model, vectors)
        # One object, so that it is compiled once.
        self.apply = jax.jit(call)

    def __call__(
        self, inputs: ImageInput | Sequence[ImageInput], *, top: int = 5
    ) -> list[Answer] | list[list[Answer]]:
        """Return the `top` best labels of an image, or of each of several, with their scores.

        An image is a path, a file's bytes, a Pillow image, or a uint8 array [height, width, channels].
        """
        _check_top(top)
        rows, is_single = _over_images(self, inputs)
        found = [best(row, self.labels, top, self.card.scores) for row in rows]
        return found[0] if is_single else found


class Embedder(Pipeline):
    """Images or texts to vectors, for comparing them."""

    def __init__(self, card: Card, model: Any, params: Params, labels: Any, templates: Any) -> None:
        super().__init__(card, model, params, labels, templates)
        self._takes_texts = card.task in ('sentence-embedding', TWO_TOWERS)
        if card.task != 'sentence-embedding':
            self.apply = jax.jit(image_embedder(model))
            self.prepare = _preprocessor(card)
        if self._takes_texts:
            self._prepare_texts = self._texts()
            self.prepare = self.prepare or self._prepare_texts

    def __call__(self, inputs: Any, *, prompt_name: str | None = None) -> np.ndarray:
        """Return a vector [width], or [inputs, width] of several.

        A model of sentences takes texts; one of images images, as `Classifier` does; a CLIP both, and a text is
        taken for a file where there is one of its name. `prompt_name` is of texts.
        """
        if self.card.task == 'sentence-embedding':
            inputs = inputs if isinstance(inputs, str) else _strings(inputs)
        single = isinstance(inputs, str) or not isinstance(inputs, list | tuple)
        given: list[Any] = [inputs] if single else list(inputs)
        if self._takes_texts and all(map(self._is_text, given)):
            encoded = self._prepare_texts.encode(given, prompt_name=prompt_name)
            rows = self._over_texts(encoded)
        else:
            if prompt_name is not None:
                raise ValueError('expected texts to put a prompt before, found images')
            rows, single = _over_images(self, inputs)
        return rows[0] if single else np.stack(rows)

    def _over_texts(self, encoded: Sequence[EncodedText]) -> list[np.ndarray]:
        for i, one in enumerate(encoded):
            if wrong := trouble(one, self.model.config):
                _refuse(i, wrong)
        run = text_embedder(self.model, self.params, self._prepare_texts, len(encoded))
        found = run(dict(enumerate(encoded)))
        rows = {key: row for keys, made in found for key, row in zip(keys, made)}
        return [rows[i] for i in range(len(encoded))]

    def _is_text(self, given: Any) -> bool:
        if not isinstance(given, str):
            return False
        return self.card.task == 'sentence-embedding' or not os.path.isfile(given)


class Reader(Pipeline):
    """Texts to what their task asks: classes, words in the place of masks, spans."""

    def __init__(self, card: Card, model: Any, params: Params, labels: Any, templates: Any) -> None:
        super().__init__(card, model, params, labels, templates)
        self._tokenizer = tokenizer_of(card, card.name)
        self.prepare = text_preprocessor_of(card, self._tokenizer)

    def __call__(self, inputs: str | Sequence[str], *, first: str = '', top: int = 5) -> Any:
        """Return answers for a text, or for each of several; `first` goes before each: a premise, a question.

        Of a 'text-classification' they are the `top` best labels with their scores; of 'multiple-choice', for all
        texts together, the best of them; of other tasks a `Part` for each token, mask or span, with its answers.
        """
        _check_top(top)
        single, given = isinstance(inputs, str), _strings(inputs)
        if wrong := [text for text in (first, *given) if not is_utf8(text)]:
            raise ValueError(f'expected texts in UTF-8, found {wrong[0][:30]!r}')
        mask = special_token(self.card.tokenizer_config, 'mask_token', '[MASK]')
        asked = Asked(self.card.labels, self.card.scores, top, first)
        parts: dict[int, list[Part]] = dict(
            answers.answer(
                self.model, self.params, self.prepare, self._tokenizer, mask, given, asked, _refuse
            )
        )
        whole = self.card.task in ('text-classification', 'multiple-choice')
        found = [parts[i][0].answers if whole else parts[i] for i in sorted(parts)]
        return found[0] if single or self.card.task == 'multiple-choice' else found


class Writer(Pipeline):
    """Prompts to texts."""

    def __init__(self, card: Card, model: Any, params: Params, labels: Any, templates: Any) -> None:
        super().__init__(card, model, params, labels, templates)
        self.tokenizer = tokenizer_of(card, card.name)

    def __call__(
        self,
        inputs: str | Sequence[str],
        *,
        stop: Sequence[str] = (),
        on_text: Callable[[str], None] | None = None,
        **options: Any,
    ) -> str | list[str]:
        """Return each of the prompts with what the model writes after it.

        It ends before the first of `stop`. `on_text` is told each piece as it comes. Other options are those of
        `bx.zoo.stream`: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed` and so on; or, with `num_beams`,
        those of `bx.zoo.beam_search`, whose text is one piece.
        """
        if isinstance(stop, str):
            raise TypeError(f'expected a list of texts to stop before, found {stop!r}')
        single, found = isinstance(inputs, str), []
        given = self.model, self.params, self.tokenizer
        for prompt in _strings(inputs):
            if 'num_beams' in options:
                pieces = [likeliest(*given, prompt, stops=stop, **options)]
            else:
                pieces = written(*given, prompt, stops=stop, **options)
            text = prompt
            for piece in pieces:
                text += piece
                if on_text:
                    on_text(piece)
            found.append(text)
        return found[0] if single else found


# Shared.


def _preprocessor(card: Card) -> Any:
    if card.preprocessor is None:
        raise ValueError(f'no image preprocessing is known for {card.name!r}')
    return card.preprocessor


def _over_images(pipe: Pipeline, images: Any) -> tuple[list[np.ndarray], bool]:
    """Return what `apply` makes of each image, and whether it was a single one."""
    single = isinstance(images, str | os.PathLike | bytes | Image.Image) or (
        hasattr(images, 'ndim') and images.ndim < 4
    )
    given: list[Any] = [images] if single else [*images]  # type: ignore[misc]
    given = [np.asarray(one) if isinstance(one, jax.Array) else one for one in given]
    for i, one in enumerate(given):
        is_one = isinstance(one, str | os.PathLike | bytes | Image.Image | np.ndarray)
        if not is_one or (isinstance(one, np.ndarray) and one.ndim > 3):
            kind = type(one).__name__
            raise TypeError(
                f'image {i + 1}: expected a path, bytes, a Pillow image or one array, found {kind}'
            )

    def refuse(i: int, error: Exception) -> None:
        raise error

    if not given or pipe.apply is None:
        raise ValueError('expected an image or several, found none')
    rows = dict(run_images(pipe.apply, pipe.params, pipe.prepare, given, refuse))
    return [rows[i] for i in range(len(given))], single


def _check_top(top: int) -> None:
    if top < 1:
        raise ValueError(f'expected top as a number of answers, 1 or more, found {top}')


def _strings(inputs: Any) -> list[str]:
    """Return texts as a list. TypeError for what is no text."""
    given = [inputs] if isinstance(inputs, str) else list(inputs)
    if isinstance(inputs, Mapping) or not all(isinstance(text, str) for text in given):
        odd = (
            type(inputs)
            if isinstance(inputs, Mapping)
            else next(type(x) for x in given if not isinstance(x, str))
        )
        raise TypeError(f'expected a text or a list of texts, found {odd.__name__}')
    if not given:
        raise ValueError('expected a text or several, found none')
    return given


def _refuse(i: int, what: str) -> None:
    """Raise ValueError for a text that has no answer; what is cut has one."""
    if not what.startswith('cut '):
        raise ValueError(f'text {i + 1}: {what}')
