"""Params: one immutable, interned pytree node."""

import concurrent.futures
import copy
import gc
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import treescope
from hypothesis import given
from hypothesis import strategies as st

import blox as bx
from blox.params import as_key


def make(count: int = 12) -> bx.Params:
    """Open Params of `count` blocks with weights and a frozen mean, and an rng."""
    params = bx.Params(seed=0)
    for i in reversed(range(count)):
        params = params.set(f'net/block{i}/w', jnp.full((2, 3), float(i)))
        stat = bx.Param(jnp.zeros(3), trainable=False, metadata={'tag': 'batch_stats'})
        params = params.set(f'net/block{i}/mean', stat)
    return params


def structure(tree):
    return jax.tree.structure(tree)


# Order and mapping access.


def test_paths_are_in_natural_order_whatever_the_order_of_setting():
    paths = [path for path in make() if path.endswith('w')]
    assert paths == [f'net/block{i}/w' for i in range(12)]


def test_params_are_a_mapping_from_path_to_param():
    params = make(1)
    assert len(params) == 3
    assert 'net/block0/w' in params
    assert params['net/block0/w'].shape == (2, 3)
    assert params.get('nowhere') is None
    assert dict(params.items())['net/block0/mean'].metadata == {'tag': 'batch_stats'}
    assert [param.trainable for param in params.values()] == [False, True, False]


def test_the_rng_is_an_entry():
    rng = bx.Params(seed=3)['rng']
    key, counter = rng.value
    assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(3)))
    assert (int(counter), rng.trainable, rng.metadata) == (0, False, {'tag': 'rng'})
    assert (rng.shape, rng.dtype) == ((2,), np.dtype(object))


@pytest.mark.parametrize('seed', [jax.random.key(7), jax.random.PRNGKey(7), 7])
def test_a_seed_is_an_int_or_a_key(seed):
    expected = jax.random.key_data(jax.random.fold_in(jax.random.key(7), 0))
    key, _ = bx.Params(seed=seed).next_key()
    assert jnp.array_equal(jax.random.key_data(key) if key.ndim == 0 else key, expected)


@pytest.mark.parametrize('seed', [1.5, True, 'seed', jnp.ones((2, 2))])
def test_other_seeds_are_refused(seed):
    with pytest.raises(TypeError):
        bx.Params(seed=seed)


# Locked means locked.


def test_an_unknown_path_is_a_key_error_that_names_the_nearest():
    with pytest.raises(KeyError, match=r"'net/block1/v'.*net/block1/w"):
        make().finalize()['net/block1/v']


def test_finalized_params_take_no_new_paths():
    with pytest.raises(KeyError, match=r"'net/new'.*finalized"):
        make().finalize().set('net/new', jnp.ones(1))


def test_setting_keeps_shape_and_dtype():
    params = make(1).cast(jnp.bfloat16)
    assert params.set('net/block0/w', jnp.ones((2, 3)))['net/block0/w'].dtype == jnp.bfloat16
    with pytest.raises(
        ValueError, match=r"'net/block0/w': expected shape \(2, 3\), found \(3, 2\)"
    ):
        params.set('net/block0/w', jnp.ones((3, 2)))
    with pytest.raises(ValueError, match='expected dtype bfloat16, found complex64'):
        params.set('net/block0/w', jnp.ones((2, 3), jnp.complex64))


def test_setting_takes_another_shape_and_dtype_when_asked():
    params = make(1).finalize().set('net/block0/w', jnp.ones(5, jnp.int32), strict=False)
    assert params['net/block0/w'].dtype == jnp.int32
    assert params['net/block0/w'].shape == (5,)


def test_setting_a_value_keeps_flags_and_metadata_and_a_param_replaces_them():
    params = make(1)
    kept = params.set('net/block0/mean', jnp.ones(3))
    assert structure(kept) == structure(params)
    param = bx.Param(jnp.ones(3), metadata={'role': 'scale'})
    replaced = params.set('net/block0/mean', param)['net/block0/mean']
    assert (replaced.trainable, replaced.metadata) == (True, {'role': 'scale'})


