"""ViT: transformers, timm, torchvision, and .npz files of Google's vision_transformer and big_vision."""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from blox.converters.mapping.fields import PAIR, Field, Via, fixed, one_of, times
from blox.converters.mapping.libraries import DISTILLED, TIMM, TRANSFORMERS
from blox.converters.mapping.parts import (
    ACTIVATION,
    NHWC,
    TIMM_ACTIVATION,
    TIMM_IMAGES,
    dense,
    hf_header,
    merged,
    norm,
    read_classes,
    timm_header,
    under,
)
from blox.converters.mapping.rules import Respelling, Rule, Table
from blox.converters.mapping.transforms import HWIO, IDENTITY, T, join_axes, merge, prepend_zeros
from blox.converters.sources.source import Source


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to the names of transformers.ViTModel on disk, without the prefix 'vit.'."""
    layer = 'encoder.layer.{i}'
    parts = tuple(f'{layer}.attention.attention.{name}' for name in ('query', 'key', 'value'))
    return (
        *_tokens(config, 'embeddings.cls_token', 'embeddings.distillation_token'),
        Rule('vit/pos_embed', 'embeddings.position_embeddings'),
        *dense('vit/patch_embed', 'embeddings.patch_embeddings.projection', HWIO),
        *norm('vit/block{i}/norm1', f'{layer}.layernorm_before'),
        *merged('vit/block{i}/attn/qkv', parts, bias=config.qkv_bias),
        *dense('vit/block{i}/attn/proj', f'{layer}.attention.output.dense'),
        *norm('vit/block{i}/norm2', f'{layer}.layernorm_after'),
        *dense('vit/block{i}/mlp/fc1', f'{layer}.intermediate.dense'),
        *dense('vit/block{i}/mlp/fc2', f'{layer}.output.dense'),
        *norm('vit/norm', 'layernorm'),
        *(dense('vit/pre_logits', 'pooler.dense') if config.pre_logits else ()),
        *_heads(config, 'classifier', 'distillation_classifier'),
    )


def timm(config: Any) -> tuple[Rule, ...]:
    """Map to timm's names; what is normalized after pooling is so by `fc_norm`."""
    ours, theirs = 'vit/block{i}', 'blocks.{i}'
    own_norm = functools.partial(norm, offset=config.norm == 'layer')
    last_norm = {'tokens': 'norm', 'pooled': 'fc_norm'}.get(config.final_norm, '')
    return (
        *_tokens(config, 'cls_token', 'dist_token', 'reg_token'),
        Rule('vit/pos_embed', 'pos_embed'),
        *dense('vit/patch_embed', 'patch_embed.proj', HWIO, bias=not config.pre_norm),
        *(own_norm('vit/patch_norm', 'patch_embed.norm') if config.patch_norm else ()),
        *(own_norm('vit/pre_norm', 'norm_pre') if config.pre_norm else ()),
        *own_norm(f'{ours}/norm1', f'{theirs}.norm1'),
        *dense(f'{ours}/attn/qkv', f'{theirs}.attn.qkv', bias=config.qkv_bias),
        *(
            rule
            for name in (('q_norm', 'k_norm') * config.qk_norm + ('norm',) * config.inner_norms)
            for rule in own_norm(f'{ours}/attn/{name}', f'{theirs}.attn.{name}')
        ),
        *dense(f'{ours}/attn/proj', f'{theirs}.attn.proj', bias=config.proj_bias),
        *own_norm(f'{ours}/norm2', f'{theirs}.norm2'),
        *_timm_fc1(config, f'{ours}/mlp/fc1', f'{theirs}.mlp'),
        *(own_norm(f'{ours}/mlp/norm', f'{theirs}.mlp.norm') if config.inner_norms else ()),
        *dense(f'{ours}/mlp/fc2', f'{theirs}.mlp.fc2', bias=config.proj_bias),
        *(
            Rule(f'{ours}/ls{n}/scale', f'{theirs}.ls{n}.gamma')
            for n in (1, 2)
            if config.layer_scale
        ),
        *(own_norm('vit/norm', last_norm) if last_norm else ()),
        *(_timm_pool(own_norm) if config.pool == 'map' else ()),
        *(dense('vit/pre_logits', 'pre_logits.fc') if config.pre_logits else ()),
        *_heads(config, 'head', 'head_dist'),
    )


