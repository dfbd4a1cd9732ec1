"""What is compared: the models that tests/families names of the reference libraries, and ours.

Weights are random and large, norms, biases and batch statistics random too: with those of a
model's start, a wrong activation or epsilon hardly shows.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from families import declared
from libraries import Reference

import blox as bx
from blox.converters import convert, layouts, open_source
from blox.converters.configs import read_config
from blox.zoo.comparing.parity import import_reference, random_inputs, reference_outputs
from blox.zoo.models import families

try:
    torch = import_reference('torch')
    torchvision = import_reference('torchvision')
    timm = import_reference('timm')
    transformers = import_reference('transformers')
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


class Case(NamedTuple):
    """A model of a reference library, and the family of ours that it is of."""

    family: str
    reference: Reference

    @property
    def layout(self) -> str:
        return self.reference.layout

    def build(self) -> Any:
        return self.reference.build()

    def save(self, model: Any, folder: Path) -> Path:
        return self.reference.save(model, folder)


CASES = {
    f'{family} {name}'.strip(): Case(family, reference)
    for family, said in declared().items()
    for name, reference in said.references.items()
}
FULL_SIZE = {
    name: Case(family, reference)
    for family, said in declared().items()
    for name, reference in said.full_size.items()
}


def plain(*layouts: str) -> list[str]:
    """Return the first case of each family and layout, of these layouts alone if some are named."""
    firsts: dict[Any, str] = {}
    for name, case in CASES.items():
        firsts.setdefault((case.family, case.layout), name)
    return [name for (_, layout), name in firsts.items() if not layouts or layout in layouts]


class Pair(NamedTuple):
    """A reference with random weights, the folder or file it was saved to, and ours of that."""

    case: Case
    reference: Any
    saved: Path
    model: Any
    params: bx.Params
    inputs: tuple[np.ndarray, ...]


def pair(case: Case, folder: Path, batch: int = 3) -> Pair:
    """Both sides of a case, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = randomized(case.build())
    model = ours(case, case.save(reference, folder))
    inputs = tuple(x[:batch] for x in random_inputs(model, seed=1))
    scale_outputs(reference, case.layout, model, inputs)
    saved = case.save(reference, folder)
    return Pair(case, reference, saved, model, convert(saved, model), inputs)


def randomized(reference: Any, seed: int = 0) -> Any:
    """`reference` for inference, its parameters and statistics random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith('weight')
            # What keeps the size of values: five to ten times what small models start with.
            std = _std(parameter.shape)
            parameter.normal_(float(is_scale), std, generator=generator)
        for name, buffer in reference.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_(0, 0.2, generator=generator)
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return reference.eval()


def _std(shape: Sequence[int]) -> float:
    if len(shape) == 4:
        return (2 / math.prod(shape[1:])) ** 0.5
    return min(shape) ** -0.5 if len(shape) == 2 else 0.1


_HEADS = (
    *('transformer.ln_f', 'classifier.1', 'classifier', 'heads.head', 'head.fc', 'head', 'fc'),
)


def scale_outputs(reference: Any, layout: str, model: Any, inputs: Sequence[np.ndarray]) -> None:
    """Makes the largest logit 1, by the weights of the last layer; without a head does nothing."""
    modules = dict(reference.named_modules())
    outputs = reference_outputs(reference, layout, model, inputs)
    head = next((modules[name] for name in _HEADS if name in modules), torch.nn.Identity())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter /= float(np.abs(outputs[model.path]).max())


def opened(pair: Pair, dtype: str) -> Any:
    """What `compare` takes as the reference in `dtype`: a folder, or a module where there is none."""
    return (
        copy.deepcopy(pair.reference).to(getattr(torch, dtype))
        if pair.saved.is_file()
        else pair.saved
    )


def ours(case: Case, saved: Path) -> Any:
    """Our model of a saved reference."""
    family = families()[case.family]
    table = layouts(case.family)[case.layout]
    said = case.reference
    stated = {} if said.variant else read_config(table, open_source(saved))
    config = family.variants[said.variant] if said.variant else family.config()
    return family.build(family.override(config, stated | dict(said.fields)))
