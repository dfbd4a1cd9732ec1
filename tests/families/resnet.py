"""ResNet and ResNeXt, as transformers, timm and torchvision have them."""

from libraries import timm, torchvision, transformers

TINY = {'image_size': (32, 32), 'num_classes': 3}
TINY |= {'depths': (1, 2, 1, 1), 'widths': (4, 6, 8, 8)}
ODD = [
    {'block': 'basic'},
    {'num_classes': 0},
    {'block': 'basic', 'depths': (2,), 'widths': (64,)},
    {'depths': (2,), 'widths': (16,)},
    {'depths': (2,), 'widths': (16,), 'stem_width': 8},
    {'groups': 2, 'group_width': 32, 'depths': (1, 1), 'widths': (4, 8)},
    {'stem': 'small', 'stride_on': 'conv1', 'in_channels': 1, 'depths': (1,), 'widths': (4,)},
    {
        'block': 'basic',
        'stem': 'deep_tiered',
        'stem_width': 16,
        'shortcut_pool': True,
        'channel_attention': 'eca',
        'antialias': 'blur',
        'depths': (1, 1),
        'widths': (8, 16),
    },
    {
        'stem_pool': 'conv',
        'norm': 'group',
        'channel_attention': 'se',
        'se_ratio': 0.25,
        'depths': (1, 1),
        'widths': (32, 32),
    },
    {
        'stem': 'deep',
        'stem_width': 16,
        'shortcut_kernel': 3,
        'reduce_first': 2,
        'channel_attention': 'se',
        'antialias': 'avg',
        'depths': (1, 1),
        'widths': (16, 32),
    },
    {
        'block': 'basic,bottleneck',
        'depths': (1, 2),
        'widths': (4, 8),
        'pruned_widths': (3, 5, 4, 6, 7, 5, 3, 7),
        'channel_attention': 'eca',
    },
]
TOLD = [
    {'drop_path_rate': 0.25},
    {'stride_on': 'conv1'},
    {'image_size': (32, 16), 'widths': (8, 16, 8, 16)},
]
BROKEN = [
    *(
        ({'block': block}, "block 'basic' or 'bottleneck', or for stages that differ one for each")
        for block in (
            'wide',
            'basic,bottleneck',
            'basic,basic,bottleneck,wide',
            ','.join(4 * ['basic']),
        )
    ),
    *(
        (
            {'block': 'basic', 'depths': (1,), 'widths': (64,), 'pruned_widths': widths, **more},
            'pruned_widths for each convolution',
        )
        for widths, more in (
            ((8,), {}),
            ((8, 8, 8), {}),
            ((0, 8), {}),
            ((8, 8, 8, 9), {'depths': (2,)}),
            ((8, 8), {'reduce_first': 0}),
            ((8, 8), {'norm': 'group'}),
            ((8, 8), {'channel_attention': 'se'}),
        )
    ),
    (
        {'block': 'basic', 'depths': (1,), 'pruned_widths': (8, 8), 'scan': True},
        'no scan with pruned_widths',
    ),
    ({'depths': (2, 2)}, 'as many depths as widths'),
    ({'block': 'basic', 'groups': 2}, 'groups and group_width only with bottlenecks'),
    ({'groups': 0}, 'groups and group_width that leave each 3x3 some channels'),
    ({'widths': (8, 16, 32, 64), 'groups': 32, 'group_width': 4}, 'leave each 3x3 some channels'),
    ({'stem': 'tiny'}, "stem 'imagenet', 'deep', 'deep_tiered' or 'small'"),
    *(
        ({'stem': 'deep', 'stem_width': width}, 'an even stem_width of at least 8 with a deep stem')
        for width in (6, 13)
    ),
    *(
        (
            {'stem_pool': 'conv', **more},
            "stem_pool 'max', or 'conv' without antialias and small stem",
        )
        for more in ({'antialias': 'avg'}, {'stem': 'small'}, {'stem_pool': 'avg'})
    ),
    ({'antialias': 'max'}, 'antialias of none, avg, blur'),
    ({'shortcut_kernel': 2}, 'shortcut_kernel 1 or 3'),
    ({'channel_attention': 'ese'}, "channel_attention 'none', 'se' or 'eca'"),
    *(
        ({'channel_attention': name, 'se_ratio': ratio}, 'se_ratio in (0, 1]')
        for name, ratio in (('se', 0.0), ('none', 0.25), ('eca', 0.25))
    ),
    *(
        (fields, "norm 'batch', or 'group' with widths that 32 divides")
        for fields in ({'norm': 'layer'}, {'norm': 'group', 'widths': (32, 32, 32, 48)})
    ),
    *(
        (fields, 'reduce_first that divides each 3x3')
        for fields in ({'reduce_first': 0}, {'reduce_first': 128}, {'reduce_first': 3, 'groups': 4})
    ),
    ({'stem_width': 0}, 'stem_width > 0'),
    ({'stride_on': 'conv3'}, "stride_on 'conv1' or 'conv2'"),
    ({'bn_decay': 1.1}, '0 <= bn_decay <= 1'),
]
NUM_PARAMS = {
    'resnet18': 11_689_512,
    'resnet26': 15_995_176,
    'resnet34': 21_797_672,
    'resnet50': 25_557_032,
    'resnet101': 44_549_160,
    'resnet152': 60_192_808,
    'wide-resnet50-2': 68_883_240,
    'wide-resnet101-2': 126_886_696,
    'resnext50-32x4d': 25_028_904,
    'resnext101-32x8d': 88_791_336,
    'resnext101-64x4d': 83_455_272,
}
PREFIX = 'resnet.'
SOURCES = {
    r'timm/(\w+)\.(a1|a1h|c1|racm)_in1k': (r'\1', 8),
    r'timm/(wide_resnet101_2|resnext101_32x8d)\.tv_in1k': (r'\1', 2),
    r'timm/(\w+)\.(tv2?)_in1k': (r'\1-\2', 15),
    r'microsoft/resnet-(\d+)': (r'resnet\1-microsoft', 6),
}

