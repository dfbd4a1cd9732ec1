"""CLIP and SigLIP: transformers and open_clip."""

from blox.converters.tables.clip import open_clip, transformers

TABLES = {**transformers.TABLES, **open_clip.TABLES}
