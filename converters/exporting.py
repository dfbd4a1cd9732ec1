"""Write a model as the folder that another library opens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from blox.adapters import is_adapted
from blox.atomic import atomic_write
from blox.converters.configs import write_config
from blox.converters.mapping.rules import plan, respell
from blox.converters.tables import layouts
from blox.converters.target import model_spec, table_of
from blox.params import Params
from blox.tensorfile import write_tensors


def export(
    path: str | os.PathLike[str],
    model: Any,
    params: Params,
    format: str = 'hf',
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder that transformers ('hf'), timm ('timm') or open_clip opens: weights and config.json.

    torchvision reads the weights of a ResNet in format 'timm'. `extra` has more files: texts or JSON
    by name; the fields of objects are added to ours. Raises ValueError where
    the other library cannot express the model.
    """
    table = table_of(model, format)
    if table.library is None:
        known = ' or '.join(name for name, t in layouts(model.path).items() if t.library)
        raise ValueError(
            f'{type(model).__name__} cannot be exported as {format!r}: expected {known}'
        )
    config = write_config(table, model.config)
    values = external(model, params, format)
    files = {table.library.config: config, **table.companions(model.config)}
    for name, content in (extra or {}).items():
        both = isinstance(content, Mapping) and isinstance(files.get(name), Mapping)
        files[name] = _joined(files[name], content) if both else content
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / table.library.weights, values, {'format': 'pt'})
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + '\n'
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def _joined(fields: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return `fields` with more of them, inside of objects too, at any depth."""
    inner = {
        name: _joined(fields[name], value)
        for name, value in more.items()
        if isinstance(value, Mapping)
        and isinstance(fields.get(name), Mapping)
        # Labels are a whole, not an addition.
        and name not in ('id2label', 'label2id')
    }
    return {**fields, **more, **inner}


def external(model: Any, params: Params, format: str) -> dict[str, np.ndarray]:
    """Return the arrays that `export` writes, views of the params' values where possible.

    Raises ValueError for adapters, and for shapes that are not the model's.
    """
    if is_adapted(params):
        raise ValueError(
            'these Params have adapters: bx.merge_lora(params) makes them plain, '
            'bx.converters.export_peft writes them alone'
        )
    table, params = table_of(model, format), params.unstack()
    published = table.published(model.config)
    values: dict[str, np.ndarray] = {}
    for entry in plan(table.rules(model.config), model_spec(model)).values():
        array = np.asarray(params[entry.path].value)
        if array.shape != entry.shape:
            raise ValueError(f'{entry.path!r}: expected {entry.shape}, found {array.shape}')
        arrays = entry.via.inverse(array, len(entry.names))
        values |= {respell(name, published): part for name, part in zip(entry.names, arrays)}
    return dict(sorted((values | table.buffers(values)).items()))