@pytest.mark.parametrize('path', ['', '/w', 'net//w', 'net/'])
def test_a_path_with_empty_names_is_refused(path):
    with pytest.raises(ValueError, match='non-empty names'):
        bx.Params().set(path, jnp.ones(1))


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="'net/w' takes an array, found str"):
        bx.Params().set('net/w', 'hello')


@pytest.mark.parametrize('value', [jnp.ones(2), (jnp.ones(2),), 1])
def test_the_rng_is_a_pair(value):
    with pytest.raises(TypeError, match="'rng' is a pair"):
        bx.Params.from_entries({'rng': value})


def test_integers_that_would_be_cut_are_refused():
    with pytest.raises(ValueError, match="'net/count': int64 values do not fit int32"):
        bx.Params().set('net/count', np.array([2**40 + 5]))
    assert bx.Params().set('net/count', np.array([5]))['net/count'].dtype == jnp.int32


def test_one_of_a_kind_is_counted_in_the_singular():
    params = bx.Params.from_entries({'net/w': bx.Param(jnp.ones(()))})
    assert repr(params).startswith('Params(1 entry, 1 parameter, open)')
    with pytest.raises(ValueError, match='matches none of 1 path;'):
        params.freeze('net/b')


def test_trees_of_other_things_than_arrays_have_a_repr():
    flags = jax.tree.map(lambda x: True, make(1))
    assert repr(flags).startswith('Params(3 entries, 0 parameters, open)')


def test_params_cannot_be_changed_in_place():
    params = make(1)
    with pytest.raises(AttributeError, match='immutable'):
        params.value = 1  # pyright: ignore[reportAttributeAccessIssue]
    params['net/block0/mean'].metadata['tag'] = 'gone'  # pyright: ignore[reportIndexIssue]
    assert params['net/block0/mean'].metadata == {'tag': 'batch_stats'}


# One interned structure.


def test_equal_structure_is_the_same_object():
    assert make()._structure is make()._structure
    assert make(2)._structure is not make(3)._structure


@pytest.mark.parametrize('other', [1.0, True, '1', (1,)])
def test_metadata_that_only_looks_equal_is_told_apart(other):
    def tagged(value):
        return bx.Params().set('w', bx.Param(jnp.ones(1), metadata={'a': value}))

    assert tagged(1)._structure is not tagged(other)._structure
    assert tagged(other)._structure is tagged(other)._structure


def test_unhashable_metadata_is_refused():
    with pytest.raises(TypeError, match="metadata of 'w'"):
        bx.Params().set('w', bx.Param(jnp.ones(1), metadata={'a': {}}))


@pytest.mark.parametrize(
    'trip',
    [
        copy.copy,
        copy.deepcopy,
        lambda params: jax.tree.map(lambda x: x, params),
        lambda params: jax.tree.unflatten(*reversed(jax.tree.flatten(params))),
        lambda params: params.partition('**/w')[0].merge(params.partition('**/w')[1]),
        lambda params: params.partition('**/w')[1].merge(params.partition('**/w')[0]),
        lambda params: params.split_trainable()[1].merge(params.split_trainable()[0]),
        jax.jit(lambda params: params),
        lambda params: params.freeze('**/w').unfreeze('**'),
    ],
)
def test_round_trips_keep_the_very_same_structure(trip):
    params = make().finalize()
    assert trip(params)._structure is params._structure


def test_pickles_keep_the_structure_interned():
    params = make()
    restored = pickle.loads(pickle.dumps(params))
    assert restored._structure is params._structure
    assert jnp.array_equal(restored['net/block3/w'].value, params['net/block3/w'].value)


def test_threads_agree_on_a_structure():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: bx.Params().set(f'net/w{i // 4}', jnp.ones(1)), range(200)))
    assert len({params._structure for params in made}) == 50


def test_structures_are_freed_with_their_params():
    params = bx.Params().set('only/here', jnp.ones(1))
    known = type(params._structure)._interned
    assert any('only/here' in s.paths for s in known.values())
    del params
    gc.collect()
    assert not any('only/here' in s.paths for s in known.values())


def test_a_training_loop_traces_once():
    traces = []

    @jax.jit
    def step(params):
        traces.append(1)
        trainable, rest = params.split_trainable()
        return jax.tree.map(lambda x: x + 1, trainable).merge(rest)

    params = make().finalize()
    for _ in range(3):
        params = step(params)
        weights, rest = params.partition('**/w')
        params = rest.merge(jax.tree.map(lambda x: x * 0.5, weights))
    assert len(traces) == 1