# They take images of any size.
_TIMM = timm('resnet18', layers=[1, 2, 1, 1], channels=[8, 16, 24, 32], num_classes=5).saying(
    image_size=(31, 40)
)
_HF = transformers(
    'ResNetForImageClassification',
    'ResNetConfig',
    embedding_size=8,
    hidden_sizes=[16, 32],
    depths=[1, 2],
    num_labels=5,
).saying(image_size=(31, 40))
REFERENCES = {
    'timm basic': _TIMM,
    'timm bottleneck': _TIMM.of('resnet50'),
    'timm groups': _TIMM.of('resnext50_32x4d', channels=[16, 16, 32, 32]),
    'timm wide': _TIMM.of('wide_resnet50_2'),
    'timm d': _TIMM.of('resnet50d'),
    'timm basic, t': _TIMM.of('resnet10t'),
    'timm squeeze-excite': _TIMM.of('seresnet18'),
    'timm eca': _TIMM.of('ecaresnet50t'),
    'timm rs': _TIMM.of('resnetrs50'),
    # timm's takes even maps alone.
    'timm average': _TIMM.of('resnetaa50d').saying(image_size=(32, 64)),
    'timm blur': _TIMM.of('resnetblur18'),
    'timm blocks of two kinds': _TIMM.of('test_resnet'),
    'timm senet': _TIMM.of('senet154', cardinality=4, base_width=32),
    'timm num_classes=0': _TIMM.but(num_classes=0),
    'torchvision basic': torchvision('BasicBlock', 'resnet18', (1, 2, 1, 1)).saying(
        image_size=(31, 40)
    ),
    'torchvision groups': torchvision(
        'Bottleneck', 'resnext50-32x4d', (1, 1, 1, 1), groups=32, width_per_group=4
    ).saying(image_size=(31, 40)),
    'hf v1.5': _HF,
    'hf v1': _HF.but(downsample_in_bottleneck=True),
    'hf basic': _HF.but(layer_type='basic'),
    'hf no head': _HF.of('ResNetModel'),
}
FULL_SIZE = {'ResNet-50': timm('resnet50')}
GOLDEN = {
    'hf': _HF.but(embedding_size=4, hidden_sizes=[8, 16], downsample_in_bottleneck=True).saying(
        image_size=(17, 16)
    ),
    'timm': _TIMM.but(layers=[1, 1, 1, 1], channels=[4, 4, 8, 8], in_chans=1).saying(
        image_size=(17, 16)
    ),
}

HONOURED = {
    'timm': [
        ({'cardinality': 2, 'base_width': 32}, {'groups': 2, 'group_width': 32}),
        ({'zero_init_last': False, 'stem_width': 32}, {'stem_width': 64}),
        ({'stem_type': 'deep', 'stem_width': 24}, {'stem': 'deep', 'stem_width': 48}),
        ({'block_args': {'attn_layer': 'se'}}, {'channel_attention': 'se'}),
        ({'block_args': {}, 'norm_layer': 'batchnorm'}, {}),
        (
            {'block_args': {'attn_layer': {'name': 'SEModule', 'rd_ratio': 0.5}}},
            {'channel_attention': 'se', 'se_ratio': 0.5},
        ),
    ],
}
REFUSED = {
    'hf': {
        'hidden_act': 'gelu',
        'downsample_in_first_stage': True,
        'hidden_sizes': [16, 25],
        'use_se': True,
        'depths': 2,
    },
    'timm': {
        'stem_type': 'wide',
        'aa_layer': 'blur',
        'act_layer': 'silu',
        'output_stride': 8,
        'global_pool': 'max',
        'block_args': {'attn_layer': 'ese'},
        'norm_layer': 'layernorm',
        'pruned': True,
        'drop_rate': 0.1,
        'layers': 2,
    },
}
LACKS = {
    'hf': [
        ({'stem': 'small'}, "stem 'small', which would be 'imagenet'"),
        ({'groups': 2, 'group_width': 32}, 'groups 2, which would be 1'),
        ({'bn_eps': 1e-3}, 'bn_eps 0.001'),
        ({'bn_decay': 0.5}, 'bn_decay 0.5'),
    ],
    'timm': [
        ({'depths': (1, 1), 'widths': (4, 8)}, 'depths (1, 1) (expected 4 stages)'),
        ({'stem': 'small'}, "stem 'small'"),
        ({'stem_width': 8}, 'stem_width 8'),
        ({'stride_on': 'conv1'}, "stride_on 'conv1'"),
        ({'bn_eps': 1e-3}, 'bn_eps 0.001'),
        ({'bn_decay': 0.5}, 'bn_decay 0.5'),
    ],
}
