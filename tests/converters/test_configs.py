"""Configs of other libraries: what is honoured, what is refused, and that all of ours come back."""

import dataclasses
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from test_convert import CONFIGS, TINY, build, family_of, pairs, planned, source_of, tiny

from blox import CheckpointError
from blox.converters import export, identify, layouts
from blox.converters.configs import read_config, write_config
from blox.converters.mapping.rules import respell
from blox.params import Params
from blox.zoo.models import families

# Settings there and back.

RATES = {'dropout_rate': 0.25, 'attention_dropout_rate': 0.5}
TOLD = {
    'bert': [
        {'activation': 'gelu_tanh', 'norm_eps': 1e-3, 'embed_dropout_rate': 0.25, **RATES},
        {'activation': 'relu', 'pool': 'mean', 'normalize': True},
        {'activation': 'silu', 'pool': 'first', 'normalize': True},
        {'activation': 'tanh', 'pooler': False},
    ],
    'gpt2': [
        {'activation': 'relu', 'norm_eps': 1e-3, 'embed_dropout_rate': 0.125, **RATES},
        {'activation': 'gelu', 'scale_attention_by_depth': True},
        {'tied_head': False, 'scale_attention': False, 'activation': 'silu'},
        {'activation': 'tanh', 'vocab_size': 50257},
    ],
    'resnet': [
        {'drop_path_rate': 0.25},
        {'image_size': (32, 16), 'widths': (8, 16)},
        {'depths': (3, 4, 6, 3), 'widths': (64, 128, 256, 512)},
    ],
    'vit': [
        RATES,
        {'drop_path_rate': 0.25, 'mlp_dim': 29},
        *({'activation': name} for name in ('gelu_tanh', 'relu', 'silu', 'tanh')),
    ],
}
# Family, fields, layout, and what an export says.
NOT_EXPORTED = [
    ('bert', {'embed_dropout_rate': 0.2}, 'hf', 'embed_dropout_rate equal to dropout_rate'),
    ('bert', {'pool': 'pooler'}, 'hf', "no folder says pool 'pooler'"),
    ('resnet', {'stem': 'small'}, 'hf', "stem 'small', which would be 'imagenet'"),
    ('resnet', {'groups': 2, 'group_width': 32}, 'hf', 'groups 2, which would be 1'),
    ('resnet', {'bn_eps': 1e-3}, 'hf', 'bn_eps 0.001'),
    ('resnet', {'bn_decay': 0.5}, 'hf', 'bn_decay 0.5'),
    ('resnet', {'stem': 'small'}, 'timm', "stem 'small'"),
    ('resnet', {'stem_width': 8}, 'timm', 'stem_width 8'),
    ('resnet', {'stride_on': 'conv1'}, 'timm', "stride_on 'conv1'"),
    ('resnet', {'bn_eps': 1e-3}, 'timm', 'bn_eps 0.001'),
    ('resnet', {'bn_decay': 0.5}, 'timm', 'bn_decay 0.5'),
    ('vit', {'pool': 'avg'}, 'hf', "pool 'avg', which would be 'cls'"),
    ('vit', {'pre_logits': 5}, 'hf', 'pre_logits 5'),
    ('vit', {'pre_logits': 5}, 'timm', 'pre_logits 5'),
    ('vit', {'num_classes': 0, 'pre_logits': 8}, 'timm', 'pre_logits 8'),
    ('vit', {'norm_eps': 1e-3}, 'timm', 'norm_eps of 1e-06, found 0.001'),
]


