"""Published ConvNeXts: Facebook's, as timm has them; the smallest are timm's own.

`-facebook` has the layout of transformers, and for ConvNeXt V1 no training on ImageNet-22k.
"""

from blox.zoo.catalog.published.row import IMAGENET, Published, group, imagenet, square

_V1, _V2 = 'arXiv:2201.03545', 'arXiv:2301.00808'
_TIMM = square(224, 256, 'bicubic', IMAGENET, keep_ratio=True)
_HF = square(224, 256, 'bicubic', IMAGENET, keep_ratio=True, crop_rounding='down')

ROWS: tuple[Published, ...] = (
    *group(
        {
            'convnext-atto': ('convnext-atto', 'timm/convnext_atto.d2_in1k', 3_695_520, imagenet(77.008, 93.702, at=288)),
            'convnext-femto': ('convnext-femto', 'timm/convnext_femto.d1_in1k', 5_217_784, imagenet(78.716, 94.43, at=288)),
            'convnext-pico': ('convnext-pico', 'timm/convnext_pico.d1_in1k', 9_045_672, imagenet(80.414, 95.05, at=288)),
        },
        layout='timm',
        preprocessor=_TIMM,
        license='apache-2.0',
        paper=_V1,
        summary='ImageNet-1k, by timm',
    ),
    *group(
        {
            'convnext-tiny': ('convnext-tiny', 'timm/convnext_tiny.fb_in22k_ft_in1k', 28_589_128, imagenet(78.898, 94.674, at=288)),
            'convnext-small': ('convnext-small', 'timm/convnext_small.fb_in22k_ft_in1k', 50_223_688, imagenet(85.262, 97.682, at=288)),
            'convnext-base': ('convnext-base', 'timm/convnext_base.fb_in22k_ft_in1k', 88_591_464, imagenet(86.274, 98.092, at=288)),
            'convnext-large': ('convnext-large', 'timm/convnext_large.fb_in22k_ft_in1k', 197_767_336, imagenet(87.026, 98.204, at=288)),
            'convnext-xlarge': ('convnext-xlarge', 'timm/convnext_xlarge.fb_in22k_ft_in1k', 350_196_968, imagenet(87.33, 98.328, at=288)),
        },
        layout='timm',
        preprocessor=_TIMM,
        license='apache-2.0',
        paper=_V1,
        summary='ImageNet-22k, then ImageNet-1k',
    ),
    *group(
        {
            'convnextv2-atto': ('convnextv2-atto', 'timm/convnextv2_atto.fcmae_ft_in1k', 3_708_400, imagenet(77.76, 93.726, at=288)),
            'convnextv2-femto': ('convnextv2-femto', 'timm/convnextv2_femto.fcmae_ft_in1k', 5_233_240, imagenet(79.338, 94.56, at=288)),
            'convnextv2-pico': ('convnextv2-pico', 'timm/convnextv2_pico.fcmae_ft_in1k', 9_066_280, imagenet(81.086, 95.48, at=288)),
            'convnextv2-nano': ('convnextv2-nano', 'timm/convnextv2_nano.fcmae_ft_in1k', 15_623_800, imagenet(82.486, 96.226, at=288)),
            'convnextv2-tiny': ('convnextv2-tiny', 'timm/convnextv2_tiny.fcmae_ft_in1k', 28_635_496, imagenet(83.464, 96.718, at=288)),
            'convnextv2-base': ('convnextv2-base', 'timm/convnextv2_base.fcmae_ft_in1k', 88_717_800, imagenet(85.474, 97.384, at=288)),
            'convnextv2-large': ('convnextv2-large', 'timm/convnextv2_large.fcmae_ft_in1k', 197_956_840, imagenet(86.118, 97.822, at=288)),
            'convnextv2-huge': ('convnextv2-huge', 'timm/convnextv2_huge.fcmae_ft_in1k', 660_289_640, imagenet(86.58, 97.972, at=288)),
        },
        layout='timm',
        preprocessor=_TIMM,
        license='cc-by-nc-4.0',
        paper=_V2,
        summary='ImageNet-1k, masked first',
    ),
    *group(
        {
            'convnext-tiny-facebook': ('convnext-tiny', 'facebook/convnext-tiny-224', 28_589_128),
            'convnext-small-facebook': ('convnext-small', 'facebook/convnext-small-224', 50_223_688),
            'convnext-base-facebook': ('convnext-base', 'facebook/convnext-base-224', 88_591_464),
            'convnext-large-facebook': ('convnext-large', 'facebook/convnext-large-224', 197_767_336),
        },
        layout='hf',
        overrides={'head_eps': 1e-12},
        preprocessor=_HF,
        license='apache-2.0',
        paper=_V1,
        summary='ImageNet-1k',
    ),
)