def test_key_paths_name_the_entries():
    leaves = jax.tree_util.tree_leaves_with_path(make(1))
    assert jax.tree_util.keystr(leaves[0][0]) == "['net/block0/mean']"


# Dividing and joining.


def test_partition_takes_a_pattern_several_or_a_predicate():
    params = make(2)
    for where in ('**/w', ['net/block0/w', 'net/block1/w'], lambda path, p: path.endswith('w')):
        matching, rest = params.partition(where)
        assert list(matching) == ['net/block0/w', 'net/block1/w']
        assert set(rest) == {'net/block0/mean', 'net/block1/mean', 'rng'}


def test_freezing_and_unfreezing_leave_state_alone():
    params = make(2)
    frozen = params.freeze('net/block0/**')
    assert list(frozen.split_trainable()[0]) == ['net/block1/w']
    assert list(frozen.freeze().unfreeze().split_trainable()[0]) == ['net/block0/w', 'net/block1/w']


def test_merge_takes_the_others_values_where_both_have_a_path():
    params = make(2).finalize()
    update = params.partition('net/block1/w')[0].set('net/block1/w', jnp.ones((2, 3)))
    merged = params.merge(update)
    assert merged['net/block1/w'].value.sum() == 6
    assert merged['net/block0/w'].value.sum() == 0
    assert merged._structure is params._structure


def test_merge_refuses_another_shape():
    with pytest.raises(ValueError, match=r'expected shape \(2, 3\), found \(4,\)'):
        make(1).merge(bx.Params.from_entries({'net/block0/w': jnp.ones(4)}))


def test_merge_is_finalized_if_both_are():
    one, two = make(2).finalize().partition('**/w')
    assert one.merge(two).initialized
    assert not one.merge(bx.Params()).initialized


def test_cast_changes_floats_that_are_named():
    params = make(2).set('net/count', jnp.int32(3)).cast(jnp.bfloat16, 'net/**')
    assert params['net/block0/w'].dtype == jnp.bfloat16
    assert params['net/count'].dtype == jnp.int32
    assert make(1).cast(jnp.float16, '**/mean')['net/block0/w'].dtype == jnp.float32


def test_weights_are_not_cast_to_integers():
    with pytest.raises(ValueError, match='floating-point dtype, found int8'):
        make(1).cast('int8')


def test_numbers_and_bytes_are_counted():
    params = make(2)
    assert (params.num_params, params.nbytes) == (12, 4 * (12 + 6))
    assert params.freeze().num_params == 12


def test_repr_is_readable_and_short():
    text = repr(make(100))
    assert text.startswith('Params(201 entries, 600 parameters, open)')
    assert '  net/block0/w      float32[2,3]' in text
    assert '... 161 more ...' in text
    assert len(text.splitlines()) == 42


# Randomness.


def test_next_key_folds_the_counter_into_the_master_key():
    params = bx.Params(seed=5)
    for count in range(3):
        key, params = params.next_key()
        expected = jax.random.fold_in(jax.random.key(5), count)
        assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(expected))
    assert int(params['rng'].value[1]) == 3


def test_a_seed_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match='at most 64 bits'):
        bx.Params(seed=10**25)


def test_without_an_rng_there_are_no_keys():
    with pytest.raises(KeyError, match=r'Params\(seed=...\)'):
        bx.Params().next_key()


@given(st.permutations(['a/w', 'b/w', 'c/d/w']), st.integers(0, 2**31))
def test_initial_values_do_not_depend_on_the_order_of_calls(order, seed):
    def draw(paths):
        params, drawn = bx.Params(seed=seed), {}
        for path in paths:
            key, params = params.initial_key(path)
            drawn[path] = tuple(jax.random.key_data(key).tolist())
        return drawn, int(params['rng'].value[1])

    assert draw(order) == draw(['a/w', 'b/w', 'c/d/w'])


def test_initial_keys_are_the_same_on_every_machine():
    key, _ = bx.Params(seed=0).initial_key('net/w')
    assert jax.random.key_data(key).tolist() == PINNED_KEY


