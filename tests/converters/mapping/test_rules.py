"""Rules: what a plan says, and what it refuses."""

import re

import jax
import numpy as np
import pytest

from blox.converters.mapping.rules import Entry, Rule, plan
from blox.converters.mapping.transforms import T
from blox.param import Param
from blox.params import Params

SPEC = Params.from_entries(
    {path: Param(jax.ShapeDtypeStruct((2, 3), np.float32)) for path in ('net/a0/w', 'net/a1/w')}
)
RULE = Rule('net/a{i}/w', 'a.{i}.weight', T)


def test_a_plan_says_what_each_path_is_made_of():
    assert plan((RULE,), SPEC) == {
        f'net/a{i}/w': Entry(f'net/a{i}/w', (2, 3), (f'a.{i}.weight',), ((3, 2),), T)
        for i in range(2)
    }


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ((Rule('net/a0/w', 'x'),), "'net/a1/w': expected one rule, found none"),
        (
            (RULE, Rule('net/a1/{x}', 'x')),
            "rule 'net/a1/{x}': matches no path",
        ),
        (
            (RULE, Rule('net/a1/w', 'x')),
            "'net/a1/w': expected one rule, found 'net/a{i}/w', 'net/a1/w'",
        ),
        ((RULE, RULE), "'net/a0/w': expected one rule, found 'net/a{i}/w', 'net/a{i}/w'"),
        ((Rule('net/a{i}/w', 'x'),), "'x': claimed by 'net/a0/w' and 'net/a1/w'"),
        ((RULE, Rule('net/b{i}/w', 'b')), "rule 'net/b{i}/w': matches no path"),
    ],
)
def test_a_plan_refuses_rules_that_do_not_fit(rules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan(rules, SPEC)


def test_a_plan_lists_everything_at_once():
    with pytest.raises(ValueError, match=r'^[^;]+; [^;]+; [^;]+$'):
        plan((Rule('net/a0/w', 'x'), Rule('b', 'y'), Rule('c', 'z')), SPEC)


@pytest.mark.parametrize(
    ('path', 'fields'),
    [
        ('net/a0/w', {'i': 0}),
        ('net/a10/w', {'i': 10}),
        ('net/a00/w', None),
        ('net/a01/w', None),
        ('net/a/w', None),
        ('net/a-1/w', None),
        ('net/a\u0661/w', None),
        ('net/a1/w\n', None),
        ('my/net/a1/w', None),
    ],
)
def test_fields_are_numbers_without_leading_zeros(path, fields):
    assert RULE.match(path) == fields


def test_fields_count_from_one_less_where_a_rule_says_so():
    rule = Rule('stage{s}/block{b}', ('a.{s-1}.{b}', 'b.{s}'))
    assert rule.names({'s': 3, 'b': 0}) == ('a.2.0', 'b.3')


def test_a_dot_in_a_path_is_a_dot():
    assert Rule('a.b', 'x').match('a.b') == {}
    assert Rule('a.b', 'x').match('acb') is None
