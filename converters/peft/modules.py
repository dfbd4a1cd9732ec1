"""Modules of the other library's live model, which PEFT adapts, and our weights that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from blox.adapters import TAG
from blox.converters.mapping.rules import Entry, Table, plan, respell_module
from blox.converters.mapping.transforms import HWIO, IDENTITY, T, Transform
from blox.converters.tables import layouts
from blox.converters.target import layouts_of, model_spec
from blox.layers import Conv, Embed, Linear

PREFIX = 'base_model.model.'
# PEFT may save the weight of an adapted embedding beside its adapter.
BASE = 'base_layer.weight'
_PAIR = ('lora_A.weight', 'lora_B.weight')
_EMBED_PAIR = ('lora_embedding_A', 'lora_embedding_B')


@dataclass(frozen=True)
class Site:
    """A module that PEFT can adapt: one of those that make up our weight, mostly the only one."""

    entry: Entry
    place: int
    is_embed: bool

    @property
    def start(self) -> int:
        """Index of the first of our weight's outputs that are this module's."""
        return sum(shape[0] for shape in self.entry.shapes[: self.place])

    @property
    def outputs(self) -> int:
        """Number of our weight's outputs that are this module's."""
        # Of several, which have their outputs first, some may be smaller than others.
        several = len(self.entry.names) > 1
        return self.entry.shapes[self.place][0] if several else self.entry.shape[-1]

    @property
    def is_conv1d(self) -> bool:
        """True for transformers' Conv1D, whose weight lies as ours does."""
        return not self.is_embed and self.entry.via == IDENTITY

    @property
    def prefix(self) -> str:
        """Start of the paths of an adapter of this module alone."""
        part = f'{"qkv"[self.place]}_' if len(self.entry.names) > 1 else ''
        return f'{self.entry.path}_{TAG}_{part}'

    def keys(self, module: str) -> list[str]:
        """Return the names of the two arrays in a file that calls the module so."""
        return [f'{PREFIX}{module}.{name}' for name in (_EMBED_PAIR if self.is_embed else _PAIR)]

    def shapes(self, rank: int) -> list[tuple[int, ...]]:
        """Return the shapes of the two arrays; a convolution's second one has a 1x1 kernel."""
        (a,) = self._via.external_shapes((*self.entry.shape[:-1], rank))
        return [a, (self.outputs, rank, *(1 for _ in a[2:]))]

    def theirs(self, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        """Make their two arrays of ours."""
        return [*self._via.inverse(a), b.T.reshape(self.shapes(len(b))[1])]

    def ours(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make our two arrays of theirs."""
        return self._via.forward([a]), b.reshape(b.shape[:2]).T

    @property
    def _via(self) -> Transform:
        return HWIO if len(self.entry.shape) == 4 else T


def peft_tables(model: Any) -> dict[str, Table]:
    """Return the tables of libraries whose models PEFT adapts, by the layouts that can hold the model."""
    tables = {name: layouts(model.path)[name] for name in layouts_of(model)}
    return {name: table for name, table in tables.items() if table.library}


class Modules:
    """The modules of another library's model, for a model of ours and one of its tables."""

    def __init__(self, model: Any, table: Table) -> None:
        self.model = model
        self.table = table
        self.entries = plan(table.rules(model.config), model_spec(model))
        self._layers = dict(model.graph.walk())
        self._names = {name for entry in self.entries.values() for name in entry.names}

    def sites(self, entry: Entry) -> dict[str, Site]:
        """Return the modules that make up a weight of ours, by their names in the rules."""
        if len(entry.shape) < 2 or not all(name.endswith('.weight') for name in entry.names):
            return {}
        is_embed = isinstance(self._layer(entry), Embed)
        return {module_of(name): Site(entry, i, is_embed) for i, name in enumerate(entry.names)}

    def refusal(self, entry: Entry) -> str:
        """Say why PEFT cannot adapt a weight as we do; '' if it can."""
        layer = self._layer(entry)
        if not self.sites(entry) or not isinstance(layer, Linear | Conv | Embed):
            return 'it adapts weights of dense layers, convolutions and embeddings alone'
        if isinstance(layer, Conv) and (
            layer.groups > 1 or np.max(layer.dilation) > 1 or layer.padding_mode != 'zeros'
        ):
            return 'it adapts grouped, dilated and otherwise padded convolutions in another way'
        return self.tied(entry)

    def tied(self, entry: Entry) -> str:
        """Say why PEFT cannot change a weight that another is tied to; '' if none is."""
        for absent, name in self.table.tied(self.model.config).items():
            if name in entry.names and absent not in self._names:
                return f'{module_of(absent)} is tied to it, and there would stay as it was'
        return ''

    def live(self) -> dict[str, str]:
        """Return the names of modules in the library's live model, by their names in the rules."""
        respellings = (*self.table.published(self.model.config), *self.table.live)
        return {
            module: respell_module(module, respellings) for module in map(module_of, self._names)
        }

    def task(self) -> str | None:
        """Return PEFT's name of what the model does, None where none of its names fits."""
        fields = self.table.header(self.model.config, {})
        is_language_model = any('LMHead' in name for name in fields.get('architectures', ()))
        return 'CAUSAL_LM' if is_language_model else None

    def speller(self, keys: Iterable[str]) -> Callable[[str], list[str]]:
        """Make a function from a module's name in the rules to its names in a file.

        That is its name there, or all that it could have where the file lacks it.

        PEFT goes by live modules, which other versions of the library call otherwise, and the
        model may be a part of the one that was adapted.
        """
        modules = {_of_key(key.removeprefix(PREFIX)) for key in keys if key.startswith(PREFIX)}
        own = {respell_module(module, self.table.spellings): module for module in modules}
        renamed = [rule for rule in own if respell_module(rule, self.table.live) != rule]
        is_old = any(own[rule].endswith(rule) for rule in renamed)
        respellings = () if is_old else self.table.live
        ends = {rule: respell_module(rule, respellings) for rule in own}
        outer = {own[r].removesuffix(end) for r, end in ends.items() if own[r].endswith(end)}
        usual = (*self.table.published(self.model.config), *respellings)

        def spell(rule: str) -> list[str]:
            if rule in own:
                return [own[rule]]
            end = respell_module(rule, respellings)
            return [respell_module(rule, usual), end, *sorted(prefix + end for prefix in outer)]

        return spell

    def _layer(self, entry: Entry) -> Any:
        return self._layers.get(entry.path.rpartition('/')[0])


def module_of(name: str) -> str:
    """Return the name of the module that has a parameter."""
    return name.rpartition('.')[0]


def _of_key(key: str) -> str:
    """Return the name of the module that an array of a file belongs to."""
    names = (name for name in (*_PAIR, *_EMBED_PAIR, BASE) if key.endswith(f'.{name}'))
    name = next(names, None)
    return key.removesuffix(f'.{name}') if name else module_of(key)
