"""The bases of all models, whose calls are made of one generator of named steps."""

from collections.abc import Generator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from blox.graph import Graph
from blox.module import Module
from blox.params import Params
from blox.scan import is_unrolled, scan
from blox.zoo.architecture.features import Feature, Steps, collect, finish, map_names


class ZooModel(Module):
    """A model of the zoo: a config, and a computation in named steps.

    A subclass has its modules in the constructor, and right below it `_steps`, which yields the
    name, value and Params after each step; the last value is the output. `feature_info` says
    which of the steps `features` shows.
    """

    def __init__(self, graph: Graph, config: Any) -> None:
        super().__init__(graph)
        self.config = config

    if TYPE_CHECKING:
        # What `bx.zoo.load` returns has modules and methods of its family besides.
        def __getattr__(self, name: str) -> Any: ...

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> tuple[Any, Params]:
        """Return the model's outputs and its Params; see the class for what goes in."""
        raise NotImplementedError(f'{type(self).__name__} defines no __call__')

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return shape and dtype of the smallest inputs, for `bx.init` and `bx.spec`."""
        raise NotImplementedError(f'{type(self).__name__} defines no example_inputs')

    def feature_info(self) -> tuple[Feature, ...]:
        """Return names, channels and strides of what `features` gives, in the order of computing."""
        raise NotImplementedError(f'{type(self).__name__} defines no feature_info')

    def features(self, params: Params, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], Params]:
        """Return intermediates by name; nothing is run that comes after the last of `names`."""
        raise NotImplementedError(f'{type(self).__name__} defines no features')


class ImageModel(ZooModel):
    """A model of images [batch, height, width, channels], scaled as its preprocessor does."""

    def _steps(self, params: Params, images: jax.Array, is_training: bool) -> Steps:
        """Compute, one named step after the other."""
        raise NotImplementedError(f'{type(self).__name__} defines no _steps')

    def __call__(
        self,
        params: Params,
        images: Float[Array, 'batch height width channels'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch outputs'], Params]:
        """Return logits [batch, num_classes]; without a head, the pooled features."""
        return finish(self._steps(params, images, is_training))

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return shape and dtype of a batch of one image."""
        shape = (1, *self.config.image_size, self.config.in_channels)
        return (jax.ShapeDtypeStruct(shape, jnp.float32),)

    def features(
        self,
        params: Params,
        images: Float[Array, 'batch height width channels'],
        names: Sequence[str] | None = None,
    ) -> tuple[dict[str, jax.Array], Params]:
        """Return intermediates by name, as `feature_info` lists them; all if `names` is None.

        Maps are [batch, height, width, channels], tokens [batch, tokens, width]; the last is what
        the head sees. Nothing is run that comes after the last of `names`.
        """
        return collect(self._steps(params, images, False), self.feature_info(), names)

    def feature_maps(
        self,
        params: Params,
        images: Float[Array, 'batch height width channels'],
        out_indices: Sequence[int],
    ) -> tuple[tuple[Float[Array, 'batch rows columns features'], ...], Params]:
        """Return the maps of these indices, counted among the features that have strides."""
        names = map_names(self.feature_info(), out_indices)
        found, params = self.features(params, images, names)
        return tuple(self._as_map(found[name]) for name in names), params

    def _as_map(self, x: jax.Array) -> Float[Array, 'batch rows columns features']:
        return x


