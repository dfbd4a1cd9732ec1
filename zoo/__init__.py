"""Pretrained models: `model, params = bx.zoo.load('vit-digits')`."""

from blox.zoo.architecture.config import Config
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature
from blox.zoo.architecture.model import ImageModel, TextModel
from blox.zoo.catalog.card import Card
from blox.zoo.catalog.entries import card
from blox.zoo.comparing.diff import diff
from blox.zoo.evaluating.evaluation import evaluate
from blox.zoo.evaluating.report import Evaluation
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.inputs.text import TextBatch, TextPreprocessor, TextSettings
from blox.zoo.loading.listing import list_models
from blox.zoo.loading.load import (
    create,
    init,
    load,
    preprocessor,
    read_card,
    text_preprocessor,
    tokenizer,
)
from blox.zoo.models import register
from blox.zoo.pipelines.pipeline import Pipeline, pipeline
from blox.zoo.running.beams import Beams, beam_search
from blox.zoo.running.embedding import label_embeddings
from blox.zoo.running.generation import Generation, generate, stream
from blox.zoo.running.likelihood import log_probabilities
from blox.zoo.saving.compile import compile
from blox.zoo.saving.export import export
from blox.zoo.saving.push import push
from blox.zoo.saving.save import save
from blox.zoo.training.augment import Augmentation
from blox.zoo.training.classes import load_for_classes
from blox.zoo.training.data import Data
from blox.zoo.training.depth import tune_last
from blox.zoo.training.finetune import finetune
from blox.zoo.training.hub import image_dataset, text_dataset
from blox.zoo.training.images import image_folder
from blox.zoo.training.tables import image_table, text_table
from blox.zoo.training.texts import text_file

__all__ = [
    'Augmentation',
    'Beams',
    'Card',
    'Config',
    'Data',
    'Evaluation',
    'Family',
    'Feature',
    'Generation',
    'Head',
    'ImageModel',
    'ImagePreprocessor',
    'Pipeline',
    'Resized',
    'TextBatch',
    'TextModel',
    'TextPreprocessor',
    'TextSettings',
    'beam_search',
    'card',
    'compile',
    'create',
    'diff',
    'evaluate',
    'export',
    'finetune',
    'generate',
    'image_dataset',
    'image_folder',
    'image_table',
    'init',
    'label_embeddings',
    'list_models',
    'load',
    'load_for_classes',
    'log_probabilities',
    'pipeline',
    'preprocessor',
    'push',
    'read_card',
    'register',
    'save',
    'stream',
    'text_dataset',
    'text_file',
    'text_preprocessor',
    'text_table',
    'tokenizer',
    'tune_last',
]
