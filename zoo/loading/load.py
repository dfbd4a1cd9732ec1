"""Models by name, file, folder or repository: create, init, load, and what is known of them."""

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from tokenizers import Tokenizer

from blox import paths
from blox.converters.target import model_spec
from blox.initialization import init as init_module
from blox.initialization import init_part, spec
from blox.param import Param
from blox.params import Params, stacked_as, stacks_of
from blox.sharding import shard
from blox.wording import counted, differences, some
from blox.zoo.architecture.family import Family, Resized
from blox.zoo.architecture.fit import shapes
from blox.zoo.architecture.model import ZooModel
from blox.zoo.catalog.card import Card, default_scores
from blox.zoo.catalog.entries import card
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import Padding, TextPreprocessor
from blox.zoo.inputs.tokenizers import parse_tokenizer, special_token
from blox.zoo.loading.place import Place
from blox.zoo.loading.places import resolve
from blox.zoo.models import families

_LOG = logging.getLogger('blox')


def create(name: str, **overrides: Any) -> ZooModel:
    """Make the model of a catalog name, with config fields changed as named; no parameters.

    >>> create('vit-b16', num_classes=10).config.num_classes
    10
    """
    found = card(name)
    family = families()[found.family]
    return family.build(family.override(found.config, overrides))


def init(model: Any, seed: int | jax.Array = 0) -> Params:
    """Draw random Params for a model of the zoo."""
    return init_module(model, *model.example_inputs(), seed=seed)


def load(
    name_or_path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: Any = None,
    mesh: Mesh | None = None,
    rules: Mapping[str, PartitionSpec] | None = None,
    seed: int | jax.Array = 0,
    check: bool = False,
    state: str = '',
    **overrides: Any,
) -> tuple[ZooModel, Params]:
    """Load a pretrained model and its Params.

    `name_or_path` is a name in the catalog, a repository of the Hugging Face Hub ('org/name' or
    'org/name@revision'), a folder as transformers, timm or open_clip saves it, or a file that `save` wrote.
    `source`, one of the latter three or a file of weights alone, takes the place of a catalog
    entry's own weights. If it is a training checkpoint, `state` names the one of its states to take,
    such as 'model_ema'; without it that is the plain one, as `bx.converters.open_source` says.

    `overrides` change config fields. `num_classes` starts a fresh head, drawn with `seed`, and so does
    another `task` of the family, such as 'text-classification', if the weights have no head for it;
    `image_size` resizes position embeddings, `in_channels` and `patch_size` the first convolution,
    `vocab_size` the tables of tokens and `context` those of their positions, as the library does that the
    weights come from; all else is kept. Any other difference between
    weights and model is an error that lists all of them. `dtype` casts floating-point values.
    `rules` from path patterns to PartitionSpec place the Params on `mesh`. The rng of the result
    is made from `seed`. `check=True` reads a file of our own whole, and compares each tensor with the
    SHA-256 that was kept when it was saved; weights of other libraries are looked at in any case.

    On a CPU the Params of a file of our own are the mapped file itself: replace such a file, as `save`
    does, but do not overwrite it in place.

    Raises CheckpointError for files that are malformed or fit no model, FileNotFoundError,
    PermissionError and ConnectionError for repositories that cannot be read.

    >>> model, params = load('vit-digits', num_classes=3, image_size=16)
    >>> params['vit/pos_embed'], params['vit/head/w']
    (Param(float32[1,65,96]), Param(float32[96,3]))
    """
    if rules and mesh is None:
        raise ValueError('rules place Params on a mesh: pass mesh= too')
    place = resolve(name_or_path, source, revision, overrides.get('task', ''), state)
    if check:
        place.check()
    family = families()[place.card.family]
    wanted = family.override(place.card.config, overrides)
    # Files have entries of each block.
    config = dataclasses.replace(wanted, scan=False)
    model, params = read_as(place, str(name_or_path), config, dtype, seed)
    for change in _changes(place.card, config):
        _LOG.info('%s: %s', name_or_path, change)
    params = params.merge(Params(seed)).finalize()
    if dtype is not None:
        params = params.cast(dtype)
    if wanted.scan:
        model = family.build(wanted)
        # Of `params` nothing stays, so that memory never holds the model twice.
        entries, params = dict(params.items()), Params()
        params = as_stacks(model, entries)
    return model, params if mesh is None else shard(params, mesh, rules or {})


def as_stacks(model: Any, entries: dict[str, Param]) -> Params:
    """Return Params of each block's entries, which are taken out, as a model with `scan=True` has them."""
    return stacked_as(entries, stacks_of(spec(model, *model.example_inputs())))


