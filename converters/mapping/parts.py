"""Parts of tables that several families share: rules of torch's layers, fields, headers."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blox.converters.mapping.fields import PAIR, Field, Via, one_of
from blox.converters.mapping.heads import label_fields, read_classes_of
from blox.converters.mapping.rules import Respelling, Rule
from blox.converters.mapping.transforms import (
    HWIO,
    IDENTITY,
    T,
    Transform,
    join_axes,
    merge,
    transpose,
)
from blox.converters.sources.source import Source

# Outputs of torch's convolutions, [batch, channels, height, width], as ours are.
NHWC = transpose(0, 2, 3, 1)
# Dense weights that are 1x1 convolutions there, [outputs, inputs, 1, 1].
FROM_CONV = HWIO >> join_axes(0, 1) >> join_axes(0, 1)

# By the names that configs of transformers give them; the first of several is written.
_HF_NAMES = {
    'gelu': 'gelu',
    'gelu_python': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu_python_tanh': 'gelu_tanh',
    'quick_gelu': 'quick_gelu',
    'relu': 'relu',
    'silu': 'silu',
    'swish': 'silu',
    'tanh': 'tanh',
}
ACTIVATION = one_of(_HF_NAMES)
# Which of two names of one function is written has a say in how torch rounds.
ACTIVATION_OF_TORCH = one_of({'gelu_pytorch_tanh': 'gelu_tanh', **_HF_NAMES})
# timm calls them as we do, and in places by a class's own name.
_TIMM_NAMES = ('gelu', 'gelu_tanh', 'quick_gelu', 'relu', 'silu', 'tanh')
TIMM_ACTIVATION = one_of(
    {**{name: name for name in _TIMM_NAMES}, 'GELU': 'gelu', 'ReLU': 'relu', 'SiLU': 'silu'}
)


# Fields that every model of images has among timm's arguments and in its pretrained_cfg.
TIMM_IMAGES = (
    Field('image_size', 'img_size', 224, PAIR),
    Field('in_channels', 'in_chans', 3),
    Field('num_classes', 'num_classes', 1000),
)
# timm's norms by their kind and eps. Those without a name are classes of timm's code, which its config.json
# cannot say: the name of the architecture does.
_NORM_LAYERS: Mapping[tuple[str, float], Any] = {
    ('layer', 1e-6): 'layernorm',
    ('layer', 1e-5): {'name': 'LayerNorm', 'eps': 1e-5},
    ('rms', 1e-6): 'rmsnorm',
    ('rms', 1e-5): {'name': 'RmsNorm', 'eps': 1e-5},
}


def read_class(classes: Mapping[Any, Any], value: Any) -> Any:
    """Return what timm's class is of ours. ValueError if it is none of these."""
    if value in ('RmsNorm', {'name': 'RmsNorm', 'eps': 1e-6}):
        value = 'rmsnorm'
    for ours, theirs in classes.items():
        if theirs == value:
            return ours
    raise ValueError(f'one of {", ".join(map(repr, classes.values()))}')


def read_timm_norm(value: Any) -> tuple[str, float]:
    """Return kind and eps of timm's norm, which is a LayerNorm if nothing is said."""
    return read_class(_NORM_LAYERS, value or 'layernorm')


def write_timm_norm(value: Any, known: Mapping[str, Any]) -> str | None:
    """Return timm's name of the norm, None if it has none."""
    found = _NORM_LAYERS.get((known['norm'], known['norm_eps']))
    return found if isinstance(found, str) else None


TIMM_NORM_KIND = Via(lambda value, known: read_timm_norm(value)[0], write_timm_norm)
TIMM_NORM_EPS = Via(lambda value, known: read_timm_norm(value)[1], write_timm_norm)


def read_layer_scale(value: Any, known: Mapping[str, Any]) -> float:
    """Return timm's start of LayerScale, 0 for none at all."""
    if value is not None and type(value) not in (int, float):
        raise ValueError('a number')
    return float(value or 0)


def _check_scale(value: float, known: Mapping[str, Any]) -> float:
    if not value:
        raise ValueError('a start of LayerScale other than 0')
    return float(value)


# The start of a LayerScale that all models of a kind have.
SCALE = Via(_check_scale, _check_scale)


def dense(ours: str, theirs: str, via: Transform = T, *, bias: bool = True) -> tuple[Rule, ...]:
    """Map a torch Linear, or a convolution with `via=HWIO`."""
    weight = Rule(f'{ours}/w', f'{theirs}.weight', via)
    return (weight, Rule(f'{ours}/b', f'{theirs}.bias')) if bias else (weight,)


def merged(
    ours: str, theirs: tuple[str, ...], parts: tuple[int, ...] = (), *, bias: bool = True
) -> tuple[Rule, ...]:
    """Map several torch Linear layers that are one of ours, equal ones or with so many `parts` of the outputs each."""
    # Rows are merged before the transpose: that way whole blocks of memory are copied.
    weight = Rule(f'{ours}/w', tuple(f'{name}.weight' for name in theirs), merge(0, parts) >> T)
    if not bias:
        return (weight,)
    return (weight, Rule(f'{ours}/b', tuple(f'{name}.bias' for name in theirs), merge(0, parts)))


