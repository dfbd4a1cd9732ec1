"""Swin, as timm and transformers have it."""

from libraries import timm, transformers

TINY = {'width': 8, 'depths': (1, 2), 'stage_heads': (2, 4), 'windows': (2, 2)}
TINY |= {'image_size': (16, 16), 'patch_size': (2, 2), 'num_classes': 3, 'drop_path_rate': 0.0}
ODD = [
    # Windows that leave something over, and one as wide as the map.
    {'image_size': (20, 12), 'windows': (4, 3), 'qkv_bias': False},
    {'num_classes': 0, 'mlp_ratio': 1.5},
    {'depths': (3,), 'stage_heads': (4,), 'windows': (2,), 'in_channels': 1},
    {'image_size': (16, 8), 'windows': (3, 9), 'patch_size': (1, 2)},
]
TOLD = [
    {'dropout_rate': 0.25, 'attention_dropout_rate': 0.5},
    {'drop_path_rate': 0.25, 'mlp_ratio': 2.5},
    {'norm_eps': 1e-3, 'activation': 'gelu_tanh'},
]
BROKEN = [
    ({'image_size': (15, 16)}, 'patch_size that divides image_size'),
    ({'depths': (2,)}, 'as many depths as stage_heads and windows'),
    ({'windows': (4, 0)}, 'positive windows'),
    ({'stage_heads': (5, 6, 12, 24)}, 'stage_heads that divide the width of their stage'),
    ({'mlp_ratio': 0.0}, 'mlp_ratio that makes a hidden value'),
]
NUM_PARAMS = {
    'swin-tiny': 28_288_354,
    'swin-small': 49_606_258,
    'swin-base': 87_768_224,
    'swin-large': 196_532_476,
    'swin-base-384': 87_903_584,
    'swin-large-384': 196_735_516,
    'swin-s3-tiny': 28_328_674,
    'swin-s3-small': 49_737_298,
    'swin-s3-base': 71_125_762,
}
PREFIX = 'swin.'

_SIZES = {'embed_dim': 16, 'depths': [2, 1], 'num_heads': [2, 4]}
_TIMM = timm(
    'swin_tiny_patch4_window7_224', img_size=(32, 32), window_size=4, num_classes=5, **_SIZES
)
_HF = transformers('SwinForImageClassification', 'SwinConfig', num_labels=5, window_size=4)
_HF = _HF.but(image_size=32, **_SIZES)
REFERENCES = {
    'timm': _TIMM,
    'timm padded': _TIMM.but(img_size=(36, 28), window_size=4),
    'timm windows by stage': _TIMM.but(img_size=(32, 48), window_size=[[2, 2], [6, 6]]),
    'timm window as wide as the map': _TIMM.but(img_size=(48, 24), window_size=6),
    'timm windows larger than the map': _TIMM.but(img_size=(24, 20), window_size=9),
    'timm s3': _TIMM.of('swin_s3_tiny_224', qkv_bias=False, mlp_ratio=2.5),
    'timm num_classes=0': _TIMM.but(num_classes=0),
    'timm odd maps': _TIMM.but(img_size=(20, 36), depths=[1, 1, 2], num_heads=[1, 2, 4]),
    'hf': _HF,
    'hf patch_size=(2, 4)': _HF.but(patch_size=(2, 4), image_size=(16, 32)),
    'hf epsilon=0.01': _HF.but(layer_norm_eps=1e-2, hidden_act='gelu_new'),
    'hf qkv_bias=False': _HF.but(qkv_bias=False, mlp_ratio=2.5),
    'hf no head': _HF.of('SwinModel'),
}
FULL_SIZE = {'Swin-T': timm('swin_tiny_patch4_window7_224')}
HONOURED = {
    'timm': [
        ({'img_size': 32, 'patch_size': 4}, {'image_size': (32, 32), 'patch_size': (4, 4)}),
        ({'window_size': [[4, 4], [2, 2]]}, {'windows': (4, 2)}),
        ({'window_size': [2, 2]}, {'windows': (2, 2)}),
        ({'strict_img_size': False, 'weight_init': 'skip'}, {}),
    ],
    'hf': [
        ({'image_size': [16, 16], 'path_norm': True}, {}),
        ({'hidden_act': 'gelu_new'}, {'activation': 'gelu_tanh'}),
    ],
}
REFUSED = {
    'timm': {
        'window_size': [4, 2],
        'head_dim': 4,
        'always_partition': True,
        'norm_layer': 'rmsnorm',
        'global_pool': 'max',
        'drop_rate': 0.5,
    },
    'hf': {
        'window_size': 3,
        'use_absolute_embeddings': True,
        'hidden_size': 12,
        'num_layers': 3,
        'hidden_act': 'gelu_10',
    },
}
LACKS = {
    'timm': [
        ({'norm_eps': 1e-6}, 'norm_eps 1e-06, which would be 1e-05 there'),
    ],
    'hf': [
        ({'windows': (4, 2)}, 'one side of windows for all stages'),
        ({'image_size': (20, 18)}, 'windows that tile maps of (10, 9) in stage 1'),
    ],
}
SOURCES = {
    r'timm/(swin)_([a-z]+)_patch4_window7_224\.ms_in1k': (r'\1-\2', 2),
    r'timm/(swin)_([a-z]+)_patch4_window7_224\.ms_in22k_ft_in1k': (r'\1-\2', 2),
    r'timm/(swin)_([a-z]+)_patch4_window12_(384)\.ms_in22k_ft_in1k': (r'\1-\2-\3', 2),
    r'timm/(swin_s3_[a-z]+)_224\.ms_in1k': (r'\1', 3),
}
