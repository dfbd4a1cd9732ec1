"""List the catalog: what there is, how large and how good it is, and what is on this machine."""

import fnmatch
import html
from collections.abc import Mapping
from typing import NamedTuple

from blox.wording import counted, format_count, in_columns
from blox.zoo.catalog.card import Card
from blox.zoo.catalog.entries import card, count_parameters, names

_HEAD = ('name', 'parameters', 'inputs', 'measured', 'license', 'weights')


class Listed(NamedTuple):
    """What the catalog says of a model.

    Attributes:
      parameters: how many it has; None for an architecture without weights of its own.
      inputs: the size of its images, how many tokens its texts may have.
      measured: how good it is, in words; all of it is in `metrics` of its card.
      source: the repository that has its weights, 'included' in this package, or '' without any.
      is_here: whether its weights are on this machine, so that it loads without a network.
    """

    name: str
    task: str
    parameters: int | None
    inputs: str
    measured: str
    license: str
    source: str
    is_here: bool


class ModelList(list[str]):
    """Names of models, in natural order; printed, a table of what is known of each."""

    @property
    def rows(self) -> list[Listed]:
        """What the catalog says of each."""
        return [describe(name) for name in self]

    def __str__(self) -> str:
        return in_columns([_HEAD, *map(_cells, self.rows)])

    def _repr_html_(self) -> str:
        head, *body = (
            f'<tr>{"".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells)}</tr>'
            for kind, cells in (('th', _HEAD), *(('td', _cells(row)) for row in self.rows))
        )
        return f'<table><thead>{head}</thead><tbody>{"".join(body)}</tbody></table>'


def _cells(row: Listed) -> tuple[str, ...]:
    """Return what a table shows of a model."""
    weights = row.source or 'none: an architecture'
    if row.is_here and row.source != 'included':
        weights += ' (here)'
    count = '' if row.parameters is None else format_count(row.parameters)
    return row.name, count, row.inputs, row.measured, row.license, weights


def list_models(*words: str) -> ModelList:
    """List the models of the catalog that fit all words, in natural order; print it for a table.

    A word fits if it is in the name, the family, the task, the source, the license, what it was trained on,
    or the size of its inputs; one with `*`, `?` or `[` is a shell pattern of the whole name.

    >>> list_models('gpt2*')
    ['gpt2', 'gpt2-large', 'gpt2-medium', 'gpt2-pydocs', 'gpt2-xl']
    >>> list_models('augreg', 'base', '384')
    ['vit-b16-augreg-384', 'vit-b32-augreg-384']
    >>> print(list_models('minilm-l6'))
    name           parameters  inputs      measured  license     weights
    all-minilm-l6  22.7M       512 tokens            apache-2.0  sentence-transformers/all-MiniLM-L6-v2
    minilm-l6                  512 tokens                        none: an architecture
    """
    return ModelList(name for name in names() if all(_fits(name, word) for word in words))


def _fits(name: str, word: str) -> bool:
    if any(sign in word for sign in '*?['):
        return fnmatch.fnmatchcase(name, word.lower())
    found = card(name)
    texts = (name, found.family, found.task, found.source, found.license, found.summary)
    return word.lower() in ' '.join((*texts, _inputs(found))).lower()


def describe(name: str) -> Listed:
    """Return what the catalog says of a model."""
    found = card(name)
    is_included = found.weights is not None
    return Listed(
        found.name,
        found.task,
        count_parameters(found.name),
        _inputs(found),
        measured(found.metrics),
        found.license,
        'included' if is_included else found.source,
        is_included or (bool(found.source) and _is_here(found.source)),
    )


def _inputs(found: Card) -> str:
    """Say how large images are, and how long texts may be."""
    size = found.preprocessor.size if found.preprocessor else None
    size = size or getattr(found.config, 'image_size', None)
    context = getattr(found.config, 'context', None)
    parts = [f'{size[0]} x {size[1]}'] if size else []
    return ', '.join([*parts, counted(context, 'token')] if context else parts)


def measured(metrics: Mapping[str, float]) -> str:
    """Say the first of what was measured, in words.

    >>> measured({'imagenet_top1_at_288': 0.81214}), measured({'held_out_bits_per_byte': 2.225})
    ('81.2 % imagenet top1 at 288', '2.225 held out bits per byte')
    """
    if not metrics:
        return ''
    name, value = next(iter(metrics.items()))
    is_share = 'accuracy' in name or 'top' in name
    number = f'{100 * value:.1f} %' if is_share else f'{value:.4g}'
    return f'{number} {name.replace("_", " ")}'


def _is_here(source: str) -> bool:
    """Return whether a repository was converted on this machine, or its weights downloaded."""
    # What is in the package loads without the client of the Hub, which takes long to import.
    from blox.zoo.loading.hub.cache import download_folder, own_folder

    downloads = download_folder(source) / 'snapshots'
    patterns = ('*.safetensors', '*.bin', '*.npz')
    return any(own_folder(source).glob('*.safetensors')) or any(
        found for pattern in patterns for found in downloads.glob(f'*/{pattern}')
    )
