"""What the layouts of ViT share: rules of tokens and heads, and what only some can hold."""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.parts import dense
from blox.converters.mapping.rules import Rule

# What only timm's files may have otherwise.
COMMON: Mapping[str, tuple[Any, ...]] = {
    'patch_norm': (False,),
    'pre_norm': (False,),
    'final_norm': ('tokens', 'pooled'),
    'proj_bias': (True,),
    'qk_norm': (False,),
    'inner_norms': (False,),
    'block': ('plain',),
    'differential': (False,),
    'norm': ('layer',),
}
PLAIN: Mapping[str, tuple[Any, ...]] = {
    **COMMON,
    'mlp': ('plain',),
    'pool': ('cls', 'avg'),
    'registers': (0,),
    'positions': ('all',),
    'layer_scale': (0,),
}


def tokens(config: Any, *names: str) -> tuple[Rule, ...]:
    """Map the tokens before the patches: the class's, a distilled model's second one, registers."""
    known = dict(zip(('cls_token', 'dist_token', 'reg_token'), names))
    return tuple(Rule(f'vit/{name}', known[name]) for name in config.prefix_tokens if name in known)


def scales(config: Any, theirs: str) -> tuple[Rule, ...]:
    """Map the two LayerScales of a block, the n-th of which has the name that `{n}` makes."""
    if not config.layer_scale:
        return ()
    return tuple(Rule(f'vit/block{{i}}/ls{n}/scale', theirs.replace('{n}', str(n))) for n in (1, 2))


def heads(config: Any, first: str, second: str = '') -> tuple[Rule, ...]:
    """Map torch's head, and a distilled model's second one."""
    return (
        *(dense('vit/head', first) if config.num_classes else ()),
        *(dense('vit/head_dist', second) if has_two_heads(config) else ()),
    )


def has_two_heads(config: Any) -> bool:
    return config.distilled and config.num_classes > 0
