"""The Hub: the real client against a loopback server that speaks its protocol."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from helpers import table
from hub_server import Fault, HubServer, commit_of, digest

from blox import CheckpointError, __version__
from blox.zoo.loading import hub

REPO = 'org/name'
CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
FILES = {
    CONFIG: b'{"width": 8}',
    WEIGHTS: bytes(range(256)) * 512,
    'sub/vocab.txt': 'wörter\n'.encode(),
}
OTHER = {CONFIG: b'{"width": 9}', WEIGHTS: b'other' * 1000}
SECRET = 'hf_good'


@pytest.fixture
def server(monkeypatch, tmp_path):
    with HubServer({REPO: {'main': FILES}}) as server:
        server.connect(monkeypatch, tmp_path)
        yield server


@pytest.fixture
def offline(monkeypatch):
    """Call it to have HF_HUB_OFFLINE set from then on."""
    return lambda: monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)


@pytest.fixture
def unprivileged(server, monkeypatch):
    """A folder of caches whose permission bits bind, which they do not for root."""
    folder = tempfile.mkdtemp()
    server.connect(monkeypatch, folder)
    root = os.name == 'posix' and os.geteuid() == 0
    if root:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    yield Path(folder)
    if root:
        os.seteuid(0)
    for path in [Path(folder), *Path(folder).rglob('*')]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


def fetched(names=tuple(FILES), revision=None):
    """The content of files as fetched."""
    folder = hub.fetch(hub.snapshot(REPO, revision), names)
    return {name: (folder / name).read_bytes() for name in names}


def upper(folder, out):
    """A conversion."""
    out.write_bytes((folder / CONFIG).read_bytes().upper())


def converted(fingerprint='1', convert=upper) -> Any:
    return hub.converted(hub.snapshot(REPO), [CONFIG, WEIGHTS], fingerprint, convert)


def blob(name, files=FILES):
    """Where huggingface_hub keeps a file's content."""
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE, 'models--org--name/blobs')
    return folder / digest(name, files[name])


def message(error, call):
    """What a call's error says, in one line."""
    with pytest.raises(error) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def gets(server):
    return [line for line in server.log if line.startswith('GET') and '/resolve/' in line]


# What a revision holds.


def test_a_branch_is_resolved_to_a_commit_and_its_files_by_one_request(server):
    found = hub.snapshot(REPO)
    assert (found.repo, found.revision, found.commit) == (REPO, 'main', commit_of(FILES))
    assert {name: file.digest for name, file in found.files.items()} == {
        name: digest(name, content) for name, content in FILES.items()
    }
    assert {name: file.size for name, file in found.files.items()} == {
        name: len(content) for name, content in FILES.items()
    }
    assert len(server.log) == 1


def test_a_file_in_lfs_has_a_sha256_and_any_other_a_blob_id(server):
    files = hub.snapshot(REPO).files
    assert files[WEIGHTS].sha256
    assert not files[WEIGHTS].blob_id
    assert files[CONFIG].blob_id
    assert not files[CONFIG].sha256


def test_a_snapshot_cannot_be_changed(server):
    with pytest.raises(AttributeError):
        hub.snapshot(REPO).commit = '0' * 40  # pyright: ignore[reportAttributeAccessIssue]


def test_the_client_says_who_asks(server):
    hub.fetch(hub.snapshot(REPO), [CONFIG])
    assert all(f'blox/{__version__}' in agent for agent in server.agents)


def test_a_revision_may_hold_a_slash(server):
    server.put(REPO, OTHER, 'refs/pr/1')
    assert hub.snapshot(REPO, 'refs/pr/1').commit == commit_of(OTHER)
    assert fetched([CONFIG], 'refs/pr/1') == {CONFIG: OTHER[CONFIG]}


def test_a_moved_branch_gives_its_new_files(server):
    assert fetched([CONFIG])[CONFIG] == FILES[CONFIG]
    server.put(REPO, OTHER)
    assert fetched([CONFIG])[CONFIG] == OTHER[CONFIG]


def test_a_commit_that_is_known_takes_no_request(server):
    commit = hub.snapshot(REPO).commit
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
    said = message(FileNotFoundError, lambda: hub.snapshot(*row))
    assert repr(row[1]) in said
    assert f'{server.url}/{REPO}/tree/main' in said


