"""Pretrained models: `model, params = bx.zoo.load('vit-digits')`."""

from blox.zoo.card import Card
from blox.zoo.catalog import card, list_models
from blox.zoo.comparing import diff
from blox.zoo.compiling import compile
from blox.zoo.data import Data, image_folder, text_file
from blox.zoo.exporting import export
from blox.zoo.finetuning import finetune, load_for_classes
from blox.zoo.generation import Generation, generate, stream
from blox.zoo.loading import create, init, load, preprocessor, push, read_card, save, tokenizer
from blox.zoo.preprocessing import ImagePreprocessor

__all__ = [
    'Card',
    'Data',
    'Generation',
    'ImagePreprocessor',
    'card',
    'compile',
    'create',
    'diff',
    'export',
    'finetune',
    'generate',
    'image_folder',
    'init',
    'list_models',
    'load',
    'load_for_classes',
    'preprocessor',
    'push',
    'read_card',
    'save',
    'stream',
    'text_file',
    'tokenizer',
]
