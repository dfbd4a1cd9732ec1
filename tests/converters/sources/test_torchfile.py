"""Files of torch.save, and others by their names."""

import os
import pickle
import struct
import sys
import warnings
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from containers import (
    HTML,
    LFS,
    MAP,
    B,
    W,
    index,
    npy,
    one,
    read,
    refusal,
    safetensors,
    same,
    zipped,
)

from blox.converters import open_source


@pytest.fixture
def torch():
    return pytest.importorskip('torch')


def saved(torch, path, state, **how):
    torch.save(state, path, **how)
    return path


BOTH = pytest.mark.parametrize('zipped', [True, False])


@BOTH
@pytest.mark.parametrize('name', ['a.bin', 'a.pth', 'a.pt'])
def test_a_state_dict_comes_back(tmp_path, torch, name, zipped):
    state = {'w': torch.from_numpy(W), 'n': torch.tensor(3), 'on': torch.tensor([True, False])}
    state |= {'none': torch.zeros(0, 2), 'half': torch.ones(2).half(), 'i': torch.arange(3).char()}
    saved(torch, tmp_path / name, state, _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / name)
    assert found.keys() == state.keys()
    assert all(same(found[name], tensor.numpy()) for name, tensor in state.items())


@BOTH
def test_views_of_one_storage_come_back(tmp_path, torch, zipped):
    base = torch.arange(12.0).reshape(3, 4)
    state = {'base': base, 'tied': base, 'turned': base.T, 'part': base[1:, ::2]}
    saved(torch, tmp_path / 'a.pth', state, _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / 'a.pth')
    assert all(same(found[name], tensor.numpy()) for name, tensor in state.items())


@pytest.mark.parametrize('shape', [(), (2, 3), (0,)])
def test_bfloat16_comes_back(tmp_path, torch, shape):
    tensor = torch.full(shape, 1.5, dtype=torch.bfloat16)
    path = saved(torch, tmp_path / 'a.pth', {'w': tensor, 't': tensor.reshape(-1)[::2]})
    assert same(read(path)['w'], np.full(shape, 1.5, jnp.bfloat16))


def test_parameters_and_lazily_negated_tensors_come_back(tmp_path, torch):
    tensor = torch.from_numpy(W)
    state = {'w': torch.nn.Parameter(tensor), 'neg': torch._neg_view(tensor)}
    state['half'] = torch._neg_view(tensor.bfloat16())
    found = read(saved(torch, tmp_path / 'a.pth', state))
    assert same(found['w'], W)
    assert same(found['neg'], -W)
    assert same(found['half'], -W.astype(jnp.bfloat16))


def test_pickles_of_another_protocol_come_back_without_a_warning(tmp_path, torch):
    path = saved(torch, tmp_path / 'a.pth', {'w': torch.from_numpy(W)}, pickle_protocol=3)
    assert same(read(path)['w'], W)


class Evil:
    """Writes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


@BOTH
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, torch, zipped):
    state = {'w': torch.zeros(2), 'evil': Evil(tmp_path / 'ran')}
    path = saved(torch, tmp_path / 'a.bin', state, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert 'restricted loader' in message
    assert 'system' in message
    assert 'weights_only' not in message
    assert not (tmp_path / 'ran').exists()


def test_no_setting_of_torch_makes_it_run_code(tmp_path, torch, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    path = saved(torch, tmp_path / 'a.bin', {'evil': Evil(tmp_path / 'ran')})
    assert 'restricted loader' in refusal(path)
    assert not (tmp_path / 'ran').exists()


def test_a_plain_pickle_that_would_run_code_is_refused_and_runs_none(tmp_path, torch):
    (tmp_path / 'a.bin').write_bytes(pickle.dumps({'evil': Evil(tmp_path / 'ran')}))
    assert 'restricted loader' in refusal(tmp_path / 'a.bin')
    assert not (tmp_path / 'ran').exists()


def nested(torch):
    w = torch.zeros(2)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters())
    return {
        'a state_dict within': ({'state_dict': {'w': w}, 'epoch': 3}, ["'state_dict': 'dict'"]),
        'an optimizer beside it': (
            {'w': w, 'optimizer': optimizer.state_dict()},
            ["'optimizer': 'dict'"],
        ),
        'an average beside it': ({'model': {'w': w}, 'ema': {'w': w}}, ["'ema': 'dict'"]),
        'a number': ({'w': w, 'epoch': 3}, ["'epoch': 'int'"]),
        'a list of tensors': ({'w': [w]}, ["'w': 'list'"]),
        'a list': ([w], ['found list']),
        'a tensor': (w, ['found Tensor']),
        'nothing': ({}, ['found dict without any']),
        'null': (None, ['found NoneType']),
        'numbers for names': ({0: w}, ["<class 'int'>: 'Tensor'"]),
        'endless names': ({'\x1b' * 10**6: 1}, [r"{'\x1b"]),
        'a whole model': (model, ['Linear']),
        'an empty name': ({'': w}, ["tensor ''", 'printable name']),
        'a name that climbs': ({'../w': w}, ["'../w'", '".." segments']),
        'ANSI in a name': ({'\x1b[2J': w}, [r"'\x1b[2J'", 'printable name']),
        'a sparse tensor': ({'w': torch.eye(2).to_sparse()}, ["tensor 'w'", 'Sparse']),
        'a tensor without data': ({'w': torch.zeros(2, device='meta')}, ["tensor 'w'", 'meta']),
        'an unknown dtype': ({'w': w.to(torch.float8_e4m3fn)}, ["tensor 'w'", 'Float8_e4m3fn']),
    }


CASES = [
    *('a state_dict within', 'an optimizer beside it', 'an average beside it', 'a number'),
    *('a list of tensors', 'a list', 'a tensor', 'nothing', 'null', 'numbers for names'),
    *('endless names', 'a whole model', 'an empty name', 'a name that climbs', 'ANSI in a name'),
    *('a sparse tensor', 'a tensor without data', 'an unknown dtype'),
]


@pytest.mark.parametrize('case', CASES)
def test_what_is_no_state_dict_is_refused(tmp_path, torch, case):
    state, expected = nested(torch)[case]
    message = refusal(saved(torch, tmp_path / 'a.pth', state))
    assert message.startswith(repr(str(tmp_path / 'a.pth')))
    assert [part for part in expected if part not in message] == []


def test_a_nested_state_dict_is_refused_with_what_to_do(tmp_path, torch):
    path = saved(torch, tmp_path / 'a.pth', {'state_dict': {'w': torch.zeros(2)}})
    assert 'save that part alone, in a file of its own' in refusal(path)


@pytest.mark.filterwarnings('ignore')  # torch's own, on writing
@pytest.mark.parametrize('kind', ['quantized', 'script', 'compressed rows'])
def test_what_torch_warns_about_is_refused_without_a_warning(tmp_path, torch, kind):
    path = tmp_path / 'a.pth'
    if kind == 'script':
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)
    else:
        w = torch.eye(2)
        quantized = torch.quantize_per_tensor(w, 1.0, 0, torch.qint8)
        torch.save({'w': quantized if kind == 'quantized' else w.to_sparse_csr()}, path)
    with warnings.catch_warnings(action='error'):
        message = refusal(path)
    assert 'expected' in message
    assert 'False' not in message


def repacked(path, change=lambda name, content: content, **how):
    """The torch file with each record changed, or compressed."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, 'w', **how) as new:
        for name, content in records.items():
            new.writestr(name, change(name, content))


