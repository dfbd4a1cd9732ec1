"""What the layers should compute, in NumPy: plain loops over explicit indices.

Nothing here is shared with the layers but the formulas. Every function takes complex arrays too,
so that `derivative` can step into the imaginary direction, and parameters come as a mapping
from names below the layer's own path ('w', 'qkv/b') to arrays.
"""

import itertools

import numpy as np
from scipy import special

STEP = 1e-30


def derivative(function, point, direction):
    """Derivative along `direction` by a complex step: no difference, so exact to rounding."""
    moved = [x + 1j * STEP * v for x, v in zip(point, direction)]
    return [np.imag(output) / STEP for output in function(*moved)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    'gelu': lambda x: x * (1 + special.erf(x / np.sqrt(2))) / 2,
    'gelu_tanh': lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    'quick_gelu': lambda x: x * sigmoid(1.702 * x),
    'relu': lambda x: x * (x.real > 0),
    'silu': lambda x: x * sigmoid(x),
    'tanh': np.tanh,
}


# Dense layers.


def linear(p, x):
    outputs = np.einsum('...i,io->...o', x, p['w'])
    return outputs + p['b'] if 'b' in p else outputs


def below(p, name):
    """The parameters under `name`, by the rest of their names."""
    return {path.removeprefix(f'{name}/'): p[path] for path in p if path.startswith(f'{name}/')}


def mlp(p, x, activation):
    return linear(below(p, 'fc2'), ACTIVATIONS[activation](linear(below(p, 'fc1'), x)))


def embed(p, ids):
    rows = np.stack([p['w'][i] for i in ids.ravel()])
    return rows.reshape(*ids.shape, -1)


def attend(p, x):
    return np.einsum('...w,vw->...v', x, p['w'])


# Convolutions and pooling over [batch, *spatial, channels].


