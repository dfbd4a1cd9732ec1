"""Texts as a model's inputs: prompts before them, cut to a length, padded to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from tokenizers import Tokenizer, normalizers

from blox.wording import cut, printable
from blox.zoo.architecture.validation import expect, expect_names

SIMILARITIES = ('cosine', 'dot', 'euclidean', 'manhattan')

# A text, or two that go together: a question and where its answer is.
Text: TypeAlias = str | tuple[str, str]


@dataclass(frozen=True)
class TextSettings:
    """What a checkpoint says of its texts, as sentence-transformers keeps it.

    Attributes:
      max_tokens: texts are cut to so many tokens, special ones included; 0 for the model's context.
      lower_case: whether texts are lower-cased first, whatever the tokenizer does.
      prompts: what may stand before a text, by name.
      default_prompt: the name of the one that stands there unless another is chosen, '' for none.
      include_prompt: whether the mean of an embedding takes the tokens of a prompt too.
      similarity: how embeddings are compared: 'cosine', 'dot', 'euclidean' or 'manhattan'.
    """

    max_tokens: int = 0
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str = ''
    include_prompt: bool = True
    similarity: str = 'cosine'

    def __post_init__(self) -> None:
        """Raise ValueError that names what no texts can have."""
        is_map = isinstance(self.prompts, Mapping)
        items = [*self.prompts, *self.prompts.values()] if is_map else []
        expect(
            'texts',
            vars(self),
            {
                'max_tokens from 0 to 2**31': type(self.max_tokens) is int
                and 0 <= self.max_tokens < 2**31,
                'lower_case true or false': type(self.lower_case) is bool,
                'include_prompt true or false': type(self.include_prompt) is bool,
                'prompts of names and texts': is_map
                and all(isinstance(item, str) and is_utf8(item) for item in items),
                'default_prompt the name of one of the prompts': isinstance(
                    self.default_prompt, str
                )
                and (not self.default_prompt or (is_map and self.default_prompt in self.prompts)),
                f'similarity one of {", ".join(SIMILARITIES)}': self.similarity in SIMILARITIES,
            },
        )

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> TextSettings:
        """Make it of all of its fields, as a file's header has them. ValueError names others."""
        expect_names('texts', {*cls.__dataclass_fields__}, fields)
        return cls(**fields)


class Padding(NamedTuple):
    """How texts of a batch become equally long.

    Attributes:
      length: how many tokens all texts have; 0 for as many as the longest of a batch.
      token: the id that fills them up.
      at_start: whether it stands before a text, and not after it.
    """

    length: int = 0
    token: int = 0
    at_start: bool = False


class TextBatch(NamedTuple):
    """Texts as a BERT's inputs, `model(params, *batch)`; a GPT-2 takes the first two, CLIP's text tower one.

    Attributes:
      tokens: [batch, length] int32, zeros after a text's end unless the model needs another padding.
      mask: [batch, length] bool, where its tokens are.
      types: [batch, length] int32, 1 at the tokens of a pair's second text.
      pool_mask: [batch, length] bool, the tokens that the mean of an embedding takes.
    """

    tokens: np.ndarray
    mask: np.ndarray
    types: np.ndarray
    pool_mask: np.ndarray


class EncodedText(NamedTuple):
    """The tokens of a text.

    Attributes:
      ids, types: of each token.
      parts: which text of a pair each token is of, 0 or 1; None for special ones.
      start: the first token that the mean of an embedding takes.
      is_cut: whether the text had more tokens.
      spans: where each token begins and ends in the prompted text; (0, 0) for special ones.
    """

    ids: Sequence[int]
    types: Sequence[int]
    parts: Sequence[int | None]
    start: int
    is_cut: bool
    spans: Sequence[tuple[int, int]]


# Names of prompts that sentence-transformers knows in any case: empty ones, unless more is said.
_USUAL = ('query', 'document')


