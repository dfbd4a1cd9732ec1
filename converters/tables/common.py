"""Rules and config fields that several families share."""

import math
from collections.abc import Mapping
from typing import Any

from blox.converters.rules import Rule
from blox.converters.transforms import HWIO, T, Transform, merge, transpose

# Activations by the names that Hugging Face's configs give them; timm's are ours.
ACTIVATIONS = {
    'gelu': 'gelu',
    'gelu_python': 'gelu',
    'gelu_new': 'gelu_tanh',
    'gelu_pytorch_tanh': 'gelu_tanh',
    'gelu_python_tanh': 'gelu_tanh',
    'relu': 'relu',
    'silu': 'silu',
    'swish': 'silu',
    'tanh': 'tanh',
}

# What every config.json of transformers may say that changes no output of a model.
_HF_NEUTRAL = """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels
    architectures attn_implementation bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward classifier_dropout cls_token_id decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size encoder_stride
    eos_token_id exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing id2label initializer_range label2id length_penalty
    mask_token_id max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams
    num_labels num_return_sequences out_features out_indices output_attentions
    output_hidden_states output_past output_scores pad_token_id prefix problem_type
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    stage_names suppress_tokens task_specific_params temperature tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p unk_token_id
    use_bfloat16 use_cache
"""
HF_NEUTRAL = frozenset(_HF_NEUTRAL.split())
# Fields that would change the function, with the value that every model of ours has.
HF_FIXED = {
    'add_cross_attention': False,
    'cross_attention_hidden_size': None,
    'is_decoder': False,
    'is_encoder_decoder': False,
    'pruned_heads': {},
    'quantization_config': None,
    'tf_legacy_loss': False,
    'tie_encoder_decoder': False,
}


def dense(ours: str, theirs: str, via: Transform = T, *, bias: bool = True) -> tuple[Rule, ...]:
    """A torch Linear, or a convolution with `via=HWIO`."""
    weight = Rule(f'{ours}/w', f'{theirs}.weight', via)
    return (weight, Rule(f'{ours}/b', f'{theirs}.bias')) if bias else (weight,)


def qkv(ours: str, theirs: tuple[str, ...], *, bias: bool = True) -> tuple[Rule, ...]:
    """Three torch Linear layers that are one of ours."""
    # Rows are merged before the transpose: that way whole blocks of memory are copied.
    weight = Rule(f'{ours}/w', tuple(f'{name}.weight' for name in theirs), merge(axis=0) >> T)
    if not bias:
        return (weight,)
    return (weight, Rule(f'{ours}/b', tuple(f'{name}.bias' for name in theirs), merge(axis=0)))


def norm(ours: str, theirs: str) -> tuple[Rule, ...]:
    """A torch LayerNorm."""
    return (
        Rule(f'{ours}/scale', f'{theirs}.weight'),
        Rule(f'{ours}/offset', f'{theirs}.bias'),
    )


def conv_norm(ours: str, conv: str, batch_norm: str) -> tuple[Rule, ...]:
    """A torch convolution without bias and the BatchNorm after it."""
    return (
        *dense(f'{ours}/conv', conv, HWIO, bias=False),
        *norm(f'{ours}/norm', batch_norm),
        Rule(f'{ours}/norm/mean', f'{batch_norm}.running_mean'),
        Rule(f'{ours}/norm/var', f'{batch_norm}.running_var'),
    )


# Outputs of torch's convolutions, [batch, channels, height, width], as ours are.
NHWC = transpose(0, 2, 3, 1)


class Fields:
    """An external config that is read field by field, so that none is passed over in silence."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = dict(fields)
        self.problems: list[str] = []

    def take(self, name: str, default: Any) -> Any:
        """The field's value, of the type of `default`, which it is where it is absent or null."""
        value = self._fields.pop(name, default)
        # A null that would be false in Python is no default.
        if value is None and not isinstance(default, bool):
            return default
        if not _is_like(value, default):
            self.problems.append(f'{name} like {default!r}, found {value!r}')
            return default
        return value

    def pair(self, name: str, default: Any) -> tuple[int, int]:
        """Height and width, of one length or of two."""
        found = self._fields.pop(name, None)
        found = default if found is None else found
        size = [found, found] if type(found) is int else found
        if not _is_like(size, [0]) or len(size) != 2:
            self.problems.append(f'{name} of one integer or two, found {found!r}')
            return 1, 1
        return size[0], size[1]

    def activation(self, name: str, default: str) -> str:
        theirs = self.take(name, default)
        if not isinstance(theirs, str) or theirs not in ACTIVATIONS:
            self.problems.append(f'{name} one of {", ".join(ACTIVATIONS)}, found {theirs!r}')
            return 'gelu'
        return ACTIVATIONS[theirs]

    def expect(self, values: Mapping[str, Any]) -> None:
        """Fields that must have these values, where they are there at all."""
        for name, value in values.items():
            found = self._fields.pop(name, value)
            # 1 == True in Python, but not in a config.
            if found != value or isinstance(found, bool) != isinstance(value, bool):
                self.problems.append(f'{name} {value!r}, found {found!r}')

    def finish(self, neutral: frozenset[str] = frozenset()) -> None:
        """Raises ValueError that names what is not supported and what is not known."""
        problems = list(self.problems)
        unknown = sorted(set(self._fields) - neutral)
        if unknown:
            found = {name: self._fields[name] for name in unknown}
            problems.append(f'no fields that are not known here, found {found}')
        if problems:
            raise ValueError(f'expected {"; ".join(problems)}')


def _is_like(value: Any, default: Any) -> bool:
    """Whether `value` has the type of `default`; an int may stand for a float, a list for a tuple."""
    if isinstance(default, list | tuple):
        return isinstance(value, list | tuple) and all(_is_like(item, default[0]) for item in value)
    if type(default) is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is type(default)


def hf_activation(name: str) -> str:
    """Hugging Face's name of one of our activations."""
    return 'gelu_new' if name == 'gelu_tanh' else name


def count_labels(fields: Mapping[str, Any]) -> int:
    """How many classes a config.json of transformers speaks of; two where it says nothing."""
    if isinstance(fields.get('id2label'), Mapping):
        return len(fields['id2label'])
    return fields.get('num_labels', 2)


def hf_labels(num_classes: int) -> dict[str, Any]:
    """Labels without names, as transformers writes them."""
    names = [f'LABEL_{i}' for i in range(num_classes)]
    return {
        'id2label': {str(i): name for i, name in enumerate(names)},
        'label2id': {name: i for i, name in enumerate(names)},
    }
