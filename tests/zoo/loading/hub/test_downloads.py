"""Files from the Hub: downloaded, verified, and downloaded again."""

import concurrent.futures
import os
import shutil
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from helpers import message, table
from hub_files import CONFIG, FILES, REPO, WEIGHTS, blob, downloads, fetched
from hub_server import Fault, digest

from blox import CheckpointError
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot


def written(folder):
    """All files and links below a folder, but locks."""
    found = (path for path in folder.rglob('*') if path.is_symlink() or path.is_file())
    return sorted(path for path in found if path.suffix != '.lock')


def test_files_come_as_they_are(server):
    assert fetched() == FILES


def test_only_the_files_named_are_downloaded(server):
    fetched([CONFIG])
    assert downloads(server) == [CONFIG]


def test_what_is_downloaded_is_not_asked_for_again(server):
    found = snapshot(REPO)
    fetch(found, list(FILES))
    server.log.clear()
    fetch(found, list(FILES))
    assert server.log == []


def test_a_file_that_is_not_there_is_named_and_not_asked_for(server):
    found = snapshot(REPO)
    server.log.clear()
    said = message(FileNotFoundError, lambda: fetch(found, [CONFIG, 'nosuch.bin']))
    assert "'nosuch.bin'" in said
    assert repr(WEIGHTS) in said
    assert server.log == []


def test_a_file_that_went_away_is_named(server):
    found = snapshot(REPO)
    del server.repos[REPO].commits[found.commit][CONFIG]
    said = message(FileNotFoundError, lambda: fetch(found, [CONFIG]))
    assert f'{CONFIG!r} of {REPO!r}: no such file' in said


def test_of_two_that_need_a_file_one_asks_for_it(server):
    # The second would otherwise remove, as what is in its way, what the first has just made.
    answer = threading.Event()
    server.faults[REPO, CONFIG] = Fault(until=answer, methods=('HEAD',))
    found = snapshot(REPO)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        fetches = [pool.submit(fetch, found, [CONFIG]) for _ in range(2)]
        time.sleep(0.5)
        asked = [line for line in server.log if line.startswith('HEAD')]
        answer.set()
        folders = [one.result() for one in fetches]
    assert len(asked) == len(downloads(server)) == 1
    assert all((folder / CONFIG).read_bytes() == FILES[CONFIG] for folder in folders)


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
    assert len(downloads(server)) == 2
    assert what in caplog.text


@table(WRONG)
def test_a_download_that_stays_wrong_is_refused_and_not_kept(row, server):
    name, body, what = row
    server.faults[REPO, name] = Fault(body)
    found = snapshot(REPO)
    said = message(CheckpointError, lambda: fetch(found, [CONFIG, name]))
    assert all(part in said for part in (name, 'expected', what))
    assert len([line for line in downloads(server) if name in line]) == 2
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
    found = snapshot(REPO)
    before = written(tmp_path)
    server.faults[REPO, WEIGHTS] = Fault(etag=row)
    assert 'ETag' in message(CheckpointError, lambda: fetch(found, [WEIGHTS]))
    assert written(tmp_path) == before
    assert not Path('/tmp/blox-evil').exists()
    assert downloads(server) == []


NOT_FOUND = {'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': '../../../evil'}


@table(
    {
        'an etag': {'etag': '../../../../evil'},
        'no etag': {'etag': ''},
        'a commit': {'commit': '../../../../evil'},
        'the commit of no file': {'status': 404, 'headers': NOT_FOUND},
    }
)
def test_what_is_said_of_a_file_is_looked_at_each_time_that_it_is_said(row, server, tmp_path):
    found = snapshot(REPO)
    before = written(tmp_path)
    server.faults[REPO, WEIGHTS] = Fault(**row, methods=('HEAD',), after=1)
    assert 'expected' in message(CheckpointError, lambda: fetch(found, [WEIGHTS]))
    assert written(tmp_path) == before
    assert len([line for line in server.log if line.startswith('HEAD')]) == 2
    assert downloads(server) == []


@pytest.mark.parametrize('commit', ['../../../evil', 'e' * 40])
def test_a_file_of_another_commit_is_refused(server, tmp_path, commit):
    server.faults[REPO, WEIGHTS] = Fault(commit=commit)
    assert commit in message(CheckpointError, lambda: fetched([WEIGHTS]))
    assert downloads(server) == []
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
    assert len(downloads(server)) == 2


def test_a_file_of_the_users_that_a_link_leads_to_is_never_removed(server, tmp_path):
    path = fetch(snapshot(REPO), [WEIGHTS]) / WEIGHTS
    path.unlink()
    (tmp_path / 'mine').write_bytes(b'mine')
    path.symlink_to(tmp_path / 'mine')
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]
    assert (tmp_path / 'mine').read_bytes() == b'mine'


