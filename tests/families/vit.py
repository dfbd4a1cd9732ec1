"""ViT, as transformers, timm and Google's own files have it."""

from dataclasses import replace

from libraries import timm, torchvision_vit, transformers

TINY = {'width': 8, 'depth': 2, 'heads': 2, 'mlp_dim': 12}
TINY |= {'image_size': (8, 12), 'patch_size': (4, 4), 'num_classes': 3, 'norm_eps': 1e-6}
_DINOV2 = {'image_size': (12, 12), 'mlp_dim': 16, 'layer_scale': 1.0, 'pool': 'cls_avg'}
FITTED = {
    'dinov2': _DINOV2,
    'dinov2_with_registers': {**_DINOV2, 'registers': 2, 'positions': 'class'},
}
ODD = [
    {'pool': 'avg', 'class_token': False},
    {'num_classes': 0},
    {'num_classes': 0, 'pre_logits': 8},
    {'pre_logits': 5},
    {'pool': 'avg'},
    {'qkv_bias': False},
    {'distilled': True},
    {'distilled': True, 'num_classes': 0},
    {'image_size': (8, 12), 'patch_size': (2, 4), 'in_channels': 1},
    # As transformers' DINOv2 alone may have it.
    {'registers': 2, 'positions': 'class', **_DINOV2},
    {
        **_DINOV2,
        'mlp': 'gated',
        'mlp_dim': 24,
        'activation': 'silu',
        'num_classes': 0,
        'pool': 'cls',
    },
    # As timm's files alone may have it.
    {'pre_norm': True, 'norm_eps': 1e-5, 'activation': 'quick_gelu'},
    {'pool': 'map', 'pool_prefix': True, 'class_token': False, 'registers': 1},
    {'registers': 2, 'class_token': False, 'pool': 'avg', 'qk_norm': True, 'norm': 'rms'},
    {
        'registers': 2,
        'positions': 'patches',
        'layer_scale': 0.1,
        'mlp': 'gated',
        'activation': 'silu',
    },
    {
        'inner_norms': True,
        'norm_eps': 1e-5,
        'layer_scale': 1.0,
        'pool': 'avg',
        'final_norm': 'pooled',
    },
    {
        'norm': 'rms',
        'norm_eps': 1e-5,
        'patch_norm': True,
        'final_norm': 'none',
        'mlp': 'gated_apart',
        'activation': 'silu',
        'proj_bias': False,
        'qkv_bias': False,
        'pool': 'avg',
        'class_token': False,
    },
    {'block': 'post_norm', 'layer_scale': 0.1, 'qkv_bias': False},
    {'block': 'parallel', 'layer_scale': 0.1, 'differential': True},
    {'block': 'wide', 'qkv_bias': False, 'qk_norm': True, 'norm': 'rms'},
    {'block': 'wide', 'differential': True, 'layer_scale': 0.1, 'proj_bias': False},
    {'differential': True, 'inner_norms': True, 'qk_norm': True},
]
TOLD = [
    {'dropout_rate': 0.25, 'attention_dropout_rate': 0.5},
    {'drop_path_rate': 0.25, 'mlp_dim': 29},
    *({'activation': name} for name in ('gelu_tanh', 'relu', 'silu', 'tanh')),
]
BROKEN = [
    ({'image_size': (224, 3)}, 'patch_size that fits into image_size'),
    ({'pre_logits': -1}, 'pre_logits >= 0'),
    ({'registers': -1}, 'registers >= 0'),
    *(
        (fields, "pool 'avg', 'map', or 'cls' or 'cls_avg' with a class token")
        for fields in (
            {'pool': 'max'},
            {'class_token': False},
            {'class_token': False, 'pool': 'cls_avg'},
        )
    ),
    *(
        ({'distilled': True, **more}, 'where distilled')
        for more in (
            {'pool': 'avg'},
            {'pre_logits': 5},
            {'registers': 1},
            {'positions': 'patches'},
            {'final_norm': 'pooled'},
        )
    ),
    ({'pool_prefix': True}, "pool_prefix with pool 'avg' or 'map'"),
    ({'pool_prefix': True, 'pool': 'cls_avg'}, "pool_prefix with pool 'avg' or 'map'"),
    *(
        (
            {'positions': 'class', **more},
            "positions 'all', 'patches', or 'class' with class_token and registers",
        )
        for more in ({}, {'registers': 1, 'class_token': False, 'pool': 'avg'})
    ),
    ({'final_norm': 'first'}, "final_norm 'tokens', 'pooled' or 'none'"),
    ({'norm': 'batch'}, "norm 'layer' or 'rms'"),
    ({'block': 'deep'}, 'block one of plain, post_norm, parallel, wide'),
    *(
        ({'block': 'wide', **more}, "mlp 'plain' and no inner_norms in a block 'wide'")
        for more in ({'mlp': 'gated'}, {'inner_norms': True})
    ),
    ({'differential': True, 'heads': 256}, 'twice the heads that divide width'),
    ({'mlp': 'glu'}, "mlp 'plain', 'gated' or 'gated_apart'"),
    ({'mlp': 'gated', 'pool': 'map'}, "mlp 'plain' with pool 'map'"),
]
NUM_PARAMS = {
    'vit-ti8': 5_719_720,
    'vit-ti16': 5_717_416,
    'vit-ti32': 6_131_560,
    'vit-s8': 22_055_272,
    'vit-s16': 22_050_664,
    'vit-s32': 22_878_952,
    'vit-b8': 86_576_872,
    'vit-b16': 86_567_656,
    'vit-b32': 88_224_232,
    'vit-l8': 304_338_920,
    'vit-l14': 304_203_752,
    'vit-l16': 304_326_632,
    'vit-l32': 306_535_400,
    'vit-h14': 632_045_800,
    'vit-h16': 632_199_400,
    'vit-h32': 634_960_360,
    'dinov2-small': 22_056_192,
    'dinov2-base': 86_579_712,
    'dinov2-large': 304_367_616,
    'dinov2-giant': 1_136_479_232,
}
PREFIX = 'vit.'
SOURCES = {
    r'google/vit-(\w+)-patch(\d+)-224': (r'vit-\1\2', 2),
    r'google/vit-(\w+)-patch(\d+)-(384)': (r'vit-\1\2-\3', 4),
    r'google/vit-(\w+)-patch(\d+)-224-(in21k)': (r'vit-\1\2-\3', 5),
    r'facebook/deit-(\w+)-patch(\d+)-224': (r'deit-\1\2', 3),
    r'facebook/deit-(\w+)-patch(\d+)-(384)': (r'deit-\1\2-\3', 1),
    r'timm/deit_([a-z]+)_distilled_patch(\d+)_224\.fb_in1k': (r'deit-\1\2-distilled', 3),
    r'timm/deit_([a-z]+)_distilled_patch(\d+)_(384)\.fb_in1k': (r'deit-\1\2-distilled-\3', 1),
    r'timm/vit_([a-z]+)_patch14_dinov2\.lvd142m': (r'dinov2-\1', 4),
    r'timm/vit_([a-z]+)_patch14_(reg4)_dinov2\.lvd142m': (r'dinov2-\1-\2', 4),
    r'timm/deit3_([a-z]+)_patch(\d+)_224\.fb_in22k_ft_in1k': (r'deit3-\1\2', 4),
    r'timm/deit3_([a-z]+)_patch(\d+)_(384)\.fb_in22k_ft_in1k': (r'deit3-\1\2-\3', 3),
    r'timm/vit_([a-z]+)_patch(\d+)_224\.(augreg2?)_in21k_ft_in1k': (r'vit-\1\2-\3', 9),
    r'timm/vit_([a-z]+)_patch(\d+)_(384)\.(augreg)_in21k_ft_in1k': (r'vit-\1\2-\4-\3', 6),
    r'timm/vit_([a-z]+)_patch(\d+)_224\.(augreg)_(in21k)': (r'vit-\1\2-\3-\4', 7),
}