def test_each_lane_of_vmap_has_its_own_stream_when_asked():
    def lane(params, index):
        key, params = params.fold_rng(index).next_key()
        return jax.random.uniform(key), params

    noise, params = jax.vmap(lane, in_axes=(None, 0))(bx.Params(seed=0), jnp.arange(8))
    assert len(set(noise.tolist())) == 8
    assert params['rng'].value[0].shape == (8,)


def test_lanes_share_no_key_with_the_unfolded_stream():
    params, issued = bx.Params(seed=0), set()
    for _ in range(8):
        key, params = params.next_key()
        issued |= {tuple(row) for row in jax.random.key_data(jax.random.split(key, 8)).tolist()}
        issued.add(tuple(jax.random.key_data(key).tolist()))
    for lane in range(8):
        folded = bx.Params(seed=0).fold_rng(lane)
        assert tuple(jax.random.key_data(folded['rng'].value[0]).tolist()) not in issued
        for _ in range(8):
            key, folded = folded.next_key()
            assert tuple(jax.random.key_data(key).tolist()) not in issued


def test_unfolding_gives_the_master_key_back():
    params = bx.Params(seed=0)
    _, folded = params.fold_rng(3).next_key()
    key, counter = folded.unfold_rng(params)['rng'].value
    assert jnp.array_equal(jax.random.key_data(key), jax.random.key_data(jax.random.key(0)))
    assert int(counter) == 1


PINNED_KEY = [1669559983, 2151393267]


def test_the_dtype_is_that_of_floating_point_values():
    params = bx.Params(seed=0).set('net/count', jnp.zeros(2, jnp.int32))
    with pytest.raises(ValueError, match='no floating-point values among 2 entries'):
        _ = params.dtype
    params = params.set('net/w', jnp.zeros(2, jnp.bfloat16))
    assert params.dtype == jnp.bfloat16
    with jax.numpy_dtype_promotion('standard'):
        assert params.set('net/b', jnp.zeros(2, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize('is_wide', [False, True])
@pytest.mark.parametrize('seed', [0, 1, -1, 2**31, 2**32 + 5, 2**63 - 1, -(2**63)])
def test_an_integer_makes_the_key_that_jax_makes_of_it(seed, is_wide):
    with jax.enable_x64(is_wide):
        made, expected = as_key(seed), jax.random.key(seed)
        assert made.dtype == expected.dtype
        assert jnp.array_equal(jax.random.key_data(made), jax.random.key_data(expected))


# Beside other libraries.


def test_params_are_no_array_to_numpy():
    params = bx.Params.from_entries({'w': jnp.ones(2)})
    for call in (np.asarray, np.sum, jnp.asarray, lambda x: np.testing.assert_allclose(x, x)):
        with pytest.raises(TypeError, match=r'a mapping: params\[path\]\.value'):
            call(params)
        with pytest.raises(TypeError, match=r'is no array: its value is'):
            call(params['w'])
    assert not np.array_equal(params, params)  # type: ignore[arg-type]


def test_cloudpickle_takes_params():
    cloudpickle = pytest.importorskip('cloudpickle')
    params = bx.Params(seed=0).set('net/w', jnp.ones(2)).freeze()
    found = pickle.loads(cloudpickle.dumps(params))
    assert jax.tree.structure(found) == jax.tree.structure(params)


def test_treescope_shows_paths_and_arrays():
    text = treescope.render_to_text(bx.Params.from_entries({'net/w': jnp.ones(2)}))
    assert "'net/w': Param(" in text
    assert '[1., 1.]' in text


def test_what_was_given_away_is_shown_as_deleted():
    params = bx.Params.from_entries({'w': jnp.ones(2)})
    jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(params)
    assert repr(params['w']) == 'Param(deleted float32[2])'
    assert 'deleted float32[2]' in repr(params)


def test_trees_of_other_flags_are_told_apart():
    params = bx.Params.from_entries({'a': jnp.ones(2), 'b': jnp.ones(2)})
    with pytest.raises(ValueError, match=r'(?s)2 of them trainable.*1 of them trainable'):
        jax.tree.map(jnp.add, params, params.freeze('a'))
