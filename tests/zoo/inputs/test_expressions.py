"""Expressions of tokenizers: published ones pass, those that could take for ever are refused."""

import pytest
from helpers import message, table

from blox.zoo.inputs.expressions import least_match

# With the number of characters that each matches at least.
PUBLISHED = {
    'GPT-2': (
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        1,
    ),
    'CLIP': (r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", 1),
    'Llama 3': (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
        1,
    ),
    'Qwen 2': (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+',
        1,
    ),
    'o200k': (
        r'[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+'
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r'|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*'
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r'|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+',
        1,
    ),
    'GPT-4': (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
        r'| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+',
        1,
    ),
    'DeepSeek': (
        '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+'
        '|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*'
        '|\\s*[\r\n]+|\\s+(?!\\S)|\\s+',
        1,
    ),
    'Chinese and Japanese': ('[一-龥\u3040-ゟ゠-ヿ]+', 1),  # noqa: RUF001
    'BLOOM': (r' ?[^(\s|[.,!?…。，、।۔،])]+', 1),  # noqa: RUF001
    'XLM-R': (' {2,}', 2),
    'DeBERTa': (r'\s{2,}|[\n\r\t]', 1),
    'digits from the right': (r'\d{1,3}(?=(?:\d{3})*\b)', 1),
    'three digits': ('[0-9][0-9][0-9]', 3),
    'spaces at the end': (r'\s+$', 1),
    'chemistry': (
        r'(\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$'
        r'|\%[0-9]{2}|[0-9])',
        1,
    ),
    'every character': ('(?<=.)', 0),
    'nothing': ('', 0),
    # One ß is ss, in whatever case.
    'any case': ('(?i:ss)', 1),
    'any case from the start': ('(?i)ss|st', 1),
}


@table(PUBLISHED)
def test_published_expressions_pass(row):
    expression, least = row
    assert least_match(expression) == least


REPEATED, RUNS = 'several ways, or nothing, is repeated', 'words and spaces'
LOOPS, UNKNOWN, AHEAD = 'several repetitions', 'not understood', 'ahead or behind'
REFUSED = {
    '(.*)*X': REPEATED,
    '(a|a)*b': REPEATED,
    '(a|aa)+$': REPEATED,
    r'(\w+\s?)*!': REPEATED,
    '((a+)b?)+c': REPEATED,
    '(?:a*){1,100}': REPEATED,
    '(?>a+)+b': REPEATED,
    '(?:^)*': REPEATED,
    r'\s*\s*\s*\s*x': LOOPS,
    r'\w+(\s+|,)x': LOOPS,
    r'(?=\w+)(?=\w+)x': LOOPS,
    '.*X': RUNS,
    r'[^\x00]*\x00': RUNS,
    r'[\w ]+!': RUNS,
    r'(?:\w )+x': RUNS,
    r'(\s+\w)?x': RUNS,
    r'a(?=[\s\S]*)': AHEAD,
    r'(?<=a+)b': AHEAD,
    r'(a)\1': UNKNOWN,
    r'(a|b\g<1>c)': UNKNOWN,
    '(?~abc)': UNKNOWN,
    '(?<n>a)': UNKNOWN,
    r'a\Kb': UNKNOWN,
    '(?x)a': UNKNOWN,
    'a(?i)b|c': UNKNOWN,
    '[]a]': UNKNOWN,
    'a{1,1000000}': UNKNOWN,
    'a{1,2}+': UNKNOWN,
    'a{2}{3}': UNKNOWN,
    'a{9,1}': UNKNOWN,
    'a**': UNKNOWN,
    'a?' * 9 + 'b': '256 ways',
    '(a|b|c|d)' * 5 + 'e': '256 ways',
    '(?:a{100}){100}': '1000 characters to match',
    'a' * 3000: 'at most 2000 characters',
    '(' * 500 + ')' * 500: 'groups at most 16 deep',
    r'\p{Nowhere}': 'invalid character property',
    '(a': 'opens',
    '[a': 'opens',
    'a)': 'closes',
}


@pytest.mark.parametrize('expression', REFUSED, ids=lambda expression: expression[:20])
def test_what_could_take_for_ever_is_refused(expression):
    assert REFUSED[expression] in message(ValueError, lambda: least_match(expression))
