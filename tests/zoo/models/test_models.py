"""The architectures: sizes, shapes, gradients, configs, and what each family promises."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import blox as bx
from blox.zoo.models import families
from blox.zoo.models.bert import BERTConfig
from blox.zoo.models.gpt2 import GPT2Config
from blox.zoo.models.resnet import ResNetConfig
from blox.zoo.models.vit import ViTConfig

# As timm 1.0.31 and transformers 5.23 count them, with a head of 1000 classes.
PARAMETER_COUNTS = {
    'bert-base': 109_482_240,
    'bert-large': 335_141_888,
    'minilm-l6': 22_713_216,
    'minilm-l12': 33_360_000,
    'gpt2': 124_439_808,
    'gpt2-medium': 354_823_168,
    'gpt2-large': 774_030_080,
    'gpt2-xl': 1_557_611_200,
    'distilgpt2': 81_912_576,
    'resnet18': 11_689_512,
    'resnet26': 15_995_176,
    'resnet34': 21_797_672,
    'resnet50': 25_557_032,
    'resnet101': 44_549_160,
    'resnet152': 60_192_808,
    'wide-resnet50-2': 68_883_240,
    'wide-resnet101-2': 126_886_696,
    'resnext50-32x4d': 25_028_904,
    'resnext101-32x8d': 88_791_336,
    'resnext101-64x4d': 83_455_272,
    'vit-ti8': 5_719_720,
    'vit-ti16': 5_717_416,
    'vit-ti32': 6_131_560,
    'vit-s8': 22_055_272,
    'vit-s16': 22_050_664,
    'vit-s32': 22_878_952,
    'vit-b8': 86_576_872,
    'vit-b16': 86_567_656,
    'vit-b32': 88_224_232,
    'vit-l8': 304_338_920,
    'vit-l14': 304_203_752,
    'vit-l16': 304_326_632,
    'vit-l32': 306_535_400,
    'vit-h14': 632_045_800,
    'vit-h16': 632_199_400,
    'vit-h32': 634_960_360,
}
VARIANTS = {name: c for family in families().values() for name, c in family.variants.items()}
IMAGE_MODELS = ('resnet18', 'resnet50', 'resnext50-32x4d', 'vit-b16')
KINDS = ('gpt2', 'minilm-l6', *IMAGE_MODELS)


@functools.cache
def shrunk(name, **overrides):
    """The variant `name`, small, with what sets it apart (blocks, groups, heads, patches) kept."""
    config = VARIANTS[name]
    text = {'vocab_size': 11, 'context': 8}
    small = {
        BERTConfig: lambda: {**text, 'width': 4 * config.heads},
        GPT2Config: lambda: {**text, 'width': 4 * config.heads},
        ViTConfig: lambda: {
            'image_size': 2 * config.patch_size[0],
            'width': 4 * config.heads,
            'num_classes': 5,
        },
        ResNetConfig: lambda: {
            'image_size': 32,
            'depths': (1, 1),
            'widths': (16, 32),
            'stem_width': 8,
            'num_classes': 5,
        },
    }[type(config)]()
    if not isinstance(config, ResNetConfig):
        small |= {'depth': 1, 'mlp_dim': 24}
    return bx.zoo.create(name, **small | overrides)


@functools.cache
def random_params(model, dtype=jnp.float32, seed=0):
    """Params whose values are all random, for a model's own head and biases start at zero."""
    rng = np.random.default_rng(seed)
    params = bx.Params(seed=0)
    for path, param in bx.spec(model, *model.example_inputs()).items():
        if path != 'rng':
            value = jnp.asarray(rng.normal(0, 0.3, param.shape), dtype)
            value = jnp.abs(value) + 0.5 if path.endswith('/var') else value
            params = params.set(path, bx.Param(value, param.trainable, param.metadata))
    return params.finalize()