_FULL = transformers('ViTForImageClassification', 'ViTConfig', num_labels=1000)
_HF = _FULL.but(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=(24, 16),
    patch_size=8,
    num_labels=7,
)
_TIMM = timm(
    'vit_tiny_patch16_224',
    img_size=(24, 16),
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=4,
    num_classes=7,
)
_DINOV2_HF = replace(
    transformers(
        'Dinov2ForImageClassification',
        'Dinov2Config',
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=28,
        patch_size=7,
        num_labels=7,
    ),
    layout='dinov2',
)
_DINOV2_REG = replace(
    _DINOV2_HF.of('Dinov2WithRegistersForImageClassification', num_register_tokens=3),
    config='Dinov2WithRegistersConfig',
    layout='dinov2_with_registers',
)
_TORCHVISION = torchvision_vit(
    'vit-ti16',
    {
        'image_size': (16, 16),
        'patch_size': (8, 8),
        'num_classes': 7,
        'width': 32,
        'depth': 2,
        'heads': 4,
        'mlp_dim': 48,
    },
    image_size=16,
    patch_size=8,
    num_classes=7,
    hidden_dim=32,
    num_layers=2,
    num_heads=4,
    mlp_dim=48,
)
REFERENCES = {
    'hf': _HF,
    'hf patch_size=(4, 8)': _HF.but(patch_size=(4, 8)),
    'hf untiled': _HF.but(image_size=(25, 23)),
    'hf qkv_bias=False': _HF.but(qkv_bias=False),
    'hf gelu_new': _HF.but(hidden_act='gelu_new'),
    'hf square, gray': _HF.but(image_size=16, num_channels=1),
    'hf pooler': _HF.of('ViTModel'),
    'hf narrow pooler': _HF.of('ViTModel', pooler_output_size=12),
    'hf no pooler': transformers(
        'ViTModel', 'ViTConfig', {'add_pooling_layer': False}, **_HF.arguments
    ),
    'dinov2': _DINOV2_HF,
    'dinov2 no head': _DINOV2_HF.of('Dinov2Model'),
    'dinov2 classifier of none': _DINOV2_HF.but(num_labels=0),
    'dinov2 gated': _DINOV2_HF.of('Dinov2Model', use_swiglu_ffn=True),
    'dinov2 qkv_bias=False, epsilon=0.01': _DINOV2_HF.but(qkv_bias=False, layer_norm_eps=1e-2),
    'dinov2 registers': _DINOV2_REG,
    'dinov2 registers, no head': _DINOV2_REG.of('Dinov2WithRegistersModel'),
    'timm': _TIMM,
    'timm patch_size=(4, 8)': _TIMM.but(patch_size=(4, 8)),
    'timm untiled': _TIMM.but(img_size=(25, 23)),
    'timm avg': _TIMM.but(global_pool='avg'),
    'timm avg, no class token': _TIMM.but(global_pool='avg', class_token=False),
    'timm qkv_bias=False': _TIMM.but(qkv_bias=False),
    'timm mlp_ratio=2.5': _TIMM.but(mlp_ratio=2.5),
    'timm clip': _TIMM.of('vit_base_patch16_clip_quickgelu_224'),
    'timm dinov2': _TIMM.of('vit_small_patch14_dinov2'),
    'timm registers': _TIMM.of('vit_small_patch14_reg4_dinov2'),
    'timm registers, gap': _TIMM.of('vit_so150m_patch16_reg4_gap_256', mlp_ratio=2.572),
    'timm deit3': _TIMM.of('deit3_small_patch16_224'),
    'timm siglip': _TIMM.of('vit_base_patch32_siglip_256'),
    'timm siglip gap': _TIMM.of('vit_base_patch32_siglip_gap_256'),
    'timm map with registers': _TIMM.of('test_vit3'),
    'timm giant dinov2': _TIMM.of('vit_giant_patch14_dinov2', mlp_ratio=5.33334),
    'timm aimv2': _TIMM.of('aimv2_large_patch14_224'),
    'timm beit3': _TIMM.of('beit3_base_patch16_224'),
    'timm intern': _TIMM.of('vit_intern300m_patch14_448'),
    'timm parallel': _TIMM.of('vit_small_patch16_18x2_224'),
    'timm post-norm': _TIMM.of('vit_base_patch16_rpn_224'),
    'timm wide': _TIMM.of('vit_base_patch16_xp_224'),
    'timm wide, scaled': _TIMM.of('vit_pwee_patch16_reg1_gap_256', qkv_bias=True),
    'timm wide and differential': _TIMM.of('vit_dpwee_patch16_reg1_gap_256'),
    'timm differential': _TIMM.of('vit_dwee_patch16_reg1_gap_256', qk_norm=True),
    'timm num_classes=0': _TIMM.but(num_classes=0),
    'timm distilled': _TIMM.of('deit_tiny_distilled_patch16_224'),
    'timm distilled num_classes=0': _TIMM.of('deit_tiny_distilled_patch16_224', num_classes=0),
    'torchvision': _TORCHVISION,
    'torchvision pre-logits': _TORCHVISION.but(representation_size=12).saying(pre_logits=12),
}
FULL_SIZE = {'ViT-B/16': _FULL}
_GOLDEN = _TIMM.but(embed_dim=16, num_heads=2, mlp_ratio=1.5, num_classes=5)
GOLDEN = {
    'hf': _HF.but(hidden_size=16, num_labels=5),
    'timm': _GOLDEN.but(global_pool='avg'),
    # A .npz says nothing of its model.
    'google': _GOLDEN.but(act_layer='gelu_tanh').saying(
        image_size=(24, 16), patch_size=8, num_classes=5, width=16, depth=2, heads=2, mlp_dim=24
    ),
}

