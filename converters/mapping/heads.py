"""Heads of transformers' models: which there are, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from blox.converters.sources.source import Source
from blox.tensorfile import fail
from blox.wording import printable


class Head(NamedTuple):
    """What transformers puts on a body for one task.

    Attributes:
      architecture: the class of body and head together.
      weight: a weight that the head alone has, as published; '' where there is no head.
      other: another name that may stand in its place.
    """

    architecture: str
    weight: str = ''
    other: str = ''


def read_task(source: Source, heads: Mapping[str, Head], body: str, wanted: str = '') -> str:
    """Return the task of the model that a folder holds.

    If a caller says which is `wanted`, that task if its head is there, else `body`, that of the body
    alone: heads that the caller does without are no reason to refuse the folder. Without config.json's
    word the names of the weights decide. Raises CheckpointError for a head that is not in `heads`.
    """
    found = [name for name in architectures(source.config) if name]
    tasks = {head.architecture: task for task, head in heads.items()}
    said = tasks.get(found[0], '') if found else _by_names(source, heads, body)
    if not said and not wanted:
        what = f'expected one of {", ".join(tasks)} in config.json'
        advice = f'to take the body alone pass task={body!r}, or the task of a head that it has'
        fail(source.path, f'{what}, found {printable(found[0])!r}; {advice}')
    if wanted in ('', said):
        return said
    head = heads.get(wanted)
    # Heads of one name and other tasks are told apart by config.json alone.
    is_own = head and (not said or not found or head.weight != heads[said].weight)
    return wanted if head and is_own and _has(source, head) else body


def architectures(config: Mapping[str, Any]) -> list[str]:
    """Return what config.json says in `architectures`; nothing if that is no list of texts."""
    found = config.get('architectures')
    is_list = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return found if isinstance(found, list) and is_list else []


def _by_names(source: Source, heads: Mapping[str, Head], body: str) -> str:
    """Return the first task whose head the names of the weights show, else that of the body."""
    return next((task for task, head in heads.items() if _has(source, head)), body)


def _has(source: Source, head: Head) -> bool:
    """Return whether the weights have the head's own, under whatever prefix."""
    ends = tuple(name for name in head[1:] if name)
    return any(name.endswith(ends) for name in source.tensors)


# Classes.

OF_CLASSES = ('text-classification', 'token-classification')


def read_classes_of(source: Source) -> int:
    """Return how many classes a folder's head tells apart: its labels, 2 where nothing is said."""
    labels = source.config.get('id2label')
    if isinstance(labels, Mapping):
        return len(labels)
    found = source.config.get('num_labels', 2)
    if type(found) is not int:
        raise ValueError(f'expected num_labels to be an integer, found {found!r}')
    return found


def label_fields(count: int) -> dict[str, Any]:
    """Return labels without names, as transformers numbers them; nothing for no classes."""
    names = [f'LABEL_{i}' for i in range(count)]
    ids = {str(i): name for i, name in enumerate(names)}
    return {'id2label': ids, 'label2id': {v: int(k) for k, v in ids.items()}} if names else {}
