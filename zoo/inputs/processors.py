"""Read and write image preprocessing as transformers and timm write it down."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from blox.zoo.architecture.validation import expect

INTERPOLATIONS = {mode.name.lower(): mode for mode in Image.Resampling}

_HF_FILE = 'preprocessor_config.json'
_HF_TYPES = {'vit': 'ViT', 'deit': 'DeiT', 'resnet': 'ConvNext', 'convnext': 'ConvNext'}
_HF_TYPES |= {'convnextv2': 'ConvNext', 'bit': 'Bit', 'dinov2': 'Bit', 'swin': 'ViT'}
_HF_TYPES |= {'dinov3_vit': 'DINOv3ViT', 'dinov3_convnext': 'DINOv3ViT'}
_HF_TYPES |= {'clip': 'CLIP', 'siglip': 'Siglip'}
# Defaults of transformers 5 for what a file leaves out.
_HF_COMMON: dict[str, Any] = {
    'do_resize': True,
    'default_to_square': True,
    'do_center_crop': False,
    'crop_size': 224,
    'do_rescale': True,
    'rescale_factor': 1 / 255,
    'do_normalize': True,
    'image_mean': [0.5, 0.5, 0.5],
    'image_std': [0.5, 0.5, 0.5],
    'do_pad': False,
}
_CLIP: dict[str, Any] = {
    'size': 224,
    'resample': 3,
    'default_to_square': False,
    'do_center_crop': True,
    'image_mean': [0.48145466, 0.4578275, 0.40821073],
    'image_std': [0.26862954, 0.26130258, 0.27577711],
}
_HF_KINDS: dict[str, dict[str, Any]] = {
    'ViT': {'size': 224, 'resample': 2},
    'DeiT': {'size': 256, 'resample': 3, 'do_center_crop': True},
    'ConvNext': {'size': 384, 'resample': 3, 'default_to_square': False, 'crop_pct': 0.875},
    # Which differ in nothing but their names.
    'Bit': _CLIP,
    'CLIP': _CLIP,
    'Siglip': {'size': {'height': 224, 'width': 224}, 'resample': 3, 'default_to_square': False},
    'DINOv3ViT': {
        'size': 224,
        'resample': 2,
        'image_mean': [0.485, 0.456, 0.406],
        'image_std': [0.229, 0.224, 0.225],
    },
}
# The last code of an interpolation that a kind knows, if not all that Pillow has.
_HF_MODES = {'DINOv3ViT': 3}
# Fields that say nothing of the pixels of a color image.
_HF_IDLE = {
    'image_processor_type',
    'feature_extractor_type',
    'processor_class',
    'use_fast',
    'do_convert_rgb',
    'data_format',
    'input_data_format',
    'return_tensors',
    'device',
    'disable_grouping',
    '_valid_processor_keys',
    '_valid_kwargs_names',
}


def read_hf(fields: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the fields of the ImagePreprocessor that does what a preprocessor_config.json says.

    Raises ValueError that names fields that are unknown, wrong, or cannot be followed.
    """
    kind = _hf_kind(fields, model_type)
    values = _HF_COMMON | _HF_KINDS[kind] | {k: v for k, v in fields.items() if v is not None}
    if unknown := sorted(set(values) - set(_HF_COMMON) - set(_HF_KINDS[kind]) - _HF_IDLE):
        known = f'expected fields of a {kind}ImageProcessor'
        raise ValueError(f'{_HF_FILE}: {known}, found also {", ".join(unknown)}')
    expect(_HF_FILE, values, _hf_conditions(values, _HF_MODES.get(kind, 5)))
    sizes = _convnext_sizes(values) if kind == 'ConvNext' else _hf_sizes(values)
    return {
        **sizes,
        **_hf_statistics(values),
        'interpolation': Image.Resampling(values['resample']).name.lower(),
        'crop_rounding': 'down',
        'resize_dtype': 'float32' if kind == 'DINOv3ViT' and values['do_rescale'] else 'uint8',
    }