def read_card(
    name_or_path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    state: str = '',
    **overrides: Any,
) -> Card:
    """Read the card of what `load` gives for the same arguments, from the checkpoint itself.

    Its `changes` say what the overrides start anew or resize; what was measured without them is left
    out. Pass it to `save` to keep it.

    >>> read_card('vit-digits', num_classes=3).changes
    ('num_classes 10 -> 3: vit/head*/* started anew',)
    """
    found = resolve(name_or_path, source, revision, overrides.get('task', ''), state).card
    return card_with(found, overrides)


def card_with(found: Card, overrides: Mapping[str, Any]) -> Card:
    """Return the card of what these overrides make of the model that `found` is of."""
    family = families()[found.family]
    config = family.override(found.config, overrides)
    count = family.count_classes(config)
    changes = _changes(found, config)
    prepare = _preprocessor(found, config, {*overrides})
    same = config.computes_as(found.config)
    # A head that starts anew knows nothing of what the old one was for.
    is_kept = not _changed(found.config, config, family.fresh)
    labels = found.labels if is_kept and len(found.labels) == count else ()
    return dataclasses.replace(
        found,
        config=config,
        changes=found.changes + changes,
        metrics=found.metrics if prepare == found.preprocessor and same else {},
        labels=labels,
        task=family.task_of(config),
        scores=found.scores if is_kept else default_scores(config, family.task_of(config), count),
        preprocessor=prepare,
    )


def _preprocessor(found: Card, config: Any, overridden: set[str]) -> ImagePreprocessor | None:
    """Return that of `found`, for images as `config` has them; None for other channels."""
    prepare = found.preprocessor
    if prepare is None or ('in_channels' in overridden and len(prepare.mean) != config.in_channels):
        return None
    follows = 'image_size' in overridden and prepare.size != config.image_size
    return prepare.for_size(config.image_size) if follows else prepare


def preprocessor(
    name_or_path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    **overrides: Any,
) -> ImagePreprocessor:
    """Return what makes a model's inputs of images: from paths, Pillow images or arrays to a batch.

    Arguments are as for `load`: with another `image_size`, images are resized to fit it.

    >>> preprocessor('vit-digits').size
    (8, 8)
    """
    found = read_card(name_or_path, source=source, revision=revision, **overrides)
    if found.preprocessor is None:
        raise ValueError(
            f'no image preprocessing is known for {found.name!r} ({found.task}); '
            'bx.zoo.save keeps it with card=bx.zoo.read_card(NAME) of the model it came from'
        )
    return found.preprocessor


def text_preprocessor(
    name_or_path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    max_tokens: int = 0,
) -> TextPreprocessor:
    """Return what makes a text model's inputs of texts: prompts before them, cut, padded to a batch.

    Arguments are as for `load`; `max_tokens`, if it is not 0, cuts texts sooner. Texts are prepared as sentence-transformers does it for the same
    folder: `prepare(texts, prompt_name='query')`.

    >>> text_preprocessor('gpt2-pydocs')(['for', 'The for statement']).mask.shape
    (2, 3)
    """
    found = with_max_tokens(read_card(name_or_path, source=source, revision=revision), max_tokens)
    return text_preprocessor_of(found, tokenizer_of(found, source or name_or_path))


def with_max_tokens(found: Card, max_tokens: int) -> Card:
    """Return a card whose texts are cut to so many tokens; 0 leaves them."""
    if not max_tokens:
        return found
    texts = dataclasses.replace(found.texts, max_tokens=max_tokens)
    return dataclasses.replace(found, texts=texts)


def text_preprocessor_of(found: Card, tokenizer: Tokenizer) -> TextPreprocessor:
    """Return the preprocessor of a card's texts, which its tokenizer cuts."""
    said = found.tokenizer_config
    takes = said.get('model_input_names', ['token_type_ids'])
    return TextPreprocessor(
        tokenizer,
        found.texts,
        found.config.context,
        has_types=not isinstance(takes, list) or 'token_type_ids' in takes,
        cuts_start=said.get('truncation_side') == 'left',
        padding=_padding(found, tokenizer),
    )


def _padding(found: Card, tokenizer: Tokenizer) -> Padding:
    """Return how texts are filled up: with the tokenizer's own token where the model sees it."""
    length = getattr(found.config, 'text_length', 0)
    if not length:
        return Padding()
    # What cuts a text is how long it is made, too.
    length = min(found.texts.max_tokens or length, length)
    token = special_token(found.tokenizer_config, 'pad_token', '')
    id = tokenizer.token_to_id(token)
    if id is None:
        raise ValueError(
            f'{found.name!r} takes texts of {counted(length, "token")}: expected pad_token in its '
            f'tokenizer_config.json, a token to fill them up with, found {token!r}'
        )
    return Padding(length, id, found.tokenizer_config.get('padding_side') == 'left')


