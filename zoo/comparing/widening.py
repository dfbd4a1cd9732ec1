"""Have references compute in float64 what they round to float32 in any model.

Frequencies of rotary positions are such, and shares of differential attention: in a model of float64
they would hide errors below 1e-7.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np


def widen_reference(reference: Any) -> Any:
    """Have a module of torch, which is in float64, compute all in it, and return the module.

    Its own code does, of numbers that are not rounded.
    """
    for module in reference.modules():
        if (change := _BY_CLASS.get(type(module).__name__)) is not None:
            change(module)
    return reference


def _frequencies(like: Any, count: int, base: float) -> Any:
    """Return so many frequencies, which fall from 1 to almost 1 / base, as a tensor of float64."""
    return like.double().new_tensor(base ** -(np.arange(count) / count))


def _widen_timm_index(module: Any) -> None:
    if (table := module.pos_embed) is not None:
        bands = _frequencies(table, module.dim // 4, module.temperature)
        module.pos_embed = module._build_embed_cat(module.feat_shape, bands, dtype=bands.dtype)
    else:  # It is made anew for each image.
        module.bands = _frequencies(module.bands, module.dim // 4, module.temperature)
        module.get_embed = functools.partial(module.get_embed, dtype=module.bands.dtype)


def _widen_timm_centered(module: Any) -> None:
    module.periods = 1 / _frequencies(module.periods, module.dim // 4, module.temperature)
    if module.feat_shape is not None:
        module._cache_embed(module.feat_shape)


def _widen_transformers(module: Any) -> None:
    module.inv_freq = _frequencies(module.inv_freq, module.head_dim // 4, module.base)
    source = sys.modules[type(module).__module__]
    centres = source.get_patches_center_coordinates

    def forward(images: Any) -> Any:
        double = lambda *args, **options: centres(*args, **options).double()  # noqa: E731
        with mock.patch.object(source, centres.__name__, double):
            return type(module).forward(module, images)

    module.forward = forward


def _widen_call(name: str) -> Callable[[Any], None]:
    """Have a method of this name take float64 wherever it asks for float32."""

    def change(module: Any) -> None:
        tensor = type(next(module.parameters()).data)

        def call(*args: Any, **options: Any) -> Any:
            with mock.patch.object(tensor, 'float', tensor.double):
                return getattr(type(module), name)(module, *args, **options)

        setattr(module, name, call)

    return change


_BY_CLASS: Mapping[str, Callable[[Any], None]] = {
    'RotaryEmbeddingCat': _widen_timm_index,
    'RotaryEmbeddingDinoV3': _widen_timm_centered,
    'DINOv3ViTRopePositionEmbedding': _widen_transformers,
    'RotaryEmbeddingMixed': _widen_call('get_embed'),
    'DiffAttention': _widen_call('_compute_lambda'),
    'DiffParallelScalingBlock': _widen_call('_compute_lambda'),
}
