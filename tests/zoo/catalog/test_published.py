"""The catalog's facts: every row names a variant, a source and inputs that fit together."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from families import declared

import blox as bx
from blox.converters import Source, layouts
from blox.converters.configs import read_config, write_config
from blox.converters.sources.tensor import Tensor
from blox.converters.target import model_spec
from blox.zoo.catalog.published import published
from blox.zoo.inputs.images import ImagePreprocessor
from blox.zoo.models import families

FAMILY_OF = {name: family for family in families().values() for name in family.variants}
LICENSES = ('apache-2.0', 'bsd-3-clause', 'cc-by-nc-4.0', 'dinov3-license', 'mit')
ROWS = list(published().values())
IMAGE_ROWS = [(row, row.preprocessor) for row in ROWS if row.preprocessor]

LETTERS = {'tiny': 'ti', 'small': 's', 'base': 'b', 'large': 'l', 'huge': 'h'}


def pattern_of(row):
    """The first pattern of its family that a row's source matches."""
    sources = declared()[FAMILY_OF[row.variant].name].sources
    return next(pattern for pattern in sources if re.fullmatch(pattern, row.source.lower()))


def name_of(row):
    """The name that the module's docstring promises for a source."""
    pattern = pattern_of(row)
    name, _ = declared()[FAMILY_OF[row.variant].name].sources[pattern]
    name = re.sub(pattern, name, row.source.lower()).replace('_', '-')
    return re.sub(
        r'(?<=it-|t3-|ip-|p2-)(tiny|small|base|large|huge)', lambda size: LETTERS[size[0]], name
    )


def config_of(row):
    """The row's config, by way of which `load` makes it too."""
    family = FAMILY_OF[row.variant]
    return family.override(family.variants[row.variant], row.overrides)


@pytest.mark.parametrize('family', declared())
def test_every_group_is_whole(family):
    rows = [row for row in published().values() if FAMILY_OF[row.variant].name == family]
    expected = {pattern: count for pattern, (_, count) in declared()[family].sources.items()}
    assert Counter(pattern_of(row) for row in rows) == expected


def test_googles_are_those_that_it_published():
    """Base models of patch 32 and 1000 classes exist at 384 alone, and so do large ones."""
    sources = {row.source for row in published().values() if row.source.startswith('google/vit')}
    tuned = ('base-patch16-224', 'base-patch16-384', 'base-patch32-384')
    tuned += ('large-patch16-224', 'large-patch16-384', 'large-patch32-384')
    whole = ('base-patch16', 'base-patch32', 'large-patch16', 'large-patch32', 'huge-patch14')
    expected = {f'google/vit-{size}' for size in tuned}
    assert sources == expected | {f'google/vit-{size}-224-in21k' for size in whole}


@pytest.mark.parametrize(
    ('name', 'source'),
    {
        'vit-b16': 'google/vit-base-patch16-224',
        'vit-h14-in21k': 'google/vit-huge-patch14-224-in21k',
        'vit-ti16-augreg-384': 'timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k',
        'deit-s16': 'facebook/deit-small-patch16-224',
        'resnet50': 'timm/resnet50.a1_in1k',
        'resnext101-64x4d-tv': 'timm/resnext101_64x4d.tv_in1k',
        'resnet50-microsoft': 'microsoft/resnet-50',
        'gpt2-xl': 'openai-community/gpt2-xl',
        'all-minilm-l6': 'sentence-transformers/all-MiniLM-L6-v2',
    }.items(),
)
def test_names_lead_to_their_sources(name, source):
    assert published()[name].source == source


def test_names_follow_the_rule():
    for row in ROWS:
        assert published()[row.name] is row
        assert row.name == name_of(row)
        assert re.fullmatch(r'[a-z0-9]+(-[a-z0-9]+)*', row.name)


def test_no_two_names_share_a_source():
    assert len({row.source for row in published().values()}) == len(published())


def test_texts_are_of_their_kind():
    for row in ROWS:
        assert re.fullmatch(r'[a-z-]+/[\w.-]+', row.source)
        assert row.layout in layouts(FAMILY_OF[row.variant].name)
        assert (row.layout == 'timm') == row.source.startswith('timm/')
        assert row.license in LICENSES
        assert re.fullmatch(r'arXiv:\d{4}\.\d{5}|https://\S+\.pdf', row.paper)
        assert row.summary
        assert row.summary.isprintable()


def test_a_name_that_is_a_variants_has_that_variants_architecture():
    for row in ROWS:
        assert row.variant in FAMILY_OF
        assert row.name not in FAMILY_OF or row.name == row.variant


def test_configs_build():
    for row in ROWS:
        model = FAMILY_OF[row.variant].build(config_of(row))
        assert model.config == config_of(row)


def test_exactly_the_models_of_images_have_a_preprocessor():
    for row in ROWS:
        is_of_images = 'image' in FAMILY_OF[row.variant].task
        assert isinstance(row.preprocessor, ImagePreprocessor) == is_of_images


def test_preprocessors_make_what_the_model_sees():
    for row, preprocessor in IMAGE_ROWS:
        config = config_of(row)
        assert preprocessor.size == config.image_size
        assert len(preprocessor.mean) == config.in_channels


