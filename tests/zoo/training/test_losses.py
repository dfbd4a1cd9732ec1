"""Losses with smoothed targets and weighted classes, and counts by class."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from blox.zoo.evaluating.metrics import balanced_accuracy, macro_f1
from blox.zoo.training.losses import Loss, class_counts, measures

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(40, 3)).astype(np.float32) * 2
CLASSES = RNG.integers(0, 3, 40)
NOTHING = [np.zeros(2)] * 3
SEVERAL = (RNG.uniform(size=(40, 3)) > 0.6).astype(np.float32)


def test_a_smoothed_target_is_that_of_a_soft_one():
    smooth = np.eye(3, dtype=np.float32)[CLASSES] * 0.9 + 0.1 / 3
    soft, _, _ = measures(jnp.asarray(LOGITS), jnp.asarray(smooth))
    found, _, _ = measures(jnp.asarray(LOGITS), jnp.asarray(CLASSES), Loss(label_smoothing=0.1))
    np.testing.assert_allclose(found, soft, rtol=1e-6)


def test_soft_targets_are_smoothed_and_weighted_too():
    soft = jnp.asarray(np.eye(3, dtype=np.float32)[CLASSES])
    for loss in (Loss(label_smoothing=0.2), Loss(class_weights=(2.0, 2.0, 2.0))):
        found, _, _ = measures(jnp.asarray(LOGITS), soft, loss)
        plain, _, _ = measures(
            jnp.asarray(LOGITS), jnp.asarray(CLASSES), loss._replace(class_weights=())
        )
        share = 2 if loss.class_weights else 1
        np.testing.assert_allclose(found, share * plain, rtol=1e-6)


def test_a_label_that_is_nowhere_counts_as_scikit_learn_counts_it():
    y = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    counts = np.asarray(class_counts(jnp.asarray(2 * y - 1), jnp.asarray(y), 'sigmoid'))
    expected = f1_score(y, y, average='macro', zero_division=0)  # type: ignore[arg-type]
    assert macro_f1(*counts, of_all=True) == pytest.approx(expected)


def test_a_class_without_weight_does_not_count():
    weights = Loss(class_weights=(1, 0, 1))
    found, _, _ = measures(jnp.asarray(LOGITS), jnp.asarray(CLASSES), weights)
    kept = CLASSES != 1
    expected, _, _ = measures(jnp.asarray(LOGITS[kept]), jnp.asarray(CLASSES[kept]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_counts_are_those_of_scikit_learns_figures():
    padded = np.pad(LOGITS, [(0, 2), (0, 0)]), np.pad(CLASSES, (0, 2), constant_values=-1)
    logits, targets = map(jnp.asarray, padded)
    counts = np.asarray(class_counts(logits, targets, 'softmax'))
    predicted = LOGITS.argmax(1)
    assert balanced_accuracy(*counts) == pytest.approx(balanced_accuracy_score(CLASSES, predicted))
    assert macro_f1(*counts) == pytest.approx(f1_score(CLASSES, predicted, average='macro'))


def test_counts_of_several_labels_are_those_of_scikit_learns_figures():
    unknown = np.full((2, 3), np.nan, np.float32)
    padded = np.concatenate([LOGITS, LOGITS[:2]]), np.concatenate([SEVERAL, unknown])
    logits, targets = map(jnp.asarray, padded)
    counts = np.asarray(class_counts(logits, targets, 'sigmoid'))
    expected = f1_score(SEVERAL, LOGITS > 0, average='macro')
    assert macro_f1(*counts) == pytest.approx(expected)


def test_figures_of_nothing_are_zero():
    assert balanced_accuracy(*NOTHING) == macro_f1(*NOTHING) == 0