@table(
    {
        'two slashes': ('a/b/c', None),
        'up and out': ('../name', None),
        'nothing': ('', None),
        'a space': ('org/na me', None),
        'a revision up and out': (REPO, '../../x'),
        'dots within': (REPO, 'a/../b'),
        'an absolute revision': (REPO, '/etc/passwd'),
        'no revision': (REPO, ''),
        'a query': (REPO, 'main?x'),
        'a long revision': (REPO, 'x' * 201),
    }
)
def test_names_that_no_repository_has_are_refused_before_any_request(row, server):
    assert repr(row[0] if row[1] is None else row[1]) in message(
        ValueError, lambda: hub.snapshot(*row)
    )
    assert server.log == []


HOSTILE = ['/etc/passwd', '../up', 'a/../../up', 'a\\b', 'C:evil', 'a//b', './a', '\x1b[2J', '']


@pytest.mark.parametrize('name', HOSTILE)
def test_a_listing_with_a_hostile_name_is_refused(server, name):
    server.listed = [{'rfilename': name, 'size': 1, 'blobId': '0' * 40}]
    assert 'unsound listing' in message(CheckpointError, lambda: hub.snapshot(REPO))


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
    assert 'unsound listing' in message(CheckpointError, lambda: hub.snapshot(REPO))


def test_another_commit_than_the_one_asked_for_is_refused(server):
    server.faults[REPO, None] = Fault(commit='e' * 40)
    said = message(CheckpointError, lambda: hub.snapshot(REPO, commit_of(FILES)))
    assert f'expected commit {commit_of(FILES)}, found {"e" * 40}' in said


# Downloads.


def test_files_come_as_they_are(server):
    assert fetched() == FILES


def test_only_the_files_named_are_downloaded(server):
    fetched([CONFIG])
    assert [line.rpartition('/')[2] for line in gets(server)] == [CONFIG]


def test_what_is_downloaded_is_not_asked_for_again(server):
    found = hub.snapshot(REPO)
    hub.fetch(found, list(FILES))
    server.log.clear()
    hub.fetch(found, list(FILES))
    assert server.log == []


def test_a_file_that_is_not_there_is_named_and_not_asked_for(server):
    found = hub.snapshot(REPO)
    server.log.clear()
    said = message(FileNotFoundError, lambda: hub.fetch(found, [CONFIG, 'nosuch.bin']))
    assert "'nosuch.bin'" in said
    assert WEIGHTS in said
    assert server.log == []


def test_a_file_that_went_away_is_named(server):
    found = hub.snapshot(REPO)
    del server.repos[REPO].commits[found.commit][CONFIG]
    said = message(FileNotFoundError, lambda: hub.fetch(found, [CONFIG]))
    assert f'{CONFIG!r} of {REPO!r}: no such file' in said


WRONG = {
    'corrupt weights': (WEIGHTS, FILES[WEIGHTS][:-1] + b'x', 'sha256'),
    'a corrupt config': (CONFIG, FILES[CONFIG].replace(b'8', b'7'), 'git hash'),
    'short weights': (WEIGHTS, FILES[WEIGHTS][:1000], '131072 bytes, found 1000'),
    'a short config': (CONFIG, b'{', '12 bytes, found 1'),
}


@table(WRONG)
def test_a_wrong_download_is_repeated_once(row, server, caplog):
    name, body, what = row
    server.faults[REPO, name] = Fault(body, times=1)
    assert fetched([name])[name] == FILES[name]
    assert len(gets(server)) == 2
    assert what in caplog.text


@table(WRONG)
def test_a_download_that_stays_wrong_is_refused_and_not_kept(row, server):
    name, body, what = row
    server.faults[REPO, name] = Fault(body)
    found = hub.snapshot(REPO)
    said = message(CheckpointError, lambda: hub.fetch(found, [CONFIG, name]))
    assert all(part in said for part in (name, 'expected', what))
    assert len([line for line in gets(server) if name in line]) == 2
    assert not blob(name).exists()


def test_a_body_that_breaks_off_is_taken_up_again(server):
    server.faults[REPO, WEIGHTS] = Fault(cut=70_000, times=1)
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]


