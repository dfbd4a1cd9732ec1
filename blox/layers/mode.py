"""What a layer does in training alone is decided before anything is computed."""

from typing import Any

from jax.core import Tracer

from blox.module import Module


def check_static(layer: Module, is_training: Any) -> None:
    """Raise TypeError if `is_training` is traced, as by a plain `jax.jit` of a model."""
    if isinstance(is_training, Tracer):
        raise TypeError(
            f'{layer.path!r}: is_training chooses what is computed, so it cannot be traced: '
            "jax.jit(model, static_argnames='is_training')"
        )
