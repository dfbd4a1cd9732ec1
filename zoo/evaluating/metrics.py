"""Figures of what was measured, on NumPy arrays; names and values are scikit-learn's where it has them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Of confidence, for calibration.
_BINS = 15


class Judged(NamedTuple):
    """How a classifier did on each example, [examples].

    Attributes:
      targets, predicted: classes.
      ranks: the place of the target among all classes by their scores; 1 where it was predicted.
      probabilities: what the target was given among all classes.
      confidences: what the predicted class was given.
    """

    targets: np.ndarray
    predicted: np.ndarray
    ranks: np.ndarray
    probabilities: np.ndarray
    confidences: np.ndarray


class OfClass(NamedTuple):
    """How a classifier did on one class: `support` is how many examples it has."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class Bin(NamedTuple):
    """Examples of like confidence: its mean, and which share of them is right."""

    confidence: float
    accuracy: float
    examples: int


def judge(logits: np.ndarray, target: int, scores: str) -> tuple[int, int, float, float]:
    """Return predicted class, rank and probability of the target, and the confidence, of logits [classes].

    Of equal logits the first class comes first, as in `argmax`. The target has no probability among
    all classes where `scores` judge each class by itself, and 0 stands there.
    """
    predicted, own = int(logits.argmax()), logits[target]
    rank = 1 + int((logits > own).sum() + (logits[:target] == own).sum())
    # In float64, for a probability that rounds to 0 has no logarithm.
    shifted = logits.astype(np.float64) - logits[predicted]
    if scores == 'softmax':
        shares = np.exp(shifted) / np.exp(shifted).sum()
        return predicted, rank, float(shares[target]), float(shares[predicted])
    return predicted, rank, 0.0, float(1 / (1 + np.exp(-np.float64(logits[predicted]))))


def confusion(judged: Judged, count: int) -> np.ndarray:
    """Count examples [target, predicted]."""
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (judged.targets, judged.predicted), 1)
    return table


def classification(judged: Judged, table: np.ndarray, scores: str) -> dict[str, float]:
    """Return accuracies and f1, and of softmax scores loss and calibration error; `table` is the confusion."""
    found = {'accuracy': float((judged.ranks == 1).mean())}
    if len(table) > 5:
        found['top5_accuracy'] = float((judged.ranks <= 5).mean())
    found |= {name: of_counts(*_counts(table)) for name, of_counts in BY_CLASS.items()}
    if scores == 'softmax':
        smallest = np.finfo(np.float64).tiny
        found['loss'] = float(-np.log(np.maximum(judged.probabilities, smallest)).mean())
        found['calibration_error'] = calibration_error(reliability(judged))
    return found


# Of counts by class: how many were found rightly, found, and are there.


def balanced_accuracy(right: np.ndarray, found: np.ndarray, there: np.ndarray) -> float:
    """Return the mean recall of the classes that there are; 0 if there are none."""
    recalls = _over(right, there)[there > 0]
    return float(recalls.mean()) if recalls.size else 0.0


def macro_f1(
    right: np.ndarray, found: np.ndarray, there: np.ndarray, *, of_all: bool = False
) -> float:
    """Return the mean f1 of the classes that there are or that were found, or `of_all`; 0 if there are none.

    As in scikit-learn, where an example may have any number of classes, one that is never there nor found counts 0.
    """
    f1s = _over(2 * right, found + there)[(found + there > 0) | of_all]
    return float(f1s.mean()) if f1s.size else 0.0


BY_CLASS = {'balanced_accuracy': balanced_accuracy, 'macro_f1': macro_f1}


def by_class(table: np.ndarray, labels: tuple[str, ...]) -> tuple[OfClass, ...]:
    """Return precision, recall and f1 of each class that has examples or was predicted."""
    right, found, there = _counts(table)
    classes = of_classes(right, found, there, labels)
    return tuple(classes[i] for i in np.flatnonzero(found + there))


def of_classes(
    right: np.ndarray, found: np.ndarray, there: np.ndarray, labels: Sequence[str]
) -> tuple[OfClass, ...]:
    """Return precision, recall and f1 of every class."""
    columns = _over(right, found), _over(right, there), _over(2 * right, found + there), there
    return tuple(
        OfClass(label, float(precision), float(recall), float(f1), int(support))
        for label, precision, recall, f1, support in zip(labels, *columns)
    )


def _counts(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how many of each class were found rightly, found, and are there."""
    return np.diag(table), table.sum(0), table.sum(1)


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, to 0 where there is nothing to divide by."""
    return above / np.maximum(below, 1)


def reliability(judged: Judged) -> tuple[Bin, ...]:
    """Sort examples into bins of confidence of one width, empty ones left out."""
    place = np.minimum((judged.confidences * _BINS).astype(int), _BINS - 1)
    right = judged.ranks == 1
    return tuple(
        Bin(float(judged.confidences[own].mean()), float(right[own].mean()), int(own.sum()))
        for own in (place == i for i in range(_BINS))
        if own.any()
    )


def calibration_error(bins: tuple[Bin, ...]) -> float:
    """Return the expected calibration error (Guo et al., 2017, arXiv:1706.04599)."""
    total = sum(one.examples for one in bins)
    return sum(one.examples / total * abs(one.confidence - one.accuracy) for one in bins)


def correlation(found: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Return Spearman's and Pearson's correlation of two values of each example."""
    from scipy.stats import rankdata  # It takes long to import.

    return {
        'spearman': float(np.corrcoef(rankdata(found), rankdata(wanted))[0, 1]),
        'pearson': float(np.corrcoef(found, wanted)[0, 1]),
    }
