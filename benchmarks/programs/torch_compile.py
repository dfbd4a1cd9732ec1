"""torch with `torch.compile`, where that works."""

from typing import Any

from programs import torch
from programs.shared import Program

torch.COMPILED = True
versions = torch.versions


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    if work in ('greedy', 'sampled'):
        raise NotImplementedError('generate() of transformers compiles for static caches alone')
    return torch.build(work, model, sizes)
