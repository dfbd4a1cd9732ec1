"""BERT: a text encoder, for sentence embeddings, classification, answers and masked words.

Paper: Devlin et al., 2018, "BERT: Pre-training of Deep Bidirectional Transformers" (arXiv:1810.04805);
sentence embeddings: Reimers and Gurevych, 2019 (arXiv:1908.10084). References: google-research/bert,
transformers.BertModel and its heads, sentence-transformers.

Supported: the encoder with or without its pooler; embeddings from the first token, the mean of
all tokens or the pooler, normalized or not; the heads that classify texts, tokens and choices, find
answers and fill masks; any activation, exact and tanh gelu among them.
"""

from collections.abc import Mapping, Sequence
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
    LayerNorm,
    Linear,
    Mlp,
    MultiHeadAttention,
)
from blox.layers.initializers import TruncatedNormal, Zeros
from blox.layers.precision import widen
from blox.module import Module
from blox.params import Params
from blox.zoo.architecture.config import Config, heads_divide_width
from blox.zoo.architecture.family import Family, Head, Resized
from blox.zoo.architecture.features import Feature, Steps, collect, finish
from blox.zoo.architecture.model import TextModel, block_steps, check_tokens
from blox.zoo.architecture.pooling import normalized, picked
from blox.zoo.architecture.resizing import repeat_positions, resize_rows

# Tasks by what their heads are made for: classes, and the pooler's output.
_WITH_CLASSES = ('text-classification', 'token-classification')
_WITH_POOLER = ('text-classification', 'multiple-choice')
TASKS = ('sentence-embedding', *_WITH_CLASSES, 'multiple-choice', 'question-answering', 'fill-mask')


@dataclass(frozen=True)
class BERTConfig(Config):
    """Choices that make a BERT.

    Attributes:
      task: what comes after the encoder, one of `TASKS`.
      num_classes: of texts or of tokens, 0 in other tasks.
      context: how many tokens it can see, the rows of the position table.
      token_types: how many kinds of segments, the rows of the type table.
      activation: 'gelu' (exact) in all published checkpoints.
      pooler: whether there is a tanh layer over the first token.
      pool: what the embedding is: 'first' (the first token's state), 'mean' (of the tokens that
        the mask keeps) or 'pooler' (its output).
      normalize: whether the embedding is scaled to length 1.
      attention: 'auto', by the platform's own kernel where that is right, or 'exact'.
    """

    task: str = 'sentence-embedding'
    num_classes: int = 0
    vocab_size: int = 30522
    context: int = 512
    token_types: int = 2
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    activation: str = 'gelu'
    norm_eps: float = 1e-12
    pooler: bool = True
    pool: str = 'first'
    normalize: bool = False
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
            f'pooler True for the task {self.task}': self.pooler or self.task not in _WITH_POOLER,
            "pool 'first', 'mean', or 'pooler' with a pooler": self.pool in ('first', 'mean')
            or (self.pool == 'pooler' and self.pooler),
        }


class BERTOutputs(NamedTuple):
    """Outputs of a BERT for a batch of sequences.

    Attributes:
      tokens: the last hidden state of every token, those of padding included.
      pooled: the pooler's output, None without a pooler.
      embedding: one vector for each sequence, made as `pool` and `normalize` of the config say.
    """

    tokens: Float[Array, 'batch length width']
    pooled: Float[Array, 'batch width'] | None
    embedding: Float[Array, 'batch width']


_trunc_normal = TruncatedNormal(0.02)


class Block(Module):
    """A post-norm transformer block."""

    def __init__(self, graph: Graph, config: BERTConfig) -> None:
        super().__init__(graph)
        self.attn = MultiHeadAttention(
            graph.child('attn'),
            config.width,
            config.heads,
            implementation=config.attention,
            attention_dropout_rate=config.attention_dropout_rate,
            dropout_rate=config.dropout_rate,
            qkv_init=_trunc_normal,
            proj_init=_trunc_normal,
        )
        self.norm1 = LayerNorm(graph.child('norm1'), eps=config.norm_eps)
        self.mlp = Mlp(
            graph.child('mlp'),
            config.mlp_dim,
            config.width,
            ACTIVATIONS[config.activation],
            dropout_rate=config.dropout_rate,
            fc1_init=_trunc_normal,
            fc2_init=_trunc_normal,
        )
        self.norm2 = LayerNorm(graph.child('norm2'), eps=config.norm_eps)

    def __call__(
        self,
        params: Params,
        x: Float[Array, 'batch length width'],
        mask: Bool[Array, 'batch 1 1 length'],
        *,
        is_training: bool = False,
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        y, params = self.attn(params, x, mask, is_training=is_training)
        x, params = self.norm1(params, x + y)
        y, params = self.mlp(params, x, is_training=is_training)
        return self.norm2(params, x + y)


class MaskedLMHead(Module):
    """States to logits: a layer, then inner products with the rows of the token table."""

    def __init__(self, graph: Graph, config: BERTConfig) -> None:
        super().__init__(graph)
        self.vocab_size = config.vocab_size
        self.activation = ACTIVATIONS[config.activation]
        self.fc = Linear(graph.child('fc'), config.width, w_init=_trunc_normal)
        self.norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)

    def __call__(
        self, params: Params, x: Float[Array, 'batch length width'], token_embed: Embed
    ) -> tuple[Float[Array, 'batch length vocab'], Params]:
        x, params = self.fc(params, x)
        x, params = self.norm(params, self.activation(x))
        logits, params = token_embed.attend(params, x)
        b, params = self.get_param(params, 'b', (self.vocab_size,), Zeros())
        return logits + b[None, None], params