def _timm_fc1(config: Any, ours: str, theirs: str) -> tuple[Rule, ...]:
    """Map the first layer of an MLP; gate and value may be two matrices there."""
    if config.mlp == 'gated_apart':
        return merged(ours, (f'{theirs}.fc1_g', f'{theirs}.fc1_x'), bias=config.proj_bias)
    return dense(ours, f'{theirs}.fc1', bias=config.proj_bias)


def _timm_pool(own_norm: Callable[..., tuple[Rule, ...]]) -> tuple[Rule, ...]:
    """Map an attention pool, whose query has a projection of its own there."""
    return (
        Rule('vit/pool/latent', 'attn_pool.latent'),
        *merged('vit/pool/qkv', ('attn_pool.q', 'attn_pool.kv'), (1, 2)),
        *dense('vit/pool/proj', 'attn_pool.proj'),
        *own_norm('vit/pool/norm', 'attn_pool.norm'),
        *dense('vit/pool/mlp/fc1', 'attn_pool.mlp.fc1'),
        *dense('vit/pool/mlp/fc2', 'attn_pool.mlp.fc2'),
    )


def torchvision(config: Any) -> tuple[Rule, ...]:
    """Map to torchvision's names, whose attention has q, k and v in one array without a layer's name."""
    ours, layer = 'vit/block{i}', 'encoder.layers.encoder_layer_{i}'
    attention = f'{layer}.self_attention'
    return (
        *_tokens(config, 'class_token', 'dist_token'),
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
        *_heads(config, 'heads.head', 'heads.head_dist'),
    )


def google(config: Any) -> tuple[Rule, ...]:
    """Map to flax's names in google-research/vision_transformer, with an axis for heads."""
    return (
        Rule('vit/pos_embed', 'Transformer/posembed_input/pos_embedding'),
        *_flax(config),
    )


def big_vision(config: Any) -> tuple[Rule, ...]:
    """Map to the names of google-research/big_vision, which adds no position to the class token."""
    via = prepend_zeros(axis=1) if config.class_token else IDENTITY
    return (Rule('vit/pos_embed', 'pos_embedding', via), *_flax(config))


def _flax(config: Any) -> tuple[Rule, ...]:
    block, ours = 'Transformer/encoderblock_{i}', 'vit/block{i}'
    attention = f'{block}/MultiHeadDotProductAttention_0'
    parts = tuple(f'{attention}/{name}' for name in ('query', 'key', 'value'))
    # q, k and v: kernels [width, heads, head_dim], biases [heads, head_dim].
    kernels, biases = tuple(f'{p}/kernel' for p in parts), tuple(f'{p}/bias' for p in parts)
    qkv_w = join_axes(1, config.heads) >> merge(axis=1)
    qkv_b = join_axes(0, config.heads) >> merge(axis=0)
    return (
        *_tokens(config, 'cls', 'dist'),
        *_flax_dense('vit/patch_embed', 'embedding'),
        *_flax_norm(f'{ours}/norm1', f'{block}/LayerNorm_0'),
        Rule(f'{ours}/attn/qkv/w', kernels, qkv_w),
        *((Rule(f'{ours}/attn/qkv/b', biases, qkv_b),) if config.qkv_bias else ()),
        Rule(f'{ours}/attn/proj/w', f'{attention}/out/kernel', join_axes(0, config.heads)),
        Rule(f'{ours}/attn/proj/b', f'{attention}/out/bias'),
        *_flax_norm(f'{ours}/norm2', f'{block}/LayerNorm_1'),
        *_flax_dense(f'{ours}/mlp/fc1', f'{block}/MlpBlock_0/Dense_0'),
        *_flax_dense(f'{ours}/mlp/fc2', f'{block}/MlpBlock_0/Dense_1'),
        *_flax_norm('vit/norm', 'Transformer/encoder_norm'),
        *(_flax_dense('vit/pre_logits', 'pre_logits') if config.pre_logits else ()),
        *(_flax_dense('vit/head', 'head') if config.num_classes else ()),
        *(_flax_dense('vit/head_dist', 'head_dist') if _has_two_heads(config) else ()),
    )


