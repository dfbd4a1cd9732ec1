"""Trainings that go on after an interruption, and folders in which they do not."""

import dataclasses
import json
import shutil

import pytest
from helpers import flip, table
from trainings import (
    PARAMS,
    GoneError,
    files,
    finetune,
    gone,
    in_step,
    interrupted,
    not_a_number,
    shades,
)

import blox as bx
from blox.tensorfile import TensorFile


@pytest.fixture(scope='module', params=[False, True], ids=['whole', 'adapters'])
def undisturbed(request, tmp_path_factory):
    """Params, and the files and the history of a training of them that nothing interrupted."""
    adapted = bx.lora(PARAMS, '**/block*/**/w').unfreeze('**/head/*')
    params = adapted if request.param else PARAMS
    folder = tmp_path_factory.mktemp('undisturbed')
    _, history = finetune(folder / 'm.safetensors', params=params)
    return params, files(folder), history


@pytest.mark.parametrize('at', [1, 2, 4, 9])
def test_what_was_interrupted_goes_on_to_the_very_same_files(undisturbed, tmp_path, at):
    params, expected, history = undisturbed
    interrupted(tmp_path / 'm.safetensors', at, params=params)
    kept = [path.name for path in tmp_path.iterdir()]
    assert kept == (['m.training'] if at > 1 else [])
    _, again = finetune(tmp_path / 'm.safetensors', params=params)
    assert files(tmp_path) == expected
    assert again == history


