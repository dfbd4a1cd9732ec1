"""Indexes of shards, also in a cache of the Hub."""

import json
import os

import numpy as np
import pytest
from containers import LFS, MAP, SHARDS, B, W, index, read, refusal, safetensors, shards
from helpers import promptly

import blox as bx
from blox.converters import open_source


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
