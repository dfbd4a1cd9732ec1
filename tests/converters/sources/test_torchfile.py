"""Files of torch.save, and others by their names."""

import argparse
import logging
import os
import pickle
import re
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

import blox as bx
from blox.converters import open_source


@pytest.fixture
def torch():
    return pytest.importorskip('torch')


def saved(torch, path, state, **how):
    torch.save(state, path, **how)
    return path


BOTH = pytest.mark.parametrize('zipped', [True, False])


@BOTH
@pytest.mark.parametrize('name', ['a.bin', 'a.pth', 'a.pt', 'a.ckpt', 'a.pth.tar'])
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
        'a state within that is none': (
            {'state_dict': {'w': w, 'epoch': 3}},
            ["in 'state_dict'", "'epoch': 'int'"],
        ),
        'states of other names': (
            {'generator': {'w': w}, 'critic': {'w': w}},
            ['state= takes one of generator, critic'],
        ),
        'states too deep': (
            {'model': {'model': {'model': {'model': {'model': {'w': w}}}}}},
            ["'model': 'dict'"],
        ),
        'an optimizer beside it': (
            {'w': w, 'optimizer': optimizer.state_dict()},
            ["'optimizer': 'dict'"],
        ),
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
    *('a state within that is none', 'states of other names', 'states too deep'),
    *('an optimizer beside it', 'a number'),
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


# Training checkpoints.


def trained(torch):
    """Checkpoints as training scripts write them, around weights of ones; averages are twos."""
    ones, twos = {'w': torch.ones(2)}, {'w': torch.full((2,), 2.0)}
    wrapped = {'module.w': torch.full((2,), 2.0)}
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(lr=0.1, model='deit', data=None, betas=(0.9, 0.999))
    common = {'epoch': 3, 'optimizer': optimizer.state_dict()}
    return {
        'timm': ('a.pth.tar', {**common, 'arch': 'x', 'state_dict': ones, 'version': 2, 'args': args,
                 'state_dict_ema': twos, 'metric': 76.1}, 'state_dict_ema'),
        'DeiT': ('a.pth', {**common, 'model': ones, 'model_ema': twos, 'args': args}, 'model_ema'),
        'torchvision': ('a.pth', {**common, 'model': ones, 'model_ema': wrapped | {
            'n_averaged': torch.tensor(7)}, 'lr_scheduler': {'last_epoch': 3}}, 'model_ema'),
        'ImageNet of torch': ('a.pth.tar', {**common, 'state_dict': ones,
                              'best_acc1': torch.tensor(76.1)}, ''),
        'Lightning': ('a.ckpt', {'pytorch-lightning_version': '2.5', 'global_step': 9,
                      'state_dict': ones, 'optimizer_states': [optimizer.state_dict()],
                      'hyper_parameters': {'lr': 0.1, 'names': ['a']}, 'callbacks': {},
                      'loops': {'fit_loop': {'state_dict': {}}}}, ''),
        'nanoGPT': ('ckpt.pt', {'model': ones, 'optimizer': optimizer.state_dict(),
                    'model_args': {'n_layer': 2}, 'iter_num': 7, 'config': {'lr': 0.1}}, ''),
        'twice within': ('a.pt', {'state_dict': {'model': ones, 'ema': twos}}, 'ema'),
        'an average alone': ('a.pth', {**common, 'state_dict_ema': ones}, 'state_dict_ema'),
        'parameters in a module dict': ('a.pth', {'net': ones, 'acc': 0.9, 'epoch': 1}, 'net'),
    }  # fmt: skip


SCRIPTS = (
    *('timm', 'DeiT', 'torchvision', 'ImageNet of torch', 'Lightning', 'nanoGPT', 'twice within'),
    *('an average alone', 'parameters in a module dict'),
)


