"""Others' checkpoints: every malformed one is refused in one line, every sound one is read."""

import gc
import io
import json
import os
import pathlib
import pickle
import struct
import sys
import warnings
import zipfile
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import promptly
from hypothesis import given, settings
from hypothesis import strategies as st

import blox as bx
from blox.converters import open_source
from blox.converters.sources.files import read_json
from blox.converters.sources.source import Source
from blox.converters.sources.stacked import unstacked
from blox.converters.sources.tensor import Tensor
from blox.tensorfile import write_tensors

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(3, dtype=np.float32)
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0' * 64 + b'\nsize 9\n'
HTML = b'\n<!DOCTYPE html><html></html>'

# Building files.


def safetensors(path, **tensors):
    write_tensors(path, tensors, {})
    return path


def index(folder, where, name='model.safetensors.index.json', **more):
    text = json.dumps({'weight_map': where, **more})
    (folder / name).write_text(text)
    return folder / name


SHARDS = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
MAP = {'w': SHARDS[0], 'b': SHARDS[1]}


def shards(folder):
    """Two sound shards, without their index."""
    safetensors(folder / SHARDS[0], w=W)
    safetensors(folder / SHARDS[1], b=B)


def zipped(**members):
    """A zip archive of members, bytes or an array, by name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(text, data=b'', version=1):
    """A .npy with this header."""
    text = text.encode('latin1')
    length = struct.pack('<H' if version == 1 else '<I', len(text))
    return b'\x93NUMPY' + bytes([version, 0]) + length + text + data


def shaped(shape, data=b'', descr='<f4'):
    return with_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}", data)


def one(content):
    """A .npz of one member, w."""
    return zipped(**{'w.npy': content})


def patched(content, offset, code, *values, at=b'PK\1\2'):
    """`content` with fields of its last directory entry (or local header) replaced."""
    start = content.rindex(at) + offset
    values = struct.pack(code, *values)
    return content[:start] + values + content[start + len(values) :]


def compressed(method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as archive:
        archive.writestr('w.npy', npy(np.zeros(10_000, np.float32)))
    return buffer.getvalue()


def claiming(more):
    """A .npz whose member of 9000 bytes claims to have more, also in its own header."""
    empty = len(shaped('(9000,)', descr='|u1'))
    content = shaped(f'({9000 + more - empty},)', bytes(9000 - empty), '|u1')
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('w.npy', content)
    return patched(buffer.getvalue(), 24, '<I', 9000 + more)


def deflated(flush, more=b''):
    """A .npz whose packed bytes end as `flush` has them, and go on with `more`."""
    content = npy(np.zeros(9999))
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    archive = one(engine.compress(content) + engine.flush(flush) + more)
    archive = patched(archive, 10, '<H', zipfile.ZIP_DEFLATED)
    archive = patched(archive, 16, '<I', zlib.crc32(content))
    return patched(archive, 24, '<I', len(content))


def beyond(count):
    """A .npz that claims to have `count` bytes, and has none."""
    header = shaped(f'({count},)', descr='|u1')
    return patched(one(header), 20, '<II', len(header) + count, len(header) + count)


def flagged(bits):
    """A .npz whose member has these flags, in both places that say so."""
    local = patched(one(npy(W)), 6, '<H', bits, at=b'PK\3\4')
    return patched(local, 8, '<H', bits)


def overlapping():
    """A .npz whose member b lies in the data of its member a."""
    inner = zipped(**{'b.npy': npy(W)})
    outer = {'a.npy': shaped(f'({len(inner)},)', inner, '|u1'), 'b.npy': npy(W)}
    content = zipped(**outer)
    return patched(content, 42, '<I', content.index(inner))


def renamed(name):
    """A .npz whose member has a name that zipfile would not write."""
    return one(npy(W)).replace(b'w.npy', name)


def doubled():
    content = zipped(**{'w.npy': npy(W), 'v.npy': npy(W)})
    return content.replace(b'v.npy', b'w.npy')


def refusal(path):
    """The message that a checkpoint is refused with, when opened or when read."""
    with promptly(20), pytest.raises(bx.CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2000
    return message


def read(path):
    return {name: np.array(tensor.read()) for name, tensor in open_source(path).tensors.items()}


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


# Folders.


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


@pytest.mark.parametrize('content', [b'{"a": 1}', b' [{"a": 1}, {}]', b'[]'])
def test_json_is_an_object_or_a_list_of_them(tmp_path, content):
    (tmp_path / 'a.json').write_bytes(content)
    assert read_json(tmp_path / 'a.json') == json.loads(content)


@pytest.mark.parametrize('content', [b'[1]', b'[{}, 1]', b'[{}]]', b'[{}', b'[{}], "b": 1'])
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(bx.CheckpointError, match=r'a\.json'):
        read_json(tmp_path / 'a.json')


@pytest.mark.parametrize('name', ['../a.json', '/etc/a.json', 'a\0b', 'loop', 'out/a.json'])
def test_a_sources_json_is_not_read_from_outside_its_folder(tmp_path, name):
    (tmp_path / 'model').mkdir()
    (tmp_path / 'a.json').write_text('{}')
    (tmp_path / 'model' / 'loop').symlink_to('loop')
    (tmp_path / 'model' / 'out').symlink_to('..')
    with pytest.raises((bx.CheckpointError, OSError), match=r'expected|loop|symbolic'):
        Source(tmp_path / 'model', {}).read_json(name)


# Indexes of shards.


def test_shards_are_one_source(tmp_path):
    shards(tmp_path)
    index(tmp_path, MAP, metadata={'total_size': 36})
    assert {name: array.tolist() for name, array in read(tmp_path).items()} == {
        'w': W.tolist(),
        'b': B.tolist(),
    }


# Name of the case: what the index holds, and what its refusal says.
INDEXES = {
    'no JSON': (b'{', ['expected JSON']),
    'a list': (b'[{}]', ['expected a weight_map']),
    'no map': (b'{}', ['expected a weight_map']),
    'an empty map': ({}, ['expected a weight_map']),
    'a list for a map': ([SHARDS[0]], ['expected a weight_map']),
    'a number for a shard': ({**MAP, 'b': 1}, ["tensor 'b'", 'name of a file', 'found 1']),
    'a list for a shard': ({**MAP, 'b': [SHARDS[1]]}, ["tensor 'b'", 'name of a file']),
    'null for a shard': ({**MAP, 'b': None}, ["tensor 'b'", 'found None']),
    'an empty name': ({**MAP, 'b': ''}, ['in the same folder', "found ''"]),
    'the folder': ({**MAP, 'b': '.'}, ['in the same folder', "found '.'"]),
    'the folder above': ({**MAP, 'b': '..'}, ['in the same folder', "found '..'"]),
    'a path that climbs': ({'w': '../secret.safetensors'}, ['same folder', "'../secret"]),
    'a path that climbs on its way': ({'w': 'a/../../b.safetensors'}, ['same folder']),
    'an absolute path': ({'w': '/secret.safetensors'}, ['same folder', "'/secret.safetensors'"]),
    'a path in a folder': ({'w': 'in/a.safetensors'}, ['same folder', "'in/a.safetensors'"]),
    'a backslash': ({'w': '..\\a.safetensors'}, ['same folder']),
    'a NUL': ({'w': 'a\0.safetensors'}, ['same folder', r'\x00']),
    'ANSI': ({'w': '\x1b[2J.safetensors'}, ['same folder', r'\x1b[2J']),
    'half a character': ({'w': '\ud800.safetensors'}, ['same folder', r'\ud800']),
    'an endless name': ({'w': 'a' * 10**6 + '.safetensors'}, ["found no 'aaa"]),
    'another index': ({'w': 'other.safetensors.index.json'}, ['same folder']),
    'itself': ({'w': 'model.safetensors.index.json'}, ['same folder']),
    'a torch file': ({**MAP, 'b': 'b.bin'}, ['.safetensors files', "'b.bin'"]),
    'a shard that is not there': ({**MAP, 'b': 'c.safetensors'}, ["found no 'c.safetensors'"]),
    'a key that no shard has': ({**MAP, 'c': SHARDS[1]}, [SHARDS[1], "not found there ['c']"]),
    'a key that the map lacks': (
        {'w': SHARDS[0], 'c': SHARDS[1]},
        [SHARDS[1], "not in the index ['b']"],
    ),
    'swapped shards': (
        {'w': SHARDS[1], 'b': SHARDS[0]},
        [SHARDS[0], "not found there ['b']", "not in the index ['w']"],
    ),
    'a shard left out': ({'w': SHARDS[0]}, ['one save', f'also {SHARDS[1]}']),
}


@pytest.mark.parametrize('case', INDEXES)
def test_a_malformed_index_is_refused(tmp_path, case):
    where, expected = INDEXES[case]
    shards(tmp_path)
    path = index(tmp_path, None)
    path.write_bytes(
        where if isinstance(where, bytes) else json.dumps({'weight_map': where}).encode()
    )
    message = refusal(tmp_path)
    assert message.startswith(f'{str(path)!r}: ')
    assert [part for part in expected if part not in message] == []


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    shards(tmp_path)
    safetensors(tmp_path / SHARDS[1], b=B, w=W + 1)
    index(tmp_path, MAP)
    assert f"{SHARDS[1]!r}: not found there [], not in the index ['w']" in refusal(tmp_path)


def test_a_malformed_shard_is_named(tmp_path):
    shards(tmp_path)
    (tmp_path / SHARDS[1]).write_bytes(LFS)
    index(tmp_path, MAP)
    assert SHARDS[1] in (message := refusal(tmp_path))
    assert 'Git-LFS' in message


@pytest.mark.parametrize('total', [35, 37, -36, 36.5, '36', None, [], 0])
def test_a_wrong_total_size_is_refused(tmp_path, total):
    shards(tmp_path)
    index(tmp_path, MAP, metadata={'total_size': total})
    assert f'expected total_size 36, the bytes of all tensors, found {total!r}' in refusal(tmp_path)


@pytest.mark.parametrize('metadata', [{}, {'total_size': 36.0}, {'total_parameters': 9}])
def test_a_right_or_absent_total_size_is_fine(tmp_path, metadata):
    shards(tmp_path)
    index(tmp_path, MAP, metadata=metadata)
    assert set(read(tmp_path)) == {'w', 'b'}


def test_a_total_size_that_counts_a_bool_as_an_eighth_of_a_byte_is_fine(tmp_path):
    safetensors(tmp_path / 'a.safetensors', w=W, mask=np.ones(8, bool))
    index(tmp_path, dict.fromkeys(['w', 'mask'], 'a.safetensors'), metadata={'total_size': 25.0})
    assert set(read(tmp_path)) == {'w', 'mask'}


@pytest.mark.parametrize('metadata', [None, [], 'pt', 36])
def test_metadata_that_is_no_object_is_refused(tmp_path, metadata):
    shards(tmp_path)
    index(tmp_path, MAP, metadata=metadata)
    assert 'expected metadata to be an object' in refusal(tmp_path)


@pytest.mark.parametrize('stray', ['model-00003-of-00003', 'model-00002-of-00003'])
def test_shards_of_an_older_save_beside_the_index_are_refused(tmp_path, stray):
    shards(tmp_path)
    index(tmp_path, MAP)
    safetensors(tmp_path / f'{stray}.safetensors', b=B)
    assert f'expected shards of one save, found also {stray}' in refusal(tmp_path)


def test_an_index_of_shards_of_two_saves_is_refused(tmp_path):
    shards(tmp_path)
    other = 'model-00002-of-00003.safetensors'
    (tmp_path / SHARDS[1]).rename(tmp_path / other)
    index(tmp_path, {**MAP, 'b': other})
    assert 'expected shards of one save' in refusal(tmp_path)


@pytest.mark.parametrize('other', ['vae-00001-of-00003.safetensors', 'model-00001-of-00003.bin'])
def test_shards_of_another_kind_may_lie_beside(tmp_path, other):
    shards(tmp_path)
    index(tmp_path, MAP)
    (tmp_path / other).write_bytes(b'')
    assert set(read(tmp_path)) == {'w', 'b'}


def test_a_shard_that_links_out_of_its_folder_is_refused(tmp_path):
    shards(tmp_path)
    (tmp_path / 'model').mkdir()
    (tmp_path / 'model' / SHARDS[0]).symlink_to(tmp_path / SHARDS[0])
    index(tmp_path / 'model', {'w': SHARDS[0]})
    assert 'leads out of it' in refusal(tmp_path / 'model')


def test_a_shard_that_links_to_itself_is_refused_or_an_os_error(tmp_path):
    (tmp_path / SHARDS[0]).symlink_to(SHARDS[0])
    index(tmp_path, {'w': SHARDS[0]})
    with promptly(20), pytest.raises((bx.CheckpointError, OSError), match=r'model-00001|loop'):
        open_source(tmp_path)


def hub_cache(tmp_path, inner=''):
    """A snapshot, or a folder of it, as the Hub's cache has it: all files are links to blobs."""
    repository = tmp_path / 'models--org--name'
    blobs, folder = repository / 'blobs', repository / 'snapshots' / ('0' * 40) / inner
    folder.mkdir(parents=True)
    blobs.mkdir()
    shards(blobs)
    index(blobs, MAP)
    for i, file in enumerate(sorted(blobs.iterdir())):
        (folder / file.name).symlink_to(os.path.relpath(blobs / str(i), folder))
        file.rename(blobs / str(i))
    return folder


