"""What the Hub is told, and what is said of its errors."""

import errno
import os

import huggingface_hub
import pytest
from helpers import message
from hub_files import CONFIG, FILES, REPO, SECRET, WEIGHTS, fetched, full_disk

from blox import __version__
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot


def test_the_client_says_who_asks(server):
    fetch(snapshot(REPO), [CONFIG])
    assert all(f'blox/{__version__}' in agent for agent in server.agents)


def test_a_private_repository_opens_to_a_token(server, monkeypatch):
    server.private.add(REPO)
    said = message(FileNotFoundError, lambda: snapshot(REPO))
    assert all(part in said for part in (repr(REPO), 'HF_TOKEN', 'hf auth login'))
    monkeypatch.setenv('HF_TOKEN', SECRET)
    assert fetched() == FILES


def test_a_gated_repository_says_where_its_conditions_are(server, monkeypatch):
    server.gated.add(REPO)
    said = message(PermissionError, fetched)
    assert f'{server.url}/{REPO}' in said
    assert 'hf auth login' in said
    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    assert 'gated' in message(PermissionError, fetched)
    monkeypatch.setenv('HF_TOKEN', SECRET)
    assert fetched() == FILES


@pytest.mark.parametrize('token', [None, SECRET])
def test_a_repository_that_is_not_there_is_named(server, monkeypatch, token):
    if token:
        monkeypatch.setenv('HF_TOKEN', token)
    assert "'org/nosuch'" in message(FileNotFoundError, lambda: snapshot('org/nosuch'))


def test_offline_without_a_cache_says_what_to_do(server, offline):
    offline()
    said = message(ConnectionError, lambda: snapshot(REPO))
    assert all(part in said for part in (repr(REPO), "'main'", 'HF_HUB_OFFLINE'))


def test_offline_a_file_that_was_not_downloaded_says_what_to_do(server, offline):
    fetched([CONFIG])
    offline()
    said = message(ConnectionError, lambda: fetched([WEIGHTS]))
    assert all(part in said for part in (WEIGHTS, REPO, 'HF_HUB_OFFLINE'))


def test_a_full_disk_is_an_error_that_names_the_place(server):
    found = snapshot(REPO)
    with full_disk(10_000):
        said = message(OSError, lambda: fetch(found, [WEIGHTS]))
    assert os.strerror(errno.EFBIG) in said
    assert huggingface_hub.constants.HF_HUB_CACHE in said
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]


def test_a_download_folder_that_cannot_be_written_is_named(unprivileged):
    (unprivileged / 'hf').mkdir(mode=0o555)
    said = message(PermissionError, fetched)
    assert str(unprivileged / 'hf') in said
    assert 'HF_HOME' in said
