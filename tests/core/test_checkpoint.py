"""Params to a file and back: what is kept, shared and refused."""

import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from helpers import flip
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import blox as bx
from blox.tensorfile import TensorFile, write_tensors


def exists(impl):
    try:
        return jax.random.key(0, impl=impl) is not None
    except ValueError:
        return False


# The last one came after the lowest JAX that we support.
IMPLS = ['threefry2x32', 'rbg', 'unsafe_rbg', *filter(exists, ['threefry4x32'])]


def params_of_all_kinds():
    """Params with whatever Params can have, in a model's size."""
    return bx.Params.from_entries(
        {
            'net/block2/w': jnp.arange(32.0).reshape(4, 8),
            'net/block10/w': bx.Param(jnp.ones((3,), jnp.bfloat16), False),
            'net/norm/mean': bx.Param(
                jnp.zeros((5,)), False, {'tag': 'batch_stats', 'sizes': (1, (2.5, None), True, '')}
            ),
            'net/step': bx.Param(jnp.int32(7), False),
            'net/mask': jnp.array([True, False]),
            'net/none': jnp.zeros((0, 3), jnp.float16),
            'net/z': jnp.complex64(1 + 2j),
        },
        finalized=True,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'model.safetensors'


def saved(path, params):
    """`params` as they come back."""
    bx.save(path, params)
    return bx.load(path)


def same(a, b):
    """Whether two Params have the same structure, and the same bits in it."""
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and data(x).tobytes() == data(y).tobytes()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
    )


def data(array):
    typed = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if typed else array)


# What is kept.


@pytest.mark.parametrize('copy', [False, True])
def test_values_flags_metadata_and_structure_are_kept(path, copy):
    params = params_of_all_kinds()
    bx.save(path, params)
    assert same(bx.load(path, copy=copy), params)


@pytest.mark.parametrize('finalized', [False, True])
def test_whether_params_were_finalized_is_kept(path, finalized):
    params = bx.Params.from_entries({'w': jnp.ones(2)}, finalized=finalized)
    assert saved(path, params).initialized is finalized


def test_a_saved_model_computes_the_same_without_being_traced_again(path):
    traced = []
    model = bx.Linear(bx.Graph('head'), 3)

    @jax.jit
    def apply(params, x):
        traced.append(x.shape)
        return model(params, x)[0]

    x = jnp.ones((2, 4))
    params = bx.init(model, x, seed=3)
    assert (apply(params, x) == apply(saved(path, params), x)).all()
    assert len(traced) == 1


@pytest.mark.parametrize('impl', IMPLS)
def test_a_typed_rng_is_kept_and_goes_on_where_it_was(path, impl):
    _, params = bx.Params(seed=jax.random.key(5, impl=impl)).next_key()
    restored = saved(path, params)
    assert same(restored, params)
    assert same(restored.next_key()[1], params.next_key()[1])
    assert (data(restored.next_key()[0]) == data(params.next_key()[0])).all()


@pytest.mark.parametrize('impl', IMPLS)
def test_a_raw_rng_is_kept_raw(path, impl):
    params = bx.Params(seed=jax.random.PRNGKey(5, impl=impl))
    restored = saved(path, params)
    assert same(restored, params)
    assert restored['rng'].value[0].dtype == jnp.uint32


def test_params_of_several_models_under_vmap_are_kept(path):
    model = bx.Linear(bx.Graph('head'), 3)
    keys = jax.random.split(jax.random.key(0), 4)
    ensemble = jax.vmap(lambda key: bx.init(model, jnp.ones((1, 2)), seed=key))(keys)
    assert same(saved(path, ensemble), ensemble)


def test_metadata_for_the_header_is_kept_beside_our_own(path):
    bx.save(path, params_of_all_kinds(), {'made': 'by hand', 'ünïcode': '\n\0'})
    metadata = TensorFile(path).metadata
    assert (metadata['made'], metadata['ünïcode']) == ('by hand', '\n\0')
    assert same(bx.load(path), params_of_all_kinds())


