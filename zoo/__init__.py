"""Pretrained models: `model, params = bx.zoo.load('vit-digits')`."""

from blox.zoo.card import Card
from blox.zoo.catalog import card, list_models
from blox.zoo.exporting import export
from blox.zoo.generation import Generation, generate, stream
from blox.zoo.loading import create, init, load, preprocessor, push, read_card, save, tokenizer
from blox.zoo.preprocessing import ImagePreprocessor

__all__ = [
    'Card',
    'Generation',
    'ImagePreprocessor',
    'card',
    'create',
    'export',
    'generate',
    'init',
    'list_models',
    'load',
    'preprocessor',
    'push',
    'read_card',
    'save',
    'stream',
    'tokenizer',
]
