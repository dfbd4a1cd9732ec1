"""The laws of every table: each path has names of its own, and what goes out comes back."""

import pytest
from checkpoints import (
    SMALL,
    assert_same,
    check_permutation,
    every_layout,
    model_of,
    params_of,
    planned,
    source_of,
    spec_of,
)
from families import declared, family_of, tiny

from blox.converters import convert, explain, layouts
from blox.converters.exporting import external
from blox.converters.mapping.rules import respell
from blox.converters.mapping.transforms import IDENTITY


@every_layout
def test_every_path_has_names_of_its_own(name, layout):
    config = SMALL[name]
    entries = planned(config, layout)
    names = [theirs for entry in entries.values() for theirs in entry.names]
    assert set(entries) == set(spec_of(config))
    assert len(set(names)) == len(names) >= len(entries)
    assert all(len(entry.names) == len(entry.shapes) for entry in entries.values())


@every_layout
def test_transforms_are_permutations(name, layout):
    for entry in planned(SMALL[name], layout).values():
        if entry.via == IDENTITY:
            assert entry.shapes == (entry.shape,)
        else:
            check_permutation(entry.via, entry.shape, entry.shapes)


@every_layout
def test_names_that_a_library_saves_are_read_as_its_own(name, layout):
    config = SMALL[name]
    table = layouts(family_of(config).name)[layout]
    for entry in planned(config, layout).values():
        for theirs in entry.names:
            saved = respell(theirs, table.published(config))
            assert respell(saved, table.spellings) == theirs
            assert table.is_head(theirs) or not table.ignores(theirs)


@every_layout
def test_params_go_out_and_come_back(name, layout):
    config = SMALL[name]
    params, model = params_of(config), model_of(config)
    source = source_of(external(model, params, layout))
    found = explain(source, model)
    assert (found.layout, found.problems, found.ok) == (layout, [], True)
    assert {*found.names.values(), *found.ignored} == set(source.tensors)
    assert_same(convert(source, model), params)


PREFIXES = {name: said.prefix for name, said in declared().items() if said.prefix}


@pytest.mark.parametrize(('family', 'prefix'), PREFIXES.items())
def test_a_prefix_changes_nothing(family, prefix):
    params, model = params_of(tiny(family)), model_of(tiny(family))
    bare = {n.removeprefix(prefix): x for n, x in external(model, params, 'hf').items()}
    own = {n if n.startswith(('classifier', 'lm_head')) else prefix + n: x for n, x in bare.items()}
    assert set(bare) != set(own)
    assert_same(convert(source_of(bare), model), params)
    assert_same(convert(source_of(own), model), params)
