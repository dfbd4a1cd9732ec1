"""GPT-2: a causal language model, and classifiers made of it.

Paper: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners". References:
openai/gpt-2, transformers.GPT2LMHeadModel and its other heads.

Supported: all published sizes and distilgpt2; other activations and MLP widths, attention
without scaling or scaled by depth too, a head of its own; heads that classify texts or tokens, or none.
A key-value cache makes generation linear.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from blox.graph import Graph
from blox.layers import (
    ACTIVATIONS,
    Dropout,
    Embed,
    KVCache,
    LayerNorm,
    Linear,
    Mlp,
    MultiHeadAttention,
)
from blox.layers.initializers import Normal
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config, heads_divide_width
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps, finish
from blox.zoo.architecture.model import TextModel, block_steps, check_tokens
from blox.zoo.architecture.pooling import picked
from blox.zoo.architecture.resizing import repeat_positions, resize_columns, resize_rows

_WITH_CLASSES = ('text-classification', 'token-classification')
TASKS = ('text-generation', *_WITH_CLASSES, 'feature-extraction')


@dataclass(frozen=True)
class GPT2Config(Config):
    """Choices that make a GPT-2.

    Attributes:
      task: what comes after the last block, one of `TASKS`.
      num_classes: of texts or of tokens, 0 in other tasks.
      context: how many tokens it can see, the rows of the position table.
      activation: 'gelu_tanh' in all published checkpoints ('gelu_new' in Hugging Face's terms).
      scale_attention: whether attention's inner products are divided by sqrt(head_dim).
      scale_attention_by_depth: whether block i's are divided by i + 1 too.
      tied_head: whether the token table is the head of generation as well.
      end_tokens: tokens that end a text; `bx.zoo.generate` stops at them.
      pad_token: fills texts up; a text is classified by its last token that is another. -1 for none.
      attention: 'auto', by the platform's own kernel where that is right, or 'exact'.
    """

    task: str = 'text-generation'
    num_classes: int = 0
    vocab_size: int = 50257
    context: int = 1024
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    activation: str = 'gelu_tanh'
    norm_eps: float = 1e-5
    scale_attention: bool = True
    scale_attention_by_depth: bool = False
    tied_head: bool = True
    end_tokens: tuple[int, ...] = (50256,)
    pad_token: int = -1
    embed_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1
    dropout_rate: float = 0.1
    head_dropout_rate: float = 0.1
    attention: str = 'auto'

    def conditions(self) -> Mapping[str, bool]:
        return {
            **heads_divide_width(self),
            f'task one of {", ".join(TASKS)}': self.task in TASKS,
            'num_classes above 0 in a task of classes, 0 in others': (self.num_classes > 0)
            == (self.task in _WITH_CLASSES),
            'end_tokens from 0 on': min(self.end_tokens, default=0) >= 0,
            'pad_token from -1 on': self.pad_token >= -1,
        }


class GPT2State(NamedTuple):
    """State of generation: each sequence's length so far, and each block's cache."""

    position: Int[Array, ' batch']
    caches: tuple[KVCache, ...]


_normal = Normal(0.02)


class Block(Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, graph: Graph, config: GPT2Config, index: int) -> None:
        super().__init__(graph)
        scale = (config.width // config.heads) ** -0.5 if config.scale_attention else 1.0
        if config.scale_attention_by_depth:
            scale /= index + 1
        # The paper: weights that add to the residual stream start smaller by its depth.
        residual_init = Normal(0.02 / math.sqrt(2 * config.depth))
        self.norm1 = LayerNorm(graph.child('norm1'), eps=config.norm_eps)
        self.attn = MultiHeadAttention(
            graph.child('attn'),
            config.width,
            config.heads,
            implementation=config.attention,
            is_causal=True,
            scale=scale,
            attention_dropout_rate=config.attention_dropout_rate,
            dropout_rate=config.dropout_rate,
            qkv_init=_normal,
            proj_init=residual_init,
        )
        self.norm2 = LayerNorm(graph.child('norm2'), eps=config.norm_eps)
        self.mlp = Mlp(
            graph.child('mlp'),
            config.mlp_dim,
            config.width,
            ACTIVATIONS[config.activation],
            dropout_rate=config.dropout_rate,
            fc1_init=_normal,
            fc2_init=residual_init,
        )

    def __call__(
        self, params: Params, x: Float[Array, 'batch length width'], *, is_training: bool = False
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        y, params = self.norm1(params, x)
        y, params = self.attn(params, y, is_training=is_training)
        return self._feed_forward(params, x + y, is_training=is_training)

    def step(
        self,
        params: Params,
        x: Float[Array, 'batch length width'],
        cache: KVCache,
        position: Int[Array, ' batch'],
    ) -> tuple[tuple[Float[Array, 'batch length width'], KVCache], Params]:
        """Run the block for the next `length` tokens; `position` is how many came before them."""
        y, params = self.norm1(params, x)
        (y, cache), params = self.attn.step(params, y, cache, position)
        x, params = self._feed_forward(params, x + y, is_training=False)
        return (x, cache), params

    def _feed_forward(
        self, params: Params, x: Float[Array, 'batch length width'], *, is_training: bool
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        y, params = self.norm2(params, x)
        y, params = self.mlp(params, y, is_training=is_training)
        return x + y, params


class GPT2(TextModel):
    """Token ids [batch, length] to logits [batch, length, vocab_size] for the token that follows.

    In other tasks, to logits [batch, num_classes] of texts, made of each one's last token, logits
    [batch, length, num_classes] of tokens, or the states themselves [batch, length, width].
    `mask` is True or 1 at real tokens, which come first, and False or 0 at padding, all real if None.
    """

    config: GPT2Config
    takes = ('tokens', 'mask')

    def __init__(self, graph: Graph, config: GPT2Config) -> None:
        super().__init__(graph, config)
        self.token_embed = Embed(
            graph.child('token_embed'), config.vocab_size, config.width, w_init=_normal
        )
        self.pos_embed = Embed(
            graph.child('pos_embed'),
            config.context,
            config.width,
            w_init=Normal(0.01),
        )
        self.dropout = Dropout(graph.child('dropout'), config.embed_dropout_rate)
        self.blocks = [Block(graph.child(f'block{i}'), config, i) for i in range(config.depth)]
        self.norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)
        if config.task in _WITH_CLASSES:
            is_of_tokens = config.task == 'token-classification'
            rate = config.head_dropout_rate if is_of_tokens else 0.0
            self.head_dropout = Dropout(graph.child('head_dropout'), rate)
            self.head = Linear(
                graph.child('head'), config.num_classes, use_bias=is_of_tokens, w_init=_normal
            )
        elif config.task == 'text-generation' and not config.tied_head:
            self.head = Linear(
                graph.child('head'), config.vocab_size, use_bias=False, w_init=_normal
            )

    def _steps(
        self,
        params: Params,
        tokens: jax.Array,
        is_training: bool,
        mask: jax.Array | None = None,
    ) -> Steps:
        check_tokens(self, tokens, mask=mask)
        x, params = self._embed(params, tokens, jnp.arange(tokens.shape[1])[None])
        x, params = self.dropout(params, x, is_training=is_training)
        yield 'embed', x, params
        x, params = yield from block_steps(
            self.blocks, self.config, params, x, is_training=is_training
        )
        x, params = self.norm(params, x)
        yield 'pre_logits', x, params
        match self.config.task:
            case 'text-generation':
                x, params = self._head(params, x)
                yield 'logits', x, params
            case 'text-classification' | 'token-classification':
                if self.config.task == 'text-classification':
                    x = self._last(x, tokens, mask)
                x, params = self.head_dropout(params, x, is_training=is_training)
                x, params = self.head(params, x)
                yield 'logits', x, params

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, 'batch length'],
        mask: Bool[Array, 'batch length'] | Int[Array, 'batch length'] | None = None,
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch *outputs'], Params]:
        """Return logits, or states; what goes in and what comes out is as the class says."""
        return finish(self._steps(params, tokens, is_training, mask))

    def _last(
        self,
        x: Float[Array, 'batch length width'],
        tokens: Int[Array, 'batch length'],
        mask: Bool[Array, 'batch length'] | Int[Array, 'batch length'] | None,
    ) -> Float[Array, 'batch width']:
        """Return the state of each text's last token that is real and no padding."""
        is_real = tokens != self.config.pad_token
        is_real = is_real if mask is None else is_real & mask.astype(bool)
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        last = jnp.where(is_real, places[None], 0).argmax(1)
        return picked(x, last)

    def logits(
        self, params: Params, x: Float[Array, 'batch length width']
    ) -> tuple[Float[Array, 'batch length vocab'], Params]:
        """Return what the head makes of states after the last block, or before it: a logit lens."""
        x, params = self.norm(params, x)
        return self._head(params, x)

    def initial_state(self, batch_size: int, room: int = 0, dtype: Any = jnp.float32) -> GPT2State:
        """Return an empty state with room for `room` tokens of each sequence, `context` if 0."""
        room = room or self.config.context
        caches = tuple(block.attn.initial_state(batch_size, room, dtype) for block in self.blocks)
        return GPT2State(jnp.zeros((batch_size,), jnp.int32), caches)

    def step(
        self,
        params: Params,
        tokens: Int[Array, 'batch length'],
        state: GPT2State,
        lengths: Int[Array, ' batch'] | None = None,
    ) -> tuple[tuple[Float[Array, 'batch length vocab'], GPT2State], Params]:
        """Return logits for the next tokens of each sequence, and the state after them.

        Where sequences go on by fewer tokens than others, `lengths` says by how many; the
        tokens after those are padding, and their logits mean nothing. Going on past the state's
        room gives NaN.
        """
        (x, state), params = self.advance(params, tokens, state, lengths)
        logits, params = self.logits(params, x)
        return (logits, state), params

    def advance(
        self,
        params: Params,
        tokens: Int[Array, 'batch length'],
        state: GPT2State,
        lengths: Int[Array, ' batch'] | None = None,
    ) -> tuple[tuple[Float[Array, 'batch length width'], GPT2State], Params]:
        """Step without the head: return what the last block makes of the tokens, and the state.

        `logits` makes logits of these, of as few positions as are asked for.
        """
        positions = state.position[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
        # Past the cache's room there is no right answer: such positions embed as NaN.
        positions = jnp.where(positions < state.caches[0].room, positions, self.config.context)
        x, params = self._embed(params, tokens, positions)
        caches = []
        for block, cache in zip(self.blocks, state.caches):
            (x, cache), params = block.step(params, x, cache, state.position)
            caches.append(cache)
        advance = tokens.shape[1] if lengths is None else lengths
        return (x, GPT2State(state.position + advance, tuple(caches))), params

    def _embed(
        self,
        params: Params,
        tokens: Int[Array, 'batch length'],
        positions: Int[Array, '#batch length'],
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        x, params = self.token_embed(params, tokens)
        p, params = self.pos_embed(params, positions)
        return x + p, params

    def _head(
        self, params: Params, x: Float[Array, 'batch length width']
    ) -> tuple[Float[Array, 'batch length vocab'], Params]:
        if self.config.tied_head:
            return self.token_embed.attend(params, x)
        return self.head(params, x)

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'embed', 'block0' and so on, and 'pre_logits', which alone is normalized."""
        names = ('embed', *(f'block{i}' for i in range(self.config.depth)), 'pre_logits')
        return tuple(Feature(name, self.config.width) for name in names)


def _size(width: int, depth: int, heads: int) -> GPT2Config:
    return GPT2Config(width=width, depth=depth, heads=heads, mlp_dim=4 * width)


VARIANTS = {
    'gpt2': _size(768, 12, 12),
    'gpt2-medium': _size(1024, 24, 16),
    'gpt2-large': _size(1280, 36, 20),
    'gpt2-xl': _size(1600, 48, 25),
    'distilgpt2': _size(768, 6, 12),
}

FAMILY = Family(
    'gpt2',
    'text-generation',
    GPT2Config,
    GPT2,
    VARIANTS,
    head=Head('num_classes', 'gpt2/head/*'),
    parts={'task': 'gpt2/head/*'},
    resized=(
        Resized('gpt2/token_embed/w', ('vocab_size',), resize_rows),
        Resized('gpt2/head/w', ('vocab_size',), resize_columns),
        Resized('gpt2/pos_embed/w', ('context',), repeat_positions),
    ),
)
