"""Initial Params of a model, and their shapes alone.

A first call with stand-ins for values shows which parameters a model asks for. On a CPU they are
then drawn in pieces. Elsewhere, and for initializers of the user's own, what is alike, by
initializer, shape and dtype, is drawn by one program, which is compiled once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from blox.drawing import Recipe, draw_pieces, draws_pieces
from blox.param import RNG
from blox.params import Params, as_key, fold_path, path_words, stacked_as
from blox.paths import Where
from blox.wording import some


class Request(NamedTuple):
    """The making of an initial value."""

    initializer: Callable[..., jax.Array]
    shape: tuple[int, ...]
    dtype: Any

    def draw(self, key: jax.Array) -> jax.Array:
        """Return the value that `key` gives."""
        return self.initializer(key, self.shape, self.dtype)

    def recipe(self) -> Recipe | None:
        """Return how to draw the value in pieces, if initializer, shape and dtype allow it."""
        known = getattr(self.initializer, 'recipe', None)
        found = known(self.shape) if known and np.dtype(self.dtype) == np.float32 else None
        return found if found and found.fits(self.shape) else None


class FirstPass:
    """A model's first call: what it asks for, and what it makes of the stand-ins that it gets.

    Attributes:
      start: what it is called with.
      requests: what it asked for, by path.
      spec: the Params that it gave.
      is_plain: whether it left the stand-ins and the key as they are.
      stacks: the blocks that `bx.scan` ran: their pattern, and the first one's number.
    """

    def __init__(self) -> None:
        # NumPy's number stays one while JAX traces, so that the requests are counted.
        self.start = Params(0).set(RNG, (as_key(0), np.uint32(0)))
        self.requests: dict[str, Request] = {}
        self._values: dict[str, jax.Array] = {}
        self.spec = Params()
        self.is_plain = True
        self.stacks: list[tuple[str, int]] = []

    def answer(self, params: Params, path: str, request: Request) -> tuple[jax.Array, Params]:
        """Return a stand-in for the initial value at `path`, and Params with the counter moved on.

        Params of another key, which the model folded or made itself, get the value.
        """
        if not self._has_own_key(params):
            self.is_plain = False
            key, params = params.initial_key(path)
            return request.draw(key), params
        self.requests[path] = request
        # Less than half of what jnp.zeros takes, which was a seventh of a first pass.
        zero = np.zeros((), request.dtype)
        self._values[path] = jax.lax.broadcast_in_dim(zero, request.shape, ())
        return self._values[path], params.counted()

    def check(self, result: Any, model: Callable[..., Any]) -> Params:
        """Return the Params that the call gave. Raises what helps if it lost some on its way."""
        name = getattr(model, '__name__', type(model).__name__)
        _check_pair(result, name)
        params = result[1]
        if lost := [path for path in self.requests if path not in params]:
            raise ValueError(
                f'{name} asks for {some(lost, 3)} and returns Params without: pass on what each '
                'module returns, as in y, params = layer(params, x)'
            )
        untouched = all(params[path].value is value for path, value in self._values.items())
        self._count = params[RNG].value[1]
        is_counted = isinstance(self._count, np.generic)
        self.is_plain &= untouched and is_counted and self._has_own_key(params)
        self._values.clear()  # They mean nothing outside of this call.
        return params

    def _has_own_key(self, params: Params) -> bool:
        return params[RNG].value[0] is self.start[RNG].value[0]

    def takes_few_programs(self, key: jax.Array) -> bool:
        """Return whether what cannot be drawn in pieces is alike: then few programs draw it."""
        pieces = draws_pieces(key)
        others = [r for r in self.requests.values() if not (pieces and r.recipe())]
        try:
            return 2 * len({*others}) <= len(self.requests)
        except TypeError:  # An initializer without a hash is like no other.
            return False

    def drawn(self, key: jax.Array, wanted: Params) -> Params:
        """Return `wanted`, a part of the spec, with initial values drawn from `key`.

        They are right where the model left the stand-ins as they are.
        """
        requests = {path: self.requests[path] for path in wanted if path != RNG}
        values: dict[str, Any] = _drawn_in_pieces(requests, key)
        for path, request in requests.items():
            if path not in values:
                values[path] = _draw(request, key, path_words(path))
        leaves: list[Any] = []
        for path in wanted:
            leaves += [key, jax.device_put(self._count)] if path == RNG else [values[path]]
        return jax.tree.unflatten(jax.tree.structure(wanted), leaves)

    def stacked(self, params: Params) -> Params:
        """Return these Params with the blocks stacked that the model scans."""
        if not self.stacks:
            return params
        entries = dict(params.items())
        del params
        return stacked_as(entries, self.stacks)


def _check_pair(result: Any, name: str) -> None:
    """Raise TypeError unless a call gave outputs and Params."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Params):
        found = [type(x).__name__ for x in result] if isinstance(result, tuple) else ''
        raise _NoPairError(
            f'{name} must return (outputs, params), as every module does; '
            f'found {type(result).__name__} {found}'.rstrip()
        )


class _NoPairError(TypeError):
    """A call that broke the contract of modules."""


FIRST_PASS: ContextVar[FirstPass | None] = ContextVar('first_pass', default=None)


