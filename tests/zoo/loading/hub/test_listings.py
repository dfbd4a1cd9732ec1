"""What the Hub says of a revision: packed or plain, and more than anyone wants to hear."""

import contextlib
import gzip
import json
import tracemalloc
import zlib

import pytest
from helpers import message, table
from hub_files import CONFIG, FILES, OTHER, REPO, fetched
from hub_server import Fault, commit_of, git_hash

from blox import CheckpointError
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot

MIB = 2**20
LISTING = json.dumps(
    {
        'id': REPO,
        'sha': commit_of(FILES),
        'siblings': [{'rfilename': CONFIG, 'size': 12, 'blobId': git_hash(FILES[CONFIG])}],
    }
).encode()


@pytest.fixture(scope='module')
def bomb():
    """A quarter of a megabyte that unpacks to a thousand times as much."""
    return gzip.compress(b' ' * (256 * MIB))


@contextlib.contextmanager
def within(size):
    """Fails what takes more memory than that."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < size
    finally:
        tracemalloc.stop()


def packed(body, packing, **more):
    return Fault(body, headers={'Content-Encoding': packing}, **more)


def test_a_listing_may_be_packed(server):
    server.faults[REPO, None] = packed(gzip.compress(LISTING), 'gzip')
    assert fetched([CONFIG]) == {CONFIG: FILES[CONFIG]}


@table(
    {
        'deflate': ('deflate', zlib.compress(LISTING)),
        'brotli': ('br', LISTING),
        'zstandard': ('zstd', LISTING),
        'twice': ('gzip, gzip', gzip.compress(gzip.compress(LISTING))),
        'nothing known': ('nonsense', LISTING),
    }
)
def test_a_listing_that_is_packed_otherwise_is_no_answer(row, server):
    packing, body = row
    server.faults[REPO, None] = packed(body, packing)
    said = message(ConnectionError, lambda: snapshot(REPO))
    assert all(part in said for part in (repr(REPO), 'packed by gzip', repr(packing)))


def test_a_listing_that_is_cut_short_is_no_answer(server):
    server.faults[REPO, None] = packed(gzip.compress(LISTING)[:-20], 'gzip')
    assert repr(REPO) in message(ConnectionError, lambda: snapshot(REPO))


def test_a_listing_that_unpacks_to_too_much_is_not_read_to_its_end(server, bomb):
    server.faults[REPO, None] = packed(bomb, 'gzip')
    with within(160 * MIB):
        said = message(CheckpointError, lambda: snapshot(REPO))
    assert all(part in said for part in (repr(REPO), "'main'", f'at most {64 * MIB} bytes'))


def test_a_listing_that_is_too_long_is_refused(server):
    server.faults[REPO, None] = Fault(LISTING + b' ' * (64 * MIB))
    assert 'found more' in message(CheckpointError, lambda: snapshot(REPO))


def test_a_listing_of_too_many_files_is_refused(server):
    file = {'size': 1, 'blobId': '0' * 40}
    server.listed = [{'rfilename': str(i), **file} for i in range(100_000)]
    said = message(CheckpointError, lambda: snapshot(REPO))
    assert f'{REPO!r}: unsound listing' in said
    assert 'expected at most 100000 files, found 100003' in said


def test_a_name_of_any_length_is_not_repeated_whole(server, caplog):
    server.faults[REPO, None] = Fault(LISTING.replace(REPO.encode(), b'x' * MIB))
    assert snapshot(REPO).commit == commit_of(FILES)
    (said,) = caplog.messages
    assert len(said) < 1_000


# What comes beside.

ERRORS = {
    'of a listing': (None, 404, FileNotFoundError),
    'of a listing by a hub that is down': (None, 503, ConnectionError),
    'of a file': (CONFIG, 404, FileNotFoundError),
    'of a file by a hub that is busy': (CONFIG, 429, ConnectionError),
}


@table(ERRORS)
def test_what_an_error_unpacks_to_is_nobodys_business(row, server, bomb):
    name, status, error = row
    found = snapshot(REPO)
    server.put(REPO, FILES, 'v2')
    fault = packed(bomb, 'gzip', status=status, methods=('GET',))
    fault.headers['X-Error-Code'] = 'EntryNotFound' if status == 404 else ''
    server.faults[REPO, name] = fault
    with within(50 * MIB):
        message(error, lambda: fetch(found, [CONFIG]) if name else snapshot(REPO, 'v2'))


def test_a_long_error_is_not_read(server):
    server.faults[REPO, None] = Fault(b' ' * (256 * MIB), status=503)
    with within(50 * MIB):
        assert 'status 503' in message(ConnectionError, lambda: snapshot(REPO))


def test_what_a_redirect_unpacks_to_is_nobodys_business(server, bomb, caplog):
    server.put('org/new', OTHER)
    fault = packed(bomb, 'gzip', status=307)
    fault.headers['Location'] = '/api/models/org/new/revision/main?blobs=true'
    server.faults[REPO, None] = fault
    with within(50 * MIB):
        assert snapshot(REPO).commit == commit_of(OTHER)
    assert f"{REPO!r} is called 'org/new' now" in caplog.text
