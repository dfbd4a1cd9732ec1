"""The catalog's facts, as timm's registry has them."""

import pytest
from cases import timm

import blox as bx
from blox.zoo.catalog.published import published
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.models import families

FAMILY_OF = {name: family for family in families().values() for name in family.variants}
ROWS = list(published().values())


def config_of(row):
    """The row's config, by way of which `load` makes it too."""
    family = FAMILY_OF[row.variant]
    return family.override(family.variants[row.variant], row.overrides)


TIMM_ROWS = [row for row in ROWS if row.layout == 'timm']


def test_timms_registry_says_the_same():
    for row in TIMM_ROWS:
        stated = timm.get_pretrained_cfg(row.source.removeprefix('timm/'))
        config = config_of(row)
        assert stated.hf_hub_id == row.source
        assert stated.input_size == (config.in_channels, *config.image_size)
        assert (stated.num_classes, stated.license) == (config.num_classes, row.license)
        assert row.preprocessor == ImagePreprocessor.from_timm(stated.to_dict())


def test_plain_resnets_are_timms_own_choice():
    for row in TIMM_ROWS:
        default = timm.get_pretrained_cfg(row.source.removeprefix('timm/').split('.')[0])
        if FAMILY_OF[row.variant].name == 'resnet':
            assert (row.name == row.variant) == (row.source == default.hf_hub_id)


# One of each size.
AUGREG = {row.variant: row.name for row in TIMM_ROWS if '-augreg' in row.name}
DISTILLED = [row.name for row in TIMM_ROWS if 'distilled' in row.name]


@pytest.mark.parametrize('name', [*AUGREG.values(), *DISTILLED])
def test_timms_vits_have_as_many_parameters_and_the_same_epsilon(name):
    theirs = timm.create_model(published()[name].source.removeprefix('timm/'), device='meta')
    ours = FAMILY_OF[published()[name].variant].build(config_of(published()[name]))
    params = bx.spec(ours, *ours.example_inputs()).split_trainable()[0]
    assert params.num_params == sum(value.numel() for value in theirs.parameters())
    assert ours.config.norm_eps == theirs.norm.eps
