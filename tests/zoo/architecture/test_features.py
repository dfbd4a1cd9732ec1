"""Named intermediates of every family, and blocks that recompute for the gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import random_params, table

import blox as bx
from blox.zoo.architecture.features import Feature

TINY = {
    'vit': ('vit-ti16', {'image_size': (32, 16), 'width': 12, 'depth': 2, 'mlp_dim': 16}),
    'vit without class token': (
        'vit-ti16',
        {'image_size': 32, 'width': 12, 'depth': 2, 'pool': 'avg', 'class_token': False},
    ),
    'resnet': ('resnet26', {'image_size': 64, 'depths': (3, 1), 'widths': (8, 12)}),
    'resnet for small images': (
        'resnet18',
        {'image_size': 16, 'depths': (1, 1), 'widths': (8, 12), 'stem': 'small'},
    ),
    'gpt2': ('gpt2', {'vocab_size': 20, 'context': 8, 'width': 12, 'depth': 2, 'mlp_dim': 16}),
    'bert': ('minilm-l6', {'vocab_size': 20, 'context': 8, 'width': 12, 'depth': 2}),
}


def tiny(name, **more):
    variant, fields = TINY[name]
    model = bx.zoo.create(variant, **fields, **more)
    (example,) = model.example_inputs()
    if example.dtype == jnp.int32:
        return model, jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
    shape = (2, *example.shape[1:])
    return model, jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def seeded(model, inputs):
    return random_params(model, inputs, dtype=jnp.float32).merge(bx.Params(seed=0))


@pytest.mark.parametrize('name', TINY)
def test_features_are_as_the_info_says(name):
    model, inputs = tiny(name)
    params = bx.spec(model, inputs)
    found, after = jax.eval_shape(model.features, params, inputs)
    assert [(name, x.shape[-1]) for name, x in found.items()] == [
        (feature.name, feature.channels) for feature in model.feature_info()
    ]
    assert list(after) == list(params)


@table({'vit': 'vit', 'resnet': 'resnet', 'gpt2': 'gpt2'})
def test_the_head_of_the_last_feature_gives_the_outputs(row):
    model, inputs = tiny(row)
    params = seeded(model, inputs)
    found, params = model.features(params, inputs, ['pre_logits'])
    head = model.token_embed.attend if row == 'gpt2' else model.head
    np.testing.assert_array_equal(head(params, found['pre_logits'])[0], model(params, inputs)[0])


def test_a_lens_on_the_last_block_gives_the_outputs():
    model, tokens = tiny('gpt2')
    params = seeded(model, tokens)
    found, _ = model.features(params, tokens, ['block1'])
    np.testing.assert_array_equal(
        model.logits(params, found['block1'])[0], model(params, tokens)[0]
    )


def test_embeddings_see_the_mask():
    model, tokens = tiny('bert')
    params, mask = seeded(model, tokens), jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found, _ = model.features(params, tokens, mask, names=['embedding'])
    np.testing.assert_array_equal(found['embedding'], model(params, tokens, mask)[0].embedding)


@pytest.mark.parametrize('name', TINY)
def test_nothing_runs_after_the_last_one_asked_for(name):
    model, inputs = tiny(name)
    params = bx.spec(model, inputs)
    first, *_, last = (feature.name for feature in model.feature_info())

    def steps(name):
        features = functools.partial(model.features, names=[name])
        return len(jax.make_jaxpr(features)(params, inputs).eqns)

    assert steps(first) < steps(last) / 2


@table(
    {
        'vit': ('vit', [0, -1], [(2, 2, 1, 12)] * 2, (16, 16)),
        'vit without class token': (
            'vit without class token',
            [1],
            [(2, 2, 2, 12)],
            (16, 16),
        ),
        'resnet': ('resnet', [0, 2, 1], [(2, 32, 32, 64), (2, 8, 8, 48), (2, 16, 16, 32)], (8, 8)),
        'resnet for small images': (
            'resnet for small images',
            [-3, -1],
            [(2, 16, 16, 64), (2, 8, 8, 12)],
            (2, 2),
        ),
    }
)
def test_maps_have_the_strides_and_channels_of_the_card(row):
    name, indices, shapes, last = row
    model, images = tiny(name)
    maps, _ = jax.eval_shape(
        lambda p, x: model.feature_maps(p, x, indices), bx.spec(model, images), images
    )
    assert [m.shape for m in maps] == shapes
    known = [feature for feature in model.feature_info() if feature.strides]
    assert known[-1].strides == last
    for i, found in zip(indices, maps):
        rows, columns = (n // s for n, s in zip(images.shape[1:3], known[i].strides))
        assert found.shape[1:] == (rows, columns, known[i].channels)


def test_maps_of_a_vit_are_its_patches_in_place():
    model, images = tiny('vit')
    params = seeded(model, images)
    (found,), _ = model.feature_maps(params, images, [1])
    states, _ = model.features(params, images, ['block1'])
    np.testing.assert_array_equal(found[:, 1, 0], states['block1'][:, 2])


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
    model, images = tiny('vit')
    with pytest.raises(ValueError, match=message):
        model.features(bx.spec(model, images), images, names)


@pytest.mark.parametrize('indices', [[2], [-3], []])
def test_indices_that_are_not_there_are_refused(indices):
    model, images = tiny('vit')
    with pytest.raises(ValueError, match=r'out_indices of 2 maps \(block0, block1\)'):
        model.feature_maps(bx.spec(model, images), images, indices)


def numbers_kept(model, inputs):
    """How many numbers a forward pass keeps for its gradient, beside the parameters."""
    trainable, rest = bx.spec(model, inputs).split_trainable()

    def loss(trainable, rest, inputs):
        outputs, _ = model(trainable.merge(rest), inputs, is_training=True)
        return jax.tree.leaves(outputs)[-1].sum()

    kept = jax.eval_shape(lambda t, r: jax.vjp(lambda t: loss(t, r, inputs), t)[1], trainable, rest)
    return sum(leaf.size for leaf in jax.tree.leaves(kept)) - trainable.num_params


@pytest.mark.parametrize('name', ['vit', 'resnet', 'gpt2', 'bert'])
def test_remat_keeps_less_and_computes_the_same(name):
    model, inputs = tiny(name)
    again, _ = tiny(name, remat=True)
    assert numbers_kept(again, inputs) < 0.7 * numbers_kept(model, inputs)
    params = seeded(model, inputs)
    trainable, rest = params.split_trainable()

    def loss(trainable, model):
        outputs, new = model(trainable.merge(rest), inputs, is_training=True)
        return jax.tree.leaves(outputs)[-1].std(), new.split_trainable()[1]

    gradient = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    (expected, state), (found, new_state) = gradient(trainable, model), gradient(trainable, again)
    for path in expected:
        scale = abs(expected[path].value).max() + 1e-6
        np.testing.assert_allclose(
            found[path].value / scale, expected[path].value / scale, atol=1e-4
        )
    assert int(state['rng'].value[1]) == int(new_state['rng'].value[1])