@table(
    {
        'up and out': '../../evil',
        'absolute': '/tmp/blox-evil',
        'long': 'a' * 10_000,
        'of another file': digest(CONFIG, FILES[CONFIG]),
        'not hexadecimal': 'z' * 64,
        'empty': '',
    }
)
def test_a_hostile_etag_writes_nothing(row, server, tmp_path):
    found = hub.snapshot(REPO)
    before = sorted(tmp_path.rglob('*'))
    server.faults[REPO, WEIGHTS] = Fault(etag=row)
    assert 'ETag' in message(CheckpointError, lambda: hub.fetch(found, [WEIGHTS]))
    assert sorted(tmp_path.rglob('*')) == before
    assert not Path('/tmp/blox-evil').exists()
    assert gets(server) == []


@pytest.mark.parametrize('commit', ['../../../evil', 'e' * 40])
def test_a_file_of_another_commit_is_refused(server, tmp_path, commit):
    server.faults[REPO, WEIGHTS] = Fault(commit=commit)
    assert commit in message(CheckpointError, lambda: fetched([WEIGHTS]))
    assert gets(server) == []
    assert not list(tmp_path.rglob('evil*'))


@table(
    {
        'truncated': FILES[WEIGHTS][:-1],
        'corrupted': b'x' + FILES[WEIGHTS][1:],
        'emptied': b'',
    }
)
def test_a_download_that_was_damaged_since_is_downloaded_again(row, server):
    fetched([WEIGHTS])
    os.utime(blob(WEIGHTS), ns=(0, 0))
    blob(WEIGHTS).write_bytes(row)
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]
    assert len(gets(server)) == 2


def test_a_file_of_the_users_that_a_link_leads_to_is_never_removed(server, tmp_path):
    path = hub.fetch(hub.snapshot(REPO), [WEIGHTS]) / WEIGHTS
    path.unlink()
    (tmp_path / 'mine').write_bytes(b'mine')
    path.symlink_to(tmp_path / 'mine')
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]
    assert (tmp_path / 'mine').read_bytes() == b'mine'


def test_a_verified_download_is_hashed_again_only_when_its_time_changes(server, monkeypatch):
    fetched([WEIGHTS])
    hashed = []
    monkeypatch.setattr(
        hub, '_hash', lambda path, file: hashed.append(path.name) or digest(WEIGHTS, FILES[WEIGHTS])
    )
    fetched([WEIGHTS])
    assert hashed == []
    os.utime(blob(WEIGHTS), ns=(0, 0))
    fetched([WEIGHTS])
    assert hashed == [WEIGHTS]


def test_an_emptied_folder_of_downloads_is_filled_again(server):
    fetched()
    shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE)
    assert fetched() == FILES


