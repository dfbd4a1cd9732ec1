"""Mixup and CutMix: images of a batch mixed with those of the same batch from its end on.

Both are drawn for a whole batch, as timm's Mixup does it in its mode 'batch', which is what is compared.
The loss of a mixed image is that of its own target and of the other's, by their shares.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mixing(NamedTuple):
    """How images of a batch are mixed.

    Attributes:
      mixup: both parameters of the beta distribution that shares of mixup come from (Zhang et al.,
        2017, arXiv:1710.09412); 0 for none.
      cutmix: the same of CutMix (Yun et al., 2019, arXiv:1905.04899). With both, each takes half of the
        batches.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def is_on(self) -> bool:
        """Tell whether anything is mixed."""
        return self.mixup > 0 or self.cutmix > 0


def mix(key: jax.Array, images: jax.Array, mixing: Mixing) -> tuple[jax.Array, jax.Array]:
    """Return mixed images [batch, height, width, channels], and the share of their own targets."""
    choose, share_key, box_key = jax.random.split(key, 3)
    cuts = mixing.cutmix > 0 and (
        mixing.mixup == 0 or jax.random.bernoulli(choose)  # Traced only where both are wanted.
    )
    shares = [
        jax.random.beta(share_key, alpha, alpha) if alpha else jnp.ones(())
        for alpha in (mixing.mixup, mixing.cutmix)
    ]
    blended = blend(images, shares[0])
    cut, share = paste(images, shares[1], jax.random.uniform(box_key, (2,)))
    return jnp.where(cuts, cut, blended), jnp.where(cuts, share, shares[0])


def blend(images: jax.Array, share: jax.Array) -> jax.Array:
    """Return `share` of each image, and of the one that stands as far from the end the rest."""
    share = share.astype(images.dtype)
    return images * share + images[::-1] * (1 - share)


def paste(images: jax.Array, share: jax.Array, centre: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Put a box of the other image into each, at `centre`, [row, column] in [0, 1); return its share too.

    The box has the image's proportions and 1 - `share` of its area, before it is cut at the edges.
    """
    height, width = images.shape[1:3]
    side = jnp.sqrt(1 - share)
    inside = []
    for length, middle in zip((height, width), centre):
        size = jnp.floor(length * side).astype(jnp.int32)
        start = jnp.floor(length * middle).astype(jnp.int32) - size // 2
        low, high = jnp.clip(start, 0, length), jnp.clip(start + size, 0, length)
        place = jnp.arange(length)
        inside.append((place >= low) & (place < high))
    box = jnp.outer(*inside)
    pasted = jnp.where(box[None, :, :, None], images[::-1], images)
    return pasted, 1 - box.mean(dtype=images.dtype)
