"""The catalog: a Card for every model that has a name."""

import dataclasses
import fnmatch
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blox.paths import natural_key, nearest
from blox.tensorfile import CheckpointError, TensorFile, fail, parse_json
from blox.zoo.family import families
from blox.zoo.preprocessing import ImagePreprocessor

WEIGHTS = Path(__file__).parent / 'weights'

# The header's metadata entry that says what model a file's tensors are of.
HEADER_KEY = 'blox.model'


@dataclass(frozen=True)
class Card:
    """What is known of a model; the header of its file holds all of it but `weights`.

    Attributes:
      name, family, config: which architecture it is; `config` is the family's dataclass.
      task: 'image-classification' or 'text-generation'.
      summary, training, data, license: for people; `data` names its own license too.
      metrics: what was measured, by name.
      labels: class names in the order of the logits.
      preprocessor: how images become inputs, None for other tasks and where it is unknown.
      tokenizer: the text of a tokenizer.json, '' if there is none.
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
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    preprocessor: ImagePreprocessor | None = None
    tokenizer: str = ''
    weights: Path | None = None

    def to_header(self) -> dict[str, str]:
        """The metadata that makes a file self-describing."""
        fields = dataclasses.asdict(self)
        del fields['weights']
        return {HEADER_KEY: json.dumps(fields, separators=(',', ':'), sort_keys=True)}

    @classmethod
    def from_file(cls, file: TensorFile) -> 'Card':
        """The card in a file's header. CheckpointError if there is none, or it is unsound."""
        if HEADER_KEY not in file.metadata:
            fail(
                file.path,
                f"expected a model saved by bx.zoo.save, found no '{HEADER_KEY}' in its header; "
                'bx.load reads Params from any safetensors file',
            )
        fields = parse_json(file.path, file.metadata[HEADER_KEY], HEADER_KEY)
        try:
            family = families()[fields['family']]
            fields['config'] = family.parse_config(fields['config'])
            fields['labels'] = tuple(fields['labels'])
            if fields['preprocessor'] is not None:
                fields['preprocessor'] = ImagePreprocessor.from_fields(fields['preprocessor'])
            return cls(**fields, weights=file.path)
        except (KeyError, TypeError, ValueError) as error:
            reason = f'{type(error).__name__}: {error}'
            raise CheckpointError(f'{str(file.path)!r}: {HEADER_KEY}: {reason}') from error


@functools.cache
def _shipped() -> Mapping[str, Path]:
    return {path.stem: path for path in WEIGHTS.glob('*.safetensors')}


def list_models(pattern: str = '*') -> list[str]:
    """Names in the catalog that fit a shell pattern, in natural order.

    >>> list_models('vit-b*')
    ['vit-b8', 'vit-b16', 'vit-b32']
    """
    names = [name for family in families().values() for name in family.variants]
    return sorted(fnmatch.filter([*names, *_shipped()], pattern), key=natural_key)


def card(name: str) -> Card:
    """The card of a name in the catalog. ValueError that names the nearest ones if there is none."""
    if name in _shipped():
        return Card.from_file(TensorFile(_shipped()[name]))
    for family in families().values():
        if name in family.variants:
            return Card(name, family.name, family.variants[name], family.task)
    near = ', '.join(nearest(name, list_models())) or 'see bx.zoo.list_models()'
    raise ValueError(f'no model {name!r} in the catalog; nearest: {near}')
