"""Configs of other libraries: what is honoured, what is refused, and that all of ours come back."""

import dataclasses
import json
import re
import tempfile
from pathlib import Path

import pytest
from checkpoints import fields_of, folder_of, model_of, params_of, source_of
from families import declared, every_library, family_of, fitted, libraries_of, small, tiny
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from blox import CheckpointError
from blox.converters import export, layouts
from blox.converters.configs import identify, read_config, write_config
from blox.params import Params
from blox.zoo.models import families

# Settings there and back.


def check_return(config, layout, folder):
    """Return whether a library can say a config; then it comes back from what that would read.

    Otherwise the error names what it cannot say.
    """
    family = family_of(config)
    table = layouts(family.name)[layout]
    try:
        source = folder_of(config, layout, folder)
    except ValueError as error:
        if not re.match(r'\w+ cannot express|no folder says', str(error)):
            raise
        return False
    found = family.override(family.config(), read_config(table, source))
    names = (*table.unsaid(config), *config.RUN_FIELDS)
    unsaid = {name: getattr(config, name) for name in names if hasattr(config, name)}
    assert dataclasses.replace(found, **unsaid) == config
    return True


VARIANTS = {
    name: config for family in families().values() for name, config in family.variants.items()
}


@pytest.mark.parametrize('name', VARIANTS)
def test_published_configs_come_back(tmp_path, name):
    config = VARIANTS[name]
    found = [
        check_return(config, layout, tmp_path) for layout in libraries_of(family_of(config).name)
    ]
    assert any(found)


SMALL = small()


@pytest.mark.parametrize('name', SMALL)
def test_odd_configs_come_back_or_are_refused(tmp_path, name):
    family = family_of(SMALL[name]).name
    found = {layout: check_return(SMALL[name], layout, tmp_path) for layout in libraries_of(family)}
    fits = declared()[family].fitted
    assert all(back or layout in fits for layout, back in found.items()) or SMALL[name] != tiny(
        family
    )


@pytest.mark.parametrize(
    ('family', 'fields'),
    [(f, told) for f, said in declared().items() for told in said.told],
    ids=str,
)
def test_every_setting_that_a_library_has_comes_back(tmp_path, family, fields):
    found = [
        check_return(fitted(family, layout, **fields), layout, tmp_path)
        for layout in libraries_of(family)
    ]
    assert any(found)


@pytest.mark.parametrize(
    ('family', 'layout', 'fields', 'message'),
    [
        (family, layout, *lack)
        for family, said in declared().items()
        for layout, lacks in said.lacks.items()
        for lack in lacks
    ],
    ids=str,
)
def test_what_a_library_cannot_express_is_not_exported(tmp_path, family, layout, fields, message):
    model = model_of(fitted(family, layout, **fields))
    with pytest.raises(ValueError, match=re.escape(message)):
        export(tmp_path, model, Params(), layout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('layout', 'message'),
    [
        ('google', "cannot be exported as 'google'"),
        (
            'nothing',
            "has the layouts hf, dinov2, dinov2_with_registers, timm, torchvision, google, big_vision, not 'nothing'",
        ),
    ],
)
def test_what_is_no_library_of_the_family_is_not_exported(tmp_path, layout, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        export(tmp_path, model_of(tiny('vit')), Params(), layout)


def test_of_a_librarys_layouts_the_one_that_fits_is_written_or_the_nearest_named(tmp_path):
    registers = {'registers': 2, 'layer_scale': 1.0, 'image_size': (8, 8), 'mlp_dim': 16}
    model = model_of(tiny('vit', **registers, positions='class', pool='cls_avg'))
    export(tmp_path, model, params_of(model.config), 'hf')
    assert (
        json.loads((tmp_path / 'config.json').read_text())['model_type'] == 'dinov2_with_registers'
    )
    message = "no 'dinov2' checkpoint of 'vit' has registers 2, positions 'class'; dinov2_with"
    with pytest.raises(ValueError, match=message):
        export(tmp_path, model, Params(), 'dinov2')
    message = "no 'dinov2_with_registers' checkpoint of 'vit' has positions 'patches'; timm may"
    with pytest.raises(ValueError, match=message):
        export(tmp_path, model_of(tiny('vit', **registers, positions='patches')), Params(), 'hf')


# Settings by the name of their field, whatever the config.
DRAWN = {
    'activation': st.sampled_from(['gelu', 'gelu_tanh', 'relu', 'silu', 'tanh']),
    'pool': st.sampled_from(['cls', 'avg', 'first', 'mean', 'pooler']),
    'block': st.sampled_from(['basic', 'bottleneck']),
    'stride_on': st.sampled_from(['conv1', 'conv2']),
    'stem': st.sampled_from(['imagenet', 'small']),
}
BY_TYPE = {bool: st.booleans(), int: st.integers(1, 12), float: st.sampled_from([1e-6, 1e-3, 0.25])}


BASES = {family: tiny(family) for family in declared()}


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
    for layout in libraries_of(family):
        with tempfile.TemporaryDirectory() as folder:
            check_return(config, layout, Path(folder))


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 16000))
def test_every_width_of_an_mlp_has_a_ratio_in_timm(width, mlp_dim):
    config = tiny('vit', heads=1, width=width, mlp_dim=mlp_dim)
    arguments = write_config(layouts('vit')['timm'], config)['model_args']
    assert int(width * arguments['mlp_ratio']) == mlp_dim