def write_hf(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessor_config.json of an ImagePreprocessor. ValueError if there is none."""
    size, resize, keep_ratio = fields['size'], fields['resize'], fields['keep_ratio']
    if keep_ratio and resize[0] != resize[1]:
        raise ValueError(f'transformers covers only squares, found resize={resize}')
    is_cropped = keep_ratio or resize != size
    kind = 'Bit' if keep_ratio else 'DeiT' if is_cropped else 'ViT'
    if fields['resize_dtype'] == 'float32':
        kind = 'DINOv3ViT'
        if (mode := INTERPOLATIONS[fields['interpolation']]) > _HF_MODES[kind]:
            raise ValueError(
                f'transformers resizes no floats with interpolation {mode.name.lower()!r}'
            )
    crop = {'do_center_crop': True, 'crop_size': _height_width(size)}
    return {
        'image_processor_type': f'{kind}ImageProcessor',
        'do_convert_rgb': len(fields['mean']) == 3,
        'do_resize': True,
        'size': {'shortest_edge': resize[0]} if keep_ratio else _height_width(resize),
        'resample': int(INTERPOLATIONS[fields['interpolation']]),
        **(crop if is_cropped else {}),
        'do_rescale': True,
        'rescale_factor': 1 / 255,
        'do_normalize': True,
        'image_mean': list(fields['mean']),
        'image_std': list(fields['std']),
    }


def _hf_kind(fields: Mapping[str, Any], model_type: str) -> str:
    """Find which of `_HF_KINDS` a file is of."""
    named = fields.get('image_processor_type') or fields.get('feature_extractor_type')
    if not named and model_type not in _HF_TYPES:
        known = (
            f'expected image_processor_type, or model_type {", ".join(_HF_TYPES)} in config.json'
        )
        raise ValueError(f'{_HF_FILE}: {known}, found model_type {model_type!r}')
    name = str(named or f'{_HF_TYPES[model_type]}ImageProcessor')
    kind = re.sub('(ImageProcessor(Fast|Pil)?|FeatureExtractor)$', '', name)
    if kind == name or kind not in _HF_KINDS:
        known = ', '.join(f'{kind}ImageProcessor' for kind in _HF_KINDS)
        raise ValueError(f'{_HF_FILE}: expected image_processor_type of {known}, found {name!r}')
    return kind


def _hf_conditions(values: Mapping[str, Any], modes: int) -> dict[str, bool]:
    """Return what must hold of a file's fields, and whether it does."""
    flags = ('default_to_square', 'do_center_crop', 'do_rescale', 'do_normalize')
    return {
        **{f'{flag} a bool': type(values[flag]) is bool for flag in flags},
        'do_resize true': values['do_resize'] is True,
        'do_pad false': values['do_pad'] is False,
        f'resample from 0 to {modes}': type(values['resample']) is int
        and 0 <= values['resample'] <= modes,
        'rescale_factor a positive number': are_numbers([values['rescale_factor']])
        and values['rescale_factor'] > 0,
        'image_mean a list of numbers': are_numbers(values['image_mean']),
        'image_std a list of numbers': are_numbers(values['image_std']),
        'crop_pct above 0.001, at most 1': _is_crop_pct(values.get('crop_pct', 1)),
    }


def _hf_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes of all processors but ConvNext's."""
    resize, keep_ratio = _hf_size(values, 'size')
    if values['do_center_crop']:
        size, _ = _hf_size(values, 'crop_size')
        return {'size': size, 'resize': resize, 'keep_ratio': keep_ratio}
    fixed = f'size of height and width, for do_center_crop is {values["do_center_crop"]}'
    expect(_HF_FILE, values, {fixed: not keep_ratio})
    return {'size': resize, 'resize': resize, 'keep_ratio': False}


def _convnext_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    (edge, _), keep_ratio = _hf_size(values, 'size')
    only = {
        'size of shortest_edge': keep_ratio,
        'do_center_crop false': not values['do_center_crop'],
    }
    expect(_HF_FILE, values, only)
    # From 384 on nothing is cropped.
    longer = int(edge / values['crop_pct']) if edge < 384 else edge
    return {'size': (edge, edge), 'resize': (longer, longer), 'keep_ratio': edge < 384}


def _hf_size(values: Mapping[str, Any], name: str) -> tuple[tuple[int, int], bool]:
    """Return height and width of a size, and whether images keep their proportions."""
    size, keep_ratio = values[name], False
    if isinstance(size, dict) and set(size) == {'height', 'width'}:
        size = [size['height'], size['width']]
    elif isinstance(size, dict) and set(size) == {'shortest_edge'}:
        size, keep_ratio = 2 * [size['shortest_edge']], True
    elif type(size) is int:
        keep_ratio = name == 'size' and not values['default_to_square']
        size = [size, size]
    known = f'{name} an integer, height and width, or shortest_edge alone'
    expect(_HF_FILE, values, {known: are_lengths(size, 2)})
    return (size[0], size[1]), keep_ratio


def _hf_statistics(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean and std for pixels in [0, 1], whatever a file rescales to or normalizes."""
    scale = 255 * values['rescale_factor'] if values['do_rescale'] else 255
    mean, std = values['image_mean'], values['image_std']
    if not values['do_normalize']:
        mean, std = [0.0] * 3, [1.0] * 3
    return {'mean': tuple(m / scale for m in mean), 'std': tuple(s / scale for s in std)}


_TIMM_DEFAULTS: dict[str, Any] = {
    'input_size': (3, 224, 224),
    'interpolation': 'bicubic',
    'crop_pct': 0.875,
    'crop_mode': 'center',
    'mean': (0.485, 0.456, 0.406),
    'std': (0.229, 0.224, 0.225),
}


def read_timm(pretrained_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the ImagePreprocessor that does what timm does for evaluation.

    Raises ValueError that names wrong fields.
    """
    given = {k: pretrained_cfg[k] for k in _TIMM_DEFAULTS if pretrained_cfg.get(k)}
    values = _TIMM_DEFAULTS | given
    expect('pretrained_cfg', values, _timm_conditions(values))
    channels, *size = values['input_size']
    if len(values['mean']) != channels:
        raise ValueError(f'pretrained_cfg: expected mean of {channels}, found {values["mean"]}')
    return {
        'size': tuple(size),
        'resize': tuple(math.floor(length / values['crop_pct']) for length in size),
        'keep_ratio': values['crop_mode'] == 'center',
        'interpolation': values['interpolation'],
        'mean': tuple(values['mean']),
        'std': tuple(values['std']),
        'crop_rounding': 'even',
        'resize_dtype': 'uint8',
    }


def write_timm(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pretrained_cfg of an ImagePreprocessor's fields. ValueError if there is none."""
    return {
        'input_size': [len(fields['mean']), *fields['size']],
        'interpolation': fields['interpolation'],
        'crop_pct': _crop_pct(fields['size'], fields['resize']),
        'crop_mode': 'center' if fields['keep_ratio'] else 'squash',
        'mean': list(fields['mean']),
        'std': list(fields['std']),
    }


_OPEN_CLIP_DEFAULTS: dict[str, Any] = {
    'interpolation': 'bicubic',
    'resize_mode': 'shortest',
    'mean': _CLIP['image_mean'],
    'std': _CLIP['image_std'],
}


def read_open_clip(preprocess_cfg: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Return the fields of the ImagePreprocessor that does what open_clip does for images of a size.

    Raises ValueError that names wrong fields.
    """
    said = {k: preprocess_cfg[k] for k in _OPEN_CLIP_DEFAULTS if preprocess_cfg.get(k) is not None}
    values = _OPEN_CLIP_DEFAULTS | said
    is_squashed = values['resize_mode'] == 'squash'
    holds = {
        'interpolation bicubic or bilinear': values['interpolation'] in ('bicubic', 'bilinear'),
        'resize_mode squash, or shortest for a square': is_squashed
        or (values['resize_mode'] == 'shortest' and size[0] == size[1]),
        'mean a list of numbers': are_numbers(values['mean']),
        'std a list of numbers': are_numbers(values['std']),
    }
    expect('preprocess_cfg', values, holds)
    return {
        'size': size,
        'resize': size,
        'keep_ratio': not is_squashed,
        'interpolation': values['interpolation'],
        'mean': tuple(values['mean']),
        'std': tuple(values['std']),
        'crop_rounding': 'even',
        'resize_dtype': 'uint8',
    }


def write_open_clip(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocess_cfg of an ImagePreprocessor's fields. ValueError if there is none."""
    made = {
        'mean': list(fields['mean']),
        'std': list(fields['std']),
        'interpolation': fields['interpolation'],
        'resize_mode': 'shortest' if fields['keep_ratio'] else 'squash',
    }
    back = read_open_clip(made, fields['size'])
    wrong = [f'{name} {fields[name]!r}' for name, value in back.items() if fields[name] != value]
    if wrong:
        raise ValueError(f'open_clip prepares no images with {", ".join(wrong)}')
    return made


def _timm_conditions(values: Mapping[str, Any]) -> dict[str, bool]:
    """Return what must hold of a pretrained_cfg's fields, and whether it does."""
    size, mode = values['input_size'], values['interpolation']
    return {
        'input_size of channels, height and width': are_lengths(size, 3),
        f'interpolation of {", ".join(INTERPOLATIONS)}': isinstance(mode, str)
        and mode in INTERPOLATIONS,
        'crop_pct above 0.001, at most 1': _is_crop_pct(values['crop_pct']),
        'crop_mode center or squash': values['crop_mode'] in ('center', 'squash'),
        'mean a list of numbers': are_numbers(values['mean']),
        'std a list of numbers': are_numbers(values['std']),
    }


def _crop_pct(size: tuple[int, int], resize: tuple[int, int]) -> float:
    """Find the shortest decimal by which timm gets from `size` to `resize`."""
    most = min(length / long for length, long in zip(size, resize))
    least = max(length / (long + 1) for length, long in zip(size, resize))
    for digits in range(2, 17):
        for crop_pct in (round(most, digits), round((least + most) / 2, digits)):
            if _is_crop_pct(crop_pct) and resize == tuple(
                math.floor(length / crop_pct) for length in size
            ):
                return crop_pct
    raise ValueError(f'timm has no crop_pct from size={size} to resize={resize}')


def _is_crop_pct(value: Any) -> bool:
    return are_numbers([value]) and 0.001 < value <= 1


def _height_width(size: Sequence[int]) -> dict[str, int]:
    return {'height': size[0], 'width': size[1]}


def are_lengths(values: Any, count: int) -> bool:
    """Return whether these are `count` positive integers."""
    return (
        isinstance(values, list | tuple)
        and len(values) == count
        and all(type(value) is int and 0 < value < 2**31 for value in values)
    )


def are_numbers(values: Any) -> bool:
    """Return whether these are numbers that statistics of pixels may be."""
    return isinstance(values, list | tuple) and all(
        type(value) in (int, float) and abs(value) < 1e6 for value in values
    )
