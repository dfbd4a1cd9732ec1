"""Models of SentencePiece, written here field by field: what they make of texts, and what is refused."""

import struct

import pytest
from tokenizers import Tokenizer

from blox import CheckpointError
from blox.zoo.inputs.sentencepiece import read_sentencepiece
from blox.zoo.inputs.tokenizers import read_tokenizer

SPACE = '\u2581'
NORMAL, UNKNOWN, CONTROL, USER, BYTE = 1, 2, 3, 4, 6
PIECES = [
    ('<pad>', 0.0, CONTROL),
    ('</s>', 0.0, CONTROL),
    ('<unk>', 0.0, UNKNOWN),
    (SPACE, -4.0, NORMAL),
    (SPACE + 'a', -1.0, NORMAL),
    ('a', -3.0, NORMAL),
    ('b', -3.0, NORMAL),
    ('ab', -2.0, NORMAL),
]


def integer(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """A field of a message: of an integer, a float, or bytes."""
    if isinstance(value, float):
        return integer(number << 3 | 5) + struct.pack('<f', value)
    if isinstance(value, int):
        return integer(number << 3) + integer(value)
    return integer(number << 3 | 2) + integer(len(value)) + value


def message(pieces=PIECES, trainer=(), rules=()):
    """A model of pieces, with fields by number."""
    parts = [
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind))
        for text, score, kind in pieces
    ]
    parts.append(field(2, b''.join(field(n, value) for n, value in dict(trainer).items())))
    rules = {1: b'nmt_nfkc', **dict(rules)}
    parts.append(field(3, b''.join(field(n, value) for n, value in rules.items())))
    return b''.join(parts)


@pytest.mark.parametrize(
    ('text', 'tokens'),
    [
        ('a', [SPACE + 'a']),
        ('b a', [SPACE, 'b', SPACE + 'a']),
        ('  ab   ', [SPACE + 'a', 'b']),
        ('bab', [SPACE, 'b', 'ab']),
        ('', []),
    ],
)
def test_the_likeliest_pieces_are_found(tmp_path, text, tokens):
    assert read_sentencepiece(tmp_path, message()).encode(text).tokens == tokens


def test_what_no_piece_spells_is_unknown(tmp_path):
    assert read_sentencepiece(tmp_path, message()).encode('axxb').ids == [4, 2, 6]


def test_fields_that_are_not_known_are_passed_over(tmp_path):
    more = field(77, b'text') + field(78, 5) + integer(79 << 3 | 1) + bytes(8)
    found = read_sentencepiece(tmp_path, message() + more)
    assert found.to_str() == read_sentencepiece(tmp_path, message()).to_str()


def test_a_siglip_of_spiece_model_alone_ends_texts(tmp_path):
    (tmp_path / 'spiece.model').write_bytes(message())
    found = Tokenizer.from_str(read_tokenizer(tmp_path, 'siglip'))
    assert found.encode('A, b!').tokens == [SPACE + 'a', SPACE, 'b', '</s>']
    assert found.encode('').tokens == ['</s>']


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'', 'found: no pieces'),
        (b'{}', 'expected a model of SentencePiece, found: '),
        (message()[:-1], 'expected a model of SentencePiece, found: '),
        (message()[:20], 'expected a model of SentencePiece, found: '),
        (b'\x0a' + b'\xff' * 12, 'expected a model of SentencePiece, found: '),
        (field(1, field(1, b'\xff')), 'expected a model of SentencePiece, found: '),
        (field(1, field(2, 1)), 'expected a model of SentencePiece, found: '),
        (field(1, 7), 'expected a model of SentencePiece, found: '),
        (message(trainer={3: 2}), 'expected a unigram model'),
        (message([*PIECES, ('x', 0.0, USER)]), 'no user-defined pieces and no bytes'),
        (message([*PIECES, ('<0x00>', 0.0, BYTE)]), 'no user-defined pieces and no bytes'),
        (message(PIECES[:2]), 'expected one unknown piece'),
        (message(rules={3: 0}), 'a space before a text'),
        (message(rules={4: 0}), 'no more than one space in a row'),
        (message(rules={1: b'identity'}), 'rules of nmt_nfkc'),
        (message([*PIECES, ('a' * 200_000, -9.0, NORMAL)]), 'tokens of 4096 characters or less'),
        (message(rules={5: 0}), 'spaces that are escaped'),
        (message(trainer={24: 1}), 'spaces before words, not after'),
        (message(rules={2: b'not a map'}), 'expected a tokenizer that works'),
        (message([*PIECES, ('x', float('nan'), NORMAL)]), 'finite scores'),
        (message([*PIECES, ('b', -1.0, NORMAL)]), 'each piece once'),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(tmp_path, content, expected):
    path = tmp_path / 'spiece.model'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r'spiece\.model') as caught:
        read_tokenizer(tmp_path, 'siglip')
    assert expected in str(caught.value)
