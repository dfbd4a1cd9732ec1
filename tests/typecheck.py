"""Has functions of blox check, at each call, the types and shapes that their annotations state."""

from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

ROOT = Path(__file__).parents[1]
checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # An int may stand for a float.


def install():
    """Install the checks for modules of blox that are imported from here on."""
    install_import_hook(list(_checked()), 'typecheck.checker')


def _checked():
    """Yield the names of all modules but those that postpone their annotations.

    jaxtyping checks nothing in these, and yet takes a third of the tests' time for them.
    """
    for room, name in (('blox', 'blox'), ('zoo', 'blox.zoo'), ('converters', 'blox.converters')):
        for file in (ROOT / room).rglob('[!_]*.py'):
            if 'from __future__ import annotations' not in file.read_text('utf-8'):
                yield '.'.join([name, *file.relative_to(ROOT / room).with_suffix('').parts])
