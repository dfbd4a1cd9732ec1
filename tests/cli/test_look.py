"""The commands of `blox` that look inside: show and diff."""

import dataclasses
import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from commands import blox, byte_tokenizer, fails, printed
from helpers import table, unpacked

import blox as bx

SIZES = {'width': 16, 'depth': 3, 'heads': 2, 'mlp_dim': 16, 'vocab_size': 257, 'context': 8}


@pytest.fixture(scope='module')
def digits():
    return bx.zoo.load('vit-digits')


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    """A text model's file, whose card says what can be said."""
    model = bx.zoo.create('gpt2', **SIZES)
    known = {'source': 'org/writer', 'commit': '0' * 40, 'sha256': {'a.bin': 'f' * 64}}
    more = {'tokenizer': byte_tokenizer().to_str(), 'changes': ('x <b>1</b>',)}
    card = dataclasses.replace(bx.zoo.card('gpt2'), **known, **more)
    path = tmp_path_factory.mktemp('models') / 'writer.safetensors'
    bx.zoo.save(path, model, bx.zoo.init(model), card=card)
    return path


# show


def test_show_prints_the_parts_of_a_file(writer):
    lines = printed('show', writer).splitlines()
    assert lines[0].startswith('gpt2: GPT2 # Param: ')
    assert '      scale=Param[T](float32[16]),' in lines
    assert '  block1..block2=like block0,' in lines


def test_show_prints_a_name_without_its_weights():
    lines = printed('show', 'vit-b32').splitlines()
    assert lines[0] == 'vit: ViT # Param: 88,224,232 (336.5 MB)('
    assert '  block1..block11=like block0,' in lines
    assert len(lines) < 100


def test_show_writes_a_page_with_provenance(writer, tmp_path):
    out = tmp_path / 'page.html'
    line = printed('show', writer, '--html', out)
    assert re.fullmatch(rf'{out}: \d+\.\d KB, [\d,]+ parameters\n', line)
    page, fields = out.read_text('utf-8'), bx.zoo.read_card(writer).fields()
    assert '<title>gpt2</title>' in page
    for name in ('source', 'commit', 'license', 'layout', 'paper'):
        assert f'<th>{name}</th><td>{fields[name]}</td>' in page
    assert f'<th>sha256</th><td>a.bin {"f" * 64}</td>' in page
    assert '<th>changes</th><td>x &lt;b&gt;1&lt;/b&gt;</td>' in page
    assert '<th>tokenizer</th><td>included</td>' in page
    assert 'mean 1  std 0  min 1  max 1  zeros 0 %' in unpacked(page)


def test_show_writes_a_page_of_an_architecture(tmp_path):
    printed('show', 'vit-b32', '--html', tmp_path / 'page.html')
    page = (tmp_path / 'page.html').read_text('utf-8')
    assert '<th>parameters</th><td>88,224,232</td>' in page
    assert 'finite:' not in page
    assert 'statistics' not in unpacked(page)


def test_show_replaces_no_file(tmp_path):
    (tmp_path / 'a.html').write_text('mine')
    assert 'is there already' in fails('show', 'vit-digits', '--html', tmp_path / 'a.html')
    assert (tmp_path / 'a.html').read_text() == 'mine'


def test_show_needs_the_weights_of_a_published_model_for_a_page(tmp_path):
    assert 'load once with a network' in fails('show', 'vit-b16', '--html', tmp_path / 'a.html')
    assert list(tmp_path.iterdir()) == []


# diff


def finetuned(path, digits, change=lambda params: params, **card):
    """A file of vit-digits with other weights, or another card."""
    model, params = digits
    known = dataclasses.replace(bx.zoo.card('vit-digits'), **card)
    bx.zoo.save(path, model, change(params), card=known)
    return path


def differing(*args):
    """What `blox diff` prints of models that are not the same."""
    result = blox('diff', *args)
    assert (result.exit_code, result.stderr) == (1, '')
    return result.stdout


def scaled(params, factors):
    for path, factor in factors.items():
        params = params.set(path, params[path].value * jnp.float32(factor))
    return params


def test_diff_of_the_same_weights(digits, tmp_path):
    file = finetuned(tmp_path / 'a.safetensors', digits, bx.Params.freeze, training='more')
    text = printed('diff', 'vit-digits', file)
    assert text.endswith('parameters: 0 differ, 80 are the same\n')
    assert json.loads(printed('diff', 'vit-digits', file, '--json'))['same'] is True


def test_diff_counts_one_parameter_in_the_singular(digits, tmp_path):
    file = finetuned(
        tmp_path / 'a.safetensors', digits, lambda params: scaled(params, {'vit/head/w': 3})
    )
    assert differing('vit-digits', file).endswith('parameters: 1 differs, 79 are the same\n')


def test_diff_of_an_export_and_of_what_it_was_made_from(writer, tmp_path):
    printed('export', writer, tmp_path / 'hf')
    assert 'parameters: 0 differ' in printed('diff', writer, tmp_path / 'hf')


def test_diff_prints_relative_norms_by_path(digits, tmp_path):
    change = {'vit/norm/scale': 1.5, 'vit/head/w': 3}
    file = finetuned(tmp_path / 'a.safetensors', digits, lambda params: scaled(params, change))
    away = float(2 * abs(np.asarray(digits[1]['vit/head/w'].value)).max())
    lines = differing('vit-digits', file).splitlines()
    assert lines[-3].split() == ['vit/head/w', '2.0e+00', f'{away:.1e}', '<-', 'largest']
    assert lines[-2].split()[:2] == ['vit/norm/scale', '5.0e-01']
    assert lines[-1] == 'parameters: 2 differ, 78 are the same'


