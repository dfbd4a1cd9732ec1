"""Each kind of model that timm has a name for is refused by what it needs, or right in float64."""

import pytest

pytest.importorskip('torch')

from timm_models import error_and_back, fits, needs, representatives

KINDS = {name: needs(name) for name in representatives()}
HERE = [name for name, missing in KINDS.items() if not missing]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', HERE)
def test_a_small_model_computes_the_same_and_goes_back(name):
    error, same = error_and_back(name)
    assert error < 1e-12
    assert same


OTHERS = [
    ('vit_tiny_patch16_224', {'norm_layer': 'rmsnorm'}),
    ('vit_base_patch32_clip_quickgelu_224', {'act_layer': 'gelu', 'norm_layer': 'layernorm'}),
    ('vit_base_patch16_224', {'class_token': False, 'reg_tokens': 2, 'global_pool': 'avg'}),
    ('vit_small_patch14_dinov2', {'init_values': 0.0}),
    ('vit_giant_patch14_dinov2', {'init_values': 0.0, 'qk_norm': True}),
    ('beit3_base_patch16_224', {'norm_layer': 'rmsnorm'}),
    ('deit3_small_patch16_224', {'global_pool': 'avg', 'fc_norm': False, 'num_classes': 0}),
    ('resnet18', {'block_args': {'attn_layer': 'eca'}}),
    ('seresnet50', {'block_args': {}}),
    ('resnetaa50', {'block_args': {'attn_layer': 'se'}}),
    ('resnet26', {'stem_type': 'deep', 'stem_width': 9, 'norm_layer': 'batchnorm'}),
    ('convnext_atto', {'use_grn': True}),
]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(('name', 'other'), OTHERS, ids=str)
def test_arguments_beside_a_name_count(name, other):
    error, same = error_and_back(name, **other)
    assert error < 1e-12
    assert same


@pytest.mark.parametrize('name', HERE[::8])
def test_the_full_size_has_the_weights_that_are_expected(name):
    assert fits(name)


def test_few_are_refused():
    assert len(HERE) > 60
    assert all(' (expected ' in missing for missing in KINDS.values() if missing)