def test_the_same_params_give_the_same_bytes(tmp_path):
    params = params_of_all_kinds().merge(bx.Params(seed=1))
    entries = {name: params[name] for name in reversed(list(params))}
    bx.save(tmp_path / 'a', params, {'a': '1', 'b': '2'})
    bx.save(tmp_path / 'b', bx.Params.from_entries(entries), {'b': '2', 'a': '1'})
    bx.save(tmp_path / 'c', bx.load(tmp_path / 'a'), {'a': '1', 'b': '2'})
    a, b, c = ((tmp_path / name).read_bytes() for name in 'abc')
    assert a == b == c


def test_params_may_be_saved_over_the_file_that_they_came_from(path):
    params = saved(path, params_of_all_kinds())
    for _ in range(3):
        params = saved(path, params)
    assert same(params, params_of_all_kinds())


@pytest.mark.parametrize('spec', [('x',), (None, 'x'), ('x', 'y'), (('x', 'y'),), ()])
def test_arrays_that_lie_on_several_devices_are_saved_whole(path, spec):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ('x', 'y'))
    params = bx.Params.from_entries({'w': jnp.arange(64.0).reshape(8, 8)})
    spread = jax.device_put(params, NamedSharding(mesh, PartitionSpec(*spec)))
    assert same(saved(path, spread), params)


# Without copies.

needs_maps = pytest.mark.skipif(
    not os.path.exists('/proc/self/maps'), reason='where memory comes from is not told here'
)


def is_mapped(array, path):
    """Whether an array's memory is that of a mapped file."""
    pointer = array.unsafe_buffer_pointer()
    with open('/proc/self/maps') as maps:
        for line in maps:
            start, stop = (int(number, 16) for number in line.split()[0].split('-'))
            if start <= pointer < stop:
                return path.name in line
    return False


def big(seed=0.0):
    """Params whose tensors all have a multiple of 64 bytes."""
    return bx.Params.from_entries(
        {'w': jnp.full((64, 64), seed), 'b': jnp.full((128,), seed, jnp.bfloat16)}
    )


@needs_maps
def test_loaded_arrays_are_the_mapped_files_memory(path):
    loaded = saved(path, big())
    assert [is_mapped(param.value, path) for param in loaded.values()] == [True, True]


@needs_maps
def test_copies_are_not(path):
    bx.save(path, big())
    loaded = bx.load(path, copy=True)
    assert [is_mapped(param.value, path) for param in loaded.values()] == [False, False]


@pytest.mark.parametrize('copy', [False, True])
def test_loaded_params_outlive_a_new_save(path, copy):
    bx.save(path, big(1.0))
    loaded = bx.load(path, copy=copy)
    bx.save(path, big(2.0))
    assert same(loaded, big(1.0))
    assert same(bx.load(path), big(2.0))


def test_loaded_params_outlive_their_file(path):
    loaded = saved(path, big(1.0))
    path.unlink()
    assert same(loaded, big(1.0))


def test_a_copy_outlives_even_a_file_that_is_overwritten_in_place(path):
    bx.save(path, big(1.0))
    loaded = bx.load(path, copy=True)
    path.write_bytes(bytes(path.stat().st_size))
    assert same(loaded, big(1.0))


def test_donating_loaded_arrays_leaves_the_file_and_other_loads_as_they_are(path):
    bx.save(path, big(1.0))
    content, other = path.read_bytes(), bx.load(path)
    double = jax.jit(lambda params: jax.tree.map(lambda x: x + x, params), donate_argnums=0)
    params = bx.load(path)
    for _ in range(3):
        params = double(params)
    assert same(params, big(8.0))
    assert path.read_bytes() == content
    assert same(other, big(1.0))


# Files that others wrote.


