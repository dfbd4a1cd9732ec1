"""What an evaluation found: figures, a table of classes, a picture of what is taken for what."""

import dataclasses
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from blox.atomic import atomic_write
from blox.wording import counted, cut, in_columns, printable
from blox.zoo.evaluating.metrics import (
    Bin,
    Judged,
    OfClass,
    by_class,
    classification,
    confusion,
    reliability,
)

# Of more classes names would not be read in a picture.
_MOST_NAMED = 40
# Of more classes a page shows the worst.
_MOST_LISTED = 20


class Answer(NamedTuple):
    """A classifier's example: its file or text, what is right, what was found, how sure that was.

    `rank` is the place of what is right among all classes.
    """

    name: str
    label: str
    predicted: str
    confidence: float
    rank: int


class Likeness(NamedTuple):
    """Two texts, how alike they are said to be, and the cosine of their embeddings."""

    sentence1: str
    sentence2: str
    score: float
    cosine: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found; printed, a page of it.

    Attributes:
      task: the model's.
      data: what it was measured on, in words.
      examples: how many there were; `left_out` more could not be read.
      metrics: figures by name; fractions of 1 where they are shares.
      classes: precision, recall, f1 and support of each class; () for other tasks.
      confusion: how many examples of each class (rows) were taken for each (columns), [labels, labels].
      labels: the classes, in the order of `confusion`.
      reliability: examples by how sure the model was, and how many of them were right.
      items: an `Answer` or a `Likeness` of each example that could be read, in the order of the data; () for
        texts to be written.
    """

    task: str
    data: str
    examples: int
    left_out: int
    metrics: Mapping[str, float]
    classes: tuple[OfClass, ...] = ()
    confusion: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    reliability: tuple[Bin, ...] = ()
    items: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        left_out = f', {self.left_out} left out' if self.left_out else ''
        lines = [f'{self.data}: {counted(self.examples, "example")}{left_out}']
        lines.append(in_columns([(name, f'{x:.4f}') for name, x in self.metrics.items()]))
        if self.classes:
            lines += ['', self._table()]
        return '\n'.join(lines)

    def _table(self) -> str:
        """Write a line for each class, the worst alone where there are many."""
        shown = self.classes
        if len(shown) > _MOST_LISTED:
            shown = tuple(sorted(shown, key=lambda one: one.f1)[:_MOST_LISTED])
        head = ('class', 'precision', 'recall', 'f1', 'examples')
        rows = [(one.label, *(f'{x:.3f}' for x in one[1:4]), str(one.support)) for one in shown]
        more = len(self.classes) - len(shown)
        end = f'\nand {counted(more, "class", "classes")} with a higher f1' if more else ''
        return in_columns([head, *rows]) + end

    def as_json(self) -> dict[str, Any]:
        """Return all but the items, as JSON has it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields['items']
        table = self.confusion
        return {
            **fields,
            'metrics': dict(self.metrics),
            'classes': [one._asdict() for one in self.classes],
            'confusion': [] if table is None else table.tolist(),
            'reliability': [one._asdict() for one in self.reliability],
        }

    def save_png(self, path: str | os.PathLike[str]) -> None:
        """Write what `draw` draws to a file."""
        content = self.draw()
        with atomic_write(path) as file:
            file.write(content)

    def draw(self) -> bytes:
        """Draw what is taken for what, and how sure the model is beside how right, as a PNG.

        ValueError for no classes.
        """
        # They take a while to import. Without pyplot there is no global state.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        if self.confusion is None:
            raise ValueError(
                'a picture shows which class is taken for which: these examples have not one each'
            )
        figure = Figure(figsize=(12, 6), layout='constrained')
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_confusion(left, self.confusion, self.labels)
        left.set_title(f'accuracy {self.metrics["accuracy"]:.3f}')
        right.plot([0, 1], [0, 1], ':', color='gray')
        points = [(one.confidence, one.accuracy) for one in self.reliability]
        right.plot(*zip(*points), 'o-')
        right.set(xlabel='confidence', ylabel='accuracy', xlim=(0, 1), ylim=(0, 1))
        right.set_title('how sure, and how right')
        content = io.BytesIO()
        with warnings.catch_warnings():
            # No font has every script; a box stands for what one lacks.
            warnings.filterwarnings('ignore', 'Glyph')
            FigureCanvasAgg(figure).print_png(content)
        return content.getvalue()


def classified(
    task: str,
    data: str,
    names: Sequence[str],
    targets: Sequence[int],
    rows: Sequence[Sequence[float]],
    labels: tuple[str, ...],
    scores: str,
    left_out: int = 0,
) -> Evaluation:
    """Make the evaluation of a classifier of what `metrics.judge` says of each example."""
    predicted, ranks, own, best = np.array(rows).T
    right = np.array(targets)
    judged = Judged(right, predicted.astype(int), ranks.astype(int), own, best)
    table = confusion(judged, len(labels))
    items = tuple(
        Answer(name, labels[t], labels[int(p)], float(s), int(r))
        for name, t, p, s, r in zip(names, right, predicted, best, ranks)
    )
    return Evaluation(
        task,
        data,
        len(names),
        left_out,
        classification(judged, table, scores),
        by_class(table, labels),
        table,
        labels,
        reliability(judged),
        items,
    )


def _draw_confusion(axes: Any, table: np.ndarray, labels: tuple[str, ...]) -> None:
    """Draw which share of each class is taken for each, of those that occur or were predicted."""
    seen = table.sum(1) + table.sum(0) > 0
    table = table[seen][:, seen]
    # Between dollars matplotlib would read formulas.
    shown = [cut(printable(x), 30) for x, is_seen in zip(labels, seen) if is_seen]
    names = [name.replace('$', r'\$') for name in shown]
    axes.imshow(table / np.maximum(table.sum(1, keepdims=True), 1), cmap='Blues', vmin=0, vmax=1)
    axes.set(xlabel='predicted', ylabel='class')
    if len(names) <= _MOST_NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for (row, column), count in np.ndenumerate(table):
            if count:
                axes.text(column, row, str(count), ha='center', va='center', fontsize=7)
