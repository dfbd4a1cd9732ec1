"""Bound what a stranger's tokenizer makes the tokenizers library do, before it is handed over.

The library lays out a list up to the highest id, and runs any expression and any chain of
replacements. So it may abort the process for want of memory or stack, run for hours, or panic at
some text long after loading. What parts do is judged by their keys and not by their types, for
the library takes a part of an unknown type for any that its keys fit.
"""

import base64
import itertools
import math
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from blox.tensorfile import fail
from blox.wording import counted, cut
from blox.zoo.inputs.expressions import least_match

# XLM-V has 901,629 tokens, others a third of it at most.
MAX_TOKENS = 2**20
# The longest published one is 1024 characters. A tree of tokens is freed level by level, on the
# stack, and takes 330 bytes for each byte of them; 256,000 published tokens are 2 MB.
MAX_TOKEN = 4096
MAX_TEXT = 2**22
# Ids have holes where a vocabulary was cut, or filled up to a round number.
MAX_HOLES = 2**16
# Gemma has 2.3 for each token: one for every way to make it.
MAX_MERGES = 8
# The time for a word grows with the cube of its length. 100 is published.
MAX_WORD = 1000
# Whatever is not dropped makes all that was dropped be tried again.
MAX_DROPOUT = 0.9
# Of normalizers and the like: published ones have below 100 values, and strings of a few letters.
MAX_VALUES = 300
MAX_DEPTH = 16
MAX_STRING = 1000
# XLM-R's characters become 18 at most, and twice as many where each is a word.
MAX_GROWTH = 128
# How many times as long a text becomes at most by a part that has this key.
_GROWTH = {
    'replacement': 2,  # Metaspace: one before each word.
    'handle_chinese_chars': 3,  # A space on both sides.
    'cleanup': 2,  # WordPiece and CTC: a space before each token.
    'suffix': 2,  # BPEDecoder: an empty one is everywhere.
}
_BYTE_LEVEL = 8  # Four bytes to a character, and a space before each word.
# Keys whose values are lists of parts.
_LISTS = ('normalizers', 'pretokenizers', 'processors', 'decoders', 'single', 'pair')


def check_tokenizer(path: Path, fields: Mapping[str, Any]) -> None:
    """Raise CheckpointError, which names the key, unless a tokenizer.json is within bounds."""
    model, added = fields.get('model'), fields.get('added_tokens') or []
    if not isinstance(model, dict):
        fail(path, f'model: expected an object, found {type(model).__name__}')
    _check_objects(path, 'added_tokens', added)
    contents = [str(token.get('content')) for token in added]
    bound = check_vocabulary(path, _check_model(path, model), contents, 'model.vocab: ')
    for token in added:
        if not _is_id(token.get('id'), bound):
            fail(path, f'added_tokens: expected ids below {bound}, found {token.get("id")!r}')
    growth = _check_part(path, 'normalizer', fields, bound)
    normalized = [text for text, token in zip(contents, added) if token.get('normalized')]
    if growth * sum(map(len, normalized)) > MAX_TEXT:
        fail(path, f'added_tokens: expected at most {MAX_TEXT} characters when normalized')
    growth *= _check_part(path, 'pre_tokenizer', fields, bound)
    _check_growth(path, 'normalizer and pre_tokenizer', growth)
    _check_growth(path, 'decoder', _check_part(path, 'decoder', fields, bound))
    _check_part(path, 'post_processor', fields, bound)


