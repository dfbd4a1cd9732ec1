"""What folders say of their models, and what is refused of it."""

import json
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from families import every_library
from folders import FOLDERS, IMAGES, LABELS
from helpers import message, table

import blox as bx
from blox import CheckpointError
from blox.converters import layouts
from blox.converters.mapping.libraries import TRANSFORMERS


@pytest.mark.parametrize('name', FOLDERS)
def test_a_folders_card_has_what_its_files_say(exported, name):
    _, _, card, folder = exported[name]
    found = bx.zoo.read_card(folder)
    assert (found.name, found.family, found.task) == (name, card.family, card.task)
    assert (found.labels, found.preprocessor) == (card.labels, card.preprocessor)
    assert (found.source, found.layout) == ('', FOLDERS[name][1])


@pytest.mark.parametrize('name', IMAGES)
def test_a_folders_preprocessor_is_at_hand(exported, name):
    _, _, card, folder = exported[name]
    assert bx.zoo.preprocessor(folder) == card.preprocessor


@pytest.mark.parametrize('name', sorted({*FOLDERS} - {*IMAGES}))
def test_a_folders_tokenizer_is_at_hand(exported, name):
    assert bx.zoo.tokenizer(exported[name][3]).encode('b').ids == [2]


def test_labels_that_are_numbers_are_none(edited):
    labels = {str(i): f'LABEL_{i}' for i in range(3)}
    assert bx.zoo.read_card(edited('vit-hf', {'id2label': labels})).labels == ()


def test_timm_descriptions_stand_for_the_names_of_classes(edited):
    folder = edited('vit-timm', {'label_descriptions': {'cat': 'a cat, sleeping'}})
    assert bx.zoo.read_card(folder).labels == ('a cat, sleeping', *LABELS[1:])


@table(
    {
        'another pooling': ({'pooling_mode_cls_token': True}, [], ('first', False)),
        'normalized': ({'pooling_mode_mean_tokens': True}, ['Normalize'], ('mean', True)),
    }
)
def test_the_modules_of_sentence_transformers_say_how_to_pool(row, edited):
    pooling, more, expected = row
    kinds = {'': 'Transformer', '1_Pooling': 'Pooling', **dict.fromkeys(more, 'Normalize')}
    modules = [{'path': path, 'type': f'sentence_transformers.{k}'} for path, k in kinds.items()]
    folder = edited('bert-hf', {}, modules=modules)
    (folder / '1_Pooling/config.json').write_text(json.dumps(pooling))
    config = bx.zoo.read_card(folder).config
    assert (config.pool, config.normalize) == expected


@table(
    {
        'vit, an activation': ('vit-hf', {'hidden_act': 'mish'}, 'hidden_act'),
        'vit, an unknown field': ('vit-hf', {'use_rope': True}, 'use_rope'),
        'vit, quantized': ('vit-hf', {'quantization_config': {'bits': 4}}, 'quantization_config'),
        'vit, an odd epsilon': ('vit-hf', {'layer_norm_eps': -1.0}, 'norm_eps > 0'),
        'vit, heads of text': ('vit-hf', {'num_attention_heads': 'two'}, 'heads'),
        'vit timm, attention': ('vit-timm', {'model_args': {'attn_layer': 'rope'}}, 'attn_layer'),
        'vit timm, a pool': ('vit-timm', {'model_args': {'global_pool': 'prr'}}, 'global_pool'),
        'vit timm, an unknown field': ('vit-timm', {'distilled': True}, 'distilled'),
        'vit timm, no pretrained_cfg': ('vit-timm', {'pretrained_cfg': 'none'}, 'config.json'),
        'resnet, an activation': ('resnet-hf', {'hidden_act': 'gelu'}, 'hidden_act'),
        'resnet, a stride': ('resnet-hf', {'downsample_in_first_stage': True}, 'first_stage'),
        'resnet timm, dilation': (
            'resnet-timm',
            {'model_args': {'output_stride': 8}},
            'output_stride',
        ),
        'gpt2, cross attention': ('gpt2-hf', {'add_cross_attention': True}, 'add_cross_attention'),
        'gpt2, an unknown field': ('gpt2-hf', {'alibi': True}, 'alibi'),
        'bert, positions': ('bert-hf', {'position_embedding_type': 'relative_key'}, 'relative_key'),
        'bert, a decoder': ('bert-hf', {'is_decoder': True}, 'is_decoder'),
        'swin, patches of nothing': ('swin-hf', {'patch_size': 0}, 'patch_size'),
        'swin, windows of nothing': ('swin-hf', {'window_size': 0}, 'windows'),
        'swin, no stages': ('swin-hf', {'depths': [], 'num_layers': 0}, 'depths'),
        'a billion blocks': ('gpt2-hf', {'n_layer': 10**9}, 'depth'),
    }
)
def test_what_changes_the_function_is_refused_by_name(row, edited):
    name, fields, expected = row
    folder = edited(name, fields)
    said = message(CheckpointError, lambda: bx.zoo.load(folder))
    assert str(folder) in said
    assert expected in said


MODEL_TYPES = [
    kind
    for family, layout in every_library()
    for kind in layouts(family)[layout].kinds
    if layouts(family)[layout].library is TRANSFORMERS
]


