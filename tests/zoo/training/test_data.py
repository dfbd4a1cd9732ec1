"""Batches of data, by step."""

import itertools

import numpy as np
import pytest

import blox as bx
from blox.zoo.training.data import IGNORED, batches_to_measure, training_batches


def numbers(count=10):
    """Data whose inputs say which example they are of, and what was drawn for it."""

    def read(i, rng):
        drawn = 0 if rng is None else rng.integers(1, 2**31)
        return np.array([i, drawn], np.int64), np.array(i, np.int32)

    return bx.zoo.Data(range(count), range(count), read)


def take(data, count, size=4, seed=0, start=0):
    batches = training_batches(data, size, seed, start)
    found = [inputs for inputs, _ in itertools.islice(batches, count)]
    batches.close()
    return np.concatenate(found)


@pytest.mark.parametrize('start', [1, 7, 100])
def test_the_batch_of_a_step_depends_on_seed_and_step_alone(start):
    whole = take(numbers(), start + 3).reshape(-1, 4, 2)
    assert (take(numbers(), 3, start=start).reshape(-1, 4, 2) == whole[start:]).all()


@pytest.mark.parametrize('count', [1, 10])
def test_batches_of_one_are_batches(count):
    assert sorted(take(numbers(count), count, size=1)[:, 0].tolist()) == list(range(count))


def test_each_epoch_takes_every_example_once_in_an_order_of_its_own():
    epochs = take(numbers(), 10)[:, 0].reshape(4, 10)
    assert [sorted(epoch) for epoch in epochs.tolist()] == [list(range(10))] * 4
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_another_seed_gives_another_order_and_other_draws():
    first, second = (take(numbers(), 5, seed=seed) for seed in (0, 1))
    assert (first[:, 0] != second[:, 0]).any()
    assert not set(first[:, 1]) & set(second[:, 1])


def test_an_example_is_augmented_in_another_way_in_each_epoch():
    drawn = take(numbers(), 10)[:, 1]
    assert len(set(drawn.tolist())) == 40


def test_batches_to_measure_are_all_of_them_in_order_and_filled_up():
    inputs, targets = map(np.concatenate, zip(*batches_to_measure(numbers(), range(10), 4)))
    assert targets.tolist() == [*range(10), IGNORED, IGNORED]
    assert inputs[:10].tolist() == [[i, 0] for i in range(10)]


def test_what_reading_raises_comes_through():
    def read(i, rng):
        raise ValueError('it is gone')

    with pytest.raises(ValueError, match='it is gone'):
        next(batches_to_measure(bx.zoo.Data([1], [1], read), [1], 1))
