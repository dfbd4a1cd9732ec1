"""The container: what is refused, what is kept, and that others read what is written."""

import gzip
import io
import json
import math
import os
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers import promptly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import blox as bx
from blox.memory import ALIGNMENT
from blox.tensorfile import DTYPES, MAX_HEADER_BYTES, TensorFile, write_tensors

# Building files by hand.


def container(header, data=b''):
    """A file of a header, given as an object or as it stands, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + data


def entry(dtype='F32', shape=(2,), start=0, stop=8, **more):
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': [start, stop], **more}


def one(data=bytes(8), **fields):
    """A file of a single tensor 'net/w', sound but for `fields`."""
    return container({'net/w': {**entry(), **fields}}, data)


def named(name):
    return container({name: entry()}, bytes(8))


def raw(fields):
    """A file whose tensor 'net/w' has `fields`, JSON text, for what `json.dumps` would not write."""
    return container(b'{"net/w":{%s}}' % fields, bytes(8))


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('data.pkl', bytes(100))
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(100))
    return buffer.getvalue()


NOISE = np.random.default_rng(0).bytes(700_000)
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0' * 64 + b'\nsize 9\n'
DTYPE, SHAPE, OFFSETS = b'"dtype":"F32"', b'"shape":[2]', b'"data_offsets":[0,8]'
DEEP = b'[' * 100_000 + b']' * 100_000
DIGITS = b'9' * 4300  # As many as Python turns into an int.

# Name of the case: the file, and what its refusal must say besides the file's name.
MALFORMED = {
    'an empty file': (b'', ['8 bytes or more', 'found 0 bytes']),
    'fewer than 8 bytes': (b'1234567', ['8 bytes or more', 'found 7 bytes']),
    'no header after its length': (struct.pack('<Q', 2), ['at most 0 bytes', 'length of 2']),
    'a header beyond the end': (struct.pack('<Q', 99) + b'{}', ['at most 2 bytes', '99']),
    'a header of absurd length': (b'\xff' * 16, ['length of 18446744073709551615']),
    'an empty header': (container(b''), ["starts with '{'", "found ''"]),
    'a header that is not UTF-8': (container(b'{"\xff": 1}'), ['UTF-8', 'byte 2']),
    'an array for a header': (container(b'[]'), ["starts with '{'", "'[]'"]),
    'a null header': (container(b'null'), ["starts with '{'", "'null'"]),
    'a space before the header': (container(b' {}'), ["starts with '{'", "' {}'"]),
    'a byte order mark': (container('\ufeff{}'.encode()), ["starts with '{'", 'ufeff']),
    'a header that is cut short': (container(b'{"net/w": {'), ['expected JSON']),
    'text after the header': (container(b'{}{}'), ['expected JSON', 'Extra data']),
    'NULs after the header': (container(b'{}\0\0'), ['expected JSON', 'Extra data']),
    'a tensor that comes twice': (
        container(b'{"net/w":{},"net/w":{}}'),
        ["key 'net/w'", 'twice'],
    ),
    'a field that comes twice': (
        raw(b','.join([DTYPE, SHAPE, SHAPE, OFFSETS])),
        ["key 'shape'", 'twice'],
    ),
    'one of very many keys that comes twice': (
        container(b'{%s"x":0,"x":0}' % b''.join(b'"%d":0,' % i for i in range(200_000))),
        ["key 'x'", 'twice'],
    ),
    'NaN in the header': (raw(b'"dtype":NaN'), ['NaN is not JSON']),
    'infinity in the header': (raw(b'"dtype":-Infinity'), ['-Infinity is not JSON']),
    'nesting that recurses': (raw(b'"shape":' + DEEP), ['nested too deeply']),
    'a number of too many digits': (raw(b'"shape":[9%s]' % DIGITS), ['expected JSON']),
    'no tensors': (container({}), ['expected tensors, found none']),
    'metadata alone': (container({'__metadata__': {'a': 'b'}}), ['found none']),
    'metadata that is not an object': (
        container({'__metadata__': 'text', 'net/w': entry()}, bytes(8)),
        ['__metadata__', 'strings to strings'],
    ),
    'metadata that is not of strings': (
        container({'__metadata__': {'epoch': 3}, 'net/w': entry()}, bytes(8)),
        ['__metadata__', 'strings to strings'],
    ),
    'a tensor called __metadata__': (
        container({'__metadata__': entry()}, bytes(8)),
        ['__metadata__', 'strings to strings'],
    ),
    'a tensor that is no object': (container({'net/w': [1]}), ["'net/w'", 'found list']),
    'an extra field': (one(stride=[1]), ["'net/w'", 'exactly dtype', 'stride']),
    'a missing field': (raw(DTYPE), ["'net/w'", 'exactly dtype', "['dtype']"]),
    'an extra field of endless name': (
        container({'net/w': {'x' * 10**6: 1}}),
        ["'net/w'", 'exactly dtype'],
    ),
    'an unknown dtype': (one(dtype='F31'), ["'net/w'", 'F32', "found 'F31'"]),
    'a dtype in lower case': (one(dtype='f32'), ["'net/w'", "found 'f32'"]),
    'a dtype that is no string': (one(dtype=['F32']), ["'net/w'", "found ['F32']"]),
    'a negative dimension': (one(shape=[-2]), ["'net/w'", 'non-negative', '[-2]']),
    'two negative dimensions': (one(shape=[-1, -2]), ["'net/w'", 'non-negative', '[-1, -2]']),
    'a float dimension': (one(shape=[2.0]), ["'net/w'", 'integers', '[2.0]']),
    'a bool dimension': (one(shape=[2, True]), ["'net/w'", 'integers', '[2, True]']),
    'a string dimension': (one(shape=['2']), ["'net/w'", 'integers', "['2']"]),
    'a shape that is no list': (one(shape=2), ["'net/w'", 'integers', 'found 2']),
    'a null shape': (one(shape=None), ["'net/w'", 'integers', 'found None']),
    'a dimension beyond 2**63': (one(shape=[2**63]), ["'net/w'", '2**63', f'[{2**63}]']),
    'a size that wraps around': (one(shape=[2**32, 2**31]), ["'net/w'", '2**63']),
    'a size that wraps around to 8 bytes': (one(shape=[2**62 + 1, 2]), ["'net/w'", '2**63']),
    'zero times a huge dimension': (
        one(b'', shape=[0, 2**62], data_offsets=[0, 0]),
        ["'net/w'", '2**63'],
    ),
    'more dimensions than arrays have': (
        one(bytes(4), shape=[1] * 65, data_offsets=[0, 4]),
        ["'net/w'", 'at most 64', '[1, 1'],
    ),
    'very many endless dimensions': (
        raw(b','.join([DTYPE, OFFSETS, b'"shape":[%s]' % b','.join([DIGITS] * 1000)])),
        ["'net/w'", '2**63', '[999'],
    ),
    'too few bytes': (one(data_offsets=[0, 7]), ["'net/w'", 'expected 8 bytes', 'found 7']),
    'too many bytes': (one(data_offsets=[0, 9]), ["'net/w'", 'expected 8 bytes', 'found 9']),
    'bytes for an empty tensor': (one(shape=[0]), ["'net/w'", 'expected 0 bytes', 'found 8']),
    'offsets in reverse': (one(data_offsets=[8, 0]), ["'net/w'", '[start, stop]', '[8, 0]']),
    'a negative offset': (one(data_offsets=[-8, 0]), ["'net/w'", '[start, stop]', '[-8, 0]']),
    'a float offset': (one(data_offsets=[0, 8.0]), ["'net/w'", '[start, stop]', '[0, 8.0]']),
    'a bool offset': (one(data_offsets=[False, 8]), ["'net/w'", '[start, stop]', '[False, 8]']),
    'three offsets': (one(data_offsets=[0, 4, 8]), ["'net/w'", '[start, stop]', '[0, 4, 8]']),
    'no offsets': (one(data_offsets=None), ["'net/w'", '[start, stop]', 'None']),
    'offsets of endless digits': (
        raw(b','.join([DTYPE, SHAPE, b'"data_offsets":[%s,%s]' % (DIGITS[1:] + b'1', DIGITS)])),
        ["'net/w'", '[start, stop]'],
    ),
    'an overlap': (
        container({'net/b': entry(), 'net/w': entry(start=4, stop=12)}, bytes(12)),
        ["'net/w'", 'an overlap'],
    ),
    'two tensors of the same bytes': (
        container({'net/b': entry(), 'net/w': entry()}, bytes(8)),
        ["'net/w'", 'an overlap'],
    ),
    'an empty tensor inside another': (
        container({'net/b': entry(), 'net/w': entry(shape=[0], start=4, stop=4)}, bytes(8)),
        ["'net/w'", 'an overlap'],
    ),
    'a hole': (
        container({'net/b': entry(), 'net/w': entry(start=9, stop=17)}, bytes(17)),
        ["'net/w'", 'a hole'],
    ),
    'a hole before the first tensor': (
        one(bytes(9), data_offsets=[1, 9]),
        ["'net/w'", 'a hole'],
    ),
    'data after the last tensor': (one(bytes(9)), ['to end at byte', 'found 1 more']),
    'data cut short': (one(bytes(7)), ["'net/w'", 'data up to byte', 'a file of']),
    'no data': (one(b''), ["'net/w'", 'data up to byte', 'a file of']),
    'an empty tensor beyond the end': (
        one(b'', shape=[0], data_offsets=[8, 8]),
        ["'net/w'", 'a hole'],
    ),
    'a BOOL that is neither 0 nor 1': (
        one(b'\1\2', dtype='BOOL', data_offsets=[0, 2]),
        ["'net/w'", 'BOOL bytes 0 or 1'],
    ),
    'a Git-LFS pointer': (LFS, ['Git-LFS pointer', 'git lfs pull']),
    'an HTML page': (b'\n<!DOCTYPE html><html></html>', ['HTML']),
    'a zip archive': (zipped(), ['zip archive']),
    'a gzip file': (gzip.compress(NOISE), ['gzip']),
    'a gzip file without a time': (gzip.compress(NOISE, mtime=0), ['gzip']),
    'an old pickle': (pickle.dumps({'w': bytes(99)}, protocol=2), ['pickle']),
    'a new pickle': (pickle.dumps({'w': bytes(99)}, protocol=5), ['pickle']),
    'a NumPy file': (npy(), ['.npy']),
    'an index of shards': (b'{"weight_map": {"net/w": "1.safetensors"}}', ['JSON text']),
    'an empty name': (named(''), ["tensor ''", 'printable name']),
    'a NUL in a name': (named('a\0b'), [r"'a\x00b'", 'printable name']),
    'ANSI in a name': (named('\x1b[31mred'), [r"'\x1b[31mred'", 'printable name']),
    'a line break in a name': (named('a\nb'), [r"'a\nb'", 'printable name']),
    'text from right to left in a name': (named('a\u202eb'), [r"'a\u202eb'", 'printable name']),
    'half a character in a name': (named('a\ud800'), [r"'a\ud800'", 'printable name']),
    'a name that climbs': (named('../w'), ["'../w'", '".." segments']),
    'a name that climbs on its way': (named('a/../w'), ["'a/../w'", '".." segments']),
    'an endless name': (named('\n' * 10**6), [r"'\n\n", 'printable name']),
    'ANSI in a dtype': (one(dtype='\x1b[2J'), ["'net/w'", r"'\x1b[2J'"]),
    'ANSI in a shape': (one(shape='\x1b[2J'), ["'net/w'", r"'\x1b[2J'"]),
    'ANSI in a repeated key': (container(b'{"\\u001b[2J":1,"\\u001b[2J":1}'), [r"'\x1b[2J'"]),
    'a truncated string with a control character': (container(b'{"\x1b[2J'), ['expected JSON']),
}


def read(path):
    """Every tensor of a file, looked at."""
    return {name: np.array(array) for name, array in TensorFile(path).items()}


def refusal(path):
    """The message that the file is refused with."""
    with pytest.raises(bx.CheckpointError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize('case', MALFORMED)
def test_a_malformed_file_is_refused_in_one_line_that_says_what_is_wrong(tmp_path, case):
    content, expected = MALFORMED[case]
    path = tmp_path / 'model.safetensors'
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f'{str(path)!r}: ')
    assert [part for part in expected if part not in message] == []


@pytest.mark.parametrize('case', MALFORMED)
def test_a_refusal_is_short_and_safe_to_print(tmp_path, case):
    path = tmp_path / '\x1b[31mmodel\n.safetensors'
    path.write_bytes(MALFORMED[case][0])
    message = refusal(path)
    assert message.isprintable()
    assert len(message) < 2000


def test_the_sound_file_that_the_malformed_ones_come_from_is_read(tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(one(struct.pack('<2f', 1, 2)))
    assert read(path)['net/w'].tolist() == [1.0, 2.0]


def test_a_header_whose_length_looks_like_gzip_is_read(tmp_path):
    header = json.dumps({'net/w': entry()}).encode()
    (length,) = struct.unpack('<Q', b'\x1f\x8b\x08' + bytes(5))
    (tmp_path / 'a').write_bytes(container(header.ljust(length), bytes(8)))
    assert read(tmp_path / 'a')['net/w'].tolist() == [0.0, 0.0]


def test_a_header_over_16_mib_is_refused_though_the_file_has_room_for_it(tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(struct.pack('<Q', MAX_HEADER_BYTES + 1) + b'{')
    os.truncate(path, 2 * MAX_HEADER_BYTES)
    assert f'at most {MAX_HEADER_BYTES}' in refusal(path)


def test_more_than_100_000_tensors_are_refused(tmp_path):
    path = tmp_path / 'model.safetensors'
    empty = entry(shape=[0], stop=0)
    path.write_bytes(container({str(i): empty for i in range(100_001)}))
    assert 'at most 100000 tensors, found 100001' in refusal(path)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='there are no FIFOs here')
def test_a_fifo_is_refused_without_waiting_for_its_writer(tmp_path):
    os.mkfifo(tmp_path / 'model.safetensors')
    with promptly():
        assert 'regular file' in refusal(tmp_path / 'model.safetensors')


@pytest.mark.parametrize('path', ['.', os.devnull, '/dev/zero'])
def test_a_folder_or_device_is_refused(path):
    with promptly():
        assert 'regular file' in refusal(path)


@pytest.mark.parametrize('target', ['nowhere', 'model.safetensors'])
def test_a_link_that_leads_nowhere_is_an_os_error_that_names_it(tmp_path, target):
    path = tmp_path / 'model.safetensors'
    path.symlink_to(target)
    with promptly(), pytest.raises(OSError, match=r'model\.safetensors'):
        TensorFile(path)


def test_a_file_that_is_not_there_is_an_os_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'model\.safetensors'):
        TensorFile(tmp_path / 'model.safetensors')


def test_an_unreadable_file_is_an_os_error_that_names_it(tmp_path):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(one())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip('this user may read everything')
    with pytest.raises(PermissionError, match=r'model\.safetensors'):
        TensorFile(path)


# What is kept.


def example(dtype, shape):
    """An array whose bytes are all different from their neighbours'."""
    count = math.prod(shape) * dtype.itemsize
    content = (np.arange(count) * 37 % 251).astype(np.uint8)
    content = content % 2 if dtype == np.bool_ else content
    return content.view(dtype).reshape(shape)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize('shape', [(), (0,), (3, 0, 2), (1,), (5,), (2, 3, 4), (64,)])
