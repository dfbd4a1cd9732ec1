"""Where the cache lies, and the records in it."""

import sys
from pathlib import Path

from helpers import table
from hub_files import full_disk

from blox.zoo.loading.hub.cache import cache_folder, read_record, write_record


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
    assert cache_folder() == Path(expected).expanduser()


def test_a_record_that_finds_no_room_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / 'main.json'
    write_record(path, {'a': 1})
    with full_disk(100):
        write_record(path, {'a': 'long' * 1_000})
        write_record(tmp_path / 'v2.json', {'a': 'long' * 1_000})
    assert read_record(path) == {'a': 1}
    assert [*tmp_path.iterdir()] == [path]
