"""BERT and its heads: google-bert/bert-* and sentence-transformers/all-MiniLM-*, as transformers has them."""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.fields import Field, fixed
from blox.converters.mapping.heads import (
    OF_CLASSES,
    Head,
    architectures,
    label_fields,
    read_classes_of,
    read_task,
)
from blox.converters.mapping.libraries import TRANSFORMERS
from blox.converters.mapping.parts import ACTIVATION, dense, merged, norm
from blox.converters.mapping.rules import Respelling, Rule, Table
from blox.converters.sources.source import Source


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to names as BertModel has them: without the prefix 'bert.'."""
    layer = 'encoder.layer.{i}'
    parts = tuple(f'{layer}.attention.self.{name}' for name in ('query', 'key', 'value'))
    return (
        Rule('bert/token_embed/w', 'embeddings.word_embeddings.weight'),
        Rule('bert/pos_embed/w', 'embeddings.position_embeddings.weight'),
        Rule('bert/type_embed/w', 'embeddings.token_type_embeddings.weight'),
        *norm('bert/norm', 'embeddings.LayerNorm'),
        *merged('bert/block{i}/attn/qkv', parts),
        *dense('bert/block{i}/attn/proj', f'{layer}.attention.output.dense'),
        *norm('bert/block{i}/norm1', f'{layer}.attention.output.LayerNorm'),
        *dense('bert/block{i}/mlp/fc1', f'{layer}.intermediate.dense'),
        *dense('bert/block{i}/mlp/fc2', f'{layer}.output.dense'),
        *norm('bert/block{i}/norm2', f'{layer}.output.LayerNorm'),
        *(dense('bert/pooler', 'pooler.dense') if config.pooler else ()),
        *_head(config.task),
    )


_HEADS = {
    'sentence-embedding': Head('BertModel'),
    'text-classification': Head('BertForSequenceClassification', 'classifier.weight'),
    'token-classification': Head('BertForTokenClassification', 'classifier.weight'),
    'multiple-choice': Head('BertForMultipleChoice', 'classifier.weight'),
    'question-answering': Head('BertForQuestionAnswering', 'qa_outputs.weight'),
    'fill-mask': Head('BertForMaskedLM', 'cls.predictions.transform.dense.weight'),
}


def _head(task: str) -> tuple[Rule, ...]:
    """Map the head of a task; that of masked words has the token table's rows too."""
    if task == 'fill-mask':
        return (
            *dense('bert/head/fc', 'cls.predictions.transform.dense'),
            *norm('bert/head/norm', 'cls.predictions.transform.LayerNorm'),
            Rule('bert/head/b', 'cls.predictions.bias'),
        )
    name = _HEADS[task].weight.removesuffix('.weight')
    return dense('bert/head', name) if name else ()


def _published(config: Any) -> tuple[Respelling, ...]:
    """Spell names below 'bert.', where there is a head."""
    is_body = config.task == 'sentence-embedding'
    return () if is_body else ((r'^(?!classifier\.|qa_outputs\.|cls\.)', 'bert.'),)


_TIED = {
    'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
    'cls.predictions.decoder.bias': 'cls.predictions.bias',
}
_LAYERS = (
    Rule('bert/token_embed', 'embeddings.word_embeddings'),
    Rule('bert/pos_embed', 'embeddings.position_embeddings'),
    Rule('bert/type_embed', 'embeddings.token_type_embeddings'),
    Rule('bert/norm', 'embeddings.LayerNorm'),
    Rule('bert/block{i}/attn', 'encoder.layer.{i}.attention.output.dense'),
    Rule('bert/block{i}/norm1', 'encoder.layer.{i}.attention'),
    Rule('bert/block{i}/mlp', 'encoder.layer.{i}.output.dense'),
    Rule('bert/block{i}', 'encoder.layer.{i}'),
)


def _layers(config: Any) -> tuple[Rule, ...]:
    if config.task == 'fill-mask':
        transform = 'cls.predictions.transform'
        head = Rule('bert/head/fc', f'{transform}.dense'), Rule('bert/head/norm', transform)
        return (*_LAYERS, *head)
    # Theirs have no pooler where none is used.
    is_pooled = config.pooler and config.task not in ('token-classification', 'question-answering')
    return (*_LAYERS, Rule('bert/pooler', 'pooler.dense')) if is_pooled else _LAYERS


