"""What a stranger's tokenizer may make the library do, and that published kinds of them pass."""

import base64
import json
import subprocess
import sys

import numpy as np
from helpers import table
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import blox as bx
from blox.zoo.inputs.tokenizers import parse_tokenizer, read_tokenizer

WORDS = {'type': 'WordLevel', 'vocab': {'a': 0, '?': 1}, 'unk_token': '?'}
LEVEL = {'type': 'ByteLevel', 'add_prefix_space': True, 'trim_offsets': True, 'use_regex': True}
TEXT, OTHER = {'Sequence': {'id': 'A', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 0}}


def with_ids(**ids):
    return {'model': WORDS | {'vocab': WORDS['vocab'] | ids}}


def with_added(content, **fields):
    flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized', 'special'), False)
    return {'added_tokens': [{'id': 2, 'content': content, **flags, **fields}]}


def unigram(*tokens):
    vocabulary = [['?', 0.0], *([token, -1.0] for token in tokens)]
    return {'model': {'type': 'Unigram', 'unk_id': 0, 'vocab': vocabulary}}


def wordpiece(**fields):
    model = {'type': 'WordPiece', 'vocab': {'?': 0}, 'unk_token': '?'}
    limits = {'continuing_subword_prefix': '##', 'max_input_chars_per_word': 100}
    return {'model': model | limits | fields}


def bpe(**fields):
    return {'model': {'type': 'BPE', 'vocab': {'a': 0, 'aa': 1}, 'merges': [], **fields}}


def replace(pattern, content):
    return {'type': 'Replace', 'pattern': {'String': pattern}, 'content': content}


def replace_all(expression, content):
    return {'type': 'Replace', 'pattern': {'Regex': expression}, 'content': content}


def normalizer(*parts):
    return {'normalizer': {'type': 'Sequence', 'normalizers': list(parts)}}


def pre_tokenizer(*parts):
    return {'pre_tokenizer': {'type': 'Sequence', 'pretokenizers': list(parts)}}


def decoder(*parts):
    return {'decoder': {'type': 'Sequence', 'decoders': list(parts)}}


def template(single, pair, **tokens):
    parts = {'single': single, 'pair': pair, 'special_tokens': tokens}
    return {'post_processor': {'type': 'TemplateProcessing', **parts}}


def nested(depth):
    return {'type': 'Sequence', 'normalizers': [nested(depth - 1)] if depth else []}


def characters(number=0, base=1024, becomes='fi'):
    """SentencePiece's table of one character, of three bytes, and what it becomes."""
    units, place = np.zeros(1280, '<u4'), 0
    for byte, after in zip((0, *'ﬁ'.encode()), (256, 512, 768, base), strict=True):
        place ^= byte
        units[place] = (place ^ after) << 10 | byte | (after == base) << 8
        place = after
    units[1024] = 1 << 31 | number
    made = np.uint32(units.nbytes).tobytes() + units.tobytes() + f'{becomes}\0'.encode()
    return {'type': 'Precompiled', 'precompiled_charsmap': base64.b64encode(made).decode()}


