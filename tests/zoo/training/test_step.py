"""One step of training: its gradients, its optimizer, its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trainings import MODEL, PARAMS, finetune, moved, shades, tiny

import blox as bx
from blox.zoo.training.data import training_batches
from blox.zoo.training.descent import Descent, adamw
from blox.zoo.training.losses import Loss, measures
from blox.zoo.training.step import divide, train_step


def lowered_step(params):
    """The optimizer's state, and how many convolutions the step's program has."""
    optimizer = adamw(Descent(1e-3, 10, 1))
    changing, frozen = divide(params)
    optimized = optimizer.init(changing.split_trainable()[0])
    batch = jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32), np.uint32(0)
    state = changing, optimized, frozen
    step = train_step.lower(MODEL, optimizer, *state, *batch)
    return jax.tree.leaves(optimized), step.as_text().count('stablehlo.convolution')


def test_frozen_parameters_have_no_optimizer_state_and_no_gradient_in_the_program():
    forward = jax.jit(MODEL).lower(PARAMS, jnp.zeros((4, 8, 8, 1))).as_text()
    forward = forward.count('stablehlo.convolution')
    whole, whole_convolutions = lowered_step(PARAMS)
    head, head_convolutions = lowered_step(PARAMS.freeze().unfreeze('resnet/head/*'))
    assert whole_convolutions > 2 * forward
    assert head_convolutions == forward > 0
    # Two moments of a weight [8, 2] and its bias, and counters.
    assert sum(leaf.size for leaf in head if leaf.size > 1) == 2 * (16 + 2)
    assert sum(leaf.size for leaf in whole) > 1000


def test_the_memory_of_the_optimizers_state_is_given_to_the_next_and_that_of_params_is_not():
    optimizer = adamw(Descent(1e-3, 10, 1))
    changing, frozen = divide(PARAMS)
    optimized = optimizer.init(changing.split_trainable()[0])
    batch = jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32), np.uint32(0)
    train_step(MODEL, optimizer, changing, optimized, frozen, *batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(optimized))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((changing, frozen)))


def steps(model, params, numbers):
    """Params after steps of these numbers, and the loss in each."""
    optimizer = adamw(Descent(1e-2, len(numbers), 0))
    changing, frozen = divide(params)
    optimized, losses = optimizer.init(changing.split_trainable()[0]), []
    batches = training_batches(shades(), 8, seed=0)
    for number, batch in zip(np.asarray(numbers, np.uint32), batches):
        changing, optimized, measured = train_step(
            model, optimizer, changing, optimized, frozen, *batch, number
        )
        losses.append(float(measured[0]))
    batches.close()
    return frozen.merge(changing), losses


def test_what_is_dropped_depends_on_the_steps_number():
    model = tiny(depths=(2,), drop_path_rate=0.9)
    params = bx.zoo.init(model)
    losses = [steps(model, params, [number])[1] for number in (0, 0, 1, 2, 3, 4)]
    assert losses[0] == losses[1]
    assert len({loss for (loss,) in losses}) > 2


def test_a_training_is_its_steps_from_the_one_of_number_zero_on():
    model = tiny(depths=(2,), drop_path_rate=0.5)
    params = bx.zoo.init(model)
    found, (row,) = finetune(model=model, params=params, epochs=1)
    expected, losses = steps(model, params, range(3))
    assert not moved(expected, found)
    assert row.loss == np.float32(sum(map(np.float32, losses))) / 3
    assert moved(steps(model, params, range(1, 4))[0], found)


def test_vectors_do_not_decay():
    optimizer = adamw(Descent(1.0, 1, 0, weight_decay=0.5))
    params = bx.Params.from_entries({'w': jnp.ones((2, 2)), 'b': jnp.ones(2)})
    zeros = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion('standard'):
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert updates['b'].value.tolist() == [0, 0]
    np.testing.assert_allclose(updates['w'].value, -0.5)


def test_losses_are_those_of_optax_and_ignored_targets_do_not_count():
    rng = np.random.default_rng(0)
    logits, targets = (
        jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32),
        rng.integers(0, 7, (3, 5)),
    )
    targets[0, 2:] = -1
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(abs(targets)))
    counts = targets >= 0
    found = measures(logits, jnp.asarray(targets))
    right = (logits.argmax(-1) == targets)[counts].mean()
    np.testing.assert_allclose(found, [losses[counts].mean(), right, counts.sum()], rtol=1e-6)


def values_and_logits():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 3)).astype(np.float32), rng.uniform(size=(5, 3)) > 0.5


@pytest.mark.parametrize('scores', ['softmax', 'sigmoid', 'none'])
def test_losses_of_values_are_those_that_scores_are_trained_by(scores):
    logits, right = values_and_logits()
    values = right.astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    s = 1 / (1 + np.exp(-logits))
    expected = {
        'softmax': -(values * np.log(p)).sum(1).mean(),
        'sigmoid': -(values * np.log(s) + (1 - values) * np.log(1 - s)).mean(),
        'none': np.square(logits - values).mean(),
    }
    padded = [np.pad(logits, [(0, 1), (0, 0)]), np.pad(values, [(0, 1), (0, 0)])]
    padded[1][-1] = np.nan
    loss, accuracy, count = measures(jnp.asarray(padded[0]), jnp.asarray(padded[1]), Loss(scores))
    np.testing.assert_allclose(loss, expected[scores], rtol=1e-5)
    if scores == 'sigmoid':
        np.testing.assert_allclose(accuracy, ((logits > 0) == right).mean(), rtol=1e-6)
    assert count == 5


def test_a_class_is_a_value_of_one_to_a_sigmoid():
    logits, _ = values_and_logits()
    classes = np.array([0, 1, 2, -1, 1])
    values = np.where(classes[:, None] < 0, np.nan, classes[:, None] == np.arange(3))
    one, other = (
        measures(jnp.asarray(logits), jnp.asarray(t), Loss('sigmoid')) for t in (classes, values)
    )
    assert (one[0], one[2]) == (other[0], other[2])
    one = measures(jnp.asarray(logits[:2, :1]), jnp.asarray([1, 0]), Loss('sigmoid'))
    s = 1 / (1 + np.exp(-logits[:2, 0]))
    np.testing.assert_allclose(one[0], -np.log([s[0], 1 - s[1]]).mean(), rtol=1e-5)


def test_values_that_are_not_known_are_left_out():
    logits, right = values_and_logits()
    values = np.where(np.arange(3) == 1, np.nan, right.astype(np.float32))
    kept = [np.delete(a, 1, 1) for a in (logits, values)]
    found = measures(jnp.asarray(logits), jnp.asarray(values), Loss('sigmoid'))
    expected = measures(jnp.asarray(kept[0]), jnp.asarray(kept[1]), Loss('sigmoid'))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_to_tell_nothing_is_not_to_be_right():
    logits = jnp.full((4, 10), -5.0)
    assert measures(logits, jnp.arange(4), Loss('sigmoid'))[1] == 0.25


def test_vectors_of_stacked_blocks_do_not_decay():
    model = bx.zoo.create('vit-ti16', image_size=32, depth=3, width=6, mlp_dim=8, scan=True)
    trainable, _ = jax.tree.map(jnp.ones_like, bx.zoo.init(model).split_trainable())
    optimizer = adamw(Descent(1.0, 1, 0, weight_decay=1.0))
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    update = jax.jit(lambda zeros, params: optimizer.update(zeros, optimizer.init(params), params))
    with jax.numpy_dtype_promotion('standard'):
        updates, _ = update(zeros, trainable)
    moved = {path for path, update in updates.items() if update.value.any()}
    assert moved == {path for path in trainable if path.endswith(('/w', 'cls_token', 'pos_embed'))}