def spread(value, rank):
    """`value` for each of `rank` axes."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def both_sides(padding, sizes, spans, strides):
    """(before, after) for each axis; 'SAME' puts the odd place after."""
    if padding == 'SAME':
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(sizes, spans, strides)]
        return [(total // 2, total - total // 2) for total in totals]
    if padding == 'VALID':
        return [(0, 0) for _ in sizes]
    return [(p, p) if isinstance(p, int) else p for p in spread(padding, len(sizes))]


def source(i, size, mode):
    """Which of `size` places the place `i` of a padded axis repeats; None for a zero."""
    if 0 <= i < size:
        return i
    mirrored = i % (2 * size - 2) if size > 1 else 0
    return {
        'zeros': None,
        'reflect': min(mirrored, 2 * size - 2 - mirrored),
        'replicate': 0 if i < 0 else size - 1,
        'circular': i % size,
    }[mode]


def pad(x, pads, mode):
    for axis, (before, after) in enumerate(pads, start=1):
        size = x.shape[axis]
        sources = [source(i, size, mode) for i in range(-before, size + after)]
        places = [x.take(0, axis) * 0 if i is None else x.take(i, axis) for i in sources]
        x = np.stack(places, axis)
    return x


def channels(x, w, groups):
    """[batch, inputs] times [inputs / groups, outputs], each group on its own."""
    xs, ws = np.split(x, groups, -1), np.split(w, groups, -1)
    return np.concatenate([a @ b for a, b in zip(xs, ws)], -1)


def conv(
    p, x, *, stride=1, padding='SAME', dilation=1, groups=1, padding_mode='zeros', use_bias=True
):
    w = p['w']
    rank = w.ndim - 2
    stride, dilation = spread(stride, rank), spread(dilation, rank)
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape, dilation)]
    x = pad(x, both_sides(padding, x.shape[1:-1], spans, stride), padding_mode)
    sizes = [(n - span) // s + 1 for n, span, s in zip(x.shape[1:], spans, stride)]
    outputs = np.zeros((x.shape[0], *sizes, w.shape[-1]), np.result_type(x, w))
    for position, tap in itertools.product(np.ndindex(*sizes), np.ndindex(*w.shape[:rank])):
        place = [i * s + t * d for i, s, t, d in zip(position, stride, tap, dilation)]
        outputs[:, *position] += channels(x[:, *place], w[tap], groups)
    return outputs + p['b'] if use_bias else outputs


def conv_transpose(
    p, x, *, stride=1, padding='SAME', output_padding=0, dilation=1, groups=1, use_bias=True
):
    w = p['w']
    rank = w.ndim - 2
    stride, dilation = spread(stride, rank), spread(dilation, rank)
    spans = [d * (k - 1) + 1 for k, d in zip(w.shape, dilation)]
    full = [(n - 1) * s + span for n, s, span in zip(x.shape[1:], stride, spans)]
    extra = spread(output_padding, rank)
    # Zeros behind the end, for outputs that no input reaches.
    room = [n + s + e for n, s, e in zip(full, stride, extra)]
    outputs = np.zeros((x.shape[0], *room, w.shape[-1]), np.result_type(x, w))
    taps = np.ndindex(*w.shape[:rank])
    for position, tap in itertools.product(np.ndindex(*x.shape[1:-1]), taps):
        place = [i * s + t * d for i, s, t, d in zip(position, stride, tap, dilation)]
        outputs[:, *place] += channels(x[:, *position], w[tap], groups)
    large = [n * s for n, s in zip(x.shape[1:], stride)]
    pads = both_sides(padding, large, spans, stride)
    sizes = large if padding == 'SAME' else [n - sum(pair) for n, pair in zip(full, pads)]
    kept = [slice(pair[0], pair[0] + n + e) for n, e, pair in zip(sizes, extra, pads)]
    outputs = outputs[:, *kept]
    return outputs + p['b'] if use_bias else outputs


def windows(x, window, stride, padding):
    """(position, [batch, places, channels]) of each window, padded places left out."""
    rank = x.ndim - 2
    window = spread(window, rank)
    stride = window if stride is None else spread(stride, rank)
    pads = both_sides(padding, x.shape[1:-1], window, stride)
    sizes = [
        (n + sum(pair) - k) // s + 1 for n, pair, k, s in zip(x.shape[1:], pads, window, stride)
    ]
    for position in np.ndindex(*sizes):
        starts = [i * s - pair[0] for i, s, pair in zip(position, stride, pads)]
        inside = [slice(max(i, 0), max(i + k, 0)) for i, k in zip(starts, window)]
        yield position, x[:, *inside].reshape(len(x), -1, x.shape[-1])


def pool(x, window, stride, padding, reduce):
    pooled = {at: reduce(places) for at, places in windows(x, window, stride, padding)}
    sizes = [n + 1 for n in max(pooled)]
    return np.stack(list(pooled.values()), 1).reshape(len(x), *sizes, x.shape[-1])


def max_pool(x, window, stride=None, padding='VALID'):
    def largest(places):
        winner = places.real.argmax(1)[:, None]
        return np.take_along_axis(places, winner, 1)[:, 0]

    return pool(x, window, stride, padding, largest)


def avg_pool(x, window, stride=None, padding='VALID', *, count_include_pad=True):
    count = np.prod(spread(window, x.ndim - 2))

    def mean(places):
        return places.sum(1) / (count if count_include_pad else places.shape[1])

    return pool(x, window, stride, padding, mean)


# Normalization.


def scaled(p, x):
    x = x * p['scale'] if 'scale' in p else x
    return x + p['offset'] if 'offset' in p else x


def layer_norm(p, x, eps):
    centered = x - x.mean(-1, keepdims=True)
    return scaled(p, centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps))


def rms_norm(p, x, eps):
    return scaled(p, x / np.sqrt((x**2).mean(-1, keepdims=True) + eps))


def group_norm(p, x, groups, eps):
    outputs = np.zeros_like(x)
    size = x.shape[-1] // groups
    for example, group in np.ndindex(len(x), groups):
        part = x[example, ..., group * size : (group + 1) * size]
        centered = part - part.mean()
        normal = centered / np.sqrt((centered**2).mean() + eps)
        outputs[example, ..., group * size : (group + 1) * size] = normal
    return scaled(p, outputs)


def batch_norm(p, x, eps):
    return scaled(p, (x - p['mean']) / np.sqrt(p['var'] + eps))


def batch_norm_training(p, x, eps):
    rows = x.reshape(-1, x.shape[-1])
    mean = rows.mean(0)
    return batch_norm({**p, 'mean': mean, 'var': ((rows - mean) ** 2).mean(0)}, x, eps)


def moved_statistics(p, x, decay):
    """The running mean and variance after one batch; the variance is the unbiased one."""
    rows = x.reshape(-1, x.shape[-1])
    mean = decay * p['mean'] + (1 - decay) * rows.mean(0)
    return mean, decay * p['var'] + (1 - decay) * rows.var(0, ddof=1)


# Attention and recurrence.


def softmax(logits, allowed):
    """Weights of the `allowed` places; where none is allowed, all alike."""
    if not allowed.any():
        return np.full(len(logits), 1 / len(logits))
    powers = np.where(allowed, np.exp(logits - logits.real[allowed].max()), 0)
    return powers / powers.sum()


def attention(p, x, heads, *, mask=True, is_causal=False, scale=None):
    batch, length, width = x.shape
    size = width // heads
    scale = size**-0.5 if scale is None else scale
    allowed = np.broadcast_to(mask, (batch, heads, length, length))
    q, k, v = np.split(linear(below(p, 'qkv'), x), 3, -1)
    mixed = np.zeros_like(q)
    for b, head, i in np.ndindex(batch, heads, length):
        part = slice(head * size, (head + 1) * size)
        logits = scale * k[b, :, part] @ q[b, i, part]
        seen = allowed[b, head, i] & ((np.arange(length) <= i) | (not is_causal))
        mixed[b, i, part] = softmax(logits, seen) @ v[b, :, part]
    return linear(below(p, 'proj'), mixed)


def lstm_step(p, x, state):
    hidden, cell = state
    gates = linear(below(p, 'inputs'), x) + linear(below(p, 'hidden'), hidden)
    i, f, g, o = np.split(gates, 4, -1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(cell)
    return hidden, (hidden, cell)


def gru_step(p, x, state):
    (hidden,) = state
    x_reset, x_update, x_new = np.split(linear(below(p, 'inputs'), x), 3, -1)
    h_reset, h_update, h_new = np.split(linear(below(p, 'hidden'), hidden), 3, -1)
    update = sigmoid(x_update + h_update)
    new = np.tanh(x_new + sigmoid(x_reset + h_reset) * h_new)
    hidden = (1 - update) * new + update * hidden
    return hidden, (hidden,)


def recurrent(step, p, x, state, is_reset=None):
    """[outputs of all steps, *last state]; a reset sets the state to zero before its step."""
    outputs = []
    for t in range(x.shape[1]):
        if is_reset is not None:
            state = [np.where(is_reset[:, t, None], 0, part) for part in state]
        output, state = step(p, x[:, t], state)
        outputs.append(output)
    return [np.stack(outputs, 1), *state]