class TextModel(ZooModel):
    """A model of token ids [batch, length].

    Attributes:
      takes: the names of its inputs, in their order.
    """

    takes: tuple[str, ...] = ('tokens',)

    def _steps(self, params: Params, tokens: jax.Array, is_training: bool) -> Steps:
        """Compute, one named step after the other."""
        raise NotImplementedError(f'{type(self).__name__} defines no _steps')

    def __call__(
        self, params: Params, tokens: Int[Array, 'batch length'], *, is_training: bool = False
    ) -> tuple[Any, Params]:
        """Return logits [batch, length, vocab_size] for the token that follows each."""
        return finish(self._steps(params, tokens, is_training))

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return shape and dtype of one sequence of one token."""
        return (jax.ShapeDtypeStruct((1, 1), jnp.int32),)

    def features(
        self,
        params: Params,
        tokens: Int[Array, 'batch length'],
        names: Sequence[str] | None = None,
    ) -> tuple[dict[str, Float[Array, 'batch length width']], Params]:
        """Return states by name, as `feature_info` lists them; all if `names` is None.

        Nothing is run that comes after the last of `names`.
        """
        return collect(self._steps(params, tokens, False), self.feature_info(), names)


def check_size(model: Any, images: jax.Array) -> None:
    """Raise ValueError for images of another size than the one that a model sees."""
    if images.shape[1:3] != model.config.image_size:
        raise ValueError(
            f'{model.path!r} expects images of {model.config.image_size}, found {images.shape[1:3]}'
        )


def check_tokens(model: Any, tokens: jax.Array, **others: jax.Array | None) -> None:
    """Raise ValueError for what are no tokens of a model, more than it sees, or masks of another shape.

    Ids on a device are taken as they are: to look at them would be to wait for them.
    """
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f'{model.path!r} expects token ids, integers, found {tokens.dtype}')
    vocab = model.config.vocab_size
    if (
        isinstance(tokens, np.ndarray)
        and tokens.size
        and not 0 <= tokens.min() <= tokens.max() < vocab
    ):
        raise ValueError(
            f'{model.path!r} expects token ids in [0, {vocab}), found {tokens.min()} to {tokens.max()}'
        )
    if not 0 < tokens.shape[-1] <= model.config.context:
        raise ValueError(
            f'{model.path!r} sees 1 to {model.config.context} tokens, found {tokens.shape[-1]}'
        )
    for name, found in others.items():
        # A shape that broadcasts would pass unnoticed, as would a float mask, meant to be added.
        if found is not None and (
            found.shape != tokens.shape or jnp.issubdtype(found.dtype, jnp.inexact)
        ):
            raise ValueError(
                f'{model.path!r} expects {name} of integers in the shape of its tokens, '
                f'{tokens.shape}, found {found.dtype} of {found.shape}'
            )


def block_steps(
    blocks: Sequence[Module], config: Any, params: Params, x: Any, *args: Any, **options: Any
) -> Generator[tuple[str, Any, Params], None, tuple[Any, Params]]:
    """Run `blocks`, yield a step after each, and return what the last one gives.

    If the config says `remat`, inner values are not kept for the gradient but computed again. If it
    says `scan`, the blocks run as one, and the last gives the only step, unless single ones are looked at.
    """
    if config.scan and len(blocks) > 1 and not is_unrolled():
        x, params = scan(blocks, params, x, *args, remat=config.remat, **options)
        yield blocks[-1].graph.name, x, params
        return x, params
    for block in blocks:
        call = partial(block, **options)
        x, params = (jax.checkpoint(call) if config.remat else call)(params, x, *args)
        yield block.graph.name, x, params
    return x, params


def run_blocks(
    blocks: Sequence[Module], config: Any, params: Params, x: Any, **options: Any
) -> tuple[Any, Params]:
    """Run `blocks` as `block_steps` does, and return what the last one gives."""
    return finish(chain([('', x, params)], block_steps(blocks, config, params, x, **options)))


def cast_like(inputs: jax.Array, params: Params, path: str) -> jax.Array:
    """Return `inputs` in the dtype of the parameter at `path`, once that exists.

    Weights decide what a model computes in: bfloat16 ones take float32 images. Raises TypeError for
    pixels as they are in files.
    """
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f'{path.partition("/")[0]!r} expects images of floating-point numbers, scaled as '
            f'bx.zoo.preprocessor(NAME) does it, found {inputs.dtype}'
        )
    return inputs.astype(params[path].dtype) if path in params else inputs


def drop_path_rates(last: float, count: int) -> list[float]:
    """Return the rates of stochastic depth of `count` blocks: from 0, in equal steps, to `last`."""
    return [last * i / max(count - 1, 1) for i in range(count)]
