"""Embed images and texts, each with the part of a model that does it, and classify by texts alone."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from blox.params import Params
from blox.wording import cut
from blox.zoo.architecture.pooling import normalized
from blox.zoo.inputs.text import TextPreprocessor, trouble
from blox.zoo.models import family_of
from blox.zoo.running.batches import TextBatches
from blox.zoo.running.scoring import score

TWO_TOWERS = 'zero-shot-image-classification'
_OF_IMAGES = (TWO_TOWERS, 'image-classification')
_OF_TEXTS = (TWO_TOWERS, 'sentence-embedding')

TEMPLATE = 'This is a photo of {}.'


def embeds_images(task: str) -> bool:
    """Return whether models for this task make embeddings of images."""
    return task in _OF_IMAGES


def embeds_texts(task: str) -> bool:
    """Return whether models for this task make embeddings of texts."""
    return task in _OF_TEXTS


def embedding_width(model: Any) -> int:
    """Return how many numbers an embedding has."""
    return model.feature_info()[-1].channels


@functools.lru_cache(
    maxsize=16
)  # One function for a model is one program, however often it is asked.
def image_embedder(model: Any) -> Callable[[Params, jax.Array], jax.Array]:
    """Return `(params, images) -> embeddings` [batch, width].

    Of two towers they have length 1; else they are the features that a head sees.
    """
    if _task(model) == TWO_TOWERS:
        return lambda params, images: model.encode_image(params, images, normalize=True)[0]
    name = 'pre_logits'
    return lambda params, images: model.features(params, images, [name])[0][name]


def text_embedder(model: Any, params: Params, prepare: TextPreprocessor, most: int) -> TextBatches:
    """Return what embeds up to `most` texts at a time; of two towers embeddings have length 1."""
    if _task(model) == TWO_TOWERS:
        return TextBatches(model, params, most, _text_call(model), takes=1, padding=prepare.padding)
    return TextBatches(model, params, most, _text_call(model))


@functools.lru_cache(maxsize=16)
def _text_call(model: Any) -> Callable[..., jax.Array]:
    if _task(model) == TWO_TOWERS:
        return lambda params, tokens: model.encode_text(params, tokens, normalize=True)[0]
    return lambda params, *inputs: model(params, *inputs)[0].embedding


def label_embeddings(
    model: Any,
    params: Params,
    prepare: TextPreprocessor,
    labels: Sequence[str],
    templates: Sequence[str] = (TEMPLATE,),
) -> jax.Array:
    """Return an embedding of length 1 for each label, [labels, embed]: a classifier made of texts.

    A label stands in each template where `{}` is; it is worth the mean of these texts' embeddings. The
    logits of images are `model.similarity(params, image_embedding, labels)`.

    Raises ValueError for no labels, for one that is there twice, for a template without `{}`, and for a
    text that the model cannot take, or not as a whole.
    """
    _check_labels(labels, templates)
    texts = [template.replace('{}', label) for template in templates for label in labels]
    encoded = prepare.encode(texts)
    for text, one in zip(texts, encoded):
        wrong = trouble(one, model.config)
        if not wrong and one.is_cut:
            wrong = f'expected a text of at most {prepare.max_tokens} tokens, found more'
        if wrong:
            raise ValueError(f'{cut(text, 60)!r}: {wrong}')
    run = text_embedder(model, params, prepare, len(texts))
    rows = {
        key: row for keys, found in run(dict(enumerate(encoded))) for key, row in zip(keys, found)
    }
    vectors = np.stack([rows[i] for i in range(len(texts))])
    return normalized(jnp.asarray(vectors.reshape(len(templates), len(labels), -1).mean(0)))


def zero_shot_logits(model: Any, labels: jax.Array) -> Callable[[Params, jax.Array], jax.Array]:
    """Return `(params, images) -> logits` [batch, labels], for embeddings of labels."""

    def logits(params: Params, images: jax.Array) -> jax.Array:
        x, params = model.encode_image(params, images, normalize=True)
        return model.similarity(params, x, labels.astype(x.dtype))[0]

    return logits


def zero_shot(model: Any, labels: jax.Array) -> Callable[[Params, jax.Array], jax.Array]:
    """Return `(params, images) -> scores` [batch, labels], for embeddings of labels."""
    logits = zero_shot_logits(model, labels)
    return lambda params, images: score(logits(params, images), model.config.scores)


def _task(model: Any) -> str:
    return family_of(model).task_of(model.config)


def _check_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    if isinstance(labels, str) or not len(labels):
        raise ValueError(f'expected a list of labels, found {labels!r}')
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise ValueError(f'expected each label once, found {cut(twice[0], 60)!r} twice')
    if isinstance(templates, str) or not len(templates):
        raise ValueError(f'expected a list of templates, found {templates!r}')
    if wrong := [template for template in templates if '{}' not in template]:
        raise ValueError(f'expected templates with {{}} for a label, found {cut(wrong[0], 60)!r}')