# Without bounds, these abort or hang a process, panic at some text, or are of no use.
HOSTILE = {
    'a huge id': (with_ids(b=2**31 - 1), 'model.vocab: expected another integer from 0 to'),
    'a negative id': (with_ids(b=-1), 'found -1'),
    'a broken id': (with_ids(b=2.0), 'found 2.0'),
    'an id for two': (with_ids(b=1), 'found one twice'),
    'a huge id of an added token': (with_added('b', id=2**31), 'added_tokens: expected ids below'),
    'a huge id of a template': (
        template([TEXT], [TEXT, OTHER], b={'id': 'b', 'ids': [2**32 - 1], 'tokens': ['b']}),
        'post_processor.special_tokens.b.ids.0: expected an integer',
    ),
    'a long token': (unigram('ab' * 500_000), 'tokens of 4096 characters or less, found 1000000'),
    'a tree of tokens': (
        unigram(*(f'{i:04}' * 1000 for i in range(1100))),
        'tokens of 4194304 bytes in all',
    ),
    'no unknown token': ({'model': {'type': 'Unigram', 'vocab': [['a', 0.0]]}}, 'model.unk_id'),
    'no vocabulary': ({'model': {'type': 'WordLevel', 'unk_token': '?'}}, 'model.vocab'),
    'long words': (wordpiece(max_input_chars_per_word=10**9), 'model.max_input_chars_per_word'),
    'a long prefix': (wordpiece(continuing_subword_prefix='#' * 10**6), 'model.continuing'),
    'merges': (bpe(merges=['a a'] * 1000), 'model.merges: expected at most 16'),
    'dropout': (bpe(dropout=0.999999), 'model.dropout: expected a number from 0 to 0.9'),
    'a token that is normalized to nothing': (
        with_added('_', normalized=True) | normalizer(replace('_', '')),
        "added_tokens: expected tokens, found '_', normalized to nothing",
    ),
    'a token that grows': (
        with_added('a' * 4000, normalized=True) | normalizer(replace('a', 'a' * 999), LEVEL),
        'characters when normalized',
    ),
    'forty doublings': (normalizer(*[replace('a', 'aa')] * 40), '128 times as long, found 1.1e+12'),
    'doublings without a type': (
        normalizer(*[{'pattern': {'String': 'a'}, 'content': 'aa'}] * 40),
        'found 1.1e+12',
    ),
    'doublings as a list': ({'normalizer': [{'String': 'a'}, 'aa']}, 'normalizer: expected an obj'),
    'doublings as lists': (normalizer(*[[{'String': 'a'}, 'aa']] * 40), 'list of objects'),
    'doublings of ß': (
        normalizer(*[replace('a', 'ß'), replace_all('(?i:ss)', 'aa')] * 20),
        'found 1.05e+06',
    ),
    'a character of eighteen': (normalizer(*[replace(' ', 'ﷺ'), {'type': 'NFKD'}] * 9), 'e+11'),
    'prefixes': (normalizer(*[{'type': 'Prepend', 'prepend': 'a' * 99}] * 5), 'found 1e+10'),
    'bytes of bytes': (normalizer(*[{'type': 'ByteLevel'}] * 20), 'times as long'),
    'bytes of bytes of words': (pre_tokenizer(*[LEVEL] * 20), 'normalizer and pre_tokenizer'),
    'growing tokens': (decoder(*[replace('a', 'aa')] * 40), 'decoder: expected to make a text'),
    'texts of texts': (template([TEXT] * 9, [TEXT, OTHER]), 'post_processor.single'),
    'pairs of pairs': (template([TEXT], [TEXT, OTHER] * 9), 'post_processor.pair'),
    'parts in parts': ({'normalizer': nested(20)}, 'at most 16 values inside of one another'),
    'many parts': (normalizer(*[{'type': 'Lowercase'}] * 9999), 'at most 300 values'),
    'a long string': (normalizer(replace('a', 'a' * 5000)), 'content: expected 1000'),
    'an endless expression': (
        normalizer(replace_all('(a|aa)+$', 'b')),
        'normalizer.normalizers.0.pattern: expected an expression whose time grows with the text '
        "and no faster, found '(a|aa)+$'",
    ),
    'an empty prefix': (normalizer({'type': 'Prepend', 'prepend': ''}), 'prepend: expected char'),
    'replacing nothing': (normalizer(replace_all('b*', 'c')), 'pattern: expected to match'),
    'lengths of nothing': (pre_tokenizer({'type': 'FixedLength', 'length': 0}), '.length: expect'),
    'cutting the end': (
        decoder({'type': 'Strip', 'content': 'a', 'start': 0, 'stop': 1}),
        'decoder.decoders.0.stop: expected 0',
    ),
    'a table of no bytes': (normalizer({'precompiled_charsmap': '?'}), 'a table of characters'),
    'a table that ends early': (normalizer({'precompiled_charsmap': '////'}), 'of characters'),
    'a table that leaves its tree': (normalizer(characters(base=2**20)), 'units point into it'),
    'a table that leaves its texts': (normalizer(characters(99)), 'point at characters'),
    'a table that breaks a character': (normalizer(characters(1, becomes='é')), 'at characters'),
    'a table of long texts': (normalizer(characters(becomes='a' * 200)), 'found 200 times'),
}
FOLDERS = {
    'a huge id in vocab.json': (
        {'vocab.json': '{"<|endoftext|>": 2147483647}', 'merges.txt': ''},
        'vocab.json',
    ),
    'a line of merges': (
        {'vocab.json': '{"<|endoftext|>": 0, "a": 1}', 'merges.txt': 'a a\n' * 100},
        'merges.txt',
    ),
    'a long line': ({'vocab.txt': '[UNK]\n' + 'a' * 5000}, 'vocab.txt'),
    'many lines': (
        {'vocab.txt': '\n'.join(['[UNK]', '[CLS]', '[SEP]', '[MASK]', *' ' * 2**20, '[PAD]'])},
        'vocab.txt',
    ),
}


