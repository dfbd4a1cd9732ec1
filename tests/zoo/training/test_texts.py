"""Text files to fine-tune on."""

import numpy as np
import pytest
from commands import byte_tokenizer

import blox as bx
from blox.zoo.training.data import IGNORED


def test_a_text_files_last_tenth_is_held_out(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbf' + b'abcdefghij' * 10)
    tokenizer = byte_tokenizer()
    data = bx.zoo.text_file(tmp_path / 'a.txt', tokenizer, 6, 257)
    read = [data.read(example, None) for example in data.held_out]
    assert ''.join(tokenizer.decode(x[y != IGNORED].tolist()) for x, y in read) == 'abcdefghi'
    assert ''.join(tokenizer.decode(y[y != IGNORED].tolist()) for _, y in read) == 'bcdefghij'
    assert [y.tolist().count(IGNORED) for _, y in read] == [0, 3]


def test_text_is_trained_on_in_windows_from_anywhere_before(tmp_path):
    text = ''.join(chr(33 + i) for i in range(90)) + ' ' * 10
    (tmp_path / 'a.txt').write_text(text)
    tokenizer, rng = byte_tokenizer(), np.random.default_rng(0)
    data = bx.zoo.text_file(tmp_path / 'a.txt', tokenizer, 8, 257)
    pairs = [data.read(example, rng) for example in data.training for _ in range(200)]
    windows = {(tokenizer.decode(x.tolist()), tokenizer.decode(y.tolist())) for x, y in pairs}
    assert windows == {(text[i : i + 8], text[i + 1 : i + 9]) for i in range(82)}


@pytest.mark.parametrize(
    ('content', 'vocab_size', 'message'),
    [
        (b'na\xefve text', 257, 'expected text in UTF-8, found .* at byte 2'),
        (b'abc', 257, 'expected 4 tokens or more, found 3'),
        (b'', 257, 'found 0'),
        (b'abcdefgh', 60, 'expected tokens below 60, found'),
    ],
)
def test_texts_that_a_model_cannot_learn_are_refused(tmp_path, content, vocab_size, message):
    (tmp_path / 'a.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        bx.zoo.text_file(tmp_path / 'a.txt', byte_tokenizer(), 8, vocab_size)
