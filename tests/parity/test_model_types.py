"""Each name of open_clip is refused by what it needs, or has the weights that we expect."""

import pytest

pytest.importorskip('torch')

from model_types import fate, open_clip

NAMES = open_clip.list_models()


@pytest.mark.parametrize('name', NAMES[::6])
def test_a_name_fits_or_is_refused_by_what_it_needs(name):
    found = fate(name)
    assert found == 'fits' or ' (expected ' in found or "'multimodal_cfg'" in found


@pytest.mark.parametrize(
    'name',
    ['ViT-B-32-quickgelu', 'ViT-H-14', 'ViT-B-16-SigLIP-256', 'ViT-SO400M-14-SigLIP2-378'],
)
def test_well_known_names_are_here(name):
    assert fate(name) == 'fits'
