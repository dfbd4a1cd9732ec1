"""Overrides at loading against the libraries that a checkpoint came from: other images, channels.

The references save themselves, and load what they saved with the same override as we do.
"""

import copy
import itertools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, Case, pair, timm, torch, transformers
from helpers import normal

import blox as bx
from blox.zoo.architecture.resizing import (
    interpolate_positions,
    resize_patches,
    resize_positions,
    resize_rows,
)
from blox.zoo.comparing.parity import import_reference
from blox.zoo.models.gpt2 import GPT2Config
from blox.zoo.models.vit import ViTConfig

open_clip = import_reference('open_clip')

GRIDS = [
    ((4, 4), (7, 7)),
    ((7, 7), (3, 3)),
    ((3, 5), (6, 2)),
    ((14, 14), (24, 24)),
    ((24, 24), (14, 14)),
    ((2, 2), (1, 9)),
]
# Overrides of a model for images of 24 x 16, in patches of 8.
SIZES = [(48, 40), (16, 8), (24, 32), (8, 16)]


def resized(pos_embed, old, new, layout):
    stored, wanted = (
        ViTConfig(image_size=(rows * 4, columns * 8), patch_size=(4, 8))
        for rows, columns in (old, new)
    )
    return resize_positions(pos_embed, stored, wanted, layout)


