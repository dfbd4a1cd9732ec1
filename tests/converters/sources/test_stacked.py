"""Tensors that hold all blocks, seen block by block."""

import pathlib

import numpy as np
import pytest
from containers import B, W, same
from helpers import promptly

import blox as bx
from blox.converters import open_source
from blox.converters.sources.source import Source
from blox.converters.sources.stacked import unstacked
from blox.converters.sources.tensor import Tensor


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
