"""What tests of files that blox saved share: changed copies of them."""

import json

import jax
import numpy as np

from blox.tensorfile import TensorFile, write_tensors

REMOVED = object()


def tampered(source, path, card=None, config=None, tensors=None, metadata=None):
    """A copy of a saved file at `path`, with changes; a value of None removes the entry."""
    file = TensorFile(source)
    fields = json.loads(file.metadata['blox.model'])
    if config is not None:
        fields['config'] = changed(fields['config'], config)
    fields = changed(fields, card or {})
    header = {**file.metadata, 'blox.model': json.dumps(fields)}
    write_tensors(path, changed(dict(file), tensors or {}), changed(header, metadata or {}))
    return path


def changed(old, new):
    return {name: value for name, value in {**old, **new}.items() if value is not REMOVED}


def same(a, b):
    """Whether two Params have the same structure and bits, the rng's apart."""
    a, b = (params.partition(lambda path, _: path != 'rng')[0] for params in (a, b))
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )
