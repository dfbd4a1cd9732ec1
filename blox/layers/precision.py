"""Statistics and softmax need more bits than bfloat16 and float16 have."""

import jax
import jax.numpy as jnp


def widen(x: jax.Array) -> jax.Array:
    """Return `x` in float32 if its dtype has fewer bits, else as it is."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x