@pytest.mark.parametrize(('family', 'fields', 'layout', 'message'), NOT_EXPORTED, ids=str)
def test_what_a_library_cannot_express_is_not_exported(tmp_path, family, fields, layout, message):
    model = build(tiny(family, **fields))
    with pytest.raises(ValueError, match=re.escape(message)):
        export(tmp_path, model, Params(), layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('layout', 'message'),
    [
        ('google', "cannot be exported as 'google'"),
        ('nothing', "has the layouts hf, timm, google, big_vision, not 'nothing'"),
    ],
)
def test_what_is_no_library_of_the_family_is_not_exported(tmp_path, layout, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        export(tmp_path, build(tiny('vit')), Params(), layout)


def folder_of(config, layout, folder):
    """Open what `export` writes, the data left out."""
    table = layouts(family_of(config).name)[layout]
    fields = json.loads(json.dumps(write_config(table, config)))
    for name, content in table.companions(config).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    published = table.published(config)
    hollow = {
        respell(name, published): np.broadcast_to(np.float32(0), shape)
        for entry in planned(config, layout).values()
        for name, shape in zip(entry.names, entry.shapes)
    }
    return source_of(hollow, fields, folder)


def check_return(config, layout, folder):
    """A config is refused by name, or comes back as it was from what a library would read."""
    family = family_of(config)
    table = layouts(family.name)[layout]
    try:
        source = folder_of(config, layout, folder)
    except ValueError as error:
        return re.match(r'\w+ cannot express|no folder says', str(error)) is None
    found = family.override(family.config(), read_config(table, source))
    unsaid = {name: getattr(config, name) for name in table.unsaid}
    assert dataclasses.replace(found, **unsaid) == config
    return True


def readable(configs):
    """Configs and layouts of a library that writes config.json."""
    tables = (
        (name, layout, layouts(family_of(configs[name]).name)[layout])
        for name, layout in pairs(configs)
    )
    return [(name, layout) for name, layout, table in tables if table.library]


@pytest.mark.parametrize(('name', 'layout'), readable(CONFIGS))
def test_configs_come_back(tmp_path, name, layout):
    assert check_return(CONFIGS[name], layout, tmp_path) in (True, False)


@pytest.mark.parametrize(
    ('family', 'fields'), [(f, told) for f in TOLD for told in TOLD[f]], ids=str
)
def test_every_setting_that_a_library_has_comes_back(tmp_path, family, fields):
    found = [
        check_return(tiny(family, **fields), layout, tmp_path)
        for _, layout in readable({'': tiny(family)})
    ]
    assert any(found)


# Settings by the name of their field, whatever the config.
DRAWN = {
    'activation': st.sampled_from(['gelu', 'gelu_tanh', 'relu', 'silu', 'tanh']),
    'pool': st.sampled_from(['cls', 'avg', 'first', 'mean', 'pooler']),
    'block': st.sampled_from(['basic', 'bottleneck']),
    'stride_on': st.sampled_from(['conv1', 'conv2']),
    'stem': st.sampled_from(['imagenet', 'small']),
}
BY_TYPE = {bool: st.booleans(), int: st.integers(1, 12), float: st.sampled_from([1e-6, 1e-3, 0.25])}


BASES = {family: tiny(family) for family in TINY}


@st.composite
def changes(draw):
    """A family, and some fields of its config with other values."""
    family = draw(st.sampled_from(list(BASES)))
    drawn = {
        field.name: DRAWN[field.name] if field.name in DRAWN else BY_TYPE[type(field.default)]
        for field in dataclasses.fields(BASES[family])
        if field.name in DRAWN or type(field.default) in BY_TYPE
    }
    names = draw(st.lists(st.sampled_from(list(drawn)), max_size=4, unique=True))
    return family, {name: draw(drawn[name]) for name in names}


@settings(deadline=None)
@given(changes())
def test_any_config_comes_back_or_is_refused(change):
    family, fields = change
    try:
        config = dataclasses.replace(BASES[family], **fields)
    except ValueError:
        reject()
    for _, layout in readable({'': config}):
        with tempfile.TemporaryDirectory() as folder:
            check_return(config, layout, Path(folder))


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 16000))
def test_every_width_of_an_mlp_has_a_ratio_in_timm(width, mlp_dim):
    config = tiny('vit', heads=1, width=width, mlp_dim=mlp_dim)
    arguments = write_config(layouts('vit')['timm'], config)['model_args']
    assert int(width * arguments['mlp_ratio']) == mlp_dim


# Fields that are honoured or refused.


def fields_of(family, layout, more):
    """config.json of a tiny model, with `more`; timm's fields are the arguments of a model."""
    config = tiny(family, stem_width=64) if family == 'resnet' else tiny(family)
    fields = write_config(layouts(family)[layout], config)
    if layout == 'timm':
        more, fields = {'model_args': fields['model_args'] | more}, dict(fields)
    return fields | more


