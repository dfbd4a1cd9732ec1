"""Path patterns and natural order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blox as bx
from blox.paths import matches, natural_key, nearest, select

ENTRIES = {
    f'vit/block{i}/{name}': bx.Param(0.0) for i in (0, 1, 10) for name in ('attn/w', 'mlp/w')
}


@pytest.mark.parametrize(
    ('pattern', 'path', 'expected'),
    [
        ('net/w', 'net/w', True),
        ('net/w', 'net/w2', False),
        ('net', 'net/w', False),
        ('net/*', 'net/w', True),
        ('net/*', 'net/mlp/w', False),
        ('net/**', 'net/mlp/w', True),
        ('**', 'net/mlp/w', True),
        ('**/w', 'w', True),
        ('**/w', 'net/mlp/w', True),
        ('net/**/w', 'net/w', True),
        ('net/**/w', 'net/a/b/w', True),
        ('net/**/w', 'net/a/b/v', False),
        ('block?', 'block1', True),
        ('block?', 'block10', False),
        ('block[0-3]/w', 'block2/w', True),
        ('block[!0-3]/w', 'block2/w', False),
        ('block[!0-3]/w', 'block5/w', True),
        ('x[!a]y', 'x/y', False),
        ('[^a]', '^', True),
        ('[^a]', 'b', False),
        ('[[]', '[', True),
        ('a[!]', 'a[!]', True),
        ('a.b', 'axb', False),
        ('a[b', 'a[b', True),
        ('*', 'net', True),
        ('a**', 'a/b', False),
        ('**/block*/attn/**', 'vit/block3/attn/qkv/w', True),
    ],
)
def test_patterns_match_whole_paths(pattern, path, expected):
    assert matches(pattern, path) is expected


@pytest.mark.parametrize('pattern', ['', '/net', 'net/', 'a//b', '[z-a]'])
def test_a_pattern_that_makes_no_sense_is_refused(pattern):
    with pytest.raises(ValueError, match='not a path pattern'):
        matches(pattern, 'net/w')


@given(st.lists(st.text(st.characters(exclude_characters='/'), min_size=1), min_size=1))
def test_any_path_without_wildcards_matches_itself(segments):
    path = '/'.join(segments)
    if not set(path) & set('*?['):
        assert matches(path, path)
        assert matches('**', path)


def test_numbers_sort_by_value():
    paths = ['b10/w', 'b2/w', 'b/w', 'a', 'b2', 'b02/w', 'b2x']
    assert sorted(paths, key=natural_key) == ['a', 'b/w', 'b2', 'b02/w', 'b2/w', 'b2x', 'b10/w']


@given(st.lists(st.text('ab01/²'), max_size=6))
def test_any_paths_have_an_order(paths):
    assert len(sorted(paths, key=natural_key)) == len(paths)


@pytest.mark.parametrize(
    ('where', 'count'),
    [
        ('vit/block1/**', 2),
        (['vit/block0/**', 'vit/block1/attn/w'], 3),
        (('**/attn/*',), 3),
        (lambda path, param: 'block10' in path, 2),
        (lambda path, param: False, 0),
    ],
)
def test_select_takes_patterns_and_predicates(where, count):
    assert len(select(where, ENTRIES.items())) == count


def test_a_pattern_that_matches_nothing_is_an_error_with_a_hint():
    with pytest.raises(ValueError, match=r"'vit/block1/atn/w' matches none.*vit/block1/attn/w"):
        select(['vit/block0/**', 'vit/block1/atn/w'], ENTRIES.items())


def test_nearest_finds_a_misspelt_path():
    assert nearest('vit/block1/attn/v', ENTRIES)[0] == 'vit/block1/attn/w'