# Fields that are honoured or refused.


@pytest.mark.parametrize(
    ('family', 'layout', 'name', 'value'),
    [
        (family, layout, name, value)
        for family, said in declared().items()
        for layout, fields in said.refused.items()
        for name, value in fields.items()
    ],
)
def test_fields_that_change_the_function_are_refused_by_name(family, layout, name, value):
    source = source_of({}, fields_of(family, layout, {name: value}))
    with pytest.raises(ValueError, match=rf' lacks: .*{name}[ .]'):
        read_config(layouts(family)[layout], source)


@pytest.mark.parametrize(('family', 'layout'), every_library())
def test_fields_that_nobody_knows_are_refused_by_name(family, layout):
    source = source_of({}, fields_of(family, layout, {'some_new_field': 0.5}))
    with pytest.raises(ValueError, match=r' lacks: some_new_field 0\.5$'):
        read_config(layouts(family)[layout], source)


def test_all_fields_that_are_refused_are_named_at_once():
    more = {'n_ctx': 7, 'activation_function': 'other', 'rotary': True, 'alibi': False}
    source = source_of({}, fields_of('gpt2', 'hf', more))
    needs = r"^transformers' gpt2 needs what blox's gpt2 lacks: "
    settings = r"activation_function 'other' \(expected one of .*\), n_ctx 7 \(expected \d+\)"
    with pytest.raises(ValueError, match=rf'{needs}{settings}, alibi False, rotary True$'):
        read_config(layouts('gpt2')['hf'], source)


@pytest.mark.parametrize(
    ('family', 'layout', 'theirs', 'ours'),
    [
        (family, layout, *fields)
        for family, said in declared().items()
        for layout, pairs in said.honoured.items()
        for fields in pairs
    ],
    ids=str,
)
def test_fields_are_honoured(family, layout, theirs, ours):
    read = read_config(layouts(family)[layout], source_of({}, fields_of(family, layout, theirs)))
    config = families()[family].override(families()[family].config(), read)
    assert {name: getattr(config, name) for name in ours} == ours


@pytest.mark.parametrize(
    ('family', 'change', 'message'),
    [
        ('vit', {'something': 1}, 'something'),
        ('vit', {'model_args': [1]}, 'model_args'),
        ('vit', {'model_args': {'distilled': True}}, 'distilled in model_args'),
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
        ('vit', 'vit_small_r26_s32_224', ["'HybridEmbed'"]),
        ('vit', 'vit_base_r50_s16_224', ["'HybridEmbed'", "'ResNetV2'"]),
    ],
)
def test_an_error_says_which_features_a_name_of_timm_needs(family, name, needs):
    source = source_of({}, {'architecture': name, 'pretrained_cfg': {}})
    with pytest.raises(ValueError, match=rf"^timm's {name} needs what blox's \w+ lacks: ") as error:
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
        CheckpointError, match="found 'swinv2_tiny_window8_256', which is a SwinTransformerV2"
    ):
        identify(Path('x'), {'architecture': 'swinv2_tiny_window8_256'})


def test_what_timm_takes_first():
    top = {'architecture': 'resnet18', 'num_classes': 5, 'model_args': {'in_chans': 1}}
    top['pretrained_cfg'] = {'num_classes': 7, 'input_size': [3, 64, 32]}
    read = read_config(layouts('resnet')['timm'], source_of({}, top))
    assert (read['num_classes'], read['in_channels'], read['image_size']) == (5, 1, (64, 32))
    old = {'architecture': 'resnet18', 'num_classes': 5, 'input_size': [4, 64, 64], 'mean': [0.5]}
    read = read_config(layouts('resnet')['timm'], source_of({}, old))
    assert (read['num_classes'], read['in_channels'], read['depths']) == (5, 4, (2, 2, 2, 2))


def test_a_family_without_tables_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="to have the family 'nosuch': there is no table"):
        layouts('nosuch')
