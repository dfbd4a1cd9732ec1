"""Equimo: Equinox modules of one image, `jax.vmap` over the batch, `eqx.filter_jit`."""

from importlib import import_module
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from programs.shared import DECAY, RATE, Program, count, inputs, targets, versions_of

KEY = jax.random.PRNGKey(0)


def versions() -> str:
    return versions_of('equimo', 'equinox', 'jax', 'jaxlib')


def models() -> Any:
    """Return its module of image models, which version 2 has moved."""
    try:
        return import_module('equimo.vision.models')
    except ModuleNotFoundError:
        return import_module('equimo.models')


def create(model: str, sizes: dict[str, Any]) -> Any:
    """Make a model with these sizes, the eps and activation of the others', and no dropout."""
    same = {'num_classes': sizes.get('num_classes'), 'act_layer': 'exactgelu', 'eps': 1e-6}
    if model == 'convnext':
        return models().ConvNeXt(
            3, depths=[*sizes['depths']], dims=[*sizes['widths']], **same, key=KEY
        )
    if model != 'vit':
        raise NotImplementedError(f'Equimo has no {model}')
    return models().VisionTransformer(
        sizes['image_size'],
        3,
        sizes['width'],
        16,
        sizes['heads'],
        [sizes['depth']],
        reg_tokens=0,
        global_pool='token',
        **same,
        key=KEY,
    )


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    net = create(model, sizes)
    x = jnp.asarray(inputs(model, sizes, channels_first=True))
    parameters = count(jax.tree.leaves(eqx.filter(net, eqx.is_inexact_array)))
    if work == 'step':
        return Program(_step(net, x, jnp.asarray(targets(model, sizes))), parameters)
    net = eqx.nn.inference_mode(net)
    run = eqx.filter_jit(lambda net, x: _logits(net, x, True))
    return Program(lambda: jax.block_until_ready(run(net, x)), parameters)


def _logits(net: Any, x: jax.Array, inference: bool) -> jax.Array:
    return jax.vmap(lambda image: net(image, KEY, inference=inference))(x)


def _step(net: Any, x: jax.Array, y: jax.Array) -> Any:
    optimizer = optax.adamw(RATE, weight_decay=DECAY)

    @eqx.filter_jit(donate='all-except-first')
    def step(batch: Any, net: Any, state: Any) -> Any:
        x, y = batch

        @eqx.filter_value_and_grad
        def loss_of(net: Any) -> jax.Array:
            losses = optax.softmax_cross_entropy_with_integer_labels(_logits(net, x, False), y)
            return losses.mean()

        loss, grads = loss_of(net)
        updates, state = optimizer.update(grads, state, eqx.filter(net, eqx.is_inexact_array))
        return eqx.apply_updates(net, updates), state, loss

    now = net, optimizer.init(eqx.filter(net, eqx.is_inexact_array))

    def call() -> None:
        nonlocal now
        *now, loss = step((x, y), *now)
        jax.block_until_ready((jax.tree.leaves(eqx.filter(now, eqx.is_array)), loss))

    return call
