"""Card: the facts about a model, in the header of its file and in the catalog."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blox.converters.mapping.fields import is_number
from blox.tensorfile import TensorFile, fail, parse_json
from blox.wording import counted, cut
from blox.zoo.architecture.features import Feature
from blox.zoo.architecture.validation import expect, expect_names
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import TextSettings
from blox.zoo.models import families, family_of

# The header's metadata entry that says which model a file holds.
HEADER_KEY = 'blox.model'
# That which says whether a model's values were found finite when they were saved: which are not.
FINITE = 'blox.finite'


@dataclass(frozen=True)
class Card:
    """The facts about a model; the header of its file holds all of them but `weights`.

    Attributes:
      name, family, config: which architecture it is; `config` is the family's dataclass.
      task: what the model is for, such as 'image-classification': by the Hub's name if it has one.
      summary, training, data, license, paper: for people; `data` names its own license too.
      metrics: what was measured, by name.
      labels: class names in the order of the logits.
      preprocessor: how images become inputs, None for other tasks and where it is unknown.
      scores: what makes scores of logits: 'softmax' (one of the classes is right), 'sigmoid' (each may
        be) or 'none' (they are values of their own); '' stands for what the config says, if it does, or
        'softmax'.
      tokenizer: the text of a tokenizer.json, '' if there is none.
      tokenizer_config: the settings of transformers' tokenizers beside it: special tokens by name.
      texts: prompts of texts, and where they are cut.
      generation: the settings of transformers' generation, tokens that begin and end a text among
        them; `config.end_tokens` are those that end it here.
      source: the repository, 'org/name', that the weights were published in, '' for our own.
      layout: whose names and shapes they had there: 'hf', 'timm', 'google' or 'big_vision'.
      commit: the source's commit, 40 hex digits; known once it was downloaded.
      sha256: the digest of each file that was converted, by name; known once it was downloaded.
      changes: what a caller's overrides started anew or resized, a line for each.
      weights: the file that holds them, None where only the architecture is known.
    """

    name: str
    family: str
    config: Any
    task: str
    summary: str = ''
    training: str = ''
    data: str = ''
    license: str = ''
    paper: str = ''
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    preprocessor: ImagePreprocessor | None = None
    scores: str = ''
    tokenizer: str = ''
    tokenizer_config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    texts: TextSettings = dataclasses.field(default_factory=TextSettings)
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ''
    layout: str = ''
    commit: str = ''
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    changes: tuple[str, ...] = ()
    weights: Path | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if images would be prepared with other channels than the model takes."""
        if not self.scores:
            object.__setattr__(self, 'scores', getattr(self.config, 'scores', 'softmax'))
        channels = getattr(self.config, 'in_channels', None)
        if self.preprocessor and channels not in (None, found := len(self.preprocessor.mean)):
            raise ValueError(
                f'expected a preprocessor of {counted(channels, "channel")}, found {found}'
            )

    def __repr__(self) -> str:
        """Return the fields that say something; long ones, such as a tokenizer, are cut.

        >>> from blox.zoo import card
        >>> len(repr(card('gpt2-pydocs'))) < 1500
        True
        """
        said = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) and value != TextSettings()
        }
        texts = {name: repr(value) for name, value in said.items()}
        short = {name: text if name == 'config' else cut(text, 100) for name, text in texts.items()}
        return f'Card({", ".join(f"{name}={text}" for name, text in short.items())})'

    @property
    def features(self) -> tuple[Feature, ...]:
        """Names, channels and strides of what `model.features` gives for the card's config.

        >>> import blox as bx
        >>> bx.zoo.card('resnet50').features[-2]
        Feature(name='stage4', channels=2048, strides=(32, 32))
        """
        return families()[self.family].build(self.config).feature_info()

    def to_header(self) -> dict[str, str]:
        """Return the metadata that makes a file self-describing.

        Raises ValueError for fields that no file may have.
        """
        fields = self.fields()
        _check_fields(fields)
        text = json.dumps(fields, separators=(',', ':'), sort_keys=True, allow_nan=False)
        return {HEADER_KEY: text}

    def fields(self) -> dict[str, Any]:
        """Return everything but `weights`, as a header has it."""
        fields = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        del fields['weights']
        for name in self.config.RUN_FIELDS:
            fields['config'].pop(name, None)
        return fields

    @classmethod
    def of(cls, model: Any, name: str, card: 'Card | None' = None) -> 'Card':
        """Return `card`, or a new one of this name, with the family, config and task of a model."""
        family = family_of(model)
        about = {
            'family': family.name,
            'config': model.config,
            'task': family.task_of(model.config),
        }
        return dataclasses.replace(card, **about) if card else cls(name, **about)

    @classmethod
    def from_file(cls, file: TensorFile) -> 'Card':
        """Read the card in a file's header. CheckpointError if there is none, or it is unsound."""
        if 'blox.lora' in file.metadata:
            fail(
                file.path, 'expected a model, found adapters: bx.load_lora(PATH, params) reads them'
            )
        if HEADER_KEY not in file.metadata:
            fail(
                file.path,
                f"expected a model saved by bx.zoo.save, found no '{HEADER_KEY}' in its header; "
                'for weights of another library name the model that they are of, as in '
                "bx.zoo.load('resnet50', source=PATH); bx.load reads Params from any file",
            )
        fields = parse_json(file.path, file.metadata[HEADER_KEY], HEADER_KEY)
        try:
            _check_fields(fields)
            fields['config'] = families()[fields['family']].parse_config(fields['config'])
            fields['labels'] = tuple(fields['labels'])
            fields['changes'] = tuple(fields['changes'])
            if fields['preprocessor'] is not None:
                fields['preprocessor'] = ImagePreprocessor.from_fields(fields['preprocessor'])
            fields['texts'] = TextSettings.from_fields(fields['texts'])
            return cls(**fields, weights=file.path)
        except (TypeError, ValueError) as error:
            fail(file.path, f'{HEADER_KEY}: {error}')


