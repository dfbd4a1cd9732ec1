"""Writes converters/mapping/timm_names.json: `python tests/parity/timm_names.py`. Needs the `parity` extra.

What timm's own entry points ask its builder for, a line for each name: the class, and its arguments
where those are a few plain values.
"""

import importlib
import inspect
import json
import pkgutil
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from blox.converters.mapping.libraries import PRUNED_WIDTHS
from blox.zoo.comparing.parity import import_reference

# Longer arguments spell out every block.
_LONGEST = 1_000
FILE = Path(__file__).parents[2] / 'converters' / 'mapping' / 'timm_names.json'


class AskedError(Exception):
    """What an entry point asked the builder for."""


def _ask(kind: type, variant: str, pretrained: bool, *args: Any, **arguments: Any) -> None:
    raise AskedError(kind, arguments)


def collect() -> dict[str, Any]:
    """The content of the file."""
    timm = import_reference('timm')
    builder = importlib.import_module('timm.models._builder')
    own = set(inspect.signature(builder.build_model_with_cfg).parameters)
    for name, module in list(sys.modules.items()):
        if name.startswith('timm.models.') and hasattr(module, 'build_model_with_cfg'):
            module.build_model_with_cfg = _ask  # pyright: ignore[reportAttributeAccessIssue]
    names = {}
    for name in timm.list_models():
        try:
            timm.model_entrypoint(name)()
        except AskedError as asked:
            kind, arguments = asked.args
            known = {k: v for k, v in arguments.items() if k not in own}
            names[name] = [kind.__name__, _plain(known)]
            if kind.__name__ == 'ResNet' and known.get('pruned'):
                names[name][1][PRUNED_WIDTHS] = _pruned_widths(name)
    return {'version': timm.__version__, 'names': names}


def _pruned_widths(name: str) -> list[int]:
    """The channels of all convolutions of blocks, in the file that timm's code has for a name."""
    shapes = pkgutil.get_data('timm.models', f'_pruned/{name}.txt') or b''
    return [int(n) for n in re.findall(r'layer\d\.\d+\.conv\d\.weight:\[(\d+)', shapes.decode())]


def _plain(value: Any) -> Any:
    """A value as JSON has it, a function by its name; None for what JSON lacks, or is a program."""
    try:
        text = json.dumps(_named(value), allow_nan=False)
    except TypeError:
        return None
    return json.loads(text) if len(text) < _LONGEST else None


def _named(value: Any) -> Any:
    if isinstance(value, import_reference('torch').nn.Module):
        return type(value).__name__
    if isinstance(value, partial):
        return {'name': value.func.__name__, **_named(value.keywords)}
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__
    if isinstance(value, dict):
        return {name: _named(item) for name, item in value.items()}
    return [_named(item) for item in value] if isinstance(value, list | tuple) else value


def text(content: dict[str, Any]) -> str:
    """The file's text, a line for each name."""
    lines = [f'  {json.dumps(name)}: {json.dumps(row)}' for name, row in content['names'].items()]
    version = json.dumps(content['version'])
    return f'{{"version": {version}, "names": {{\n' + ',\n'.join(lines) + '\n}}\n'


if __name__ == '__main__':
    FILE.write_text(text(collect()), 'utf-8')