def init(model: Callable[..., Any], *inputs: Any, seed: int | jax.Array = 0) -> Params:
    """Return finalized Params for `model`, drawn by jitted programs that compute no outputs.

    `inputs` are arrays, or `jax.ShapeDtypeStruct`s; only shapes and dtypes matter. Raises
    ValueError, with their paths, if the model loses parameters on their way.

    >>> import blox as bx
    >>> init(bx.Linear(bx.Graph('head'), 3), jnp.ones((1, 2)))
    Params(3 entries, 9 parameters, finalized)
      head/b  float32[3]
      head/w  float32[2,3]
      rng     (key<fry>[], uint32[]), trainable=False, metadata={'tag': 'rng'}
    """
    call, key = _static(model, inputs), as_key(seed)
    first = _first_pass(*call, _widest())
    if first.is_plain and first.takes_few_programs(key):
        return first.stacked(first.drawn(key, first.spec))
    return _initialize(*call, key)


def init_part(
    where: Where, model: Callable[..., Any], *inputs: Any, seed: int | jax.Array = 0
) -> Params:
    """Return those entries of `init` that `where` names, and draw no others."""
    call, key = _static(model, inputs), as_key(seed)
    first = _first_pass(*call, _widest())
    if first.is_plain and first.takes_few_programs(key):
        return first.drawn(key, first.spec.partition(where)[0])
    # XLA drops the rest of the one program.
    return jax.jit(lambda key: _initialize(*call, key).partition(where)[0])(key)


def spec(model: Callable[..., Any], *inputs: Any) -> Params:
    """Return the Params of `init` as shapes and dtypes alone: nothing is computed or allocated."""
    first = _first_pass(*_static(model, inputs), _widest())
    return first.stacked(first.spec)


def _static(model: Callable[..., Any], inputs: Any) -> tuple[Any, tuple[Any, ...], Any]:
    """Return a call as hashable arguments: with another seed the same program runs again."""
    leaves, treedef = jax.tree.flatten(jax.tree.map(_shape_of, inputs))
    return model, tuple(leaves), treedef


def _widest() -> np.dtype:
    """Return the widest floating-point dtype that JAX has now: others become it."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _shape_of(x: Any) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, 'shape') else x


@functools.lru_cache(maxsize=16)
def _first_pass(
    model: Callable[..., Any], leaves: tuple[Any, ...], treedef: Any, widest: np.dtype
) -> FirstPass:
    """Call a model with stand-ins, abstractly; where `widest` is another, so are its dtypes."""
    first = FirstPass()

    def call() -> Params:
        result = model(first.start, *_zeros(treedef.unflatten(leaves)))
        return first.check(result, model).finalize()

    with _during(first):
        try:
            first.spec = jax.eval_shape(call)
        except (TypeError, ValueError) as error:
            _look_for_culprit(model, leaves, treedef, error)
            raise
    return first


def _look_for_culprit(model: Any, leaves: tuple[Any, ...], treedef: Any, error: Exception) -> None:
    """Raise TypeError if an error comes of a module inside of a model that returned no pair.

    Where it is unpacked Python knows nothing of modules: so a copy of the model is called, whose
    modules look at what they return.
    """
    if not hasattr(model, 'graph'):
        return
    watched = copy.deepcopy(model)
    for path, module in watched.graph.root.walk():
        if module is not watched:
            module.__class__ = _watching(type(module), path)
    first = FirstPass()
    with _during(first):
        try:
            jax.eval_shape(lambda: watched(first.start, *_zeros(treedef.unflatten(leaves)))[0])
        except _NoPairError as found:
            raise found from error
        except Exception:  # The error is another, and is raised as it was.
            return


def _watching(kind: type[Any], path: str) -> type[Any]:
    """Return a class of modules that raise TypeError where their call gives no pair."""

    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        result = kind.__call__(module, *args, **kwargs)
        _check_pair(result, f'{kind.__name__} {path!r}')
        return result

    return type(kind.__name__, (kind,), {'__call__': call})


def _drawn_in_pieces(requests: Mapping[str, Request], key: jax.Array) -> dict[str, jax.Array]:
    """Return the values that can be drawn in pieces, by path."""
    if not draws_pieces(key):
        return {}
    recipes = {path: recipe for path, request in requests.items() if (recipe := request.recipe())}
    words = np.array([path_words(path) for path in recipes], np.uint32).reshape(-1, 2)
    shapes = [requests[path].shape for path in recipes]
    return dict(zip(recipes, draw_pieces(key, words, [*recipes.values()], shapes)))


@functools.partial(jax.jit, static_argnums=0)
def _draw(request: Request, key: jax.Array, words: jax.Array) -> jax.Array:
    return request.draw(fold_path(key, words))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _initialize(
    model: Callable[..., Any], leaves: tuple[Any, ...], treedef: Any, key: jax.Array
) -> Params:
    """Draw all values in one program."""
    with _during(None):  # It may be a part of another model's first call.
        return model(Params(key), *_zeros(treedef.unflatten(leaves)))[1].finalize()


@contextlib.contextmanager
def _during(first: FirstPass | None) -> Iterator[None]:
    """Have modules ask `first` for new parameters, or none, until the block ends."""
    token = FIRST_PASS.set(first)
    try:
        yield
    finally:
        FIRST_PASS.reset(token)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if hasattr(x, 'shape') else x, shapes)
