"""Names that no repository has."""

from helpers import message, table
from hub_files import REPO

from blox.zoo.loading.hub.snapshots import snapshot


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
    assert repr(row[0] if row[1] is None else row[1]) in message(ValueError, lambda: snapshot(*row))
    assert server.log == []
