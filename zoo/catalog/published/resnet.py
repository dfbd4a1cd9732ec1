"""Published ResNets.

`resnet50` has the weights that timm takes under this name, `-tv` and `-tv2` are torchvision's first
and second where those are not the same, `-microsoft` is in the layout of transformers.
"""

from blox.zoo.catalog.published.row import IMAGENET, Published, group, imagenet, square

ROWS: tuple[Published, ...] = (
    *group(
        {
            'resnet18': ('resnet18', 'timm/resnet18.a1_in1k', 11_689_512, imagenet(73.158, 91.026, at=288)),
            'resnet34': ('resnet34', 'timm/resnet34.a1_in1k', 21_797_672, imagenet(77.918, 93.766, at=288)),
            'resnet50': ('resnet50', 'timm/resnet50.a1_in1k', 25_557_032, imagenet(81.214, 95.102, at=288)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 235, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:1512.03385',
        summary='ImageNet-1k, recipe A1 of arXiv:2110.00476',
    ),
    *group(
        {
            'resnet18-tv': ('resnet18', 'timm/resnet18.tv_in1k', 11_689_512, imagenet(69.76, 89.07)),
            'resnet34-tv': ('resnet34', 'timm/resnet34.tv_in1k', 21_797_672),
            'resnet50-tv': ('resnet50', 'timm/resnet50.tv_in1k', 25_557_032, imagenet(76.13, 92.858)),
            'resnet101-tv': ('resnet101', 'timm/resnet101.tv_in1k', 44_549_160, imagenet(77.376, 93.542)),
            'resnet152-tv': ('resnet152', 'timm/resnet152.tv_in1k', 60_192_808, imagenet(78.322, 94.048)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 256, 'bilinear', IMAGENET, keep_ratio=True),
        license='bsd-3-clause',
        paper='arXiv:1512.03385',
        summary="ImageNet-1k, torchvision's first weights",
    ),
    *group(
        {
            'resnet50-tv2': ('resnet50', 'timm/resnet50.tv2_in1k', 25_557_032, imagenet(80.85, 95.434, at=224)),
            'resnet101-tv2': ('resnet101', 'timm/resnet101.tv2_in1k', 44_549_160, imagenet(81.89, 95.768, at=224)),
            'resnet152-tv2': ('resnet152', 'timm/resnet152.tv2_in1k', 60_192_808, imagenet(82.288, 96.004, at=224)),
        },
        layout='timm',
        overrides={'image_size': (176, 176)},
        preprocessor=square(176, 201, 'bilinear', IMAGENET, keep_ratio=True),
        license='bsd-3-clause',
        paper='arXiv:1512.03385',
        summary="ImageNet-1k, torchvision's second weights",
    ),
    *group(
        {
            'resnet101': ('resnet101', 'timm/resnet101.a1h_in1k', 44_549_160, imagenet(82.778, 96.31, at=288)),
            'resnet152': ('resnet152', 'timm/resnet152.a1h_in1k', 60_192_808, imagenet(83.45, 96.538, at=288)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 235, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:1512.03385',
        summary='ImageNet-1k, after recipe A1 of arXiv:2110.00476',
    ),
    *group(
        {
            'wide-resnet50-2': ('wide-resnet50-2', 'timm/wide_resnet50_2.racm_in1k', 68_883_240, imagenet(82.28, 96.064, at=288)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 256, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:1605.07146',
        summary="ImageNet-1k, timm's RandAugment recipe",
    ),
    *group(
        {
            'wide-resnet50-2-tv': ('wide-resnet50-2', 'timm/wide_resnet50_2.tv_in1k', 68_883_240, imagenet(78.48, 94.086)),
            'wide-resnet101-2': ('wide-resnet101-2', 'timm/wide_resnet101_2.tv_in1k', 126_886_696, imagenet(78.838, 94.282)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 256, 'bilinear', IMAGENET, keep_ratio=True),
        license='bsd-3-clause',
        paper='arXiv:1605.07146',
        summary="ImageNet-1k, torchvision's first weights",
    ),
    *group(
        {
            'wide-resnet50-2-tv2': ('wide-resnet50-2', 'timm/wide_resnet50_2.tv2_in1k', 68_883_240, imagenet(81.606, 95.762, at=224)),
            'wide-resnet101-2-tv2': ('wide-resnet101-2', 'timm/wide_resnet101_2.tv2_in1k', 126_886_696, imagenet(82.498, 96.018, at=224)),
        },
        layout='timm',
        overrides={'image_size': (176, 176)},
        preprocessor=square(176, 201, 'bilinear', IMAGENET, keep_ratio=True),
        license='bsd-3-clause',
        paper='arXiv:1605.07146',
        summary="ImageNet-1k, torchvision's second weights",
    ),
    *group(
        {
            'resnext50-32x4d': ('resnext50-32x4d', 'timm/resnext50_32x4d.a1h_in1k', 25_028_904, imagenet(82.014, 95.934, at=288)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 235, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:1611.05431',
        summary='ImageNet-1k, after recipe A1 of arXiv:2110.00476',
    ),
    *group(
        {
            'resnext50-32x4d-tv': ('resnext50-32x4d', 'timm/resnext50_32x4d.tv_in1k', 25_028_904, imagenet(77.618, 93.696)),
            'resnext101-32x8d': ('resnext101-32x8d', 'timm/resnext101_32x8d.tv_in1k', 88_791_336, imagenet(79.31, 94.52)),
            'resnext101-64x4d-tv': ('resnext101-64x4d', 'timm/resnext101_64x4d.tv_in1k', 83_455_272, imagenet(82.992, 96.244)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 256, 'bilinear', IMAGENET, keep_ratio=True),
        license='bsd-3-clause',
        paper='arXiv:1611.05431',
        summary="ImageNet-1k, torchvision's first weights",
    ),
    *group(
        {
            'resnext50-32x4d-tv2': ('resnext50-32x4d', 'timm/resnext50_32x4d.tv2_in1k', 25_028_904, imagenet(81.182, 95.34, at=224)),
            'resnext101-32x8d-tv2': ('resnext101-32x8d', 'timm/resnext101_32x8d.tv2_in1k', 88_791_336, imagenet(82.832, 96.232, at=224)),
        },
        layout='timm',
        overrides={'image_size': (176, 176)},
        preprocessor=square(176, 201, 'bilinear', IMAGENET, keep_ratio=True),
        license='bsd-3-clause',
        paper='arXiv:1611.05431',
        summary="ImageNet-1k, torchvision's second weights",
    ),
    *group(
        {
            'resnext101-64x4d': ('resnext101-64x4d', 'timm/resnext101_64x4d.c1_in1k', 83_455_272, imagenet(83.156, 96.374, at=288)),
        },
        layout='timm',
        overrides={'image_size': (224, 224)},
        preprocessor=square(224, 235, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:1611.05431',
        summary='ImageNet-1k, recipe C1 of arXiv:2110.00476',
    ),
    *group(
        {
            'resnet18-microsoft': ('resnet18', 'microsoft/resnet-18', 11_689_512),
            'resnet26-microsoft': ('resnet26', 'microsoft/resnet-26', 15_995_176),
            'resnet34-microsoft': ('resnet34', 'microsoft/resnet-34', 21_797_672),
            'resnet50-microsoft': ('resnet50', 'microsoft/resnet-50', 25_557_032),
            'resnet101-microsoft': ('resnet101', 'microsoft/resnet-101', 44_549_160),
            'resnet152-microsoft': ('resnet152', 'microsoft/resnet-152', 60_192_808),
        },
        layout='hf',
        preprocessor=square(224, 256, 'bicubic', IMAGENET, keep_ratio=True, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:1512.03385',
        summary='ImageNet-1k',
    ),
)
