"""Read a SentencePiece model: a unigram vocabulary and how texts are normalized for it.

The file is a message of protocol buffers, as github.com/google/sentencepiece describes it in
sentencepiece_model.proto. Of its fields those are read that decide how a text is cut into tokens; what
the tokenizers library cannot do is refused.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from blox.tensorfile import fail
from blox.wording import counted
from blox.zoo.inputs.tokenizer_bounds import MAX_TOKENS, check_vocabulary

_SPACE = '\u2581'
# Kinds of pieces.
_NORMAL, _UNKNOWN, _CONTROL, _UNUSED = 1, 2, 3, 5
# How pieces were found.
_UNIGRAM = 1


class _Piece(NamedTuple):
    text: str
    score: float
    kind: int


def read_sentencepiece(path: Path, content: bytes) -> Tokenizer:
    """Make a tokenizer of a spiece.model's content, without special tokens around a text.

    Raises CheckpointError, which names `path`, for what is malformed or cannot be followed.
    """
    try:
        pieces, trainer, rules = _parse(content)
    except (ValueError, TypeError, IndexError, struct.error) as error:
        fail(path, f'expected a model of SentencePiece, found: {error or "its end too early"}')
    unknown = [i for i, piece in enumerate(pieces) if piece.kind == _UNKNOWN]
    kinds = {piece.kind for piece in pieces} - {_NORMAL, _UNKNOWN, _CONTROL, _UNUSED}
    conditions = {
        'a unigram model': trainer.get('model_type', _UNIGRAM) == _UNIGRAM,
        'one unknown piece': len(unknown) == 1,
        'each piece once': len({piece.text for piece in pieces}) == len(pieces),
        'finite scores': all(math.isfinite(piece.score) for piece in pieces),
        'no user-defined pieces and no bytes': not kinds,
        'rules of nmt_nfkc': rules.get('name') == b'nmt_nfkc',
        'no more than one space in a row': rules.get('remove_extra_whitespaces', 1) == 1,
        'a space before a text': rules.get('add_dummy_prefix', 1) == 1,
        'spaces that are escaped': rules.get('escape_whitespaces', 1) == 1,
        'spaces before words, not after': not trainer.get('treat_whitespace_as_suffix', 0),
    }
    if wrong := [condition for condition, holds in conditions.items() if not holds]:
        fail(path, f'expected {", ".join(wrong)}')
    # The library frees a tree as deep as the longest piece, on the stack.
    check_vocabulary(path, {piece.text: i for i, piece in enumerate(pieces)})
    vocabulary = [(piece.text, piece.score) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unknown[0], byte_fallback=False))
    steps = [normalizers.Precompiled(charsmap)] if (charsmap := rules.get('charsmap')) else []
    steps += [normalizers.Strip(), normalizers.Replace(Regex(' {2,}'), ' ')]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme='always')
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme='always')
    return tokenizer


# The numbers of fields, by what they hold.
_PIECES, _TRAINER, _RULES = 1, 2, 3
_TRAINER_FIELDS = {3: 'model_type', 24: 'treat_whitespace_as_suffix'}
_RULE_FIELDS = {
    1: 'name',
    2: 'charsmap',
    3: 'add_dummy_prefix',
    4: 'remove_extra_whitespaces',
    5: 'escape_whitespaces',
}


def _parse(content: bytes) -> tuple[list[_Piece], dict[str, Any], dict[str, Any]]:
    """Return the pieces, and what is said of training and of normalizing, by name."""
    pieces: list[_Piece] = []
    trainer: dict[str, Any] = {}
    rules: dict[str, Any] = {}
    for number, value in _fields(content):
        if len(pieces) > MAX_TOKENS:
            raise ValueError(f'more than {MAX_TOKENS} pieces')
        if number == _PIECES:
            said = dict(_fields(value))
            text, score = said.get(1, b''), said.get(2, bytes(4))
            pieces.append(_Piece(bytes.decode(text), _float(score), said.get(3, _NORMAL)))
        elif number == _TRAINER:
            trainer |= _known(value, _TRAINER_FIELDS)
        elif number == _RULES:
            rules |= _known(value, _RULE_FIELDS)
    if not pieces:
        raise ValueError('no pieces')
    return pieces, trainer, rules


def _known(message: bytes, names: Mapping[int, str]) -> dict[str, Any]:
    return {names[number]: value for number, value in _fields(message) if number in names}


def _fields(message: Any) -> Iterator[tuple[int, Any]]:
    """Yield each field's number and value: an integer, or bytes."""
    at = 0
    # An integer may stand where a message should.
    message = memoryview(message).tobytes()
    while at < len(message):
        key, at = _integer(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _integer(message, at)
        elif kind in (1, 2, 5):
            size, at = _integer(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            if size > len(message) - at:
                raise ValueError(f'{counted(size, "byte")} announced, {len(message) - at} there')
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f'a field of kind {kind}')
        yield number, value


def _integer(message: bytes, at: int) -> tuple[int, int]:
    """Return the integer that begins at a place, seven bits to a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError('an integer of more than ten bytes')


def _float(value: Any) -> float:
    (number,) = struct.unpack('<f', value)
    return number
