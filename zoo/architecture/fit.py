"""Compare Params, or the tensors of a file, with what a model needs: names, shapes, marks."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from blox.adapters import is_adapted
from blox.checkpoint import RNG_TENSORS
from blox.converters.target import model_spec
from blox.param import RNG
from blox.params import Params
from blox.stacking import members
from blox.tensorfile import TensorFile, fail, holds_weights, what_is_not_finite
from blox.wording import differences


def check_fit(model: Any, params: Params) -> None:
    """Raise ValueError that names each path where Params are not those of a model."""
    if is_adapted(params):
        raise ValueError(
            'these Params have adapters: bx.merge_lora(params) makes them plain, '
            'bx.save_lora writes them alone'
        )
    if wrong := differences(shapes(model_spec(model)), shapes(params), 'shape'):
        raise ValueError(f'params do not fit {model!r}: {"; ".join(wrong)}')


def check_header(expected: Params, file: TensorFile) -> None:
    """Compare names, shapes and dtypes with the file's header, before any data is read."""
    found = {name: info for name, info in file.tensors.items() if name not in RNG_TENSORS}
    wrong = differences(
        shapes(expected), {name: info.shape for name, info in found.items()}, 'shape'
    )
    wrong += not_floating({name: info.dtype for name, info in found.items()})
    if wrong:
        # All of them, however many: whoever mends the file needs the whole list.
        what = 'its tensors do not fit its config: ' + '; '.join(wrong)
        fail(file.path, what, most=50_000)


def shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry but the rng; of stacked ones those of each block's."""
    return {
        name: param.shape[1:] if name != path else param.shape
        for path, param in params.items()
        for name in members(path, param.metadata) or [path]
        if path != RNG
    }


def not_floating(dtypes: Mapping[str, Any]) -> list[str]:
    """Return a clause for each path whose dtype holds no weights."""
    return [
        f'{path!r}: expected a floating-point dtype of 16 bits or more, found {dtype}'
        for path, dtype in dtypes.items()
        if not holds_weights(dtype)
    ]


def mismarked(expected: Params, params: Params) -> list[str]:
    """Return a clause for each batch statistic that is marked as a parameter, or the other way.

    An optimizer would train the former and pass over the latter.
    """
    kinds = {True: 'batch statistics', False: 'a parameter'}
    return [
        f'{path}: expected to be marked as {kinds[param.is_state]}, found {kinds[not param.is_state]}'
        for path, param in expected.items()
        if path in params and param.is_state != params[path].is_state
    ]


def not_finite(params: Params) -> list[str]:
    """Return a clause for each path with NaN or infinity; reads all values."""
    found = {
        path: what_is_not_finite(np.asarray(p.value)) for path, p in params.items() if path != RNG
    }
    return [f'{path}: expected finite values, found {what}' for path, what in found.items() if what]
