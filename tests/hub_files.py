"""What tests of the Hub share: a small repository, and what was asked of the server."""

import contextlib
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import digest

from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot

REPO = 'org/name'
CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
FILES = {
    CONFIG: b'{"width": 8}',
    WEIGHTS: bytes(range(256)) * 512,
    'sub/vocab.txt': 'wörter\n'.encode(),
}
OTHER = {CONFIG: b'{"width": 9}', WEIGHTS: b'other' * 1000}
SECRET = 'hf_good'


def fetched(names=tuple(FILES), revision=None):
    """The content of files as fetched."""
    folder = fetch(snapshot(REPO, revision), names)
    return {name: (folder / name).read_bytes() for name in names}


def blob(name, files=FILES):
    """Where huggingface_hub keeps a file's content."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE, 'models--org--name/blobs')
    return folder / digest(name, files[name])


def downloads(server):
    """The files that were sent, in order."""
    sent = [line for line in server.log if line.startswith('GET') and '/resolve/' in line]
    return [line.split('/', 5)[5] for line in sent]


def requests(server, call):
    """How many requests a call makes."""
    server.log.clear()
    call()
    return len(server.log)


def conversions(folder):
    """The conversions that are kept below a folder of caches."""
    return sorted((folder / 'blox').rglob('*.safetensors'))


@contextlib.contextmanager
def full_disk(size):
    """Has the system refuse to write files beyond so many bytes, as it does where a disk is full."""
    resource = pytest.importorskip('resource')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
