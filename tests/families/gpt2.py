"""GPT-2, as transformers has it."""

from libraries import transformers

TINY = {'width': 8, 'depth': 2, 'heads': 2, 'mlp_dim': 12, 'vocab_size': 11, 'context': 6}
ODD = [
    {'tied_head': False},
    {'mlp_dim': 20, 'scale_attention': False},
    {'task': 'text-classification', 'num_classes': 3},
]
TOLD = [
    {'embed_dropout_rate': 0.125, 'dropout_rate': 0.25, 'attention_dropout_rate': 0.5},
    {'activation': 'relu', 'norm_eps': 1e-3},
    {'activation': 'gelu', 'scale_attention_by_depth': True},
    {'tied_head': False, 'scale_attention': False, 'activation': 'silu'},
    {'activation': 'tanh', 'vocab_size': 50257, 'end_tokens': ()},
    {'end_tokens': (3, 0)},
    {'task': 'token-classification', 'num_classes': 3, 'head_dropout_rate': 0.5},
    {'task': 'feature-extraction', 'tied_head': False},
    {'task': 'feature-extraction'},
]
BROKEN = [
    ({'task': 'fill-mask'}, 'task one of text-generation, text-classification'),
    ({'task': 'text-classification'}, 'num_classes above 0 in a task of classes, 0 in others'),
    ({'end_tokens': (-1,)}, 'end_tokens from 0 on'),
]
NUM_PARAMS = {
    'gpt2': 124_439_808,
    'gpt2-medium': 354_823_168,
    'gpt2-large': 774_030_080,
    'gpt2-xl': 1_557_611_200,
    'distilgpt2': 81_912_576,
}
PREFIX = 'transformer.'
SOURCES = {
    r'openai-community/(.+)': (r'\1', 4),
    r'distilbert/(distilgpt2)': (r'\1', 1),
}

_GPT2 = transformers('GPT2LMHeadModel', 'GPT2Config')
_SMALL = _GPT2.but(
    vocab_size=50,
    n_positions=128,
    n_embd=32,
    n_layer=3,
    n_head=4,
    bos_token_id=None,
    eos_token_id=None,
)
REFERENCES = {
    '': _SMALL,
    'n_inner=48': _SMALL.but(n_inner=48),
    'gelu': _SMALL.but(activation_function='gelu'),
    'relu': _SMALL.but(activation_function='relu'),
    'epsilon=0.01': _SMALL.but(layer_norm_epsilon=1e-2),
    'unscaled': _SMALL.but(scale_attn_weights=False),
    'scaled by depth': _SMALL.but(scale_attn_by_inverse_layer_idx=True),
    'untied': _SMALL.but(tie_word_embeddings=False),
    'classifying': _SMALL.of('GPT2ForSequenceClassification', num_labels=3, pad_token_id=-1),
    'of tokens': _SMALL.of('GPT2ForTokenClassification', num_labels=3),
    'alone': _SMALL.of('GPT2Model', tie_word_embeddings=False),
}
FULL_SIZE = {'GPT-2': _GPT2}
GOLDEN = {'hf': _SMALL.but(vocab_size=40, n_positions=48, n_embd=16, n_layer=2, n_inner=24)}

HONOURED = {
    'hf': [
        ({'n_inner': None}, {'mlp_dim': 32}),
        ({'reorder_and_upcast_attn': True, 'n_ctx': 6}, {}),
        ({'summary_type': 'cls_index', 'task_specific_params': {}}, {}),
    ],
}
REFUSED = {
    'hf': {
        'n_ctx': 7,
        'activation_function': 'gelu_fast',
        'add_cross_attention': True,
        'rotary': True,
        'tie_encoder_decoder': True,
        'scale_attn_weights': None,
        'n_layer': '2',
        'n_embd': [8],
        'layer_norm_epsilon': 'small',
        'tie_word_embeddings': 1,
    },
}