class BERT(TextModel):
    """Token ids [batch, length] to what the config's task asks for.

    BERTOutputs for sentence embeddings; logits [batch, num_classes] of texts,
    [batch, length, num_classes] of tokens, [batch, length, 2] of an answer's start and end,
    [batch, length, vocab_size] of masked words. Of multiple choice, ids are [batch, choices, length],
    logits [batch, choices].

    `mask` is True or 1 at real tokens and False or 0 at padding, all real if None. `types` says
    which segment a token is of, all of the first if None. `pool_mask` says which tokens the mean
    of an embedding takes, or the first of which it is, where those are fewer.
    """

    config: BERTConfig
    takes = ('tokens', 'mask', 'types', 'pool_mask')

    def __init__(self, graph: Graph, config: BERTConfig) -> None:
        super().__init__(graph, config)
        self.token_embed = Embed(
            graph.child('token_embed'), config.vocab_size, config.width, w_init=_trunc_normal
        )
        self.pos_embed = Embed(
            graph.child('pos_embed'), config.context, config.width, w_init=_trunc_normal
        )
        self.type_embed = Embed(
            graph.child('type_embed'), config.token_types, config.width, w_init=_trunc_normal
        )
        self.norm = LayerNorm(graph.child('norm'), eps=config.norm_eps)
        self.dropout = Dropout(graph.child('dropout'), config.embed_dropout_rate)
        self.blocks = [Block(graph.child(f'block{i}'), config) for i in range(config.depth)]
        if config.pooler:
            self.pooler = Linear(graph.child('pooler'), config.width, w_init=_trunc_normal)
        if config.task == 'fill-mask':
            self.masked_head = MaskedLMHead(graph.child('head'), config)
        elif config.task != 'sentence-embedding':
            # One logit of each choice, two of each token for where an answer starts and ends.
            outputs = {'multiple-choice': 1, 'question-answering': 2}
            rate = 0.0 if config.task == 'question-answering' else config.head_dropout_rate
            self.head_dropout = Dropout(graph.child('head_dropout'), rate)
            self.head = Linear(
                graph.child('head'),
                outputs.get(config.task, config.num_classes),
                w_init=_trunc_normal,
            )

    def _steps(
        self,
        params: Params,
        tokens: jax.Array,
        is_training: bool,
        mask: jax.Array | None = None,
        types: jax.Array | None = None,
        pool_mask: jax.Array | None = None,
    ) -> Steps:
        self._check(tokens, mask=mask, types=types, pool_mask=pool_mask)
        mask = jnp.ones_like(tokens, bool) if mask is None else mask.astype(bool)
        types = jnp.zeros_like(tokens) if types is None else types
        pool_mask = mask if pool_mask is None else pool_mask.astype(bool)
        # Whatever the mask, a text's first token is that of the embedding; prompts may come before.
        first = 0 if pool_mask is mask else pool_mask.argmax(-1)
        shape = tokens.shape
        tokens, mask, types = (a.reshape(-1, shape[-1]) for a in (tokens, mask, types))
        x, params = self._embed(params, tokens, types)
        x, params = self.dropout(params, x, is_training=is_training)
        yield 'embed', x, params
        x, params = yield from block_steps(
            self.blocks, self.config, params, x, mask[:, None, None], is_training=is_training
        )
        pooled = None
        if self.config.pooler:
            pooled, params = self.pooler(params, x[:, 0])
            pooled = jnp.tanh(pooled)
        if self.config.task == 'sentence-embedding':
            yield (
                'embedding',
                BERTOutputs(x, pooled, self._pool(x, pooled, pool_mask, first)),
                params,
            )
        else:
            logits, params = self._logits(params, x, pooled, is_training)
            yield 'logits', logits.reshape(shape[:-1]) if self._has_choices else logits, params

    def _logits(
        self,
        params: Params,
        x: Float[Array, 'rows length width'],
        pooled: Float[Array, 'rows width'] | None,
        is_training: bool,
    ) -> tuple[Float[Array, 'rows *outputs'], Params]:
        if self.config.task == 'fill-mask':
            return self.masked_head(params, x, self.token_embed)
        x = pooled if self.config.task in _WITH_POOLER and pooled is not None else x
        x, params = self.head_dropout(params, x, is_training=is_training)
        return self.head(params, x)

    def _check(self, tokens: jax.Array, **others: jax.Array | None) -> None:
        axes = ('batch', 'choices', 'length') if self._has_choices else ('batch', 'length')
        if tokens.ndim != len(axes):
            raise ValueError(
                f'{self.path!r} expects ids [{", ".join(axes)}] for {self.config.task}, '
                f'found {tokens.shape}'
            )
        check_tokens(self, tokens, **others)

    @property
    def _has_choices(self) -> bool:
        return self.config.task == 'multiple-choice'

    def _embed(
        self,
        params: Params,
        tokens: Int[Array, 'batch length'],
        types: Int[Array, 'batch length'],
    ) -> tuple[Float[Array, 'batch length width'], Params]:
        x, params = self.token_embed(params, tokens)
        t, params = self.type_embed(params, types)
        p, params = self.pos_embed(params, jnp.arange(tokens.shape[1])[None])
        return self.norm(params, x + t + p)

    def _pool(
        self,
        x: Float[Array, 'batch length width'],
        pooled: Float[Array, 'batch width'] | None,
        mask: Bool[Array, 'batch length'],
        first: Int[Array, ' batch'] | int,
    ) -> Float[Array, 'batch width']:
        if self.config.pool == 'mean':
            embedding = _masked_mean(x, mask)
        elif self.config.pool == 'pooler' and pooled is not None:
            embedding = pooled
        else:
            embedding = x[:, 0] if isinstance(first, int) else picked(x, first)
        return normalized(embedding) if self.config.normalize else embedding

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, '*batch length'],
        mask: Bool[Array, '*batch length'] | Int[Array, '*batch length'] | None = None,
        types: Int[Array, '*batch length'] | None = None,
        pool_mask: Bool[Array, '*batch length'] | Int[Array, '*batch length'] | None = None,
        *,
        is_training: bool = False,
    ) -> tuple[Any, Params]:
        """Return BERTOutputs or logits; what goes in and what comes out is as the class says."""
        return finish(self._steps(params, tokens, is_training, mask, types, pool_mask))

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return shape and dtype of one sequence of one token, or of one choice."""
        shape = (1, 1, 1) if self._has_choices else (1, 1)
        return (jax.ShapeDtypeStruct(shape, jnp.int32),)

    def feature_info(self) -> tuple[Feature, ...]:
        """Return 'embed', 'block0' and so on; of sentences 'embedding', one for each, besides."""
        names = ('embed', *(f'block{i}' for i in range(self.config.depth)))
        names += ('embedding',) * (self.config.task == 'sentence-embedding')
        return tuple(Feature(name, self.config.width) for name in names)

    def features(  # pyright: ignore[reportIncompatibleMethodOverride]  # The mask before the names.
        self,
        params: Params,
        tokens: Int[Array, '*batch length'],
        mask: Bool[Array, '*batch length'] | Int[Array, '*batch length'] | None = None,
        types: Int[Array, '*batch length'] | None = None,
        *,
        names: Sequence[str] | None = None,
    ) -> tuple[dict[str, jax.Array], Params]:
        """Return intermediates by name: states [batch, length, width], embeddings [batch, width].

        Of multiple choice the batch has a row for each choice. Nothing is run that comes after the
        last of `names`; None stands for all.
        """
        steps = self._steps(params, tokens, False, mask, types)
        found, params = collect(steps, self.feature_info(), names)
        if 'embedding' in found:
            found['embedding'] = found['embedding'].embedding
        return found, params


def _masked_mean(
    x: Float[Array, 'batch length width'], mask: Bool[Array, 'batch length']
) -> Float[Array, 'batch width']:
    """Average the tokens that the mask keeps; zeros where it keeps none."""
    total = widen(x).sum(1, where=mask[:, :, None])
    count = jnp.maximum(mask.sum(1, keepdims=True), 1)
    return (total / count.astype(total.dtype)).astype(x.dtype)


VARIANTS = {
    # Those that say nothing of pooling are averaged, as sentence-transformers does.
    'bert-base': BERTConfig(pool='mean'),
    'bert-large': BERTConfig(width=1024, depth=24, heads=16, mlp_dim=4096, pool='mean'),
    'minilm-l6': BERTConfig(width=384, depth=6, mlp_dim=1536, pool='mean', normalize=True),
    'minilm-l12': BERTConfig(width=384, depth=12, mlp_dim=1536, pool='mean', normalize=True),
}

FAMILY = Family(
    'bert',
    'sentence-embedding',
    BERTConfig,
    BERT,
    VARIANTS,
    head=Head('num_classes', 'bert/head/**'),
    parts={'task': 'bert/head/**', 'pooler': 'bert/pooler/*'},
    resized=(
        Resized('bert/token_embed/w', ('vocab_size',), resize_rows),
        # Of words in the place of masks; a head of classes keeps its own.
        Resized('bert/head/b', ('vocab_size',), resize_rows),
        Resized('bert/pos_embed/w', ('context',), repeat_positions),
    ),
)
