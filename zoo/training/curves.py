"""Tables and pictures of loss and accuracy by epoch."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from blox.atomic import atomic_write
from blox.zoo.training.state import Epoch


def write_csv(path: Path, history: Sequence[Epoch]) -> None:
    """Write a line for each epoch, after one of names."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(Epoch._fields)
    writer.writerows(history)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def write_png(path: Path, history: Sequence[Epoch]) -> None:
    """Draw loss and accuracy, each in training and on what was held out."""
    # They take a while to import. Without pyplot there is no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout='constrained')
    epochs = [row.epoch for row in history]
    for axes, name in zip(figure.subplots(1, 2), ('loss', 'accuracy')):
        for label, field in (('training', name), ('held out', f'held_out_{name}')):
            axes.plot(epochs, [getattr(row, field) for row in history], '.-', label=label)
        axes.set(xlabel='epoch', title=name)
        axes.legend()
    with atomic_write(path) as file:
        FigureCanvasAgg(figure).print_png(file)
