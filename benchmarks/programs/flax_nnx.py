"""Flax NNX: it has layers and no models, so these are written with its layers, as its guide does.

`nnx.split` once, `nnx.merge` inside of `jax.jit`: the fastest way to call it that its guide names.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from programs.shared import DECAY, RATE, Program, count, inputs, targets, versions_of

TRUNCATED = nnx.initializers.truncated_normal(0.02)


def versions() -> str:
    return versions_of('flax', 'jax', 'jaxlib')


class Block(nnx.Module):
    """A transformer block, normalized before its two parts, or after them as BERT is."""

    def __init__(self, sizes: dict[str, Any], model: str, rngs: nnx.Rngs) -> None:
        width, eps = sizes['width'], {'vit': 1e-6, 'gpt2': 1e-5, 'bert': 1e-12}[model]
        self.model = model
        self.norm1 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(sizes['heads'], width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.fc1 = nnx.Linear(width, 4 * width, rngs=rngs)
        self.fc2 = nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        mask = nnx.make_causal_mask(x[..., 0]) if self.model == 'gpt2' else None
        if self.model == 'bert':
            x = self.norm1(x + self.attn(x, mask=mask))
            return self.norm2(x + self.mlp(x))
        x = x + self.attn(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))

    def mlp(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.gelu(self.fc1(x), approximate=self.model == 'gpt2'))


class ViT(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs) -> None:
        width, tokens = sizes['width'], (sizes['image_size'] // 16) ** 2 + 1
        self.patch_embed = nnx.Conv(3, width, (16, 16), strides=16, padding='VALID', rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.pos_embed = nnx.Param(TRUNCATED(rngs.params(), (1, tokens, width), jnp.float32))
        self.blocks = nnx.List([Block(sizes, 'vit', rngs) for _ in range(sizes['depth'])])
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(width, sizes['num_classes'], rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.patch_embed(images).reshape(images.shape[0], -1, self.cls_token.shape[-1])
        token = jnp.broadcast_to(self.cls_token[...], (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([token, x], 1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class GPT2(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(sizes['vocab_size'], sizes['width'], rngs=rngs)
        self.positions = nnx.Embed(sizes['context'], sizes['width'], rngs=rngs)
        self.blocks = nnx.List([Block(sizes, 'gpt2', rngs) for _ in range(sizes['depth'])])
        self.norm = nnx.LayerNorm(sizes['width'], epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.tokens.attend(self.norm(x))


class BERT(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs) -> None:
        self.tokens = nnx.Embed(sizes['vocab_size'], sizes['width'], rngs=rngs)
        self.positions = nnx.Embed(sizes['context'], sizes['width'], rngs=rngs)
        self.types = nnx.Embed(2, sizes['width'], rngs=rngs)
        self.norm = nnx.LayerNorm(sizes['width'], epsilon=1e-12, rngs=rngs)
        self.blocks = nnx.List([Block(sizes, 'bert', rngs) for _ in range(sizes['depth'])])

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.tokens(tokens) + self.positions(jnp.arange(tokens.shape[1]))
        x = self.norm(x + self.types(jnp.zeros_like(tokens)))
        for block in self.blocks:
            x = block(x)
        mean = x.mean(1)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


class ConvNorm(nnx.Module):
    """A convolution without bias, and a norm over the batch."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        around = [(size // 2, size // 2)] * 2
        self.conv = nnx.Conv(
            inputs,
            outputs,
            (size, size),
            strides=stride,
            padding=around,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class ResNetBlock(nnx.Module):
    def __init__(self, inputs: int, width: int, stride: int, kind: str, rngs: nnx.Rngs) -> None:
        outputs = 4 * width if kind == 'bottleneck' else width
        if kind == 'bottleneck':
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        self.layers = nnx.List([ConvNorm(*shape, rngs) for shape in shapes])
        is_same = stride == 1 and inputs == outputs
        self.shortcut = None if is_same else ConvNorm(inputs, outputs, 1, stride, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.shortcut is None else self.shortcut(x)
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return nnx.relu(self.layers[-1](x) + y)


class ResNet(nnx.Module):
    def __init__(self, sizes: dict[str, Any], rngs: nnx.Rngs) -> None:
        self.stem, blocks, inputs = ConvNorm(3, 64, 7, 2, rngs), [], 64
        for i, depth in enumerate(sizes['depths']):
            width = 64 * 2**i
            for j in range(depth):
                stride = 2 if i and not j else 1
                blocks.append(ResNetBlock(inputs, width, stride, sizes['block'], rngs))
                inputs = 4 * width if sizes['block'] == 'bottleneck' else width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, sizes['num_classes'], rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        x = nnx.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


MODELS = {'vit': ViT, 'gpt2': GPT2, 'bert': BERT, 'resnet': ResNet}


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    if model not in MODELS:
        raise NotImplementedError(f'no {model} was written for Flax')
    if work not in ('forward', 'step'):
        raise NotImplementedError('Flax has no text generation')
    net, x = MODELS[model](sizes, nnx.Rngs(0)), jnp.asarray(inputs(model, sizes))
    if work == 'forward':
        net.eval()
    else:
        net.train()
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    parameters = count(jax.tree.leaves(params))
    if work == 'step':
        y = jnp.asarray(targets(model, sizes))
        return Program(_step(graph, params, rest, x, y), parameters)
    run = jax.jit(lambda params, rest, x: nnx.merge(graph, params, rest)(x))
    return Program(
        lambda: jax.block_until_ready(run(params, rest, x)),
        parameters,
        lambda: run.lower(params, rest, x).compile(),
    )


def _step(graph: Any, params: Any, rest: Any, x: jax.Array, y: jax.Array) -> Any:
    optimizer = optax.adamw(RATE, weight_decay=DECAY)

    @partial(jax.jit, donate_argnums=0)
    def step(now: Any, x: jax.Array, y: jax.Array) -> Any:
        params, rest, state = now

        def loss_of(params: Any) -> Any:
            net = nnx.merge(graph, params, rest, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(net(x), y)
            return losses.mean(), nnx.split(net, nnx.Param, ...)[2]

        (loss, rest), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), rest, state), loss

    now = params, rest, jax.jit(optimizer.init)(params)

    def call() -> None:
        nonlocal now
        now, loss = step(now, x, y)
        jax.block_until_ready((now, loss))

    return call
