"""ConvNeXt and ConvNeXt V2, as timm and transformers have them."""

from dataclasses import replace

from libraries import timm, transformers

TINY = {'image_size': (32, 32), 'num_classes': 3}
TINY |= {'depths': (1, 1, 2, 1), 'widths': (4, 6, 8, 10), 'head_eps': 1e-6}
ODD = [
    {'grn': True, 'layer_scale': False},
    {'grn': True, 'layer_scale': False, 'conv_mlp': True},
    {'num_classes': 0, 'conv_mlp': True},
    {'layer_scale': False},
    {'grn': True},
    {
        'depths': (2,),
        'widths': (4,),
        'kernel_sizes': (7,),
        'patch_size': (2, 4),
        'in_channels': 1,
    },
    # As timm's files alone may have it.
    {'stem': 'overlap_tiered', 'kernel_sizes': (7, 5, 5, 3), 'head_hidden': 5},
    {'stem': 'overlap', 'norm': 'rms', 'head_hidden': 5, 'num_classes': 0},
    {'stem': 'overlap_act', 'norm': 'simple', 'final_norm': 'map', 'conv_mlp': True},
]
TOLD = [
    {'head_eps': 1e-12, 'activation': 'gelu_tanh'},
    {'norm_eps': 1e-5, 'head_eps': 1e-5, 'drop_path_rate': 0.25},
]
BROKEN = [
    ({'depths': (2, 2)}, 'as many depths as widths and kernel_sizes'),
    ({'kernel_sizes': (7, 7)}, 'as many depths as widths and kernel_sizes'),
    ({'kernel_sizes': (7, 6, 5, 3)}, 'odd and positive kernel_sizes'),
    ({'stem': 'conv'}, "stem 'patch', 'overlap', 'overlap_tiered', 'overlap_act'"),
    ({'stem': 'overlap', 'patch_size': (2, 2)}, "patch_size (4, 4) where stem is not 'patch'"),
    ({'norm': 'batch'}, "norm 'layer', 'rms', 'simple'"),
    ({'final_norm': 'map', 'head_hidden': 5}, "final_norm 'pooled', or 'map' without head_hidden"),
    ({'head_hidden': -1}, 'head_hidden >= 0'),
]
NUM_PARAMS = {
    'convnext-atto': 3_695_520,
    'convnext-femto': 5_217_784,
    'convnext-pico': 9_045_672,
    'convnext-nano': 15_593_560,
    'convnext-tiny': 28_589_128,
    'convnext-small': 50_223_688,
    'convnext-base': 88_591_464,
    'convnext-large': 197_767_336,
    'convnext-xlarge': 350_196_968,
    'convnext-xxlarge': 846_471_016,
    'convnextv2-atto': 3_708_400,
    'convnextv2-femto': 5_233_240,
    'convnextv2-pico': 9_066_280,
    'convnextv2-nano': 15_623_800,
    'convnextv2-tiny': 28_635_496,
    'convnextv2-small': 50_318_440,
    'convnextv2-base': 88_717_800,
    'convnextv2-large': 197_956_840,
    'convnextv2-huge': 660_289_640,
}
PREFIX = 'convnext.'
FITTED = {'dinov3_convnext': {'num_classes': 0}}
SOURCES = {
    r'timm/(convnext_\w+)\.d\d_in1k': (r'\1', 3),
    r'timm/(convnext_\w+)\.fb_in22k_ft_in1k': (r'\1', 5),
    r'timm/(convnextv2_\w+)\.fcmae_ft_in1k': (r'\1', 8),
    r'facebook/(convnext-\w+)-224': (r'\1-facebook', 4),
}

# They take images of any size.
_SIZES = {'depths': [1, 1, 2, 1], 'dims': [8, 12, 16, 20], 'num_classes': 5}
_TIMM = timm('convnext_tiny', **_SIZES).saying(image_size=(33, 40))
_HF = transformers('ConvNextForImageClassification', 'ConvNextConfig', num_labels=5, num_stages=2)
_HF = _HF.but(hidden_sizes=[8, 12], depths=[1, 2]).saying(image_size=(33, 40))
_V2 = {'kind': 'ConvNextV2ForImageClassification', 'config': 'ConvNextV2Config'}
_DINOV3 = replace(
    transformers(
        'DINOv3ConvNextModel',
        'DINOv3ConvNextConfig',
        hidden_sizes=[4, 8, 12],
        depths=[1, 2, 1],
        layer_norm_eps=1e-3,
    ),
    layout='dinov3_convnext',
)
REFERENCES = {
    'timm': _TIMM,
    'timm 1x1': _TIMM.of('convnext_atto'),
    'timm v2': _TIMM.of('convnextv2_tiny'),
    'timm v2 1x1': _TIMM.of('convnextv2_atto'),
    'timm epsilon=1e-5': _TIMM.of('convnext_xxlarge'),
    'timm overlap tiered': _TIMM.of('convnext_atto_ols', kernel_sizes=[7, 5, 5, 3]),
    'timm overlap, rms': _TIMM.of('convnext_nano_ols', norm_layer='rmsnorm2d'),
    'timm overlap with activation, simple': _TIMM.of('convnext_zepto_rms_ols'),
    'timm norm before pool': _TIMM.of('convnext_tiny_hnf'),
    'timm head of two layers': _TIMM.of('convnext_large_mlp', head_hidden_size=12),
    'timm num_classes=0': _TIMM.of('convnextv2_atto', num_classes=0),
    'hf': _HF,
    'hf epsilon=0.01': _HF.but(layer_norm_eps=1e-2),
    'hf no layer scale': _HF.but(layer_scale_init_value=0.0),
    'hf v2': replace(_HF, **_V2),
    'hf no head': _HF.of('ConvNextModel'),
    'dinov3': _DINOV3,
    'dinov3 gray': _DINOV3.but(num_channels=1, hidden_act='gelu_new'),
}
FULL_SIZE = {'ConvNeXt-T': timm('convnext_tiny')}
GOLDEN = {
    'timm': _TIMM.of('convnextv2_atto', depths=[1, 1, 1, 1], dims=[4, 4, 8, 8]),
    'hf': _HF.but(hidden_sizes=[4, 8], depths=[1, 1]),
}
REFUSED = {
    'dinov3_convnext': {'hidden_act': 'gelu_10', 'patch_size': 2, 'num_stages': 3},
    'hf': {'hidden_act': 'gelu_10', 'num_stages': 3, 'kernel_size': 5},
    'timm': {
        'stem_type': 'conv',
        'head_hidden_size': 'wide',
        'kernel_sizes': [7, 5],
        'depths': [1, 2],
        'norm_layer': 'batchnorm2d',
        'conv_bias': False,
        'patch_size': 8,
    },
}
LACKS = {
    'dinov3_convnext': [({'grn': True}, 'grn True'), ({'layer_scale': False}, 'layer_scale False')],
    'hf': [({'norm_eps': 1e-5}, 'norm_eps 1e-05'), ({'grn': True}, 'layer_scale True')],
    'timm': [
        ({'head_eps': 1e-12}, 'norm_eps 1e-06 and head_eps 1e-12 (expected equal ones)'),
        ({'patch_size': (2, 2)}, 'patch_size (2, 2) (expected 1, or an integer from 3 to 7)'),
        ({'patch_size': (4, 2)}, 'patch_size (4, 2)'),
        ({'depths': (1,), 'widths': (4,), 'kernel_sizes': (7,)}, '(expected 4 stages)'),
    ],
}