@pytest.mark.parametrize('layout', ['hf', 'timm'])
@pytest.mark.parametrize(('old', 'new'), GRIDS)
def test_resized_positions_equal_torchs_interpolation(old, new, layout):
    pos_embed = normal(1, old[0] * old[1], 5)
    grid = torch.tensor(pos_embed).reshape(1, *old, 5).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        grid, size=new, mode='bicubic', align_corners=False, antialias=layout == 'timm'
    )
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 5).numpy()
    np.testing.assert_allclose(resized(pos_embed, old, new, layout), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('prefix', [0, 1, 2])
@pytest.mark.parametrize(('old', 'new'), GRIDS)
def test_resized_positions_equal_timms(old, new, prefix):
    pos_embed = normal(1, prefix + old[0] * old[1], 5).astype(np.float32)
    expected = timm.layers.resample_abs_pos_embed(
        torch.tensor(pos_embed), list(new), list(old), num_prefix_tokens=prefix
    )
    found = resized(pos_embed, old, new, 'timm')
    # It takes float32 for the places between patches too, and is that far from its own float64.
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize('new', [(4, 4), (16, 16), (5, 11), (14, 7)])
def test_resized_patches_equal_timms(new):
    w = normal(8, 6, 3, 5).astype(np.float32)
    expected = timm.layers.resample_patch_embed(torch.tensor(w).permute(3, 2, 0, 1), list(new))
    found = resize_patches(w, None, ViTConfig(patch_size=new), 'timm')
    # It takes the inverse in float32.
    np.testing.assert_allclose(found, expected.permute(2, 3, 1, 0).numpy(), rtol=0, atol=2e-4)


@pytest.mark.parametrize('count', [16, 40, 77])
def test_resized_positions_of_texts_equal_open_clips(count):
    table = normal(32, 5)
    model = SimpleNamespace(positional_embedding=torch.zeros(count, 5))
    state = {'positional_embedding': torch.tensor(table)}
    open_clip.model.resize_text_pos_embed(state, model)
    found = interpolate_positions(table, None, GPT2Config(context=count), 'open_clip')
    np.testing.assert_allclose(found, state['positional_embedding'].numpy(), rtol=0, atol=1e-12)


def test_new_tokens_equal_those_of_transformers():
    sizes = {'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'n_positions': 4, 'vocab_size': 20}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    table = theirs.transformer.wte.weight.detach().numpy().copy()
    theirs.resize_token_embeddings(23)
    found = resize_rows(table, None, GPT2Config(vocab_size=23), 'hf')
    # It adds noise of a hundred thousandth of how far tokens are apart.
    np.testing.assert_allclose(found, theirs.transformer.wte.weight.detach(), rtol=0, atol=1e-5)


# Whole models.


def logits(model, params, images):
    return np.asarray(model(params, jnp.asarray(images))[0])


def reference_logits(reference, images, **arguments):
    with torch.no_grad():
        outputs = reference(torch.tensor(images).permute(0, 3, 1, 2), **arguments)
    return getattr(outputs, 'logits', outputs).numpy()


@pytest.fixture(scope='module')
def square(tmp_path_factory):
    """transformers', for images of 32 x 32 alone: it resizes positions from squares only."""
    case = Case('vit', CASES['vit hf'].reference.but(image_size=32))
    made = pair(case, tmp_path_factory.mktemp('square'))
    double = copy.deepcopy(made.reference).double()
    double.save_pretrained(made.saved / 'double')
    return double, made.saved / 'double'


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('size', [(48, 48), (16, 16), (40, 24), (24, 64)])
def test_images_of_another_size_give_transformers_logits(square, size):
    reference, folder = square
    model, params = bx.zoo.load(folder, image_size=size)
    images = normal(3, *size, 3)
    expected = reference_logits(reference, images, interpolate_pos_encoding=True)
    assert abs(expected).max() > 0.2
    np.testing.assert_allclose(logits(model, params, images), expected, rtol=0, atol=1e-12)


@pytest.fixture(
    scope='module', params=['vit timm', 'vit timm avg, no class token', 'vit timm distilled']
)
def timm_vit(request, tmp_path_factory):
    return pair(CASES[request.param], tmp_path_factory.mktemp('vit'))


@pytest.fixture(scope='module', params=['resnet timm basic', 'resnet timm bottleneck', 'vit timm'])
def colors(request, tmp_path_factory):
    return pair(CASES[request.param], tmp_path_factory.mktemp('colors'))


def created(made, **arguments):
    """The model that timm makes of what it saved."""
    return timm.create_model(f'local-dir:{made.saved}', pretrained=True, **arguments).eval()


def assert_logits_equal(reference, model, params, size, channels):
    images = normal(3, *size, channels).astype(np.float32)
    expected = reference_logits(reference, images)
    assert abs(expected).max() > 0.2
    np.testing.assert_allclose(logits(model, params, images), expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize('size', SIZES)
def test_images_of_another_size_give_timms_logits(timm_vit, size):
    model, params = bx.zoo.load(timm_vit.saved, image_size=size)
    reference = created(timm_vit, img_size=size)
    assert_logits_equal(reference, model, params, size, 3)


@pytest.mark.parametrize('count', [1, 2, 3, 4, 6])
def test_images_of_other_channels_give_timms_logits(colors, count):
    model, params = bx.zoo.load(colors.saved, in_channels=count)
    size = model.config.image_size if colors.case.family == 'vit' else (47, 64)
    reference = created(colors, in_chans=count)
    assert_logits_equal(reference, model, params, size, count)


def test_overrides_together_give_timms_logits(timm_vit):
    for size, count in itertools.product(SIZES[:2], (1, 4)):
        model, params = bx.zoo.load(timm_vit.saved, image_size=size, in_channels=count)
        reference = created(timm_vit, img_size=size, in_chans=count)
        assert_logits_equal(reference, model, params, size, count)


def test_another_number_of_classes_starts_both_heads_of_a_distilled_vit(tmp_path):
    made = pair(CASES['vit timm distilled'], tmp_path)
    _, params = bx.zoo.load(made.saved, num_classes=4)
    heads = {path: params[path].shape for path in params if 'head' in path}
    both = {f'vit/{head}/w': (32, 4) for head in ('head', 'head_dist')}
    assert heads == {**both, **{path.replace('/w', '/b'): (4,) for path in both}}
    reference = created(made, num_classes=0)
    bare, features = bx.zoo.load(made.saved, num_classes=0)
    images = made.inputs[0].astype(np.float32)
    found = logits(bare, features, images)
    np.testing.assert_allclose(found, reference_logits(reference, images), rtol=0, atol=2e-5)


@pytest.mark.parametrize('family', ['vit', 'resnet'])
def test_a_fresh_head_takes_the_features_that_timm_computes(family, tmp_path):
    made = pair(CASES[{'vit': 'vit timm', 'resnet': 'resnet timm basic'}[family]], tmp_path)
    reference = created(made, num_classes=0)
    model, params = bx.zoo.load(made.saved, num_classes=4, seed=1)
    bare, features = bx.zoo.load(made.saved, num_classes=0)
    images = made.inputs[0].astype(np.float32)
    found = logits(bare, features, images)
    np.testing.assert_allclose(found, reference_logits(reference, images), rtol=0, atol=2e-5)
    w, b = (np.asarray(params[f'{family}/head/{name}'].value) for name in 'wb')
    head = found @ w + b
    np.testing.assert_allclose(logits(model, params, images), head, rtol=0, atol=2e-5)
