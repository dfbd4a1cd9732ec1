"""CLIP and SigLIP, as transformers and open_clip have them."""

import dataclasses

from libraries import open_clip, transformers

TINY = {'image_size': (8, 8), 'patch_size': (4, 4), 'embed_dim': 6, 'vocab_size': 11, 'context': 6}
for _tower in ('image', 'text'):
    _sizes = {'width': 8, 'depth': 2, 'heads': 2, 'mlp_dim': 12}
    TINY |= {f'{_tower}_{name}': size for name, size in _sizes.items()}

_SIGLIP = {
    'image_pool': 'map',
    'image_projection': False,
    'embed_dim': 8,
    'text_causal': False,
    'text_pool': 'last',
    'text_bias': True,
    'logit_bias': True,
}
FITTED = {'siglip': _SIGLIP}
ODD = [
    {**_SIGLIP, 'text_width': 4, 'text_mlp_dim': 10, 'image_activation': 'gelu_tanh'},
    {'text_pool': 'end', 'end_token': 10, 'in_channels': 1, 'text_width': 12, 'text_heads': 3},
]
TOLD = [
    {'attention_dropout_rate': 0.25, 'image_activation': 'gelu', 'text_activation': 'gelu'},
    {'image_norm_eps': 1e-3, 'text_norm_eps': 1e-4},
    {'text_pool': 'end', 'end_token': 3},
    {**_SIGLIP, 'text_activation': 'relu', 'text_norm_eps': 1e-3},
]
BROKEN = [
    ({'image_size': (4, 64), 'patch_size': (16, 16)}, 'patch_size that fits into image_size'),
    ({'image_heads': 5}, 'image_heads that divide image_width'),
    ({'text_heads': 5}, 'text_heads that divide text_width'),
    ({'image_pool': 'avg'}, 'image_pool one of cls, map'),
    ({'embed_dim': 0}, 'embed_dim > 0'),
    ({'image_projection': False}, 'embed_dim that is image_width without an image_projection'),
    ({'text_pool': 'first'}, "text_pool 'end', 'highest' or 'last'"),
    ({'text_pool': 'end'}, "end_token in the vocabulary for text_pool 'end', -1 for others"),
    ({'end_token': 3}, "end_token in the vocabulary for text_pool 'end', -1 for others"),
    ({'text_depth': 0}, 'text_depth in [1, 256]'),
    ({'image_activation': 'sine'}, 'image_activation of gelu'),
]
NUM_PARAMS = {
    'clip-b32': 151_277_313,
    'clip-b16': 149_620_737,
    'clip-l14': 427_616_513,
    'clip-l14-336': 427_944_193,
    'clip-h14': 986_109_441,
    'siglip-b16': 203_155_970,
    'siglip-l16': 652_150_786,
    'siglip-so400m': 877_960_498,
    'siglip2-b16': 375_187_970,
    'siglip2-l16': 881_526_786,
    'siglip2-so400m': 1_135_463_602,
    'siglip2-giant': 1_871_393_906,
}

SOURCES = {
    r'openai/clip-vit-(base|large)-patch(\d+(?:-336)?)': (r'clip-\1\2', 4),
    r'laion/clip-vit-(\w)-(\d+)-laion2b-.*': (r'clip-\1\2-laion2b', 4),
    r'google/(siglip2?)-base-patch16-224': (r'\1-base16', 2),
    r'google/(siglip2?)-base-patch16-(256|384|512)': (r'\1-base16-\2', 6),
    r'google/(siglip2?)-large-patch16-256': (r'\1-large16', 2),
    r'google/(siglip2?)-large-patch16-(384|512)': (r'\1-large16-\2', 3),
    r'google/(siglip-so400m)-patch14-384': (r'\1', 1),
    r'google/(siglip-so400m)-patch14-224': (r'\1-224', 1),
    r'google/(siglip2-so400m)-patch14-224': (r'\1', 1),
    r'google/(siglip2-so400m)-patch14-384': (r'\1-384', 1),
    r'google/(siglip2-giant)-opt-patch16-256': (r'\1', 1),
    r'google/(siglip2-giant)-opt-patch16-384': (r'\1-384', 1),
}