@pytest.mark.parametrize('inner', ['', 'vision', 'a/b'])
def test_a_cache_of_the_hub_is_read_through_its_links(tmp_path, inner):
    assert set(read(hub_cache(tmp_path, inner))) == {'w', 'b'}


def test_a_cache_of_the_hub_may_be_reached_through_a_link(tmp_path):
    (tmp_path / 'real').mkdir()
    folder = hub_cache(tmp_path / 'real')
    (tmp_path / 'link').symlink_to('real')
    assert set(read(tmp_path / 'link' / folder.relative_to(tmp_path / 'real'))) == {'w', 'b'}


@pytest.mark.parametrize('target', ['../../../a.safetensors', '../../refs/a.safetensors'])
def test_a_link_of_a_cache_that_leads_elsewhere_is_refused(tmp_path, target):
    folder = hub_cache(tmp_path)
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to(target)
    (folder / target).parent.mkdir(exist_ok=True)
    safetensors(folder / target, w=W)
    assert 'leads out of it' in refusal(folder)


# NumPy's .npz.

NPZ = {
    'an empty file': (b'', ['a zip archive']),
    'an LFS pointer': (LFS, ['zip archive', 'Git-LFS pointer']),
    'an HTML page': (HTML, ['zip archive', 'HTML']),
    'a .npy': (npy(W), ['zip archive', 'a NumPy .npy file']),
    'no arrays': (zipped(), ['zip archive']),
    'the start of a zip alone': (b'PK\3\4' + bytes(40), ['sound zip archive']),
    'a truncated archive': (one(npy(W))[:-1], ['sound zip archive']),
    'an archive without its start': (one(npy(W))[4:], ['zip archive']),
    'bytes after the archive': (one(npy(W)) + b'\0', ['before or after it']),
    'a comment': (
        one(npy(W))[:-2] + b'\2\0hi',
        ['before or after it'],
    ),
    'an archive after another': (one(npy(B)) + one(npy(W)), ['before or after it']),
    'fewer arrays than its end says': (
        patched(one(npy(W)), 8, '<HH', 2, 2, at=b'PK\5\6'),
        ['expected 2 arrays, as its end says, found 1'],
    ),
    'a member that is no array': (zipped(**{'w.npy': b'text'}), ["tensor 'w'", 'expected a .npy']),
    'an empty member': (zipped(**{'w.npy': b''}), ["tensor 'w'", 'expected a .npy']),
    'a member of another name': (
        zipped(**{'w.npy': npy(W), 'README.txt': b'hi'}),
        ["'README.txt'", 'NAME.npy'],
    ),
    'a folder': (zipped(**{'w.npy': npy(W), 'a/': b''}), ["'a/'", 'NAME.npy']),
    'no name': (zipped(**{'.npy': npy(W)}), ["tensor ''", 'printable name']),
    'a name that climbs': (zipped(**{'../w.npy': npy(W)}), ["'../w'", '".." segments']),
    'ANSI in a name': (zipped(**{'\x1b[2J.npy': npy(W)}), [r"'\x1b[2J'", 'printable']),
    'a NUL in a name': (renamed(b'\0.npy'), [r'\x00.npy', 'NAME.npy']),
    'a name twice': (doubled(), ["tensor 'w.npy'", 'found 2']),
    'two members of the same bytes': (overlapping(), ["tensor 'b'", 'an overlap']),
    'objects': (one(shaped('(1,)', b'N.', '|O')), ["tensor 'w'", 'array of numbers', "'|O'"]),
    'records': (
        one(npy(np.zeros(2, [('a', 'f4')]))),
        ["tensor 'w'", 'array of numbers', "[('a', '<f4')]"],
    ),
    'text': (one(npy(np.array(['a']))), ["tensor 'w'", "'<U1'"]),
    'bytes': (one(npy(np.array([b'a']))), ["tensor 'w'", "'|S1'"]),
    'times': (one(npy(np.array(['2000'], 'M8[D]'))), ["tensor 'w'", "'<M8[D]'"]),
    'bytes without a meaning': (one(shaped('(2,)', bytes(8), '|V4')), ["tensor 'w'", "'|V4'"]),
    'long doubles': (one(shaped('(1,)', bytes(16), '<f16')), ["tensor 'w'", "'<f16'"]),
    'bfloat16 of swapped bytes': (one(shaped('(1,)', bytes(2), '>V2')), ["tensor 'w'", "'>V2'"]),
    'a dtype that does not exist': (one(shaped('(2,)', bytes(6), '<f3')), ["'w'", "'<f3'"]),
    'an expression for a shape': (one(shaped('(2 * 3,)', bytes(24))), ["tensor 'w'", '(2 * 3,)']),
    'a call': (one(with_header("__import__('os').abort()")), ["tensor 'w'", '__import__']),
    'a header that recurses': (one(with_header('(' * 60_000)), ["tensor 'w'", '((((']),
    'a header of another order': (
        one(with_header("{'shape': (), 'descr': '<f4', 'fortran_order': False}", bytes(4))),
        ["tensor 'w'", "{'shape'"],
    ),
    'a header of very many numbers': (one(shaped('(' + '1,' * 30_000 + ')')), ["tensor 'w'"]),
    'ANSI in a header': (one(with_header('\x1b[2J')), [r'\x1b[2J']),
    'a header longer than the file': (
        one(b'\x93NUMPY\2\0' + struct.pack('<I', 2**32 - 1) + b'{'),
        ["tensor 'w'", 'header of an array'],
    ),
    'a header cut short': (one(npy(W)[:50]), ["tensor 'w'", 'header of an array']),
    'a header without its length': (one(npy(W)[:9]), ["tensor 'w'", 'sound zip archive']),
    'another version': (one(with_header('', version=4)), ["tensor 'w'", 'version 1, 2 or 3']),
    'a negative size': (one(shaped('(-1, -6)', bytes(24))), ["tensor 'w'", '(-1, -6)']),
    'a float for a size': (one(shaped('(6.0,)', bytes(24))), ["tensor 'w'", '(6.0,)']),
    'a bool for a size': (one(shaped('(True,)', bytes(4))), ["tensor 'w'", '(True,)']),
    'a size of endless digits': (one(shaped(f'({"9" * 2000},)')), ["tensor 'w'", '(999']),
    'a size that wraps around': (one(shaped(f'({2**62}, 4)')), ["tensor 'w'", '2**59', '(4611']),
    'zero times a huge size': (one(shaped(f'(0, {2**62})')), ["tensor 'w'", '2**59 values']),
    'more axes than arrays have': (
        one(shaped('(' + '1, ' * 65 + ')', bytes(4))),
        ["tensor 'w'", 'at most 64 sizes'],
    ),
    'a huge size without its data': (
        one(shaped('(1000000000000,)')),
        ["tensor 'w'", 'expected 4000000000079 bytes, found 79'],
    ),
    'data cut short': (one(npy(W)[:-1]), ["tensor 'w'", 'expected 152 bytes, found 151']),
    'data after its end': (one(npy(W) + b'\0'), ["tensor 'w'", 'expected 152 bytes, found 153']),
    'a bool that is neither 0 nor 1': (
        one(shaped('(2,)', b'\1\2', '|b1')),
        ["tensor 'w'", 'bool bytes 0 or 1'],
    ),
    'damaged data': (one(npy(W)).replace(W.tobytes(), bytes(24)), ["tensor 'w'", 'CRC']),
    'another checksum': (
        patched(one(npy(np.arange(9999.0))), 16, '<I', 0),
        ["tensor 'w'", 'expected the checksum 00000000'],
    ),
    'a member beyond the end': (
        patched(one(npy(W)), 20, '<II', 10**6, 10**6),
        ["tensor 'w'", 'expected 152 bytes, found 1000000'],
    ),
    'data beyond the end': (beyond(10**6), ["tensor 'w'", 'data up to byte', 'a file of']),
    'a header of the archive beyond the end': (patched(one(npy(W)), 42, '<I', 10**6), ['zip']),
    'no header of the archive': (patched(one(npy(W)), 42, '<I', 3), ['zip']),
    'another name in the archive': (
        zipped(**{'w.npy': npy(W)}).replace(b'w.npy', b'v.npy', 1),
        ["tensor 'w'", 'sound zip archive'],
    ),
    'an encrypted member': (flagged(1), ["tensor 'w'", 'encrypted']),
    'strong encryption': (flagged(0x41), ["tensor 'w'", 'encrypt']),
    'a name that is not UTF-8': (
        patched(renamed(b'\xff.npy'), 8, '<H', 0x800),
        ['sound zip archive', 'utf-8'],
    ),
    'bzip2': (compressed(zipfile.ZIP_BZIP2), ["w.npy'", 'deflate', 'found method 12']),
    'lzma': (compressed(zipfile.ZIP_LZMA), ["w.npy'", 'deflate', 'found method 14']),
    'an unknown compression': (patched(one(npy(W)), 10, '<H', 99), ["w.npy'", 'found method 99']),
    'stored bytes that claim to be more': (
        patched(one(npy(W)), 24, '<I', 2**31),
        ["w.npy'", '152 bytes may hold', 'found 2147483648'],
    ),
    'more than deflate can hold': (
        patched(compressed(), 24, '<I', 2**31),
        ["w.npy'", 'bytes may hold', 'found 2147483648'],
    ),
    'fewer packed bytes': (patched(compressed(), 20, '<I', 130), ["tensor 'w'", 'exactly 40128']),
    'packed bytes that are none': (
        compressed()[:150] + b'\xff' * 20 + compressed()[170:],
        ["tensor 'w'"],
    ),
    'bytes after what is packed': (deflated(zlib.Z_FINISH, b'more'), ["tensor 'w'", 'exactly']),
    'packed bytes without their end': (deflated(zlib.Z_SYNC_FLUSH), ["tensor 'w'", 'exactly']),
    'less packed than it claims': (claiming(4), ["tensor 'w'", 'exactly 9004 bytes']),
    'more packed than it claims': (claiming(-4), ["tensor 'w'", 'exactly 8996 bytes']),
}