_TEXTS = (
    'name',
    'family',
    'task',
    'summary',
    'training',
    'data',
    'license',
    'paper',
    'source',
    'layout',
    'commit',
    'scores',
)
# What makes scores of logits: transformers' names of it, and its names of such problems.
SCORES = {
    'softmax': 'single_label_classification',
    'sigmoid': 'multi_label_classification',
    'none': 'regression',
}


def _check_fields(fields: Mapping[str, Any]) -> None:
    """Raise ValueError unless a header's fields are those of a Card, each of its kind."""
    names = {field.name for field in dataclasses.fields(Card)} - {'weights'}
    expect_names('', names, fields)
    wrong = [f'{name} a text' for name in _TEXTS if not _is_text(fields[name])]
    if not isinstance(fields['tokenizer'], str):
        wrong.append('tokenizer a text')
    family, labels, metrics = fields['family'], fields['labels'], fields['metrics']
    if not wrong and family not in families():
        # It may be of a package that is not installed here.
        wrong.append(
            f'family one of {", ".join(families())} (bx.zoo.register(FAMILY) adds one of your own)'
        )
    elif not wrong and fields['task'] != (task := _task_of(fields)):
        wrong.append(f"task {task!r}, the model's")
    if not wrong and fields['scores'] not in SCORES:
        wrong.append(f'scores one of {", ".join(SCORES)}')
    if not isinstance(labels, list) or not all(map(_is_text, labels)):
        wrong.append('labels a list of texts')
    elif labels and isinstance(fields['config'], dict):
        head = families()[family].head if family in families() else None
        classes = fields['config'].get(head.field) if head else 0
        if classes != len(labels):
            wrong.append(f'labels for each of {classes!r} classes')
    if not isinstance(fields['changes'], list) or not all(map(_is_text, fields['changes'])):
        wrong.append('changes a list of texts')
    digests = fields['sha256']
    if not isinstance(digests, dict) or not all(map(_is_text, [*digests, *digests.values()])):
        wrong.append('sha256 an object of texts')
    if (
        not isinstance(metrics, dict)
        or not all(map(is_number, metrics.values()))
        or not all(map(_is_text, metrics))
    ):
        wrong.append('metrics an object of finite numbers')
    wrong += [
        f'{name} an object'
        for name in ('config', 'preprocessor', 'tokenizer_config', 'texts', 'generation')
        if not isinstance(fields[name], dict)
        and not (name == 'preprocessor' and fields[name] is None)
    ]
    expect('', fields, dict.fromkeys(wrong, False))


# Tasks of which a checkpoint may say what makes scores; of all others it is a softmax.
SCORED = ('image-classification', 'text-classification')


def default_scores(config: Any, task: str, count: int) -> str:
    """Return what makes scores of the logits of `count` classes where nothing is said.

    As transformers has it, one class is there or not; of several one is right. Of images and texts the
    config says how they were trained.
    """
    usual = 'sigmoid' if count == 1 and task in SCORED else 'softmax'
    return getattr(config, 'scores', usual)


def _task_of(fields: Mapping[str, Any]) -> Any:
    """Return what a header's config says its model is for, else what its family is for."""
    config = fields['config'] if isinstance(fields['config'], Mapping) else {}
    return config.get('task', families()[fields['family']].task)


def _is_text(value: Any) -> bool:
    """Return whether this is one line that a terminal shows as it is."""
    return isinstance(value, str) and value.isprintable()
