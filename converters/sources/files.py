"""Look at the files of a checkpoint: of which kind they are, where they lie, JSON in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blox.tensorfile import IMPOSTORS, check_regular, fail, parse_json

ZIP = b'PK\x03\x04'
_MAX_JSON_BYTES = 16 * 2**20


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; CheckpointError if it is none."""
    return check_object(path, read_json(path))


def check_object(path: Path, parsed: Any) -> dict[str, Any]:
    """Return what a file's JSON says if it is an object; CheckpointError if it is a list."""
    if not isinstance(parsed, dict):
        fail(path, 'expected a JSON object, found a list')
    return parsed


def read_json(path: Path) -> Any:
    """Read the JSON in a file: an object, or a list of objects. CheckpointError if it is neither."""
    check_regular(path)
    with open(path, 'rb') as file:
        content = file.read(_MAX_JSON_BYTES + 1)
    if len(content) > _MAX_JSON_BYTES:
        fail(path, f'expected at most {_MAX_JSON_BYTES} bytes of JSON')
    try:
        text = content.decode('utf-8')
    except UnicodeDecodeError as error:
        fail(path, f'expected JSON in UTF-8, found byte {error.start} that is not')
    if not text.lstrip().startswith('['):
        return parse_json(path, text, path.name)
    parsed = parse_json(path, f'{{"items": {text}}}', path.name)
    items = parsed['items']
    if len(parsed) > 1 or not all(isinstance(item, dict) for item in items):
        fail(path, 'expected a JSON object or a list of them')
    return items


def check_start(path: Path, expected: str, *magics: bytes) -> bytes:
    """Return the first bytes of a file. CheckpointError unless they start with one of `magics`."""
    check_regular(path)
    with open(path, 'rb') as file:
        start = file.read(32)
    if not start.startswith(magics):
        found = [what for magic, what in IMPOSTORS.items() if start.lstrip().startswith(magic)]
        found += ['a safetensors file'] * (start[8:9] == b'{')
        fail(path, f'expected {expected}, found {(found or [repr(start[:8])])[0]}')
    return start


def inside(about: Path, folder: Path, name: str) -> Path:
    """Return `folder / name`; CheckpointError, about a file, if that leads out of the folder.

    Links may not lead out of it either. In a cache of the Hub a snapshot's files are links into the
    repository's `blobs`.
    """
    try:
        root, target = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, NUL
        fail(about, f'expected the name of a file, found {name!r}')
    snapshots = [parent.parent for parent in root.parents if parent.name == 'snapshots']
    places = [root, *(repository / 'blobs' for repository in snapshots[:1])]
    if not any(target.is_relative_to(place) for place in places):
        fail(about, f'expected a file in its folder, found {name!r}, which leads out of it')
    return folder / name
