"""NumPy's .npz: sound, malformed, damaged."""

import io
import struct
import zipfile
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from containers import HTML, LFS, B, W, npy, one, read, refusal, same, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

import blox as bx
from blox.converters import open_source


def with_header(text, data=b'', version=1):
    """A .npy with this header."""
    text = text.encode('latin1')
    length = struct.pack('<H' if version == 1 else '<I', len(text))
    return b'\x93NUMPY' + bytes([version, 0]) + length + text + data


def shaped(shape, data=b'', descr='<f4'):
    return with_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}", data)


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
