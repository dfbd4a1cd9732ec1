"""Read what the Hub says of a revision, as a stream: it may say more than fits into memory."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session
from huggingface_hub.utils import hf_raise_for_status

from blox.tensorfile import fail
from blox.zoo.loading.hub.client import headers
from blox.zoo.loading.hub.names import quoted

# Twice what a hundred thousand files take, each with its hashes.
_MOST_BYTES = 64 * 2**20
_PACKED = ('identity', 'gzip')


def read_listing(repo: str, revision: str) -> dict[str, Any]:
    """Return what the Hub says of a revision: 'id' of its repository, 'sha', 'siblings' with files.

    Raises CheckpointError if it says too much, ConnectionError if it says something else.
    """
    url = f'{constants.ENDPOINT}/api/models/{repo}/revision/{quoted(revision)}'
    with get_session().stream(
        'GET',
        url,
        params={'blobs': True},
        headers={**headers(), 'Accept-Encoding': 'gzip'},
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    ) as answer:
        hf_raise_for_status(answer)
        packed = answer.headers.get('Content-Encoding', 'identity').lower()
        # Of what is packed otherwise, or twice, a few bytes may unpack to any number at once.
        if packed not in _PACKED:
            raise ConnectionError(
                f'expected an answer packed by gzip or not at all, found {packed!r}'
            )
        content = bytearray()
        for part in answer.iter_bytes():
            content += part
            if len(content) > _MOST_BYTES:
                what = f'a listing of files at {revision!r} of at most {_MOST_BYTES} bytes'
                fail(Path(repo), f'expected {what}, found more')
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {'id', 'sha'} <= found.keys():
        raise ConnectionError('found something else than a listing of files')
    return found
