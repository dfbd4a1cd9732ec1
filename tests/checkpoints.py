"""What tests of converters share: random Params, checkpoints in memory, and what has to be equal."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import build, family_of, fitted, small, small_by_layout

from blox.converters import layouts
from blox.converters.configs import write_config
from blox.converters.mapping.rules import plan, respell
from blox.converters.sources.source import Source
from blox.converters.sources.tensor import Tensor
from blox.converters.target import model_spec
from blox.param import Param
from blox.params import Params

model_of = functools.cache(build)


@functools.cache
def spec_of(config):
    """Shapes and dtypes of a config's parameters, the rng apart."""
    return model_spec(model_of(config)).partition(lambda path, _: path != 'rng')[0]


@functools.cache
def planned(config, layout):
    return plan(layouts(family_of(config).name)[layout].rules(config), spec_of(config))


SMALL = small()
every_layout = pytest.mark.parametrize(('name', 'layout'), small_by_layout())


def params_of(config, dtype=np.float32):
    """Random Params of a config; variances are positive."""
    rng = np.random.default_rng(0)
    entries = {}
    for path, param in spec_of(config).items():
        value = rng.normal(size=param.shape).astype(dtype)
        value = abs(value) if path.endswith('/var') else value
        if path == 'vit/pos_embed':
            value[:, :1] = 0  # Only so can big_vision have it.
        entries[path] = Param(jnp.asarray(value, dtype), param.trainable, param.metadata)
    return Params.from_entries(entries).merge(Params(0)).finalize()


def source_of(arrays, config=None, path='made-up'):
    """An open checkpoint of arrays by name."""
    tensors = {
        name: Tensor(array.dtype, array.shape, lambda array=array: array, Path(path))
        for name, array in arrays.items()
    }
    return Source(Path(path), tensors, config or {})


def assert_same(a, b):
    """Equal Params: paths, flags, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path in a:
        if path != 'rng':
            x, y = np.asarray(a[path].value), np.asarray(b[path].value)
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), path


@functools.cache
def check_permutation(via, shape, external_shapes):
    """The external arrays hold each number of ours once, and forward restores it exactly."""
    numbers = np.arange(np.prod(shape, dtype=int), dtype=np.uint32).reshape(shape)
    zeros = numbers.size - sum(int(np.prod(x, dtype=int)) for x in external_shapes)
    if zeros:  # Ours starts with zeros that the others lack.
        numbers = np.pad(numbers[:, 1:], ((0, 0), (1, 0), (0, 0)))
        assert zeros == numbers[:, 0].size
    arrays = via.inverse(numbers, len(external_shapes))
    assert tuple(array.shape for array in arrays) == external_shapes
    seen = np.zeros(numbers.size, bool)
    for array in arrays:
        seen[array.reshape(-1)] = True
    assert seen.sum() == numbers.size - zeros
    np.testing.assert_array_equal(via.forward(arrays), numbers, strict=True)


def folder_of(config, layout, folder):
    """Open what `export` writes, the data left out."""
    table = layouts(family_of(config).name)[layout]
    fields = json.loads(json.dumps(write_config(table, config)))
    for name, content in table.companions(config).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    names = [name for rule in table.rules(config) for name in rule.external]
    hollow = {respell(name, table.published(config)): np.zeros(1) for name in names}
    return source_of(hollow, fields, folder)


def fields_of(family, layout, more):
    """config.json of a tiny model, with `more`; in timm's and open_clip's these are arguments of a model."""
    fields = write_config(layouts(family)[layout], fitted(family, layout))
    inner = {'timm': 'model_args', 'open_clip': 'model_cfg'}.get(layout)
    if inner:
        more, fields = {inner: fields[inner] | more}, dict(fields)
    return fields | more
