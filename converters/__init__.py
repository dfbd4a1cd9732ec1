"""Published checkpoints and graph paths: one table for each layout, used in both directions."""

from blox.converters.convert import convert
from blox.converters.explanation import Explanation, explain
from blox.converters.exporting import export
from blox.converters.peft.files import export_peft, import_peft
from blox.converters.sources.files import read_object
from blox.converters.sources.source import Source, open_source
from blox.converters.tables import layouts

__all__ = [
    'Explanation',
    'Source',
    'convert',
    'explain',
    'export',
    'export_peft',
    'import_peft',
    'layouts',
    'open_source',
    'read_object',
]
