"""EVA, as timm has it, and the DINOv3 of transformers."""

from libraries import timm, transformers

TINY = {'width': 16, 'depth': 2, 'heads': 2, 'mlp_dim': 12, 'image_size': (8, 12)}
TINY |= {'patch_size': (4, 4), 'num_classes': 3, 'rope': 'index'}
_DINOV3 = {
    'num_classes': 0,
    'pool': 'cls',
    'positions': 'none',
    'rope': 'centered',
    'rope_base': 100.0,
    'rope_pairs': 'halves',
    'layer_scale': 1.0,
    'norm_eps': 1e-5,
}
FITTED = {'hf': _DINOV3}
ODD = [
    {
        'mlp': 'gated_apart',
        'activation': 'silu',
        'mlp_norm': True,
        'attn_norm': True,
        'qkv_apart': True,
        'pool': 'cls',
        'rope_grid': (4, 4),
        'rope_offset': 1.0,
        'rope_order': 'xy',
    },
    # Files of transformers lie in one way, whatever those of timm do.
    {
        **_DINOV3,
        'registers': 2,
        'mlp': 'gated',
        'activation': 'silu',
        'qkv_apart': True,
        'k_bias': True,
    },
    {
        **_DINOV3,
        'mlp': 'gated_apart',
        'activation': 'silu',
        'mlp_dim': 16,
        'qkv_bias': False,
        'k_bias': True,
        'rope_base': 100,
    },
    {'rope': 'none', 'post_norm': True, 'num_classes': 0, 'in_channels': 1},
    {'rope': 'mixed', 'rope_order': 'xy', 'rope_base': 10.0, 'registers': 1},
    {
        'k_bias': True,
        'pre_norm': True,
        'final_norm': 'none',
        'positions': 'patches',
        'pool': 'map',
        'pool_heads': 4,
        'pool_mlp_dim': 24,
        'registers': 1,
    },
    {
        'mlp': 'gated',
        'activation': 'silu',
        'final_norm': 'pooled',
        'class_token': False,
        'registers': 1,
        'k_bias': True,
        'qkv_apart': True,
    },
    # Sapiens2.
    {
        **_DINOV3,
        'kv_heads': (2, 1),
        'qk_norm': True,
        'k_bias': True,
        'qkv_apart': True,
        'norm': 'rms',
        'norm_eps': 1e-6,
        'layer_scaled': 'attention',
        'num_classes': 3,
    },
]
TOLD = [
    {'dropout_rate': 0.25, 'attention_dropout_rate': 0.5, 'drop_path_rate': 0.25},
    {'mlp_dim': 29, 'rope_base': 50.0},
    {**_DINOV3, 'activation': 'relu'},
]
BROKEN = [
    ({'image_size': (224, 3)}, 'patch_size that fits into image_size'),
    ({'mlp': 'glu'}, "mlp 'plain', 'gated' or 'gated_apart'"),
    ({'mlp': 'gated', 'mlp_norm': True}, "mlp_norm with mlp 'plain' or 'gated_apart'"),
    ({'registers': -1}, 'registers >= 0'),
    ({'pool': 'max'}, "pool 'avg', 'map', or 'cls' with a class_token"),
    ({'pool': 'cls', 'class_token': False}, "pool 'avg', 'map', or 'cls' with a class_token"),
    *(
        (fields, "pool_heads that divide width, and pool_mlp_dim > 0, with pool 'map', else both 0")
        for fields in (
            {'pool': 'map'},
            {'pool': 'map', 'pool_heads': 5, 'pool_mlp_dim': 8},
            {'pool_heads': 4},
        )
    ),
    ({'positions': 'class'}, "positions 'all', 'patches' or 'none'"),
    ({'rope': 'spiral'}, 'rope one of index, mixed, centered, none'),
    ({'rope': 'mixed', 'rope_offset': 1.0}, "no rope_offset with rope 'mixed'"),
    ({'rope': 'index', 'width': 12, 'heads': 2}, 'heads of whole pairs for rows and for columns'),
    ({'rope_base': 1.0}, 'rope_base > 1'),
    ({'rope_grid': (2,)}, 'rope_grid (0, 0), or two positive ints'),
    ({'rope_grid': (2, 2), 'rope': 'centered'}, 'rope_grid (0, 0), or two positive ints'),
    ({'rope_order': 'ij'}, "rope_order 'yx' or 'xy'"),
    ({'rope_pairs': 'all'}, 'rope_pairs of halves, neighbours'),
    ({'final_norm': 'first'}, "final_norm 'tokens', 'pooled' or 'none'"),
    ({'post_norm': True, 'layer_scale': 0.1}, 'no layer_scale with post_norm'),
    *(
        (fields, 'kv_heads that divide heads, one for each block')
        for fields in (
            {'kv_heads': (12,)},
            {'kv_heads': (5,) * 12},
            {'kv_heads': (0,) * 12},
            {'kv_heads': (12,) * 12},
            {'kv_heads': (6,) * 12, 'rope': 'mixed'},
        )
    ),
    ({'kv_heads': (6,) * 11 + (12,), 'scan': True}, 'no scan where kv_heads differ'),
    *(
        (fields, "layer_scaled 'both', or 'attention' with layer_scale")
        for fields in ({'layer_scaled': 'attention'}, {'layer_scaled': 'mlp', 'layer_scale': 0.1})
    ),
    ({'norm': 'batch'}, 'norm one of layer, rms'),
]
NUM_PARAMS = {
    'dinov3-small': 21_586_944,
    'dinov3-small-plus': 28_683_264,
    'dinov3-base': 85_641_216,
    'dinov3-large': 303_079_424,
    'dinov3-huge-plus': 840_509_440,
    'dinov3-7b': 6_716_030_976,
    'eva02-tiny': 5_756_584,
    'eva02-small': 22_129_000,
    'eva02-base': 87_117_544,
    'eva02-large': 305_080_232,
}

