"""Pretrained models: `model, params = bx.zoo.load('vit-digits')`."""

from blox.zoo.catalog import Card, card, list_models
from blox.zoo.generation import Generation, generate, stream
from blox.zoo.loading import create, init, load, preprocessor, save, tokenizer
from blox.zoo.preprocessing import ImagePreprocessor

__all__ = [
    'Card',
    'Generation',
    'ImagePreprocessor',
    'card',
    'create',
    'generate',
    'init',
    'list_models',
    'load',
    'preprocessor',
    'save',
    'stream',
    'tokenizer',
]
