"""Shows examples in docstrings as code: Markdown takes lines after >>> for prose."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r'^>>> .*?(?=\n\s*\n|\Z)', re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Fences each example of each docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            fenced = _EXAMPLE.sub(lambda found: f'```pycon\n{found[0]}\n```', obj.docstring.value)
            obj.docstring.value = fenced
