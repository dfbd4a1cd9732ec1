"""Rules that the layouts of EVA share."""

from typing import Any

from blox.converters.mapping.parts import merged
from blox.converters.mapping.rules import Rule
from blox.converters.mapping.transforms import merge

BLOCK = 'eva/block{i}'


def tokens(config: Any, first: str, registers: str) -> tuple[Rule, ...]:
    """Map the tokens before the patches: the class's, and registers."""
    return (
        *((Rule('eva/cls_token', first),) if config.class_token else ()),
        *((Rule('eva/reg_token', registers),) if config.registers else ()),
    )


def apart(config: Any, theirs: str) -> tuple[Rule, ...]:
    """Map queries, keys and values of three matrices; where some are of fewer heads, block by block.

    Then all three have biases or none has, as in timm.
    """
    q, k, v = (f'{theirs}.{name}_proj' for name in 'qkv')
    has_bias = config.qkv_bias and config.k_bias
    if not config.kv_heads:
        return (
            *merged(f'{BLOCK}/attn/qkv', (q, k, v), bias=has_bias),
            *qv_bias(config, (f'{q}.bias', f'{v}.bias')),
        )
    return tuple(
        rule
        for i, heads in enumerate(config.kv_heads)
        for rule in merged(
            f'{BLOCK}/attn/qkv'.replace('{i}', str(i)),
            tuple(name.replace('{i}', str(i)) for name in (q, k, v)),
            (config.heads, heads, heads),
            bias=has_bias,
        )
    )


def qv_bias(config: Any, theirs: tuple[str, str]) -> tuple[Rule, ...]:
    """Map biases of queries and values where keys have none."""
    if not config.qkv_bias or config.k_bias:
        return ()
    return (Rule(f'{BLOCK}/attn/qv_bias', theirs, merge(0)),)


def scales(config: Any, *theirs: str) -> tuple[Rule, ...]:
    """Map the LayerScales of a block: of attention, and mostly of the MLP."""
    if not config.layer_scale:
        return ()
    scaled = theirs if config.layer_scaled == 'both' else theirs[:1]
    return tuple(Rule(f'{BLOCK}/ls{n}/scale', name) for n, name in enumerate(scaled, 1))