_SIZES = {'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2}
_SIZES |= {'num_attention_heads': 2}
_IMAGES = {**_SIZES, 'image_size': 16, 'patch_size': 4}
# Whose end token the random ones of the tests have too.
_TEXTS = {**_SIZES, 'vocab_size': 50, 'max_position_embeddings': 12}
_TEXTS |= {'bos_token_id': 0, 'eos_token_id': 2, 'pad_token_id': 1}
_CLIP = transformers(
    'CLIPModel', 'CLIPConfig', projection_dim=10, text_config=_TEXTS, vision_config=_IMAGES
)
_SIGLIP_HF = dataclasses.replace(
    transformers('SiglipModel', 'SiglipConfig', text_config=_TEXTS, vision_config=_IMAGES),
    layout='siglip',
)
REFERENCES = {
    'hf': _CLIP,
    'hf gelu': _CLIP.but(
        text_config={**_TEXTS, 'hidden_act': 'gelu', 'layer_norm_eps': 1e-3},
        vision_config={**_IMAGES, 'hidden_act': 'gelu', 'layer_norm_eps': 1e-2},
    ),
    'hf end token': _CLIP.but(text_config={**_TEXTS, 'eos_token_id': 7}),
    'hf towers of other widths': _CLIP.but(
        text_config={**_TEXTS, 'hidden_size': 12, 'num_attention_heads': 3},
        vision_config={**_IMAGES, 'num_hidden_layers': 1, 'num_channels': 1},
    ),
    'siglip': _SIGLIP_HF,
    'siglip epsilon=0.01': _SIGLIP_HF.but(
        text_config={**_TEXTS, 'layer_norm_eps': 1e-2, 'hidden_act': 'gelu'},
        vision_config={**_IMAGES, 'layer_norm_eps': 1e-3, 'hidden_act': 'relu'},
    ),
    'siglip projection_size=16': _SIGLIP_HF.but(
        text_config={**_TEXTS, 'hidden_size': 12, 'num_attention_heads': 3, 'projection_size': 16}
    ),
}
_OPEN_CLIP = open_clip(
    embed_dim=24,
    quick_gelu=True,
    vision_cfg={'image_size': 32, 'patch_size': 8, 'width': 32, 'layers': 2, 'head_width': 8},
    text_cfg={'context_length': 12, 'vocab_size': 50, 'width': 32, 'layers': 2, 'heads': 4},
)
_SIGMOID = {'no_causal_mask': True, 'proj_bias': True, 'pool_type': 'last'}
REFERENCES |= {
    'open_clip': _OPEN_CLIP,
    'open_clip gelu': _OPEN_CLIP.but(quick_gelu=False, embed_dim=16),
    'open_clip both ways': _OPEN_CLIP.but(
        init_logit_bias=-10,
        text_cfg={
            **_OPEN_CLIP.arguments['text_cfg'],
            **_SIGMOID,
            'norm_kwargs': {'eps': 1e-2},
        },
    ),
    'open_clip end token': _OPEN_CLIP.but(
        text_cfg={**_OPEN_CLIP.arguments['text_cfg'], 'pool_type': 'eos', 'eos_id': 7},
        vision_cfg={**_OPEN_CLIP.arguments['vision_cfg'], 'mlp_ratio': 2.5},
    ),
}
FULL_SIZE = {
    'SigLIP-B/16 of timm': open_clip(
        'open_clip_timm',
        'CustomTextCLIP',
        embed_dim=768,
        init_logit_bias=-10,
        vision_cfg={
            'image_size': 224,
            'timm_model_name': 'vit_base_patch16_siglip_224',
            'timm_pool': 'map',
            'timm_proj': 'none',
        },
        text_cfg={
            'context_length': 16,
            'vocab_size': 50,
            'width': 32,
            'layers': 2,
            'heads': 4,
            **_SIGMOID,
            'norm_kwargs': {'eps': 1e-6},
            'act_kwargs': {'approximate': 'tanh'},
        },
    )
}
WHOLE = ('open_clip_timm',)
_LESS = {'hidden_size': 8, 'intermediate_size': 12, 'num_hidden_layers': 1}
_FEW = {'text_config': {**_TEXTS, **_LESS, 'vocab_size': 20}, 'vision_config': {**_IMAGES, **_LESS}}
GOLDEN = {'hf': _CLIP.but(**_FEW), 'siglip': _SIGLIP_HF.but(**_FEW)}
HONOURED = {
    'hf': [
        ({'logit_scale_init_value': 1.0, 'initializer_factor': 2.0}, {}),
        ({'text_config_dict': None, 'vision_config_dict': None}, {}),
    ],
    'siglip': [({'initializer_factor': 2.0}, {})],
}
REFUSED = {
    'hf': {
        'projection_dim': '512',
        'text_config': {'hidden_act': 'gelu_10'},
        'vision_config': {'image_size': [8, 4]},
        'layer_norm_eps': 1e-3,
    },
    'siglip': {'vision_config': {'vision_use_head': False}},
}
LACKS = {
    'hf': [
        ({'image_size': (8, 4)}, 'image_size (8, 4) (expected a square'),
        ({'text_pool': 'end', 'end_token': 2}, 'end_token 2 (expected another id'),
    ],
}
