"""Files that blox saved."""

import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from blox import checkpoint
from blox.converters.target import model_spec
from blox.param import RNG
from blox.params import Params
from blox.tensorfile import TensorFile, fail
from blox.wording import some
from blox.zoo.architecture.fit import check_header, mismarked, not_finite
from blox.zoo.catalog.card import FINITE, HEADER_KEY, Card
from blox.zoo.loading.place import LocalPlace

# What config.json says of a repository or folder that holds a file of our own.
OWN_CONFIG = {'library_name': 'blox'}
OWN_FILE = 'model.safetensors'


def says_own(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json lies beside a file of our own."""
    return config.get('library_name') == OWN_CONFIG['library_name']


class OwnFile(LocalPlace):
    """A .safetensors file that `save` wrote, or that should have been."""

    @functools.cached_property
    def _file(self) -> TensorFile:
        return TensorFile(self._path)

    def _read_card(self) -> Card:
        return Card.from_file(self._file)

    @property
    def is_own(self) -> bool:
        return self._path.is_file() and HEADER_KEY in self._file.metadata

    @property
    def is_bare(self) -> bool:
        return self._path.is_file() and not self.is_own

    def read(self, model: Any, dtype: Any = None) -> Params:
        """Return the file's Params, once its header was compared with the model's own spec."""
        expected = model_spec(model)
        check_header(expected, self._file)
        checkpoint.check_described(self._file)
        params = checkpoint.params_of(self._file).partition(lambda path, _: path != RNG)[0]
        wrong = mismarked(expected, params)
        if said := self._file.metadata.get(FINITE):
            wrong.append(said)
        elif said is None:
            # Nobody looked at these values when they were saved.
            wrong += not_finite(params)
        if wrong:
            fail(self._path, '; '.join(wrong))
        return params if dtype is None else self._cast(params, dtype)

    def _cast(self, params: Params, dtype: Any) -> Params:
        """Cast to `dtype`. CheckpointError for values that are too large for it."""
        cast = params.cast(dtype)
        widest = max(float(jnp.finfo(p.dtype).max) for p in params.values())
        if float(jnp.finfo(dtype).max) < widest and (wrong := not_finite(cast)):
            paths = some([clause.partition(':')[0] for clause in wrong], 4)
            fail(self._path, f'values are too large for {jnp.dtype(dtype)}: {paths}')
        return cast

    def check(self) -> None:
        """Raise CheckpointError unless all values are finite, and those that were saved."""
        self._file.check_digests()
        params = checkpoint.params_of(self._file)
        if wrong := not_finite(params.partition(lambda path, _: path != RNG)[0]):
            fail(self._path, '; '.join(wrong))