@BOTH
@pytest.mark.parametrize('script', SCRIPTS)
def test_a_training_checkpoint_is_its_plain_weights(tmp_path, torch, caplog, script, zipped):
    name, content, _ = trained(torch)[script]
    path = saved(torch, tmp_path / name, content, _use_new_zipfile_serialization=zipped)
    with caplog.at_level(logging.INFO, 'blox'):
        found = read(path)
    assert found.keys() == {'w'}
    assert same(found['w'], np.ones(2, np.float32))
    assert str(path) in caplog.text
    taken = re.findall(r"took the weights in '(\w+)'; beside them: (.*)", caplog.text)
    said = ' '.join(beside for _, beside in taken)
    assert [entry for entry in content if f"'{entry}'" not in said] == [taken[0][0]]


@pytest.mark.parametrize(
    'script',
    [name for name in SCRIPTS if name not in ('an average alone', 'parameters in a module dict')],
)
def test_another_state_of_a_training_checkpoint_is_taken_by_its_name(tmp_path, torch, script):
    name, content, state = trained(torch)[script]
    path = saved(torch, tmp_path / name, content)
    if state:
        (value,) = (x.read() for n, x in open_source(path, state).tensors.items() if n[-1] == 'w')
        assert same(value, np.full(2, 2, np.float32))
    with pytest.raises(bx.CheckpointError, match=r"expected a state 'nothing'.* found the states"):
        open_source(path, 'nothing')


def test_the_first_of_several_plain_states_is_taken(tmp_path, torch):
    content = {
        name: {'w': torch.full((2,), i)} for i, name in enumerate(('net', 'model', 'state_dict'))
    }
    path = saved(torch, tmp_path / 'a.pth', content)
    assert read(path)['w'].tolist() == [2, 2]
    assert open_source(path, 'net').tensors['w'].read().tolist() == [0, 0]


def test_settings_by_the_name_of_a_state_are_no_state(tmp_path, torch):
    content = {'model': {'width': 8}, 'net': {'w': torch.ones(2)}, 'params': {}}
    assert read(saved(torch, tmp_path / 'a.pth', content)).keys() == {'w'}


def test_what_lies_beside_the_weights_is_kept_as_notes(tmp_path, torch):
    content = trained(torch)['nanoGPT'][1]
    path = saved(torch, tmp_path / 'ckpt.pt', content)
    notes = open_source(path).notes
    assert notes == {'model_args': {'n_layer': 2}, 'iter_num': 7, 'config': {'lr': 0.1}}


def test_a_number_of_numpys_in_a_checkpoint_is_named_with_what_to_do(tmp_path, torch):
    content = {'state_dict': {'w': torch.ones(2)}, 'best_acc1': np.float64(76.1)}
    message = refusal(saved(torch, tmp_path / 'a.pth.tar', content))
    assert 'found numpy' in message
    assert "torch.save(checkpoint['state_dict'], FILE)" in message


def test_an_object_in_a_checkpoints_arguments_runs_no_code(tmp_path, torch):
    args = argparse.Namespace(evil=Evil(tmp_path / 'ran'))
    content = {'model': {'w': torch.ones(2)}, 'args': args}
    assert 'system' in refusal(saved(torch, tmp_path / 'a.pth', content))
    assert not (tmp_path / 'ran').exists()


def test_a_checkpoint_that_holds_itself_is_read(tmp_path, torch):
    content = {'model': {'w': torch.ones(2)}, 'history': []}
    content['history'].append(content['history'])
    assert read(saved(torch, tmp_path / 'a.pth', content)).keys() == {'w'}


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


@pytest.mark.parametrize('record', [0, 1, 2])
def test_every_record_of_a_training_checkpoint_is_checked(tmp_path, torch, record):
    args = argparse.Namespace(mean=torch.ones(3))
    content = {
        'model': {'w': torch.arange(6.0)},
        'optimizer': {'state': [torch.ones(99)]},
        'args': args,
    }
    path = saved(torch, tmp_path / 'a.pth', content)
    assert read(path).keys() == {'w'}
    repacked(path, lambda name, data: data[:4] if name.endswith(f'data/{record}') else data)
    assert 'expected tensors of [12, 24, 396] bytes' in refusal(path)


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
