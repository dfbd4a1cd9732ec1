"""ViT, as torchvision has it."""

from typing import Any

from blox.converters.mapping.parts import NHWC, dense, norm
from blox.converters.mapping.rules import Rule, Table
from blox.converters.mapping.transforms import HWIO, T
from blox.converters.tables.vit.parts import PLAIN, heads, tokens


def torchvision(config: Any) -> tuple[Rule, ...]:
    """Map to torchvision's names, whose attention has q, k and v in one array without a layer's name."""
    ours, layer = 'vit/block{i}', 'encoder.layers.encoder_layer_{i}'
    attention = f'{layer}.self_attention'
    return (
        *tokens(config, 'class_token', 'dist_token'),
        Rule('vit/pos_embed', 'encoder.pos_embedding'),
        *dense('vit/patch_embed', 'conv_proj', HWIO),
        *norm(f'{ours}/norm1', f'{layer}.ln_1'),
        Rule(f'{ours}/attn/qkv/w', f'{attention}.in_proj_weight', T),
        *((Rule(f'{ours}/attn/qkv/b', f'{attention}.in_proj_bias'),) if config.qkv_bias else ()),
        *dense(f'{ours}/attn/proj', f'{attention}.out_proj'),
        *norm(f'{ours}/norm2', f'{layer}.ln_2'),
        *dense(f'{ours}/mlp/fc1', f'{layer}.mlp.0'),
        *dense(f'{ours}/mlp/fc2', f'{layer}.mlp.3'),
        *norm('vit/norm', 'encoder.ln'),
        *(dense('vit/pre_logits', 'heads.pre_logits') if config.pre_logits else ()),
        *heads(config, 'heads.head', 'heads.head_dist'),
    )


_TORCHVISION_LAYERS = (
    Rule('vit/patch_embed', 'conv_proj', NHWC),
    Rule('vit/block{i}/norm1', 'encoder.layers.encoder_layer_{i}.ln_1'),
    Rule('vit/block{i}/attn', 'encoder.layers.encoder_layer_{i}.self_attention'),
    Rule('vit/block{i}/norm2', 'encoder.layers.encoder_layer_{i}.ln_2'),
    Rule('vit/block{i}/mlp', 'encoder.layers.encoder_layer_{i}.mlp'),
    Rule('vit/block{i}', 'encoder.layers.encoder_layer_{i}'),
    Rule('vit/norm', 'encoder.ln'),
    Rule('vit/head', 'heads.head'),
)


TABLES = {
    'torchvision': Table(
        torchvision,
        limits=PLAIN,
        layers=lambda config: _TORCHVISION_LAYERS,
        # As it called the layers of its MLPs before 0.14.
        spellings=((r'\.mlp\.linear_1\.', '.mlp.0.'), (r'\.mlp\.linear_2\.', '.mlp.3.')),
        facts={'activation': 'gelu', 'norm_eps': 1e-6},
    ),
}
