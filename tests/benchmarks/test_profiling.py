"""What a program's time goes to: operations of a compiled program, and their durations."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[2]
HERE = f'benchmarks/{Path(__file__).name}'


@pytest.fixture
def profiling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import profiling

    return profiling


@pytest.fixture
def program():
    """A product between a sine and a sum, its compiled form, and its input."""
    run = jax.jit(lambda x: (jnp.sin(x) @ x).sum())
    x = jnp.ones((64, 64))
    return run, run.lower(x).compile(), x


def test_an_operation_has_the_primitive_and_the_line_that_asked_for_it(profiling, program):
    found = profiling.operations(program[1].as_text()).values()
    assert 'dot_general' in {each.primitive for each in found}
    assert {each.source.rpartition(':')[0] for each in found if each.source} == {HERE}


def test_operations_that_are_traced_are_known(profiling, program):
    run, compiled, x = program
    known = profiling.operations(compiled.as_text())
    seconds = profiling.durations(lambda: jax.block_until_ready(run(x)), 2)
    assert seconds
    assert set(seconds) <= set(known)
    assert min(seconds.values()) > 0


def test_what_is_alike_is_summed_and_what_holds_others_left_out(profiling):
    product = profiling.Operation('dot', 'dot_general', 'a.py:1')
    known = {'dot.1': product, 'dot.2': product, 'while.3': profiling.Operation('while')}
    seconds = {'dot.1': 2.0, 'dot.2': 1.0, 'while.3': 9.0, 'add_fusion.7': 4.0}
    assert profiling.by_kind(seconds, known) == [
        (profiling.Operation('add_fusion'), 1, 4.0),
        (product, 2, 3.0),
    ]


def test_a_row_is_profiled_small(profiling, capsys):
    with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
        profiling.main(['vit-b16', '--small', '--calls', '1', '--top', '3'])
    text = capsys.readouterr().out
    assert 'ViT-B/16 forward, 4 images:' in text
    assert len([line for line in text.splitlines() if line.startswith('|')]) == 5
