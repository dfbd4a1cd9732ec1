"""What every model of the zoo promises: sizes, shapes, gradients, dtypes, noise in training alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import declared, family_of, tiny
from small_models import (
    KINDS,
    SMALL,
    answer,
    answer_shape,
    described,
    forward,
    inputs_for,
    model_of,
    random_params,
    same,
)

import blox as bx
from blox.zoo.models import families

NUM_PARAMS = {name: n for said in declared().values() for name, n in said.num_params.items()}
every_small = pytest.mark.parametrize('config', SMALL.values(), ids=SMALL)
every_kind = pytest.mark.parametrize('config', KINDS.values(), ids=KINDS)

# Sizes.


def test_every_family_declares_what_its_tests_need():
    assert set(declared()) == set(families())


def test_every_variant_has_a_known_size():
    assert set(NUM_PARAMS) == {name for family in families().values() for name in family.variants}


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('name', NUM_PARAMS)
def test_a_variant_has_as_many_parameters_as_published(name):
    model = bx.zoo.create(name)
    spec = bx.spec(model, *model.example_inputs())
    assert spec.num_params == NUM_PARAMS[name]
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(spec))


# Every small model.


@every_small
@pytest.mark.parametrize('is_training', [False, True])
def test_inputs_become_outputs_and_params_keep_their_structure(config, is_training):
    model, inputs = model_of(config), inputs_for(config)
    params = bx.spec(model, *model.example_inputs())
    call = functools.partial(model, is_training=is_training)
    outputs, after = jax.eval_shape(call, params, *inputs)
    found = answer(outputs)
    assert found.dtype == jnp.float32
    assert found.shape == (answer_shape(config, *inputs) or (len(inputs[0]), found.shape[-1]))
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert described(after) == described(params)


@every_small
def test_gradients_reach_every_trainable_parameter_and_nothing_else_changes(config):
    model, inputs, params = model_of(config), inputs_for(config), random_params(config)
    trainable, rest = params.split_trainable()

    def loss(trainable, rest):
        outputs, after = model(trainable.merge(rest), *inputs)
        # A softmax alone does not see what is added to all choices: a bias that they share.
        leaves = jax.tree.leaves(outputs)
        values = [jax.nn.log_softmax(x)[..., 0].sum() + jnp.square(x).sum() for x in leaves]
        return sum(values), (answer(outputs), after)

    gradients, (outputs, after) = jax.jit(jax.grad(loss, has_aux=True))(trainable, rest)
    assert np.isfinite(outputs).all()
    assert not np.allclose(outputs[0], outputs[1])
    assert same(after, params)
    assert gradients
    found = {path: np.asarray(gradient.value) for path, gradient in gradients.items()}
    assert [path for path, values in found.items() if not np.isfinite(values).all()] == []
    assert [path for path, values in found.items() if not values.any()] == []


# Of each family two.


@every_kind
def test_bfloat16_weights_take_float32_images(config):
    inputs, params = inputs_for(config), random_params(config)
    exact, _ = forward(config)(params, *inputs)
    rounded, after = forward(config)(params.cast(jnp.bfloat16), *inputs)
    assert rounded.dtype == jnp.bfloat16
    assert {p.dtype for path, p in after.items() if path != 'rng'} == {jnp.dtype('bfloat16')}
    assert np.abs(rounded.astype('float32') - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    'config', [c for c in KINDS.values() if family_of(c).count_classes(c)], ids=repr
)
def test_the_head_is_linear_in_the_features(config):
    family = family_of(config)
    headless = dataclasses.replace(config, **{family.head.field: 0})
    params, images = random_params(config), inputs_for(config)
    logits, _ = forward(config)(params, *images)
    head, body = params.partition(family.head.pattern)
    assert set(body) == set(random_params(headless))
    features, _ = forward(headless)(body, *images)
    w, b = (np.asarray(head[f'{family.name}/head/{name}'].value) for name in 'wb')
    np.testing.assert_allclose(logits, features @ w + b[None], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures('unchecked')
@pytest.mark.parametrize('family', declared())
def test_what_are_no_inputs_of_a_model_is_refused(family):
    """Pixels as files have them; ids that are no integers, or of no token."""
    model, inputs = model_of(tiny(family)), [np.asarray(x) for x in inputs_for(tiny(family))]
    params = bx.spec(model, *model.example_inputs())
    # What follows the first of a text model says more of it.
    for i, x in enumerate(inputs if family == 'clip' else inputs[:1]):
        if np.issubdtype(x.dtype, np.floating):
            wrong = [(x.astype(np.uint8), TypeError, 'expects images of floating-point .* uint8')]
        else:
            beyond = r'expects token ids in \[0, \d+\), found'
            wrong = [
                (x.astype(np.float32), ValueError, 'expects token ids, integers, found float32'),
                (np.full_like(x, 10**6), ValueError, f'{beyond} 1000000 to 1000000'),
                (np.full_like(x, -1), ValueError, f'{beyond} -1 to -1'),
            ]
        for value, error, message in wrong:
            given = [*inputs[:i], value, *inputs[i + 1 :]]
            with pytest.raises(error, match=message):
                jax.eval_shape(lambda params, given=given: model(params, *given), params)


def test_the_seed_decides_the_initial_values():
    model = model_of(tiny('gpt2'))
    first, again, other = (bx.zoo.init(model, seed) for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert jax.tree.structure(first) == jax.tree.structure(random_params(tiny('gpt2')))


# Noise: dropout and drop path.

NOISE = [
    (name, field)
    for name, config in KINDS.items()
    for field in vars(config)
    if field.endswith('_rate') and (name.endswith('tiny') or field == 'drop_path_rate')
]
every_noise = pytest.mark.parametrize(('name', 'field'), NOISE)


def with_rate(name, field, rate):
    """A small config whose only noise is `field`."""
    rates = dict.fromkeys((f for f in vars(KINDS[name]) if f.endswith('_rate')), 0.0)
    is_of_head = field == 'head_dropout_rate' and hasattr(KINDS[name], 'task')
    headed = {'task': 'token-classification', 'num_classes': 3} if is_of_head else {}
    return dataclasses.replace(KINDS[name], **rates | headed | {field: rate})


@every_noise
def test_noise_is_for_training_only(name, field):
    quiet, noisy = (with_rate(name, field, rate) for rate in (0.0, 0.5))
    params, inputs = random_params(quiet), inputs_for(quiet)
    programs = [jax.make_jaxpr(model_of(config))(params, *inputs) for config in (quiet, noisy)]
    assert str(programs[0]) == str(programs[1])


@every_noise
def test_noise_in_training_is_new_each_time_and_changes_state_alone(name, field):
    config = with_rate(name, field, 0.5)
    params, inputs = random_params(config), inputs_for(config, batch=8)
    train = forward(config, is_training=True)
    (first, after), *others = (train(p, *inputs) for p in (params, params, params.next_key()[1]))
    again, later = (outputs for outputs, _ in others)
    assert np.isfinite(first).all()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, later)
    trainable, state = params.split_trainable()
    new_trainable, new_state = after.split_trainable()
    assert same(trainable, new_trainable)
    assert not same(state, new_state)


@pytest.mark.parametrize('family', ['bert', 'gpt2', 'vit'])
def test_attention_is_as_the_config_says_and_no_file_holds_it(family, tmp_path):
    config = tiny(family, attention='exact')
    model, params = model_of(config), random_params(config)
    assert {block.attn.implementation for block in model.blocks} == {'exact'}
    bx.zoo.save(tmp_path / 'x.safetensors', model, params)
    loaded, _ = bx.zoo.load(tmp_path / 'x.safetensors')
    assert loaded.config == tiny(family)
    assert loaded.blocks[0].attn.implementation == 'auto'
    with pytest.raises(ValueError, match='attention of auto, exact'):
        tiny(family, attention='flash')