def inputs_for(model, batch=2, seed=1):
    (example,) = model.example_inputs()
    rng = np.random.default_rng(seed)
    if jnp.issubdtype(example.dtype, jnp.integer):
        return jnp.asarray(rng.integers(0, model.config.vocab_size, (batch, 6)), example.dtype)
    return jnp.asarray(rng.normal(size=(batch, *example.shape[1:])), example.dtype)


def output_shape(model, inputs):
    if isinstance(model.config, GPT2Config):
        return (*inputs.shape, model.config.vocab_size)
    if isinstance(model.config, BERTConfig):
        return (inputs.shape[0], model.config.width)
    return (inputs.shape[0], model.config.num_classes)


def same(a, b):
    """Whether two Params hold the same values, the rng's counter included."""
    key, other = (params.get('rng') for params in (a, b))
    if key and other and key.value[1] != other.value[1]:
        return False
    return all(np.array_equal(a[path].value, b[path].value) for path in a if path != 'rng')


def described(params):
    return [(param.shape, param.dtype) for param in params.values()]


def answer(outputs):
    """Logits, or the embeddings of a model that makes these among other things."""
    return getattr(outputs, 'embedding', outputs)


@functools.cache
def forward(model, *, is_training=False):
    """The answer of `model` and its Params, jitted once."""
    call = jax.jit(functools.partial(model, is_training=is_training))

    def run(params, inputs):
        outputs, params = call(params, inputs)
        return answer(outputs), params

    return run


# Sizes.


def test_every_variant_has_a_known_size():
    assert set(PARAMETER_COUNTS) == set(VARIANTS)


@pytest.fixture
def unchecked():
    """Checks of shapes off: they take most of the time where models are large, and run elsewhere."""
    jaxtyping.config.update('jaxtyping_disable', True)
    yield
    jaxtyping.config.update('jaxtyping_disable', False)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('name', PARAMETER_COUNTS)
def test_a_variant_has_as_many_parameters_as_published(name):
    model = bx.zoo.create(name)
    spec = bx.spec(model, *model.example_inputs())
    assert spec.num_params == PARAMETER_COUNTS[name]
    leaves = jax.tree.leaves(spec)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


# Every variant, shrunk.


@pytest.mark.parametrize('name', VARIANTS)
def test_a_variant_maps_inputs_to_outputs_and_keeps_its_structure(name):
    model = shrunk(name)
    inputs, params = inputs_for(model), bx.spec(model, *model.example_inputs())
    for is_training in (False, True):
        call = functools.partial(model, is_training=is_training)
        outputs, after = jax.eval_shape(call, params, inputs)
        found = answer(outputs)
        assert (found.shape, found.dtype) == (output_shape(model, inputs), jnp.float32)
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert described(after) == described(params)


# Every kind of model.


@pytest.mark.parametrize('name', KINDS)
def test_inference_is_the_default_and_changes_nothing(name):
    model = shrunk(name)
    inputs, params = inputs_for(model), random_params(model)
    outputs, after = jax.jit(model)(params, inputs)
    explicit, _ = forward(model)(params, inputs)
    assert np.isfinite(explicit).all()
    assert np.array_equal(answer(outputs), explicit)
    assert same(after, params)


@pytest.mark.parametrize(
    ('name', 'overrides'),
    [
        ('bert-base', {}),
        ('gpt2', {}),
        ('resnet18', {'drop_path_rate': 0.5}),
        ('resnet50', {}),
        ('vit-b16', {'dropout_rate': 0.5}),
    ],
)
def test_training_changes_state_alone(name, overrides):
    model = shrunk(name, **overrides)
    params = random_params(model)
    logits, after = forward(model, is_training=True)(params, inputs_for(model))
    assert np.isfinite(logits).all()
    trainable, state = params.split_trainable()
    new_trainable, new_state = after.split_trainable()
    assert same(trainable, new_trainable)
    assert not same(state, new_state)


