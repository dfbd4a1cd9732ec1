"""Published checkpoints: what the names in the catalog stand for, as plain data.

A name is an architecture, then who trained it or how, then what sets it apart from its siblings:
lowercase, joined by hyphens, a part left out where it is the plain one.

- ViT: `vit-b16` is Google's, trained on ImageNet-21k and tuned on ImageNet-1k at 224 x 224;
  `vit-b16-augreg` is timm's copy of Google's later one, `-augreg2` was tuned by timm itself;
  `deit-b16` is Facebook's. `-384` was tuned at 384 x 384, `-in21k` is ImageNet-21k alone.
- ResNet: `resnet50` has the weights that timm takes under this name, `-tv` and `-tv2` are
  torchvision's first and second where those are not the same, `-microsoft` is in Hugging Face's
  layout.
- GPT-2 and BERT: the name at the source, without its version and `-uncased`.

A name may be an architecture's too: it then has these weights. Facts of sources in timm's layout
are timm 1.0.31's; which commit a source is at is not among them.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from blox.zoo.inputs.images import ImagePreprocessor


class Published(NamedTuple):
    """A checkpoint that someone published on the Hugging Face Hub.

    Attributes:
      name: in the catalog.
      variant: a key of its family's VARIANTS.
      source: the repository, 'org/name'.
      layout: 'hf' or 'timm', whose names and shapes its tensors have.
      overrides: config fields in which it differs from the variant.
      preprocessor: how images become its inputs, None if it takes none.
      license: of the weights, as the source states it.
      paper: of the architecture or of how it was trained, an arXiv id or an address.
      summary: what it was trained on, in a line.
    """

    name: str
    variant: str
    source: str
    layout: str
    overrides: Mapping[str, Any]
    preprocessor: ImagePreprocessor | None
    license: str
    paper: str
    summary: str


_HALF = (0.5, 0.5, 0.5)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Pillow's codes, as preprocessor_config.json has them.
_BILINEAR, _BICUBIC = 2, 3

_SPELLED = {
    'ti16': 'tiny-patch16',
    's16': 'small-patch16',
    's32': 'small-patch32',
    'b8': 'base-patch8',
    'b16': 'base-patch16',
    'b32': 'base-patch32',
    'l16': 'large-patch16',
    'l32': 'large-patch32',
    'h14': 'huge-patch14',
}


def _tail(image: int) -> str:
    """What a name says of the image size: nothing of the usual one."""
    return '' if image == 224 else f'-{image}'


def _hf_vit(image: int) -> ImagePreprocessor:
    return ImagePreprocessor.from_hf(
        {
            'image_processor_type': 'ViTImageProcessor',
            'size': image,
            'resample': _BILINEAR,
            'image_mean': _HALF,
            'image_std': _HALF,
        }
    )


def _google(image: int, *sizes: str) -> Iterator[Published]:
    for size in sizes:
        yield Published(
            name=f'vit-{size}{_tail(image)}',
            variant=f'vit-{size}',
            source=f'google/vit-{_SPELLED[size]}-{image}',
            layout='hf',
            overrides={'norm_eps': 1e-12, 'image_size': (image, image)},
            preprocessor=_hf_vit(image),
            license='apache-2.0',
            paper='arXiv:2010.11929',
            summary=f'ImageNet-21k, then ImageNet-1k at {image} x {image}',
        )


def _google_in21k(width: int, *sizes: str) -> Iterator[Published]:
    for size in sizes:
        yield Published(
            name=f'vit-{size}-in21k',
            variant=f'vit-{size}',
            source=f'google/vit-{_SPELLED[size]}-224-in21k',
            layout='hf',
            overrides={'norm_eps': 1e-12, 'num_classes': 0, 'pre_logits': width},
            preprocessor=_hf_vit(224),
            license='apache-2.0',
            paper='arXiv:2010.11929',
            summary='ImageNet-21k; features of the pooler, no head',
        )


class _Augreg(NamedTuple):
    tag: str
    image: int
    crop: float
    num_classes: int
    then: str


_AUGREG = {
    'augreg': _Augreg('augreg_in21k_ft_in1k', 224, 0.9, 1000, 'then ImageNet-1k'),
    'augreg-384': _Augreg('augreg_in21k_ft_in1k', 384, 1.0, 1000, 'then ImageNet-1k at 384 x 384'),
    'augreg-in21k': _Augreg('augreg_in21k', 224, 0.9, 21843, 'with its 21843 classes'),
    'augreg2': _Augreg('augreg2_in21k_ft_in1k', 224, 0.9, 1000, 'then ImageNet-1k anew, by timm'),
}


def _timm(
    image: int, crop: float, interpolation: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> ImagePreprocessor:
    return ImagePreprocessor.from_timm(
        {
            'input_size': (3, image, image),
            'crop_pct': crop,
            'crop_mode': 'center',
            'interpolation': interpolation,
            'mean': mean,
            'std': std,
        }
    )


def _augreg(suffix: str, *sizes: str) -> Iterator[Published]:
    tag, image, crop, num_classes, then = _AUGREG[suffix]
    for size in sizes:
        spelled = _SPELLED[size].replace('-', '_')
        yield Published(
            name=f'vit-{size}-{suffix}',
            variant=f'vit-{size}',
            source=f'timm/vit_{spelled}_{image}.{tag}',
            layout='timm',
            overrides={'num_classes': num_classes, 'image_size': (image, image)},
            preprocessor=_timm(image, crop, 'bicubic', _HALF, _HALF),
            license='apache-2.0',
            paper='arXiv:2106.10270',
            summary=f'ImageNet-21k with more augmentation and regularization, {then}',
        )


def _deit(image: int, resize: int, *sizes: str) -> Iterator[Published]:
    prepare = {
        'image_processor_type': 'DeiTImageProcessor',
        'size': resize,
        'crop_size': image,
        'resample': _BICUBIC,
        'image_mean': _IMAGENET_MEAN,
        'image_std': _IMAGENET_STD,
    }
    for size in sizes:
        yield Published(
            name=f'deit-{size}{_tail(image)}',
            variant=f'vit-{size}',
            source=f'facebook/deit-{_SPELLED[size]}-{image}',
            layout='hf',
            overrides={'norm_eps': 1e-12, 'image_size': (image, image)},
            preprocessor=ImagePreprocessor.from_hf(prepare),
            license='apache-2.0',
            paper='arXiv:2012.12877',
            summary=f'ImageNet-1k at {image} x {image}, without distillation',
        )


class _Recipe(NamedTuple):
    image: int
    crop: float
    interpolation: str
    license: str
    summary: str


_RECIPES = {
    'a1': _Recipe(224, 0.95, 'bicubic', 'apache-2.0', 'recipe A1 of arXiv:2110.00476'),
    'a1h': _Recipe(224, 0.95, 'bicubic', 'apache-2.0', 'after recipe A1 of arXiv:2110.00476'),
    'c1': _Recipe(224, 0.95, 'bicubic', 'apache-2.0', 'recipe C1 of arXiv:2110.00476'),
    'racm': _Recipe(224, 0.875, 'bicubic', 'apache-2.0', "timm's RandAugment recipe"),
    'tv': _Recipe(224, 0.875, 'bilinear', 'bsd-3-clause', "torchvision's first weights"),
    'tv2': _Recipe(176, 0.875, 'bilinear', 'bsd-3-clause', "torchvision's second weights"),
}

# The first is the one that timm takes for the plain name.
_RESNETS = {
    'resnet18': ('a1', 'tv'),
    'resnet34': ('a1', 'tv'),
    'resnet50': ('a1', 'tv', 'tv2'),
    'resnet101': ('a1h', 'tv', 'tv2'),
    'resnet152': ('a1h', 'tv', 'tv2'),
    'wide-resnet50-2': ('racm', 'tv', 'tv2'),
    'wide-resnet101-2': ('tv', 'tv2'),
    'resnext50-32x4d': ('a1h', 'tv', 'tv2'),
    'resnext101-32x8d': ('tv', 'tv2'),
    'resnext101-64x4d': ('c1', 'tv'),
}

_RESNET_PAPERS = {
    'resnet': 'arXiv:1512.03385',
    'wide-resnet': 'arXiv:1605.07146',
    'resnext': 'arXiv:1611.05431',
}


def _resnets() -> Iterator[Published]:
    for variant, tags in _RESNETS.items():
        for tag in tags:
            image, crop, interpolation, license, summary = _RECIPES[tag]
            yield Published(
                name=variant if tag == tags[0] else f'{variant}-{tag}',
                variant=variant,
                source=f'timm/{variant.replace("-", "_")}.{tag}_in1k',
                layout='timm',
                overrides={'image_size': (image, image)},
                preprocessor=_timm(image, crop, interpolation, _IMAGENET_MEAN, _IMAGENET_STD),
                license=license,
                paper=_RESNET_PAPERS[re.split(r'\d', variant)[0]],
                summary=f'ImageNet-1k, {summary}',
            )


def _microsoft(*depths: int) -> Iterator[Published]:
    prepare = {
        'image_processor_type': 'ConvNextImageProcessor',
        'size': 224,
        'crop_pct': 0.875,
        'resample': _BICUBIC,
        'image_mean': _IMAGENET_MEAN,
        'image_std': _IMAGENET_STD,
    }
    for depth in depths:
        yield Published(
            name=f'resnet{depth}-microsoft',
            variant=f'resnet{depth}',
            source=f'microsoft/resnet-{depth}',
            layout='hf',
            overrides={},
            preprocessor=ImagePreprocessor.from_hf(prepare),
            license='apache-2.0',
            paper='arXiv:1512.03385',
            summary='ImageNet-1k',
        )


def _text(
    source: str, name: str, variant: str, license: str, paper: str, summary: str
) -> Published:
    return Published(name, variant, source, 'hf', {}, None, license, paper, summary)


_GPT2_PAPER = (
    'https://cdn.openai.com/better-language-models/'
    'language_models_are_unsupervised_multitask_learners.pdf'
)


def _gpt2(*names: str) -> Iterator[Published]:
    for name in names:
        source = f'openai-community/{name}'
        yield _text(source, name, name, 'mit', _GPT2_PAPER, 'WebText, pages linked from Reddit')


def _minilm(*depths: int) -> Iterator[Published]:
    for depth in depths:
        yield _text(
            f'sentence-transformers/all-MiniLM-L{depth}-v2',
            f'all-minilm-l{depth}',
            f'minilm-l{depth}',
            'apache-2.0',
            'arXiv:1908.10084',
            'MiniLM, then over a billion pairs of sentences',
        )


def _bert(*names: str) -> Iterator[Published]:
    for name in names:
        yield _text(
            f'google-bert/{name}-uncased',
            name,
            name,
            'apache-2.0',
            'arXiv:1810.04805',
            'BooksCorpus and English Wikipedia, in lower case',
        )


_ROWS = (
    *_google(224, 'b16', 'l16'),
    *_google(384, 'b16', 'b32', 'l16', 'l32'),
    *_google_in21k(768, 'b16', 'b32'),
    *_google_in21k(1024, 'l16', 'l32'),
    *_google_in21k(1280, 'h14'),
    *_augreg('augreg', 'ti16', 's16', 's32', 'b8', 'b16', 'b32', 'l16'),
    *_augreg('augreg-384', 'ti16', 's16', 's32', 'b16', 'b32', 'l16'),
    *_augreg('augreg-in21k', 'ti16', 's16', 's32', 'b8', 'b16', 'b32', 'l16'),
    *_augreg('augreg2', 'b8', 'b16'),
    *_deit(224, 256, 'ti16', 's16', 'b16'),
    *_deit(384, 438, 'b16'),
    *_resnets(),
    *_microsoft(18, 26, 34, 50, 101, 152),
    *_gpt2('gpt2', 'gpt2-medium', 'gpt2-large', 'gpt2-xl'),
    _text(
        'distilbert/distilgpt2',
        'distilgpt2',
        'distilgpt2',
        'apache-2.0',
        'arXiv:1910.01108',
        'OpenWebText, distilled from gpt2',
    ),
    *_bert('bert-base', 'bert-large'),
    *_minilm(6, 12),
)

PUBLISHED: Mapping[str, Published] = {row.name: row for row in _ROWS}