def test_a_full_disk_is_an_error_that_names_the_place(server):
    resource = pytest.importorskip('resource')
    found = hub.snapshot(REPO)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        said = message(OSError, lambda: hub.fetch(found, [WEIGHTS]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in said
    assert huggingface_hub.constants.HF_HUB_CACHE in said
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]


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
    assert hub.snapshot(REPO).files.keys() == FILES.keys()
    assert fetched() == fetched(revision=commit_of(FILES)) == FILES
    assert server.log == []


def test_offline_a_download_by_others_is_verified(server, offline):
    huggingface_hub.hf_hub_download(REPO, WEIGHTS)
    blob(WEIGHTS).write_bytes(b'x' + FILES[WEIGHTS][1:])
    offline()
    assert WEIGHTS in message(ConnectionError, lambda: fetched([WEIGHTS]))


def test_offline_without_a_cache_says_what_to_do(server, offline):
    offline()
    said = message(ConnectionError, lambda: hub.snapshot(REPO))
    assert all(part in said for part in (repr(REPO), "'main'", 'HF_HUB_OFFLINE'))


def test_offline_a_file_that_was_not_downloaded_says_what_to_do(server, offline):
    fetched([CONFIG])
    offline()
    said = message(ConnectionError, lambda: fetched([WEIGHTS]))
    assert all(part in said for part in (WEIGHTS, REPO, 'HF_HUB_OFFLINE'))


def test_offline_main_is_not_another_branch_even_where_file_names_have_no_case(
    server, offline, tmp_path
):
    hub.snapshot(REPO)
    (record,) = (tmp_path / 'blox').rglob('main.json')
    shutil.copy(record, record.with_name('Main.json'))
    offline()
    message(ConnectionError, lambda: hub.snapshot(REPO, 'Main'))


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
    assert hub.snapshot(REPO).commit in record.message


@table(UNREACHABLE)
def test_unreachable_without_a_cache_is_a_connection_error(row, server):
    row(server)
    said = message(ConnectionError, lambda: hub.snapshot(REPO))
    assert repr(REPO) in said
    assert 'again' in said


def test_a_damaged_record_counts_as_none(server, tmp_path):
    commit = hub.snapshot(REPO).commit
    for path in (tmp_path / 'blox').rglob('*.json'):
        path.write_text(json.dumps({'repo': REPO, 'files': {'../x': {}}}))
    assert hub.snapshot(REPO, commit).commit == commit
    assert len(server.log) == 2


# Repositories that are not for everyone.


def test_a_private_repository_opens_to_a_token(server, monkeypatch):
    server.private.add(REPO)
    said = message(FileNotFoundError, lambda: hub.snapshot(REPO))
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
    assert "'org/nosuch'" in message(FileNotFoundError, lambda: hub.snapshot('org/nosuch'))


def test_a_renamed_repository_works_and_says_its_new_name(server, caplog):
    server.renamed['old/place'] = REPO
    found = hub.snapshot('old/place')
    folder = hub.fetch(found, [WEIGHTS])
    assert (folder / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    assert f"'old/place' is called {REPO!r} now" in caplog.text


# Conversions.


def test_a_conversion_is_made_once(server):
    def again(folder, out):
        raise AssertionError

    found = hub.snapshot(REPO)
    assert hub.kept(found, [CONFIG, WEIGHTS], '1') is None
    path = converted()
    assert path.read_bytes() == FILES[CONFIG].upper()
    assert converted(convert=again) == hub.kept(found, [WEIGHTS, CONFIG], '1') == path


def test_a_conversion_needs_neither_the_hub_nor_the_download(server, offline):
    found = hub.snapshot(REPO)
    path = converted()
    shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE)
    server.log.clear()
    assert hub.converted(found, [CONFIG, WEIGHTS], '1', upper) == path
    assert server.log == []
    offline()
    assert converted() == path


def test_other_tables_or_other_files_make_another_conversion(server):
    paths = {converted(), converted(fingerprint='2')}
    paths.add(hub.converted(hub.snapshot(REPO), [CONFIG], '1', upper))
    server.put(REPO, OTHER)
    paths.add(converted())
    assert len(paths) == 4


def test_a_commit_that_left_the_files_as_they_were_makes_no_other_conversion(server):
    path = converted()
    server.put(REPO, {**FILES, 'README.md': b'new'})
    assert converted() == path


def test_a_conversion_that_fails_leaves_nothing(server):
    def fails(folder, out):
        out.write_bytes(b'half')
        raise CheckpointError('no')

    assert message(CheckpointError, lambda: converted(convert=fails)) == 'no'
    folder = hub.cache_folder() / 'models--org--name'
    assert [path for path in folder.iterdir() if path.suffix == '.safetensors'] == []
    assert converted().read_bytes() == FILES[CONFIG].upper()


def test_a_cache_that_is_a_file_keeps_no_conversion(server, tmp_path, caplog):
    (tmp_path / 'blox').write_bytes(b'')
    assert converted() is None
    assert 'BLOX_CACHE' in caplog.text
    assert fetched() == FILES


def test_a_cache_that_cannot_be_written_keeps_no_conversion(unprivileged, caplog):
    (unprivileged / 'blox').mkdir(mode=0o555)
    assert converted() is None
    assert 'BLOX_CACHE' in caplog.text
    assert fetched() == FILES


def test_a_download_folder_that_cannot_be_written_serves_what_it_has(unprivileged):
    before = fetched()
    for path in (unprivileged / 'hf').rglob('*'):
        if path.is_dir():
            path.chmod(0o555)
    assert fetched() == before
    assert converted().read_bytes() == FILES[CONFIG].upper()


def test_a_download_folder_that_cannot_be_written_is_named(unprivileged):
    (unprivileged / 'hf').mkdir(mode=0o555)
    said = message(PermissionError, fetched)
    assert str(unprivileged / 'hf') in said
    assert 'HF_HOME' in said


@table(
    {
        'chosen': ('linux', {'BLOX_CACHE': '~/x'}, '~/x'),
        'linux': ('linux', {'XDG_CACHE_HOME': '/cache'}, '/cache/blox'),
        'linux as it comes': ('linux', {}, '~/.cache/blox'),
        'macos': ('darwin', {}, '~/Library/Caches/blox'),
        'windows': ('win32', {'LOCALAPPDATA': '/local'}, '/local/blox'),
    }
)
def test_the_cache_is_where_the_platform_keeps_caches(row, monkeypatch):
    platform, variables, expected = row
    monkeypatch.setattr(sys, 'platform', platform)
    for name in ('BLOX_CACHE', 'XDG_CACHE_HOME', 'LOCALAPPDATA'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hub.cache_folder() == Path(expected).expanduser()


# Several processes, and ones that are killed.

SCRIPT = """
import sys, time
from pathlib import Path
from blox.zoo.loading import hub

log = Path(sys.argv[2])

def convert(folder, out):
    with open(log, 'a') as file:
        file.write('converted ')
    out.write_bytes((folder / 'model.safetensors').read_bytes()[:1000])
    time.sleep(float(sys.argv[1]))

print(hub.converted(hub.snapshot('org/name'), ['config.json', 'model.safetensors'], '1', convert))
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
    assert len(gets(server)) == 2


def test_after_a_kill_while_it_downloads_the_next_one_gets_it_whole(server, tmp_path):
    server.faults[REPO, WEIGHTS] = Fault(until=threading.Event(), times=1)
    killed = start(server, tmp_path)
    kill_when(killed, lambda: any(WEIGHTS in line for line in gets(server)))
    server.faults.clear()
    assert Path(printed(start(server, tmp_path))).read_bytes() == FILES[WEIGHTS][:1000]
    assert fetched() == FILES


def test_after_a_kill_while_it_converts_the_next_one_converts(server, tmp_path):
    kill_when(start(server, tmp_path, 100), lambda: partial(tmp_path / 'blox', 'part-*'))
    path = Path(printed(start(server, tmp_path)))
    assert path.read_bytes() == FILES[WEIGHTS][:1000]
    assert (tmp_path / 'log').read_text() == 'converted converted '
    assert not partial(tmp_path / 'blox', 'part-*')


# Uploads.

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
    url = hub.upload('org/new', folder, private=private, message='As trained')
    found = hub.snapshot('org/new')
    assert url == f'{server.url}/org/new/commit/{found.commit}'
    assert ('org/new' in server.private) == private
    fetched = hub.fetch(found, list(FILES))
    assert {name: (fetched / name).read_bytes() for name in FILES} == FILES


@uploads
def test_an_upload_to_what_is_there_adds_a_commit(server, monkeypatch, folder):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    hub.upload(REPO, folder)
    assert set(hub.snapshot(REPO).files) == {*FILES, 'README.md'}


def test_an_upload_that_is_to_be_private_is_not_made_public(server, monkeypatch, folder):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    assert 'is public' in message(ValueError, lambda: hub.upload(REPO, folder, private=True))
    assert 'README.md' not in hub.snapshot(REPO).files


@pytest.mark.parametrize('token', [None, 'hf_other'])
def test_an_upload_without_a_token_that_may_write_says_what_to_do(
    server, monkeypatch, folder, token
):
    if token:
        monkeypatch.setenv('HF_TOKEN', token)
    said = message(PermissionError, lambda: hub.upload('org/new', folder))
    assert re.search("upload to 'org/new'.*hf auth login.*HF_TOKEN", said)


@uploads
def test_an_upload_that_breaks_off_is_a_connection_error(server, monkeypatch, folder):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    server.faults['lfs', None] = Fault(status=400)
    assert "upload to 'org/new'" in message(ConnectionError, lambda: hub.upload('org/new', folder))
    assert not hub.snapshot('org/new').files


def test_an_upload_offline_says_so(server, offline, folder):
    offline()
    assert 'HF_HUB_OFFLINE' in message(ConnectionError, lambda: hub.upload('org/new', folder))
