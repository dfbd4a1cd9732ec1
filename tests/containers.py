"""Small files of tensors, sound and broken, and how they are read or refused."""

import io
import json
import zipfile

import numpy as np
import pytest
from helpers import promptly

import blox as bx
from blox.converters import open_source
from blox.tensorfile import write_tensors

W = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(3, dtype=np.float32)
LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:' + b'0' * 64 + b'\nsize 9\n'
HTML = b'\n<!DOCTYPE html><html></html>'


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


def one(content):
    """A .npz of one member, w."""
    return zipped(**{'w.npy': content})


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