REFUSED = {
    ('bert', 'hf'): {
        'position_embedding_type': 'relative_key',
        'is_decoder': True,
        'add_cross_attention': True,
        'hidden_act': 'quick_gelu',
        'embedding_size': 128,
        'quantization_config': {'bits': 4},
        'pruned_heads': {'0': [1]},
    },
    ('gpt2', 'hf'): {
        'n_ctx': 7,
        'activation_function': 'gelu_fast',
        'add_cross_attention': True,
        'rotary': True,
        'tie_encoder_decoder': True,
        'scale_attn_weights': None,
        'n_layer': '2',
        'n_embd': [8],
        'layer_norm_epsilon': 'small',
        'tie_word_embeddings': 1,
    },
    ('resnet', 'hf'): {
        'hidden_act': 'gelu',
        'downsample_in_first_stage': True,
        'hidden_sizes': [16, 25],
        'use_se': True,
        'depths': 2,
    },
    ('resnet', 'timm'): {
        'stem_type': 'deep',
        'aa_layer': 'blur',
        'avg_down': True,
        'act_layer': 'silu',
        'output_stride': 8,
        'global_pool': 'max',
        'replace_stem_pool': True,
        'block_reduce_first': 2,
        'block_args': {'attn_layer': 'se'},
        'drop_rate': 0.1,
        'layers': 2,
    },
    ('vit', 'hf'): {
        'pooler_act': 'relu',
        'hidden_act': 'gelu_10',
        'layerscale_value': 0.1,
        'num_register_tokens': 4,
        'qkv_bias': None,
        'image_size': '8',
    },
    ('vit', 'timm'): {
        'reg_tokens': 4,
        'init_values': 1e-5,
        'qk_norm': True,
        'no_embed_class': True,
        'global_pool': 'map',
        'fc_norm': True,
        'pos_embed': 'none',
        'pos_drop_rate': 0.5,
        'pre_norm': True,
        'patch_drop_rate': 0.5,
        'norm_layer': 'rmsnorm',
        'block_fn': 'parallel',
        'mlp_ratio': float('inf'),
    },
}


@pytest.mark.parametrize(
    ('family', 'layout', 'name', 'value'),
    [(*pair, name, value) for pair, cases in REFUSED.items() for name, value in cases.items()],
)
def test_fields_that_change_the_function_are_refused_by_name(family, layout, name, value):
    source = source_of({}, fields_of(family, layout, {name: value}))
    with pytest.raises(ValueError, match=rf'^(?=.*{name}).*expected .*found'):
        read_config(layouts(family)[layout], source)


def test_all_fields_that_are_refused_are_named_at_once():
    more = {'n_ctx': 7, 'activation_function': 'other', 'rotary': True, 'alibi': False}
    source = source_of({}, fields_of('gpt2', 'hf', more))
    with pytest.raises(ValueError, match=r'activation_function.*; n_ctx.*; .*alibi.*rotary'):
        read_config(layouts('gpt2')['hf'], source)


@pytest.mark.parametrize(
    ('family', 'layout', 'more', 'expected'),
    [
        ('gpt2', 'hf', {'n_inner': None}, {'mlp_dim': 32}),
        ('gpt2', 'hf', {'reorder_and_upcast_attn': True, 'n_ctx': 6}, {}),
        ('gpt2', 'hf', {'summary_type': 'cls_index', 'task_specific_params': {}}, {}),
        ('bert', 'hf', {'pooler_type': 'first_token_transform', 'directionality': 'bidi'}, {}),
        ('vit', 'hf', {'image_size': [8, 12]}, {'image_size': (8, 12)}),
        ('vit', 'hf', {'hidden_act': 'gelu_pytorch_tanh'}, {'activation': 'gelu_tanh'}),
        ('vit', 'timm', {'img_size': 16, 'patch_size': 8}, {'image_size': (16, 16)}),
        ('vit', 'timm', {'dynamic_img_size': True, 'weight_init': 'skip'}, {}),
        ('resnet', 'timm', {'cardinality': 2, 'base_width': 32}, {'groups': 2, 'group_width': 32}),
        ('resnet', 'timm', {'zero_init_last': False, 'stem_width': 32}, {'stem_width': 64}),
    ],
)
def test_fields_are_honoured(family, layout, more, expected):
    read = read_config(layouts(family)[layout], source_of({}, fields_of(family, layout, more)))
    config = families()[family].override(families()[family].config(), read)
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ('family', 'change', 'message'),
    [
        ('vit', {'something': 1}, 'something'),
        ('vit', {'model_args': [1]}, 'model_args'),
        ('vit', {'pretrained_cfg': 'other'}, 'pretrained_cfg'),
        ('vit', {'pretrained_cfg': {'input_size': 8}}, 'input_size'),
        ('resnet', {'pretrained_cfg': {'input_size': [3, '8', 8]}}, 'input_size'),
    ],
)
def test_folders_of_timm_that_are_not_ours_are_refused(family, change, message):
    fields = fields_of(family, 'timm', {}) | change
    with pytest.raises(ValueError, match=rf'expected .*{re.escape(message)}'):
        read_config(layouts(family)['timm'], source_of({}, fields))


