"""Check names that become paths and addresses, whether a user typed them or a server sent them."""

import re
from typing import Any
from urllib.parse import quote

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

COMMIT = re.compile('[0-9a-f]{40}')
# Bytes: a quarter of what paths may have, which is for that of the cache as well.
MOST_IN_NAME = 1024
_REVISION = re.compile(r'[\w][\w./+@#=,-]*', re.ASCII)


def check_names(repo: str, revision: str) -> None:
    """Raise ValueError unless these can name a repository and a branch, tag or commit."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"expected a repository such as 'org/name', found {repo!r}") from error
    sound = _REVISION.fullmatch(revision) and '..' not in revision
    # A revision becomes a file's name, of at most 255 bytes.
    if not sound or len(quoted(revision)) > 200:
        raise ValueError(f'{repo!r}: expected a branch, tag or commit, found {revision!r}')


def quoted(revision: str) -> str:
    """Return a revision as a file's name."""
    return quote(revision, safe='')


def is_safe(name: Any) -> bool:
    """Return whether a name stays within a folder, on any system, and can be printed."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and '\\' not in name
        and len(name.encode()) <= MOST_IN_NAME
        and all(
            part not in ('', '.', '..') and not re.match('[A-Za-z]:', part)
            for part in name.split('/')
        )
    )
