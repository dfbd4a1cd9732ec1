"""Where the cache lies."""

import sys
from pathlib import Path

from helpers import table

from blox.zoo.loading.hub.cache import cache_folder


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
