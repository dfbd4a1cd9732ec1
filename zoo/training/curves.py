"""Tables and pictures of loss and accuracy by epoch."""

import csv
import io
from collections.abc import Sequence

from blox.zoo.training.state import Epoch


def as_csv(history: Sequence[Epoch]) -> bytes:
    """Return a line for each epoch, after one of names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(Epoch._fields)
    writer.writerows(history)
    return text.getvalue().encode()


def draw(history: Sequence[Epoch], best: Epoch, scores: str = 'softmax') -> bytes:
    """Draw loss and accuracy, each in training and on what was held out, and the epoch kept, as a PNG.

    Values, whose scores are 'none', have no accuracy.
    """
    # They take a while to import. Without pyplot there is no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout='constrained')
    epochs = [row.epoch for row in history]
    names = ('loss',) if scores == 'none' else ('loss', 'accuracy')
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        for label, field in (('training', name), ('held out', f'held_out_{name}')):
            axes.plot(epochs, [getattr(row, field) for row in history], '.-', label=label)
        axes.axvline(best.epoch, color='gray', linestyle=':', label=f'kept: epoch {best.epoch}')
        axes.set(xlabel='epoch', title=name)
        axes.legend()
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
