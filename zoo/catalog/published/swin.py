"""Published Swins: Microsoft's, as timm has them. Those of transformers load by their repositories' names."""

from blox.zoo.catalog.published.row import IMAGENET, Published, group, imagenet, square

_224 = square(224, 248, 'bicubic', IMAGENET, keep_ratio=True)
_384 = square(384, 384, 'bicubic', IMAGENET, keep_ratio=True)

ROWS: tuple[Published, ...] = (
    *group(
        {
            'swin-tiny': ('swin-tiny', 'timm/swin_tiny_patch4_window7_224.ms_in1k', 28_288_354, imagenet(81.376, 95.544)),
            'swin-small': ('swin-small', 'timm/swin_small_patch4_window7_224.ms_in1k', 49_606_258, imagenet(83.208, 96.316)),
        },
        layout='timm',
        preprocessor=_224,
        license='mit',
        paper='arXiv:2103.14030',
        summary='ImageNet-1k at 224 x 224',
    ),
    *group(
        {
            'swin-base': ('swin-base', 'timm/swin_base_patch4_window7_224.ms_in22k_ft_in1k', 87_768_224, imagenet(85.272, 97.564)),
            'swin-large': ('swin-large', 'timm/swin_large_patch4_window7_224.ms_in22k_ft_in1k', 196_532_476, imagenet(86.312, 97.902)),
        },
        layout='timm',
        preprocessor=_224,
        license='mit',
        paper='arXiv:2103.14030',
        summary='ImageNet-22k, then ImageNet-1k at 224 x 224',
    ),
    *group(
        {
            'swin-base-384': ('swin-base-384', 'timm/swin_base_patch4_window12_384.ms_in22k_ft_in1k', 87_903_584),
            'swin-large-384': ('swin-large-384', 'timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k', 196_735_516),
        },
        layout='timm',
        preprocessor=_384,
        license='mit',
        paper='arXiv:2103.14030',
        summary='ImageNet-22k, then ImageNet-1k at 384 x 384',
    ),
    *group(
        {
            'swin-s3-tiny': ('swin-s3-tiny', 'timm/swin_s3_tiny_224.ms_in1k', 28_328_674, imagenet(82.144, 95.954)),
            'swin-s3-small': ('swin-s3-small', 'timm/swin_s3_small_224.ms_in1k', 49_737_298, imagenet(83.756, 96.452)),
            'swin-s3-base': ('swin-s3-base', 'timm/swin_s3_base_224.ms_in1k', 71_125_762, imagenet(83.92, 96.672)),
        },
        layout='timm',
        preprocessor=_224,
        license='mit',
        paper='arXiv:2111.14725',
        summary='ImageNet-1k at 224 x 224, windows found by search',
    ),
)