def test_a_file_of_the_safetensors_library_gives_params_by_its_names(path):
    tensors = {
        'layer.10.weight': np.ones((2, 3), np.float32),
        'layer.9.weight': np.ones((2, 3), np.float16),
        'layer.9.count': np.array(3, np.int32),
    }
    safetensors.numpy.save_file(tensors, path, {'format': 'np'})
    loaded = bx.load(path)
    assert list(loaded) == ['layer.9.count', 'layer.9.weight', 'layer.10.weight']
    assert [param.trainable for param in loaded.values()] == [False, True, True]
    assert loaded.initialized
    assert all((loaded[name].value == tensors[name]).all() for name in tensors)


def test_the_safetensors_library_reads_saved_params(path):
    params = params_of_all_kinds().partition('net/block*/w')[0]
    bx.save(path, params, {'by': 'us'})
    with safetensors.safe_open(path, 'numpy') as file:
        assert file.metadata()['by'] == 'us'
        assert sorted(file.keys()) == sorted(params)
        assert (file.get_tensor('net/block2/w') == params['net/block2/w'].value).all()


@pytest.mark.parametrize('name', ['rng', '/w', 'w/', 'net//w'])
def test_a_file_whose_names_are_no_paths_is_refused(path, name):
    write_tensors(path, {name: np.ones(2)[:1].astype(np.float32)}, {})
    assert repr(name) in refusal(path)


@pytest.mark.parametrize('dtype', [np.int64, np.uint64, np.float64])
def test_64_bits_are_refused_by_name_unless_jax_has_them(path, dtype):
    write_tensors(path, {'small': np.ones(2, np.int32), 'net/wide': np.ones(2, dtype)}, {})
    message = refusal(path)
    assert "tensor 'net/wide'" in message
    assert np.dtype(dtype).name in message
    assert 'jax_enable_x64' in message


@pytest.mark.parametrize('dtype', [np.int64, np.uint64, np.float64])
@pytest.mark.usefixtures('x64')
def test_where_jax_has_64_bits_they_are_kept(path, dtype):
    big_number = np.array([2**53 - 1], dtype)
    params = bx.Params.from_entries({'net/wide': jnp.asarray(big_number)})
    loaded = saved(path, params)
    assert same(loaded, params)
    assert loaded['net/wide'].value.dtype == dtype
    assert int(loaded['net/wide'].value[0]) == 2**53 - 1


# What is refused at loading.


def refusal(path):
    """The message, in one printable line that names the file, with which it is refused."""
    with pytest.raises(bx.CheckpointError) as caught:
        bx.load(path)
    message = str(caught.value)
    assert message.startswith(f'{str(path)!r}: ')
    assert message.isprintable()
    assert len(message) < 2000
    return message


SOUND = {'finalized': True, 'frozen': ['b', 'rng'], 'metadata': {'b': {'tag': 'x'}}}
TENSORS = {
    'w': np.ones((2, 2), np.float32),
    'b': np.ones(2, np.float32),
    'rng/key': np.zeros(2, np.uint32),
    'rng/counter': np.zeros((), np.uint32),
}


def with_description(path, changes=None, tensors=None, text=None):
    """A file, sound but for the changes to its description and tensors."""
    fields = {**SOUND, 'rng': 'threefry2x32', **(changes or {})}
    fields = {name: value for name, value in fields.items() if value is not ABSENT}
    found = {**TENSORS, **(tensors or {})}
    found = {name: value for name, value in found.items() if value is not ABSENT}
    write_tensors(path, found, {'blox.params': text or json.dumps(fields)})


ABSENT = object()