@pytest.mark.parametrize('code', DTYPES)
def test_every_dtype_and_shape_comes_back(tmp_path, code, shape):
    array = example(DTYPES[code], shape)
    write_tensors(tmp_path / 'a', {'w': array}, {})
    assert same(TensorFile(tmp_path / 'a')['w'], array)


def test_shapes_of_up_to_64_dimensions_come_back(tmp_path):
    array = example(np.dtype(np.float32), (1,) * 62 + (2, 3))
    write_tensors(tmp_path / 'a', {'w': array}, {})
    assert same(TensorFile(tmp_path / 'a')['w'], array)


GRID = np.arange(24, dtype=np.float32).reshape(4, 6)
LAYOUTS = {
    'transposed': GRID.T,
    'Fortran order': np.asfortranarray(GRID),
    'every other row': GRID[::2],
    'every other column': GRID[:, ::2],
    'backwards': GRID[::-1, ::-1],
    'broadcast': np.broadcast_to(GRID[0], (3, 6)),
    'broadcast scalar': np.broadcast_to(np.float32(7), (2, 2)),
    'big-endian': GRID.astype('>f4'),
    'big-endian and transposed': GRID.astype('>f4').T,
    'big-endian integers': np.arange(5, dtype='>i2'),
    'big-endian complex': (GRID[0] * 1j).astype('>c8'),
    'NumPy scalar': np.float32(3),
    'field of a record': np.zeros(3, [('x', '<f4'), ('y', '<i8')])['x'],
    'misaligned': np.frombuffer(bytes(range(9)), np.uint8)[1:].view(np.float32),
    'permuted bfloat16': GRID.astype(jnp.bfloat16).reshape(2, 3, 4).transpose(2, 0, 1),
    'JAX array': jnp.arange(6.0).reshape(2, 3).T,
    'JAX scalar': jnp.float32(3),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_whatever_an_arrays_layout_its_values_are_written(tmp_path, layout):
    array = LAYOUTS[layout]
    write_tensors(tmp_path / 'a', {'w': array, 'other': GRID}, {})
    read = TensorFile(tmp_path / 'a')['w']
    assert read.shape == array.shape
    assert read.dtype == array.dtype.newbyteorder('=')
    assert read.tolist() == array.tolist()


NAMES = st.text(min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and '..' not in name.split('/') and name != '__metadata__'
)


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(sorted(DTYPES.values(), key=str)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    count = math.prod(shape) * dtype.itemsize
    content = draw(st.binary(min_size=count, max_size=count))
    content = bytes(b % 2 for b in content) if dtype == np.bool_ else content
    return np.frombuffer(content, dtype).reshape(shape)


TENSORS = st.dictionaries(NAMES, arrays(), min_size=1, max_size=8)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """A place for one file after the other."""
    return tmp_path_factory.mktemp('files') / 'model.safetensors'


def quick(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@quick(60)
@given(tensors=TENSORS, metadata=st.dictionaries(st.text(max_size=9), st.text(max_size=9)))
def test_any_tensors_and_metadata_come_back(path, tensors, metadata):
    write_tensors(path, tensors, metadata)
    file = TensorFile(path)
    assert file.metadata == metadata
    assert file.keys() == tensors.keys()
    assert all(same(file[name], array) for name, array in tensors.items())


@quick(50)
@given(tensors=TENSORS)
def test_data_and_tensors_of_a_multiple_of_64_bytes_start_on_64(path, tensors):
    write_tensors(path, tensors, {})
    (length,) = struct.unpack('<Q', path.read_bytes()[:8])
    assert (8 + length) % ALIGNMENT == 0
    infos = TensorFile(path).tensors.values()
    multiples = [info for info in infos if (info.stop - info.start) % ALIGNMENT == 0]
    assert [info for info in multiples if info.start % ALIGNMENT] == []


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    metadata = {'b': '1', 'a': '2'}
    write_tensors(tmp_path / 'a', {'w': GRID, 'b': GRID[0]}, metadata)
    write_tensors(
        tmp_path / 'b',
        {'w': jnp.asarray(GRID), 'b': GRID[0].copy()},
        dict(sorted(metadata.items())),
    )
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_views_are_read_only(tmp_path):
    write_tensors(tmp_path / 'a', {'w': GRID}, {})
    with pytest.raises(ValueError, match='read-only'):
        TensorFile(tmp_path / 'a')['w'][0, 0] = 1


def test_a_file_is_a_mapping_that_reads_nothing_until_asked(tmp_path):
    (tmp_path / 'a').write_bytes(one(b'\1\2', dtype='BOOL', data_offsets=[0, 2]))
    file = TensorFile(tmp_path / 'a')
    assert (list(file), len(file), 'net/w' in file, 'w' in file) == (['net/w'], 1, True, False)


# What cannot be written.

UNWRITABLE = {
    'no tensors': ({}, {}, ValueError, 'no tensors'),
    'an empty name': ({'': GRID}, {}, ValueError, "tensor ''"),
    'a name that climbs': ({'../w': GRID}, {}, ValueError, r'\.\./w'),
    'a name with a line break': ({'a\nb': GRID}, {}, ValueError, r"'a\\nb'"),
    'a reserved name': ({'__metadata__': GRID}, {}, ValueError, '__metadata__'),
    'double complex': ({'w': GRID.astype(complex)}, {}, ValueError, "'w'.*complex128"),
    'int4': ({'w': jnp.zeros(2, jnp.int4)}, {}, ValueError, "'w'.*int4"),
    'objects': ({'w': np.array([None])}, {}, ValueError, "'w'.*object"),
    'text': ({'w': np.array(['a'])}, {}, ValueError, "'w'.*<U1"),
    'keys': ({'w': jax.random.key(0)}, {}, ValueError, "'w'.*key<fry>"),
    'a shape': ({'w': jax.ShapeDtypeStruct((2,), np.float32)}, {}, TypeError, "'w'.*ShapeDtype"),
    'metadata that is no string': ({'w': GRID}, {'epoch': 3}, TypeError, 'metadata'),
    'too many tensors': (
        dict.fromkeys(map(str, range(100_001)), np.zeros(0)),
        {},
        ValueError,
        '100001 tensors',
    ),
    'too long a header': ({'w': GRID}, {'a': 'a' * MAX_HEADER_BYTES}, ValueError, '16777216'),
}


@pytest.mark.parametrize('case', UNWRITABLE)
def test_what_cannot_be_read_again_is_not_written(tmp_path, case):
    tensors, metadata, error, message = UNWRITABLE[case]
    with pytest.raises(error, match=message):
        write_tensors(tmp_path / 'a', tensors, metadata)
    assert os.listdir(tmp_path) == []


# The safetensors library.

# Its reader for NumPy knows no F8, though its writer does.
READABLE = [code for code in DTYPES if not code.startswith('F8')]


@pytest.mark.parametrize('code', READABLE)
def test_the_safetensors_library_reads_what_we_write(tmp_path, code):
    tensors = {str(shape): example(DTYPES[code], shape) for shape in [(), (0, 2), (5,), (16, 8)]}
    write_tensors(tmp_path / 'a', tensors, {'made by': 'blox'})
    with safetensors.safe_open(tmp_path / 'a', 'numpy') as file:
        assert file.metadata() == {'made by': 'blox'}
        assert set(file.keys()) == set(tensors)
        assert all(same(file.get_tensor(name), array) for name, array in tensors.items())


@pytest.mark.parametrize('code', DTYPES)
def test_we_read_what_the_safetensors_library_writes(tmp_path, code):
    tensors = {str(shape): example(DTYPES[code], shape) for shape in [(), (0, 2), (5,), (16, 8)]}
    safetensors.numpy.save_file(tensors, tmp_path / 'a', {'format': 'np'})
    file = TensorFile(tmp_path / 'a')
    assert file.metadata == {'format': 'np'}
    assert file.keys() == tensors.keys()
    assert all(same(file[name], array) for name, array in tensors.items())


@pytest.mark.parametrize('code', DTYPES)
def test_the_safetensors_library_finds_our_bytes_where_we_say_they_are(tmp_path, code):
    array = example(DTYPES[code], (5, 3))
    write_tensors(tmp_path / 'a', {'w': array, 'x': GRID}, {})
    found = dict(safetensors.deserialize((tmp_path / 'a').read_bytes()))
    assert found['w']['dtype'] == code
    assert found['w']['shape'] == [5, 3]
    assert bytes(found['w']['data']) == array.tobytes()


# Damage.


def sound_file():
    """The bytes of a small file with most of what a file can have."""
    header = {
        '__metadata__': {'a': 'b'},
        'net/w': entry(shape=[2, 2], stop=16),
        'net/b': entry('BF16', [3], 16, 22),
        'net/on': entry('BOOL', [2], 22, 24),
        'net/none': entry('I8', [0], 24, 24),
        'count': entry('U32', [], 24, 28),
    }
    return container(header, bytes(range(22)) + b'\0\1' + bytes(4))


SOUND = sound_file()
PLACES = st.integers(0, len(SOUND) - 1)
DAMAGE = st.one_of(
    st.tuples(st.just('flip'), PLACES, st.integers(1, 255).map(lambda b: bytes([b]))),
    st.tuples(st.just('replace'), PLACES, st.sampled_from([*b'{}[]",:-.0129eE \\tnu\0\xff'])),
    st.tuples(st.just('truncate'), PLACES, st.just(b'')),
    st.tuples(st.just('insert'), PLACES, st.binary(min_size=1, max_size=4)),
    st.tuples(st.just('remove'), PLACES, st.integers(1, 9)),
)


def damaged(content, damage):
    kind, place, what = damage
    before, after = content[:place], content[place:]
    if kind == 'flip':
        return before + bytes(a ^ b for a, b in zip(after, what)) + after[1:]
    if kind == 'replace':
        return before + bytes([what]) + after[1:]
    if kind == 'remove':
        return before + after[what:]
    return before if kind == 'truncate' else before + what + after


def is_refused_or_whole(path):
    """Whether a file is refused, or else its tensors are all of its data."""
    try:
        tensors = read(path)
    except (bx.CheckpointError, OSError) as error:
        return str(error).isprintable()
    content = path.read_bytes()
    (length,) = struct.unpack('<Q', content[:8])
    return 8 + length + sum(array.nbytes for array in tensors.values()) == len(content)


@quick(400)
@given(damages=st.lists(DAMAGE, min_size=1, max_size=3))
def test_a_damaged_file_is_refused_or_tiled_by_its_tensors(path, damages):
    content = SOUND
    for damage in damages:
        content = damaged(content, damage)
    path.write_bytes(content)
    assert is_refused_or_whole(path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    for length in range(len(SOUND)):
        (tmp_path / 'a').write_bytes(SOUND[:length])
        assert refusal(tmp_path / 'a')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from([('dtype',), ('shape',), ('data_offsets',), ('more',), ()])


@quick(250)
@given(name=st.sampled_from(['net/w', 'count', '__metadata__', 'new']), field=FIELDS, value=JSON)
def test_a_header_with_any_field_changed_is_refused_or_tiles_its_data(path, name, field, value):
    (length,) = struct.unpack('<Q', SOUND[:8])
    header = json.loads(SOUND[8 : 8 + length])
    if field:
        header.setdefault(name, {})[field[0]] = value
    else:
        header[name] = value
    path.write_bytes(container(header, SOUND[8 + length :]))
    assert is_refused_or_whole(path)


def test_a_file_cut_short_after_it_was_opened_is_an_error(tmp_path):
    write_tensors(tmp_path / 'a.safetensors', {'w': np.ones(100_000, np.float32)}, {})
    file = TensorFile(tmp_path / 'a.safetensors')
    os.truncate(tmp_path / 'a.safetensors', 1000)
    with pytest.raises(bx.CheckpointError, match='found it cut short'):
        file['w']