def norm(
    ours: str, theirs: str, via: Transform = IDENTITY, *, offset: bool = True
) -> tuple[Rule, ...]:
    """Map a torch LayerNorm, or an RMSNorm without `offset`."""
    scale = Rule(f'{ours}/scale', f'{theirs}.weight', via)
    return (scale, Rule(f'{ours}/offset', f'{theirs}.bias', via)) if offset else (scale,)


def norm_of(config: Any) -> Callable[..., tuple[Rule, ...]]:
    """Return what maps norms of the kind that the model has."""
    return functools.partial(norm, offset=config.norm == 'layer')


def conv_norm(ours: str, conv: str, after: str, *, statistics: bool = True) -> tuple[Rule, ...]:
    """Map a torch convolution without bias and the BatchNorm after it, or a norm without statistics."""
    own = {'mean': 'running_mean', 'var': 'running_var'} if statistics else {}
    return (
        *dense(f'{ours}/conv', conv, HWIO, bias=False),
        *norm(f'{ours}/norm', after),
        *(Rule(f'{ours}/norm/{name}', f'{after}.{theirs}') for name, theirs in own.items()),
    )


def timm_pool(ours: str, own_norm: Callable[..., tuple[Rule, ...]] = norm) -> tuple[Rule, ...]:
    """Map timm's attention pool, whose query has a projection of its own there."""
    return (
        Rule(f'{ours}/latent', 'attn_pool.latent'),
        *merged(f'{ours}/qkv', ('attn_pool.q', 'attn_pool.kv'), (1, 2)),
        *dense(f'{ours}/proj', 'attn_pool.proj'),
        *own_norm(f'{ours}/norm', 'attn_pool.norm'),
        *dense(f'{ours}/mlp/fc1', 'attn_pool.mlp.fc1'),
        *dense(f'{ours}/mlp/fc2', 'attn_pool.mlp.fc2'),
    )


def read_classes(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return num_classes of a folder of transformers: its labels, if the weights have a head."""
    has_head = any('.classifier.' in f'.{name}' for name in source.tensors)
    return {'num_classes': read_classes_of(source) if has_head else 0}


def _has_classes(config: Any) -> bool:
    return config.num_classes > 0


def under(
    prefix: str | Callable[[Any], str], has_head: Callable[[Any], bool] = _has_classes
) -> Callable[[Any], tuple[Respelling, ...]]:
    """Spell names as transformers publishes them: below the body's own, where there is a head."""

    def published(config: Any) -> tuple[Respelling, ...]:
        name = prefix if isinstance(prefix, str) else prefix(config)
        return ((r'^(?!classifier\.)', f'{name}.'),) if has_head(config) else ()

    return published


# Pairs of what published names have, and live modules of transformers 5 in its place.
_Renamed = Sequence[tuple[str, str]]


def live_names(renamed: _Renamed) -> tuple[Respelling, ...]:
    """Spell published names as live modules do."""
    return tuple((re.escape(old), new) for old, new in renamed)


def published_names(renamed: _Renamed) -> tuple[Respelling, ...]:
    """Spell live modules' names as they are published."""
    return tuple((re.escape(new), old) for old, new in renamed)


def hf_header(
    model_type: str,
    classifier: str,
    body: str,
    has_head: Callable[[Any], bool] = _has_classes,
) -> Callable[[Any, Mapping[str, Any]], dict[str, Any]]:
    """Head config.json with the classes' names in transformers, and labels without names.

    Where there is a head of no classes, it says so, for transformers takes two for granted.
    """

    def header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            'architectures': [classifier if has_head(config) else body],
            'model_type': model_type,
            **theirs,
            **({'id2label': {}, 'label2id': {}} if has_head(config) else {}),
            **label_fields(config.num_classes),
        }

    return header


def timm_header(
    first_conv: str | Callable[[Any], str],
    classifier: str,
    num_features: Callable[[Any], int],
    *,
    fixed_size: bool = False,
    implied: tuple[str, ...] = ('img_size',),
) -> Callable[[Any, Mapping[str, Any]], dict[str, Any]]:
    """Make timm's config.json of arguments.

    Models of any image size take no `img_size`; what `implied` names, and what is None, the
    architecture's name says: timm's own builder takes no None, though its folders may have one.
    """

    def header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
        given = {k: v for k, v in theirs.items() if k not in implied and v is not None}
        if fixed_size and any(n % m for n, m in zip(config.image_size, config.patch_size)):
            # Models that take any size there take only those that patches tile.
            given['dynamic_img_size'] = False
        return {
            'num_classes': config.num_classes,
            'num_features': num_features(config),
            'global_pool': theirs.get('global_pool', 'avg'),
            'model_args': given,
            'pretrained_cfg': {
                'custom_load': False,
                'input_size': [config.in_channels, *config.image_size],
                'fixed_input_size': fixed_size,
                'num_classes': config.num_classes,
                'pool_size': None,
                'first_conv': first_conv if isinstance(first_conv, str) else first_conv(config),
                'classifier': classifier,
            },
        }

    return header
