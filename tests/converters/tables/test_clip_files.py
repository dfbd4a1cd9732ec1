"""CLIP's and SigLIP's files: settings of parts, early files, open_clip's."""

import dataclasses
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


TOWER = {'width': 768, 'depth': 12, 'heads': 12, 'mlp_dim': 3072}
CLIP_TEXT = {'width': 512, 'depth': 12, 'heads': 8, 'mlp_dim': 2048}
CLIP = {
    'image_size': (224, 224),
    'patch_size': (32, 32),
    'in_channels': 3,
    **{f'image_{name}': n for name, n in TOWER.items()},
    **{f'text_{name}': n for name, n in CLIP_TEXT.items()},
    **{f'{tower}_activation': 'quick_gelu' for tower in ('image', 'text')},
    **{f'{tower}_norm_eps': 1e-5 for tower in ('image', 'text')},
    'image_pool': 'cls',
    'image_projection': True,
    'embed_dim': 512,
    'vocab_size': 49408,
    'context': 77,
    'text_causal': True,
    'text_pool': 'highest',
    'end_token': -1,
    'text_bias': False,
    'logit_bias': False,
    'attention_dropout_rate': 0.0,
}
GELU = {f'{tower}_activation': 'gelu' for tower in ('image', 'text')}
SIGLIP = {
    **{f'text_{name}': n for name, n in TOWER.items()},
    **{f'{tower}_activation': 'gelu_tanh' for tower in ('image', 'text')},
    **{f'{tower}_norm_eps': 1e-6 for tower in ('image', 'text')},
    'patch_size': (16, 16),
    'image_pool': 'map',
    'image_projection': False,
    'embed_dim': 768,
    'vocab_size': 32000,
    'context': 64,
    'text_causal': False,
    'text_pool': 'last',
    'text_bias': True,
    'logit_bias': True,
}


@pytest.mark.parametrize(
    ('layout', 'said', 'expected'),
    [
        ('hf', {'model_type': 'clip'}, {'text_pool': 'end', 'end_token': 49407}),
        ('siglip', {'model_type': 'siglip'}, SIGLIP),
        ('open_clip', {'model_cfg': {}}, {'patch_size': (16, 16), **GELU}),
        (
            'open_clip',
            {'model_cfg': {'quick_gelu': True, 'vision_cfg': {'patch_size': 32}}},
            {},
        ),
    ],
)
def test_settings_that_are_not_said_are_the_librarys_own(layout, said, expected):
    found = read_config(layouts('clip')[layout], Source(Path(), {}, said))
    assert CLIP | found == CLIP | expected


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('clip-b32', {}),
        ('siglip-b16', SIGLIP),
        ('siglip2-b16', {**SIGLIP, 'vocab_size': 256000}),
    ],
)
def test_published_models_are_what_their_papers_describe(name, expected):
    assert CLIP | expected == {field: getattr(bx.zoo.card(name).config, field) for field in CLIP}
    assert bx.zoo.card('clip-h14-laion2b').config.image_activation == 'gelu'
    assert bx.zoo.card('clip-h14-laion2b').config.text_activation == 'gelu'


def test_a_head_on_the_towers_is_refused(tmp_path):
    written(tmp_path)
    edit(tmp_path, lambda config: config.update(architectures=['CLIPForImageClassification']))
    with pytest.raises(CheckpointError, match=r'ImageClassification.*expected CLIPModel'):
        bx.zoo.load(tmp_path)


# open_clip.


CONFIG = 'open_clip_config.json'


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda config: config.update(model_cfg=[1]), 'model_cfg to be an object'),
        (lambda config: config['model_cfg'].update(vision_cfg=3), 'vision_cfg to be an object'),
        (lambda config: config['model_cfg'].update(text_cfg=[1]), 'text_cfg to be an object'),
        (lambda config: config['model_cfg']['text_cfg'].update(mlp_ratio=1e999), 'Infinity'),
        (lambda config: config['model_cfg']['text_cfg'].update(mlp_ratio=1e308), 'infinity'),
    ],
)
def test_a_malformed_config_is_refused_by_the_name_of_its_file(tmp_path, change, expected):
    written(tmp_path, 'open_clip')
    edit(tmp_path, change, CONFIG)
    with pytest.raises(CheckpointError, match=CONFIG) as caught:
        bx.zoo.load(tmp_path)
    assert expected in str(caught.value)


def test_settings_that_say_what_holds_anyway_change_nothing(tmp_path):
    model, _ = written(tmp_path, 'open_clip', image_activation='gelu', text_activation='gelu')

    def change(config):
        for part in ('vision_cfg', 'text_cfg'):
            config['model_cfg'][part] |= {'norm_kwargs': {}, 'act_kwargs': {'approximate': 'none'}}
        config['model_cfg']['text_cfg']['norm_kwargs'] = {'eps': 1}

    edit(tmp_path, change, CONFIG)
    found = bx.zoo.load(tmp_path)[0].config
    assert found == dataclasses.replace(model.config, text_norm_eps=1.0)


