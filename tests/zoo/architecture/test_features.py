"""Named intermediates of every family, and blocks that recompute for the gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import declared, family_of, tiny
from helpers import table
from small_models import KINDS, SMALL, inputs_for, model_of, random_params

import blox as bx
from blox.zoo.architecture.features import Feature

IMAGES = {name: c for name, c in SMALL.items() if family_of(c).task == 'image-classification'}


def on(configs):
    return pytest.mark.parametrize('config', configs.values(), ids=list(configs))


@on(SMALL)
def test_features_are_as_the_info_says(config):
    model, inputs, params = model_of(config), inputs_for(config), random_params(config)
    found, after = jax.eval_shape(model.features, params, *inputs)
    assert [(name, x.shape[-1]) for name, x in found.items()] == [
        (feature.name, feature.channels) for feature in model.feature_info()
    ]
    assert list(after) == list(params)


@on(
    {
        n: c
        for n, c in KINDS.items()
        if 'head' in vars(model_of(c)) and family_of(c).count_classes(c)
    }
)
def test_the_head_of_the_last_feature_gives_the_outputs(config):
    model, inputs, params = model_of(config), inputs_for(config), random_params(config)

    @jax.jit
    def both(params, *inputs):
        found, params = model.features(params, *inputs, ['pre_logits'])
        return model.head(params, found['pre_logits'])[0], model(params, *inputs)[0]

    np.testing.assert_array_equal(*both(params, *inputs))


def test_a_lens_on_the_last_block_gives_the_outputs():
    config = tiny('gpt2')
    model, (tokens,), params = model_of(config), inputs_for(config), random_params(config)

    @jax.jit
    def all_ways(params, tokens):
        found, _ = model.features(params, tokens, ['block1', 'pre_logits'])
        ways = (
            model.logits(params, found['block1']),
            model.token_embed.attend(params, found['pre_logits']),
            model(params, tokens),
        )
        return [outputs for outputs, _ in ways]

    by_lens, by_head, outputs = all_ways(params, tokens)
    np.testing.assert_array_equal(by_lens, outputs)
    np.testing.assert_array_equal(by_head, outputs)


def test_embeddings_see_the_mask():
    config = tiny('bert')
    model, (tokens,), params = model_of(config), inputs_for(config), random_params(config)
    mask = jnp.array([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])

    @jax.jit
    def both(params, tokens, mask):
        found, _ = model.features(params, tokens, mask, names=['embedding'])
        return found['embedding'], model(params, tokens, mask)[0].embedding

    np.testing.assert_array_equal(*both(params, tokens, mask))


@on({name: tiny(name) for name in declared()})
def test_nothing_runs_after_the_last_one_asked_for(config):
    model, inputs, params = model_of(config), inputs_for(config), random_params(config)
    first, *_, last = (feature.name for feature in model.feature_info())

    def steps(name):
        features = functools.partial(model.features, names=[name])
        return len(jax.make_jaxpr(features)(params, *inputs).eqns)

    assert steps(first) < steps(last) / 2


@on(IMAGES)
def test_maps_have_the_strides_and_channels_of_the_card(config):
    model, (images,) = model_of(config), inputs_for(config)
    known = [feature for feature in model.feature_info() if feature.strides]
    indices = [*range(len(known)), -1]
    maps, _ = jax.eval_shape(
        lambda p, x: model.feature_maps(p, x, indices), random_params(config), images
    )
    assert len(maps) == len(known) + 1
    for i, found in zip(indices, maps):
        rows, columns = (n // s for n, s in zip(images.shape[1:3], known[i].strides))
        assert found.shape == (2, rows, columns, known[i].channels)


def test_maps_of_a_vit_are_its_patches_in_place():
    config = tiny('vit')
    model, (images,), params = model_of(config), inputs_for(config), random_params(config)
    (found,), _ = jax.jit(lambda p, x: model.feature_maps(p, x, [1]))(params, images)
    states, _ = jax.jit(lambda p, x: model.features(p, x, ['block1']))(params, images)
    np.testing.assert_array_equal(found[:, 1, 0], states['block1'][:, 4])


def test_the_card_knows_them_without_weights():
    assert bx.zoo.card('vit-b16').features[0] == Feature('patch_embed', 768)
    assert bx.zoo.card('vit-b16').features[1] == Feature('block0', 768, (16, 16))
    assert [f.strides for f in bx.zoo.card('resnet50').features if f.strides] == [
        (2, 2),
        (4, 4),
        (8, 8),
        (16, 16),
        (32, 32),
    ]


@table(
    {
        'unknown': (['block7'], 'found block7; the model has patch_embed, block0'),
        'none': ([], 'expected names of features, found none'),
    }
)
def test_names_that_are_not_there_are_refused(row):
    names, message = row
    model, (images,) = model_of(tiny('vit')), inputs_for(tiny('vit'))
    with pytest.raises(ValueError, match=message):
        model.features(random_params(tiny('vit')), images, names)


@pytest.mark.parametrize('indices', [[2], [-3], []])
def test_indices_that_are_not_there_are_refused(indices):
    model, (images,) = model_of(tiny('vit')), inputs_for(tiny('vit'))
    with pytest.raises(ValueError, match=r'out_indices of 2 maps \(block0, block1\)'):
        model.feature_maps(random_params(tiny('vit')), images, indices)


def numbers_kept(model, inputs):
    """How many numbers a forward pass keeps for its gradient, beside the parameters."""
    trainable, rest = bx.spec(model, *inputs).split_trainable()

    def loss(trainable, rest, inputs):
        outputs, _ = model(trainable.merge(rest), *inputs, is_training=True)
        return jax.tree.leaves(outputs)[-1].sum()

    kept = jax.eval_shape(lambda t, r: jax.vjp(lambda t: loss(t, r, inputs), t)[1], trainable, rest)
    return sum(leaf.size for leaf in jax.tree.leaves(kept)) - trainable.num_params


@on({name: tiny(name) for name in declared()})
def test_remat_keeps_less_and_computes_the_same(config):
    model, again = model_of(config), model_of(dataclasses.replace(config, remat=True))
    inputs, params = inputs_for(config), random_params(config)
    assert numbers_kept(again, inputs) < 0.9 * numbers_kept(model, inputs)
    trainable, rest = params.split_trainable()

    def loss(trainable, model):
        outputs, new = model(trainable.merge(rest), *inputs, is_training=True)
        return jax.tree.leaves(outputs)[-1].std(), new.split_trainable()[1]

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (expected, state), (found, new_state) = gradient(trainable, model), gradient(trainable, again)
    # By NumPy, which compiles nothing for each shape.
    found, expected = (
        {path: np.asarray(param.value) for path, param in gradients.items()}
        for gradients in (found, expected)
    )
    largest = max(abs(value).max() for value in expected.values())
    for path, value in expected.items():
        # Where a norm removes what a bias adds, its gradient is nothing but rounding.
        scale = abs(value).max() + 1e-4 * largest
        np.testing.assert_allclose(found[path] / scale, value / scale, atol=1e-4)
    assert int(state['rng'].value[1]) == int(new_state['rng'].value[1])