def tokenizer(
    name_or_path: str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Tokenizer:
    """Return a model's tokenizer, which cuts no text. Arguments are as for `load`.

    >>> tokenizer('gpt2-pydocs').encode('for').tokens
    ['for']
    """
    found = read_card(name_or_path, source=source, revision=revision)
    return tokenizer_of(found, source or name_or_path)


def tokenizer_of(found: Card, path: str | os.PathLike[str]) -> Tokenizer:
    """Return the tokenizer on a card, which `path` names in errors. ValueError if there is none."""
    if not found.tokenizer:
        raise ValueError(f'no tokenizer is known for {found.name!r} ({found.task})')
    return parse_tokenizer(Path(path), found.tokenizer)


# Overrides.


def read_as(
    place: Place, name: str, config: Any, dtype: Any = None, seed: int | jax.Array = 0
) -> tuple[ZooModel, Params]:
    """Return a model of `config`, and the Params of a place, resized and started anew where they differ.

    ValueError that lists what does not fit, of what `name` stands for.
    """
    stored, family = place.card, families()[place.card.family]
    model = family.build(stored.config)
    if config == stored.config:
        return model, place.read(model, dtype)
    params = place.read(model, _precise(dtype))
    model = family.build(config)
    params = _resized(params, model, stored, seed)
    if wrong := differences(shapes(model_spec(model)), shapes(params), 'shape'):
        raise ValueError(
            f'{name!r}: these overrides do not fit its weights: {some(wrong, separator="; ")}'
        )
    return model, params


def _precise(dtype: Any) -> Any:
    """Return `dtype`, but float32 for narrower ones: what is resized is rounded once, at the end."""
    is_narrow = dtype is not None and jnp.dtype(dtype).itemsize < 4
    return jnp.float32 if is_narrow else dtype


def _resized(params: Params, model: Any, stored: Card, seed: int | jax.Array) -> Params:
    """Return `params` of the stored config as those of a model with another one."""
    family, config = families()[stored.family], model.config
    fresh = tuple(family.fresh[f] for f in _changed(stored.config, config, family.fresh))
    for path, _, fit in _resizings(family, stored.config, config):
        value = fit(np.asarray(params[path].value), stored.config, config, stored.layout)
        params = params.set(path, value, strict=False)
    return restarted(params, model, fresh, seed)


def _resizings(family: Family, stored: Any, wanted: Any) -> list[Resized]:
    """Return what is resized where the two configs differ, of the parameters that there are and that stay."""
    changed = [one for one in family.resized if _changed(stored, wanted, one.fields)]
    if not changed:
        return []
    before, after = (shapes(model_spec(family.build(config))) for config in (stored, wanted))
    anew = [family.fresh[field] for field in _changed(stored, wanted, family.fresh)]

    def is_resized(one: Resized) -> bool:
        if one.path not in before or any(paths.matches(pattern, one.path) for pattern in anew):
            return False
        # A grid may have another form and as many places; a table of so many rows is as it was.
        is_grid = any(isinstance(getattr(wanted, field), tuple) for field in one.fields)
        return is_grid or before[one.path] != after.get(one.path)

    return [one for one in changed if is_resized(one)]


def restarted(
    params: Params, model: Any, patterns: tuple[str, ...], seed: int | jax.Array
) -> Params:
    """Return `params` with initial values of `model` in the place of what the patterns name.

    The latter may have other shapes.
    """
    if not patterns:
        return params

    def is_new(path: str, param: Param) -> bool:
        return any(paths.matches(pattern, path) for pattern in patterns)

    drawn = init_part(is_new, model, *model.example_inputs(), seed=seed)
    return params.partition(is_new)[1].merge(drawn)


def _changes(stored: Card, config: Any) -> tuple[str, ...]:
    """Return a line for each override that starts weights anew, leaves them out or resizes them."""
    family = families()[stored.family]
    ways = {
        field: f'{family.fresh[field]} {_fate(family, config, family.fresh[field])}'
        for field in _changed(stored.config, config, family.fresh)
    }
    resizings = _resizings(family, stored.config, config)
    for field in dict.fromkeys(field for one in resizings for field in one.fields):
        found = dict.fromkeys(one.path for one in resizings if field in one.fields)
        ways[field] = f'{", ".join(found)} resized'
    return tuple(
        f'{field} {getattr(stored.config, field)} -> {getattr(config, field)}: {ways[field]}'
        for field in _changed(stored.config, config, ways)
    )


def _fate(family: Family, config: Any, pattern: str) -> str:
    """Say what becomes of the parameters that `pattern` names in a model of another config."""
    there = model_spec(family.build(config))
    return 'started anew' if any(paths.matches(pattern, path) for path in there) else 'left out'


def _changed(stored: Any, wanted: Any, fields: Iterable[str]) -> list[str]:
    """Return those fields in which the two configs differ."""
    return [field for field in fields if getattr(stored, field) != getattr(wanted, field)]