DESCRIPTIONS = {
    'finalized is missing': ({'finalized': ABSENT}, 'expected finalized, frozen and metadata'),
    'finalized is a number': ({'finalized': 1}, 'expected finalized, frozen and metadata'),
    'finalized is text': ({'finalized': 'true'}, 'expected finalized, frozen and metadata'),
    'finalized is null': ({'finalized': None}, 'expected finalized, frozen and metadata'),
    'frozen is missing': ({'frozen': ABSENT}, 'expected finalized, frozen and metadata'),
    'frozen is text': ({'frozen': 'b'}, "'frozen': 'b'"),
    'frozen is an object': ({'frozen': {'b': True}}, "'frozen': {'b': True}"),
    'frozen is null': ({'frozen': None}, "'frozen': None"),
    'frozen has a number': ({'frozen': ['b', 3]}, "'frozen': ['b', 3]"),
    'frozen has a list': ({'frozen': [['b']]}, "'frozen': [['b']]"),
    'frozen has an unknown path': ({'frozen': ['b', 'c']}, "expected paths of tensors, found ['c"),
    'frozen has ANSI': ({'frozen': ['\x1b[2J']}, r"['\x1b[2J']"),
    'frozen goes on and on': ({'frozen': [f'\n{i}' for i in range(10**5)]}, 'expected paths'),
    'metadata is missing': ({'metadata': ABSENT}, 'expected finalized, frozen and metadata'),
    'metadata is a list': ({'metadata': []}, "'metadata': []"),
    'metadata is null': ({'metadata': None}, "'metadata': None"),
    'metadata has text': ({'metadata': {'b': 'tag'}}, "{'b': 'tag'}"),
    'metadata has null': ({'metadata': {'b': None}}, "{'b': None}"),
    'metadata has an unknown path': (
        {'metadata': {'c': {}}},
        "expected paths of tensors, found ['c",
    ),
    'metadata is nested': ({'metadata': {'b': {'tag': {'a': 1}}}}, "metadata of 'b'"),
    'metadata is nested in a list': ({'metadata': {'b': {'tag': [{}]}}}, "metadata of 'b'"),
    'metadata is of the rng where none is': (
        {'rng': ABSENT, 'frozen': [], 'metadata': {'rng': {'tag': 'rng'}}},
        "found ['rng']",
    ),
    'the rng is frozen where none is': ({'rng': ABSENT}, "found ['rng']"),
    'there is one more field': ({'version': 2}, "'version': 2"),
    'the rng is of an unknown kind': ({'rng': 'dice'}, 'rng cannot be restored'),
    'the kind of rng has ANSI': ({'rng': '\x1b[31m'}, 'rng cannot be restored'),
    'the kind of rng is a number': ({'rng': 3}, 'rng cannot be restored'),
    'the kind of rng is a bool': ({'rng': False}, 'rng cannot be restored'),
    'the kind of rng is a list': ({'rng': ['rbg']}, 'rng cannot be restored'),
    'the kind of rng is an object': ({'rng': {}}, 'rng cannot be restored'),
    'the key is of another kind': ({'rng': 'rbg'}, 'rng cannot be restored'),
}


@pytest.mark.parametrize('case', DESCRIPTIONS)
def test_a_description_is_refused_if(path, case):
    changes, expected = DESCRIPTIONS[case]
    with_description(path, changes)
    assert expected in refusal(path)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('', 'expected JSON'),
        ('{', 'expected JSON'),
        ('[]', 'expected a JSON object, found list'),
        ('null', 'expected a JSON object, found NoneType'),
        ('{"finalized": NaN}', 'NaN is not JSON'),
        ('{"frozen": [], "frozen": []}', "key 'frozen' stands there twice"),
        ('[' * 100_000, 'nested too deeply'),
    ],
)
def test_a_description_that_is_no_json_object_is_refused(path, text, expected):
    write_tensors(path, TENSORS, {'blox.params': text})
    message = refusal(path)
    assert 'blox.params' in message
    assert expected in message


BAD_RNGS = {
    'no key': ({'rng/key': ABSENT}, "expected a tensor 'rng/key', found none"),
    'no counter': ({'rng/counter': ABSENT}, "expected a tensor 'rng/counter', found none"),
    'a float key': ({'rng/key': np.zeros(2, np.float32)}, 'uint32 words, found float32(2,)'),
    'a scalar key': ({'rng/key': np.zeros((), np.uint32)}, 'uint32 words, found uint32()'),
    'a signed counter': ({'rng/counter': np.zeros((), np.int32)}, 'counter, found int32()'),
    'a float counter': ({'rng/counter': np.zeros((), np.float32)}, 'counter, found float32()'),
    'too many counters': ({'rng/counter': np.zeros(3, np.uint32)}, 'counter, found uint32(3,)'),
    'a tensor in its place': ({'rng': np.zeros(2, np.uint32)}, "tensor 'rng'"),
}


