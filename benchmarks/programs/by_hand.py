"""ViT and GPT-2 by hand: functions of plain dicts, the mathematics as one writes it in JAX.

What stands between a model of this library and these is what its modules and Params cost, and what its
layers gain by the ways that they choose.
"""

from typing import Any

import jax
import jax.numpy as jnp

from programs.shared import Program, count, inputs, versions_of


def versions() -> str:
    return versions_of('jax', 'jaxlib')


def linear(p: dict[str, Any], x: jax.Array) -> jax.Array:
    return x @ p['w'] + p['b']


def norm(p: dict[str, Any], x: jax.Array, eps: float) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    return x * p['scale'] + p['offset']


def attention(p: dict[str, Any], x: jax.Array, heads: int, is_causal: bool) -> jax.Array:
    batch, length, width = x.shape
    qkv = linear(p['qkv'], x).reshape(batch, length, 3, heads, width // heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    logits = jnp.einsum('bqhd,bkhd->bhqk', q * (width // heads) ** -0.5, k)
    if is_causal:
        mask = jnp.tril(jnp.ones((1, 1, length, length), bool))
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    x = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(logits), v)
    return linear(p['proj'], x.reshape(batch, length, width))


def block(p: dict[str, Any], x: jax.Array, heads: int, eps: float, is_causal: bool) -> jax.Array:
    x = x + attention(p['attn'], norm(p['norm1'], x, eps), heads, is_causal)
    y = linear(p['fc1'], norm(p['norm2'], x, eps))
    return x + linear(p['fc2'], jax.nn.gelu(y, approximate=is_causal))


def vit(p: dict[str, Any], images: jax.Array, heads: int) -> jax.Array:
    x = jax.lax.conv_general_dilated(
        images,
        p['patch_embed']['w'],
        (16, 16),
        'VALID',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = (x + p['patch_embed']['b']).reshape(x.shape[0], -1, x.shape[-1])
    token = jnp.broadcast_to(p['cls_token'], (x.shape[0], 1, x.shape[2]))
    x = jnp.concatenate([token, x], 1) + p['pos_embed']
    for each in p['blocks']:
        x = block(each, x, heads, 1e-6, is_causal=False)
    return linear(p['head'], norm(p['norm'], x, 1e-6)[:, 0])


def gpt2(p: dict[str, Any], tokens: jax.Array, heads: int) -> jax.Array:
    # An id outside of the table is NaN, as in this library.
    x = p['token_embed'].at[tokens].get(mode='fill', fill_value=jnp.nan)
    x = x + p['pos_embed'][: tokens.shape[1]]
    for each in p['blocks']:
        x = block(each, x, heads, 1e-5, is_causal=True)
    return norm(p['norm'], x, 1e-5) @ p['token_embed'].T


def weights(model: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Draw random weights for either."""
    width, keys = sizes['width'], iter(jax.random.split(jax.random.key(0), 8 * sizes['depth'] + 8))

    def draw(*shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(next(keys), shape)

    def dense(inputs: int, outputs: int) -> dict[str, Any]:
        return {'w': draw(inputs, outputs), 'b': jnp.zeros(outputs)}

    def ones() -> dict[str, Any]:
        return {'scale': jnp.ones(width), 'offset': jnp.zeros(width)}

    p: dict[str, Any] = {
        'blocks': [
            {
                'norm1': ones(),
                'attn': {'qkv': dense(width, 3 * width), 'proj': dense(width, width)},
                'norm2': ones(),
                'fc1': dense(width, 4 * width),
                'fc2': dense(4 * width, width),
            }
            for _ in range(sizes['depth'])
        ],
        'norm': ones(),
    }
    if model == 'gpt2':
        return p | {
            'token_embed': draw(sizes['vocab_size'], width),
            'pos_embed': draw(sizes['context'], width),
        }
    return p | {
        'patch_embed': {'w': draw(16, 16, 3, width), 'b': jnp.zeros(width)},
        'cls_token': draw(1, 1, width),
        'pos_embed': draw(1, (sizes['image_size'] // 16) ** 2 + 1, width),
        'head': dense(width, sizes['num_classes']),
    }


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    if work != 'forward' or model not in ('vit', 'gpt2'):
        raise NotImplementedError(f'no {work} of {model} was written by hand')
    p, x = weights(model, sizes), jnp.asarray(inputs(model, sizes))
    function = {'vit': vit, 'gpt2': gpt2}[model]
    run = jax.jit(lambda p, x: function(p, x, sizes['heads']))
    return Program(
        lambda: jax.block_until_ready(run(p, x)),
        count(jax.tree.leaves(p)),
        lambda: run.lower(p, x).compile(),
    )
