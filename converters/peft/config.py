"""Read and write adapter_config.json: which modules PEFT adapts or saves, and how."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import re2

from blox.adapters import is_scale
from blox.converters.mapping.fields import Field, Via, fixed, read_fields
from blox.converters.sources.files import read_object
from blox.tensorfile import fail

# Starts of training that leave the base as it is.
_INITS = (True, False, 'gaussian', 'eva', 'mica', 'orthogonal')
# Settings that are never off: false is a mistake there.
_NUMBERS = ('r', 'lora_alpha')
# Far above those of any weight.
_MAX_RANK = 2**16
# Settings that have no say in the outputs of an adapter that was trained.
_NEUTRAL = """
    auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config
    fan_in_fan_out inference_mode loftq_config lora_dropout lora_ga_config megatron_core
    merge_weights peft_version qalora_group_size revision runtime_config task_type
"""


@dataclass(frozen=True)
class Config:
    """The settings of an adapter_config.json that concern modules.

    Attributes:
      targets: names of modules, or their ends, or one regular expression; so is `excluded`.
      whole: ends of names of modules that were trained and saved whole.
      ranks, alphas: by expressions for ends of names, where not `rank` and `alpha`.
      blocks: numbers of the only blocks that are adapted; `lists` are names of what holds them.
    """

    targets: str | list[str]
    excluded: str | list[str]
    whole: list[str]
    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    is_rank_stabilized: bool
    blocks: list[int]
    lists: list[str]

    def adapts(self, module: str) -> bool:
        """Return whether PEFT gives the module an adapter."""
        if self.saves(module) or _is_named(module, self.excluded):
            return False
        is_listed = isinstance(self.targets, list) and module in self.targets
        return is_listed or (_is_named(module, self.targets) and self._is_in_blocks(module))

    def saves(self, module: str) -> bool:
        """Return whether PEFT saves the module whole, alone or inside of another."""
        parts = module.split('.')
        around = ('.'.join(parts[: i + 1]) for i in range(len(parts)))
        return any(name.endswith(tuple(self.whole)) for name in around)

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's adapter."""
        return next((r for end, r in self.ranks.items() if _ends(module, end)), self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor by which a module's adapter counts."""
        rank = self.rank_of(module)
        alpha = next((a for end, a in self.alphas.items() if _ends(module, end)), self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilized else rank)

    def _is_in_blocks(self, module: str) -> bool:
        starts = map(_up_to_number, self.lists or [''])
        found = (_compiled(start).match(module) for start in starts)
        number = next((match['idx'] for match in found if match), '')
        return not self.blocks or number in map(str, self.blocks)


def _is_named(module: str, names: str | list[str]) -> bool:
    if isinstance(names, str):
        return _compiled(names).fullmatch(module) is not None
    return any(f'.{module}'.endswith(f'.{name}') for name in names)


def _up_to_number(blocks: str) -> str:
    """Return an expression for names from their start to the number of a block."""
    start = rf'(?:.*?\.)?{blocks}' if blocks else r'.*?\.[^.]*'
    return rf'{start}\.(?P<idx>\d+)\.'


def _ends(module: str, pattern: str) -> bool:
    return _compiled(rf'(.*\.)?({pattern})').fullmatch(module) is not None


@functools.cache
def _compiled(pattern: str) -> Any:
    """Compile a stranger's expression for RE2, whose time grows with the text and no faster.

    Raises ValueError for what it does not know: looking ahead or behind, references back.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        raise ValueError(error.args[0].decode(errors='replace')) from error


def read_config(path: Path) -> Config:
    """Read the file. CheckpointError for what plain adapters do not express."""
    found = read_object(path)
    # What is off changes nothing, in fields of other versions too.
    said = {k: v for k, v in found.items() if v is not None and (k in _NUMBERS or not _is_off(v))}
    for name in {'layers_to_transform', 'layers_pattern'} & said.keys():
        said[name] = said[name] if isinstance(said[name], list) else [said[name]]
    try:
        return _parsed(said)
    except (ValueError, OverflowError) as error:
        fail(path, str(error))


def _is_off(value: Any) -> bool:
    return value is False or value in ([], {})


def _parsed(said: Mapping[str, Any]) -> Config:
    start = said.get('init_lora_weights', True)
    kinds = fixed(
        peft_type='LORA', bias='none', init_lora_weights=start if start in _INITS else True
    )
    is_neutral = lambda name, value: name in _NEUTRAL.split()  # noqa: E731
    try:
        fields = read_fields((*_FIELDS, *kinds), {'peft_type': '', **said}, is_neutral)
    except ValueError as error:
        raise ValueError(f"needs what blox's adapters lack: {error}") from error
    config = Config(**fields)
    if problems := _problems(config):
        raise ValueError(f'expected {"; ".join(problems)}')
    return config


def _listed(kind: type, *, or_one: bool = False) -> Via:
    """Take a list of values of one type, [] for none; with `or_one`, a single one as it is."""

    def read(value: Any, known: Mapping[str, Any]) -> Any:
        if or_one and type(value) is kind:
            return value
        found = [] if value is None else value
        if not isinstance(found, list) or not all(type(item) is kind for item in found):
            raise ValueError(f'a list of {kind.__name__}')
        return found

    return Via(read)


def _by_end(*kinds: type) -> Via:
    """Take numbers by expressions for the ends of names."""

    def read(value: Any, known: Mapping[str, Any]) -> Any:
        found = {} if value is None else value
        if not isinstance(found, dict) or not all(
            type(number) in kinds and math.isfinite(number) for number in found.values()
        ):
            raise ValueError(f'an object of {kinds[-1].__name__}s')
        return found

    return Via(read)


_FIELDS = (
    Field('targets', 'target_modules', None, _listed(str, or_one=True)),
    Field('excluded', 'exclude_modules', None, _listed(str, or_one=True)),
    Field('whole', 'modules_to_save', None, _listed(str)),
    Field('rank', 'r', 8),
    Field('alpha', 'lora_alpha', 8.0),
    Field('ranks', 'rank_pattern', None, _by_end(int)),
    Field('alphas', 'alpha_pattern', None, _by_end(int, float)),
    Field('is_rank_stabilized', 'use_rslora', False),
    Field('blocks', 'layers_to_transform', None, _listed(int)),
    Field('lists', 'layers_pattern', None, _listed(str)),
)


def _problems(config: Config) -> list[str]:
    """Return a clause for each value of the right type that is wrong all the same."""
    problems = []
    ranks = [config.rank, *config.ranks.values()]
    if not all(1 <= rank <= _MAX_RANK for rank in ranks):
        problems.append(f'ranks (r, rank_pattern) of 1 to {_MAX_RANK}, found {ranks}')
    alphas = [config.alpha, *config.alphas.values()]
    if not all(map(is_scale, alphas)):
        problems.append(f'alphas (lora_alpha, alpha_pattern) within float32, found {alphas}')
    if not config.targets or config.targets == 'all-linear':
        problems.append(f'target_modules by their names, found {config.targets!r}')
    patterns = {
        'target_modules': [config.targets] if isinstance(config.targets, str) else [],
        'exclude_modules': [config.excluded] if isinstance(config.excluded, str) else [],
        'rank_pattern': [f'.*({end})$' for end in config.ranks],
        'alpha_pattern': [f'.*({end})$' for end in config.alphas],
        'layers_pattern': [_up_to_number(name) for name in config.lists],
    }
    for name, pattern in ((name, pattern) for name, found in patterns.items() for pattern in found):
        try:
            _compiled(pattern)
        except ValueError as error:
            problems.append(f'{name} of regular expressions, found {pattern!r}: {error}')
    return problems


# Writing.


def config_fields(
    adapted: Mapping[str, tuple[int, float]], whole: list[str], modules: Iterable[str]
) -> dict[str, Any]:
    """Return the fields that adapt modules with these ranks and scales, and save others whole.

    `modules` are all that there are. PEFT goes by the ends of names: ValueError where those of
    `whole` are the ends of others too.
    """
    rest = [module for module in modules if module not in whole]
    if others := sorted(module for module in rest if module.endswith(tuple(whole))):
        raise ValueError(f'PEFT cannot save {", ".join(whole)} without {", ".join(others)}')
    ranks = {module: rank for module, (rank, _) in adapted.items()}
    alphas = {module: _alpha(scale, rank) for module, (rank, scale) in adapted.items()}
    return {
        'inference_mode': True,
        'target_modules': _targets(list(adapted), rest),
        'modules_to_save': whole or None,
        'r': _usual(ranks),
        'lora_alpha': _usual(alphas),
        'rank_pattern': _unusual(ranks),
        'alpha_pattern': _unusual(alphas),
        'lora_dropout': 0.0,
        'bias': 'none',
        'use_rslora': False,
    }


def _targets(names: list[str], modules: Iterable[str]) -> str | list[str]:
    """Return the names, or a regular expression where they are the ends of others' names too."""
    ends = tuple(f'.{name}' for name in names)
    if any(module.endswith(ends) for module in modules if module not in names):
        return '|'.join(map(re.escape, names))
    return names


def _alpha(scale: float, rank: int) -> float:
    """Return the number that divided by `rank` is `scale`, to the last bit if there is one."""
    near = scale * rank
    candidates = (
        round(near),
        near,
        math.nextafter(near, math.inf),
        math.nextafter(near, -math.inf),
    )
    return next((alpha for alpha in candidates if alpha / rank == scale), near)


def _usual(values: Mapping[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]


def _unusual(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that are not as usual, by expressions for whole names."""
    usual = _usual(values)
    return {f'^{re.escape(name)}': value for name, value in values.items() if value != usual}
