"""Our architectures against transformers and timm: the same weights give the same logits.

Everything is in float64 with large random weights, where any wrong choice shows.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mapping import gpt2, hf_vit, resnet, timm_vit

import blox as bx
from blox.zoo.family import families

with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # of the reference libraries, as they are imported
    torch = pytest.importorskip('torch')
    # A torchvision without its compiled operators imports once they are declared.
    try:
        library = torch.library.Library('torchvision', 'DEF')
        library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    except RuntimeError:
        pass  # They are there already.
    timm = pytest.importorskip('timm')
    transformers = pytest.importorskip('transformers')

pytestmark = pytest.mark.usefixtures('x64')
RNG = np.random.default_rng(0)


def randomized(reference, seed=0):
    """`reference` in float64 for inference, its weights and statistics random."""
    generator = torch.Generator().manual_seed(seed)
    reference = reference.double().eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(0, 0.2, generator=generator)
        for name, buffer in reference.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_(0, 0.2, generator=generator)
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return reference


def arrays(reference):
    return {name: value.numpy() for name, value in reference.state_dict().items()}


def ours(family, config, entries):
    """Our model of `config`, and Params that hold `entries` where it expects them."""
    model = families()[family].build(config)
    params = bx.spec(model, *model.example_inputs()).partition('rng')[1]
    values = dict(entries)
    assert set(values) == set(params)
    for path, value in values.items():
        params = params.set(path, jnp.asarray(value, jnp.float64), strict=False)
    return model, params


def check_logits(model, params, inputs, expected):
    logits, _ = jax.jit(model)(params, inputs)
    expected = expected.detach().numpy()
    assert logits.dtype == jnp.float64
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12)


# GPT-2.


def gpt2_pair(**options):
    """A reference of transformers, and ours with its weights."""
    sizes = {'vocab_size': 50, 'n_positions': 64, 'n_embd': 32, 'n_layer': 3, 'n_head': 4}
    config = transformers.GPT2Config(**sizes, **options, bos_token_id=None, eos_token_id=None)
    reference = randomized(transformers.GPT2LMHeadModel(config))
    fields = {'vocab_size': 50, 'context': 64, 'width': 32, 'depth': 3, 'heads': 4, 'mlp_dim': 128}
    return reference, fields


@pytest.mark.parametrize(
    ('theirs', 'field'),
    [
        ({}, {}),
        ({'n_inner': 48}, {'mlp_dim': 48}),
        ({'activation_function': 'gelu'}, {'activation': 'gelu'}),
        ({'activation_function': 'relu'}, {'activation': 'relu'}),
        ({'layer_norm_epsilon': 1e-2}, {'norm_eps': 1e-2}),
        ({'scale_attn_weights': False}, {'scale_attention': False}),
        ({'scale_attn_by_inverse_layer_idx': True}, {'scale_attention_by_depth': True}),
    ],
    ids=str,
)
def test_gpt2_equals_transformers(theirs, field):
    reference, fields = gpt2_pair(**theirs)
    config = dataclasses.replace(bx.zoo.card('gpt2').config, **fields | field)
    model, params = ours('gpt2', config, gpt2(arrays(reference), depth=3))
    tokens = RNG.integers(0, 50, (2, 13))
    expected = reference(torch.tensor(tokens)).logits
    check_logits(model, params, jnp.asarray(tokens, jnp.int32), expected)


def test_greedy_generation_equals_transformers():
    reference, fields = gpt2_pair()
    with torch.no_grad():  # Where biases outweigh positions, it says one word over and over.
        reference.transformer.wpe.weight *= 5
        for name, parameter in reference.named_parameters():
            if name.endswith('bias'):
                parameter.zero_()
    config = dataclasses.replace(bx.zoo.card('gpt2').config, **fields)
    model, params = ours('gpt2', config, gpt2(arrays(reference), depth=3))
    prompts = [RNG.integers(0, 50, length).tolist() for length in (1, 5, 20)]
    options = {'max_new_tokens': 32, 'do_sample': False, 'pad_token_id': 0}
    expected = [
        reference.generate(torch.tensor([p]), attention_mask=torch.ones(1, len(p)), **options)
        for p in prompts
    ]
    found, _ = bx.zoo.generate(model, params, prompts, max_new_tokens=32, temperature=0)
    assert found.tolist() == [e[0, len(p) :].tolist() for e, p in zip(expected, prompts)]
    assert all(len(set(row)) > 4 for row in found.tolist())


# ViT.

VIT_FIELDS = {
    'image_size': (24, 16),
    'patch_size': (8, 8),
    'width': 32,
    'depth': 2,
    'heads': 4,
    'mlp_dim': 128,
    'num_classes': 7,
}


@pytest.mark.parametrize(
    ('theirs', 'field'),
    [
        ({}, {}),
        ({'global_pool': 'avg'}, {'pool': 'avg'}),
        (
            {'global_pool': 'avg', 'class_token': False},
            {'pool': 'avg', 'class_token': False},
        ),
        ({'patch_size': 4}, {'patch_size': (4, 4)}),
    ],
    ids=str,
)
def test_vit_equals_timm(theirs, field):
    sizes = {'img_size': (24, 16), 'patch_size': 8, 'embed_dim': 32, 'depth': 2, 'num_heads': 4}
    vit = timm.models.vision_transformer.VisionTransformer
    reference = randomized(vit(**sizes | theirs, num_classes=7))
    config = dataclasses.replace(bx.zoo.card('vit-b16').config, **VIT_FIELDS | field)
    model, params = ours('vit', config, timm_vit(arrays(reference), depth=2))
    images = RNG.normal(size=(2, 24, 16, 3))
    expected = reference(torch.tensor(images.transpose(0, 3, 1, 2)))
    check_logits(model, params, jnp.asarray(images), expected)


def test_vit_equals_transformers():
    sizes = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4}
    config = transformers.ViTConfig(
        **sizes, intermediate_size=128, image_size=(24, 16), patch_size=8, num_labels=7
    )
    assert config.layer_norm_eps == 1e-12
    reference = randomized(transformers.ViTForImageClassification(config))
    fields = VIT_FIELDS | {'norm_eps': 1e-12}
    config = dataclasses.replace(bx.zoo.card('vit-b16').config, **fields)
    model, params = ours('vit', config, hf_vit(arrays(reference), depth=2))
    images = RNG.normal(size=(2, 24, 16, 3))
    expected = reference(torch.tensor(images.transpose(0, 3, 1, 2))).logits
    check_logits(model, params, jnp.asarray(images), expected)


# ResNet.


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'resnext50_32x4d'])
def test_resnet_equals_timm(name):
    reference = randomized(timm.create_model(name, num_classes=5))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter *= 0.2 if parameter.ndim == 4 else 1
    config = dataclasses.replace(bx.zoo.card(name.replace('_', '-')).config, num_classes=5)
    model, params = ours('resnet', config, resnet(arrays(reference)))
    images = RNG.normal(size=(2, 47, 64, 3))
    expected = reference(torch.tensor(images.transpose(0, 3, 1, 2)))
    check_logits(model, params, jnp.asarray(images), expected)