_FIELDS = (
    Field('vocab_size', 'vocab_size', 30522),
    Field('context', 'max_position_embeddings', 512),
    Field('token_types', 'type_vocab_size', 2),
    Field('width', 'hidden_size', 768),
    Field('depth', 'num_hidden_layers', 12),
    Field('heads', 'num_attention_heads', 12),
    Field('mlp_dim', 'intermediate_size', 3072),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    Field('norm_eps', 'layer_norm_eps', 1e-12),
    Field(('embed_dropout_rate', 'dropout_rate'), 'hidden_dropout_prob', 0.1),
    Field('attention_dropout_rate', 'attention_probs_dropout_prob', 0.1),
    Field('head_dropout_rate', 'classifier_dropout', lambda known: known['dropout_rate']),
    *fixed(position_embedding_type='absolute'),
)


def _header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        'architectures': [_HEADS[config.task].architecture],
        'model_type': 'bert',
        **theirs,
        **label_fields(config.num_classes),
        'pad_token_id': 0,
    }


def _read_beside(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    has_pooler = any(name.endswith('pooler.dense.weight') for name in source.tensors)
    task = read_task(source, _HEADS, 'sentence-embedding', ours.get('task', ''))
    if task == 'text-classification' and not has_pooler and not architectures(source.config):
        task = 'token-classification'  # Their heads have one name.
    if task == 'fill-mask' and source.config.get('tie_word_embeddings') is False:
        raise ValueError('tie_word_embeddings False (expected True of a head for masked words)')
    return {
        'task': task,
        'num_classes': read_classes_of(source) if task in OF_CLASSES else 0,
        'pooler': has_pooler,
        **(_read_pooling(source) if task == 'sentence-embedding' else {}),
    }


def _read_pooling(source: Source) -> dict[str, Any]:
    """Read how a folder of sentence-transformers pools the tokens' states."""
    if not source.has('modules.json'):
        return {'pool': 'mean', 'normalize': False}
    modules = source.read_json('modules.json')
    if not isinstance(modules, list):
        raise ValueError(f'modules.json: expected a list of modules, found {modules}')
    kinds = [str(module.get('type', '')).rpartition('.')[2] for module in modules]
    if kinds[:2] != ['Transformer', 'Pooling'] or kinds[2:] not in ([], ['Normalize']):
        raise ValueError(
            f'modules.json: expected Transformer, Pooling and perhaps Normalize, found {kinds}'
        )
    path = modules[1].get('path')
    if not isinstance(path, str):
        raise ValueError(f'modules.json: expected the path of its pooling, found {path!r}')
    pooling = source.read_object(f'{path}/config.json')
    modes = {name.removeprefix('pooling_mode_') for name, on in pooling.items() if on is True}
    if isinstance(mode := pooling.get('pooling_mode'), str):  # since its version 6
        modes.add({'mean': 'mean_tokens', 'cls': 'cls_token'}.get(mode, mode))
    pools = {frozenset({'mean_tokens'}): 'mean', frozenset({'cls_token'}): 'first'}
    found = frozenset(modes - {'include_prompt'})
    if found not in pools:
        raise ValueError(f'{path}: expected mean or cls pooling, found {set(found)}')
    return {'pool': pools[found], 'normalize': len(kinds) == 3}


def _pooling_files(config: Any) -> dict[str, Any]:
    """Return the files by which sentence-transformers makes the same embedding."""
    if config.task != 'sentence-embedding':
        return {}
    modes = {'mean': 'mean_tokens', 'first': 'cls_token'}
    if config.pool not in modes:
        raise ValueError(
            f'no folder says pool {config.pool!r}: load the model with pool one of '
            f'{", ".join(modes)}, or save it to a file of our own'
        )
    kinds = {'': 'Transformer', '1_Pooling': 'Pooling'}
    kinds |= {'2_Normalize': 'Normalize'} if config.normalize else {}
    modules = [
        {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {f'pooling_mode_{mode}': mode == modes[config.pool] for mode in modes.values()}
    return {
        'modules.json': modules,
        '1_Pooling/config.json': {'word_embedding_dimension': config.width, **pooling},
    }


TABLES = {
    'hf': Table(
        hf,
        layers=_layers,
        spellings=(
            (r'^bert\.', ''),
            (r'LayerNorm\.gamma$', 'LayerNorm.weight'),
            (r'LayerNorm\.beta$', 'LayerNorm.bias'),
        ),
        # Positions in order.
        ignored=(r'embeddings\.position_ids',),
        heads=(r'(cls|classifier|qa_outputs)\..*',),
        tied=lambda config: _TIED if config.task == 'fill-mask' else {},
        published=_published,
        # A head does not pool as sentence-transformers does.
        unsaid=lambda config: () if config.task == 'sentence-embedding' else ('pool', 'normalize'),
        library=TRANSFORMERS,
        kinds=('bert',),
        fields=_FIELDS,
        # Written by early versions for a pooler that no model in PyTorch has.
        neutral=('directionality', 'pooler_.*'),
        beside=_read_beside,
        header=_header,
        companions=_pooling_files,
    )
}
