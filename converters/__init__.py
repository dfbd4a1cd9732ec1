"""Published checkpoints and graph paths: one table for each layout, used in both directions."""

from blox.converters.configs import identify, read_config
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
    'identify',
    'import_peft',
    'layouts',
    'open_source',
    'read_config',
    'read_object',
]