def test_a_verified_download_is_looked_at_again_only_when_its_time_changes(server):
    fetched([WEIGHTS])
    stat, damaged = blob(WEIGHTS).stat(), b'x' + FILES[WEIGHTS][1:]
    blob(WEIGHTS).write_bytes(damaged)
    os.utime(blob(WEIGHTS), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fetched([WEIGHTS])[WEIGHTS] == damaged
    os.utime(blob(WEIGHTS), ns=(0, 0))
    assert fetched([WEIGHTS])[WEIGHTS] == FILES[WEIGHTS]


def test_an_emptied_folder_of_downloads_is_filled_again(server):
    fetched()
    shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE)
    assert fetched() == FILES


def test_offline_a_download_by_others_is_verified(server, offline):
    huggingface_hub.hf_hub_download(REPO, WEIGHTS)
    blob(WEIGHTS).write_bytes(b'x' + FILES[WEIGHTS][1:])
    offline()
    assert WEIGHTS in message(ConnectionError, lambda: fetched([WEIGHTS]))


# Damaged, and no Hub to ask.

DAMAGES = {
    'missing': (lambda path: path.unlink(), 'expected a file, found none'),
    'a link to nothing': (
        lambda path: path.resolve().unlink(),
        'expected a file, found a link to nothing',
    ),
    'cut short': (lambda path: os.truncate(path, 1000), 'found 1000'),
    'emptied': (lambda path: os.truncate(path, 0), 'found 0'),
    'changed': (lambda path: write(path, b'x' + FILES[WEIGHTS][1:]), 'expected sha256 '),
}
UNREACHABLE = {
    'offline': lambda server, offline: offline(),
    'nobody listens': lambda server, _: server.stop(),
    'busy': lambda server, _: server.faults.update(
        {(REPO, WEIGHTS): Fault(status=429, headers={'Retry-After': '3600'})}
    ),
}
ADVICE = {
    'offline': 'HF_HUB_OFFLINE is set; unset it, or load once with a network',
    'nobody listens': 'check the network and HF_ENDPOINT, and try again',
    'busy': 'asks to wait 3600 s; try again then',
}


def write(path, content):
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))


def contents(folder):
    """Links, and files with their content, that lie in a folder."""
    return {
        path: os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in written(folder)
    }


@pytest.mark.parametrize('unreachable', UNREACHABLE)
@table(DAMAGES)
def test_without_the_hub_what_is_wrong_with_a_file_is_said_and_nothing_removed(
    row, unreachable, server, offline, tmp_path
):
    damage, wrong = row
    path = fetch(snapshot(REPO), list(FILES)) / WEIGHTS
    damage(path)
    before = contents(tmp_path / 'hf')
    UNREACHABLE[unreachable](server, offline)
    said = message(ConnectionError, fetched)
    assert said.startswith(f'{str(path)!r}: ')
    assert all(part in said for part in (wrong, repr(WEIGHTS), REPO, ADVICE[unreachable]))
    assert contents(tmp_path / 'hf') == before
    assert fetched([CONFIG]) == {CONFIG: FILES[CONFIG]}


@table(DAMAGES)
def test_with_the_hub_again_a_damaged_file_is_downloaded(row, server, offline, monkeypatch):
    damage, _ = row
    damage(fetch(snapshot(REPO), list(FILES)) / WEIGHTS)
    offline()
    message(ConnectionError, fetched)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    assert fetched() == FILES


@table({name: row for name, row in DAMAGES.items() if name != 'missing'})
def test_offline_what_is_wrong_with_a_download_by_others_is_said(row, server, offline, tmp_path):
    paths = {name: Path(huggingface_hub.hf_hub_download(REPO, name)) for name in FILES}
    row[0](paths[WEIGHTS])
    before = contents(tmp_path / 'hf')
    offline()
    said = message(ConnectionError, fetched)
    assert said.startswith(f'{str(paths[WEIGHTS])!r}: expected ')
    assert contents(tmp_path / 'hf') == before


@pytest.mark.parametrize('name', [WEIGHTS, CONFIG])
def test_a_download_by_others_that_is_damaged_is_mended_without_a_listing(server, name):
    """The Hub may have no listing to give, and files all the same."""
    paths = {each: Path(huggingface_hub.hf_hub_download(REPO, each)) for each in FILES}
    paths[name].resolve().unlink()
    server.faults[REPO, None] = Fault(status=503)
    assert fetched() == FILES


def test_a_damaged_file_that_the_hub_has_no_more_stays(server):
    found = snapshot(REPO)
    path = fetch(found, [WEIGHTS]) / WEIGHTS
    os.truncate(path, 1000)
    del server.repos[REPO].commits[found.commit][WEIGHTS]
    assert 'no such file' in message(FileNotFoundError, lambda: fetch(found, [WEIGHTS]))
    assert path.read_bytes() == FILES[WEIGHTS][:1000]
