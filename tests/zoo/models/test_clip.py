"""CLIP: two towers, how texts are pooled, and what logits are made of."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from families import tiny
from small_models import inputs_for, model_of, random_params

import blox as bx

SIGLIP = {
    'image_pool': 'map',
    'image_projection': False,
    'embed_dim': 8,
    'text_causal': False,
    'text_pool': 'last',
    'text_bias': True,
    'logit_bias': True,
}


def made(**fields):
    config = tiny('clip', **fields)
    return model_of(config), random_params(config, jnp.float64), inputs_for(config)


def text(model, params, *tokens):
    return np.asarray(jax.jit(model.encode_text)(params, jnp.array(tokens, jnp.int32))[0])


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('fields', [{}, SIGLIP])
def test_logits_are_scaled_cosines_of_all_pairs(fields):
    model, params, (images, tokens) = made(**fields)
    images, tokens = images.astype(jnp.float64), tokens[:1]
    outputs, _ = jax.jit(model)(params, images, tokens)
    x, y = (
        np.asarray(encode(params, inputs)[0])
        for encode, inputs in ((model.encode_image, images), (model.encode_text, tokens))
    )
    cosines = (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T
    scale = np.exp(np.asarray(params['clip/logit_scale'].value))
    bias = np.asarray(params['clip/logit_bias'].value) if fields else 0
    assert outputs.logits.shape == (2, 1)
    np.testing.assert_allclose(outputs.logits, scale * cosines + bias, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(outputs.text_embedding, axis=1), 1, rtol=1e-12)
    normalized, _ = model.encode_image(params, images, normalize=True)
    np.testing.assert_allclose(outputs.image_embedding, normalized, rtol=1e-12)


@pytest.mark.usefixtures('x64')
def test_a_text_is_its_first_end_token_whatever_comes_after():
    model, params, _ = made(text_pool='end', end_token=9)
    found = text(model, params, [1, 2, 9, 0, 0], [1, 2, 9, 9, 10], [1, 2, 3, 9, 0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    assert not np.allclose(found[0], found[2])


@pytest.mark.usefixtures('x64')
def test_a_text_is_its_highest_token_where_the_end_is_that():
    model, params, _ = made()
    found = text(model, params, [1, 10, 0, 0], [1, 10, 10, 3], [1, 2, 10, 0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    assert not np.allclose(found[0], found[2])


@pytest.mark.parametrize('shape', [(5,), (1, 5, 8), ()])
def test_texts_that_are_no_rows_of_ids_are_refused(shape, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, 'jaxtyping_disable', True)
    model, params, _ = made()
    with pytest.raises(ValueError, match=r'expects ids \[texts, length\]'):
        model.encode_text(params, jnp.zeros(shape, jnp.int32))


@pytest.mark.usefixtures('x64')
def test_all_tokens_are_seen_where_texts_are_read_both_ways():
    model, params, _ = made(**SIGLIP)
    found = text(model, params, [1, 2, 3, 0], [1, 2, 3, 5], [4, 2, 3, 0])
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[0], found[2])
    assert model.config.text_length == model.config.context
    assert tiny('clip').text_length == 0
    # Without a mask, what fills a text up is seen like the rest of it.
    both_ways = tiny('clip', text_causal=False)
    assert both_ways.text_length == both_ways.context


def test_scores_are_as_the_model_was_trained():
    assert tiny('clip').scores == 'softmax'
    assert tiny('clip', **SIGLIP).scores == 'sigmoid'
    assert bx.zoo.card('siglip-b16').scores == 'sigmoid'
    assert bx.zoo.card('clip-b32').scores == 'softmax'


@pytest.mark.usefixtures('x64')
def test_the_image_tower_is_a_vit():
    model, params, (images, tokens) = made()
    assert type(model.image).__name__ == 'ViT'
    images = images.astype(jnp.float64)
    found, _ = model.features(params, images, tokens, ['image/block1'])
    alone, _ = model.image.features(params, images, ['block1'])
    np.testing.assert_array_equal(found['image/block1'], alone['block1'])


@pytest.mark.usefixtures('x64')
def test_texts_longer_than_the_context_are_refused():
    model, params, _ = made()
    with pytest.raises(ValueError, match="'clip/text' sees 1 to 6 tokens, found 7"):
        model.encode_text(params, jnp.zeros((1, 7), jnp.int32))


def test_weights_and_logits_start_as_clip_has_them():
    wide = {f'{tower}_{name}': 96 for tower in ('image', 'text') for name in ('width', 'mlp_dim')}
    model = model_of(tiny('clip', **wide, text_depth=3, embed_dim=64, vocab_size=99))
    params = bx.zoo.init(model)
    expected = {
        'token_embed': 0.02,
        'pos_embed': 0.01,
        'proj': 96**-0.5,
        **{f'block{i}/attn/qkv': 96**-0.5 for i in range(3)},
        **{f'block{i}/attn/proj': (2 * 96 * 3) ** -0.5 for i in range(3)},
        **{f'block{i}/mlp/fc1': (2 * 96) ** -0.5 for i in range(3)},
        **{f'block{i}/mlp/fc2': (2 * 96 * 3) ** -0.5 for i in range(3)},
    }
    for name, std in expected.items():
        assert float(params[f'clip/text/{name}/w'].value.std()) == pytest.approx(std, rel=0.08)
    assert float(params['clip/image_proj/w'].value.std()) == pytest.approx(96**-0.5, rel=0.05)
    assert float(jnp.exp(params['clip/logit_scale'].value)) == pytest.approx(1 / 0.07)
    biased = bx.zoo.init(model_of(tiny('clip', **SIGLIP)))
    assert float(biased['clip/logit_bias'].value) == -10