def test_steps_are_not_taken_twice(tmp_path):
    taken = []
    interrupted(tmp_path / 'm.safetensors', 8, on_epoch=taken.append)
    # Whoever reads the first seven batches once more is told.
    finetune(tmp_path / 'm.safetensors', on_epoch=taken.append, data=in_step({7: gone}))
    assert [row.epoch for row in taken] == [1, 2, 3]


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """A folder with the files of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp('done')
    finetune(folder / 'm.safetensors')
    return folder


def test_a_training_that_ended_while_it_wrote_its_result_writes_it_anew(done, tmp_path):
    (tmp_path / 'm.training').mkdir()
    with pytest.raises(OSError, match='not a regular file'):
        finetune(
            tmp_path / 'm.safetensors',
            on_epoch=lambda row: (tmp_path / 'm.png').mkdir(exist_ok=True),
        )
    assert (tmp_path / 'm.csv').exists()
    (tmp_path / 'm.png').rmdir()
    finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path) == files(done)


def test_a_training_that_ended_before_its_folder_was_removed_removes_it(done, tmp_path):
    def stop(row):
        if row.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / 'm.safetensors', on_epoch=stop)
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path) == files(done)


def test_a_state_that_is_not_finite_takes_no_good_ones_place(done, tmp_path):
    interrupted(tmp_path / 'm.safetensors', 4)
    kept = files(tmp_path / 'm.training')
    with pytest.raises(GoneError):
        finetune(
            tmp_path / 'm.safetensors', data=in_step({4: not_a_number, 5: not_a_number, 6: gone})
        )
    assert files(tmp_path / 'm.training') == kept
    finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path) == files(done)


@pytest.mark.parametrize('epoch', [1, 2, 3])
def test_an_epoch_is_scored_once_though_its_scoring_was_interrupted(done, tmp_path, epoch):
    seen, good = [], shades()

    def read(i, rng):
        seen.append(i)
        if seen.count(1000) == epoch:
            raise GoneError
        return good.read(i, rng)

    rows = []
    with pytest.raises(GoneError):
        finetune(tmp_path / 'm.safetensors', data=dataclasses.replace(good, read=read))
    _, history = finetune(tmp_path / 'm.safetensors', on_epoch=rows.append)
    assert [row.epoch for row in rows] == [*range(epoch, 4)]
    assert [row.step for row in history] == [3, 6, 9]
    assert files(tmp_path) == files(done)


@pytest.fixture(scope='module')
def half_done(tmp_path_factory):
    out = tmp_path_factory.mktemp('half') / 'm.safetensors'
    interrupted(out, 5)
    return out


OTHERS = {
    'epochs': ({'epochs': 4}, 'epochs 4, found 3'),
    'rate': ({'learning_rate': 0.5}, 'learning rate 0.5, found 0.01'),
    'seed': ({'seed': 1}, 'seed 1, found 0'),
    'dtype': ({'dtype': 'bfloat16'}, 'dtype bfloat16, found'),
    'data': (
        {'data': dataclasses.replace(shades(), fingerprint='others')},
        'data others, found shades',
    ),
    'more data': ({'data': shades(25)}, 'examples 25, found 24'),
    'frozen': ({'params': PARAMS.freeze('**/stem/**')}, 'weights'),
}


@table(OTHERS)
def test_another_training_does_not_go_on_from_this_one(half_done, row):
    options, message = row
    with pytest.raises(
        ValueError, match=f"m.training' is of another training: expected.*{message}"
    ):
        finetune(half_done, **options)


def rewritten(saved, folder, change):
    """A folder of the training in `saved`, its tensors and what it says changed."""
    state = saved.with_suffix('.training') / 'state.safetensors'
    about = json.loads(TensorFile(state).metadata['blox.training'])
    params = change(about, bx.load(state))
    (folder / 'm.training').mkdir()
    target = folder / 'm.training' / 'state.safetensors'
    bx.save(target, params, {'blox.training': json.dumps(about)})
    return folder / 'm.safetensors'


FOREIGN = {
    'nothing': (lambda about: about.clear(), 'expected what a training keeps, found {}'),
    'no history': (lambda about: about.pop('history'), 'what a training keeps'),
    'rows': (lambda about: about.update(history=[[1, 2]]), 'what a training keeps'),
    'step': (lambda about: about.update(step='5'), 'what a training keeps'),
    'a negative step': (lambda about: about.update(step=-5), 'what a training keeps'),
    'a step of none': (lambda about: about.update(step=10**9), 'a step of 1 to 9, found 10000000'),
    'an epoch twice': (
        lambda about: about.update(history=2 * about['history']),
        'what a training keeps',
    ),
    'a loss': (lambda about: about['history'][0].__setitem__(2, 1e999), 'Infinity is not JSON'),
    'no epoch': (lambda about: about.update(history=[]), 'do not fit the training'),
}


@table(FOREIGN)
def test_a_state_that_says_nonsense_is_refused(half_done, tmp_path, row):
    spoil, message = row
    out = rewritten(half_done, tmp_path, lambda about, params: (spoil(about), params)[1])
    with pytest.raises(bx.CheckpointError, match=message):
        finetune(out)


def test_a_state_whose_bytes_changed_is_refused(half_done, tmp_path):
    out = rewritten(half_done, tmp_path, lambda about, params: params)
    state = out.with_suffix('.training') / 'state.safetensors'
    (name, *_), tensors = TensorFile(state), TensorFile(state).tensors
    flip(state, tensors[name].start)
    with pytest.raises(
        bx.CheckpointError, match=r'state\.safetensors.*expected the bytes that were'
    ):
        finetune(out)


def test_a_state_of_other_shapes_is_refused(half_done, tmp_path):
    def without(about, params):
        return params.partition(lambda path, _: 'mean' not in path)[0]

    with pytest.raises(bx.CheckpointError, match='do not fit the training'):
        finetune(rewritten(half_done, tmp_path, without))


def test_two_trainings_do_not_write_one_file(tmp_path):
    def second(row):
        with pytest.raises(FileExistsError, match='a training that goes on elsewhere'):
            finetune(tmp_path / 'm.safetensors', seed=1)

    finetune(tmp_path / 'm.safetensors', on_epoch=second)
    assert 'seed 0' in bx.zoo.read_card(tmp_path / 'm.safetensors').training
    assert not (tmp_path / 'm.training').exists()


def test_files_of_others_in_the_folder_stay(tmp_path):
    interrupted(tmp_path / 'm.safetensors', 5)
    (tmp_path / 'm.training' / 'notes.txt').write_text('mine')
    finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path / 'm.training') == {'notes.txt': b'mine'}