class TextPreprocessor:
    """Makes a text model's inputs: `model(params, *prepare(['A text.', 'Another.']))`.

    Attributes:
      settings: prompts and limits, as the checkpoint says.
      max_tokens: texts are cut to so many tokens, special ones included.
      padding: how they are filled up.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: TextSettings,
        context: int,
        *,
        has_types: bool = True,
        cuts_start: bool = False,
        padding: Padding = Padding(),
    ) -> None:
        """Work with a copy of `tokenizer`.

        Without types all tokens are of a first text. What is cut off is a text's end, or its start.
        Raises ValueError for a limit that leaves no room for a text.
        """
        self.settings = settings
        self.padding = padding
        self._has_types = has_types
        self.max_tokens = min(settings.max_tokens or context, context)
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        special = self._tokenizer.num_special_tokens_to_add(False)
        if self.max_tokens <= special:
            raise ValueError(
                f'expected to cut texts to more than the {special} special tokens, found a limit '
                f'of {self.max_tokens}'
            )
        side = 'left' if cuts_start else 'right'
        self._tokenizer.enable_truncation(self.max_tokens, direction=side)
        if settings.lower_case:
            given = [self._tokenizer.normalizer] if self._tokenizer.normalizer else []
            self._tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *given])

    def __call__(
        self, texts: Sequence[Text], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> TextBatch:
        """Return a batch as long as its longest text, or as all texts of the model are.

        `prompt` stands before each text, or that of `prompt_name`, or the default one. Raises
        ValueError for a name that there is not, and if there are no texts.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f'expected a list of texts, found {cut(repr(texts), 60)}')
        encoded = self.encode(texts, prompt_name=prompt_name, prompt=prompt)
        length = self.padding.length or max(1, *(len(text.ids) for text in encoded))
        return pad(encoded, len(encoded), length, self.padding)

    def encode(
        self, texts: Sequence[Text], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> list[EncodedText]:
        """Return the tokens of each text, with a prompt as a call has it."""
        for i, text in enumerate(texts):
            if not _is_text(text):
                found = cut(repr(text), 60)
                raise ValueError(f'text {i}: expected a text in UTF-8 or a pair, found {found}')
        before = self._prompt(prompt_name, prompt)
        start = 0 if self.settings.include_prompt else self._count(before)
        found = self._tokenizer.encode_batch([_prompted(before, text) for text in texts])
        return [
            EncodedText(
                one.ids,
                one.type_ids if self._has_types else [0] * len(one.ids),
                one.sequence_ids,
                start,
                bool(one.overflowing),
                one.offsets,
            )
            for one in found
        ]

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        prompts = {**dict.fromkeys(_USUAL, ''), **self.settings.prompts, '': ''}
        name = self.settings.default_prompt if name is None else name
        found = prompts.get(name) if prompt is None else prompt
        if found is None:
            known = cut(', '.join(map(printable, filter(None, prompts))), 200)
            raise ValueError(f'expected the name of a prompt ({known}), found {cut(name, 40)!r}')
        if not is_utf8(found):
            raise ValueError(f'expected a prompt in UTF-8, found {cut(repr(found), 60)}')
        return found

    def _count(self, prompt: str) -> int:
        """Return how many tokens a prompt puts before a text, special ones among them."""
        if not prompt:
            return 0
        alone = self._tokenizer.encode(prompt)
        return len(alone.ids) - sum(alone.special_tokens_mask[-1:])


def pad(
    texts: Sequence[EncodedText], size: int, length: int, padding: Padding = Padding()
) -> TextBatch:
    """Return a batch of `size` rows of `length` tokens; rows without a text see one of padding."""
    tokens, types = np.zeros((2, size, length), np.int32)
    tokens += padding.token
    mask, pool_mask = np.zeros((2, size, length), bool)
    mask[len(texts) :, 0] = True
    for row, text in enumerate(texts):
        start = length - len(text.ids) if padding.at_start else 0
        own = slice(start, start + len(text.ids))
        tokens[row, own], types[row, own], mask[row, own] = text.ids, text.types, True
        pool_mask[row, start + text.start : own.stop] = True
    return TextBatch(tokens, mask, types, pool_mask)


def trouble(text: EncodedText, config: Any) -> str:
    """Say what keeps a model of a config from taking a text; '' if nothing does."""
    if not text.ids:
        return 'expected tokens, found none'
    if max(text.ids) >= config.vocab_size:
        return f'expected tokens below {config.vocab_size}, found {max(text.ids)}'
    kinds = getattr(config, 'token_types', max(text.types) + 1)
    if max(text.types) >= kinds:
        return f'expected one text, for the model has {kinds} type of token, found a pair'
    if getattr(config, 'text_pool', '') == 'end' and config.end_token not in text.ids:
        return f'expected the token {config.end_token}, which ends a text, found none'
    return ''


def is_utf8(text: str) -> bool:
    """Return whether a text can be written in UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_text(text: Any) -> bool:
    parts = (text,) if isinstance(text, str) else text
    is_pair = isinstance(text, tuple) and len(text) == 2
    return (isinstance(text, str) or is_pair) and all(
        isinstance(part, str) and is_utf8(part) for part in parts
    )


def _prompted(prompt: str, text: Text) -> Text:
    return prompt + text if isinstance(text, str) else (prompt + text[0], text[1])
