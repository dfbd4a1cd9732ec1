"""Published CLIPs and SigLIPs, as transformers has them.

`clip-*` are OpenAI's, `clip-*-laion2b` LAION's, whose activation is the exact gelu. Those of open_clip
and timm load by their repositories' names.
"""

from collections.abc import Mapping
from typing import Any

from blox.zoo.catalog.published.row import CLIP, HALF, Own, Published, group, square, zero_shot

_GELU = {'image_activation': 'gelu', 'text_activation': 'gelu'}


def _clip(rows: Mapping[str, Own], size: int = 224, **more: Any) -> tuple[Published, ...]:
    return group(
        rows,
        layout='hf',
        preprocessor=square(size, size, 'bicubic', CLIP, keep_ratio=True, crop_rounding='down'),
        license='mit',
        **more,
    )


def _siglip(size: int, rows: Mapping[str, Own], is_second: bool = False) -> tuple[Published, ...]:
    """Return rows of one size of images, for which positions were trained."""
    return group(
        rows,
        layout='siglip',
        overrides={'image_size': (size, size)},
        preprocessor=square(size, size, 'bicubic', HALF, crop_rounding='down'),
        license='apache-2.0',
        paper='arXiv:2502.14786' if is_second else 'arXiv:2303.15343',
        summary='WebLI, in many languages' if is_second else 'WebLI, in English',
    )


_OPENAI: dict[str, Any] = {
    'paper': 'arXiv:2103.00020',
    'summary': "OpenAI's 400 million pairs of the internet",
}
_LAION: dict[str, Any] = {'paper': 'arXiv:2212.07143', 'summary': 'LAION-2B, in English'}
_LAION_B = {
    'clip-b32-laion2b': ('clip-b32', 'laion/CLIP-ViT-B-32-laion2B-s34B-b79K', 151_277_313, zero_shot(66.56)),
    'clip-b16-laion2b': ('clip-b16', 'laion/CLIP-ViT-B-16-laion2B-s34B-b88K', 149_620_737, zero_shot(70.23)),
    'clip-l14-laion2b': ('clip-l14', 'laion/CLIP-ViT-L-14-laion2B-s32B-b82K', 427_616_513, zero_shot(75.25)),
}

ROWS: tuple[Published, ...] = (
    *_clip(
        {
            'clip-b32': ('clip-b32', 'openai/clip-vit-base-patch32', 151_277_313, zero_shot(63.32)),
            'clip-b16': ('clip-b16', 'openai/clip-vit-base-patch16', 149_620_737, zero_shot(68.34)),
            'clip-l14': ('clip-l14', 'openai/clip-vit-large-patch14', 427_616_513, zero_shot(75.54)),
        },
        **_OPENAI,
    ),
    *_clip({'clip-l14-336': ('clip-l14-336', 'openai/clip-vit-large-patch14-336', 427_944_193, zero_shot(76.56))}, 336, **_OPENAI),
    *_clip(_LAION_B, overrides=_GELU, **_LAION),
    *_clip({'clip-h14-laion2b': ('clip-h14', 'laion/CLIP-ViT-H-14-laion2B-s32B-b79K', 986_109_441, zero_shot(77.96))}, **_LAION),
    *_siglip(224, {'siglip-b16': ('siglip-b16', 'google/siglip-base-patch16-224', 203_155_970, zero_shot(76.04))}),
    *_siglip(256, {'siglip-b16-256': ('siglip-b16', 'google/siglip-base-patch16-256', 203_202_050, zero_shot(76.53))}),
    *_siglip(384, {'siglip-b16-384': ('siglip-b16', 'google/siglip-base-patch16-384', 203_447_810, zero_shot(78.49))}),
    *_siglip(512, {'siglip-b16-512': ('siglip-b16', 'google/siglip-base-patch16-512', 203_791_874, zero_shot(79.14))}),
    *_siglip(256, {'siglip-l16': ('siglip-l16', 'google/siglip-large-patch16-256', 652_150_786, zero_shot(80.45))}),
    *_siglip(384, {'siglip-l16-384': ('siglip-l16', 'google/siglip-large-patch16-384', 652_478_466, zero_shot(82.07))}),
    *_siglip(384, {'siglip-so400m': ('siglip-so400m', 'google/siglip-so400m-patch14-384', 877_960_498, zero_shot(83.08))}),
    *_siglip(224, {'siglip-so400m-224': ('siglip-so400m', 'google/siglip-so400m-patch14-224', 877_415_602, zero_shot(82.03))}),
    *_siglip(224, {'siglip2-b16': ('siglip2-b16', 'google/siglip2-base-patch16-224', 375_187_970)}, True),
    *_siglip(256, {'siglip2-b16-256': ('siglip2-b16', 'google/siglip2-base-patch16-256', 375_234_050)}, True),
    *_siglip(384, {'siglip2-b16-384': ('siglip2-b16', 'google/siglip2-base-patch16-384', 375_479_810)}, True),
    *_siglip(512, {'siglip2-b16-512': ('siglip2-b16', 'google/siglip2-base-patch16-512', 375_823_874)}, True),
    *_siglip(256, {'siglip2-l16': ('siglip2-l16', 'google/siglip2-large-patch16-256', 881_526_786)}, True),
    *_siglip(384, {'siglip2-l16-384': ('siglip2-l16', 'google/siglip2-large-patch16-384', 881_854_466)}, True),
    *_siglip(512, {'siglip2-l16-512': ('siglip2-l16', 'google/siglip2-large-patch16-512', 882_313_218)}, True),
    *_siglip(224, {'siglip2-so400m': ('siglip2-so400m', 'google/siglip2-so400m-patch14-224', 1_135_463_602)}, True),
    *_siglip(384, {'siglip2-so400m-384': ('siglip2-so400m', 'google/siglip2-so400m-patch14-384', 1_136_008_498)}, True),
    *_siglip(256, {'siglip2-giant': ('siglip2-giant', 'google/siglip2-giant-opt-patch16-256', 1_871_393_906)}, True),
    *_siglip(384, {'siglip2-giant-384': ('siglip2-giant', 'google/siglip2-giant-opt-patch16-384', 1_871_885_426)}, True),
)
