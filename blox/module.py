"""Module: a graph address plus a pure function of (params, inputs)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from blox.adapters import adapted
from blox.graph import Graph
from blox.initialization import FIRST_PASS, Request
from blox.param import Param
from blox.params import Params
from blox.pickling import packed, unpacked


@runtime_checkable
class Initializer(Protocol):
    """Makes initial values, as those of `jax.nn.initializers` and `blox.layers.initializers` do."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any, /) -> jax.Array:
        """Return an array of `shape` and `dtype`, made from `key`."""
        ...


class Module:
    """Base of all layers and models.

    A module holds its place in the graph and its constructor's choices, nothing that changes.
    Its parameters live in the Params that are passed in and returned:
    `outputs, params = module(params, inputs)`.
    """

    def __init__(self, graph: Graph) -> None:
        if not isinstance(graph, Graph):
            raise TypeError(
                f'{type(self).__name__} takes a Graph node first, found {type(graph).__name__}; '
                "start from bx.Graph('name') and pass graph.child('name') on"
            )
        graph.attach(self)
        self.graph = graph

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> tuple[Any, Params]:
        """Return outputs and Params; each kind of module defines its own call."""
        raise NotImplementedError(f'{type(self).__name__} defines no __call__')

    @property
    def path(self) -> str:
        """The module's path in the graph, under which its parameters are."""
        return self.graph.path

    def get_param(
        self,
        params: Params,
        name: str,
        shape: Sequence[int],
        initializer: Initializer,
        dtype: Any = jnp.float32,
        trainable: bool = True,
        metadata: Mapping[str, Any] | None = None,
        *,
        merged: bool = True,
    ) -> tuple[jax.Array, Params]:
        """Return this module's parameter `name`, made with `initializer` if it is new; and Params.

        A stored value is returned in its own dtype; a shape other than `shape` is a
        ValueError. After `finalize()` a missing parameter is a KeyError. Adapters that `bx.lora`
        put beside it count in the value, unless a layer that adds them to its outputs says
        `merged=False`.
        """
        path = f'{self.path}/{name}'
        if path in params or params.initialized:
            value = params[path].value
            if value.shape != tuple(shape):
                raise ValueError(
                    f'{path!r}: {type(self).__name__} expects shape {tuple(shape)}, '
                    f'found {value.shape} in Params'
                )
            return adapted(params, path, value) if merged else value, params
        request, first_pass = Request(initializer, tuple(shape), dtype), FIRST_PASS.get()
        if first_pass is None:
            key, params = params.initial_key(path)
            value = request.draw(key)
        else:
            value, params = first_pass.answer(params, path, request)
        return value, params.set(path, Param(value, trainable, metadata or {}))

    def set_param(self, params: Params, name: str, value: jax.Array) -> Params:
        """Return Params with `value` for the parameter `name`, in the stored shape and dtype."""
        return params.set(f'{self.path}/{name}', value)

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments that the module keeps under their own names.

        Arguments that have their default value, `graph`, and modules are left out.
        """
        kept = {}
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            value = getattr(self, name, parameter.default)
            if name in ('self', 'graph') or value is parameter.default:
                continue
            if not isinstance(value, Module) and not equal(value, parameter.default):
                kept[name] = value
        return kept

    # Used by pickle and copy: compiled functions, such as jax.nn.relu, are kept by their names.
    def __getstate__(self) -> dict[str, Any]:
        return {name: packed(value) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update((name, unpacked(value)) for name, value in state.items())

    def __repr__(self) -> str:
        arguments = ', '.join(f'{name}={short(value)}' for name, value in self.arguments().items())
        return f'{type(self).__name__}({self.path!r}{", " + arguments if arguments else ""})'


def short(value: Any) -> str:
    """Write a module's argument on one line; a function by its name."""
    if isinstance(value, Module):
        return f'<{type(value).__name__} at {value.path}>'
    if callable(value) and hasattr(value, '__name__'):
        return value.__name__
    if isinstance(value, tuple | list) and any(callable(item) for item in value):
        return f'[{", ".join(short(item) for item in value)}]'
    return repr(value)


def equal(a: Any, b: Any) -> bool:
    """Compare by type and ==; arrays and the like, whose == is no truth value, differ."""
    return type(a) is type(b) and (a == b) is True