def whole(parts):
    names = ('normalizer', 'pre_tokenizer', 'post_processor', 'decoder', 'padding', 'truncation')
    rest = {'version': '1.0', 'added_tokens': [], 'model': WORDS}
    return json.dumps(dict.fromkeys(names) | rest | parts)


# Reads folders, in a process that may be killed by what it reads.
READ = """
import resource, signal, sys
from pathlib import Path
import blox as bx
from blox.zoo.inputs.tokenizers import read_tokenizer
resource.setrlimit(resource.RLIMIT_DATA, (2**32, 2**32))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    signal.alarm(20)
    try:
        print(folder.name, 'is read', len(read_tokenizer(folder)), flush=True)
    except bx.CheckpointError as error:
        print(folder.name, str(error), flush=True)
"""


def test_what_is_out_of_bounds_is_named_and_harms_nobody(tmp_path):
    files = {name: ({'tokenizer.json': whole(parts)}, m) for name, (parts, m) in HOSTILE.items()}
    cases = list((files | FOLDERS).values())
    for i, (texts, _) in enumerate(cases):
        (tmp_path / f'{i:02}').mkdir()
        for name, text in texts.items():
            (tmp_path / f'{i:02}' / name).write_text(text, 'utf-8')
    command = [sys.executable, '-c', READ, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    # Lines are missing where the process died.
    found = dict(line.split(' ', 1) for line in done.stdout.splitlines())
    said = {name: found.get(f'{i:02}', '') for i, name in enumerate(files | FOLDERS)}
    expected = {name: message for name, (_, message) in (files | FOLDERS).items()}
    assert {name: said[name] for name in said if expected[name] not in said[name]} == {}


# What is legitimate: the parts of published tokenizers, with vocabularies of a few words.

SPECIAL = ['<pad>', '<unk>', '<s>', '</s>', '<mask>']
MASK = AddedToken('<mask>', lstrip=True, normalized=False, special=True)
BYTES = pre_tokenizers.ByteLevel.alphabet()
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r'|\s*[\r\n]+|\s+(?!\S)|\s+'
)
TABLE = normalizers.Precompiled(base64.b64decode(characters()['precompiled_charsmap']))
AROUND = processors.TemplateProcessing(
    single='<s> $A </s>', pair='<s> $A </s> $B </s>', special_tokens=[('<s>', 2), ('</s>', 3)]
)


def word_pieces():
    trainer = trainers.WordPieceTrainer(special_tokens=SPECIAL, show_progress=False)
    return models.WordPiece(unk_token='<unk>'), trainer


