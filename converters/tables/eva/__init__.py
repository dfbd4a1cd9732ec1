"""EVA: timm, and the DINOv3 of transformers."""

from blox.converters.tables.eva import timm, transformers

TABLES = {**timm.TABLES, **transformers.TABLES}
