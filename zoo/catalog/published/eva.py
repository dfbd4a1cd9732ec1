"""Published EVAs, as timm has them.

`dinov3-base` and its like give features: the mean over patches, as timm has it, or the class token's
with `pool='cls'`. Those of transformers load by their repositories' names.
"""

from blox.zoo.catalog.published.row import CLIP, IMAGENET, Published, group, imagenet, square

ROWS: tuple[Published, ...] = (
    *group(
        {
            'dinov3-small': ('dinov3-small', 'timm/vit_small_patch16_dinov3.lvd1689m', 21_586_944),
            'dinov3-small-plus': ('dinov3-small-plus', 'timm/vit_small_plus_patch16_dinov3.lvd1689m', 28_683_264),
            'dinov3-base': ('dinov3-base', 'timm/vit_base_patch16_dinov3.lvd1689m', 85_641_216),
            'dinov3-large': ('dinov3-large', 'timm/vit_large_patch16_dinov3.lvd1689m', 303_079_424),
            'dinov3-huge-plus': ('dinov3-huge-plus', 'timm/vit_huge_plus_patch16_dinov3.lvd1689m', 840_509_440),
            'dinov3-7b': ('dinov3-7b', 'timm/vit_7b_patch16_dinov3.lvd1689m', 6_716_030_976),
        },
        layout='timm',
        overrides={'pool': 'avg'},
        preprocessor=square(256, 256, 'bicubic', IMAGENET, keep_ratio=True),
        license='dinov3-license',
        paper='arXiv:2508.10104',
        summary='LVD-1689M without labels; features, no head',
    ),
    *group(
        {
            'eva02-tiny': ('eva02-tiny', 'timm/eva02_tiny_patch14_336.mim_in22k_ft_in1k', 5_756_584, imagenet(80.63, 95.526)),
            'eva02-small': ('eva02-small', 'timm/eva02_small_patch14_336.mim_in22k_ft_in1k', 22_129_000, imagenet(85.716, 97.632)),
        },
        layout='timm',
        preprocessor=square(336, 336, 'bicubic', CLIP, keep_ratio=True),
        license='mit',
        paper='arXiv:2303.11331',
        summary='ImageNet-22k without labels, then ImageNet-1k at 336 x 336',
    ),
    *group(
        {
            'eva02-base': ('eva02-base', 'timm/eva02_base_patch14_448.mim_in22k_ft_in22k_in1k', 87_117_544, imagenet(88.692, 98.724)),
            'eva02-large': ('eva02-large', 'timm/eva02_large_patch14_448.mim_in22k_ft_in22k_in1k', 305_080_232, imagenet(89.966, 99.012)),
        },
        layout='timm',
        preprocessor=square(448, 448, 'bicubic', CLIP),
        license='mit',
        paper='arXiv:2303.11331',
        summary='ImageNet-22k without labels and with them, then ImageNet-1k at 448 x 448',
    ),
)
