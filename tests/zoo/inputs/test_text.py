"""Texts as inputs: prompts, limits, pairs, and what settings are refused."""

import dataclasses

import numpy as np
import pytest
from helpers import table
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from blox.zoo.inputs.text import Padding, TextPreprocessor, TextSettings

WORDS = ['?', '<', '>', *'abcdefgh', 'A']


def words():
    """A tokenizer of single letters, which puts '<' before a text and '>' after each of a pair."""
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token='?'))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        '< $A >', '< $A > $B:1 >:1', special_tokens=[('<', 1), ('>', 2)]
    )
    return tokenizer


def prepare(**settings):
    return TextPreprocessor(words(), TextSettings(**settings), 8)


def spelled(row, mask):
    return ' '.join(WORDS[i] for i in row[mask])


def test_texts_become_a_batch_as_long_as_its_longest():
    tokens, mask, types, pool_mask = prepare()(['a b', 'c'])
    assert tokens.tolist() == [[1, 3, 4, 2], [1, 5, 2, 0]]
    assert mask.tolist() == pool_mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert (tokens.dtype, types.dtype, types.any()) == (np.int32, np.int32, False)


def test_pairs_are_told_apart():
    tokens, mask, types, _ = prepare()([('a', 'b c')])
    assert spelled(tokens[0], mask[0]) == '< a > b c >'
    assert types.tolist() == [[0, 0, 0, 1, 1, 1]]


@pytest.mark.parametrize(('limit', 'length'), [(0, 8), (5, 5), (100, 8)])
def test_texts_are_cut_to_the_limit_or_the_context(limit, length):
    (found,) = prepare(max_tokens=limit).encode(['a b c d e f g h'])
    assert (len(found.ids), found.is_cut, WORDS[found.ids[-1]]) == (length, True, '>')
    assert not prepare(max_tokens=limit).encode(['a b c'])[0].is_cut


PROMPTS = {'prompts': {'q': 'a b ', 'd': 'c '}}
PROMPTED = {
    'none': (PROMPTS, {}, '< h >'),
    'by name': (PROMPTS, {'prompt_name': 'q'}, '< a b h >'),
    'by default': (PROMPTS | {'default_prompt': 'd'}, {}, '< c h >'),
    'another than by default': (
        PROMPTS | {'default_prompt': 'd'},
        {'prompt_name': 'q'},
        '< a b h >',
    ),
    'in words': (PROMPTS | {'default_prompt': 'd'}, {'prompt': 'e '}, '< e h >'),
    'none in words': (PROMPTS | {'default_prompt': 'd'}, {'prompt': ''}, '< h >'),
    'both': (PROMPTS, {'prompt': 'e ', 'prompt_name': 'q'}, '< e h >'),
}


@table(PROMPTED)
def test_a_prompt_stands_before_each_text(row):
    settings, prompt, expected = row
    batch = prepare(**settings)(['h'], **prompt)
    assert spelled(batch.tokens[0], batch.mask[0]) == expected


def test_the_mean_takes_a_prompt_or_not():
    batch = prepare(**PROMPTS, include_prompt=False)(['h'], prompt_name='q')
    assert spelled(batch.tokens[0], batch.pool_mask[0]) == 'h >'
    batch = prepare(**PROMPTS, include_prompt=False)(['h'])
    assert spelled(batch.tokens[0], batch.pool_mask[0]) == '< h >'


def test_lower_case_goes_before_the_tokenizer():
    lower, plain = (prepare(lower_case=lower)(['A a']).tokens.tolist() for lower in (True, False))
    assert (lower, plain) == ([[1, 3, 3, 2]], [[1, 11, 3, 2]])


def test_the_given_tokenizer_stays_as_it_was():
    tokenizer = words()
    before = tokenizer.to_str()
    TextPreprocessor(tokenizer, TextSettings(3, lower_case=True), 8)(['a b c'])
    assert tokenizer.to_str() == before


def test_an_unknown_prompt_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"the name of a prompt \(query, document, q, d\), found 'x'"
    ):
        prepare(**PROMPTS)(['a'], prompt_name='x')


@pytest.mark.parametrize('texts', ['a text', []])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(ValueError, match='expected a list of texts'):
        prepare()(texts)


WRONG = {
    'a limit': ({'max_tokens': -1}, 'max_tokens from 0'),
    'a limit that is a float': ({'max_tokens': 8.0}, 'max_tokens from 0'),
    'a case': ({'lower_case': 'yes'}, 'lower_case true or false'),
    'prompts': ({'prompts': {'q': 1}}, 'prompts of names and texts'),
    'a default': ({'default_prompt': 'q'}, 'default_prompt the name of one'),
    'a similarity': ({'similarity': 'jaccard'}, 'similarity one of cosine, dot'),
}


@table(WRONG)
def test_settings_that_no_texts_can_have_are_refused(row):
    fields, message = row
    with pytest.raises(ValueError, match=message):
        TextSettings(**fields)
    with pytest.raises(ValueError, match=message):
        TextSettings.from_fields(dataclasses.asdict(TextSettings()) | fields)


def test_a_model_without_types_gets_none():
    batch = TextPreprocessor(words(), TextSettings(), 8, has_types=False)([('a', 'b c')])
    assert not batch.types.any()


@pytest.mark.parametrize('at_start', [False, True])
def test_texts_of_one_length_are_filled_up_with_a_token(at_start):
    padding = Padding(6, WORDS.index('h'), at_start)
    fixed = TextPreprocessor(words(), TextSettings(), 8, padding=padding)
    batch = fixed(['a b', 'c'])
    letters = [' '.join(WORDS[i] for i in row) for row in batch.tokens]
    if at_start:
        assert letters == ['h h < a b >', 'h h h < c >']
    else:
        assert letters == ['< a b > h h', '< c > h h h']
    assert [spelled(*row) for row in zip(batch.tokens, batch.mask)] == ['< a b >', '< c >']
    np.testing.assert_array_equal(batch.mask, batch.pool_mask)