@table(
    {
        'of transformers': (
            'vit-hf',
            {'model_type': 'swinv2'},
            ["'swinv2'", *MODEL_TYPES],
        ),
        'a list': ('vit-hf', {'model_type': ['vit']}, ["['vit']", *MODEL_TYPES]),
        'none': ('vit-hf', {'model_type': None}, ['None', *MODEL_TYPES]),
        'of timm': (
            'vit-timm',
            {'architecture': 'vit_base_patch17_224'},
            ["timm 1.0.31 has no architecture 'vit_base_patch17_224'"],
        ),
        'of timm, a list': ('vit-timm', {'architecture': ['vit']}, ['no architecture "[\'vit\']"']),
        'of another family of timm': (
            'vit-timm',
            {'architecture': 'swinv2_tiny_window8_256'},
            [
                'ResNet, SwinTransformer, VisionTransformer',
                "'swinv2_tiny_window8_256', which is a SwinTransformer",
            ],
        ),
    }
)
def test_another_kind_of_model_is_refused_and_the_known_are_listed(row, edited):
    name, fields, expected = row
    folder = edited(name, fields)
    for call in (bx.zoo.load, bx.zoo.read_card):
        said = message(CheckpointError, lambda call=call: call(folder))
        assert all(part in said for part in [str(folder), *expected])


@pytest.mark.parametrize('file', ['config', 'preprocessor_config'])
def test_a_list_is_no_object(edited, file, caplog):
    folder = edited('vit-hf', {}, **{file: [{}]})
    if file == 'config':
        said = message(CheckpointError, lambda: bx.zoo.load(folder))
    else:
        bx.zoo.load(folder)
        said = caplog.text
    assert f'{file}.json' in said
    assert 'expected a JSON object, found a list' in said


@table(
    {
        'a kind': ({'image_processor_type': 'SegformerImageProcessor'}, 'Segformer'),
        'a field': ({'image_processor_type': 'ViTImageProcessor', 'do_flip': True}, 'do_flip'),
    }
)
def test_unknown_preprocessing_is_warned_of_and_the_model_loads(row, edited, caplog):
    fields, expected = row
    folder = edited('vit-hf', {}, preprocessor_config=fields)
    with caplog.at_level(logging.WARNING, logger='blox'):
        bx.zoo.load(folder)
    (warning,) = caplog.messages
    assert str(folder) in warning
    assert expected in warning
    with pytest.raises(ValueError, match='no image preprocessing is known'):
        bx.zoo.preprocessor(folder)


def test_preprocessing_of_other_channels_is_refused(edited):
    fields = {'image_processor_type': 'ViTImageProcessor', 'image_mean': [0.5], 'image_std': [0.5]}
    folder = edited('vit-hf', {}, preprocessor_config=fields)
    said = message(CheckpointError, lambda: bx.zoo.load(folder))
    assert str(folder) in said
    assert 'expected a preprocessor of 3 channels, found 1' in said


@pytest.mark.parametrize('name', ['vit-dinov2', 'swin-hf'])
def test_images_get_the_one_size_that_a_model_sees(edited, caplog, name):
    made = bx.zoo.card('vit-b16').preprocessor
    assert made is not None
    prepare = made.for_size((24, 24))
    folder = edited(name, {}, preprocessor_config=prepare.to_hf())
    # As facebook/dinov2-base has it: weights for 518 pixels, images of 224.
    size = bx.zoo.read_card(folder).config.image_size
    assert bx.zoo.preprocessor(folder).size == size != (24, 24)
    assert 'prepared as (24, 24) there' in caplog.text
    model, params = bx.zoo.load(folder, image_size=24)
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    images = bx.zoo.preprocessor(folder, image_size=24)(image)
    np.testing.assert_array_equal(images, prepare(image))
    jax.eval_shape(model, params, images)


def test_unknown_preprocessing_of_timm_is_warned_of_too(edited, caplog):
    pretrained = {'input_size': [3, 8, 12], 'crop_mode': 'border'}
    folder = edited('vit-timm', {'pretrained_cfg': pretrained})
    with caplog.at_level(logging.WARNING, logger='blox'):
        assert bx.zoo.read_card(folder).preprocessor is None
    assert "crop_mode center or squash; found {'crop_mode': 'border'}" in caplog.text


@pytest.mark.parametrize(('mode', 'pool'), [('mean', 'mean'), ('cls', 'first')])
def test_pooling_as_new_versions_of_sentence_transformers_write_it(edited, mode, pool):
    folder = edited('bert-hf', {})
    (folder / '1_Pooling' / 'config.json').write_text(
        json.dumps({'embedding_dimension': 16, 'pooling_mode': mode, 'include_prompt': True})
    )
    assert bx.zoo.load(folder)[0].config.pool == pool


def test_a_folder_without_pooling_and_the_catalog_agree(exported, tmp_path):
    folder = Path(shutil.copytree(exported['bert-hf'][3], tmp_path / 'plain'))
    (folder / 'modules.json').unlink()
    assert bx.zoo.load(folder)[0].config.pool == bx.zoo.card('bert-base').config.pool == 'mean'