def check_added_tokens(path: Path, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError if a token would be found between the bytes of any character."""
    if (normalizer := tokenizer.normalizer) is None:
        return
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.normalized and not normalizer.normalize_str(token.content):
            found = cut(repr(token.content), 60)
            fail(path, f'added_tokens: expected tokens, found {found}, normalized to nothing')


def check_vocabulary(
    path: Path, ids: Mapping[str, Any], added: Collection[str] = (), where: str = ''
) -> int:
    """Check ids by token, and tokens that are added; return what all ids are below."""
    tokens = [*ids, *added]
    if len(tokens) > MAX_TOKENS:
        fail(path, f'{where}expected at most {MAX_TOKENS} tokens, found {len(tokens)}')
    longest = max(map(len, tokens), default=0)
    if longest > MAX_TOKEN:
        fail(path, f'{where}expected tokens of {MAX_TOKEN} characters or less, found {longest}')
    size = len(''.join(tokens).encode('utf-8', 'surrogatepass'))
    if size > MAX_TEXT:
        fail(path, f'{where}expected tokens of {MAX_TEXT} bytes in all, found {size}')
    bound = 2 * len(tokens) + MAX_HOLES
    wrong = [f'{i!r}' for i in ids.values() if not _is_id(i, bound)]
    if wrong or len(set(ids.values())) < len(ids):
        found = wrong[0] if wrong else 'one twice'
        expected = (
            f'another integer from 0 to {bound - 1} for each of {counted(len(tokens), "token")}'
        )
        fail(path, f'{where}expected {expected}, found {found}')
    return bound


def check_merges(path: Path, count: int, tokens: int, where: str = '') -> None:
    """Raise CheckpointError if there are more merges than so many tokens can be made by."""
    if count > MAX_MERGES * tokens:
        most = MAX_MERGES * tokens
        fail(
            path,
            f'{where}expected at most {most} merges for {counted(tokens, "token")}, found {count}',
        )


def _check_model(path: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    """Check a model; return its ids by token."""
    ids = model.get('vocab')
    if isinstance(ids, list):  # Unigram's: tokens with their scores.
        if not all(isinstance(pair, list) and pair and isinstance(pair[0], str) for pair in ids):
            fail(path, 'model.vocab: expected pairs of a token and a score')
        if not _is_id(model.get('unk_id'), len(ids)):
            fail(path, 'model.unk_id: expected the place of a token, found none')
        ids = {pair[0]: i for i, pair in enumerate(ids)}
    if not isinstance(ids, dict):
        fail(path, f'model.vocab: expected tokens, found {type(ids).__name__}')
    if isinstance(merges := model.get('merges'), list):
        check_merges(path, len(merges), len(ids), 'model.merges: ')
    for name, most in (('max_input_chars_per_word', MAX_WORD), ('dropout', MAX_DROPOUT)):
        value = model.get(name) or 0
        if not isinstance(value, int | float) or not 0 <= value <= most:
            fail(path, f'model.{name}: expected a number from 0 to {most}, found {value!r}')
    for name in ('unk_token', 'continuing_subword_prefix', 'end_of_word_suffix'):
        if len(str(model.get(name))) > MAX_STRING:
            fail(path, f'model.{name}: expected {MAX_STRING} characters or less')
    return ids


def _is_id(value: Any, bound: int) -> bool:
    return type(value) is int and 0 <= value < bound


def _check_objects(path: Path, where: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        fail(path, f'{where}: expected a list of objects, found something else')


def _check_growth(path: Path, where: str, growth: float) -> None:
    if growth > MAX_GROWTH:
        expected = f'a text at most {MAX_GROWTH} times as long'
        fail(path, f'{where}: expected to make {expected}, found {growth:.3g} times')


def _check_part(path: Path, name: str, fields: Mapping[str, Any], bound: int) -> float:
    """Check a normalizer or the like; return how many times as long it makes a text at most."""
    if not isinstance(fields.get(name) or {}, dict):
        fail(path, f'{name}: expected an object, found {type(fields[name]).__name__}')
    found = list(itertools.islice(_values(path, name, fields.get(name)), MAX_VALUES + 1))
    if len(found) > MAX_VALUES:
        fail(path, f'{name}: expected at most {MAX_VALUES} values, found more')
    growth = 1.0
    for where, value in found:
        if type(value) in (int, float) and not _is_id(value, bound):
            fail(path, f'{where}: expected an integer from 0 to {bound - 1}, found {value!r}')
        is_short = len(value) <= MAX_STRING if isinstance(value, str) else True
        if not is_short and not where.endswith(('.Regex', '.precompiled_charsmap')):
            fail(path, f'{where}: expected {MAX_STRING} characters or less, found {len(value)}')
        if isinstance(value, dict):
            _check_panics(path, where, value)
            growth *= _growth(path, where, value)
    return growth


def _values(path: Path, where: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield a value and all that are inside of it, each with the keys that lead to it."""
    if depth > MAX_DEPTH:
        fail(path, f'{where}: expected at most {MAX_DEPTH} values inside of one another')
    yield where, value
    inner = value.items() if isinstance(value, dict) else ()
    for key, each in enumerate(value) if isinstance(value, list) else inner:
        yield from _values(path, f'{where}.{key}', each, depth + 1)


def _check_panics(path: Path, where: str, part: Mapping[str, Any]) -> None:
    """Check what the library would panic at, or what would multiply a text."""
    for key in _LISTS:
        _check_objects(path, f'{where}.{key}', part.get(key) or [])
    for key, most in (('single', 1), ('pair', 2)):
        if sum('Sequence' in piece for piece in part.get(key) or []) > most:
            fail(path, f'{where}.{key}: expected each text once, found one several times')
    if part.get('length') == 0:
        fail(path, f'{where}.length: expected 1 or more, found 0')
    if part.get('stop'):
        fail(path, f'{where}.stop: expected 0, for the library fails at tokens that are all cut')
    if part.get('prepend') == '':
        fail(path, f'{where}.prepend: expected characters, for the library fails after none')


def _growth(path: Path, where: str, part: Mapping[str, Any]) -> float:
    """Return how many times as long a part makes a text at most."""
    growth = math.prod(_GROWTH.get(key, 1) for key in part)
    if part.get('type') == 'ByteLevel':
        growth *= _BYTE_LEVEL
    if 'prepend' in part:
        growth *= 1 + _length(part['prepend'])
    if 'precompiled_charsmap' in part:
        growth *= _longest(path, f'{where}.precompiled_charsmap', part['precompiled_charsmap'])
    if isinstance(pattern := part.get('pattern'), dict):
        length, least = _length(part.get('content')), len(str(pattern.get('String', '')))
        if 'Regex' in pattern:
            least = _least(path, f'{where}.pattern', str(pattern['Regex']))
        if length and not least:
            fail(path, f'{where}.pattern: expected to match, for the library fails after nothing')
        growth *= max(1, length / max(least, 1))
    return growth


def _length(text: Any) -> int:
    # One character may become several by a normalizer that comes later.
    return len(unicodedata.normalize('NFKD', str(text or '')))


def _least(path: Path, where: str, expression: str) -> int:
    try:
        return least_match(expression)
    except ValueError as error:
        expected = 'an expression whose time grows with the text and no faster'
        fail(path, f'{where}: expected {expected}, found {cut(expression, 80)!r}: {error}')


def _longest(path: Path, where: str, text: Any) -> int:
    """Return how many characters SentencePiece's table of characters makes of one at most.

    The table is the size of a tree; the tree as a double array (Darts), units that say where
    their children are, or numbers; and what the numbers point into, texts that end with NUL.
    """
    try:
        table = base64.b64decode(str(text), validate=True)
        size = int.from_bytes(table[:4], 'little')
        units = np.frombuffer(table, '<u4', size // 4, 4).astype(np.int64)
        texts = np.frombuffer(table, np.uint8, offset=4 + size)
        longest = max(map(_length, table[4 + size :].decode().split('\0')))
    except ValueError as error:
        fail(path, f'{where}: expected a table of characters, found {error}')
    is_node = units < 2**31
    is_node[:1] = True  # Where every search begins, whatever it is.
    children = np.arange(len(units)) ^ (units >> 10 << ((units & 512) >> 6))
    if not len(units) or size % 4 or (children | 255)[is_node].max() >= len(units):
        fail(path, f'{where}: expected a tree whose units point into it')
    numbers = units[children[is_node & (units >> 8 & 1 == 1)]] % 2**31
    if numbers.max(initial=-1) >= len(texts) or np.any(texts[numbers] & 0xC0 == 0x80):
        fail(path, f'{where}: expected numbers that point at characters')
    return max(1, longest)