def cut(name, content):
    return content[:4] if name.endswith('data/0') else content


def longer(name, content):
    return content + bytes(4) if name.endswith('data/0') else content


def none_at_all(name, content):
    return b'' if name.endswith('data/0') else content


@pytest.mark.parametrize('change', [cut, longer, none_at_all])
def test_a_record_of_another_size_is_refused(tmp_path, torch, change):
    path = saved(torch, tmp_path / 'a.pth', {'w': torch.arange(6.0), 'b': torch.ones(99)})
    repacked(path, change)
    message = refusal(path)
    assert 'expected tensors of [24, 396] bytes' in message


def test_compressed_records_are_refused(tmp_path, torch):
    path = saved(torch, tmp_path / 'a.pth', {'w': torch.arange(6.0)})
    repacked(path, compression=zipfile.ZIP_DEFLATED)
    assert 'without compression' in refusal(path)


def test_a_claim_of_a_huge_tensor_is_refused(tmp_path, torch):
    path = saved(torch, tmp_path / 'a.pth', {'w': torch.arange(6.0)})
    huge = b'\x8a\x08' + struct.pack('<q', 2**60)
    repacked(path, lambda name, content: content.replace(b'K\x06', huge))
    assert 'restricted loader' in refusal(path) or 'bytes, found' in refusal(path)


@BOTH
@pytest.mark.parametrize('part', [0.1, 0.5, 0.9, 0.99])
def test_a_torch_file_cut_short_is_refused(tmp_path, torch, zipped, part):
    path = tmp_path / 'a.pth'
    saved(torch, path, {'w': torch.arange(99.0)}, _use_new_zipfile_serialization=zipped)
    os.truncate(path, int(path.stat().st_size * part))
    assert 'restricted loader' in refusal(path)


OTHERS = {
    'an empty file': (b'', ["found b''"]),
    'an LFS pointer': (LFS, ['Git-LFS pointer', 'git lfs pull']),
    'an HTML page': (HTML, ['HTML']),
    'JSON': (b'{"error": "not found"}', ['JSON text']),
    'gzip': (b'\x1f\x8b\x08' + bytes(20), ['gzip']),
    'a .npy': (npy(W), ['.npy']),
    'ANSI': (b'\x1b[2J', [r'\x1b[2J']),
}


@pytest.mark.parametrize('case', OTHERS)
def test_another_file_by_a_torch_files_name_is_refused_whether_torch_is_there_or_not(
    tmp_path, monkeypatch, case
):
    monkeypatch.setitem(sys.modules, 'torch', None)
    content, expected = OTHERS[case]
    (tmp_path / 'pytorch_model.bin').write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(repr(str(tmp_path / 'pytorch_model.bin')))
    assert [part for part in ['expected a torch file', *expected] if part not in message] == []


def test_safetensors_by_a_torch_files_name_are_refused(tmp_path):
    safetensors(tmp_path / 'a.bin', w=W)
    assert 'expected a torch file, found a safetensors file' in refusal(tmp_path / 'a.bin')


def test_a_zip_archive_that_is_no_torch_file_is_refused(tmp_path, torch):
    (tmp_path / 'a.pth').write_bytes(one(npy(W)))
    assert 'restricted loader' in refusal(tmp_path / 'a.pth')


def test_a_torch_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / 'a.pth').write_bytes(zipped(**{'a/data.pkl': b''}))
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(ImportError, match=r'a\.pth.*pip install torch'):
        open_source(tmp_path / 'a.pth')


def test_shards_of_torch_are_one_source(tmp_path, torch):
    names = {name: name_.replace('.safetensors', '.bin') for name, name_ in MAP.items()}
    saved(torch, tmp_path / names['w'], {'w': torch.from_numpy(W)})
    saved(torch, tmp_path / names['b'], {'b': torch.from_numpy(B)})
    index(tmp_path, names, 'pytorch_model.bin.index.json', metadata={'total_size': 99})
    assert same(read(tmp_path)['w'], W)
