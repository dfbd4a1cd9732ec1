"""What a checkpoint's names become: under wrappers' prefixes, and what is said of those that do not fit."""

import itertools
import re

import numpy as np
import pytest
from checkpoints import assert_same, model_of, params_of, source_of
from families import declared, fitted, tiny

import blox as bx
from blox.converters import convert, explain, open_source
from blox.converters.exporting import external
from blox.converters.mapping.rules import Rule, Table
from blox.converters.tables import vit
from blox.tensorfile import write_tensors

# Prefixes.

WRAPPERS = ['module.', '_orig_mod.', 'model.', 'backbone.', 'net.']
STACKS = [
    *WRAPPERS,
    *map(''.join, itertools.permutations(WRAPPERS, 2)),
    ''.join(WRAPPERS),
    'module.' * 3,
]


def arrays_of(family, layout=None, **fields):
    config = fitted(family, layout or 'hf', **fields)
    return external(model_of(config), params_of(config), layout or 'hf')


def under(prefix, arrays):
    return {f'{prefix}{name}': array for name, array in arrays.items()}


@pytest.mark.parametrize('prefix', STACKS)
def test_prefixes_of_wrappers_are_no_part_of_names(prefix):
    arrays = arrays_of('vit', 'timm')
    source = source_of(under(prefix, arrays))
    found = explain(source, model_of(tiny('vit')))
    assert (found.problems, set(found.names.values())) == ([], set(source.tensors))
    assert_same(convert(source, model_of(tiny('vit'))), params_of(tiny('vit')))


@pytest.mark.parametrize('family', declared())
@pytest.mark.parametrize('prefix', ['module._orig_mod.', 'model.'])
def test_every_family_is_read_below_a_prefix(family, prefix):
    source, config = source_of(under(prefix, arrays_of(family))), fitted(family, 'hf')
    assert_same(convert(source, model_of(config)), params_of(config))


def test_counters_of_averaged_models_are_ignored():
    arrays = under('module.', arrays_of('vit', 'timm'))
    source = source_of({'n_averaged': np.array(3), **arrays})
    assert explain(source, model_of(tiny('vit'))).ignored == ('n_averaged',)
    assert_same(convert(source, model_of(tiny('vit'))), params_of(tiny('vit')))


def test_a_name_that_a_layout_has_itself_is_no_prefix(monkeypatch):
    """Tried as they are first, names keep what some other layout would call a wrapper."""
    arrays = under('model.', arrays_of('vit', 'timm'))
    plain = vit.TABLES['timm'].rules

    def rules(config):
        return tuple(Rule(rule.ours, f'model.{rule.theirs}', rule.via) for rule in plain(config))

    monkeypatch.setattr(vit, 'TABLES', {'timm': Table(rules)})
    for prefix in ('', 'module.', 'model.'):
        found = explain(source_of(under(prefix, arrays)), model_of(tiny('vit')))
        assert found.ok
        assert set(found.names) == set(arrays)


OUTSIDE = {
    'a loss': ({'loss.weight': np.ones(2, np.float32)}, ["'loss.weight': unexpected"]),
    'a head beside the body': (
        {'head.weight': np.ones((3, 8), np.float32)},
        ["'head.weight': unexpected"],
    ),
    'a metric': ({'accuracy.count': np.array(3)}, ["'accuracy.count': unexpected"]),
}


@pytest.mark.parametrize('case', OUTSIDE)
def test_names_outside_of_the_prefix_are_unexpected(case):
    more, expected = OUTSIDE[case]
    source = source_of({**under('model.', arrays_of('vit', 'timm')), **more})
    found = explain(source, model_of(tiny('vit')))
    assert found.problems == expected
    with pytest.raises(bx.CheckpointError, match=re.escape(expected[0])):
        convert(source, model_of(tiny('vit')))


def test_a_state_below_a_prefix_is_taken_without_what_lies_beside_it(tmp_path):
    arrays = under('student.encoder.', arrays_of('vit', 'timm')) | {'loss.weight': np.ones(2)}
    write_tensors(tmp_path / 'a.safetensors', arrays, {})
    model = model_of(tiny('vit'))
    assert not explain(tmp_path / 'a.safetensors', model).ok
    assert explain(tmp_path / 'a.safetensors', model, state='student.encoder').ok
    found = convert(tmp_path / 'a.safetensors', model, state='student.encoder')
    assert_same(found, params_of(tiny('vit')))


