"""CLIP's and SigLIP's files: settings of parts, early files, open_clip's."""

import json
from pathlib import Path

import numpy as np
import pytest
from families import build, fitted, tiny
from folders import bits, randomized
from safetensors.numpy import load_file, save_file

import blox as bx
from blox import CheckpointError
from blox.converters import layouts
from blox.converters.configs import read_config, write_config
from blox.converters.sources.source import Source


def written(folder, layout='hf', **fields):
    model = build(fitted('clip', layout, **fields))
    params = randomized(model)
    bx.converters.export(folder, model, params, layout)
    return model, params


def edit(folder, change, name='config.json'):
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))


def test_settings_that_are_said_twice_count_as_transformers_counts_them(tmp_path):
    model, _ = written(tmp_path)

    def change(config):
        config['vision_config_dict'] = config['vision_config']
        config['vision_config'] = {'hidden_size': 7}
        config['text_config_dict'] = None

    edit(tmp_path, change)
    assert bx.zoo.load(tmp_path)[0].config == model.config


@pytest.mark.parametrize('part', ['text_config', 'vision_config'])
def test_a_part_that_is_no_object_is_refused(tmp_path, part):
    written(tmp_path)
    edit(tmp_path, lambda config: config.update({part: [1]}))
    with pytest.raises(CheckpointError, match=rf'expected {part} to be an object, found \[1\]'):
        bx.zoo.load(tmp_path)


def test_positions_in_early_files_are_left_out(tmp_path):
    _, params = written(tmp_path)
    tensors = load_file(tmp_path / 'model.safetensors')
    for part in ('text_model', 'vision_model'):
        tensors[f'{part}.embeddings.position_ids'] = np.arange(5)[None]
    save_file(tensors, tmp_path / 'model.safetensors')
    assert bits(bx.zoo.load(tmp_path)[1]) == bits(params)


@pytest.mark.parametrize(
    ('said', 'pool', 'end'), [(2, 'highest', -1), (7, 'end', 7), (None, 'end', None)]
)
def test_the_end_token_says_how_texts_are_pooled(tmp_path, said, pool, end):
    written(tmp_path, vocab_size=49408)

    def change(config):
        if said is None:
            del config['text_config']['eos_token_id']
        else:
            config['text_config']['eos_token_id'] = said

    edit(tmp_path, change)
    config = bx.zoo.load(tmp_path)[0].config
    assert (config.text_pool, config.end_token) == (pool, 49407 if end is None else end)


def test_a_siglip_of_another_head_is_as_wide_as_its_images(tmp_path):
    written(tmp_path, 'siglip')
    edit(tmp_path, lambda config: config['text_config'].update(projection_size=7))
    with pytest.raises(CheckpointError, match='embed_dim that is image_width'):
        bx.zoo.load(tmp_path)


# open_clip.


def test_texts_may_have_a_prefix(tmp_path):
    _, params = written(tmp_path, 'open_clip')
    path = tmp_path / 'open_clip_model.safetensors'
    tensors = {
        name if name.startswith(('visual.', 'logit_')) else f'text.{name}': value
        for name, value in load_file(path).items()
    }
    save_file(tensors, path)
    assert bits(bx.zoo.load(tmp_path)[1]) == bits(params)


@pytest.mark.parametrize(
    ('part', 'more', 'expected'),
    [
        ('vision_cfg', {'layers': [3, 4, 6, 3]}, 'vision_cfg.layers'),
        ('vision_cfg', {'timm_model_name': 'resnet50'}, 'expected one of vit_base_patch16_siglip'),
        ('vision_cfg', {'attentional_pool': True}, 'vision_cfg.attentional_pool True'),
        ('vision_cfg', {'act_kwargs': {'approximate': 'tanh'}}, 'vision_cfg.act_kwargs'),
        ('text_cfg', {'norm_kwargs': {'bias': False}}, 'text_cfg.norm_kwargs'),
        ('text_cfg', {'hf_model_name': 'roberta-base'}, 'text_cfg.hf_model_name'),
        ('text_cfg', {'embed_cls': True}, 'text_cfg.embed_cls True'),
        ('text_cfg', {'pool_type': 'first'}, 'text_cfg.pool_type'),
    ],
)
def test_towers_of_another_kind_are_refused_by_name(tmp_path, part, more, expected):
    written(tmp_path, 'open_clip')
    edit(tmp_path, lambda config: config['model_cfg'][part].update(more), 'open_clip_config.json')
    with pytest.raises(CheckpointError, match="open_clip's CLIP") as caught:
        bx.zoo.load(tmp_path)
    assert expected in str(caught.value)


TRUNK = {
    'vocab_size': 40,
    'context': 8,
    **{f'text_{name}': n for name, n in {'width': 8, 'depth': 1, 'heads': 2, 'mlp_dim': 8}.items()},
}


@pytest.mark.parametrize('name', ['siglip2-l16', 'siglip-so400m', 'siglip2-giant', 'siglip-b16'])
def test_image_towers_of_timm_are_known_by_their_names(name):
    """But for those whose gelu is another there, though the weights are the same."""
    config = bx.zoo.create(name, **TRUNK).config
    table = layouts('clip')['open_clip_timm']
    if name != 'siglip2-giant':
        with pytest.raises(ValueError, match='that of an image tower that timm has'):
            write_config(table, config)
        config = bx.zoo.create(name, **TRUNK, image_activation='gelu').config
    made = write_config(table, config)
    size = config.image_size[0]
    assert made['model_cfg']['vision_cfg']['timm_model_name'].endswith(f'_siglip_{size}')
    back = read_config(table, Source(Path(), {}, made))
    assert back == {field: getattr(config, field) for field in back}
    assert not table.beyond(config)
    assert table.beyond(tiny('clip'))