def byte_pairs(alphabet=BYTES, suffix='', **options):
    trainer = trainers.BpeTrainer(
        special_tokens=SPECIAL,
        initial_alphabet=list(alphabet),
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    return models.BPE(unk_token='<unk>', end_of_word_suffix=suffix, **options), trainer


def pieces():
    trainer = trainers.UnigramTrainer(
        special_tokens=SPECIAL, unk_token='<unk>', vocab_size=40, show_progress=False
    )
    return models.Unigram(), trainer


PUBLISHED = {
    'BERT': (
        word_pieces,
        {
            'normalizer': normalizers.BertNormalizer(),
            'pre_tokenizer': pre_tokenizers.BertPreTokenizer(),
            'post_processor': AROUND,
            'decoder': decoders.WordPiece(),
        },
    ),
    'RoBERTa': (
        byte_pairs,
        {
            'pre_tokenizer': pre_tokenizers.ByteLevel(add_prefix_space=False),
            'post_processor': processors.RobertaProcessing(('</s>', 3), ('<s>', 2)),
            'decoder': decoders.ByteLevel(),
        },
    ),
    'Llama 2': (
        lambda: byte_pairs(alphabet=[], byte_fallback=True, fuse_unk=True),
        {
            'normalizer': normalizers.Sequence(
                [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
            ),
            'post_processor': AROUND,
            'decoder': decoders.Sequence(
                [
                    decoders.Replace('▁', ' '),
                    decoders.ByteFallback(),
                    decoders.Fuse(),
                    decoders.Strip(' ', 1, 0),
                ]
            ),
        },
    ),
    'Llama 3': (
        lambda: byte_pairs(ignore_merges=True),
        {
            'pre_tokenizer': pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(LLAMA), 'isolated'),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
            'post_processor': processors.Sequence([processors.ByteLevel(), AROUND]),
            'decoder': decoders.ByteLevel(),
        },
    ),
    'CLIP': (
        lambda: byte_pairs(suffix='</w>'),
        {
            'normalizer': normalizers.Sequence(
                [
                    normalizers.NFC(),
                    normalizers.Replace(Regex(r'\s+'), ' '),
                    normalizers.Lowercase(),
                ]
            ),
            'pre_tokenizer': pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(r"'s|[\p{L}]+|[^\s\p{L}]+"), 'removed', invert=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            ),
            'decoder': decoders.BPEDecoder('</w>'),
        },
    ),
    'XLM-R': (
        pieces,
        {
            'normalizer': normalizers.Sequence(
                [TABLE, normalizers.Strip(), normalizers.Replace(Regex(' {2,}'), '▁')]
            ),
            'pre_tokenizer': pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
            ),
            'post_processor': AROUND,
            'decoder': decoders.Metaspace(),
        },
    ),
    'ALBERT': (
        pieces,
        {
            'normalizer': normalizers.Sequence(
                [
                    normalizers.Replace('``', '"'),
                    normalizers.NFKD(),
                    normalizers.StripAccents(),
                    normalizers.Lowercase(),
                    TABLE,
                    normalizers.Replace(Regex(' {2,}'), ' '),
                ]
            ),
            'pre_tokenizer': pre_tokenizers.Metaspace(),
            'post_processor': AROUND,
            'decoder': decoders.Metaspace(),
        },
    ),
}
TEXTS = ['The cat sat, 1234.', 'ﬁve  "Été"\n\n 中文', '', ' ', '<s>a <mask></s>', 'a' * 999]


def trained(make, parts):
    """The text of a tokenizer.json."""
    model, trainer = make()
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        if name != 'post_processor':
            setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(['the cat sat on the mat'] * 9, trainer)
    tokenizer.post_processor = parts.get('post_processor')
    tokenizer.add_special_tokens([*SPECIAL[:4], MASK])
    return tokenizer.to_str()


@table(PUBLISHED)
def test_kinds_of_published_tokenizers_pass_as_they_are(tmp_path, row):
    text = trained(*row)
    (tmp_path / 'tokenizer.json').write_text(text, 'utf-8')
    read, expected = read_tokenizer(tmp_path), Tokenizer.from_str(text)
    assert read == expected.to_str()
    for encoded, reference in zip(
        Tokenizer.from_str(read).encode_batch(TEXTS), expected.encode_batch(TEXTS), strict=True
    ):
        assert encoded.ids == reference.ids
        assert encoded.offsets == reference.offsets


def test_the_tokenizer_in_the_package_passes_as_it_is(tmp_path):
    text = bx.zoo.card('gpt2-pydocs').tokenizer
    assert parse_tokenizer(tmp_path, text).to_str() == text


def test_a_model_needs_no_type(tmp_path):
    parts = json.loads(trained(*PUBLISHED['BERT']))
    del parts['model']['type']
    assert parse_tokenizer(tmp_path, json.dumps(parts)).encode('the cat').ids


def test_ids_may_have_holes(tmp_path):
    parts = with_ids(b=50_000) | with_added('c', id=60_000)
    assert parse_tokenizer(tmp_path, whole(parts)).token_to_id('b') == 50_000


def test_a_table_of_characters_is_followed(tmp_path):
    tokenizer = parse_tokenizer(tmp_path, whole(normalizer(characters())))
    assert tokenizer.normalizer.normalize_str('ﬁve') == 'five'


def test_padding_and_truncation_of_a_card_are_not_followed(tmp_path):
    padding = {'strategy': {'Fixed': 99}, 'direction': 'Right', 'pad_to_multiple_of': None}
    padding |= {'pad_id': 0, 'pad_type_id': 0, 'pad_token': '?'}
    truncation = {'direction': 'Right', 'max_length': 1, 'strategy': 'LongestFirst', 'stride': 0}
    text = whole({'padding': padding, 'truncation': truncation})
    tokenizer = parse_tokenizer(tmp_path, text)
    assert (tokenizer.padding, tokenizer.truncation) == (None, None)
