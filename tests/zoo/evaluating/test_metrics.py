"""Figures of an evaluation, beside scikit-learn's and by hand."""

import numpy as np
import pytest
from sklearn import metrics as sk

from blox.zoo.evaluating.metrics import (
    Judged,
    by_class,
    calibration_error,
    classification,
    confusion,
    correlation,
    judge,
    reliability,
)


def judged_of(scores, targets):
    rows = [judge(np.log(row), target, 'softmax') for row, target in zip(scores, targets)]
    return Judged(targets, *map(np.array, zip(*rows)))


@pytest.fixture(scope='module', params=[3, 8])
def case(request):
    """Probabilities of classes, of which the last has no examples, and the right ones."""
    count, rng = request.param, np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(count), 200)
    return scores, rng.integers(0, count - 1, 200), count


def test_figures_are_those_of_scikit_learn(case):
    scores, targets, count = case
    judged = judged_of(scores, targets)
    table = confusion(judged, count)
    found = classification(judged, table, 'softmax')
    predicted = scores.argmax(1)
    expected = {
        'accuracy': sk.accuracy_score(targets, predicted),
        'macro_f1': sk.f1_score(targets, predicted, average='macro'),
        'loss': sk.log_loss(targets, scores, labels=range(count)),
        'balanced_accuracy': sk.recall_score(
            targets, predicted, labels=range(count - 1), average='macro'
        ),
    }
    if count > 5:
        expected['top5_accuracy'] = sk.top_k_accuracy_score(
            targets, scores, k=5, labels=range(count)
        )
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found.keys() - expected.keys() == {'calibration_error'}
    np.testing.assert_array_equal(
        table, sk.confusion_matrix(targets, predicted, labels=range(count))
    )


def test_classes_have_the_figures_of_scikit_learn(case):
    scores, targets, count = case
    judged = judged_of(scores, targets)
    labels = tuple('abcdefgh'[:count])
    found = by_class(confusion(judged, count), labels)
    expected = sk.precision_recall_fscore_support(
        targets,
        scores.argmax(1),
        labels=range(count),
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    assert [one.label for one in found] == list(labels)
    np.testing.assert_allclose([one[1:] for one in found], np.array(expected).T, atol=1e-12)


def test_classes_that_neither_occur_nor_are_said_are_left_out():
    judged = judged_of(np.array([[0.2, 0.7, 0.1]]), np.array([0]))
    assert [one.label for one in by_class(confusion(judged, 3), ('a', 'b', 'c'))] == ['a', 'b']


@pytest.mark.parametrize(
    ('scores', 'target', 'rank'), [([1, 3, 3], 1, 1), ([1, 3, 3], 2, 2), ([1, 3, 3], 0, 3)]
)
def test_of_equal_scores_the_first_class_comes_first(scores, target, rank):
    assert judge(np.array(scores), target, 'softmax')[:2] == (1, rank)


def test_calibration_is_the_distance_of_confidence_and_accuracy():
    scores = np.array([[0.55, 0.45], [0.55, 0.45], [0.9, 0.1], [0.9, 0.1]])
    bins = reliability(judged_of(scores, np.array([0, 1, 0, 0])))
    assert bins == (pytest.approx((0.55, 0.5, 2)), pytest.approx((0.9, 1.0, 2)))
    assert calibration_error(bins) == pytest.approx(0.5 * 0.05 + 0.5 * 0.1)
    # Fifteen bins: these two are in one of ten, and the next two in two.
    scores = np.array([[0.61, 0.39], [0.69, 0.31]])
    assert len(reliability(judged_of(scores, np.array([0, 0])))) == 2
    scores = np.array([[0.61, 0.39], [0.66, 0.34]])
    assert len(reliability(judged_of(scores, np.array([0, 0])))) == 1


def test_classes_that_are_judged_each_by_itself_have_no_loss():
    predicted, rank, _, confidence = judge(np.array([3.0, 1.0]), 0, 'sigmoid')
    assert (predicted, rank) == (0, 1)
    assert confidence == pytest.approx(1 / (1 + np.exp(-3)))
    judged = judged_of(np.array([[0.9, 0.1]]), np.array([0]))
    found = classification(judged, np.diag([1, 0]), 'sigmoid')
    assert found.keys() == {'accuracy', 'balanced_accuracy', 'macro_f1'}


def test_scores_that_saturate_are_ranked_by_their_logits():
    assert judge(np.array([300.0, 330.0, 310.0], np.float32), 2, 'sigmoid')[:2] == (1, 2)
    assert judge(np.array([0.0, 200.0], np.float32), 0, 'softmax')[2] > 0


def test_correlations_are_those_of_scipy():
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.integers(0, 5, 50) / 5
    found = correlation(a, b)
    assert found['spearman'] == pytest.approx(stats.spearmanr(a, b)[0])
    assert found['pearson'] == pytest.approx(stats.pearsonr(a, b)[0])