@pytest.mark.parametrize('name', KINDS)
def test_gradients_reach_every_trainable_parameter(name):
    model = shrunk(name)
    inputs = inputs_for(model)
    trainable, rest = random_params(model).split_trainable()

    @jax.jit
    @jax.grad
    def gradient(trainable, rest):
        outputs, _ = model(trainable.merge(rest), inputs)
        return sum(jax.nn.log_softmax(x)[..., 0].sum() for x in jax.tree.leaves(outputs))

    gradients = gradient(trainable, rest)
    assert gradients
    assert [path for path, g in gradients.items() if not np.isfinite(g.value).all()] == []
    assert [path for path, g in gradients.items() if not np.any(g.value)] == []


@pytest.mark.parametrize('name', KINDS)
def test_bfloat16_weights_take_float32_images(name):
    model = shrunk(name)
    inputs, params = inputs_for(model), random_params(model)
    exact, _ = forward(model)(params, inputs)
    rounded, after = forward(model)(params.cast(jnp.bfloat16), inputs)
    assert rounded.dtype == jnp.bfloat16
    assert {p.dtype for path, p in after.items() if path != 'rng'} == {jnp.dtype('bfloat16')}
    assert np.abs(rounded.astype('float32') - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ('name', 'width'),
    [('vit-b16', 48), ('resnet18', 32), ('resnet50', 128), ('resnext50-32x4d', 128)],
)
def test_without_classes_a_model_gives_features(name, width):
    model = shrunk(name, num_classes=0)
    params = random_params(model)
    features, _ = forward(model)(params, inputs_for(model))
    assert features.shape == (2, width)
    assert not [path for path in params if '/head/' in path]


@pytest.mark.parametrize('name', ['vit-b16', 'resnet18'])
def test_the_head_is_linear_in_the_features(name):
    model, headless = shrunk(name), shrunk(name, num_classes=0)
    params, images = random_params(model), inputs_for(model)
    logits, _ = forward(model)(params, images)
    head, body = params.partition('*/head/*')
    features, _ = forward(headless)(body, images)
    w, b = (np.asarray(head[f'{model.path}/head/{name}'].value) for name in 'wb')
    np.testing.assert_allclose(logits, features @ w + b[None], rtol=1e-4, atol=1e-4)