def test_preprocessing_that_is_no_object_leaves_the_model(tmp_path, caplog):
    written(tmp_path, 'open_clip')
    edit(tmp_path, lambda config: config.update(preprocess_cfg=[1]), CONFIG)
    assert bx.zoo.read_card(tmp_path).preprocessor is None
    assert 'expected preprocess_cfg to be an object' in caplog.text


def with_tokenizer(folder, **texts):
    """Put a tokenizer beside an open_clip folder, with what its config says of texts."""
    model, params = written(folder, 'open_clip', vocab_size=len(VOCABULARY))
    edit(folder, lambda config: config['model_cfg']['text_cfg'].update(texts), CONFIG)
    (folder / 'vocab.json').write_text(json.dumps(VOCABULARY))
    (folder / 'merges.txt').write_text('')
    said = {'tokenizer_class': 'CLIPTokenizer', 'model_max_length': 3}
    (folder / 'tokenizer_config.json').write_text(json.dumps(said))
    return model, params


VOCABULARY = {
    token: i
    for i, token in enumerate(
        [*'abc', *(f'{x}</w>' for x in 'abc'), '<|startoftext|>', '<|endoftext|>']
    )
}
TEXTS = ['a b\x1c c', ' ABC ']


def test_texts_are_cut_to_the_context_whatever_a_tokenizer_says(tmp_path):
    model, _ = with_tokenizer(tmp_path)
    assert model.config.context > 3
    assert bx.zoo.text_preprocessor(tmp_path).max_tokens == model.config.context


@pytest.mark.parametrize(
    'texts',
    [
        {'tokenizer_kwargs': {'strip_sep_token': True}},
        {'tokenizer_kwargs': [1]},
        {'tokenizer_mode': 'clips'},
    ],
)
def test_tokenizers_that_do_more_are_left_out(tmp_path, caplog, texts):
    with_tokenizer(tmp_path, **texts)
    assert not bx.zoo.read_card(tmp_path).tokenizer
    assert 'prepares texts as is not known here' in caplog.text


def test_settings_of_tokenizers_that_change_nothing_are_read_over(tmp_path):
    with_tokenizer(tmp_path, tokenizer_kwargs={'strip_sep_token': False, 'clean': 'lower'})
    assert bx.zoo.read_card(tmp_path).tokenizer


def test_an_exported_tokenizer_is_the_one_that_open_clip_takes(tmp_path):
    model, params = with_tokenizer(tmp_path / 'a')
    card = bx.zoo.read_card(tmp_path / 'a')
    bx.zoo.export(tmp_path / 'b', model, params, 'open_clip', card=card)
    made = json.loads((tmp_path / 'b' / CONFIG).read_text())
    assert made['model_cfg']['text_cfg']['hf_tokenizer_name']
    assert made['model_cfg']['text_cfg']['context_length'] == model.config.context
    said = json.loads((tmp_path / 'b' / 'tokenizer_config.json').read_text())
    # Others make their own of a vocabulary, without what open_clip did before.
    assert said['tokenizer_class'] == 'PreTrainedTokenizerFast'
    assert said['pad_token'] == '<|endoftext|>'
    before, after = (bx.zoo.text_preprocessor(tmp_path / name)(TEXTS) for name in 'ab')
    np.testing.assert_array_equal(before.tokens, after.tokens)
    np.testing.assert_array_equal(before.tokens[1, :4], [6, 0, 1, 5])


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
        (
            'vision_cfg',
            {'timm_model_name': 'resnet50'},
            'expected one of timm with an attention pool: vit_base_patch16_siglip',
        ),
        (
            'vision_cfg',
            {'timm_model_name': [1]},
            'expected one of timm with an attention pool: vit_base_patch16_siglip',
        ),
        ('vision_cfg', {'head_width': 0}, 'vision_cfg.head_width 0 (expected a positive integer)'),
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
        with pytest.raises(
            ValueError, match=r"expected 'gelu' as timm's nearest tower, vit_\w+_siglip_\d+, has it"
        ):
            write_config(table, config)
        config = bx.zoo.create(name, **TRUNK, image_activation='gelu').config
    made = write_config(table, config)
    size = config.image_size[0]
    assert made['model_cfg']['vision_cfg']['timm_model_name'].endswith(f'_siglip_{size}')
    back = read_config(table, Source(Path(), {}, made))
    assert back == {field: getattr(config, field) for field in back}
    assert not table.beyond(config)
    assert table.beyond(tiny('clip'))
