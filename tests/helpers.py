"""What tests share."""

import base64
import contextlib
import html
import importlib.util
import os
import re
import signal
import sys
import zlib
from pathlib import Path
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import blox as bx

EXAMPLES = Path(__file__).parents[1] / 'examples'
GRAY = bx.zoo.ImagePreprocessor(
    size=(8, 8), resize=(8, 8), keep_ratio=False, interpolation='bilinear', mean=(0.5,), std=(0.5,)
)
COLOR = bx.zoo.ImagePreprocessor(
    size=(8, 6),
    resize=(10, 9),
    keep_ratio=True,
    interpolation='bicubic',
    mean=(0.5,) * 3,
    std=(1,) * 3,
)


def table(rows):
    """Parametrizes a test by the argument `row`, with the keys of `rows` as names."""
    return pytest.mark.parametrize('row', list(rows.values()), ids=list(rows))


def layer():
    return bx.Graph('layer')


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def random_params(call, *inputs, dtype=jnp.float64, seed=0):
    """Finalized Params for `call(params, *inputs)` with a random value at every place.

    Only their shapes come from the layer: compiling its initializers would take longer than
    the rest of a test.
    """
    kinds = [np.float32 if jnp.issubdtype(x.dtype, jnp.floating) else np.int32 for x in inputs]
    shapes = [jax.ShapeDtypeStruct(x.shape, kind) for x, kind in zip(inputs, kinds)]
    params, _ = bx.spec(call, *shapes).cast(dtype).partition(lambda path, _: path != 'rng')
    for i, (path, param) in enumerate(params.items()):
        value = normal(*param.shape, seed=seed + i + 1).astype(dtype) / 2
        value = abs(value) + 1 if path.endswith('/var') else value
        params = params.set(path, value, strict=False)
    return params


def message(error, call):
    """Return what a call's error says, in one line."""
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@contextlib.contextmanager
def promptly(seconds=10):
    """Fails what would wait for ever."""

    def stop(*_):
        pytest.fail('it hangs')

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def opened(path):
    """A list that grows with each time that a file is opened."""
    times, wanted = [], os.path.realpath(path)
    _WATCHED.append((times, wanted))
    try:
        yield times
    finally:
        _WATCHED.remove((times, wanted))


_WATCHED = []


def _watch(event, args):
    if _WATCHED and event == 'open' and isinstance(args[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(args[0]))
        for times, wanted in _WATCHED:
            if path == wanted:
                times.append(path)


sys.addaudithook(_watch)  # It stays as long as Python does.


def example(name):
    """The module of a script in examples/."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_images(root, counts, shape=(8, 8)):
    """Random gray images: so many in each directory."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            write_image(root / name / f'{i}.png', seed=crc32(f'{name}{i}'.encode()), shape=shape)
    return root


def write_image(path, seed=0, shape=(8, 8)):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def unpacked(page):
    """The text of what treescope packed into a page, its tags left out."""
    (packed,) = re.findall(r'octet-stream" *>([\w+/=]{99,})<', page)
    markup = zlib.decompress(base64.b64decode(packed)).decode()
    return html.unescape(re.sub('<[^>]*>', '', markup))


def flip(path, at):
    """Turn one bit of a file's byte at `at`."""
    with open(path, 'r+b') as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
