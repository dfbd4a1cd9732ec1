"""Folders and files as one checkpoint."""

import gc
import os

import numpy as np
import pytest
from containers import HTML, LFS, W, read, refusal, safetensors, same

import blox as bx
from blox.converters import open_source
from blox.converters.sources.source import Source


def test_a_folder_is_its_config_and_its_weights(tmp_path):
    safetensors(tmp_path / 'model.safetensors', w=W)
    (tmp_path / 'config.json').write_text('{"model_type": "vit"}')
    source = open_source(tmp_path)
    assert source.config == {'model_type': 'vit'}
    assert same(source.tensors['w'].read(), W)


@pytest.mark.parametrize('name', ['weights.safetensors', 'B_16.npz'])
def test_a_folder_may_have_one_file_of_weights_by_any_name(tmp_path, name):
    safetensors(tmp_path / name, w=W) if 'safe' in name else np.savez(tmp_path / name, w=W)
    assert same(read(tmp_path)['w'], W)


def test_safetensors_win_over_torchs_files(tmp_path):
    (tmp_path / 'pytorch_model.bin').write_bytes(b'not looked at')
    safetensors(tmp_path / 'model.safetensors', w=W)
    assert same(read(tmp_path)['w'], W)


FOLDERS = {
    'nothing': ({}, ['model.safetensors', 'found none of them']),
    'a config alone': ({'config.json': b'{}'}, ['found none of them']),
    'two candidates': ({'a.npz': b'', 'b.safetensors': b''}, ['found a.npz, b.safetensors']),
    'ANSI in a name': ({'\x1b[2J.npz': b'', 'b.npz': b''}, [r'found \x1b[2J.npz']),
    'a file and an index': (
        {'model.safetensors': b'', 'model.safetensors.index.json': b''},
        ['either one file of weights or an index', 'model.safetensors.index.json'],
    ),
    'a torch file and an index': (
        {'pytorch_model.bin': b'', 'pytorch_model.bin.index.json': b''},
        ['either one file of weights or an index', 'pytorch_model.bin'],
    ),
    'weights that are an LFS pointer': ({'model.safetensors': LFS}, ['Git-LFS pointer']),
}


@pytest.mark.parametrize('case', FOLDERS)
def test_a_folder_without_clear_weights_is_refused(tmp_path, case):
    files, expected = FOLDERS[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path)
    assert [part for part in expected if part not in message] == []


JSONS = {
    'empty': (b'', ['expected JSON']),
    'cut short': (b'{"model_type": ', ['expected JSON']),
    'not UTF-8': (b'{"model_type": "\xff"}', ['UTF-8', 'byte 16']),
    'a byte order mark': ('\ufeff{}'.encode(), ['expected JSON']),
    'text': (b'"vit"', ['expected a JSON object', 'found str']),
    'a list': (b'[{}]', ['expected a JSON object', 'found a list']),
    'a list that goes on as an object': (b'[{}], "model_type": [1]', ['expected a JSON object']),
    'a key that comes twice': (b'{"a": 1, "a": 2}', ["key 'a'", 'twice']),
    'NaN': (b'{"eps": NaN}', ['NaN is not JSON']),
    'nesting that recurses': (b'[' * 100_000, ['nested too deeply']),
    'huge': (b' ' * (16 * 2**20 + 1), ['at most 16777216 bytes']),
    'ANSI': (b'{"a": 1, "\\u001b[2J": 1, "\\u001b[2J": 1}', [r'\x1b[2J']),
    'an HTML page': (HTML, ['expected JSON']),
}


@pytest.mark.parametrize('case', JSONS)
def test_a_malformed_config_is_refused(tmp_path, case):
    content, expected = JSONS[case]
    safetensors(tmp_path / 'model.safetensors', w=W)
    (tmp_path / 'config.json').write_bytes(content)
    message = refusal(tmp_path)
    assert message.startswith(repr(str(tmp_path / 'config.json')))
    assert [part for part in expected if part not in message] == []


