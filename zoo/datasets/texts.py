"""Files of text."""

from pathlib import Path

_MAX_BYTES = 2**30


def read_text(path: Path) -> str:
    """Read a file of text. ValueError for one that is too long, or not UTF-8."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'{str(path)!r}: expected at most {_MAX_BYTES} bytes of text')
    try:
        return path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{str(path)!r}: expected text in UTF-8, found {error.reason} at byte {error.start}'
        ) from error
