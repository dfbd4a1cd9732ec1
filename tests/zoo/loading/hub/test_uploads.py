"""Folders uploaded to the Hub."""

import re

import pytest
from helpers import message
from hub_files import FILES, REPO, SECRET
from hub_server import Fault

from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot
from blox.zoo.loading.hub.uploads import upload

# What the client warns of is of its own making.
uploads = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    """A folder to upload."""
    for name, content in {**FILES, 'README.md': b'---\nlicense: mit\n---\nA model.\n'}.items():
        path = tmp_path / 'upload' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / 'upload'


@uploads
@pytest.mark.parametrize('private', [False, True])
def test_an_upload_is_read_back(server, monkeypatch, folder, private):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    url = upload('org/new', folder, private=private, message='As trained')
    found = snapshot('org/new')
    assert url == f'{server.url}/org/new/commit/{found.commit}'
    assert ('org/new' in server.private) == private
    fetched = fetch(found, list(FILES))
    assert {name: (fetched / name).read_bytes() for name in FILES} == FILES


@uploads
def test_an_upload_to_what_is_there_adds_a_commit(server, monkeypatch, folder):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    upload(REPO, folder)
    assert set(snapshot(REPO).files) == {*FILES, 'README.md'}


def test_an_upload_that_is_to_be_private_is_not_made_public(server, monkeypatch, folder):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    assert 'is public' in message(ValueError, lambda: upload(REPO, folder, private=True))
    assert 'README.md' not in snapshot(REPO).files


@pytest.mark.parametrize('token', [None, 'hf_other'])
def test_an_upload_without_a_token_that_may_write_says_what_to_do(
    server, monkeypatch, folder, token
):
    if token:
        monkeypatch.setenv('HF_TOKEN', token)
    said = message(PermissionError, lambda: upload('org/new', folder))
    assert re.search("upload to 'org/new'.*hf auth login.*HF_TOKEN", said)


@uploads
def test_an_upload_that_breaks_off_is_a_connection_error(server, monkeypatch, folder):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    server.faults['lfs', None] = Fault(status=400)
    assert "upload to 'org/new'" in message(ConnectionError, lambda: upload('org/new', folder))
    assert not snapshot('org/new').files


@uploads
def test_an_upload_waits_as_the_hub_asks_and_begins_again(server, monkeypatch, folder, caplog):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    server.put('org/mine', {})
    server.private.add('org/mine')
    server.faults['org/mine', None] = Fault(status=429, headers={'Retry-After': '1'}, times=1)
    upload('org/mine', folder, private=True)
    assert "upload to 'org/mine': the Hub asks to wait 1 s" in caplog.text
    assert set(snapshot('org/mine').files) == {*FILES, 'README.md'}


def test_an_upload_offline_says_so(server, offline, folder):
    offline()
    assert 'HF_HUB_OFFLINE' in message(ConnectionError, lambda: upload('org/new', folder))
