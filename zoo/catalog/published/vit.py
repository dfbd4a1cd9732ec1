"""Published ViTs.

`vit-b16` is Google's, trained on ImageNet-21k and tuned on ImageNet-1k at 224 x 224; `vit-b16-augreg`
is timm's copy of Google's later one, `-augreg2` was tuned by timm itself; `deit-b16` is Facebook's, `deit-b16-distilled`
timm's copy of Facebook's with a teacher.
`deit3-b16` is DeiT III. `-384` was tuned at 384 x 384, `-in21k` is ImageNet-21k alone.
`dinov2-base` and its like give features, as timm keeps them; those of transformers load by their repositories' names.
`-reg4` has four registers.
"""

from blox.zoo.catalog.published.row import HALF, IMAGENET, Published, group, imagenet, square

ROWS: tuple[Published, ...] = (
    *group(
        {
            'vit-b16': ('vit-b16', 'google/vit-base-patch16-224', 86_567_656),
            'vit-l16': ('vit-l16', 'google/vit-large-patch16-224', 304_326_632),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'image_size': (224, 224)},
        preprocessor=square(224, 224, 'bilinear', HALF, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2010.11929',
        summary='ImageNet-21k, then ImageNet-1k at 224 x 224',
    ),
    *group(
        {
            'vit-b16-384': ('vit-b16', 'google/vit-base-patch16-384', 86_859_496),
            'vit-b32-384': ('vit-b32', 'google/vit-base-patch32-384', 88_297_192),
            'vit-l16-384': ('vit-l16', 'google/vit-large-patch16-384', 304_715_752),
            'vit-l32-384': ('vit-l32', 'google/vit-large-patch32-384', 306_632_680),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'image_size': (384, 384)},
        preprocessor=square(384, 384, 'bilinear', HALF, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2010.11929',
        summary='ImageNet-21k, then ImageNet-1k at 384 x 384',
    ),
    *group(
        {
            'vit-b16-in21k': ('vit-b16', 'google/vit-base-patch16-224-in21k', 86_389_248),
            'vit-b32-in21k': ('vit-b32', 'google/vit-base-patch32-224-in21k', 88_045_824),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'num_classes': 0, 'pre_logits': 768},
        preprocessor=square(224, 224, 'bilinear', HALF, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2010.11929',
        summary='ImageNet-21k; features of the pooler, no head',
    ),
    *group(
        {
            'vit-l16-in21k': ('vit-l16', 'google/vit-large-patch16-224-in21k', 304_351_232),
            'vit-l32-in21k': ('vit-l32', 'google/vit-large-patch32-224-in21k', 306_560_000),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'num_classes': 0, 'pre_logits': 1024},
        preprocessor=square(224, 224, 'bilinear', HALF, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2010.11929',
        summary='ImageNet-21k; features of the pooler, no head',
    ),
    *group(
        {
            'vit-h14-in21k': ('vit-h14', 'google/vit-huge-patch14-224-in21k', 632_404_480),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'num_classes': 0, 'pre_logits': 1280},
        preprocessor=square(224, 224, 'bilinear', HALF, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2010.11929',
        summary='ImageNet-21k; features of the pooler, no head',
    ),
    *group(
        {
            'vit-ti16-augreg': ('vit-ti16', 'timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k', 5_717_416, imagenet(75.454, 92.844)),
            'vit-s16-augreg': ('vit-s16', 'timm/vit_small_patch16_224.augreg_in21k_ft_in1k', 22_050_664, imagenet(81.384, 96.136)),
            'vit-s32-augreg': ('vit-s32', 'timm/vit_small_patch32_224.augreg_in21k_ft_in1k', 22_878_952, imagenet(75.994, 93.27)),
            'vit-b8-augreg': ('vit-b8', 'timm/vit_base_patch8_224.augreg_in21k_ft_in1k', 86_576_872, imagenet(85.798, 97.79)),
            'vit-b16-augreg': ('vit-b16', 'timm/vit_base_patch16_224.augreg_in21k_ft_in1k', 86_567_656, imagenet(84.532, 97.292)),
            'vit-b32-augreg': ('vit-b32', 'timm/vit_base_patch32_224.augreg_in21k_ft_in1k', 88_224_232, imagenet(80.716, 95.566)),
            'vit-l16-augreg': ('vit-l16', 'timm/vit_large_patch16_224.augreg_in21k_ft_in1k', 304_326_632, imagenet(85.834, 97.818)),
        },
        layout='timm',
        overrides={'num_classes': 1000, 'image_size': (224, 224)},
        preprocessor=square(224, 248, 'bicubic', HALF, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2106.10270',
        summary='ImageNet-21k with more augmentation and regularization, then ImageNet-1k',
    ),
    *group(
        {
            'vit-ti16-augreg-384': ('vit-ti16', 'timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k', 5_790_376, imagenet(78.424, 94.54)),
            'vit-s16-augreg-384': ('vit-s16', 'timm/vit_small_patch16_384.augreg_in21k_ft_in1k', 22_196_584, imagenet(83.802, 97.098)),
            'vit-s32-augreg-384': ('vit-s32', 'timm/vit_small_patch32_384.augreg_in21k_ft_in1k', 22_915_432, imagenet(80.486, 95.596)),
            'vit-b16-augreg-384': ('vit-b16', 'timm/vit_base_patch16_384.augreg_in21k_ft_in1k', 86_859_496, imagenet(85.996, 98.002)),
            'vit-b32-augreg-384': ('vit-b32', 'timm/vit_base_patch32_384.augreg_in21k_ft_in1k', 88_297_192, imagenet(83.35, 96.838)),
            'vit-l16-augreg-384': ('vit-l16', 'timm/vit_large_patch16_384.augreg_in21k_ft_in1k', 304_715_752, imagenet(87.084, 98.302)),
        },
        layout='timm',
        overrides={'num_classes': 1000, 'image_size': (384, 384)},
        preprocessor=square(384, 384, 'bicubic', HALF, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2106.10270',
        summary='ImageNet-21k with more augmentation and regularization, then ImageNet-1k at 384 x 384',
    ),
    *group(
        {
            'vit-ti16-augreg-in21k': ('vit-ti16', 'timm/vit_tiny_patch16_224.augreg_in21k', 9_740_115),
            'vit-s16-augreg-in21k': ('vit-s16', 'timm/vit_small_patch16_224.augreg_in21k', 30_075_219),
            'vit-s32-augreg-in21k': ('vit-s32', 'timm/vit_small_patch32_224.augreg_in21k', 30_903_507),
            'vit-b8-augreg-in21k': ('vit-b8', 'timm/vit_base_patch8_224.augreg_in21k', 102_605_139),
            'vit-b16-augreg-in21k': ('vit-b16', 'timm/vit_base_patch16_224.augreg_in21k', 102_595_923),
            'vit-b32-augreg-in21k': ('vit-b32', 'timm/vit_base_patch32_224.augreg_in21k', 104_252_499),
            'vit-l16-augreg-in21k': ('vit-l16', 'timm/vit_large_patch16_224.augreg_in21k', 325_690_707),
        },
        layout='timm',
        overrides={'num_classes': 21843, 'image_size': (224, 224)},
        preprocessor=square(224, 248, 'bicubic', HALF, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2106.10270',
        summary='ImageNet-21k with more augmentation and regularization, with its 21843 classes',
    ),
    *group(
        {
            'vit-b8-augreg2': ('vit-b8', 'timm/vit_base_patch8_224.augreg2_in21k_ft_in1k', 86_576_872, imagenet(86.218, 97.832)),
            'vit-b16-augreg2': ('vit-b16', 'timm/vit_base_patch16_224.augreg2_in21k_ft_in1k', 86_567_656, imagenet(85.096, 97.53)),
        },
        layout='timm',
        overrides={'num_classes': 1000, 'image_size': (224, 224)},
        preprocessor=square(224, 248, 'bicubic', HALF, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2106.10270',
        summary='ImageNet-21k with more augmentation and regularization, then ImageNet-1k anew, by timm',
    ),
    *group(
        {
            'deit-ti16': ('vit-ti16', 'facebook/deit-tiny-patch16-224', 5_717_416),
            'deit-s16': ('vit-s16', 'facebook/deit-small-patch16-224', 22_050_664),
            'deit-b16': ('vit-b16', 'facebook/deit-base-patch16-224', 86_567_656),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'image_size': (224, 224)},
        preprocessor=square(224, 256, 'bicubic', IMAGENET, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2012.12877',
        summary='ImageNet-1k at 224 x 224, without distillation',
    ),
    *group(
        {
            'deit-b16-384': ('vit-b16', 'facebook/deit-base-patch16-384', 86_859_496),
        },
        layout='hf',
        overrides={'norm_eps': 1e-12, 'image_size': (384, 384)},
        preprocessor=square(384, 438, 'bicubic', IMAGENET, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2012.12877',
        summary='ImageNet-1k at 384 x 384, without distillation',
    ),
    *group(
        {
            'deit-ti16-distilled': ('vit-ti16', 'timm/deit_tiny_distilled_patch16_224.fb_in1k', 5_910_800, imagenet(74.5, 91.892)),
            'deit-s16-distilled': ('vit-s16', 'timm/deit_small_distilled_patch16_224.fb_in1k', 22_436_432, imagenet(81.218, 95.384)),
            'deit-b16-distilled': ('vit-b16', 'timm/deit_base_distilled_patch16_224.fb_in1k', 87_338_192, imagenet(83.386, 96.488)),
        },
        layout='timm',
        overrides={'distilled': True, 'image_size': (224, 224)},
        preprocessor=square(224, 248, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2012.12877',
        summary='ImageNet-1k at 224 x 224, distilled: a second token and head, of the teacher',
    ),
    *group(
        {
            'deit-b16-distilled-384': ('vit-b16', 'timm/deit_base_distilled_patch16_384.fb_in1k', 87_630_032),
        },
        layout='timm',
        overrides={'distilled': True, 'image_size': (384, 384)},
        preprocessor=square(384, 384, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2012.12877',
        summary='ImageNet-1k at 384 x 384, distilled: a second token and head, of the teacher',
    ),
    *group(
        {
            'deit3-s16': ('vit-s16', 'timm/deit3_small_patch16_224.fb_in22k_ft_in1k', 22_059_496, imagenet(83.074, 96.776)),
            'deit3-b16': ('vit-b16', 'timm/deit3_base_patch16_224.fb_in22k_ft_in1k', 86_585_320, imagenet(85.7, 97.746)),
            'deit3-l16': ('vit-l16', 'timm/deit3_large_patch16_224.fb_in22k_ft_in1k', 304_374_760, imagenet(86.982, 98.236)),
            'deit3-h14': ('vit-h14', 'timm/deit3_huge_patch14_224.fb_in22k_ft_in1k', 632_126_440, imagenet(87.186, 98.26)),
        },
        layout='timm',
        overrides={'positions': 'patches', 'layer_scale': 1e-6, 'image_size': (224, 224)},
        preprocessor=square(224, 224, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2204.07118',
        summary='ImageNet-22k, then ImageNet-1k at 224 x 224',
    ),
    *group(
        {
            'deit3-s16-384': ('vit-s16', 'timm/deit3_small_patch16_384.fb_in22k_ft_in1k', 22_205_416, imagenet(84.824, 97.488)),
            'deit3-b16-384': ('vit-b16', 'timm/deit3_base_patch16_384.fb_in22k_ft_in1k', 86_877_160, imagenet(86.738, 98.114)),
            'deit3-l16-384': ('vit-l16', 'timm/deit3_large_patch16_384.fb_in22k_ft_in1k', 304_763_880, imagenet(87.72, 98.512)),
        },
        layout='timm',
        overrides={'positions': 'patches', 'layer_scale': 1e-6, 'image_size': (384, 384)},
        preprocessor=square(384, 384, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2204.07118',
        summary='ImageNet-22k, then ImageNet-1k at 384 x 384',
    ),
    *group(
        {
            'dinov2-small': ('dinov2-small', 'timm/vit_small_patch14_dinov2.lvd142m', 22_056_192),
            'dinov2-base': ('dinov2-base', 'timm/vit_base_patch14_dinov2.lvd142m', 86_579_712),
            'dinov2-large': ('dinov2-large', 'timm/vit_large_patch14_dinov2.lvd142m', 304_367_616),
            'dinov2-giant': ('dinov2-giant', 'timm/vit_giant_patch14_dinov2.lvd142m', 1_136_479_232),
        },
        layout='timm',
        overrides={'image_size': (518, 518)},
        preprocessor=square(518, 518, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2304.07193',
        summary='LVD-142M without labels; features, no head',
    ),
    *group(
        {
            'dinov2-small-reg4': ('dinov2-small', 'timm/vit_small_patch14_reg4_dinov2.lvd142m', 22_057_344),
            'dinov2-base-reg4': ('dinov2-base', 'timm/vit_base_patch14_reg4_dinov2.lvd142m', 86_582_016),
            'dinov2-large-reg4': ('dinov2-large', 'timm/vit_large_patch14_reg4_dinov2.lvd142m', 304_370_688),
            'dinov2-giant-reg4': ('dinov2-giant', 'timm/vit_giant_patch14_reg4_dinov2.lvd142m', 1_136_483_840),
        },
        layout='timm',
        overrides={'registers': 4, 'positions': 'patches', 'image_size': (518, 518)},
        preprocessor=square(518, 518, 'bicubic', IMAGENET, keep_ratio=True),
        license='apache-2.0',
        paper='arXiv:2309.16588',
        summary='LVD-142M without labels; features, no head; four registers',
    ),
)