NAMES = ['config.json', 'model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin']


@pytest.mark.parametrize('make', [os.mkdir, os.mkfifo])
@pytest.mark.parametrize('name', [*NAMES, 'a.npz', 'a.pth'])
def test_a_folder_or_pipe_in_place_of_a_file_is_refused_and_not_passed_over(tmp_path, name, make):
    if name == 'config.json':
        safetensors(tmp_path / 'model.safetensors', w=W)
    make(tmp_path / name)
    message = refusal(tmp_path)
    assert message.startswith(repr(str(tmp_path / name)))
    assert 'regular file' in message


@pytest.mark.parametrize('name', NAMES)
def test_a_dangling_link_is_an_os_error_and_not_passed_over(tmp_path, name):
    safetensors(tmp_path / 'other.safetensors', w=W)
    (tmp_path / name).symlink_to('nowhere')
    with pytest.raises(FileNotFoundError, match=name):
        open_source(tmp_path)


@pytest.mark.parametrize('name', ['a.safetensors', 'a.npz', 'a.bin', 'a.index.json'])
def test_a_file_that_is_not_there_is_an_os_error_that_names_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        open_source(tmp_path / name)


@pytest.mark.parametrize('name', ['../a.json', '/etc/a.json', 'a\0b', 'loop', 'out/a.json'])
def test_a_sources_json_is_not_read_from_outside_its_folder(tmp_path, name):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'a.json').write_text('{}')
    (tmp_path / 'model' / 'loop').symlink_to('loop')
    (tmp_path / 'model' / 'out').symlink_to('..')
    with pytest.raises((bx.CheckpointError, OSError), match=r'expected|loop|symbolic'):
        Source(tmp_path / 'model', {}).read_json(name)


def made(folder, kind, values):
    path = folder / f'a.{kind}'
    if kind == 'safetensors':
        return safetensors(path, w=values)
    (np.savez if kind == 'npz' else np.savez_compressed)(path.with_suffix('.npz'), w=values)
    return path.with_suffix('.npz')


KINDS = pytest.mark.parametrize('kind', ['safetensors', 'npz', 'compressed.npz'])


@KINDS
@pytest.mark.parametrize('fate', ['removed', 'replaced'])
def test_a_file_removed_or_replaced_after_it_was_opened_is_still_read(tmp_path, kind, fate):
    path = made(tmp_path, kind, W)
    tensor = open_source(path).tensors['w']
    path.unlink()
    if fate == 'replaced':
        made(tmp_path, kind, W + 1)
    assert same(tensor.read(), W)


@pytest.mark.parametrize('length', [0, 5000])
@pytest.mark.parametrize('kind', ['npz', 'compressed.npz'])
def test_a_npz_cut_short_after_it_was_opened_is_refused_when_read(tmp_path, kind, length):
    path = made(tmp_path, kind, np.random.default_rng(0).random(99_999))
    tensor = open_source(path).tensors['w']
    os.truncate(path, length)
    with pytest.raises(bx.CheckpointError, match=r"'w'.*cut short"):
        tensor.read()


def test_a_npz_written_over_after_it_was_opened_is_refused_when_read(tmp_path):
    path = made(tmp_path, 'npz', np.arange(999.0))
    tensor = open_source(path).tensors['w']
    with open(path, 'r+b') as file:
        file.seek(5000)
        file.write(b'other')
    with pytest.raises(bx.CheckpointError, match=r"'w'.*checksum"):
        tensor.read()


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='needs a list of open files')
@KINDS
def test_opening_many_checkpoints_leaves_no_file_open(tmp_path, kind):
    path = made(tmp_path, kind, W)
    (tmp_path / 'bad.npz').write_bytes(path.read_bytes()[:-1])
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(50):
        open_source(path).tensors['w'].read()
        with pytest.raises(bx.CheckpointError):
            open_source(tmp_path / 'bad.npz')
    gc.collect()
    assert len(os.listdir('/proc/self/fd')) <= before