# What only timm's files may have.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    'mlp': ('plain',),
    'pool': ('cls', 'avg'),
    'registers': (0,),
    'positions': ('all',),
    'patch_norm': (False,),
    'pre_norm': (False,),
    'final_norm': ('tokens', 'pooled'),
    'layer_scale': (0,),
    'proj_bias': (True,),
    'qk_norm': (False,),
    'inner_norms': (False,),
    'norm': ('layer',),
}


def _tokens(config: Any, *names: str) -> tuple[Rule, ...]:
    """Map the tokens before the patches: the class's, a distilled model's second one, registers."""
    known = dict(zip(('cls_token', 'dist_token', 'reg_token'), names))
    return tuple(Rule(f'vit/{name}', known[name]) for name in config.prefix_tokens if name in known)


def _heads(config: Any, *names: str) -> tuple[Rule, ...]:
    """Map torch's heads; the last name is that of a distilled model's second one."""
    first, second = (dense(*pair) for pair in zip(('vit/head', 'vit/head_dist'), names))
    return (*(first if config.num_classes else ()), *(second if _has_two_heads(config) else ()))


def _has_two_heads(config: Any) -> bool:
    return config.distilled and config.num_classes > 0


def _flax_dense(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f'{ours}/w', f'{theirs}/kernel'), Rule(f'{ours}/b', f'{theirs}/bias')


def _flax_norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    return Rule(f'{ours}/scale', f'{theirs}/scale'), Rule(f'{ours}/offset', f'{theirs}/bias')


