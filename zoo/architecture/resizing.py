"""Resize weights for other inputs: channels and patches of images, positions, tokens.

What happens here changes the function, so it happens only where a caller's override names it.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

# Layouts whose library resizes positions without antialiasing.
_ALIASING = ('hf', 'dinov2', 'siglip')
# Layouts whose library interpolates linearly.
_LINEAR = ('google', 'big_vision')


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
    if layout in _LINEAR:
        from scipy.ndimage import zoom  # It takes a while to import, and few need it.

        resized = np.asarray(zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1))
    else:
        rows, columns = (
            _interpolation(a, b, _cubic, antialias=layout not in _ALIASING)
            for a, b in zip(old, new)
        )
        resized = np.einsum('yh,xw,hwd->yxd', rows, columns, grid).astype(grid.dtype)
    resized = resized.reshape(1, new[0] * new[1], -1).astype(pos_embed.dtype)
    return np.concatenate([tokens, resized], axis=1)


def resize_patches(w: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize a convolution's weights [height, width, inputs, outputs] to other patches.

    As FlexiViT does it (Beyer et al., 2022, arXiv:2212.08013): by the pseudo-inverse of what resizes an
    image, so that larger patches give for enlarged images what the old ones gave. Images are resized
    bilinearly in Google's code ('google', 'big_vision'), bicubically in timm and for all others, both with
    antialiasing.
    """
    kernel = _triangle if layout in _LINEAR else _cubic
    rows, columns = (
        np.linalg.pinv(_interpolation(old, new, kernel, antialias=True))
        for old, new in zip(w.shape, wanted.patch_size)
    )
    resized = np.einsum('hy,wx,hwio->yxio', rows, columns, w.astype(_wide(w)), optimize=True)
    return resized.astype(w.dtype)


def resize_rows(table: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize a table to another vocabulary, its first axis: new tokens get the mean of all old ones.

    So does transformers, but for a little noise; of less tokens the first are kept.
    """
    count = wanted.vocab_size
    mean = table.astype(_wide(table)).mean(0, keepdims=True).astype(table.dtype)
    new = np.repeat(mean, max(count - len(table), 0), axis=0)
    return np.concatenate([table[:count], new])


def resize_columns(w: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize weights [width, tokens] to another vocabulary as `resize_rows` does."""
    return resize_rows(w.T, stored, wanted, layout).T


def repeat_positions(table: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize a table of learned positions, [context, width], to another context.

    The first are kept as they are, and further ones begin anew with them, as where RoBERTa became
    Longformer (Beltagy et al., 2020, arXiv:2004.05150).
    """
    times = -(-wanted.context // len(table))
    return np.tile(table, (times, 1))[: wanted.context]


def interpolate_positions(table: np.ndarray, stored: Any, wanted: Any, layout: str) -> np.ndarray:
    """Resize a table of learned positions, [context, width], linearly, as open_clip does."""
    matrix = _interpolation(len(table), wanted.context, _triangle, antialias=False)
    return (matrix.astype(_wide(table)) @ table.astype(_wide(table))).astype(table.dtype)


def _grid(config: Any) -> tuple[int, int]:
    (height, width), (patch_height, patch_width) = config.image_size, config.patch_size
    return height // patch_height, width // patch_width


# A kernel gives a weight to each distance, in pixels; it is zero from 2 on.
_Kernel = Callable[[np.ndarray, bool], np.ndarray]


def _interpolation(old: int, new: int, kernel: _Kernel, *, antialias: bool) -> np.ndarray:
    """Return the matrix [new, old] of torch's interpolation along one axis.

    With antialiasing (PyTorch's, Pillow's and JAX's) the kernel is as wide as an output pixel, and is cut
    off at the borders; without it borders repeat.
    """
    matrix = np.zeros((new, old))
    step = old / new
    widening = max(step, 1.0) if antialias else 1.0
    centres = (np.arange(new) + 0.5) * step - 0.5
    for row, centre in zip(matrix, centres):
        reach = int(np.ceil(2 * widening))
        places = np.arange(int(np.floor(centre)) - reach, int(np.floor(centre)) + reach + 2)
        weights = kernel(abs(places - centre) / widening, antialias)
        if antialias:
            inside = (places >= 0) & (places < old)
            places, weights = places[inside], weights[inside]
        np.add.at(row, places.clip(0, old - 1), weights / weights.sum())
    return matrix


def _cubic(x: np.ndarray, antialias: bool) -> np.ndarray:
    """Compute Keys' cubic convolution kernel (1981), with a = -0.5 for antialiasing, else -0.75."""
    a = -0.5 if antialias else -0.75
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _triangle(x: np.ndarray, antialias: bool) -> np.ndarray:
    """Compute the kernel of linear interpolation."""
    return np.maximum(1 - x, 0)


def _wide(array: np.ndarray) -> np.dtype:
    """Return float32, or the array's own dtype if that is wider."""
    return array.dtype if array.dtype.itemsize > 4 else np.dtype(np.float32)
