"""BERT, as transformers has it."""

from libraries import transformers

TINY = {'width': 8, 'depth': 2, 'heads': 2, 'mlp_dim': 12, 'vocab_size': 11, 'context': 6}
TINY |= {'pool': 'mean', 'normalize': True}
ODD = [
    {'pooler': False, 'token_types': 1},
    {'pool': 'first', 'normalize': False},
    {'task': 'fill-mask', 'pooler': False},
    {'task': 'multiple-choice'},
]
TOLD = [
    {'embed_dropout_rate': 0.25, 'dropout_rate': 0.25, 'attention_dropout_rate': 0.5},
    {'activation': 'gelu_tanh', 'norm_eps': 1e-3},
    {'activation': 'relu', 'pool': 'mean', 'normalize': False},
    {'activation': 'silu', 'pool': 'first', 'normalize': True},
    {'activation': 'tanh', 'pooler': False},
    {'task': 'text-classification', 'num_classes': 3, 'head_dropout_rate': 0.5},
    {'task': 'token-classification', 'num_classes': 1, 'pooler': False},
    {'task': 'question-answering', 'pooler': False},
    {'task': 'fill-mask'},
]
BROKEN = [
    ({'task': 'translation'}, 'task one of sentence-embedding, text-classification'),
    ({'task': 'text-classification'}, 'num_classes above 0 in a task of classes, 0 in others'),
    ({'num_classes': 2}, 'num_classes above 0 in a task of classes, 0 in others'),
    ({'task': 'multiple-choice', 'pooler': False}, 'pooler True for the task multiple-choice'),
    ({'pool': 'max'}, "pool 'first', 'mean', or 'pooler' with a pooler"),
    ({'pool': 'pooler', 'pooler': False}, "or 'pooler' with a pooler"),
]
NUM_PARAMS = {
    'bert-base': 109_482_240,
    'bert-large': 335_141_888,
    'minilm-l6': 22_713_216,
    'minilm-l12': 33_360_000,
}
PREFIX = 'bert.'
SOURCES = {
    r'google-bert/(.+)-uncased': (r'\1', 2),
    r'sentence-transformers/(all-minilm-l\d+)-v2': (r'\1', 2),
}

_BERT = transformers(
    'BertModel',
    'BertConfig',
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=24,
    pad_token_id=None,  # Its row of the table would get no gradient.
)
REFERENCES = {
    '': _BERT,
    'relu': _BERT.but(hidden_act='relu'),
    'gelu_new': _BERT.but(hidden_act='gelu_new'),
    'epsilon=0.01': _BERT.but(layer_norm_eps=1e-2),
    'type_vocab_size=3': _BERT.but(type_vocab_size=3),
    'classifying': _BERT.of('BertForSequenceClassification', num_labels=3),
    'of tokens': _BERT.of('BertForTokenClassification', num_labels=3),
    'of choices': _BERT.of('BertForMultipleChoice'),
    'of answers': _BERT.of('BertForQuestionAnswering'),
    'of masks': _BERT.of('BertForMaskedLM', hidden_act='relu'),
}
GOLDEN = {'hf': _BERT.but(hidden_size=16, intermediate_size=24, vocab_size=40)}

HONOURED = {
    'hf': [({'pooler_type': 'first_token_transform', 'directionality': 'bidi'}, {})],
}
REFUSED = {
    'hf': {
        'position_embedding_type': 'relative_key',
        'is_decoder': True,
        'add_cross_attention': True,
        'hidden_act': 'gelu_10',
        'embedding_size': 128,
        'quantization_config': {'bits': 4},
        'pruned_heads': {'0': [1]},
    },
}
LACKS = {
    'hf': [
        ({'embed_dropout_rate': 0.2}, 'embed_dropout_rate 0.2 and dropout_rate'),
        ({'pool': 'pooler'}, "no folder says pool 'pooler'"),
    ],
}
