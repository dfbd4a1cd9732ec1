"""Read what folders of transformers, timm, open_clip or sentence-transformers say of their model."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blox import converters
from blox.converters.configs import identify as identify_config
from blox.converters.configs import read_config
from blox.converters.mapping.libraries import OPEN_CLIP, library_of
from blox.converters.sources.source import CONFIGS, WEIGHTS, Source, config_in
from blox.tensorfile import CheckpointError, fail
from blox.zoo.architecture.family import Family
from blox.zoo.catalog.card import SCORED, SCORES, Card, default_scores
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import SIMILARITIES, TextSettings
from blox.zoo.inputs.tokenizers import (
    TOKENIZER_FILES,
    clean_first,
    read_tokenizer,
    read_tokenizer_config,
)
from blox.zoo.models import families

_LOG = logging.getLogger('blox')

_PREPROCESSING = 'preprocessor_config.json'
# In which transformers 5 writes what prepares images and texts together.
_PROCESSOR = 'processor_config.json'
_GENERATION = 'generation_config.json'
_SENTENCES = 'sentence_bert_config.json'
_PROMPTS = 'config_sentence_transformers.json'
COMPANIONS = (
    _PREPROCESSING,
    _PROCESSOR,
    _GENERATION,
    'modules.json',
    _SENTENCES,
    _PROMPTS,
    *TOKENIZER_FILES,
)


def needed(names: list[str]) -> list[str]:
    """Return those of a repository's files that a conversion reads."""
    config = config_in(names)
    found = [name for name in CONFIGS.get(config, WEIGHTS) if name in names][:1]
    if found and found[0].endswith('.index.json'):
        # 'model.safetensors.index.json' speaks of 'model-00001-of-00002.safetensors' and so on.
        stem, suffix = found[0].removesuffix('.index.json').split('.')
        shard = re.compile(rf'{stem}-\d+-of-\d+\.{suffix}')
        found += [name for name in names if shard.fullmatch(name)]
    # Modules of sentence-transformers, whose folders are called 1_Pooling and so on.
    found += [name for name in names if re.fullmatch(r'\d+_\w+/config\.json', name)]
    return sorted({*found, *(name for name in (config, *COMPANIONS) if name in names)})


def identify(path: Path, config: Mapping[str, Any]) -> tuple[Family, str]:
    """Find the family and the layout that a config.json speaks of; CheckpointError for others."""
    family, layout = identify_config(path, config)
    return families()[family], layout


def read_card(source: Source, name: str, task: str = '') -> Card:
    """Return the card of a folder's model: config, labels, preprocessing, tokenizer.

    It is the model for `task` if the folder has a head for that, else its body; '' stands for what
    config.json says. Raises CheckpointError, which names the fields, where the model is none of ours.
    """
    family, layout = identify(source.path, source.config)
    table = converters.layouts(family.name)[layout]
    library = library_of(source.config)
    try:
        config = family.override(family.config(), read_config(table, source, task))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        fail(source.path, f'{library.config}: {error}')
    count = family.count_classes(config)
    labels = _labels(source.config, count)
    kind = str(source.config.get('model_type'))
    preprocessor = _preprocessor(source, layout, family, config)
    tokenizer = read_tokenizer(source.path, kind)
    if tokenizer and library is OPEN_CLIP:
        tokenizer = _cleaned(source, tokenizer)
    tokenizer_config = read_tokenizer_config(source.path, kind) if tokenizer else {}
    # open_clip cuts texts to the model's context, whatever tokenizers say of themselves.
    limit = 0 if library is OPEN_CLIP else tokenizer_config.get('model_max_length')
    try:
        return Card(
            name,
            family.name,
            config,
            family.task_of(config),
            labels=labels,
            preprocessor=preprocessor,
            scores=_scores(source.config, config, family.task_of(config), count),
            tokenizer=tokenizer,
            tokenizer_config=tokenizer_config,
            texts=_texts(source, limit),
            generation=_generation(source),
            layout=layout,
        )
    except CheckpointError:
        raise
    except ValueError as error:  # Files that do not go together.
        fail(source.path, str(error))


def _cleaned(source: Source, tokenizer: str) -> str:
    """Return a tokenizer that begins as open_clip does; '', with a warning, if it does more than cleaning."""
    said = OPEN_CLIP.flatten(source.config)
    given, mode = (said.get(f'text_cfg.tokenizer_{name}') or {} for name in ('kwargs', 'mode'))
    if mode or not isinstance(given, Mapping) or any(given[name] for name in {*given} - {'clean'}):
        what = '%s: it prepares texts as is not known here: tokenizer_mode %r, tokenizer_kwargs %r'
        _LOG.warning(what, source.path, mode or None, given)
        return ''
    return clean_first(source.path, tokenizer, str(given.get('clean', 'whitespace')))


def _scores(said: Mapping[str, Any], config: Any, task: str, count: int) -> str:
    """Return what makes scores of the logits of `count` classes, as transformers' pipelines do it."""
    problem, usual = said.get('problem_type'), default_scores(config, task, count)
    if problem is None or task not in SCORED:
        return usual
    for scores, name in SCORES.items():
        if problem == name:
            return usual if scores == 'softmax' else scores
    raise ValueError(f'expected problem_type {", ".join(SCORES.values())}, found {problem!r}')


