"""Published checkpoints and graph paths: one table for each layout, used in both directions."""

from blox.converters.convert import Explanation, convert, explain, export, fingerprint, tables
from blox.converters.sources import Source, open_source

__all__ = [
    'Explanation',
    'Source',
    'convert',
    'explain',
    'export',
    'fingerprint',
    'open_source',
    'tables',
]
