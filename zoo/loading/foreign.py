"""Read what folders of transformers, timm or sentence-transformers say of their model."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blox import converters
from blox.converters.configs import identify as identify_config
from blox.converters.configs import read_config
from blox.converters.sources.source import WEIGHTS, Source
from blox.tensorfile import CheckpointError, fail
from blox.zoo.architecture.family import Family
from blox.zoo.catalog.card import Card
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.tokenizers import TOKENIZER_FILES, read_tokenizer
from blox.zoo.models import families

_LOG = logging.getLogger('blox')

_PREPROCESSING = 'preprocessor_config.json'
COMPANIONS = (
    'config.json',
    _PREPROCESSING,
    'modules.json',
    '1_Pooling/config.json',
    *TOKENIZER_FILES,
)


def needed(names: list[str]) -> list[str]:
    """Return those of a repository's files that a conversion reads."""
    found = [name for name in WEIGHTS if name in names][:1]
    if found and found[0].endswith('.index.json'):
        # 'model.safetensors.index.json' speaks of 'model-00001-of-00002.safetensors' and so on.
        stem, suffix = found[0].removesuffix('.index.json').split('.')
        shard = re.compile(rf'{stem}-\d+-of-\d+\.{suffix}')
        found += [name for name in names if shard.fullmatch(name)]
    return sorted({*found, *(name for name in COMPANIONS if name in names)})


def identify(path: Path, config: Mapping[str, Any]) -> tuple[Family, str]:
    """Find the family and the layout that a config.json speaks of; CheckpointError for others."""
    family, layout = identify_config(path, config)
    return families()[family], layout


def read_card(source: Source, name: str) -> Card:
    """Return the card of a folder's model: config, labels, preprocessing, tokenizer.

    Raises CheckpointError, which names the fields, where the model is none of ours.
    """
    family, layout = identify(source.path, source.config)
    table = converters.layouts(family.name)[layout]
    try:
        config = family.override(family.config(), read_config(table, source))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        fail(source.path, f'config.json: {error}')
    labels = _labels(source.config, family.count_classes(config))
    preprocessor, tokenizer = _preprocessor(source, layout), read_tokenizer(source.path)
    try:
        return Card(
            name,
            family.name,
            config,
            family.task,
            labels=labels,
            preprocessor=preprocessor,
            tokenizer=tokenizer,
            layout=layout,
        )
    except ValueError as error:  # Files that do not go together.
        fail(source.path, str(error))


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


def _preprocessor(source: Source, layout: str) -> ImagePreprocessor | None:
    """Return how the folder prepares images; None, with a warning, if we cannot do that."""
    try:
        if layout == 'timm':
            return ImagePreprocessor.from_timm(source.config.get('pretrained_cfg', source.config))
        if source.has(_PREPROCESSING):
            fields = source.read_object(_PREPROCESSING)
            return ImagePreprocessor.from_hf(fields, str(source.config.get('model_type')))
    except ValueError as error:
        _LOG.warning('%s: its preprocessing is not known here: %s', source.path, error)
    return None
