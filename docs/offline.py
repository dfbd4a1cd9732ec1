"""What a page would ask of other hosts."""

import re

_ADDRESS = r'["\']?((?:https?:)?//[^"\'\s>)]+)'
# What a browser fetches by itself; not links to follow, nor where a page says it lives.
_REQUEST = re.compile(
    rf'<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc={_ADDRESS}'
    rf'|<link\b(?![^>]*rel=["\']?canonical)[^>]*\bhref={_ADDRESS}'
    rf'|(?:@import\s+|url\(\s*){_ADDRESS}'
)


def requests(text: str) -> list[str]:
    """Addresses on other hosts that a browser would fetch to show this HTML or CSS.

    >>> requests('<img src="a.png"><a href="https://b.org">b</a><script src=https://c.org/c.js>')
    ['https://c.org/c.js']
    """
    return [next(filter(None, groups)) for groups in _REQUEST.findall(text)]
