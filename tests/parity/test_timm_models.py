"""Each kind of model that timm has a name for is refused by what it needs, or right in float64."""

import pytest
from timm_models import error_and_back, fits, needs, representatives

KINDS = {name: needs(name) for name in representatives()}
HERE = [name for name, missing in KINDS.items() if not missing]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', HERE)
def test_a_small_model_computes_the_same_and_goes_back(name):
    error, same = error_and_back(name)
    assert error < 1e-12
    assert same


@pytest.mark.parametrize('name', HERE[::8])
def test_the_full_size_has_the_weights_that_are_expected(name):
    assert fits(name)


def test_few_are_refused():
    assert len(HERE) > 60
    assert all(' (expected ' in missing for missing in KINDS.values() if missing)
