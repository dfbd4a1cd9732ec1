"""The comparison with other libraries: its small rows run with ours alone, and its table tells the truth."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import blox as bx

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _as_a_script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))


@pytest.fixture
def models():
    import models

    return models


def printed(*words):
    """What the script prints of small models, without JAX's strict modes, as users run it."""
    command = [sys.executable, str(ROOT / 'benchmarks' / 'models.py'), '--small', *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


def result(models, seconds, sizes=(), **found):
    entry = models.Entry('blox', 'blox', 'forward', 'vit', dict(sizes))
    turns = [[x] for x in seconds]
    return models.Result(entry, turns, {'first': 1.0, 'peak': 5e6, 'parameters': 10, **found})


def test_a_row_of_processes_that_take_turns_is_printed_as_a_table():
    text = printed('--rows', 'by-hand-vit', '--rounds', '2')
    ours, by_hand = [cells(line) for line in text.splitlines() if line.startswith('| ViT')]
    assert ours[:2] == ['ViT-B/16 forward, 4 images', 'blox']
    assert float(ours[2]) >= 0
    assert float(by_hand[4]) > 0
    # What stands between them is no operation.
    assert ours[-1] == by_hand[-1] != ''


def test_a_library_that_does_not_import_leaves_its_cells_empty(models, monkeypatch):
    monkeypatch.setitem(models.LIBRARIES, 'torch', 'no_such_library')
    row = models.ROWS['vit-b16']
    row = row._replace(entries=[entry for entry in row.entries if entry.library == 'torch'])
    (found,) = models.measure(row, 1, {}, True)
    assert set(models.lines(row, [found])[0][2:]) == {''}
    assert 'does not import: ModuleNotFoundError: No module named' in models.notes(row, [found])[0]


def test_ratios_are_of_turns_in_the_same_round(models):
    results = [result(models, [1.0, 4.0, 3.0]), result(models, [2.0, 2.0, 1.0])]
    _, line = models.lines(models.Row('work', []), results)
    assert line[2:6] == ['2000.0', '1000.0-2000.0', '2.00', '0.50-3.00']


def test_notes_say_who_has_other_weights_and_what_disturbed_the_measurement(models):
    disturbed = {'spun': [0.0, 0.5], 'others': [0.3, 0.2, 0.25]}
    results = [result(models, [1.0]), result(models, [1.0], parameters=12, **disturbed)]
    said = models.notes(models.Row('work', []), results)
    assert [note.partition(': ')[2] for note in said] == [
        '12 weights, the first has 10',
        'computed in 50 % of its wait',
        'NOISE, other processes took 25 % of the cores',
    ]


def test_growth_is_measured_against_sizes_that_differ_in_one_thing(models):
    for name in ('growth-batch', 'growth-length', 'growth-depth'):
        key = name.partition('-')[2]
        sizes = [entry.sizes for entry in models.ROWS[name].entries]
        least = sizes[-1][key]
        assert [each[key] // least for each in sizes] == [4, 2, 1]
        assert len({str({**each, key: 0}) for each in sizes}) == 1


@pytest.mark.parametrize('work', ['sampled', 'step', 'frozen', 'adapters', 'init', 'compile'])
def test_works_of_this_library_run_small(models, work):
    from programs import blox

    kind = 'gpt2' if work == 'sampled' else 'vit'
    sizes = {'gpt2': {**models.GPT2, 'length': 16, 'new': 2}, 'vit': models.VIT_S}[kind]
    with jax.numpy_rank_promotion('allow'), jax.numpy_dtype_promotion('standard'):
        program = blox.build(work, kind, models.small(kind, {**sizes, 'batch': 1}))
        program.call()
    assert program.parameters > 0


@pytest.mark.parametrize('kind', ['vit', 'gpt2'])
def test_what_is_written_by_hand_computes_what_the_model_does(models, kind, x64):
    from programs import blox, by_hand
    from programs.shared import inputs

    sizes = models.small(kind, {'vit': models.VIT_B, 'gpt2': models.GPT2}[kind])
    sizes |= {'batch': 2, 'length': 8}
    net, x = blox.create(kind, sizes), jnp.asarray(inputs(kind, sizes))
    params = bx.zoo.init(net).cast(jnp.float64)
    # Heads and biases start at zero, where a fault would not show.
    rng = np.random.default_rng(0)
    weights, rest = params.split_trainable()
    weights = jax.tree.map(lambda w: w + 0.1 * rng.standard_normal(w.shape), weights)
    params = weights.merge(rest)
    x = x if kind == 'gpt2' else x.astype(jnp.float64)
    with jax.numpy_rank_promotion('allow'):
        expected = getattr(by_hand, kind)(as_dict(params, kind), x, sizes['heads'])
    np.testing.assert_allclose(net(params, x)[0], expected, rtol=1e-10, atol=1e-10)


def as_dict(params, kind):
    """Our Params in the nested dicts of what is written by hand."""
    nested = {}
    for path, param in params.items():
        *names, last = [name for name in path.split('/') if name not in (kind, 'mlp')]
        at = nested
        for name in names:
            at = at.setdefault(name, {})
        at[last] = param.value
    nested['blocks'] = [nested[f'block{i}'] for i in range(len(nested)) if f'block{i}' in nested]
    if kind == 'gpt2':
        nested |= {name: nested[name]['w'] for name in ('token_embed', 'pos_embed')}
    return nested
