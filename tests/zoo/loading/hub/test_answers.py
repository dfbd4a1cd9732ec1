"""Answers that ask to wait."""

import email.utils
import re
import threading
import time

import huggingface_hub
import pytest
from helpers import message, promptly, table
from hub_files import CONFIG, FILES, REPO, fetched
from hub_server import Fault

from blox.zoo.loading.hub.client import ask
from blox.zoo.loading.hub.downloads import fetch
from blox.zoo.loading.hub.snapshots import snapshot


def date(seconds):
    """So many seconds from now, as headers have it."""
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


# What of the Hub is asked: (file, method).
ASKED = {
    'a listing': (None, ('GET',)),
    'what a file is': (CONFIG, ('HEAD',)),
    'a file': (CONFIG, ('GET',)),
}
ASKS = {
    'a time that is past': (429, {'Retry-After': date(-100)}),
    'its limit': (429, {'RateLimit': '"api";r=0;t=1'}),
    'its limit before another time': (429, {'RateLimit': '"api";r=0;t=1', 'Retry-After': '3600'}),
    'being down': (503, {'Retry-After': '0'}),
}
ASKS_LONG = {
    'an hour': (429, {'Retry-After': '3600'}, '3600 s'),
    'a year': (503, {'Retry-After': date(365 * 86_400)}, r'3153\d{4} s'),
    'its limit': (429, {'RateLimit': '"api"; r=0; t=299'}, '299 s'),
}
UNREADABLE = {
    'nothing': '',
    'text': 'soon',
    'less than nothing': '-1',
    'a fraction': '1.5',
    'another kind of digit': '\xb2',
    'a number beyond all bounds': '9' * 5_000,
    'no such date': 'Wed, 99 Oct 2099 99:99:99 GMT',
}


def asks(server, asked, status, headers, times=1):
    name, methods = asked
    server.faults[REPO, name] = Fault(status=status, headers=headers, methods=methods, times=times)


@table(ASKED)
def test_a_short_wait_is_said_and_taken(row, server, caplog):
    asks(server, row, 429, {'Retry-After': '1'})
    begin = time.monotonic()
    with promptly():
        assert fetched([CONFIG]) == {CONFIG: FILES[CONFIG]}
    assert time.monotonic() - begin >= 1
    (said,) = [record.message for record in caplog.records if record.name == 'blox']
    assert repr(REPO) in said
    assert said.endswith('the Hub asks to wait 1 s')


@table(ASKS)
def test_a_wait_is_asked_for_in_many_ways(row, server, caplog):
    asks(server, ASKED['a file'], *row)
    with promptly():
        assert fetched([CONFIG]) == {CONFIG: FILES[CONFIG]}
    assert 'the Hub asks to wait 1 s' in caplog.text


@pytest.mark.parametrize('asked', ASKED.values(), ids=ASKED)
@table(ASKS_LONG)
def test_a_long_wait_is_an_error_that_says_how_long(row, asked, server):
    asks(server, asked, *row[:2])
    with promptly():
        said = message(ConnectionError, lambda: fetched([CONFIG]))
    advice = 'try again then, or set HF_TOKEN for a higher limit'
    assert re.search(f'{REPO}.*: the Hub asks to wait {row[2]}; {advice}', said)


@pytest.mark.parametrize('status', [429, 503])
@table(UNREADABLE)
def test_what_nobody_can_read_is_no_wait(row, status, server):
    for name in (None, CONFIG):
        server.faults = {(REPO, name): Fault(status=status, headers={'Retry-After': row})}
        with promptly(3):
            said = message(ConnectionError, lambda: fetched([CONFIG]))
        assert f'status {status}; try again later' in said


def test_a_download_goes_on_after_a_wait_that_nobody_can_read(server):
    asks(server, ASKED['a file'], 429, {'Retry-After': '\xb2', 'RateLimit': '9' * 5_000})
    with promptly():
        assert fetched([CONFIG]) == {CONFIG: FILES[CONFIG]}


def test_short_waits_end_when_they_are_long_together(server):
    found = snapshot(REPO)
    asks(server, ASKED['a file'], 429, {'Retry-After': '1'}, times=1_000)
    api = huggingface_hub.HfApi()
    with promptly():
        said = message(
            ConnectionError,
            lambda: ask('it', REPO, lambda: api.hf_hub_download(REPO, CONFIG), patience=2),
        )
    assert said.startswith('it: the Hub asks to wait 1 s')
    assert len([line for line in server.log if line.startswith('GET /org')]) == 3
    server.faults.clear()
    fetch(found, [CONFIG])


def test_what_is_known_is_not_waited_for(server, caplog):
    before = fetched()
    asks(server, ASKED['a listing'], 429, {'Retry-After': '20'})
    with promptly():
        assert fetched() == before
    assert 'the Hub asks to wait 20 s' in caplog.text
    assert f'going on with commit {snapshot(REPO).commit}' in caplog.text


def test_where_no_more_than_a_part_is_known_it_is_waited(server):
    huggingface_hub.hf_hub_download(REPO, CONFIG)
    asks(server, ASKED['a listing'], 429, {'Retry-After': '1'})
    with promptly():
        assert fetched() == FILES


def test_others_who_use_the_client_are_left_alone(server):
    """Another thread that asks while we do waits as huggingface_hub has it."""
    session = huggingface_hub.get_session()
    before = session.event_hooks
    asks(server, ASKED['a listing'], 429, {'Retry-After': '3600'}, times=1_000)
    statuses = []

    def others():
        url = f'{server.url}/api/models/{REPO}'
        thread = threading.Thread(target=lambda: statuses.append(session.get(url).status_code))
        thread.start()
        thread.join()

    ask('it', REPO, others)
    assert statuses == [429]
    assert session.event_hooks == before


def test_no_other_session_takes_the_place_of_the_one_that_is_looked_at(server):
    api, commit = huggingface_hub.HfApi(), snapshot(REPO).commit
    server.stop()
    with promptly():
        said = message(
            ConnectionError,
            lambda: ask('it', REPO, lambda: api.hf_hub_download(REPO, CONFIG, revision=commit)),
        )
    assert 'it: no sound answer from' in said
