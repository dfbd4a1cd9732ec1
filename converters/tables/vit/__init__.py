"""ViT: transformers, timm, torchvision, and .npz files of Google's vision_transformer and big_vision."""

from blox.converters.tables.vit import google, timm, torchvision, transformers

TABLES = {**transformers.TABLES, **timm.TABLES, **torchvision.TABLES, **google.TABLES}