_HF_LAYERS = (
    Rule('vit/patch_embed', 'embeddings.patch_embeddings.projection', NHWC),
    Rule('vit/block{i}/norm1', 'encoder.layer.{i}.layernorm_before'),
    Rule('vit/block{i}/attn', 'encoder.layer.{i}.attention'),
    Rule('vit/block{i}/norm2', 'encoder.layer.{i}.layernorm_after'),
    Rule('vit/block{i}/mlp', 'encoder.layer.{i}.mlp'),
    Rule('vit/block{i}', 'encoder.layer.{i}'),
    Rule('vit/head', 'classifier'),
)
_TIMM_LAYERS = (
    Rule('vit/patch_embed', 'patch_embed.proj', NHWC),
    *(Rule(f'vit/block{{i}}/{n}', f'blocks.{{i}}.{n}') for n in ('norm1', 'attn', 'norm2', 'mlp')),
    Rule('vit/pre_norm', 'norm_pre'),
    Rule('vit/block{i}', 'blocks.{i}'),
    Rule('vit/pool', 'attn_pool'),
    Rule('vit/head', 'head'),
    Rule('vit/head_dist', 'head_dist'),
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


def _read_heads(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return which of a head and a pooler the weights have; with a head, no pooler is run."""
    classes = read_classes(source, ours)
    is_pooled = any(name.endswith('pooler.dense.weight') for name in source.tensors)
    pre_logits = ours['pre_logits'] if is_pooled and not classes['num_classes'] else 0
    return {**classes, 'pre_logits': pre_logits}


_HF_FIELDS = (
    Field('image_size', 'image_size', 224, PAIR),
    Field('patch_size', 'patch_size', 16, PAIR),
    Field('in_channels', 'num_channels', 3),
    Field('width', 'hidden_size', 768),
    Field('depth', 'num_hidden_layers', 12),
    Field('heads', 'num_attention_heads', 12),
    Field('mlp_dim', 'intermediate_size', 3072),
    Field(
        'pre_logits',
        'pooler_output_size',
        lambda known: known['width'],
        Via(write=lambda size, known: size or known['width']),
    ),
    Field('qkv_bias', 'qkv_bias', True),
    Field('activation', 'hidden_act', 'gelu', ACTIVATION),
    Field('norm_eps', 'layer_norm_eps', 1e-12),
    Field('dropout_rate', 'hidden_dropout_prob', 0.0),
    Field('attention_dropout_rate', 'attention_probs_dropout_prob', 0.0),
    *fixed(pooler_act='tanh'),
)
# Norms by their kind and eps. Those without a name are classes of timm's code, which its config.json
# cannot say: the name of the architecture does. So it is with MLPs.
_NORM_LAYERS: Mapping[tuple[str, float], Any] = {
    ('layer', 1e-6): 'layernorm',
    ('layer', 1e-5): {'name': 'LayerNorm', 'eps': 1e-5},
    ('rms', 1e-6): 'rmsnorm',
    ('rms', 1e-5): {'name': 'RmsNorm', 'eps': 1e-5},
}
_MLP_LAYERS: Mapping[str, Any] = {
    'gated': {'name': 'GluMlp', 'act_layer': 'SiLU', 'gate_last': False},
    'gated_apart': 'SwiGLU',
}


def _read_class(classes: Mapping[Any, Any], value: Any) -> Any:
    value = 'rmsnorm' if value == 'RmsNorm' else value
    for ours, theirs in classes.items():
        if theirs == value:
            return ours
    raise ValueError(f'one of {", ".join(map(repr, classes.values()))}')


def _read_norm(value: Any) -> tuple[str, float]:
    return _read_class(_NORM_LAYERS, value or 'layernorm')


def _write_norm(value: Any, known: Mapping[str, Any]) -> str | None:
    """Return timm's name of the norm, None if it has none."""
    found = _NORM_LAYERS.get((known['norm'], known['norm_eps']))
    return found if isinstance(found, str) else None


_NORM_KIND = Via(lambda value, known: _read_norm(value)[0], _write_norm)
_NORM_EPS = Via(lambda value, known: _read_norm(value)[1], _write_norm)


def _read_patch_norm(value: Any, known: Mapping[str, Any]) -> bool:
    if value is not None and _read_norm(value) != (known['norm'], known['norm_eps']):
        raise ValueError(f'the norm of the blocks, {known["norm"]!r} of eps {known["norm_eps"]}')
    return value is not None


_PATCH_NORM = Via(
    _read_patch_norm, lambda value, known: _write_norm(value, known) if value else None
)
_MLP_LAYER = Via(
    lambda value, known: 'plain' if value is None else _read_class(_MLP_LAYERS, value),
    lambda value, known: None,
)


def _read_layer_scale(value: Any, known: Mapping[str, Any]) -> float:
    if value is not None and type(value) not in (int, float):
        raise ValueError('a number')
    return float(value or 0)


def _halves(known: Mapping[str, Any]) -> int:
    """Count the parts that the outputs of an MLP's first layer have, by which timm counts its width."""
    return 2 if known['mlp'] == 'gated' else 1


def _read_mlp_dim(ratio: float, known: Mapping[str, Any]) -> int:
    return _RATIO.read(ratio, known) // _halves(known)


def _write_mlp_dim(mlp_dim: int, known: Mapping[str, Any]) -> float:
    return _RATIO.write(mlp_dim * _halves(known), known)


_RATIO = times('width')
# Which tokens the last norm is of: timm says apart whether there is one, and whether it comes after the
# pool, as it does before averaging unless told otherwise.
_FINAL_NORM = Via(
    lambda value, known: 'tokens' if value else 'none', lambda value, known: value != 'none'
)


def _read_fc_norm(value: bool | None, known: Mapping[str, Any]) -> str:
    is_pooled = known['pool'] == 'avg' if value is None else value
    return 'pooled' if is_pooled and known['final_norm'] != 'none' else known['final_norm']


_FC_NORM = Via(_read_fc_norm, lambda value, known: value == 'pooled', takes_null=True)
_TIMM_FIELDS = (
    *TIMM_IMAGES,
    Field('patch_size', 'patch_size', 16, PAIR),
    Field('width', 'embed_dim', 768),
    Field('depth', 'depth', 12),
    Field('heads', 'num_heads', 12),
    Field('mlp', 'mlp_layer', None, _MLP_LAYER),
    Field('mlp_dim', 'mlp_ratio', 4.0, Via(_read_mlp_dim, _write_mlp_dim)),
    Field('pool', 'global_pool', 'token', one_of({'token': 'cls', 'avg': 'avg', 'map': 'map'})),
    Field('pool_prefix', 'pool_include_prefix', False),
    Field('class_token', 'class_token', True),
    Field('registers', 'reg_tokens', 0),
    # No argument, but a class of its own.
    Field('distilled', DISTILLED, False),
    Field('positions', 'no_embed_class', False, one_of({False: 'all', True: 'patches'})),
    Field('norm', 'norm_layer', None, _NORM_KIND),
    Field('norm_eps', 'norm_layer', None, _NORM_EPS),
    Field('patch_norm', 'embed_norm_layer', None, _PATCH_NORM),
    Field('pre_norm', 'pre_norm', False),
    Field('final_norm', 'final_norm', True, _FINAL_NORM),
    Field('final_norm', 'fc_norm', lambda known: known['pool'] == 'avg', _FC_NORM),
    Field(
        'layer_scale',
        'init_values',
        None,
        Via(_read_layer_scale, lambda value, known: value),
    ),
    Field('qkv_bias', 'qkv_bias', True),
    Field('proj_bias', 'proj_bias', True),
    Field('qk_norm', 'qk_norm', False),
    Field('inner_norms', ('scale_attn_norm', 'scale_mlp_norm'), False),
    Field('activation', 'act_layer', 'gelu', TIMM_ACTIVATION),
    Field('dropout_rate', ('pos_drop_rate', 'proj_drop_rate'), 0.0),
    Field('attention_dropout_rate', 'attn_drop_rate', 0.0),
    Field('drop_path_rate', 'drop_path_rate', 0.0),
    *fixed(
        attn_layer='attn',
        block_fn=None,
        drop_rate=0.0,
        dynamic_img_pad=False,
        patch_drop_rate=0.0,
        pos_embed='learn',
    ),
)


def _timm_header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    made = timm_header(
        'patch_embed.proj',
        'head',
        lambda config: config.width,
        fixed_size=True,
        implied=(DISTILLED,),
    )(config, theirs)
    if config.distilled:
        made['pretrained_cfg']['classifier'] = ['head', 'head_dist']
    return made


# On disk, and as transformers 5 calls its live modules; it can save by those names too.
_HF_RENAMED = (
    ('encoder.layer.', 'layers.'),
    ('attention.attention.query', 'attention.q_proj'),
    ('attention.attention.key', 'attention.k_proj'),
    ('attention.attention.value', 'attention.v_proj'),
    ('attention.output.dense', 'attention.o_proj'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
)
_FLAX_SPELLINGS: tuple[Respelling, ...] = (
    (r'^opt/target/', ''),
    (r'^params/', ''),
    (r'^img/', ''),
    (r'/LayerNorm_2/', '/LayerNorm_1/'),
    (r'/MultiHeadDotProductAttention_1/', '/MultiHeadDotProductAttention_0/'),
    (r'/MlpBlock_3/', '/MlpBlock_0/'),
)
_FLAX: dict[str, Any] = {
    'limits': _PLAIN,
    'spellings': _FLAX_SPELLINGS,
    'stacked': 'Transformer/encoderblock/',
    # Google's code approximates gelu, so the same weights are another function than in timm.
    'facts': {'activation': 'gelu_tanh', 'norm_eps': 1e-6},
}

TABLES = {
    'hf': Table(
        hf,
        limits=_PLAIN,
        layers=lambda config: _HF_LAYERS,
        spellings=((r'^vit\.', ''), *((re.escape(new), old) for old, new in _HF_RENAMED)),
        published=under('vit'),
        live=tuple((re.escape(old), new) for old, new in _HF_RENAMED),
        facts={'activation': 'gelu', 'norm_eps': 1e-12},
        library=TRANSFORMERS,
        kinds=('vit',),
        fields=_HF_FIELDS,
        beside=_read_heads,
        header=hf_header('vit', 'ViTForImageClassification', 'ViTModel'),
        unsaid=lambda config: ('drop_path_rate',),
    ),
    'timm': Table(
        timm,
        layers=lambda config: _TIMM_LAYERS,
        facts={'activation': 'gelu', 'norm_eps': 1e-6},
        library=TIMM,
        kinds=('VisionTransformer', 'VisionTransformerDistilled'),
        fields=_TIMM_FIELDS,
        # They have a say in training's start, or for images of other sizes, which ours refuses.
        neutral=('dynamic_img_size', 'fix_init', 'strict_img_size', 'weight_init'),
        header=_timm_header,
    ),
    'torchvision': Table(
        torchvision,
        limits=_PLAIN,
        layers=lambda config: _TORCHVISION_LAYERS,
        # As it called the layers of its MLPs before 0.14.
        spellings=((r'\.mlp\.linear_1\.', '.mlp.0.'), (r'\.mlp\.linear_2\.', '.mlp.3.')),
        facts={'activation': 'gelu', 'norm_eps': 1e-6},
    ),
    'google': Table(google, **_FLAX),
    'big_vision': Table(big_vision, **_FLAX),
}