@pytest.mark.parametrize('impl', ['threefry2x32', None])
@pytest.mark.parametrize('case', BAD_RNGS)
def test_an_rng_cannot_be_restored_from(path, case, impl):
    tensors, expected = BAD_RNGS[case]
    with_description(path, {'rng': impl}, tensors)
    assert expected in refusal(path)


def test_a_key_of_the_wrong_size_for_its_kind_is_refused(path):
    with_description(path, tensors={'rng/key': np.zeros(3, np.uint32)})
    assert 'rng cannot be restored' in refusal(path)


def test_the_sound_description_that_the_malformed_ones_come_from_is_read(path):
    with_description(path)
    loaded = bx.load(path)
    assert {name: param.trainable for name, param in loaded.items()} == {
        'b': False,
        'rng': False,
        'w': True,
    }


@pytest.mark.parametrize('kind', ['folder', 'nothing'])
def test_what_is_no_file_is_an_error_that_names_it(tmp_path, kind):
    (tmp_path / 'folder').mkdir()
    with pytest.raises((bx.CheckpointError, OSError), match=kind):
        bx.load(tmp_path / kind)


# What is refused at saving.


def entry_with(metadata):
    return bx.Params.from_entries({'net/w': bx.Param(jnp.ones(2), True, metadata)})


UNSAVABLE = {
    'nothing': (bx.Params(), ValueError, 'no tensors'),
    'shapes alone': (
        bx.Params.from_entries({'net/w': jax.ShapeDtypeStruct((2,), jnp.float32)}),
        TypeError,
        'are a spec',
    ),
    'int4': (bx.Params.from_entries({'net/w': jnp.ones(2, jnp.int4)}), ValueError, "'net/w'.*int4"),
    'a key that is not the rng': (
        bx.Params.from_entries({'net/key': jax.random.key(0)}),
        ValueError,
        "'net/key'.*key<fry>",
    ),
    'a name that climbs': (
        bx.Params.from_entries({'net/../w': jnp.ones(2)}),
        ValueError,
        'net/../w',
    ),
    'a name with a line break': (bx.Params.from_entries({'a\nb': jnp.ones(2)}), ValueError, 'a.nb'),
    'a module whose key stands where the rng goes': (
        bx.Params(seed=0).set('rng/key', jnp.ones(2)),
        ValueError,
        "'rng/key'.*rename",
    ),
    'a module whose counter stands where the rng goes': (
        bx.Params(seed=0).set('rng/counter', jnp.ones(2)),
        ValueError,
        "'rng/counter'.*rename",
    ),
    'metadata that is NaN': (entry_with({'a': float('nan')}), ValueError, "metadata of 'net/w'"),
    'metadata that is infinite': (
        entry_with({'a': float('inf')}),
        ValueError,
        "metadata of 'net/w'",
    ),
    'metadata that is a set': (entry_with({'a': frozenset()}), ValueError, "metadata of 'net/w'"),
    'metadata that is a type': (entry_with({'a': int}), ValueError, "metadata of 'net/w'"),
    'metadata that comes back as another type': (
        entry_with({'a': (1, np.float64(2))}),
        ValueError,
        "metadata of 'net/w'",
    ),
}


@pytest.mark.parametrize('case', UNSAVABLE)
def test_what_would_not_come_back_is_not_saved(path, case):
    params, error, message = UNSAVABLE[case]
    path.write_bytes(b'old')
    with pytest.raises(error, match=message):
        bx.save(path, params)
    assert path.read_bytes() == b'old'
    assert os.listdir(path.parent) == [path.name]