def test_the_seed_decides_the_initial_values():
    model = shrunk('gpt2')
    first, again, other = (bx.zoo.init(model, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert jax.tree.structure(first) == jax.tree.structure(random_params(model))


# Configs.

BROKEN = [
    (ViTConfig, {'image_size': (0, 16)}, 'image_size of two positive ints'),
    (ViTConfig, {'patch_size': (0, 16)}, 'patch_size of two positive ints'),
    (ViTConfig, {'image_size': (224, 225)}, 'patches that tile the image'),
    (ViTConfig, {'in_channels': 0}, 'in_channels > 0'),
    (ViTConfig, {'num_classes': -1}, 'num_classes >= 0'),
    (ViTConfig, {'pre_logits': -1}, 'pre_logits >= 0'),
    (ViTConfig, {'depth': 0}, 'depth in [1, 256]'),
    (ViTConfig, {'depth': 10**9}, 'depth in [1, 256]'),
    (ViTConfig, {'mlp_dim': 0}, 'mlp_dim > 0'),
    (ViTConfig, {'width': 0}, 'width > 0'),
    (ViTConfig, {'heads': 7}, 'heads that divide width'),
    (ViTConfig, {'heads': 0}, 'heads > 0'),
    (ViTConfig, {'pool': 'max'}, "pool 'avg', or 'cls' with a class token"),
    (ViTConfig, {'class_token': False}, "pool 'avg', or 'cls' with a class token"),
    (ViTConfig, {'activation': 'gelu_new'}, 'activation of gelu, gelu_tanh'),
    (ViTConfig, {'norm_eps': 0.0}, 'norm_eps > 0'),
    (ViTConfig, {'norm_eps': float('nan')}, 'norm_eps a finite number'),
    (ViTConfig, {'drop_path_rate': 1.0}, 'drop_path_rate in [0, 1)'),
    (ViTConfig, {'attention_dropout_rate': -0.1}, 'attention_dropout_rate in [0, 1)'),
    (ViTConfig, {'dropout_rate': float('inf')}, 'dropout_rate a finite number'),
    (ViTConfig, {'heads': True}, 'heads an integer'),
    (BERTConfig, {'vocab_size': 0}, 'vocab_size > 0'),
    (BERTConfig, {'context': 0}, 'context > 0'),
    (BERTConfig, {'token_types': 0}, 'token_types > 0'),
    (BERTConfig, {'depth': 257}, 'depth in [1, 256]'),
    (BERTConfig, {'mlp_dim': 0}, 'mlp_dim > 0'),
    (BERTConfig, {'heads': 5}, 'heads that divide width'),
    (BERTConfig, {'activation': 'gelu_new'}, 'activation of gelu, gelu_tanh'),
    (BERTConfig, {'norm_eps': 0.0}, 'norm_eps > 0'),
    (BERTConfig, {'pool': 'max'}, "pool 'first', 'mean', or 'pooler' with a pooler"),
    (BERTConfig, {'pool': 'pooler', 'pooler': False}, "or 'pooler' with a pooler"),
    (BERTConfig, {'dropout_rate': 1.0}, 'dropout_rate in [0, 1)'),
    (GPT2Config, {'vocab_size': 0}, 'vocab_size > 0'),
    (GPT2Config, {'context': -1}, 'context > 0'),
    (GPT2Config, {'depth': 257}, 'depth in [1, 256]'),
    (GPT2Config, {'mlp_dim': -1}, 'mlp_dim > 0'),
    (GPT2Config, {'heads': 5}, 'heads that divide width'),
    (GPT2Config, {'activation': 'gelu_new'}, 'activation of gelu, gelu_tanh'),
    (GPT2Config, {'norm_eps': -1e-5}, 'norm_eps > 0'),
    (GPT2Config, {'embed_dropout_rate': 1.5}, 'embed_dropout_rate in [0, 1)'),
    (ResNetConfig, {'image_size': (-1, 4)}, 'image_size of two positive ints'),
    (ResNetConfig, {'in_channels': 0}, 'in_channels > 0'),
    (ResNetConfig, {'num_classes': -1}, 'num_classes >= 0'),
    (ResNetConfig, {'block': 'wide'}, "block 'basic' or 'bottleneck'"),
    (ResNetConfig, {'depths': (2, 2)}, 'as many depths as widths'),
    (ResNetConfig, {'depths': (), 'widths': ()}, 'depths positive, of at most 256 blocks'),
    (ResNetConfig, {'depths': (1, 1, 1, 0)}, 'depths positive, of at most 256 blocks'),
    (ResNetConfig, {'widths': (64, 128, 256, 0)}, 'widths positive'),
    (ResNetConfig, {'stem_width': 0}, 'stem_width > 0'),
    (ResNetConfig, {'block': 'basic', 'groups': 2}, 'groups and group_width only with bottlenecks'),
    (ResNetConfig, {'groups': 0}, 'groups and group_width that leave each 3x3 some channels'),
    (ResNetConfig, {'stem': 'tiny'}, "stem 'imagenet' or 'small'"),
    (ResNetConfig, {'stride_on': 'conv3'}, "stride_on 'conv1' or 'conv2'"),
    (ResNetConfig, {'bn_eps': 0.0}, 'bn_eps > 0'),
    (ResNetConfig, {'bn_decay': 1.1}, '0 <= bn_decay <= 1'),
    (ResNetConfig, {'drop_path_rate': 1.0}, 'drop_path_rate in [0, 1)'),
]


@pytest.mark.parametrize(('config', 'fields', 'condition'), BROKEN)
def test_a_config_refuses_what_makes_no_model(config, fields, condition):
    with pytest.raises(ValueError, match=config.__name__) as caught:
        config(**fields)
    assert condition in str(caught.value)


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


def test_grouped_convolutions_without_channels_are_refused():
    with pytest.raises(ValueError, match='group_width'):
        ResNetConfig(widths=(8, 16, 32, 64), groups=32, group_width=4)


def test_an_unknown_field_is_refused_with_the_known_ones():
    with pytest.raises(
        TypeError, match='vit has no config field patches; it has remat, image_size, '
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


# GPT-2.


def gpt2_in_float64(**overrides):
    model = shrunk('gpt2', context=16, depth=2, **overrides)
    return model, random_params(model, jnp.float64)


def some_tokens(batch=2, length=12):
    return jnp.asarray(np.random.default_rng(3).integers(0, 11, (batch, length)), jnp.int32)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('place', [1, 6, 11])
def test_gpt2_does_not_look_ahead(place):
    model, params = gpt2_in_float64()
    tokens = some_tokens()
    changed = tokens.at[:, place].set((tokens[:, place] + 1) % 11)
    before, after = (forward(model)(params, t)[0] for t in (tokens, changed))
    np.testing.assert_allclose(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
    assert (np.abs(after - before)[:, place:].max((0, 2)) > 1e-6).all()


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
    ('chunks', 'options'),
    [
        ((12,), {}),
        ((1,) * 12, {}),
        ((4, 1, 4, 3), {}),
        ((4, 4, 4), {'tied_head': False}),
        ((4, 4, 4), {'scale_attention': False}),
        ((4, 4, 4), {'scale_attention_by_depth': True}),
    ],
    ids=str,
)
def test_gpt2_step_by_step_equals_all_at_once(chunks, options):
    model, params = gpt2_in_float64(**options)
    tokens = some_tokens()
    expected, _ = forward(model)(params, tokens)
    state, step, start, found = model.initial_state(2, 12, jnp.float64), jax.jit(model.step), 0, []
    for size in chunks:
        (logits, state), _ = step(params, tokens[:, start : start + size], state)
        found.append(logits)
        start += size
    np.testing.assert_allclose(np.concatenate(found, 1), expected, rtol=0, atol=1e-12)
    assert state.position.tolist() == [12, 12]


def step_unevenly(model, params, tokens, advances, room):
    """Each row's logits, where row i goes on by `advances[n][i]` tokens in step n."""
    state, step = model.initial_state(len(tokens), room, jnp.float64), jax.jit(model.step)
    positions, found = np.zeros(len(tokens), int), [[] for _ in tokens]
    for lengths in advances:
        padded = np.full((len(tokens), max(lengths)), 7, np.int32)
        for i, n in enumerate(lengths):
            padded[i, :n] = tokens[i, positions[i] : positions[i] + n]
        (logits, state), _ = step(params, jnp.asarray(padded), state, jnp.asarray(lengths, 'int32'))
        for i, n in enumerate(lengths):
            found[i].append(logits[i, :n])
        positions += np.asarray(lengths)
    return [np.concatenate(rows) for rows in found]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('room', [16, 12], ids=['room to spare', 'room for the tokens alone'])
@pytest.mark.parametrize(
    'advances',
    [[(5, 2), (3, 6), (0, 1), (4, 3)], [(7, 1), (4, 4), (1, 7)]],
    ids=['growing and idle', 'padded to the end'],
)
def test_gpt2_steps_by_uneven_lengths(advances, room):
    model, params = gpt2_in_float64()
    tokens = some_tokens()
    expected, _ = forward(model)(params, tokens)
    found = step_unevenly(model, params, np.asarray(tokens), advances, room)
    for row, whole in zip(found, expected):
        np.testing.assert_allclose(row, whole[: len(row)], rtol=0, atol=1e-12)


@pytest.mark.parametrize('chunks', [(6, 1, 1), (4, 4), (8,), (5, 2, 1)])
def test_gpt2_past_its_room_gives_nan(chunks):
    model = shrunk('gpt2')
    params, state, found = random_params(model), model.initial_state(2, 6), []
    step = jax.jit(model.step)
    for size in chunks:
        (logits, state), _ = step(params, jnp.zeros((2, size), jnp.int32), state)
        found.append(logits)
    assert np.isnan(np.concatenate(found, 1)[:, 6:]).all()


def test_gpt2_has_room_for_its_context_by_default():
    model = shrunk('gpt2')
    assert model.initial_state(3).caches[0].keys.shape == (3, 8, 12, 4)


def test_gpt2_refuses_more_tokens_than_its_context():
    model = shrunk('gpt2')
    with pytest.raises(ValueError, match="'gpt2' sees at most 8 tokens, found 9"):
        forward(model)(random_params(model), jnp.zeros((1, 9), jnp.int32))


@pytest.mark.parametrize('token', [-1, 11])
def test_gpt2_gives_nan_for_ids_outside_its_vocabulary(token):
    model = shrunk('gpt2')
    logits, _ = forward(model)(random_params(model), jnp.full((1, 1), token, jnp.int32))
    assert np.isnan(logits).all()


def test_gpt2_heads_differ_in_one_matrix():
    tied, own = (random_params(shrunk('gpt2', tied_head=tied)) for tied in (True, False))
    assert set(own) - set(tied) == {'gpt2/head/w'}
    assert own['gpt2/head/w'].shape == (48, 11)


# ViT.


def test_vit_refuses_other_image_sizes():
    model = shrunk('vit-b16')
    params = random_params(model)
    with pytest.raises(ValueError, match=r"'vit' expects images of \(32, 32\), found \(48, 32\)"):
        model(params, jnp.zeros((1, 48, 32, 3)))


@pytest.mark.parametrize(
    'options',
    [
        {'pool': 'avg'},
        {'pool': 'avg', 'class_token': False},
        {'pre_logits': 6},
        {'qkv_bias': False},
        {'image_size': (32, 48), 'patch_size': (16, 8)},
        {'in_channels': 1},
    ],
    ids=str,
)
def test_vit_takes_its_options(options):
    model = shrunk('vit-b16', **options)
    images, params = inputs_for(model), random_params(model)
    logits, _ = forward(model)(params, images)
    assert logits.shape == (2, 5)
    assert not np.allclose(logits[0], logits[1])
    rows, columns = (size // patch for size, patch in zip(*sizes(model.config)))
    tokens = rows * columns + model.config.class_token
    assert params['vit/pos_embed'].shape == (1, tokens, 48)


def sizes(config):
    return config.image_size, config.patch_size


def test_vit_exact_and_tanh_gelu_differ():
    models = [shrunk('vit-b16', activation=name) for name in ('gelu', 'gelu_tanh')]
    params, images = random_params(models[0]), inputs_for(models[0])
    exact, approximate = (forward(model)(params, images)[0] for model in models)
    assert 0 < np.abs(exact - approximate).max() < 0.1


# ResNet.


@pytest.mark.parametrize('size', [(33, 47), (64, 32), (1, 1)])
def test_resnet_takes_other_image_sizes(size):
    model = shrunk('resnet18')
    logits, _ = forward(model)(random_params(model), jnp.ones((2, *size, 3)))
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(('stride_on', 'is_skipped'), [('conv1', True), ('conv2', False)])
def test_resnet_v1_skips_odd_pixels_where_v1_5_does_not(stride_on, is_skipped):
    model = shrunk('resnet50', stride_on=stride_on)
    params, block = random_params(model), model.stages[1][0]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 8, 8, 64)), jnp.float32)
    outputs, gradient = jax.value_and_grad(lambda x: block(params, x)[0].sum())(x)
    assert bool((gradient[:, 1::2, 1::2] == 0).all()) == is_skipped
    assert gradient[:, ::2, ::2].any()
    assert outputs > 0


def test_resnet_versions_share_their_parameters():
    specs = [
        bx.spec(model, *model.example_inputs())
        for model in (shrunk('resnet50', stride_on=place) for place in ('conv1', 'conv2'))
    ]
    assert jax.tree.structure(specs[0]) == jax.tree.structure(specs[1])
    assert described(specs[0]) == described(specs[1])


@pytest.mark.parametrize(('stem', 'size'), [('imagenet', 8), ('small', 32)])
def test_resnet_stems_differ_in_resolution(stem, size):
    model = shrunk('resnet18', stem=stem)
    shapes = []
    block = model.stages[0][0].convs[0]
    call = type(block).__call__

    def spy(self, params, x, **kwargs):
        if self is block:
            shapes.append(x.shape)
        return call(self, params, x, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(block), '__call__', spy)
        bx.spec(model, *model.example_inputs())
    assert shapes == [(1, size, size, 8)]


def test_resnet_moves_its_statistics_by_its_decay():
    model = shrunk('resnet18', bn_decay=0.25)
    params, images = random_params(model), inputs_for(model)
    _, after = forward(model, is_training=True)(params, images)
    stem = np.asarray(jax.jit(model.stem.conv)(params, images)[0])
    old, new = (
        [p[f'resnet/stem/norm/{n}'].value for n in ('mean', 'var')] for p in (params, after)
    )
    expected = stem.mean((0, 1, 2)), stem.var((0, 1, 2), ddof=1)
    for before, batch, found in zip(old, expected, new):
        np.testing.assert_allclose(found, 0.25 * before + 0.75 * batch, rtol=1e-4, atol=1e-5)


# Dropout and drop path.

NOISE = [
    ('bert-base', 'embed_dropout_rate'),
    ('bert-base', 'attention_dropout_rate'),
    ('bert-base', 'dropout_rate'),
    ('gpt2', 'embed_dropout_rate'),
    ('gpt2', 'attention_dropout_rate'),
    ('gpt2', 'dropout_rate'),
    ('vit-b16', 'dropout_rate'),
    ('vit-b16', 'attention_dropout_rate'),
    ('vit-b16', 'drop_path_rate'),
    ('resnet18', 'drop_path_rate'),
    ('resnet50', 'drop_path_rate'),
]


def with_rate(name, field, rate):
    """The shrunk model whose only noise is `field`."""
    fields = [f for f in vars(VARIANTS[name]) if f.endswith('_rate')]
    # The first block's drop path has rate 0.
    depth = {'depth': 2} if name == 'vit-b16' else {}
    return shrunk(name, **depth, **dict.fromkeys(fields, 0.0) | {field: rate})


@pytest.mark.parametrize(('name', 'field'), NOISE)
def test_noise_is_for_training_only(name, field):
    quiet, noisy = with_rate(name, field, 0.0), with_rate(name, field, 0.5)
    params, inputs = random_params(quiet), inputs_for(quiet, batch=8)
    expected, _ = forward(quiet)(params, inputs)
    found, after = forward(noisy)(params, inputs)
    assert np.array_equal(found, expected)
    assert same(after, params)


@pytest.mark.parametrize(('name', 'field'), NOISE)
def test_noise_in_training_is_new_each_time(name, field):
    model = with_rate(name, field, 0.5)
    params, inputs = random_params(model), inputs_for(model, batch=8)
    train = forward(model, is_training=True)
    first, again, later = (train(p, inputs)[0] for p in (params, params, params.next_key()[1]))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)


def test_drop_path_grows_with_depth():
    vit = shrunk('vit-b16', depth=3, drop_path_rate=0.2)
    resnet = shrunk('resnet50', depths=(2, 1), drop_path_rate=0.2)
    blocks = [block for stage in resnet.stages for block in stage]
    assert [block.drop_path1.rate for block in vit.blocks] == pytest.approx([0, 0.1, 0.2])
    assert [block.drop_path2.rate for block in vit.blocks] == pytest.approx([0, 0.1, 0.2])
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0, 0.1, 0.2])