@pytest.mark.parametrize('case', NPZ)
def test_a_malformed_npz_is_refused(tmp_path, case):
    content, expected = NPZ[case]
    path = tmp_path / 'a.npz'
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f'{str(path)!r}: ')
    # Later versions of Python's zipfile look for overlaps themselves, and first.
    by_zipfile = ['sound zip archive', 'Overlapped entries']
    assert any(all(part in message for part in parts) for parts in (expected, by_zipfile))


ARRAYS: dict[str, Any] = {
    'float32': W,
    'float64': W.astype(np.float64),
    'float16': W.astype(np.float16),
    'bfloat16': W.astype(jnp.bfloat16),
    'bool': W > 2,
    'int64': W.astype(np.int64),
    'uint8': W.astype(np.uint8),
    'complex64': W.astype(np.complex64),
    'a scalar': np.float32(3),
    'nothing': np.zeros((0, 3), np.float32),
    'Fortran': np.asfortranarray(W),
    'a transpose': W.T,
    'many axes': np.arange(24, dtype=np.int32).reshape(2, 1, 3, 4),
    'one axis': B,
}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_arrays_of_numbers_come_back(tmp_path, save):
    save(tmp_path / 'a.npz', **ARRAYS)
    found = open_source(tmp_path / 'a.npz').tensors
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        tensor = found[name]
        assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape), name
        assert same(tensor.read(), array), name