def test_header_metadata_that_is_no_text_is_refused(path):
    with pytest.raises(TypeError, match='metadata'):
        bx.save(path, params_of_all_kinds(), {'epoch': 3})  # pyright: ignore[reportArgumentType]
    assert not path.exists()


def test_a_module_called_rng_is_saved_beside_the_rng(path):
    params = bx.Params(seed=0).set('rng/w', jnp.ones(2)).set('rng/key/w', jnp.ones(3))
    assert same(saved(path, params), params)


def test_a_module_called_rng_may_have_a_key_and_a_counter_where_there_is_no_rng(path):
    params = bx.Params.from_entries({'rng/key': jnp.ones(2), 'rng/counter': jnp.ones(())})
    assert same(saved(path, params), params)


def test_params_that_are_being_traced_are_not_saved(path):
    path.write_bytes(b'old')
    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(lambda params: bx.save(path, params))(big())
    assert path.read_bytes() == b'old'
    assert os.listdir(path.parent) == [path.name]


def test_params_whose_arrays_were_donated_are_not_saved(path):
    params = big()
    for param in params.values():
        param.value.delete()
    path.write_bytes(b'old')
    with pytest.raises(RuntimeError, match='deleted'):
        bx.save(path, params)
    assert path.read_bytes() == b'old'
    assert os.listdir(path.parent) == [path.name]


# Digests.


def test_a_check_finds_a_byte_that_changed_in_any_tensor(path):
    params = params_of_all_kinds()
    bx.save(path, params)
    content = path.read_bytes()
    assert same(bx.load(path, check=True), params)
    for name, info in TensorFile(path).tensors.items():
        if info.stop > info.start:
            path.write_bytes(content)
            flip(path, info.start)
            with pytest.raises(bx.CheckpointError, match=f'tensor {name!r}: expected the bytes'):
                bx.load(path, check=True)


def test_a_file_without_digests_is_loaded_but_not_checked(path):
    write_tensors(path, {'w': np.ones(2, np.float32)}, {})
    assert bx.load(path)['w'].shape == (2,)
    with pytest.raises(bx.CheckpointError, match='expected a digest of each tensor, found none'):
        bx.load(path, check=True)


@pytest.mark.parametrize('digests', ['{}', '{"w":"0","v":"0"}', '[]', '{"w":1}'])
def test_digests_of_other_tensors_are_refused(path, digests):
    write_tensors(path, {'w': np.ones(2, np.float32)}, {'blox.sha256': digests})
    with pytest.raises(bx.CheckpointError, match=r'digest|bytes that were saved|JSON object'):
        bx.load(path, check=True)


def test_digests_are_those_of_the_bytes(path):
    bx.save(path, bx.Params.from_entries({'w': jnp.arange(5.0)}))
    stated = json.loads(TensorFile(path).metadata['blox.sha256'])
    assert stated.keys() == {'w', '__metadata__'}
    assert stated['w'] == hashlib.sha256(np.arange(5, dtype='<f4').tobytes()).hexdigest()


HEADERS = {
    'a dtype': (b'"F16"', b'"U16"'),
    'a shape': (b'[4,2]', b'[2,4]'),
    'what is said': (b'said so', b'said no'),
}


@pytest.mark.parametrize(('before', 'after'), HEADERS.values(), ids=HEADERS)
def test_a_check_finds_another_header(path, before, after):
    entries = {'w': jnp.ones((4, 2), jnp.float16), 'v': jnp.ones(3)}
    bx.save(path, bx.Params.from_entries(entries), {'about': 'said so'})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], 'little')
    header = content[8 : 8 + length].replace(before, after).rstrip().ljust(length)
    path.write_bytes(content[:8] + header + content[8 + length :])
    assert before in content
    with pytest.raises(bx.CheckpointError, match='expected the header that was saved'):
        bx.load(path, check=True)


def test_the_entry_of_digests_is_no_ones_else(path):
    with pytest.raises(ValueError, match=r"'blox\.sha256' is where the file keeps digests"):
        bx.save(path, params_of_all_kinds(), {'blox.sha256': '{}'})
