"""What a revision holds: asked of the real client against a loopback server."""

import json
import shutil

import huggingface_hub
import pytest
from helpers import message, table
from hub_files import CONFIG, FILES, OTHER, REPO, WEIGHTS, fetched
from hub_server import Fault, commit_of, digest

from blox import CheckpointError
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot


def test_a_branch_is_resolved_to_a_commit_and_its_files_by_one_request(server):
    found = snapshot(REPO)
    assert (found.repo, found.revision, found.commit) == (REPO, 'main', commit_of(FILES))
    assert {name: file.digest for name, file in found.files.items()} == {
        name: digest(name, content) for name, content in FILES.items()
    }
    assert {name: file.size for name, file in found.files.items()} == {
        name: len(content) for name, content in FILES.items()
    }
    assert len(server.log) == 1


def test_a_file_in_lfs_has_a_sha256_and_any_other_a_blob_id(server):
    files = snapshot(REPO).files
    assert files[WEIGHTS].sha256
    assert not files[WEIGHTS].blob_id
    assert files[CONFIG].blob_id
    assert not files[CONFIG].sha256


def test_a_snapshot_cannot_be_changed(server):
    with pytest.raises(AttributeError):
        snapshot(REPO).commit = '0' * 40  # pyright: ignore[reportAttributeAccessIssue]


def test_a_revision_may_hold_a_slash(server):
    server.put(REPO, OTHER, 'refs/pr/1')
    assert snapshot(REPO, 'refs/pr/1').commit == commit_of(OTHER)
    assert fetched([CONFIG], 'refs/pr/1') == {CONFIG: OTHER[CONFIG]}


def test_a_moved_branch_gives_its_new_files(server):
    assert fetched([CONFIG])[CONFIG] == FILES[CONFIG]
    server.put(REPO, OTHER)
    assert fetched([CONFIG])[CONFIG] == OTHER[CONFIG]


def test_a_commit_that_is_known_takes_no_request(server):
    commit = snapshot(REPO).commit
    server.put(REPO, OTHER)
    before = fetched(revision=commit)
    server.log.clear()
    assert fetched(revision=commit) == before == FILES
    assert server.log == []


def test_a_commit_that_is_not_known_is_asked_for(server):
    assert fetched(revision=commit_of(FILES)) == FILES


@table(
    {
        'an unknown commit': (REPO, 'f' * 40),
        'an unknown branch': (REPO, 'nosuch'),
    }
)
def test_a_revision_that_is_not_there_is_named(row, server):
    said = message(FileNotFoundError, lambda: snapshot(*row))
    assert repr(row[1]) in said
    assert f'{server.url}/{REPO}/tree/main' in said


HOSTILE = [
    'a' * 1025,
    '/etc/passwd',
    '../up',
    'a/../../up',
    'a\\b',
    'C:evil',
    'a//b',
    './a',
    '\x1b[2J',
    '',
]


@pytest.mark.parametrize('name', HOSTILE)
def test_a_listing_with_a_hostile_name_is_refused(server, name):
    server.listed = [{'rfilename': name, 'size': 1, 'blobId': '0' * 40}]
    assert 'unsound listing' in message(CheckpointError, lambda: snapshot(REPO))


@table(
    {
        'no hash': {'size': 1},
        'no size': {'blobId': '0' * 40},
        'a hash as path': {'size': 1, 'blobId': '../../evil'},
        'a short sha256': {'size': 1, 'lfs': {'sha256': 'abc', 'size': 1, 'pointerSize': 1}},
    }
)
def test_a_listing_without_sound_hashes_is_refused(row, server):
    server.listed = [{'rfilename': 'x', **row}]
    assert 'unsound listing' in message(CheckpointError, lambda: snapshot(REPO))


def test_another_commit_than_the_one_asked_for_is_refused(server):
    server.faults[REPO, None] = Fault(commit='e' * 40)
    said = message(CheckpointError, lambda: snapshot(REPO, commit_of(FILES)))
    assert f'expected commit {commit_of(FILES)}, found {"e" * 40}' in said


# No network.


def test_offline_a_branch_is_what_it_was(server, offline, caplog):
    before = fetched()
    server.log.clear()
    offline()
    assert fetched() == before
    assert server.log == []
    assert caplog.text == ''


def test_offline_what_others_downloaded_is_there(server, offline):
    for name in FILES:
        huggingface_hub.hf_hub_download(REPO, name)
    server.log.clear()
    offline()
    assert snapshot(REPO).files.keys() == FILES.keys()
    assert fetched() == fetched(revision=commit_of(FILES)) == FILES
    assert server.log == []


def test_offline_main_is_not_another_branch_even_where_file_names_have_no_case(
    server, offline, tmp_path
):
    snapshot(REPO)
    (record,) = (tmp_path / 'blox').rglob('main.json')
    shutil.copy(record, record.with_name('Main.json'))
    offline()
    message(ConnectionError, lambda: snapshot(REPO, 'Main'))


UNREACHABLE = {
    'nobody listens': lambda server: server.stop(),
    'the Hub is down': lambda server: server.faults.update({(REPO, None): Fault(status=503)}),
    'too many requests': lambda server: server.faults.update({(REPO, None): Fault(status=429)}),
    'a page of a hotel': lambda server: server.faults.update({(REPO, None): Fault(b'<html>')}),
    'a list': lambda server: server.faults.update({(REPO, None): Fault(b'[1]')}),
}


@table(UNREACHABLE)
def test_unreachable_a_branch_is_what_it_was_and_that_is_said(row, server, caplog):
    before = fetched()
    row(server)
    assert fetched() == before
    (record,) = [record for record in caplog.records if record.name == 'blox']
    assert record.levelname == 'WARNING'
    assert snapshot(REPO).commit in record.message


@table(UNREACHABLE)
def test_unreachable_without_a_cache_is_a_connection_error(row, server):
    row(server)
    said = message(ConnectionError, lambda: snapshot(REPO))
    assert repr(REPO) in said
    assert 'again' in said


def test_a_damaged_record_counts_as_none(server, tmp_path):
    commit = snapshot(REPO).commit
    for path in (tmp_path / 'blox').rglob('*.json'):
        path.write_text(json.dumps({'repo': REPO, 'files': {'../x': {}}}))
    assert snapshot(REPO, commit).commit == commit
    assert len(server.log) == 2


def test_a_renamed_repository_works_and_says_its_new_name(server, caplog):
    server.renamed['old/place'] = REPO
    found = snapshot('old/place')
    folder = fetch(found, [WEIGHTS])
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert f"'old/place' is called {REPO!r} now" in caplog.text
