"""A row of the catalog, and what makes many of them of few lines."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from blox.zoo.inputs.images import ImagePreprocessor


class Published(NamedTuple):
    """A checkpoint that someone published on the Hugging Face Hub.

    Attributes:
      name: in the catalog.
      variant: a key of its family's VARIANTS.
      source: the repository, 'org/name'.
      parameters: how many the model has.
      layout: 'hf' or 'timm', whose names and shapes its tensors have.
      license: of the weights, as the source states it.
      paper: of the architecture or of how it was trained, an arXiv id or an address.
      summary: what it was trained on, in a line.
      overrides: config fields in which it differs from the variant.
      preprocessor: how images become its inputs, None if it takes none.
      metrics: what was measured by others, fractions by name.
    """

    name: str
    variant: str
    source: str
    parameters: int
    layout: str
    license: str
    paper: str
    summary: str
    overrides: Mapping[str, Any] = MappingProxyType({})
    preprocessor: ImagePreprocessor | None = None
    metrics: Mapping[str, float] = MappingProxyType({})


# Variant, source, how many parameters, and what was measured if anything was.
Own: TypeAlias = tuple[str, str, int] | tuple[str, str, int, Mapping[str, float]]


def group(rows: Mapping[str, Own], **shared: Any) -> tuple[Published, ...]:
    """Make rows by name, which have all else in common."""
    return tuple(
        Published(name, *own[:3], metrics=own[3] if len(own) > 3 else {}, **shared)
        for name, own in rows.items()
    )


def imagenet(top1: float, top5: float, *, at: int | None = None) -> Mapping[str, float]:
    """Return accuracies on the validation images of ImageNet-1k, given in percent, as timm measured them.

    `at` is the side of its images where that is not the model's own. Source:
    results/results-imagenet.csv of huggingface/pytorch-image-models, commit 0173a13.
    """
    end = f'_at_{at}' if at else ''
    return {f'imagenet_top{n}{end}': round(x / 100, 5) for n, x in ((1, top1), (5, top5))}


def zero_shot(top1: float) -> Mapping[str, float]:
    """Return the accuracy on ImageNet-1k by names of its classes alone, given in percent.

    open_clip measured it, with many templates: docs/openclip_results.csv of
    mlfoundations/open_clip, commit f862f86.
    """
    return {'imagenet_zero_shot_top1': round(top1 / 100, 5)}


class Statistics(NamedTuple):
    """The mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


def square(
    size: int,
    resize: int,
    interpolation: str,
    statistics: Statistics,
    *,
    keep_ratio: bool = False,
    crop_rounding: str = 'even',
) -> ImagePreprocessor:
    """Make the preprocessor of square images, resized to `resize` and cropped to `size`."""
    return ImagePreprocessor(
        (size, size),
        (resize, resize),
        keep_ratio,
        interpolation,
        *statistics,
        crop_rounding=crop_rounding,
    )