def test_names_that_collide_below_a_prefix_are_refused():
    arrays = arrays_of('gpt2')
    bare = {name.removeprefix('transformer.'): x for name, x in arrays.items()}
    both = {**under('module.', bare), 'module.transformer.wte.weight': bare['wte.weight']}
    found = explain(source_of(both), model_of(tiny('gpt2')))
    assert found.problems == [
        "'module.transformer.wte.weight' and 'module.wte.weight': two for one parameter"
    ]


def test_a_state_of_an_open_source_is_refused(tmp_path):
    write_tensors(tmp_path / 'a.safetensors', arrays_of('vit', 'timm'), {})
    source = open_source(tmp_path / 'a.safetensors')
    with pytest.raises(ValueError, match='pass it to open_source'):
        convert(source, model_of(tiny('vit')), state='ema')


# What does not fit.

# The spelling of a file's names, its own way, and names that are missing from it.
SPELLINGS = {
    'as published': ('gpt2', lambda n: n, 'transformer.h.1.ln_1.weight'),
    'without the prefix': ('gpt2', lambda n: n.removeprefix('transformer.'), 'h.1.ln_1.weight'),
    'below a wrapper': ('gpt2', lambda n: f'module.{n}', 'module.transformer.h.1.ln_1.weight'),
    'as live modules': (
        'vit',
        lambda n: n.replace('encoder.layer.', 'layers.').replace(
            'attention.attention.query', 'attention.q_proj'
        ),
        'vit.layers.1.layernorm_before.weight',
    ),
    'live, below a wrapper': (
        'vit',
        lambda n: 'net.' + n.removeprefix('vit.').replace('encoder.layer.', 'layers.'),
        'net.layers.1.layernorm_before.weight',
    ),
}


@pytest.mark.parametrize('case', SPELLINGS)
def test_missing_names_are_spelled_as_the_files_others(case):
    family, spelled, missing = SPELLINGS[case]
    arrays = {spelled(name): x for name, x in arrays_of(family).items()}
    del arrays[missing]
    found = explain(source_of(arrays), model_of(tiny(family)))
    assert found.missing == (missing,)


def refusal(source, model):
    with pytest.raises(bx.CheckpointError) as caught:
        convert(source, model)
    return str(caught.value)


def wrong(prefix='module.'):
    """A checkpoint of a ViT of another width and depth, with much beside it."""
    arrays = under(prefix, arrays_of('vit', 'timm', width=16, depth=12))
    more = {f'{prefix}{"x" * 300}{i}': np.ones(1, np.float32) for i in range(99)}
    return source_of(arrays | more, path='some/folder/model.pth')


def test_an_error_is_no_longer_than_a_screen_and_counts_all():
    model = model_of(tiny('vit', depth=24))
    found, message = explain(wrong(), model), refusal(wrong(), model)
    assert len(message) < 1_700
    assert message.isprintable()
    assert "the nearest layout is 'timm' of timm, of " in message
    assert f'of whose 296 names it has {len(found.names)}, all under {"module."!r}' in message
    kinds = {'missing': found.missing, 'unexpected': found.unexpected}
    for kind, names in {**kinds, 'of another shape or dtype': found.mismatched}.items():
        (more,) = re.findall(rf'and (\d+) more {kind}', message)
        shown = len(names) - int(more)
        assert 1 <= shown <= 5
        assert all(name[:200] in message for name in names[:shown])
    assert 'bx.converters.explain and `blox explain` show all' in message


def test_few_problems_are_all_in_the_error():
    arrays = arrays_of('vit', 'timm')
    del arrays['norm.weight']
    message = refusal(source_of(arrays), model_of(tiny('vit')))
    assert message.endswith("'timm' of timm, of whose 32 names it has 31: norm.weight: missing")


@pytest.mark.parametrize('prefix', ['', 'student.', 'a/b/'])
def test_an_error_says_what_all_names_start_with(prefix):
    arrays = under(prefix, arrays_of('resnet', 'timm'))
    message = refusal(source_of(arrays), model_of(tiny('vit')))
    assert (f'all under {prefix!r}' in message) == bool(prefix)