@pytest.mark.parametrize(
    ('name', 'resize', 'keep_ratio', 'interpolation'),
    [
        ('vit-b16', 224, False, 'bilinear'),
        ('vit-b16-384', 384, False, 'bilinear'),
        ('vit-b16-augreg', 248, True, 'bicubic'),
        ('vit-b16-augreg-384', 384, True, 'bicubic'),
        ('deit-b16', 256, False, 'bicubic'),
        ('deit-b16-384', 438, False, 'bicubic'),
        ('resnet50', 235, True, 'bicubic'),
        ('resnet50-tv', 256, True, 'bilinear'),
        ('resnet50-tv2', 201, True, 'bilinear'),
        ('resnet50-microsoft', 256, True, 'bicubic'),
    ],
)
def test_images_are_resized_as_the_source_says(name, resize, keep_ratio, interpolation):
    found = published()[name].preprocessor
    assert found is not None
    assert (found.resize, found.keep_ratio) == ((resize, resize), keep_ratio)
    assert found.interpolation == interpolation


def test_vits_of_google_and_timm_map_pixels_to_between_minus_one_and_one_and_deit_does_not():
    for row, preprocessor in IMAGE_ROWS:
        if not row.variant.startswith('vit-'):
            continue
        is_half = row.name.startswith('vit-')
        assert preprocessor.mean == ((0.5,) * 3 if is_half else (0.485, 0.456, 0.406))
        assert preprocessor.std == ((0.5,) * 3 if is_half else (0.229, 0.224, 0.225))


def test_vits_in_hugging_faces_layout_have_its_small_epsilon():
    for row in ROWS:
        if row.variant.startswith('vit-'):
            assert config_of(row).norm_eps == (1e-12 if row.layout == 'hf' else 1e-6)


@pytest.mark.parametrize(
    'name', ['vit-b16-in21k', 'vit-b32-in21k', 'vit-l16-in21k', 'vit-l32-in21k', 'vit-h14-in21k']
)
def test_googles_in21k_models_end_in_a_pooler_of_their_width(name):
    config = config_of(published()[name])
    assert (config.num_classes, config.pre_logits) == (0, config.width)


def test_its_layout_can_say_its_config():
    for row in ROWS:
        config, family = config_of(row), FAMILY_OF[row.variant]
        table = layouts(family.name)[row.layout]
        fields = write_config(table, config)
        if row.layout == 'timm':
            # What the repository's own config.json is sure to say.
            said = {'num_classes': config.num_classes, 'input_size': [3, *config.image_size]}
            architecture = row.source.removeprefix('timm/').split('.')[0]
            fields = {'architecture': architecture, 'pretrained_cfg': said}
        names = [name for rule in table.rules(config) for name in rule.external]
        tensor = Tensor(np.dtype(np.float32), (1,), lambda: np.zeros(1, np.float32), Path())
        read = read_config(table, Source(Path(), dict.fromkeys(names, tensor), fields))
        # The pooling of sentence-transformers stands in files of its own.
        apart = {
            name: getattr(config, name) for name in ('normalize', 'pool') if family.name == 'bert'
        }
        # Hugging Face's ResNets take images of any size, and say of none.
        apart |= {
            name: getattr(config, name) for name in table.unsaid(config) if name in row.overrides
        }
        assert family.override(family.config(), read | apart) == config


def test_accuracies_are_those_of_classifiers_of_imagenet_as_measured():
    measured = {row.name: row.metrics for row in ROWS if row.metrics}
    assert measured['resnet50'] == {
        'imagenet_top1_at_288': 0.81214,
        'imagenet_top5_at_288': 0.95102,
    }
    assert measured['vit-b16-augreg'] == {'imagenet_top1': 0.84532, 'imagenet_top5': 0.97292}
    assert measured['clip-b32'] == {'imagenet_zero_shot_top1': 0.6332}
    for row in ROWS:
        assert all(0.6 < value < 1 for value in row.metrics.values())
        if any(name.startswith('imagenet_top') for name in row.metrics):
            config = config_of(row)
            assert FAMILY_OF[row.variant].task_of(config) == 'image-classification'
            assert config.num_classes == 1000
    assert len(measured) == 92


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_parameters_are_counted_as_the_model_has_them(row):
    family, plain = FAMILY_OF[row.variant], {'norm_eps', 'image_activation', 'text_activation'}
    if {*row.overrides} <= plain:
        expected = declared()[family.name].num_params[row.variant]
    else:
        expected = model_spec(family.build(config_of(row))).num_params
    assert row.parameters == expected


def test_names_of_sources_stand_for_entries():
    for row in ROWS:
        assert bx.zoo.card(row.source.partition('/')[2]).name == row.name
    assert bx.zoo.card('bert-base-uncased').name == 'bert-base'


def test_an_architecture_of_timm_is_no_name_of_weights():
    with pytest.raises(
        ValueError, match=r"'deit3-b16' \(deit3_base_patch16_224\.fb_in22k_ft_in1k\)$"
    ):
        bx.zoo.card('deit3_base_patch16_224')
    with pytest.raises(
        ValueError, match=r"architecture of timm; .* 'vit-b16-augreg' .*, 'vit-b16-augreg2' "
    ):
        bx.zoo.load('vit_base_patch16_224')