def _texts(source: Source, limit: Any) -> TextSettings:
    """Return how sentence-transformers prepares texts, as far as the folder says.

    `limit` is what its tokenizer cuts texts to.
    """
    said = source.read_object(_SENTENCES) if source.has(_SENTENCES) else {}
    limits = (said.get('max_seq_length'), limit, 0)
    limit = next(limit for limit in limits if limit is not None)
    # Where there is no limit, transformers writes 1e30.
    is_limit = (
        not isinstance(limit, bool) and isinstance(limit, int | float) and limit == limit // 1
    )
    if not is_limit or limit < 0:
        raise ValueError(f'expected a number of tokens to cut texts to, found {limit!r}')
    about = source.read_object(_PROMPTS) if source.has(_PROMPTS) else {}
    prompts = about.get('prompts') or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(x, str) for x in prompts.values()):
        fail(source.path / _PROMPTS, f'expected prompts of names and texts, found {prompts!r}')
    similarity = about.get('similarity_fn_name') or SIMILARITIES[0]
    if similarity not in SIMILARITIES:
        _LOG.warning('%s: similarity_fn_name %r is not known here', source.path, similarity)
        similarity = SIMILARITIES[0]
    return TextSettings(
        int(limit) if limit < 2**31 else 0,
        said.get('do_lower_case') or False,
        dict(prompts),
        about.get('default_prompt_name') or '',
        _includes_prompt(source),
        similarity,
    )


def _includes_prompt(source: Source) -> bool:
    modules = source.read_json('modules.json') if source.has('modules.json') else []
    modules = modules if isinstance(modules, list) else []
    paths = [m.get('path') for m in modules if str(m.get('type')).endswith('.Pooling')]
    # A folder without it is refused where pooling itself is read.
    names = [name for path in paths if source.has(name := f'{path}/config.json')]
    found = source.read_object(names[0]) if names else {}
    return found.get('include_prompt', True)


def _generation(source: Source) -> dict[str, Any]:
    """Return transformers' settings of generation: those of config.json, where there are no others."""
    said = source.read_object(_GENERATION) if source.has(_GENERATION) else {}
    ids = {name: source.config.get(f'{name}_token_id') for name in ('bos', 'eos', 'pad')}
    given = {f'{name}_token_id': value for name, value in ids.items() if value is not None} | said
    left_out = ('transformers_version', '_from_model_config')
    return {name: value for name, value in given.items() if name not in left_out}


def _labels(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """Return the classes' names, if there is one for each and they are more than numbers."""
    names = _timm_labels(config)
    if isinstance(by_index := config.get('id2label'), Mapping):
        names = [by_index.get(str(i)) for i in range(num_classes)]
    sound = (
        len(names) == num_classes
        and all(isinstance(name, str) and name.isprintable() for name in names)
        and names != [f'LABEL_{i}' for i in range(num_classes)]
    )
    return tuple(names) if sound else ()


def _timm_labels(config: Mapping[str, Any]) -> list[Any]:
    """Return timm's names of classes: WordNet's synsets come with descriptions."""
    pretrained = config.get('pretrained_cfg') or {}
    names = config.get('label_names') or pretrained.get('label_names')
    if not isinstance(names, list):
        return []
    described = config.get('label_descriptions')
    described = described if isinstance(described, Mapping) else {}
    return [described.get(name, name) if isinstance(name, str) else name for name in names]


def _preprocessor(
    source: Source, layout: str, family: Family, config: Any
) -> ImagePreprocessor | None:
    """Return how the folder prepares images; None, with a warning, if we cannot do that.

    Where the model takes images of one size alone, they get that size: transformers resizes the
    positions of a DINOv2 of 518 pixels for the 224 that its preprocessor leaves.
    """
    try:
        found = _said_preprocessor(source, layout, getattr(config, 'image_size', (0, 0)))
    except ValueError as error:
        _LOG.warning('%s: its preprocessing is not known here: %s', source.path, error)
        return None
    if found is None or not family.one_size or found.size == config.image_size:
        return found
    what = '%s: images are prepared as %s there, but its weights are for %s, and so they are here; '
    what += 'loaded with image_size=%s the model takes what is prepared there'
    _LOG.warning(what, source.path, found.size, config.image_size, found.size)
    return found.for_size(config.image_size)


def _said_preprocessor(
    source: Source, layout: str, size: tuple[int, int]
) -> ImagePreprocessor | None:
    if layout == 'timm':
        return ImagePreprocessor.from_timm(source.config.get('pretrained_cfg', source.config))
    if library_of(source.config) is OPEN_CLIP:
        said = source.config.get('preprocess_cfg') or {}
        if not isinstance(said, Mapping):
            raise ValueError(f'expected preprocess_cfg to be an object, found {said!r}')
        return ImagePreprocessor.from_open_clip(said, size)
    said = source.read_object(_PROCESSOR) if source.has(_PROCESSOR) else {}
    fields = said.get('image_processor')
    if not isinstance(fields, Mapping):
        fields = source.read_object(_PREPROCESSING) if source.has(_PREPROCESSING) else None
    kind = str(source.config.get('model_type'))
    return None if fields is None else ImagePreprocessor.from_hf(fields, kind)
