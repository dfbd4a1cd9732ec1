"""Averages of weights beside them, by names alone."""

import logging

import numpy as np
import pytest
from containers import safetensors

import blox as bx
from blox.converters import open_source
from blox.converters.sources.states import prefixes

PLAIN = {'model.norm.weight': 1, 'model.norm.bias': 1}
FLAT = {
    'Lightning with an average': (
        {'ema_model.norm.weight': 2, 'ema_model.norm.bias': 2},
        'ema_model',
    ),
    'wrapped once more': ({'ema.module.norm.weight': 2, 'ema.module.norm.bias': 2}, 'ema'),
    'of a part': ({'model_ema.norm.weight': 2}, 'model_ema'),
    'with its counters': (
        {'model_ema.norm.weight': 2, 'model_ema.decay': 2, 'model_ema.num_updates': 2},
        'model_ema',
    ),
}


def written(folder, numbers):
    arrays = {name: np.full(1, value, np.float32) for name, value in numbers.items()}
    return safetensors(folder / 'a.safetensors', **arrays)


@pytest.mark.parametrize('case', FLAT)
def test_an_average_beside_the_weights_is_left_out_or_taken(tmp_path, caplog, case):
    average, name = FLAT[case]
    path = written(tmp_path, {**PLAIN, **average})
    with caplog.at_level(logging.INFO, 'blox'):
        assert open_source(path).tensors.keys() == PLAIN.keys()
    said = f"left out {len(average)} tensors under '{name}.', an average: state='{name}' takes them"
    assert said in caplog.text
    assert open_source(path, name).tensors.keys() == average.keys()


@pytest.mark.parametrize(
    'more', [{'ema_model.other.weight': 2}, {'emas.norm.weight': 2}, {'teacher.norm.weight': 2}]
)
def test_what_is_no_average_of_the_weights_stays(tmp_path, more):
    path = written(tmp_path, {**PLAIN, **more})
    assert open_source(path).tensors.keys() == {*PLAIN, *more}


def test_an_average_alone_is_not_left_out(tmp_path):
    path = written(tmp_path, {'ema_model.norm.weight': 2})
    assert open_source(path).tensors.keys() == {'ema_model.norm.weight'}


def test_a_state_that_is_not_there_is_named_with_those_that_are(tmp_path):
    path = written(tmp_path, PLAIN)
    with pytest.raises(
        bx.CheckpointError, match=r"'ema', or .* 'ema\.'; found names .* with model"
    ):
        open_source(path, 'ema')


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['a.w'], ['']),
        (['module.a'], ['', 'module.']),
        (['module.a', 'module.b', 'n', 'net.c'], ['', 'module.']),
        (['model.net.a', 'model.net.b', 'model.c'], ['', 'model.', 'model.net.']),
        (['modules.a', 'model'], ['']),
        (['module.' * 10**5 + 'a'], [*('module.' * i for i in range(9))]),
        ([], ['']),
    ],
)
def test_prefixes_are_those_of_most_names(names, expected):
    assert prefixes(names, '') == expected