def test_diff_prints_the_largest_changes_alone(digits, tmp_path):
    change = {'vit/head/w': 1.1, 'vit/norm/scale': 1.5, 'vit/pos_embed': 2}
    file = finetuned(tmp_path / 'a.safetensors', digits, lambda params: scaled(params, change))
    lines = differing('vit-digits', file, '--top', 2).splitlines()
    assert [line.split()[0] for line in lines[-3:-1]] == ['vit/pos_embed', 'vit/norm/scale']
    assert lines[-1] == 'parameters: 3 differ, 77 are the same'


def test_diff_tells_other_heads_configs_and_labels(tmp_path):
    model, params = bx.zoo.load('vit-digits', num_classes=3)
    card = dataclasses.replace(bx.zoo.read_card('vit-digits', num_classes=3), labels=tuple('abc'))
    bx.zoo.save(tmp_path / 'a.safetensors', model, params, card=card)
    text = differing('vit-digits', tmp_path / 'a.safetensors')
    assert 'config num_classes: 10 -> 3\nlabels: not the same\n' in text
    assert 'vit/head/w  shape: float32[96,10] -> float32[96,3]\n' in text
    found = json.loads(differing('vit-digits', tmp_path / 'a.safetensors', '--json'))
    assert found['config'] == {'num_classes': [10, 3]}
    assert found['uses'] == ['labels']
    assert [row['kind'] for row in found['changes']] == ['shape', 'shape']


def test_diff_tells_labels_alone(digits, tmp_path):
    file = finetuned(tmp_path / 'a.safetensors', digits, labels=tuple('abcdefghij'))
    assert 'labels: not the same\nparameters: 0 differ' in differing('vit-digits', file)


def test_diff_of_different_families():
    text = differing('vit-digits', 'resnet-digits')
    assert text.splitlines() == [
        'a: vit-digits (vit)',
        'b: resnet-digits (resnet)',
        'models of different families: nothing to compare',
    ]


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['vit-digits', 'vit-digit'], 'nearest: vit-digits'),
        (['vit-b32', 'vit-digits'], 'is an architecture without weights'),
        (['vit-digits', 'no.safetensors'], 'no.safetensors'),
        (['vit-digits'], "Missing argument 'OTHER'"),
        (['vit-digits', 'vit-digits', '--top', '0'], "'--top': 0"),
    ],
)
def test_diff_exits_with_two_in_trouble(args, message):
    result = blox('diff', *args)
    assert (result.exit_code, result.stdout) == (2, '')
    (line,) = result.stderr.splitlines()
    assert message in line


# bx.zoo.diff


def params(**values):
    return bx.Params.from_entries({name: jnp.asarray(x) for name, x in values.items()})


INF, NAN = math.inf, math.nan
CHANGES = {
    'equal': ([1.0, 2.0], [1.0, 2.0], None),
    'equal NaN and Inf': ([NAN, INF, -0.0], [NAN, INF, 0.0], None),
    'value': ([3.0, 4.0], [3.0, 4.5], ('value', 0.1, 0.5, 0)),
    'of zeros': ([0.0, 0.0], [0.0, 2.0], ('value', INF, 2.0, 0)),
    'to NaN': ([3.0, 4.0], [3.0, NAN], ('value', 0.0, 0.0, 1)),
    'from Inf': ([3.0, INF, NAN], [6.0, -INF, 1.0], ('value', 1.0, 3.0, 2)),
    'shape': ([1.0], [[1.0]], ('shape', None, None, 0)),
    'dtype': ([1.0], jnp.ones(1, jnp.bfloat16), ('dtype', 0.0, 0.0, 0)),
    'empty': (np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), None),
    'tiny': ([4e-30], [6e-30], ('value', 0.5, 2e-30, 0)),
    'removed': ([1.0], None, ('only in a', None, None, 0)),
    'added': (None, [1.0], ('only in b', None, None, 0)),
}


@table(CHANGES)
def test_a_change_is_told_by_kind_and_norms(row):
    a, b, expected = row
    first, second = (params(**({} if x is None else {'w': x})) for x in (a, b))
    found = bx.zoo.diff(first, second)
    if expected is None:
        assert (found.same, found.changes, found.identical) == (True, (), 1)
        return
    (change,) = found.changes
    kind, relative, largest, nonfinite = expected
    assert (change.kind, change.nonfinite) == (kind, nonfinite)
    assert change.relative == (relative and pytest.approx(relative, rel=1e-6))
    assert change.largest == (largest and pytest.approx(largest, rel=1e-6, abs=0))
    assert not found.same
    json.dumps(found.fields(), allow_nan=False)


def test_norms_are_over_all_pieces_in_float64():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200_000)).astype(np.float32)
    (change,) = bx.zoo.diff(params(w=a), params(w=b)).changes
    away = b.astype(float) - a
    assert change.relative == pytest.approx(
        np.linalg.norm(away) / np.linalg.norm(a.astype(float)), rel=1e-12
    )
    assert change.largest == abs(away).max()


def test_changes_are_in_the_order_of_paths_and_the_rng_is_none():
    a = bx.Params.from_entries({f'net/block{i}/w': jnp.ones(1) for i in (0, 2, 10)})
    b = bx.Params.from_entries({f'net/block{i}/w': jnp.zeros(1) for i in (1, 2, 10)})
    found = bx.zoo.diff(a.merge(bx.Params(0)), b.merge(bx.Params(1)))
    assert [change.path for change in found.changes] == [f'net/block{i}/w' for i in (0, 1, 2, 10)]


def test_a_spec_has_nothing_to_compare():
    spec = bx.spec(bx.Linear(bx.Graph('head'), 3), jnp.ones((1, 2)))
    with pytest.raises(TypeError, match='no values to compare'):
        bx.zoo.diff(spec, spec)
