"""BERT's encoder: google-bert/bert-* and sentence-transformers/all-MiniLM-*, as transformers has it."""

from typing import Any

from blox.converters.rules import Rule, Table
from blox.converters.sources.source import Source
from blox.converters.tables.common import (
    HF_FIXED,
    HF_NEUTRAL,
    Fields,
    dense,
    hf_activation,
    norm,
    qkv,
)


def hf(config: Any) -> tuple[Rule, ...]:
    """Names as BertModel has them: without the prefix 'bert.'."""
    layer = 'encoder.layer.{i}'
    parts = tuple(f'{layer}.attention.self.{name}' for name in ('query', 'key', 'value'))
    return (
        Rule('bert/token_embed/w', 'embeddings.word_embeddings.weight'),
        Rule('bert/pos_embed/w', 'embeddings.position_embeddings.weight'),
        Rule('bert/type_embed/w', 'embeddings.token_type_embeddings.weight'),
        *norm('bert/norm', 'embeddings.LayerNorm'),
        *qkv('bert/block{i}/attn/qkv', parts),
        *dense('bert/block{i}/attn/proj', f'{layer}.attention.output.dense'),
        *norm('bert/block{i}/norm1', f'{layer}.attention.output.LayerNorm'),
        *dense('bert/block{i}/mlp/fc1', f'{layer}.intermediate.dense'),
        *dense('bert/block{i}/mlp/fc2', f'{layer}.output.dense'),
        *norm('bert/block{i}/norm2', f'{layer}.output.LayerNorm'),
        *(dense('bert/pooler', 'pooler.dense') if config.pooler else ()),
    )


def _layers(config: Any) -> tuple[Rule, ...]:
    return (
        Rule('bert/token_embed', 'embeddings.word_embeddings'),
        Rule('bert/pos_embed', 'embeddings.position_embeddings'),
        Rule('bert/type_embed', 'embeddings.token_type_embeddings'),
        Rule('bert/norm', 'embeddings.LayerNorm'),
        Rule('bert/block{i}/attn', 'encoder.layer.{i}.attention.output.dense'),
        Rule('bert/block{i}/norm1', 'encoder.layer.{i}.attention'),
        Rule('bert/block{i}/mlp', 'encoder.layer.{i}.output.dense'),
        Rule('bert/block{i}', 'encoder.layer.{i}'),
        *((Rule('bert/pooler', 'pooler.dense'),) if config.pooler else ()),
    )


def _read_config(source: Source) -> dict[str, Any]:
    fields = Fields(source.config)
    ours = {
        'vocab_size': fields.take('vocab_size', 30522),
        'context': fields.take('max_position_embeddings', 512),
        'token_types': fields.take('type_vocab_size', 2),
        'width': fields.take('hidden_size', 768),
        'depth': fields.take('num_hidden_layers', 12),
        'heads': fields.take('num_attention_heads', 12),
        'mlp_dim': fields.take('intermediate_size', 3072),
        'activation': fields.activation('hidden_act', 'gelu'),
        'norm_eps': fields.take('layer_norm_eps', 1e-12),
        'pooler': any(name.endswith('pooler.dense.weight') for name in source.tensors),
        'embed_dropout_rate': fields.take('hidden_dropout_prob', 0.1),
        'attention_dropout_rate': fields.take('attention_probs_dropout_prob', 0.1),
        **_read_pooling(source),
    }
    ours['dropout_rate'] = ours['embed_dropout_rate']
    fields.expect({**HF_FIXED, 'position_embedding_type': 'absolute'})
    # The head that it would tie is not part of the encoder.
    fields.finish(HF_NEUTRAL | {'tie_word_embeddings', *_UNUSED})
    return ours


# Written by early versions for a pooler that no model in PyTorch has.
_UNUSED = (
    'directionality',
    'pooler_fc_size',
    'pooler_num_attention_heads',
    'pooler_num_fc_layers',
    'pooler_size_per_head',
    'pooler_type',
)


def _read_pooling(source: Source) -> dict[str, Any]:
    """What the modules of a folder of sentence-transformers make of the tokens' states."""
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


def _write_config(config: Any) -> dict[str, Any]:
    if config.embed_dropout_rate != config.dropout_rate:
        raise ValueError(
            'transformers has one dropout rate for embeddings and blocks, found '
            f'embed_dropout_rate {config.embed_dropout_rate}, dropout_rate {config.dropout_rate}'
        )
    return {
        'architectures': ['BertModel'],
        'model_type': 'bert',
        'vocab_size': config.vocab_size,
        'max_position_embeddings': config.context,
        'type_vocab_size': config.token_types,
        'hidden_size': config.width,
        'num_hidden_layers': config.depth,
        'num_attention_heads': config.heads,
        'intermediate_size': config.mlp_dim,
        'hidden_act': hf_activation(config.activation),
        'layer_norm_eps': config.norm_eps,
        'hidden_dropout_prob': config.dropout_rate,
        'attention_probs_dropout_prob': config.attention_dropout_rate,
        'pad_token_id': 0,
    }


def _pooling_files(config: Any) -> dict[str, Any]:
    """The files by which sentence-transformers makes the same embedding."""
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
        # Positions in order, and the heads of pretraining, which the encoder does without.
        ignored=(r'embeddings\.position_ids', r'cls\..*'),
        read_config=_read_config,
        write_config=_write_config,
        companions=_pooling_files,
    )
}