@pytest.mark.parametrize(
    ('family', 'name', 'needs'),
    [
        ('resnet', 'resnet200d', ["stem_type '', found 'deep'", 'avg_down False, found True']),
        ('resnet', 'seresnet50', ["block_args None, found {'attn_layer': 'se'}"]),
        ('vit', 'vit_giant_patch14_dinov2', ['init_values None, found 1e-05', 'mlp_layer']),
        ('vit', 'vit_base_patch16_clip_quickgelu_224', ['pre_norm', "found 'quick_gelu'"]),
    ],
)
def test_an_error_says_which_features_a_name_of_timm_needs(family, name, needs):
    source = source_of({}, {'architecture': name, 'pretrained_cfg': {}})
    with pytest.raises(
        ValueError, match=f'^timm makes {name} with what is not here: expected'
    ) as error:
        read_config(layouts(family)['timm'], source)
    assert all(need in str(error.value) for need in needs)


@pytest.mark.parametrize('name', ['deit_tiny_patch8_224', 'vit_base_patch16_225', 'resnet51'])
def test_names_that_timm_does_not_have_are_refused_without_a_guess(name):
    with pytest.raises(
        CheckpointError, match=rf"timm [\d.]+ has no architecture '{name}'"
    ) as error:
        identify(Path('x'), {'architecture': name})
    assert 'nearest' not in str(error.value)


def test_names_of_other_families_of_timm_say_their_class():
    with pytest.raises(
        CheckpointError, match="found 'swin_tiny_patch4_window7_224', which is a SwinTr"
    ):
        identify(Path('x'), {'architecture': 'swin_tiny_patch4_window7_224'})


def test_what_timm_takes_first():
    top = {'architecture': 'resnet18', 'num_classes': 5, 'model_args': {'in_chans': 1}}
    top['pretrained_cfg'] = {'num_classes': 7, 'input_size': [3, 64, 32]}
    read = read_config(layouts('resnet')['timm'], source_of({}, top))
    assert (read['num_classes'], read['in_channels'], read['image_size']) == (5, 1, (64, 32))
    old = {'architecture': 'resnet18', 'num_classes': 5, 'input_size': [4, 64, 64], 'mean': [0.5]}
    read = read_config(layouts('resnet')['timm'], source_of({}, old))
    assert (read['num_classes'], read['in_channels'], read['depths']) == (5, 4, (2, 2, 2, 2))


POOLING = {
    'mean': ({'pooling_mode_mean_tokens': True}, True, {'pool': 'mean', 'normalize': True}),
    'first': ({'pooling_mode_cls_token': True}, False, {'pool': 'first', 'normalize': False}),
    'first, and prompts': (
        {'pooling_mode_cls_token': True, 'include_prompt': True, 'pooling_mode_max_tokens': False},
        True,
        {'pool': 'first', 'normalize': True},
    ),
    'the largest': ({'pooling_mode_max_tokens': True}, True, 'max_tokens'),
    'two': ({'pooling_mode_cls_token': True, 'pooling_mode_mean_tokens': True}, True, 'cls_token'),
}


@pytest.mark.parametrize(('modes', 'normalize', 'expected'), POOLING.values(), ids=list(POOLING))
def test_pooling_is_as_sentence_transformers_says(tmp_path, modes, normalize, expected):
    source = folder_of(tiny('bert', normalize=normalize), 'hf', tmp_path)
    (tmp_path / '1_Pooling/config.json').write_text(json.dumps(modes))
    if isinstance(expected, dict):
        read = read_config(layouts('bert')['hf'], source)
        assert {name: read[name] for name in expected} == expected
    else:
        with pytest.raises(ValueError, match=f'expected mean or cls pooling.*{expected}'):
            read_config(layouts('bert')['hf'], source)


def test_other_modules_of_sentence_transformers_are_refused(tmp_path):
    source = folder_of(tiny('bert'), 'hf', tmp_path)
    modules = [*source.read_json('modules.json'), {'type': 'models.Dense', 'path': '2_Dense'}]
    (tmp_path / 'modules.json').write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"expected Transformer, Pooling.*found .*'Dense'"):
        read_config(layouts('bert')['hf'], source)


def test_a_family_without_tables_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="no checkpoints of family 'mixer' are known"):
        layouts('mixer')
