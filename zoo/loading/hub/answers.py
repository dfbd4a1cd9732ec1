"""Look at answers before huggingface_hub does: how long they ask to wait, what they are packed in."""

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from huggingface_hub import get_session
from huggingface_hub.utils import hf_raise_for_status

Look = Callable[[Any], None]

_SHARED = threading.Lock()

# After these huggingface_hub asks again, as late as the answer says: an hour, a year.
_BUSY = (408, 429, 500, 502, 503, 504)
_WAITS = ('RateLimit', 'Retry-After')


class BusyError(Exception):
    """An answer that asks to come again in so many seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f'the Hub asks to wait {seconds} s')
        self.seconds = seconds


@contextlib.contextmanager
def looked_at(*looks: Look) -> Iterator[None]:
    """Show each answer to this thread before its body is read; what a look raises ends the call.

    The session is shared by all who use huggingface_hub: other threads, and this one after the
    block, do as ever. A HEAD request that found no answer is not repeated, for huggingface_hub
    would make another session, of whose answers nothing is shown.
    """
    session, thread, unanswered = get_session(), threading.get_ident(), False

    def before(request: Any) -> None:
        nonlocal unanswered
        if threading.get_ident() == thread:
            if unanswered and request.method == 'HEAD':
                raise ConnectionError(f'found no answer from {request.url.host}')
            unanswered = True

    def after(response: Any) -> None:
        nonlocal unanswered
        if threading.get_ident() == thread:
            unanswered = False
            for look in looks:
                look(response)

    hooks = {'request': before, 'response': after}
    _change(session, lambda kind, others: [*others, hooks[kind]])
    try:
        yield
    finally:
        _change(session, lambda kind, others: [one for one in others if one is not hooks[kind]])


def _change(session: Any, change: Callable[[str, list[Any]], list[Any]]) -> None:
    """Set new lists of hooks: another thread may be going through the old ones."""
    with _SHARED:
        session.event_hooks = {kind: change(kind, old) for kind, old in session.event_hooks.items()}


def check_wait(response: Any) -> None:
    """Raise BusyError if an answer asks to wait; what it says that nobody can read is dropped."""
    if response.status_code not in _BUSY:
        return
    if seconds := _seconds(response.headers):
        raise BusyError(seconds)
    for name in _WAITS:
        response.headers.pop(name, None)


def _seconds(headers: Any) -> int | None:
    """Return how long headers ask to wait, at least a second; None if they do not say."""
    limit, after = (headers.get(name, '').strip() for name in _WAITS)
    if spent := re.search(r'; *r *= *0 *; *t *= *([0-9]{1,9})\b', limit):
        after = spent[1]
    if re.fullmatch('[0-9]{1,9}', after):
        return max(1, int(after))
    try:
        return max(1, math.ceil(parsedate_to_datetime(after).timestamp() - time.time()))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def check_body(response: Any) -> None:
    """Have nothing unpacked beside what was asked for: a redirect's body, or a long one of an error.

    Both are read to their end by the client, whatever they unpack to.
    """
    if response.is_success or response.request.method == 'HEAD':
        return
    packed = response.headers.pop('Content-Encoding', 'identity').lower() != 'identity'
    short = re.fullmatch('[0-9]{1,6}', response.headers.get('Content-Length', ''))
    if response.is_error and (packed or not short):
        bare = type(response)(
            response.status_code, headers=response.headers, request=response.request
        )
        hf_raise_for_status(bare)
