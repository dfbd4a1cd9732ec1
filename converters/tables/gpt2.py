"""GPT-2: openai-community/gpt2 and kin, as transformers reads and writes them.

Their Conv1D weights are [inputs, outputs], as ours are, with q, k and v side by side.
"""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.fields import Field
from blox.converters.mapping.libraries import TRANSFORMERS
from blox.converters.mapping.parts import ACTIVATION, dense, norm
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import IDENTITY, T


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to names as published: without the prefix 'transformer.'."""
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


_LAYERS = (
    Rule('gpt2/token_embed', 'wte'),
    Rule('gpt2/pos_embed', 'wpe'),
    Rule('gpt2/block{i}/norm1', 'h.{i}.ln_1'),
    Rule('gpt2/block{i}/attn', 'h.{i}.attn'),
    Rule('gpt2/block{i}/norm2', 'h.{i}.ln_2'),
    Rule('gpt2/block{i}/mlp', 'h.{i}.mlp'),
    Rule('gpt2/block{i}', 'h.{i}'),
    Rule('gpt2/norm', 'ln_f'),
)
_FIELDS = (
    Field('vocab_size', 'vocab_size', 50257),
    Field('context', 'n_positions', 1024),
    Field('width', 'n_embd', 768),
    Field('depth', 'n_layer', 12),
    Field('heads', 'n_head', 12),
    Field('mlp_dim', 'n_inner', lambda known: 4 * known['width']),
    Field('activation', 'activation_function', 'gelu_new', ACTIVATION),
    Field('norm_eps', 'layer_norm_epsilon', 1e-5),
    Field('scale_attention', 'scale_attn_weights', True),
    Field('scale_attention_by_depth', 'scale_attn_by_inverse_layer_idx', False),
    Field('tied_head', 'tie_word_embeddings', True),
    Field('embed_dropout_rate', 'embd_pdrop', 0.1),
    Field('attention_dropout_rate', 'attn_pdrop', 0.1),
    Field('dropout_rate', 'resid_pdrop', 0.1),
    Field((), 'n_ctx', lambda known: known['context']),
)


def _header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    # The published vocabulary ends with the one special token; others are not known.
    end = 50256 if config.vocab_size == 50257 else None
    return {
        'architectures': ['GPT2LMHeadModel'],
        'model_type': 'gpt2',
        'bos_token_id': end,
        'eos_token_id': end,
        **theirs,
    }


TABLES = {
    'hf': Table(
        hf,
        layers=_LAYERS,
        spellings=((r'^transformer\.', ''),),
        published=lambda config: ((r'^(?!lm_head\.)', 'transformer.'),),
        # Causal masks, which old versions kept with the weights.
        ignored=(r'h\.\d+\.attn\.(bias|masked_bias)',),
        tied={'lm_head.weight': 'wte.weight'},
        library=TRANSFORMERS,
        kinds=('gpt2',),
        fields=_FIELDS,
        # Upcasting attention to float32 is what our softmax does; the order of its scaling is
        # no other function, only other rounding. A summary is of heads that are not here.
        neutral=('reorder_and_upcast_attn', 'summary_.*', 'n_special', 'predict_special_tokens'),
        header=_header,
    )
}
