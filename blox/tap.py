"""Tap: the outputs of the modules inside a model, by Graph path."""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax

from blox import paths
from blox.module import Module
from blox.params import Params
from blox.scan import unrolled

# Outputs travel in Params, so they get out of jax.checkpoint as everything else does.
_ROOT = '__tap__'

Tapped: TypeAlias = Callable[..., tuple[tuple[Any, OrderedDict[str, Any]], Params]]


def tap(model: Module, where: str | Sequence[str] | Callable[[str, Module], bool]) -> Tapped:
    """Return a function like `model` that gives the outputs of modules inside of it too.

    `(outputs, taps), params = tap(model, where)(params, *inputs)`: `taps` maps the path of each
    module that `where` names to what its call gave, in the order of the calls; a second call of
    the same module is at 'path#2'. What attention weighs values with is what its
    'attention_dropout' gives, [batch, heads, queries, keys]. Neither the model nor its classes
    change, and jax.jit, jax.grad, jax.vmap and jax.checkpoint apply as to the model. What a
    jax.lax.scan inside of the model calls, as LSTM does, cannot be tapped; blocks of `bx.scan` can, for
    which they run one by one.

    `deltas`, from such paths to arrays, are added to those outputs: the gradient with respect to
    zeros there is the gradient by activation.

    >>> import blox as bx, jax.numpy as jnp
    >>> model, params = bx.zoo.load('vit-digits')
    >>> images = bx.zoo.preprocessor('vit-digits')(['examples/digits/7.png'])
    >>> tapped = jax.jit(tap(model, 'vit/block*/attn/attention_dropout'))
    >>> (logits, taps), _ = tapped(params, images)
    >>> len(taps), taps['vit/block0/attn/attention_dropout'].shape
    (6, (1, 4, 17, 17))
    """
    entries = model.graph.root.walk()
    chosen = paths.select(where, entries)  # type: ignore[arg-type]

    def tapped(
        params: Params, *args: Any, deltas: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> tuple[tuple[Any, OrderedDict[str, Any]], Params]:
        recorder = _Recorder(chosen, deltas or {})
        with unrolled():
            outputs, params = recorder.watch(model)(params, *args, **kwargs)
        taps, params = recorder.collect(params)
        return (outputs, taps), params

    return tapped


class _Recorder:
    """One call of a tapped model: which calls there were, and how their outputs are built up."""

    def __init__(self, chosen: frozenset[str], deltas: Mapping[str, Any]) -> None:
        self.chosen = chosen
        self.deltas = deltas
        self.calls: Counter[str] = Counter()
        self.treedefs: OrderedDict[str, Any] = OrderedDict()

    def watch(self, model: Module) -> Module:
        """Copy `model` so that the chosen modules leave their outputs in Params."""
        watched = copy.deepcopy(model)
        for path, module in watched.graph.root.walk():
            if path in self.chosen:
                module.__class__ = self._recording(type(module))
        return watched

    def _recording(self, kind: type[Module]) -> type[Module]:
        def call(module: Module, params: Params, *args: Any, **kwargs: Any) -> tuple[Any, Params]:
            outputs, params = kind.__call__(module, params, *args, **kwargs)
            return self._record(module.path, outputs, params)

        return type(kind.__name__, (kind,), {'__call__': call})

    def _record(self, path: str, outputs: Any, params: Params) -> tuple[Any, Params]:
        self.calls[path] += 1
        name = path if self.calls[path] == 1 else f'{path}#{self.calls[path]}'
        if name in self.deltas:
            outputs = jax.tree.map(jax.numpy.add, outputs, self.deltas[name])
        leaves, self.treedefs[name] = jax.tree.flatten(outputs)
        entries = {f'{_ROOT}/{name}/{i}': leaf for i, leaf in enumerate(leaves)}
        return outputs, params.merge(Params.from_entries(entries, finalized=params.initialized))

    def collect(self, params: Params) -> tuple[OrderedDict[str, Any], Params]:
        """Return the recorded outputs, by path, and the model's own Params."""
        if unknown := sorted(set(self.deltas) - set(self.treedefs)):
            raise ValueError(
                f'deltas for {", ".join(unknown)}: expected tapped modules that the model calls, '
                f'{", ".join(self.treedefs) or "none"}'
            )
        taps = OrderedDict()
        for name, treedef in self.treedefs.items():
            places = (f'{_ROOT}/{name}/{i}' for i in range(treedef.num_leaves))
            taps[name] = treedef.unflatten(params[place].value for place in places)
        return taps, params.partition(lambda path, _: not path.startswith(f'{_ROOT}/'))[0]
