"""Conversions: made once, kept, swept."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from helpers import message, table
from hub_files import CONFIG, FILES, OTHER, REPO, WEIGHTS, downloads, fetched, full_disk
from hub_server import Fault, HubServer, commit_of

from blox import CheckpointError
from blox.zoo.loading.conversions import converted, kept
from blox.zoo.loading.hub.cache import own_folder
from blox.zoo.loading.hub.snapshots import snapshot

FAMILY = 'vit'


@pytest.fixture
def server(monkeypatch, tmp_path):
    with HubServer({REPO: {'main': FILES}}) as server:
        server.connect(monkeypatch, tmp_path)
        yield server


def upper(folder, out):
    """A conversion."""
    out.write_bytes((folder / CONFIG).read_bytes().upper())


def made(family=FAMILY, convert=upper) -> Any:
    """The conversion of what the main branch holds."""
    return converted(snapshot(REPO), family, convert)


def again(folder, out):
    """A conversion that must not be needed."""
    raise AssertionError


def test_a_conversion_is_made_once(server):
    assert kept(snapshot(REPO)) is None
    path = made()
    assert path.read_bytes() == FILES[CONFIG].upper()
    assert made(convert=again) == kept(snapshot(REPO)) == path


def test_a_conversion_needs_neither_the_hub_nor_the_download(server, offline):
    found = snapshot(REPO)
    path = made()
    shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE)
    server.log.clear()
    assert converted(found, FAMILY, again) == kept(found) == path
    assert server.log == []
    offline()
    assert kept(snapshot(REPO)) == path


def test_another_family_or_other_files_make_another_conversion(server):
    paths = {made(), made('gpt2')}
    server.put(REPO, {**FILES, 'tokenizer.json': b'{}'})
    paths.add(made())
    server.put(REPO, OTHER)
    paths.add(made())
    assert len(paths) == 4


def test_a_commit_that_left_the_files_as_they_were_makes_no_other_conversion(server):
    path = made()
    server.put(REPO, {**FILES, 'README.md': b'new'})
    assert made(convert=again) == path


# What is swept.


def test_a_new_conversion_sweeps_what_no_key_names(server):
    old, unfinished = (own_folder(REPO) / f'{name}.safetensors' for name in ('0' * 64, 'part-0'))
    snapshot(REPO)
    for path in (old, unfinished):
        path.write_bytes(b'by another version')
    path = made()
    assert [*own_folder(REPO).glob('*.safetensors')] == [path]


def test_a_new_conversion_keeps_those_of_known_commits(server):
    first = made()
    server.put(REPO, OTHER)
    assert made() != first
    assert kept(snapshot(REPO, commit_of(FILES))) == first


def test_a_new_conversion_sweeps_those_of_commits_that_nobody_knows(server):
    first = made()
    shutil.rmtree(own_folder(REPO) / 'snapshots')
    server.put(REPO, OTHER)
    second = made()
    assert [*own_folder(REPO).glob('*.safetensors')] == [second] != [first]


def test_other_repositories_are_not_swept(server):
    first = made()
    server.put('org/other', OTHER)
    converted(snapshot('org/other'), FAMILY, upper)
    assert kept(snapshot(REPO)) == first


# Failures.


def test_a_conversion_that_fails_leaves_nothing(server):
    def fails(folder, out):
        out.write_bytes(b'half')
        raise CheckpointError('no')

    assert message(CheckpointError, lambda: made(convert=fails)) == 'no'
    assert [*own_folder(REPO).glob('*.safetensors')] == []
    assert made().read_bytes() == FILES[CONFIG].upper()


def test_a_cache_that_is_a_file_keeps_no_conversion(server, tmp_path, caplog):
    (tmp_path / 'blox').write_bytes(b'')
    assert made() is None
    assert 'BLOX_CACHE' in caplog.text
    assert fetched() == FILES


def test_a_cache_that_cannot_be_written_keeps_no_conversion(unprivileged, caplog):
    (unprivileged / 'blox').mkdir(mode=0o555)
    assert made() is None
    assert 'BLOX_CACHE' in caplog.text
    assert fetched() == FILES


FULL = {
    'no room': OSError(errno.ENOSPC, 'No space left on device'),
    'a quota': OSError(errno.EDQUOT, 'Quota exceeded'),
    'a limit': OSError(errno.EFBIG, 'File too large'),
}


@table(FULL)
def test_a_disk_that_is_full_keeps_no_conversion(row, server, caplog):
    def fills(folder, out):
        out.write_bytes(b'half')
        raise row

    assert made(convert=fills) is None
    (said,) = caplog.messages
    assert all(part in said for part in (os.strerror(row.errno), 'make room', 'BLOX_CACHE'))
    assert str(own_folder(REPO)) in said
    assert [*own_folder(REPO).glob('*.safetensors')] == []
    assert fetched() == FILES
    assert made().read_bytes() == FILES[CONFIG].upper()


def test_a_disk_that_fills_up_while_it_converts_keeps_no_conversion(server, caplog):
    fetched()
    with full_disk(1_000):
        assert made(convert=lambda folder, out: shutil.copy(folder / WEIGHTS, out)) is None
    (said,) = caplog.messages
    assert os.strerror(errno.EFBIG) in said
    assert [*own_folder(REPO).glob('*.safetensors')] == []


def test_what_cannot_be_read_while_it_converts_is_an_error(server):
    def reads(folder, out):
        (folder / 'nosuch').read_bytes()

    assert 'nosuch' in message(FileNotFoundError, lambda: made(convert=reads))


def test_a_folder_that_became_read_only_keeps_no_conversion(unprivileged, caplog):
    made('gpt2')
    own_folder(REPO).chmod(0o555)
    assert made() is None
    (said,) = caplog.messages
    assert os.strerror(errno.EACCES) in said
    own_folder(REPO).chmod(0o755)


def test_a_download_folder_that_cannot_be_written_serves_what_it_has(unprivileged):
    before = fetched()
    for path in (unprivileged / 'hf').rglob('*'):
        if path.is_dir():
            path.chmod(0o555)
    assert fetched() == before
    assert made().read_bytes() == FILES[CONFIG].upper()


# Several processes, and ones that are killed.

SCRIPT = """
import sys, time
from pathlib import Path
from blox.zoo.loading.conversions import converted
from blox.zoo.loading.hub.snapshots import snapshot

