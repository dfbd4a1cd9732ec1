"""Ask the Hub, and say of each error in one sentence what to do."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # That of its HTTP client, whichever.
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from blox import __version__
from blox.zoo.loading.hub.answers import BusyError, Look, check_wait, looked_at

_LOG = logging.getLogger('blox')

_T = TypeVar('_T')

# Seconds for which a call waits where the Hub asks it to. Limits are counted over five minutes, and
# who has to wait that long wants to hear of it instead.
PATIENCE = 60


def client() -> HfApi:
    """Return a client that tells the Hub who asks."""
    return HfApi(library_name='blox', library_version=__version__)


def headers() -> dict[str, str]:
    """Return the headers of the client's requests, the token among them."""
    return build_hf_headers(library_name='blox', library_version=__version__)


def ask(what: str, repo: str, call: Callable[[], _T], *looks: Look, patience: int = PATIENCE) -> _T:
    """Return what a call of the client returns; its errors are one sentence that says what to do.

    Where the Hub asks to wait, it is called again after that. To wait for more than `patience`
    seconds in all is a ConnectionError that says for how long. `looks` see each answer first.
    """
    while True:
        try:
            with looked_at(check_wait, *looks):
                return call()
        except BusyError as busy:
            if busy.seconds > patience:
                advice = 'try again then, or set HF_TOKEN for a higher limit'
                raise ConnectionError(f'{what}: {busy}; {advice}') from busy
            _LOG.warning('%s: %s', what, busy)
            patience -= busy.seconds
            time.sleep(busy.seconds)
        except (HTTPError, OSError, RuntimeError) as error:
            raise _explanation(error, what, f'{constants.ENDPOINT}/{repo}') from error


def _explanation(error: Exception, what: str, page: str) -> OSError:
    """Return the error that says so, of the kind that `open` would raise."""
    login = "log in with 'hf auth login' or set HF_TOKEN"
    match error:
        case OfflineModeIsEnabled():
            advice = 'unset it, or load once with a network'
            found = 'no sound copy in the cache and HF_HUB_OFFLINE is set'
            return ConnectionError(f'{what}: {found}; {advice}')
        case GatedRepoError():
            advice = f'accept its conditions at {page}, then {login}'
            return PermissionError(f'{what}: the repository is gated; {advice}')
        case RepositoryNotFoundError():
            advice = f'check its name, and if it is private, {login}'
            return FileNotFoundError(f'{what}: the Hub shows no such repository; {advice}')
        case RevisionNotFoundError():
            return FileNotFoundError(f'{what}: no such branch, tag or commit; see {page}/tree/main')
        case EntryNotFoundError() if not isinstance(error, LocalEntryNotFoundError):
            return FileNotFoundError(f'{what}: no such file; see {page}/tree/main')
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            advice = f'{login}, to a token that is valid and may do this'
            return PermissionError(f'{what}: the Hub refuses; {advice}')
        case HfHubHTTPError():
            status = error.response.status_code
            return ConnectionError(f'{what}: the Hub answers status {status}; try again later')
        case OSError(errno=int(number)):
            place = error.filename or constants.HF_HUB_CACHE
            advice = 'make room there, or set HF_HOME to another folder'
            return OSError(number, f'{what}: {error.strerror}; {advice}', place)
    reason = ' '.join(str(error.__cause__ or error).split())[:200]
    return ConnectionError(
        f'{what}: no sound answer from {constants.ENDPOINT} ({reason!r}); '
        'check the network and HF_ENDPOINT, and try again'
    )
