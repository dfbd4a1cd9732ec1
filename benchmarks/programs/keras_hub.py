"""keras-hub on JAX: `stateless_call` and `stateless_apply` under `jax.jit`, as its guide has it."""

import os

os.environ['KERAS_BACKEND'] = 'jax'

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import keras_hub.models as hub
from keras_hub import samplers

from programs.shared import DECAY, RATE, Program, count, inputs, targets, versions_of


def versions() -> str:
    return versions_of('keras-hub', 'keras', 'jax', 'jaxlib')


def create(model: str, sizes: dict[str, Any]) -> Any:
    """Make a model with these sizes and no dropout; BERT without what comes after its last block."""
    side = (sizes.get('image_size'),) * 2 + (3,)
    if model in ('convnext', 'swin', 'eva'):
        raise NotImplementedError(f'keras-hub has no {model}')
    if model == 'resnet':
        wide = 4 if sizes['block'] == 'bottleneck' else 1
        backbone = hub.ResNetBackbone(
            [64],
            [7],
            [64, 128, 256, 512],
            sizes['depths'],
            [1, 2, 2, 2],
            'bottleneck_block' if wide == 4 else 'basic_block',
            image_shape=side,
        )
        return hub.ResNetImageClassifier(backbone, sizes['num_classes'])
    layers = {
        'num_layers': sizes['depth'],
        'num_heads': sizes['heads'],
        'hidden_dim': sizes['width'],
    }
    if model == 'vit':
        mlp = {'mlp_dim': 4 * sizes['width']}
        backbone = hub.ViTBackbone(image_shape=side, patch_size=16, **layers, **mlp)
        return hub.ViTImageClassifier(backbone, sizes['num_classes'])
    layers |= {'intermediate_dim': 4 * sizes['width'], 'dropout': 0.0}
    layers |= {'vocabulary_size': sizes['vocab_size'], 'max_sequence_length': sizes['context']}
    if model == 'gpt2':
        return hub.GPT2CausalLM(hub.GPT2Backbone(**layers))
    return hub.BertBackbone(**layers)


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    net, x = create(model, sizes), inputs(model, sizes)
    parameters = count(net.trainable_variables)
    if work in ('greedy', 'sampled'):
        return Program(_decode(net, x, sizes, work), parameters)
    fed = jnp.asarray(x)
    if model in ('gpt2', 'bert'):
        fed = {'token_ids': fed, 'padding_mask': jnp.ones_like(fed)}
    if model == 'bert':
        fed['segment_ids'] = jnp.zeros_like(fed['token_ids'])
    if work == 'step':
        return Program(_step(net, fed, jnp.asarray(targets(model, sizes))), parameters)
    weights = [[v.value for v in net.trainable_variables]]
    weights.append([v.value for v in net.non_trainable_variables])

    @jax.jit
    def run(weights: Any, fed: Any) -> jax.Array:
        outputs, _ = net.stateless_call(*weights, fed, training=False)
        return embedding(outputs['sequence_output']) if model == 'bert' else outputs

    return Program(
        lambda: jax.block_until_ready(run(weights, fed)),
        parameters,
        lambda: run.lower(weights, fed).compile(),
    )


def embedding(states: jax.Array) -> jax.Array:
    """Return the mean of the tokens' states, of length 1."""
    mean = states.mean(1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def _step(net: Any, fed: Any, y: jax.Array) -> Any:
    optimizer = keras.optimizers.AdamW(RATE, weight_decay=DECAY)
    optimizer.build(net.trainable_variables)
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @partial(jax.jit, donate_argnums=0)
    def step(now: Any, fed: Any, y: jax.Array) -> Any:
        weights, rest, state = now

        def loss_of(weights: Any) -> Any:
            logits, new = net.stateless_call(weights, rest, fed, training=True)
            return losses(y, logits), new

        (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(weights)
        weights, state = optimizer.stateless_apply(state, grads, weights)
        return (weights, rest, state), loss

    now = tuple(
        [jnp.copy(variable.value) for variable in variables]
        for variables in (
            net.trainable_variables,
            net.non_trainable_variables,
            optimizer.variables,
        )
    )

    def call() -> None:
        nonlocal now
        now, loss = step(now, fed, y)
        jax.block_until_ready((now, loss))

    return call


def _decode(net: Any, x: Any, sizes: dict[str, Any], work: str) -> Any:
    sampler = samplers.GreedySampler() if work == 'greedy' else samplers.TopPSampler(p=0.9, k=50)
    net.compile(sampler=sampler)
    batch, length = x.shape
    tokens = jnp.zeros((batch, length + sizes['new']), jnp.int32).at[:, :length].set(x)
    fed = {'token_ids': tokens, 'padding_mask': jnp.arange(tokens.shape[1])[None] < length}
    return lambda: jax.block_until_ready(net.generate(fed, stop_token_ids=None))