log = Path(sys.argv[2])

def convert(folder, out):
    with open(log, 'a') as file:
        file.write('converted ')
    out.write_bytes((folder / 'model.safetensors').read_bytes()[:1000])
    time.sleep(float(sys.argv[1]))

print(converted(snapshot('org/name'), 'vit', convert))
"""


def start(server, tmp_path, pause=0.0):
    """Another process that loads and converts, taking so many seconds more."""
    return subprocess.Popen(
        [sys.executable, '-c', SCRIPT, str(pause), str(tmp_path / 'log')],
        env={**os.environ, **server.environment(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def printed(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output.strip()


def kill_when(process, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def partial(folder, pattern):
    """Whether a file that is not whole is there with some content."""
    return any(path.is_file() and path.stat().st_size for path in folder.rglob(pattern))


def test_of_two_processes_one_downloads_and_converts(server, tmp_path):
    first, second = start(server, tmp_path, 1.0), start(server, tmp_path, 1.0)
    paths = {printed(first), printed(second)}
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == FILES[WEIGHTS][:1000]
    assert (tmp_path / 'log').read_text() == 'converted '
    assert len(downloads(server)) == 2


def test_after_a_kill_while_it_downloads_the_next_one_gets_it_whole(server, tmp_path):
    server.faults[REPO, WEIGHTS] = Fault(until=threading.Event(), methods=('GET',), times=1)
    killed = start(server, tmp_path)
    kill_when(killed, lambda: any(WEIGHTS in line for line in downloads(server)))
    server.faults.clear()
    assert Path(printed(start(server, tmp_path))).read_bytes() == FILES[WEIGHTS][:1000]
    assert fetched() == FILES


def test_after_a_kill_while_it_converts_the_next_one_converts(server, tmp_path):
    kill_when(start(server, tmp_path, 100), lambda: partial(tmp_path / 'blox', 'part-*'))
    path = Path(printed(start(server, tmp_path)))
    assert path.read_bytes() == FILES[WEIGHTS][:1000]
    assert (tmp_path / 'log').read_text() == 'converted converted '
    assert not partial(tmp_path / 'blox', 'part-*')
