"""Libraries whose folders we read and write: what their config.json says, and what it omits."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from blox.converters.mapping.fields import equal
from blox.converters.sources.source import CONFIGS


@dataclass(frozen=True)
class Library:
    """A library whose folders we read and write, and how its config.json names a model.

    Attributes:
      flatten: its config.json as one level of fields; ValueError where it is none of its own.
      is_neutral: whether a field with this value has no say in what a model computes.
      kind: what its config.json calls a model.
      config: the name of the file that holds it.
    """

    name: str
    flatten: Callable[[Mapping[str, Any]], dict[str, Any]]
    is_neutral: Callable[[str, Any], bool]
    kind: Callable[[Mapping[str, Any]], str]
    config: str = 'config.json'

    @property
    def weights(self) -> str:
        """Return the name of the file that its weights are written to."""
        return CONFIGS[self.config][0]


# Fields of transformers' configs that may say anything: all models have them, none computes by them.
_ABOUT_NAMES = r"""
    architectures model_type _name_or_path _commit_hash transformers_version tokenizer_class
    transformers.js_config dtype torch_dtype torchscript use_bfloat16 attn_implementation
    _attn_implementation _attn_implementation_autoset

    id2label label2id num_labels _num_labels problem_type finetuning_task task_specific_params

    initializer_range classifier_dropout gradient_checkpointing tie_word_embeddings

    output_attentions output_hidden_states output_past output_scores use_cache return_dict
    return_dict_in_generate chunk_size_feed_forward out_features out_indices stage_names
    remove_invalid_values encoder_stride

    bad_words_ids begin_suppress_tokens suppress_tokens do_sample early_stopping temperature
    top_k top_p typical_p (min|max)_length num_beams num_beam_groups num_return_sequences
    (encoder_)?no_repeat_ngram_size (diversity|length|repetition)_penalty
    exponential_decay_length_penalty prefix \w+_token_id
"""
_ABOUT = re.compile('|'.join(_ABOUT_NAMES.split()))
# Others that all models have, as they are where a config says nothing of them.
_DEFAULTS = {
    'add_cross_attention': False,
    'cross_attention_hidden_size': None,
    'is_decoder': False,
    'is_encoder_decoder': False,
    'pruned_heads': {},
    'quantization_config': None,
    'tf_legacy_loss': False,
    'tie_encoder_decoder': False,
}


# Configs of parts in configs of models that have several.
_PARTS = ('text_config', 'vision_config')


def _flatten_hf(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config; those of its parts are called 'text_config.hidden_size' and so on.

    Early files of CLIP may have a part twice, and 'text_config_dict' is what counts there.
    """
    flat = dict(config)
    if config.get('model_type') == 'clip':
        for part in _PARTS:
            early = flat.pop(f'{part}_dict', None)
            flat |= {} if early is None else {part: early}
    return flattened(flat, _PARTS)


def flattened(config: Mapping[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """Return a config's fields, and those of its parts, which are called 'part.field'."""
    flat = dict(config)
    for part in parts:
        flat |= {f'{part}.{name}': value for name, value in _object(flat, part).items()}
        flat.pop(part, None)
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flattened`: make objects of the fields of parts."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        part, dot, field = name.partition('.')
        if dot:
            made.setdefault(part, {})[field] = value
        else:
            made[name] = value
    return made


def _is_neutral_hf(name: str, value: Any) -> bool:
    name = name.rpartition('.')[2]
    if name in _DEFAULTS:
        return equal(value, _DEFAULTS[name])
    return _ABOUT.fullmatch(name) is not None


TRANSFORMERS = Library(
    'transformers', _flatten_hf, _is_neutral_hf, lambda config: str(config.get('model_type'))
)


class TimmName(NamedTuple):
    """One of timm's names: the class that it stands for, and what that is made with.

    Where arguments are no plain values they are not known, and None.
    """

    kind: str
    arguments: Mapping[str, Any] | None


# Settings that are no arguments of timm's: a class of DeiT, and what a file beside its code says of
# pruned ResNets, the channels of all convolutions of all blocks.
DISTILLED, PRUNED_WIDTHS = 'distilled', 'pruned_widths'
_IMPLIED = {'VisionTransformerDistilled': {DISTILLED: True}}


@functools.cache
def timm_names() -> Mapping[str, TimmName]:
    """Return all names of timm, of the version in `timm_version`.

    What a class alone says is among the arguments.
    """
    return {
        name: TimmName(kind, arguments and {**arguments, **_IMPLIED.get(kind, {})})
        for name, (kind, arguments) in _timm_file()['names'].items()
    }


def timm_version() -> str:
    """Return the version of timm whose names these are."""
    return _timm_file()['version']


@functools.cache
def _timm_file() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / 'timm_names.json').read_text('utf-8'))


# Fields that timm writes beside the arguments of a model.
_TIMM_TOP = (
    'architecture',
    'global_pool',
    'label_descriptions',
    'label_names',
    'model_args',
    'num_classes',
    'num_features',
    'pretrained_cfg',
)


def _flatten_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a model was made with.

    Where several places say something, timm takes `model_args` first, then the top, then
    `pretrained_cfg`, then what the name stands for.
    """
    # Old files have the fields of pretrained_cfg at the top.
    is_old = 'pretrained_cfg' not in config
    if not is_old and (unknown := sorted(set(config) - {*_TIMM_TOP})):
        raise ValueError(f'expected no {", ".join(unknown)} beside pretrained_cfg')
    pretrained = config if is_old else _object(config, 'pretrained_cfg')
    size = pretrained.get('input_size') or [3, 224, 224]
    if not isinstance(size, list | tuple) or [type(n) for n in size] != [int, int, int]:
        raise ValueError(f'expected input_size of three integers, found {size!r}')
    said = {
        'in_chans': size[0],
        'img_size': list(size[1:]),
        'num_classes': config.get('num_classes', pretrained.get('num_classes', 1000)),
        **({'global_pool': config['global_pool']} if config.get('global_pool') else {}),
    }
    name = str(config['architecture'])
    made_with = timm_names()[name].arguments
    if made_with is None:
        raise ValueError(f'expected a model whose arguments are known here, found {name}')
    arguments = _object(config, 'model_args')
    for no_argument in (DISTILLED, PRUNED_WIDTHS):
        if no_argument in arguments:
            raise ValueError(f'expected no {no_argument} in model_args, which timm does not take')
    return {**made_with, **said, **arguments}


def _object(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the object that a field is, an empty one where it is absent or null."""
    found = fields.get(name) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f'expected {name} to be an object, found {found!r}')
    return dict(found)


TIMM = Library(
    'timm', _flatten_timm, lambda name, value: False, lambda config: str(config['architecture'])
)


# open_clip, whose config says which towers a model has: its own, or some of timm's.


def _flatten_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    return flattened(_object(config, 'model_cfg'), ('vision_cfg', 'text_cfg'))


def _kind_of_open_clip(config: Mapping[str, Any]) -> str:
    towers = _object(_object(config, 'model_cfg'), 'vision_cfg')
    return 'CLIP of timm' if towers.get('timm_model_name') else 'CLIP'


OPEN_CLIP = Library(
    'open_clip',
    _flatten_open_clip,
    lambda name, value: False,
    _kind_of_open_clip,
    'open_clip_config.json',
)


def library_of(config: Mapping[str, Any]) -> Library:
    """Return the library that wrote a config.json."""
    if 'model_cfg' in config:
        return OPEN_CLIP
    return TIMM if 'architecture' in config else TRANSFORMERS