@pytest.mark.parametrize('code', ['>f4', '>f8', '>f2', '>i8', '>c8'])
@pytest.mark.parametrize('order', ['C', 'F'])
def test_swapped_bytes_are_put_in_order(tmp_path, code, order):
    np.savez(tmp_path / 'a.npz', w=W.astype(code, order=order))
    tensor = open_source(tmp_path / 'a.npz').tensors['w']
    expected = W.astype(code[1:])
    assert tensor.dtype == expected.dtype
    assert same(tensor.read(), expected)


@pytest.mark.parametrize('version', [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_npy_are_read(tmp_path, version):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, W, version)
    (tmp_path / 'a.npz').write_bytes(one(buffer.getvalue()))
    assert same(read(tmp_path / 'a.npz')['w'], W)


def test_names_may_have_folders_dots_and_any_printable_letters(tmp_path):
    names = ['params/img/w', 'a.npy', 'größe', 'Transformer/encoderblock_0/w']
    arrays: dict[str, Any] = dict.fromkeys(names, W)
    np.savez(tmp_path / 'a.npz', **arrays)
    assert set(open_source(tmp_path / 'a.npz').tensors) == set(names)


def test_what_is_not_compressed_is_a_read_only_view_of_the_file(tmp_path):
    np.savez(tmp_path / 'a.npz', w=W, f=np.asfortranarray(W))
    for tensor in open_source(tmp_path / 'a.npz').tensors.values():
        assert not tensor.read().flags.owndata
        assert not tensor.read().flags.writeable
        tensor.release()
        assert same(tensor.read(), W)


def test_opening_reads_no_arrays(tmp_path):
    content = one(npy(np.arange(99_999.0)))
    middle = len(content) // 2
    (tmp_path / 'a.npz').write_bytes(content[:middle] + b'\1' + content[middle + 1 :])
    tensor = open_source(tmp_path / 'a.npz').tensors['w']
    with pytest.raises(bx.CheckpointError, match='checksum'):
        tensor.read()


def test_claims_of_more_than_64_gib_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('w.npy', shaped(f'({2**36},)', descr='|u1'))
    path = tmp_path / 'a.npz'
    content = path.read_bytes()
    size = len(shaped(f'({2**36},)', descr='|u1')) + 2**36
    extra = struct.pack('<HHQQ', 1, 16, size, size)
    content = patched(content, 20, '<IIHH', 2**32 - 1, 2**32 - 1, 5, len(extra))
    name_end = content.rindex(b'w.npy') + 5
    end = patched(content, 12, '<I', 46 + 5 + len(extra), at=b'PK\5\6')
    path.write_bytes(end[:name_end] + extra + end[name_end:])
    assert f'at most {2**36} unpacked bytes, found {size}' in refusal(path)


SOUND_NPZ = zipped(**{'w.npy': npy(W), 'b.npy': npy(np.arange(2000) % 7)})


def quick(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('damaged') / 'a.npz'


def is_refused_or_whole(path):
    sound = [W, np.arange(2000) % 7, np.zeros(10_000, np.float32)]
    try:
        found = read(path)
    except bx.CheckpointError as error:
        return str(error).isprintable()
    return all(any(same(array, other) for other in sound) for array in found.values())


@quick(400)
@given(
    content=st.sampled_from([SOUND_NPZ, compressed()]),
    at=st.integers(0, 10**6),
    new=st.binary(min_size=1, max_size=4),
    tail=st.booleans(),
)
def test_a_damaged_npz_is_refused_or_its_arrays_are_whole(place, content, at, new, tail):
    at = len(content) - 1 - at % 200 if tail else at % len(content)
    place.write_bytes(content[:at] + new + content[at + len(new) :])
    assert is_refused_or_whole(place)


def test_a_npz_cut_short_anywhere_is_refused(tmp_path):
    for length in range(0, len(SOUND_NPZ), 61):
        (tmp_path / 'a.npz').write_bytes(SOUND_NPZ[:length])
        assert refusal(tmp_path / 'a.npz')


# Stacked blocks.


def counted(array, log):
    """A tensor that notes what is done with it."""

    def read():
        log.append('read')
        return array

    path = pathlib.Path('a.npz')
    return Tensor(array.dtype, array.shape, read, path, lambda: log.append('release'))


def test_a_stack_is_read_once_for_all_of_its_slices():
    log = []
    source = unstacked(Source(pathlib.Path('a.npz'), {'e/b/w': counted(W, log)}), 'b/')
    assert list(source.tensors) == ['e/b_0/w', 'e/b_1/w']
    for i, tensor in enumerate(source.tensors.values()):
        assert (tensor.dtype, tensor.shape) == (W.dtype, (3,))
        assert same(tensor.read(), W[i])
        tensor.release()
    assert log.count('read') == 1


def test_a_stack_is_let_go_when_all_slices_are_released():
    log = []
    source = unstacked(Source(pathlib.Path('a.npz'), {'b/w': counted(W, log)}), 'b/')
    for tensor in source.tensors.values():
        tensor.read()
        tensor.release()
    assert same(source.tensors['b_1/w'].read(), W[1])
    assert log.count('read') == 2


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_slices_of_a_npz_are_its_rows(tmp_path, save):
    save(tmp_path / 'a.npz', **{'b/w': W, 'head': B})
    source = unstacked(open_source(tmp_path / 'a.npz'), 'b/')
    found = {name: tensor.read().tolist() for name, tensor in source.tensors.items()}
    assert found == {'b_0/w': [0, 1, 2], 'b_1/w': [3, 4, 5], 'head': [0, 1, 2]}


@pytest.mark.parametrize('shape', [(), (0, 2), (2**40, 0)])
def test_a_stack_of_no_or_endless_blocks_is_refused(shape):
    tensor = Tensor(W.dtype, shape, lambda: W, pathlib.Path('a.npz'))
    with promptly(20), pytest.raises(bx.CheckpointError, match=r"'b/w'.*axis of blocks.*\("):
        unstacked(Source(pathlib.Path('a.npz'), {'b/w': tensor}), 'b/')


def test_a_stack_beside_one_of_its_slices_is_refused():
    tensors = {'b/w': counted(W, []), 'b_1/w': counted(B, [])}
    with pytest.raises(bx.CheckpointError, match=r"'b/w'.*'b_1/w', found both"):
        unstacked(Source(pathlib.Path('a.npz'), tensors), 'b/')


# torch.save's files.


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


# Files that change while they are open.


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
