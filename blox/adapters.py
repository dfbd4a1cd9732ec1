"""Adapters beside a weight, and what the weight is worth with them.

Paper: Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685).
A weight 'net/w' of shape [*inputs, outputs] is adapted by 'net/w_lora_a' [*inputs, rank] and
'net/w_lora_b' [rank, outputs]: it then counts as `w + scale * a b`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blox.param import Param, cast_value
from blox.params import Params
from blox.product import product

TAG = 'lora'
# The parts of an attention's fused projection, in their order.
PARTS = ('q', 'k', 'v')
_MAX_SCALE = float(np.finfo(np.float32).max)


class Adapter(NamedTuple):
    """An adapter of a weight: `scale * a b` is added to its output columns from `start` on.

    Attributes:
      path: of `a` without the 'a', such as 'net/w_lora_'; that of `b` differs in its last letter.
      a: [*inputs, rank]; b: [rank, columns].
    """

    path: str
    a: jax.Array
    b: jax.Array
    scale: float
    start: int

    def __call__(
        self,
        outputs: jax.Array,
        inputs: jax.Array,
        apply: Callable[[jax.Array, jax.Array], jax.Array],
    ) -> jax.Array:
        """Add this adapter to a layer's `outputs`; `apply(inputs, w)` is the layer itself."""
        dtype = wider(inputs.dtype, self.a.dtype)
        hidden = apply(inputs.astype(dtype), self.a.astype(dtype))
        added = product(hidden, self.b.astype(dtype)) * self.scale
        return self._add(outputs, added.astype(outputs.dtype))

    def merged(self, w: jax.Array) -> jax.Array:
        """Return the weight `w` with this adapter added, in the wider dtype of the two."""
        dtype = wider(w.dtype, self.a.dtype)
        added = self.a.astype(dtype) @ self.b.astype(dtype) * self.scale
        return self._add(w.astype(dtype), added)

    def _add(self, outputs: jax.Array, added: jax.Array) -> jax.Array:
        """Add to all output columns, or to the adapter's own."""
        if added.shape == outputs.shape:
            return outputs + added
        return outputs.at[..., self.start : self.start + added.shape[-1]].add(added)


def part_columns(inputs: int, outputs: int) -> dict[str, range]:
    """Return which outputs of an attention's fused projection are queries, keys and values.

    There are as many queries as inputs; keys and values are halves of the rest. {} if it is none.

    >>> part_columns(4, 8)
    {'q': range(0, 4), 'k': range(4, 6), 'v': range(6, 8)}
    """
    rest = outputs - inputs
    if rest < 2 or rest % 2:
        return {}
    ends = (0, inputs, inputs + rest // 2, outputs)
    return {part: range(*ends[i : i + 2]) for i, part in enumerate(PARTS)}


def adapters(params: Params, path: str) -> Iterator[Adapter]:
    """Yield the adapters of the weight at `path`; mostly there are none."""
    for part in ('', *(f'{part}_' for part in PARTS)):
        prefix = f'{path}_{TAG}_{part}'
        if f'{prefix}b' in params:
            b = params[f'{prefix}b']
            a = params[f'{prefix}a'].value
            yield Adapter(prefix, a, b.value, b.metadata['scale'], b.metadata['start'])


def adapted(params: Params, path: str, w: Any) -> Any:
    """Return the weight `w` at `path` with its adapters added, in the dtype of `w`."""
    merged = w
    for adapter in adapters(params, path):
        merged = adapter.merged(merged)
    return cast_value(merged, w.dtype)


def adapter_entries(prefix: str, a: Any, b: Any, scale: float, start: int) -> dict[str, Param]:
    """Return the two entries of an Adapter, by path."""
    return {
        f'{prefix}a': Param(a, metadata={'tag': TAG}),
        f'{prefix}b': Param(b, metadata={'tag': TAG, 'scale': float(scale), 'start': start}),
    }


def is_adapted(params: Params) -> bool:
    """Tell whether there are adapters among `params`."""
    return any(is_adapter(param) for param in params.values())


def is_adapter(param: Param) -> bool:
    """Tell whether `param` is half of an adapter."""
    return param.metadata.get('tag') == TAG


def is_scale(value: Any) -> bool:
    """Tell whether `value` is a number that float32 holds, as what adapters are scaled by must be."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return is_number and bool(abs(value) <= _MAX_SCALE)


def wider(a: Any, b: Any) -> Any:
    """Return the floating-point dtype of more bits; strict promotion would refuse to choose."""
    return max(a, b, key=lambda dtype: jnp.finfo(dtype).bits)
