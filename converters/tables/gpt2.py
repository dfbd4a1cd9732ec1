"""GPT-2: openai-community/gpt2 and kin, as transformers reads and writes them, and nanoGPT's ckpt.pt.

transformers' Conv1D weights are [inputs, outputs], as ours are, with q, k and v side by side; nanoGPT
has the same names for torch's Linear, whose weights are [outputs, inputs].
"""

from collections.abc import Mapping
from typing import Any

from blox.converters.mapping.fields import Field, Known, Via, read_fields
from blox.converters.mapping.heads import OF_CLASSES, Head, label_fields, read_classes_of, read_task
from blox.converters.mapping.libraries import TRANSFORMERS
from blox.converters.mapping.parts import ACTIVATION, dense, norm
from blox.converters.mapping.rules import Respelling, Rule, Table
from blox.converters.mapping.transforms import IDENTITY, T, Transform
from blox.converters.sources.source import Source
from blox.tensorfile import fail
from blox.wording import cut


def hf(config: Any) -> tuple[Rule, ...]:
    """Map to names as published: without the prefix 'transformer.'."""
    return _rules(config, IDENTITY)


def nanogpt(config: Any) -> tuple[Rule, ...]:
    """Map to karpathy/nanoGPT's names, without that prefix too."""
    return _rules(config, T)


def _rules(config: Any, via: Transform) -> tuple[Rule, ...]:
    rules = (
        Rule('gpt2/token_embed/w', 'wte.weight'),
        Rule('gpt2/pos_embed/w', 'wpe.weight'),
        *norm('gpt2/block{i}/norm1', 'h.{i}.ln_1'),
        *dense('gpt2/block{i}/attn/qkv', 'h.{i}.attn.c_attn', via),
        *dense('gpt2/block{i}/attn/proj', 'h.{i}.attn.c_proj', via),
        *norm('gpt2/block{i}/norm2', 'h.{i}.ln_2'),
        *dense('gpt2/block{i}/mlp/fc1', 'h.{i}.mlp.c_fc', via),
        *dense('gpt2/block{i}/mlp/fc2', 'h.{i}.mlp.c_proj', via),
        *norm('gpt2/norm', 'ln_f'),
    )
    return (*rules, *_head(config))


def _heads(is_tied: bool) -> dict[str, Head]:
    """Return the heads, of generation the one that is the token table or its own."""
    own = ('wte.weight', 'lm_head.weight') if is_tied else ('lm_head.weight',)
    return {
        'text-classification': Head('GPT2ForSequenceClassification', 'score.weight'),
        'token-classification': Head('GPT2ForTokenClassification', 'classifier.weight'),
        'text-generation': Head('GPT2LMHeadModel', *own),
        'feature-extraction': Head('GPT2Model'),
    }


def _head(config: Any) -> tuple[Rule, ...]:
    match config.task:
        case 'text-classification':
            return (Rule('gpt2/head/w', 'score.weight', T),)
        case 'token-classification':
            return dense('gpt2/head', 'classifier')
        case 'text-generation' if not config.tied_head:
            return (Rule('gpt2/head/w', 'lm_head.weight', T),)
    return ()


def _published(config: Any) -> tuple[Respelling, ...]:
    """Spell names below 'transformer.', where there is a head."""
    is_body = config.task == 'feature-extraction'
    return () if is_body else ((r'^(?!lm_head\.|score\.|classifier\.)', 'transformer.'),)


_GENERATION = 'generation_config.json'
_LAYERS = (
    Rule('gpt2/token_embed', 'wte'),
    Rule('gpt2/pos_embed', 'wpe'),
    Rule('gpt2/block{i}/norm1', 'h.{i}.ln_1'),
    Rule('gpt2/block{i}/attn', 'h.{i}.attn'),
    Rule('gpt2/block{i}/norm2', 'h.{i}.ln_2'),
    Rule('gpt2/block{i}/mlp', 'h.{i}.mlp'),
    Rule('gpt2/block{i}', 'h.{i}'),
    Rule('gpt2/norm', 'ln_f'),
)


def _read_ends(value: Any, known: Known) -> tuple[int, ...]:
    """Read the end tokens: theirs may be one, several or none."""
    ends = [value] if type(value) is int else value or []
    if not isinstance(ends, list) or not all(type(end) is int and end >= 0 for end in ends):
        raise ValueError('one token or a list of them')
    return tuple(ends)


def _read_pad(value: Any, known: Known) -> int:
    if value is not None and (type(value) is not int or value < -1):
        raise ValueError('a token')
    return -1 if value is None else value


def _write_ends(ends: tuple[int, ...], known: Known) -> Any:
    return list(ends) if len(ends) > 1 else next(iter(ends), None)


def _write_pad(pad: int, known: Known) -> int | None:
    return None if pad < 0 else pad


