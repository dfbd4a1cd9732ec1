"""BERT's folders: what sentence-transformers says beside config.json."""

import json

import pytest
from checkpoints import folder_of
from families import tiny

from blox.converters import layouts
from blox.converters.configs import read_config

POOLING = {
    'mean': ({'pooling_mode_mean_tokens': True}, True, {'pool': 'mean', 'normalize': True}),
    'first': ({'pooling_mode_cls_token': True}, False, {'pool': 'first', 'normalize': False}),
    'first, and prompts': (
        {'pooling_mode_cls_token': True, 'include_prompt': True, 'pooling_mode_max_tokens': False},
        True,
        {'pool': 'first', 'normalize': True},
    ),
    'the largest': ({'pooling_mode_max_tokens': True}, True, 'max_tokens'),
    'two': ({'pooling_mode_cls_token': True, 'pooling_mode_mean_tokens': True}, True, 'cls_token'),
}


@pytest.mark.parametrize(('modes', 'normalize', 'expected'), POOLING.values(), ids=list(POOLING))
def test_pooling_is_as_sentence_transformers_says(tmp_path, modes, normalize, expected):
    source = folder_of(tiny('bert', normalize=normalize), 'hf', tmp_path)
    (tmp_path / '1_Pooling/config.json').write_text(json.dumps(modes))
    if isinstance(expected, dict):
        read = read_config(layouts('bert')['hf'], source)
        assert {name: read[name] for name in expected} == expected
    else:
        with pytest.raises(ValueError, match=f'expected mean or cls pooling.*{expected}'):
            read_config(layouts('bert')['hf'], source)


def test_other_modules_of_sentence_transformers_are_refused(tmp_path):
    source = folder_of(tiny('bert'), 'hf', tmp_path)
    modules = [*source.read_json('modules.json'), {'type': 'models.Dense', 'path': '2_Dense'}]
    (tmp_path / 'modules.json').write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"expected Transformer, Pooling.*found .*'Dense'"):
        read_config(layouts('bert')['hf'], source)
