"""Configs: what holds of fields of one name in all families, of fields together, and of types."""

import pytest
from families import declared, tiny

import blox as bx
from blox.zoo.models import families
from blox.zoo.models.gpt2 import GPT2Config
from blox.zoo.models.vit import ViTConfig

# By the name of a field, or its end: what it must be, and values that it cannot have.
WRONG = {
    'activation': ('of gelu, gelu_tanh', ['gelu_new']),
    'context': ('> 0', [0, -1]),
    'depth': ('in [1, 256]', [0, 257, 10**9]),
    'depths': ('positive, of at most 256 blocks', [(), (1, 0), (200, 57)]),
    'heads': ('> 0', [0]),
    'image_size': ('of two positive ints', [(0, 16), (-1, 4)]),
    'in_channels': ('> 0', [0]),
    'mlp_dim': ('> 0', [0, -1]),
    'num_classes': ('>= 0', [-1]),
    'patch_size': ('of two positive ints', [(0, 16)]),
    'token_types': ('> 0', [0]),
    'vocab_size': ('> 0', [0]),
    'width': ('> 0', [0]),
    'widths': ('positive', [(4, 0), ()]),
    '_eps': ('> 0', [0.0, -1e-5]),
    '_rate': ('in [0, 1)', [1.0, -0.1, 1.5]),
}
# Of fields that have these types.
WRONG_TYPES = {
    float: ('a finite number', [float('nan'), float('inf'), 10**400]),
    int: ('an integer', [True, 2**31]),
}


def wrong_fields():
    """A family, a field, a value that it cannot have, and what the error says of the field."""
    for family in declared():
        for field, value in vars(tiny(family)).items():
            cases = [WRONG[name] for name in (field, field[field.rfind('_') :]) if name in WRONG]
            for condition, values in [*cases, WRONG_TYPES.get(type(value), ('', []))]:
                yield from ((family, field, bad, f'{field} {condition}') for bad in values)


@pytest.mark.parametrize(('family', 'field', 'value', 'condition'), list(wrong_fields()))
def test_a_field_has_the_same_bounds_in_every_family(family, field, value, condition):
    with pytest.raises(ValueError, match=families()[family].config.__name__) as caught:
        tiny(family, **{field: value})
    assert condition in str(caught.value)


@pytest.mark.parametrize(
    ('family', 'fields', 'condition'),
    [(family, *broken) for family, said in declared().items() for broken in said.broken],
)
def test_fields_that_together_make_no_model_are_refused(family, fields, condition):
    with pytest.raises(ValueError, match=families()[family].config.__name__) as caught:
        families()[family].config(**fields)
    assert condition in str(caught.value)


@pytest.mark.parametrize('family', [name for name in declared() if hasattr(tiny(name), 'heads')])
def test_heads_divide_the_width(family):
    with pytest.raises(ValueError, match='heads that divide width'):
        tiny(family, heads=3, width=8)


@pytest.mark.parametrize(
    ('fields', 'condition'),
    [
        ({'depth': 12.0}, 'depth an integer'),
        ({'depth': '12'}, 'depth an integer'),
        ({'pool': None}, 'pool a text'),
        ({'class_token': 1}, 'class_token true or false'),
        ({'norm_eps': '1e-6'}, 'norm_eps a finite number'),
        ({'image_size': 224}, 'image_size a sequence of integers'),
        ({'image_size': (224, 16.5)}, 'image_size a sequence of integers'),
        ({'image_size': (224,)}, 'image_size of two'),
        ({'image_size': (224, 224, 224)}, 'image_size of two'),
        ({'image_size': (224, 224, 224), 'patch_size': (16,)}, 'image_size of two'),
    ],
    ids=str,
)
def test_a_config_checks_types_itself(fields, condition):
    config = ViTConfig()
    for field, value in fields.items():
        # The type checks under which the tests run would come before the config's own.
        object.__setattr__(config, field, value)
    with pytest.raises(ValueError, match='ViTConfig') as caught:
        config.__post_init__()
    assert condition in str(caught.value)


def test_a_config_names_all_that_is_wrong():
    with pytest.raises(ValueError, match=r'depth in \[1, 256\]; norm_eps > 0; found'):
        GPT2Config(depth=0, heads=7, norm_eps=0.0)


def test_an_unknown_field_is_refused_with_the_known_ones():
    with pytest.raises(
        TypeError, match='vit has no config field patches; it has remat, scan, image_size, '
    ):
        bx.zoo.create('vit-b16', patches=16)


@pytest.mark.parametrize(
    ('name', 'field', 'value', 'expected'),
    [
        ('vit-b16', 'image_size', 32, (32, 32)),
        ('vit-b16', 'patch_size', 8, (8, 8)),
        ('vit-b16', 'image_size', (64, 32), (64, 32)),
        ('resnet18', 'image_size', 32, (32, 32)),
        ('vit-b16', 'num_classes', 7, 7),
    ],
)
def test_one_int_stands_for_a_pair(name, field, value, expected):
    assert getattr(bx.zoo.create(name, **{field: value}).config, field) == expected
