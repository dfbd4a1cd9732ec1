"""Resize weights for other images: channels of the first convolution, position embeddings.

What happens here changes the function, so it happens only where a caller's override names it.
"""

from typing import Any

import numpy as np

# Layouts whose library resizes positions without antialiasing.
_ALIASING = ('hf', 'dinov2', 'siglip')


def resize_channels(w: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize a convolution's weights [height, width, 3, outputs] to other input channels.

    As timm does it: one channel gets the sum over colors, more repeat them in turn, scaled so
    that images of equal channels give what they gave.
    """
    count = wanted.in_channels
    if w.shape[2] != 3:
        raise ValueError(f'in_channels can change from 3 alone, found {w.shape[2]}')
    if count == 1:
        return w.astype(_wide(w)).sum(2, keepdims=True).astype(w.dtype)
    repeated = np.tile(w, (1, 1, -(-count // 3), 1))[:, :, :count]
    return (repeated.astype(_wide(w)) * (3 / count)).astype(w.dtype)


def resize_positions(pos_embed: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize position embeddings [1, tokens, width] to another grid of patches.

    As the library does that published the weights: bicubic in transformers ('hf', 'dinov2', 'siglip'), linear in
    Google's code ('google', 'big_vision'), bicubic with antialiasing in timm, in transformers
    with registers, and for our own.
    """
    old, new = _grid(stored), _grid(wanted)
    prefix = pos_embed.shape[1] - old[0] * old[1]
    tokens, grid = np.split(pos_embed, [prefix], axis=1)
    grid = grid.astype(_wide(pos_embed)).reshape(*old, -1)
    if layout in ('google', 'big_vision'):
        from scipy.ndimage import zoom  # It takes a while to import, and few need it.

        resized = np.asarray(zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1))
    else:
        rows, columns = (
            _bicubic(a, b, antialias=layout not in _ALIASING) for a, b in zip(old, new)
        )
        resized = np.einsum('yh,xw,hwd->yxd', rows, columns, grid).astype(grid.dtype)
    resized = resized.reshape(1, new[0] * new[1], -1).astype(pos_embed.dtype)
    return np.concatenate([tokens, resized], axis=1)


def _grid(config: Any) -> tuple[int, int]:
    (height, width), (patch_height, patch_width) = config.image_size, config.patch_size
    return height // patch_height, width // patch_width


def _bicubic(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Return the matrix [new, old] of torch's bicubic interpolation along one axis.

    With antialiasing (PyTorch's and Pillow's) the kernel is Keys' with a = -0.5, as wide as an
    output pixel, and is cut off at the borders; without it a = -0.75, and borders repeat.
    """
    matrix = np.zeros((new, old))
    step = old / new
    a, widening = (-0.5, max(step, 1.0)) if antialias else (-0.75, 1.0)
    centres = (np.arange(new) + 0.5) * step - 0.5
    for row, centre in zip(matrix, centres):
        reach = int(np.ceil(2 * widening))
        places = np.arange(int(np.floor(centre)) - reach, int(np.floor(centre)) + reach + 2)
        weights = _keys((places - centre) / widening, a)
        if antialias:
            inside = (places >= 0) & (places < old)
            places, weights = places[inside], weights[inside]
        np.add.at(row, places.clip(0, old - 1), weights / weights.sum())
    return matrix


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Compute Keys' cubic convolution kernel (1981), zero from distance 2 on."""
    x = abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _wide(array: np.ndarray) -> np.dtype:
    """Return float32, or the array's own dtype if that is wider."""
    return array.dtype if array.dtype.itemsize > 4 else np.dtype(np.float32)
