"""GPT-2: openai-community/gpt2 and kin, as transformers reads and writes them.

Their Conv1D weights are [inputs, outputs], as ours are, with q, k and v side by side.
"""

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
)
from blox.converters.transforms import IDENTITY, T


def hf(config: Any) -> tuple[Rule, ...]:
    """Names as published: without the prefix 'transformer.'."""
    rules = (
        Rule('gpt2/token_embed/w', 'wte.weight'),
        Rule('gpt2/pos_embed/w', 'wpe.weight'),
        *norm('gpt2/block{i}/norm1', 'h.{i}.ln_1'),
        *dense('gpt2/block{i}/attn/qkv', 'h.{i}.attn.c_attn', IDENTITY),
        *dense('gpt2/block{i}/attn/proj', 'h.{i}.attn.c_proj', IDENTITY),
        *norm('gpt2/block{i}/norm2', 'h.{i}.ln_2'),
        *dense('gpt2/block{i}/mlp/fc1', 'h.{i}.mlp.c_fc', IDENTITY),
        *dense('gpt2/block{i}/mlp/fc2', 'h.{i}.mlp.c_proj', IDENTITY),
        *norm('gpt2/norm', 'ln_f'),
    )
    return rules if config.tied_head else (*rules, Rule('gpt2/head/w', 'lm_head.weight', T))


def _layers(config: Any) -> tuple[Rule, ...]:
    return (
        Rule('gpt2/token_embed', 'transformer.wte'),
        Rule('gpt2/pos_embed', 'transformer.wpe'),
        Rule('gpt2/block{i}/norm1', 'transformer.h.{i}.ln_1'),
        Rule('gpt2/block{i}/attn', 'transformer.h.{i}.attn'),
        Rule('gpt2/block{i}/norm2', 'transformer.h.{i}.ln_2'),
        Rule('gpt2/block{i}/mlp', 'transformer.h.{i}.mlp'),
        Rule('gpt2/block{i}', 'transformer.h.{i}'),
        Rule('gpt2/norm', 'transformer.ln_f'),
    )


def _read_config(source: Source) -> dict[str, Any]:
    fields = Fields(source.config)
    width = fields.take('n_embd', 768)
    ours = {
        'vocab_size': fields.take('vocab_size', 50257),
        'context': fields.take('n_positions', 1024),
        'width': width,
        'depth': fields.take('n_layer', 12),
        'heads': fields.take('n_head', 12),
        'mlp_dim': fields.take('n_inner', 4 * width),
        'activation': fields.activation('activation_function', 'gelu_new'),
        'norm_eps': fields.take('layer_norm_epsilon', 1e-5),
        'scale_attention': fields.take('scale_attn_weights', True),
        'scale_attention_by_depth': fields.take('scale_attn_by_inverse_layer_idx', False),
        'tied_head': fields.take('tie_word_embeddings', True),
        'embed_dropout_rate': fields.take('embd_pdrop', 0.1),
        'attention_dropout_rate': fields.take('attn_pdrop', 0.1),
        'dropout_rate': fields.take('resid_pdrop', 0.1),
    }
    # Upcasting attention to float32 is what our softmax does; the order of its scaling is
    # no other function, only other rounding.
    fields.take('reorder_and_upcast_attn', False)
    fields.expect({**HF_FIXED, 'n_ctx': ours['context']})
    summary = ('activation', 'first_dropout', 'proj_to_labels', 'type', 'use_proj')
    fields.finish(
        HF_NEUTRAL
        | {f'summary_{name}' for name in summary}
        | {'n_special', 'predict_special_tokens'}
    )
    return ours


def _write_config(config: Any) -> dict[str, Any]:
    # The published vocabulary ends with the one special token; others are not known.
    end = 50256 if config.vocab_size == 50257 else None
    return {
        'architectures': ['GPT2LMHeadModel'],
        'model_type': 'gpt2',
        'vocab_size': config.vocab_size,
        'bos_token_id': end,
        'eos_token_id': end,
        'n_positions': config.context,
        'n_embd': config.width,
        'n_layer': config.depth,
        'n_head': config.heads,
        'n_inner': config.mlp_dim,
        'activation_function': hf_activation(config.activation),
        'layer_norm_epsilon': config.norm_eps,
        'scale_attn_weights': config.scale_attention,
        'scale_attn_by_inverse_layer_idx': config.scale_attention_by_depth,
        'tie_word_embeddings': config.tied_head,
        'embd_pdrop': config.embed_dropout_rate,
        'attn_pdrop': config.attention_dropout_rate,
        'resid_pdrop': config.dropout_rate,
    }


TABLES = {
    'hf': Table(
        hf,
        layers=_layers,
        spellings=((r'^transformer\.', ''),),
        published=lambda config: ((r'^(?!lm_head\.)', 'transformer.'),),
        # Causal masks, which old versions kept with the weights.
        ignored=(r'h\.\d+\.attn\.(bias|masked_bias)',),
        tied={'lm_head.weight': 'wte.weight'},
        read_config=_read_config,
        write_config=_write_config,
    )
}
