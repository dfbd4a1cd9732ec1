"""What attention computes: exactly, or by a platform's own kernel, which never holds its weights.

Queries, keys and values are [batch, length, heads, head_dim]. A mask is True where a query may see
a key and broadcasts to [batch, heads, queries, keys].
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp

from blox.layers.precision import widen

# Of queries, keys, values, whether it is causal, and the scale.
_Kernel = Callable[..., Any]


def weigh(q: jax.Array, k: jax.Array, mask: jax.Array | None, scale: float) -> jax.Array:
    """Return what values are weighed with, [batch, heads, queries, keys]."""
    # Heads first: on CPU the whole takes 11.5 ms instead of 19.5 for [4, 197, 12, 64] with JAX 0.10,
    # and 9.1 instead of 9.8 with 0.12.
    logits = widen(jnp.matmul(_swap_heads(q * scale), jnp.swapaxes(_swap_heads(k), 2, 3)))
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits).astype(q.dtype)


def sum_weighed(weights: jax.Array, v: jax.Array) -> jax.Array:
    """Return the sums of values so weighed, [batch, queries, heads, head_dim]."""
    return _swap_heads(jnp.matmul(weights, _swap_heads(v)))


def causal_mask(length: Any) -> jax.Array:
    """Return the mask with which each position sees itself and those before it."""
    places = jnp.arange(length, dtype=jnp.int32)
    return (places[None] <= places[:, None])[None, None]


def exact(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    *,
    is_causal: bool,
    scale: float,
) -> jax.Array:
    """Attend as written, with softmax in float32 at least."""
    if is_causal and mask is not None:
        mask = mask & causal_mask(q.shape[1])
    if mask is not None or not is_causal:
        return sum_weighed(weigh(q, k, mask, scale), v)
    parts = [
        sum_weighed(
            weigh(q[:, start:stop], k[:, :stop], causal_mask(stop)[:, :, start:], scale),
            v[:, :stop],
        )
        for start, stop in _spans(q.shape[1])
    ]
    return jnp.concatenate(parts, 1)


def fused_or_exact(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    *,
    is_causal: bool,
    scale: float,
) -> jax.Array:
    """Attend by the kernel of the platform that the program is compiled for, where that is right.

    Kernels take half precision, fixed shapes, and masks [batch, 1, 1, keys]; elsewhere this is
    `exact`, from which they differ by rounding.
    """
    options = {'is_causal': is_causal, 'scale': scale}
    kernels = {
        platform: partial(_by_kernel, kernel, **options)
        for platform, kernel in _kernels(q, mask).items()
    }
    if not kernels:
        return exact(q, k, v, mask, **options)
    default = partial(exact, **options)
    return jax.lax.platform_dependent(q, k, v, mask, default=default, **kernels)


def _swap_heads(x: jax.Array) -> jax.Array:
    """Turn [batch, length, heads, head_dim] to [batch, heads, length, head_dim], or back."""
    return jnp.swapaxes(x, 1, 2)


def _spans(length: Any) -> list[tuple[Any, Any]]:
    """Return (start, stop) of queries that are computed together, with the keys before `stop`.

    In four parts, causal attention does 5/8 of the whole product: on CPU 44 ms instead of 71 forward
    and back for [1, 512, 12, 64] with JAX 0.10, 66 instead of 78 with 0.12. The length of an
    exported program may be a symbol, which is one part.
    """
    if not isinstance(length, int):
        return [(0, length)]
    count = min(max(length // 64, 1), 4)
    return list(pairwise(length * i // count for i in range(count + 1)))


# How much a masked key's inner product is lowered: more than any has, and a power of two, which
# kernels subtract from itself without rounding.
_BAR, _EXTRA = 2.0**20, 8


def _kernels(q: jax.Array, mask: jax.Array | None) -> Mapping[str, _Kernel]:
    """Return the kernels that are right for such queries, by platform."""
    # Sizes of an exported program may be symbols.
    is_fixed = all(isinstance(size, int) for size in q.shape)
    if not is_fixed or q.dtype not in (jnp.bfloat16, jnp.float16):
        return {}
    length, head_dim = q.shape[1], q.shape[3]
    # Up to 128 tokens the exact path is as fast on an H100, and its weights are small: with a mask
    # 102 microseconds forward and back for [32, 128, 12, 64], cuDNN 121. Without, at
    # [128, 197, 12, 64], it takes 1,273, cuDNN 565.
    if length <= 128:
        return {}
    if mask is not None:
        # Float16 holds no number that bars a key; and kernels know of no other masks.
        if q.dtype != jnp.bfloat16 or mask.ndim != 4 or mask.shape[1:3] != (1, 1):
            return {}
        head_dim += _EXTRA
    found: dict[str, _Kernel] = {}
    if head_dim % 8 == 0 and head_dim <= 128 and _has_cudnn():
        found['cuda'] = _cudnn
    # No TPU was at hand to find where its kernel begins to pay. It is taken for lengths at which
    # the weights of one head alone take megabytes, and which its blocks of 128 tile.
    is_long = length >= 1024 and length % 128 == 0
    if is_long and q.dtype == jnp.bfloat16 and head_dim <= 128 and not _has_several_tpus():
        found['tpu'] = _tpu_flash
    return found


def _by_kernel(
    kernel: _Kernel,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    *,
    is_causal: bool,
    scale: float,
) -> jax.Array:
    """Attend by `kernel`, which takes no mask: masked keys are barred by features of their own.

    The kernels' own ways are an array [batch, heads, queries, keys] to add, or lengths.
    """
    if mask is None:
        return kernel(q, k, v, is_causal, scale)
    keys = jnp.broadcast_to(mask[:, 0, 0], k.shape[:2])
    bars = jnp.where(keys, 0, -_BAR).astype(k.dtype)[:, :, None, None]
    extra = ((0, 0), (0, 0), (0, 0), (0, _EXTRA))
    x = kernel(
        jnp.pad(q, extra, constant_values=_BAR),
        jnp.concatenate([k, jnp.broadcast_to(bars, (*k.shape[:3], _EXTRA))], 3),
        jnp.pad(v, extra),
        is_causal,
        scale,
    )[..., : q.shape[3]]
    # A query that may see none sees all of them alike.
    sees = jnp.cumsum(keys, 1, dtype=jnp.int32) > 0 if is_causal else keys.any(1, keepdims=True)
    return jnp.where(sees[:, :, None, None], x, v.mean(1, keepdims=True))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, is_causal: bool, scale: float) -> jax.Array:
    return _call_cudnn(q, k, v, is_causal=is_causal, scale=scale)


def _cudnn_forward(
    q: jax.Array, k: jax.Array, v: jax.Array, is_causal: bool, scale: float
) -> tuple[jax.Array, Callable[..., Any]]:
    return jax.vjp(partial(_cudnn_even, is_causal=is_causal, scale=scale), q, k, v)


def _cudnn_backward(
    is_causal: bool, scale: float, vjp: Callable[..., Any], outputs: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    return vjp(outputs)


_cudnn.defvjp(_cudnn_forward, _cudnn_backward)


def _cudnn_even(
    q: jax.Array, k: jax.Array, v: jax.Array, *, is_causal: bool, scale: float
) -> jax.Array:
    """Attend with one token more where the length is odd: JAX refuses the gradient of such."""
    batch, length = q.shape[:2]
    if length % 2 == 0:
        return _call_cudnn(q, k, v, is_causal=is_causal, scale=scale)
    lengths = {}
    if not is_causal:
        # Made of q, they are batched as q is, which JAX's rule for vmap expects.
        here = jnp.full(batch, length, jnp.int32) + 0 * jnp.isnan(q[:, 0, 0, 0]).astype(jnp.int32)
        lengths = {'query_seq_lengths': here, 'key_value_seq_lengths': here}
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    return _call_cudnn(q, k, v, is_causal=is_causal, scale=scale, **lengths)[:, :length]


def _call_cudnn(q: jax.Array, k: jax.Array, v: jax.Array, **options: Any) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, implementation='cudnn', **options)


def _tpu_flash(
    q: jax.Array, k: jax.Array, v: jax.Array, is_causal: bool, scale: float
) -> jax.Array:
    # The import takes half a second or more.
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    q, k, v = _swap_heads(q), _swap_heads(k), _swap_heads(v)
    return _swap_heads(flash_attention(q, k, v, causal=is_causal, sm_scale=scale))


@cache
def _has_cudnn() -> bool:
    """Tell whether JAX has cuDNN, without which it refuses to trace its kernel, and GPUs run it."""
    x = jax.ShapeDtypeStruct((1, 8, 1, 8), jnp.bfloat16)
    try:
        jax.eval_shape(_call_cudnn, x, x, x)
    except RuntimeError:
        return False
    try:
        gpus = jax.local_devices(backend='cuda')
    except RuntimeError:
        # A machine without one may compile for others.
        gpus = []
    return all(float(gpu.compute_capability) >= 8 for gpu in gpus)


@cache
def _has_several_tpus() -> bool:
    """Tell whether arrays may be sharded, which the TPU's kernel is not told of."""
    try:
        return jax.device_count('tpu') > 1
    except RuntimeError:
        return False