_FIELDS = (
    Field('vocab_size', 'vocab_size', 50257),
    Field('context', 'n_positions', 1024),
    Field('width', 'n_embd', 768),
    Field('depth', 'n_layer', 12),
    Field('heads', 'n_head', 12),
    Field('mlp_dim', 'n_inner', lambda known: 4 * known['width']),
    Field('activation', 'activation_function', 'gelu_new', ACTIVATION),
    Field('norm_eps', 'layer_norm_epsilon', 1e-5),
    Field('scale_attention', 'scale_attn_weights', True),
    Field('scale_attention_by_depth', 'scale_attn_by_inverse_layer_idx', False),
    Field('tied_head', 'tie_word_embeddings', True),
    Field('embed_dropout_rate', 'embd_pdrop', 0.1),
    Field('attention_dropout_rate', 'attn_pdrop', 0.1),
    Field('dropout_rate', 'resid_pdrop', 0.1),
    Field('head_dropout_rate', 'classifier_dropout', 0.1),
    Field('end_tokens', 'eos_token_id', 50256, Via(_read_ends, _write_ends, True, True)),
    Field('pad_token', 'pad_token_id', None, Via(_read_pad, _write_pad, True, True)),
    Field((), 'n_ctx', lambda known: known['context']),
)


def _header(config: Any, theirs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        'architectures': [_heads(config.tied_head)[config.task].architecture],
        'model_type': 'gpt2',
        # A text begins where the one before it ended.
        'bos_token_id': next(iter(config.end_tokens), None),
        **theirs,
        **label_fields(config.num_classes),
    }


def _read_beside(source: Source, ours: Mapping[str, Any]) -> dict[str, Any]:
    heads = _heads(ours['tied_head'])
    task = read_task(source, heads, 'feature-extraction', ours.get('task', ''))
    said = {'task': task, 'num_classes': read_classes_of(source) if task in OF_CLASSES else 0}
    if source.has(_GENERATION):
        # If it is there, transformers' `generate` goes by it alone.
        ends = source.read_object(_GENERATION).get('eos_token_id')
        try:
            said['end_tokens'] = _read_ends(ends, ours)
        except ValueError as error:
            what = f'eos_token_id: expected {error}, found {cut(repr(ends), 60)}'
            fail(source.path / _GENERATION, what)
    return said


# The arguments of nanoGPT's model, but for `bias`, which the names of its weights tell.
_NANOGPT_FIELDS = (
    Field('vocab_size', 'vocab_size', 50304),
    Field('context', 'block_size', 1024),
    Field('width', 'n_embd', 768),
    Field('depth', 'n_layer', 12),
    Field('heads', 'n_head', 12),
    Field(('embed_dropout_rate', 'attention_dropout_rate', 'dropout_rate'), 'dropout', 0.0),
)


def _read_model_args(source: Source) -> dict[str, Any]:
    """Return the sizes that nanoGPT keeps in its checkpoints."""
    found = source.notes.get('model_args')
    if not isinstance(found, Mapping) or 'block_size' not in found:
        return {}
    try:
        is_bias = lambda name, value: name == 'bias' and isinstance(value, bool)  # noqa: E731
        ours = read_fields(_NANOGPT_FIELDS, found, is_bias)
    except ValueError as error:
        raise ValueError(f"model_args: nanoGPT needs what blox's gpt2 lacks: {error}") from error
    # Its texts end with GPT-2's token, if they are made of those.
    ends = (50256,) if ours['vocab_size'] > 50256 else ()
    return {**ours, 'mlp_dim': 4 * ours['width'], 'end_tokens': ends}


def _biases(source: Source) -> tuple[str, ...]:
    """Return patterns of what nanoGPT leaves out of models without biases, unless it says they have some."""
    found = source.notes.get('model_args')
    has_biases = isinstance(found, Mapping) and found.get('bias') is True
    return () if has_biases else (r'.*\.bias',)


_NAMES: dict[str, Any] = {
    'spellings': ((r'^transformer\.', ''),),
    'published': _published,
    'heads': (r'(lm_head|score|classifier|qa_outputs|multiple_choice_head)\..*',),
    # Causal masks, which old versions kept with the weights.
    'ignored': (r'h\.\d+\.attn\.(bias|masked_bias)',),
    'tied': lambda config: {'lm_head.weight': 'wte.weight'} if config.tied_head else {},
}

TABLES = {
    'hf': Table(
        hf,
        **_NAMES,
        layers=lambda config: _LAYERS,
        library=TRANSFORMERS,
        kinds=('gpt2',),
        fields=_FIELDS,
        # Upcasting attention to float32 is what our softmax does; the order of its scaling is
        # no other function, only other rounding. A summary is of heads that are not here.
        beside=_read_beside,
        neutral=('reorder_and_upcast_attn', 'summary_.*', 'n_special', 'predict_special_tokens'),
        header=_header,
    ),
    'nanogpt': Table(
        nanogpt,
        **_NAMES,
        # It took the tanh form until 2023: bx.zoo.load(..., activation='gelu_tanh').
        facts={'activation': 'gelu', 'norm_eps': 1e-5},
        said=_read_model_args,
        zeros=_biases,
    ),
}
