"""JSON beside weights."""

import json

import pytest

import blox as bx
from blox.converters.sources.files import read_json


@pytest.mark.parametrize('content', [b'{"a": 1}', b' [{"a": 1}, {}]', b'[]'])
def test_json_is_an_object_or_a_list_of_them(tmp_path, content):
    (tmp_path / 'a.json').write_bytes(content)
    assert read_json(tmp_path / 'a.json') == json.loads(content)


@pytest.mark.parametrize('content', [b'[1]', b'[{}, 1]', b'[{}]]', b'[{}', b'[{}], "b": 1'])
def test_other_json_is_refused(tmp_path, content):
    (tmp_path / 'a.json').write_bytes(content)
    with pytest.raises(bx.CheckpointError, match=r'a\.json'):
        read_json(tmp_path / 'a.json')