HONOURED = {
    'hf': [
        ({'image_size': [8, 12]}, {'image_size': (8, 12)}),
        ({'hidden_act': 'gelu_pytorch_tanh'}, {'activation': 'gelu_tanh'}),
        ({'layer_norm_eps': None}, {'norm_eps': 1e-12}),
    ],
    'dinov2': [
        ({'image_size': [28, 28], 'patch_size': 14}, {'image_size': (28, 28)}),
        ({'use_swiglu_ffn': True}, {'mlp': 'gated', 'mlp_dim': 16, 'activation': 'silu'}),
        ({'use_swiglu_ffn': True, 'mlp_ratio': 4}, {'mlp_dim': 24}),
        ({'use_mask_token': False, 'apply_layernorm': False}, {}),
    ],
    'dinov2_with_registers': [
        ({'num_register_tokens': 4}, {'registers': 4, 'positions': 'class'}),
    ],
    'timm': [
        ({'img_size': 16, 'patch_size': 8}, {'image_size': (16, 16)}),
        ({'dynamic_img_size': True, 'weight_init': 'skip'}, {}),
        ({'init_values': 1}, {'layer_scale': 1.0}),
        (
            {'norm_layer': 'rmsnorm', 'embed_norm_layer': 'rmsnorm'},
            {'norm': 'rms', 'patch_norm': True},
        ),
        ({'norm_layer': 'layernorm', 'act_layer': 'GELU', 'fc_norm': None}, {}),
        ({'global_pool': 'avg', 'fc_norm': False}, {'pool': 'avg'}),
        ({'final_norm': False}, {'final_norm': 'none'}),
        ({'block_fn': 'ParallelThingsBlock'}, {'block': 'parallel'}),
        ({'block_fn': 'ParallelScalingBlock', 'attn_layer': 'diff'}, {'block': 'wide'}),
        (
            {'block_fn': 'DiffParallelScalingBlock'},
            {'block': 'wide', 'differential': True},
        ),
        ({'no_embed_class': True, 'reg_tokens': 4}, {'positions': 'patches', 'registers': 4}),
    ],
}
REFUSED = {
    'dinov2': {
        'image_size': [28, 14],
        'layerscale_value': 0.0,
        'num_register_tokens': 4,
        'mlp_ratio': 2.5,
        'hidden_act': 'gelu_10',
    },
    'dinov2_with_registers': {'num_register_tokens': 0, 'attention_bias': True},
    'hf': {
        'pooler_act': 'relu',
        'hidden_act': 'gelu_10',
        'layerscale_value': 0.1,
        'num_register_tokens': 4,
        'qkv_bias': None,
        'layer_norm_eps': 10**400,
        'image_size': '8',
    },
    'timm': {
        'init_values': 'small',
        'scale_attn_norm': True,
        'global_pool': 'prr',
        'mlp_layer': 'Mlp',
        'pos_embed': 'none',
        'pos_drop_rate': 0.5,
        'patch_drop_rate': 0.5,
        'norm_layer': 'batchnorm2d',
        'embed_norm_layer': 'rmsnorm',
        'attn_layer': 'rope',
        'block_fn': 'parallel',
        'mlp_ratio': float('inf'),
    },
}
LACKS = {
    'dinov2': [
        ({'mlp_dim': 12}, 'mlp_dim 12 (expected what a whole ratio to the width gives)'),
        ({'image_size': (8, 12)}, 'image_size (8, 12) (expected a square'),
        ({'layer_scale': 0.0}, 'layer_scale 0.0 (expected a start of LayerScale other than 0)'),
        ({'pool': 'cls'}, "pool 'cls', which would be 'cls_avg' there"),
        ({'mlp': 'gated', 'mlp_dim': 24}, "activation 'gelu' (expected silu"),
    ],
    'hf': [
        ({'pool': 'avg'}, "pool 'avg', which would be 'cls'"),
        ({'pre_logits': 5}, 'pre_logits 5'),
        ({'distilled': True}, 'distilled True, which would be False there'),
    ],
    'timm': [
        ({'pre_logits': 5}, 'pre_logits 5'),
        ({'num_classes': 0, 'pre_logits': 8}, 'pre_logits 8'),
        ({'norm_eps': 1e-3}, 'norm_eps 0.001, which would be 1e-06 there'),
        ({'positions': 'class', 'registers': 1}, "positions 'class' (expected 'all' or 'patches'"),
    ],
}