_TIMM = timm(
    'eva02_tiny_patch14_224',
    img_size=(24, 16),
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=4,
    mlp_ratio=1.5,
    num_classes=7,
)
_HF = transformers(
    'DINOv3ViTModel',
    'DINOv3ViTConfig',
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=48,
    image_size=(24, 32),
    patch_size=8,
    num_register_tokens=2,
)
REFERENCES = {
    'timm': _TIMM,
    'timm scaled': _TIMM.of('eva02_base_patch14_224'),
    'timm clip': _TIMM.of('eva02_base_patch16_clip_224'),
    'timm post-norm': _TIMM.of('eva02_enormous_patch14_clip_224'),
    'timm post-norm, gated': _TIMM.of(
        'eva02_enormous_patch14_clip_224', swiglu_mlp=True, swiglu_align_to=8, init_values=0.1
    ),
    'timm untiled': _TIMM.of('vit_small_patch16_dinov3', img_size=(25, 23), dynamic_img_size=False),
    'timm dynamic': _TIMM.but(dynamic_img_size=True),
    'timm giant': _TIMM.of('eva_giant_patch14_224', num_classes=0),
    'timm dinov3': _TIMM.of('vit_small_patch16_dinov3'),
    'timm dinov3 biases': _TIMM.of('vit_small_patch16_dinov3_qkvb', global_pool='token'),
    'timm dinov3 gated': _TIMM.of('vit_small_plus_patch16_dinov3', mlp_ratio=1.3),
    'timm registers, gap': _TIMM.of('vit_medium_patch16_rope_reg1_gap_256'),
    'timm rope': _TIMM.of('vit_small_patch16_rope_ape_224'),
    'timm mixed rope': _TIMM.of('vit_small_patch16_rope_mixed_224'),
    'timm mixed rope, positions': _TIMM.of(
        'vit_small_patch16_rope_mixed_ape_224', rope_grid_indexing='ij'
    ),
    'timm sapiens2': _TIMM.of('vit_large_patch16_sapiens2', num_kv_heads=(4, 2)),
    'timm sapiens2, heads of their own': _TIMM.of('vit_base_patch16_sapiens2', num_kv_heads=(4, 4)),
    'timm sapiens2, shared': _TIMM.of('vit_base_patch16_sapiens2', num_kv_heads=1),
    'timm qk norm': _TIMM.of('eva02_base_patch14_224', qk_norm=True),
    'timm pe core': _TIMM.of('vit_pe_core_base_patch16_224', ref_feat_shape=(4, 4)),
    'timm pe lang': _TIMM.of('vit_pe_lang_large_patch14_448', ref_feat_shape=(4, 4)),
    'hf': _HF,
    'hf untiled': _HF.but(image_size=(25, 23), patch_size=(4, 8)),
    'hf no registers, key_bias': _HF.but(num_register_tokens=0, key_bias=True),
    'hf gated': _HF.but(use_gated_mlp=True, hidden_act='silu', query_bias=False, value_bias=False),
}
FULL_SIZE = {
    'DINOv3 ViT-S/16': transformers('DINOv3ViTModel', 'DINOv3ViTConfig', num_register_tokens=4),
    'EVA-02 Ti/14': timm('eva02_tiny_patch14_224'),
}
HONOURED = {
    'timm': [
        ({'img_size': 16, 'patch_size': 8}, {'image_size': (16, 16)}),
        ({'swiglu_mlp': True}, {'mlp': 'gated', 'activation': 'silu'}),
        (
            {'swiglu_mlp': True, 'scale_mlp': True},
            {'mlp': 'gated_apart', 'activation': 'silu', 'mlp_norm': True},
        ),
        (
            {'swiglu_mlp': True, 'swiglu_align_to': 8},
            {'mlp': 'gated_apart', 'activation': 'silu', 'mlp_dim': 16},
        ),
        ({'swiglu_align_to': 8}, {}),
        ({'use_fc_norm': True, 'use_post_transformer_norm': False}, {'final_norm': 'pooled'}),
        ({'use_fc_norm': False, 'use_post_transformer_norm': False}, {'final_norm': 'none'}),
        ({'use_fc_norm': False}, {'final_norm': 'tokens'}),
        ({'global_pool': 'token'}, {'pool': 'cls'}),
        (
            {'global_pool': 'map', 'attn_pool_num_heads': 8, 'attn_pool_mlp_ratio': 3},
            {'pool': 'map', 'pool_heads': 8, 'pool_mlp_dim': 48},
        ),
        (
            {'global_pool': 'map'},
            {'pool': 'map', 'pool_heads': 2, 'pool_mlp_dim': 12, 'final_norm': 'tokens'},
        ),
        ({'rope_type': 'dinov3'}, {'rope': 'centered'}),
        ({'use_rot_pos_emb': False, 'rope_type': 'dinov3'}, {'rope': 'none'}),
        ({'ref_feat_shape': 16}, {'rope_grid': (16, 16)}),
        ({'ref_feat_shape': 16, 'rope_type': 'dinov3'}, {'rope': 'centered'}),
        ({'init_values': 1}, {'layer_scale': 1.0}),
        (
            {'init_values': 1, 'attn_only_layer_scale': True},
            {'layer_scale': 1.0, 'layer_scaled': 'attention'},
        ),
        ({'attn_only_layer_scale': True, 'num_kv_heads': [2, None]}, {}),
        ({'num_kv_heads': 2}, {}),
        ({'qk_norm': True}, {'qk_norm': True}),
        (
            {'attn_type': 'rope', 'qkv_fused': False, 'num_kv_heads': 1},
            {'k_bias': True, 'qkv_apart': True, 'kv_heads': (1, 1)},
        ),
        ({'init_values': 1, 'use_post_norm': True}, {'post_norm': True}),
        (
            {'swiglu_mlp': True, 'swiglu_align_to': 8, 'use_post_norm': True},
            {'mlp': 'gated', 'activation': 'silu', 'post_norm': True},
        ),
        ({'dynamic_img_size': True, 'head_init_scale': 1.0, 'rope_rescale_coords': 2.0}, {}),
    ],
    'hf': [
        ({'image_size': [8, 12], 'patch_size': 4}, {'patch_size': (4, 4)}),
        ({'use_gated_mlp': True}, {'mlp': 'gated_apart'}),
        ({'pos_embed_rescale': None, 'apply_layernorm': False}, {}),
        ({'key_bias': True}, {'k_bias': True}),
    ],
}
REFUSED = {
    'timm': {
        'rope_type': 'spiral',
        'global_pool': 'max',
        'attn_pool_num_heads': 'many',
        'ref_feat_shape': [0, 4],
        'use_fc_norm': 'x',
        'use_post_transformer_norm': 0,
        'attn_pool_mlp_ratio': 'wide',
        'num_kv_heads': 1,
        'qk_norm': 'rms',
        'attn_only_layer_scale': 1,
        'attn_type': 'diff',
        'swiglu_align_to': -8,
        'use_post_norm': 1,
        'norm_layer': 'rmsnorm',
        'drop_rate': 0.5,
        'init_values': 0.0,
    },
    'hf': {
        'query_bias': False,
        'mlp_bias': False,
        'proj_bias': False,
        'hidden_act': 'gelu_10',
        'layerscale_value': 0.0,
        'num_register_tokens': 1.5,
    },
}
LACKS = {
    'timm': [
        (
            {'mlp': 'gated_apart', 'activation': 'silu', 'post_norm': True},
            "mlp 'gated_apart' (expected 'gated', which timm has with post_norm)",
        ),
        ({'activation': 'silu'}, "activation 'silu' (expected gelu"),
        ({'norm_eps': 1e-3}, 'norm_eps 0.001, which would be 1e-06 there'),
    ],
    'hf': [
        ({'rope': 'index'}, "rope 'index'"),
        ({'num_classes': 3}, 'num_classes 3'),
        ({'layer_scale': 0.0}, 'layer_scale 0.0 (expected'),
    ],
}
SOURCES = {
    r'timm/vit_([a-z]+|7b)_patch16_(dinov3)\.lvd1689m': (r'\2-\1', 4),
    r'timm/vit_([a-z]+)_plus_patch16_(dinov3)\.lvd1689m': (r'\2-\1-plus', 2),
    r'timm/(eva02_[a-z]+)_patch14_336\.mim_in22k_ft_in1k': (r'\1', 2),
    r'timm/(eva02_[a-z]+)_patch14_448\.mim_in22k_ft_in22k_in1k': (r'\1', 2),
}
