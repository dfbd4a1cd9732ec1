"""A page of a training: curves, what is taken for what, the worst mistakes and what they look like."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from blox.params import Params
from blox.wording import cut, printable_lines, some
from blox.zoo.catalog.card import Card
from blox.zoo.evaluating.metrics import OfClass, judge, of_classes
from blox.zoo.evaluating.report import classified
from blox.zoo.running.scoring import score
from blox.zoo.training.data import Data, batches_to_measure
from blox.zoo.training.losses import Loss, class_counts, measures
from blox.zoo.training.plan import Plan
from blox.zoo.training.step import logits_step

_MOST_SHOWN = 24
# Of what is wrong with an example, so much is said.
_MOST_SAID = 5
_HEAD = ('class', 'precision', 'recall', 'f1', 'examples')
_SIDE = 144  # of a picture, in pixels at most

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }}
td, th {{ padding: .15rem .8rem .15rem 0; text-align: left; font-variant-numeric: tabular-nums }}
img.plot {{ max-width: 100%; background: #fff }}
.worst {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem }}
figure {{ margin: 0; overflow-wrap: anywhere }}
figure img {{ width: 100%; image-rendering: pixelated }}
.table {{ overflow-x: auto }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def page(model: Any, params: Params, card: Card, data: Data, plan: Plan, curves: bytes) -> bytes:
    """Return the page of a training whose best epoch gave `params`, in UTF-8."""
    figures = [(name, f'{value:.4f}') for name, value in card.metrics.items()]
    parts = [f'<p>{_text(card.data)}</p><p>{_text(card.training)}</p>', _table(figures)]
    parts.append(f'<h2>Epochs</h2>{_plot(curves, "loss and accuracy by epoch")}')
    if data.labels:
        logits, targets = _held_out(model, params, data, plan)
        if logits.ndim == 2:
            if targets.ndim == 1 and len(data.labels) > 1:
                parts.append(_classes(card, data, logits, targets))
            elif plan.scores == 'sigmoid':
                parts.append(_several(data, logits, targets))
            parts.append(_worst(data, logits, targets, plan.scores))
    text = _PAGE.format(title=_text(card.name), body='\n'.join(parts))
    return text.encode('utf-8', 'replace')


def _held_out(model: Any, params: Params, data: Data, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Return logits and targets of the held-out examples."""
    batches = batches_to_measure(data, data.held_out, plan.batch_size)
    found = [(logits_step(model, params, x, dtype=plan.dtype), y) for x, y in batches]
    logits, targets = (
        np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*found)
    )
    count = len(data.held_out)  # The last batch was filled up.
    return logits[:count], targets[:count]


def _classes(card: Card, data: Data, logits: np.ndarray, targets: np.ndarray) -> str:
    """Show the figures of each class, and what is taken for what."""
    rows = [judge(row, int(target), card.scores) for row, target in zip(logits, targets)]
    names = [''] * len(rows)
    found = classified(card.task, '', names, targets.tolist(), rows, data.labels, card.scores)
    return _by_class(found.classes, _plot(found.draw(), 'what is taken for what'))


def _several(data: Data, logits: np.ndarray, targets: np.ndarray) -> str:
    """Show the figures of each class, of which an example may have any number."""
    counts = class_counts(jnp.asarray(logits), jnp.asarray(targets), 'sigmoid')
    right, found, there = np.asarray(counts, np.float64)
    return _by_class(of_classes(right, found, there, data.labels))


def _by_class(classes: Iterable[OfClass], plot: str = '') -> str:
    rows = [(one.label, *(f'{x:.3f}' for x in one[1:4]), str(one.support)) for one in classes]
    return f'<h2>Held out, by class</h2>{plot}' + _table([_HEAD, *rows])


def _worst(data: Data, logits: np.ndarray, targets: np.ndarray, scores: str) -> str:
    """Show the examples of the highest loss; of classes those alone that are wrong."""
    losses, right, _ = jax.vmap(
        lambda row, target: measures(row[None], target[None], Loss(scores))
    )(jnp.asarray(logits), jnp.asarray(targets)).T
    order = [i for i in np.argsort(-np.asarray(losses), kind='stable') if right[i] < 1]
    if not order:
        return '<p>No held-out example is wrong.</p>'
    shown = [
        f'<figure>{_seen(data, int(i))}<figcaption>'
        f'{_text(_said(data, logits[i], targets[i], scores))}</figcaption></figure>'
        for i in order[:_MOST_SHOWN]
    ]
    what = 'Worst of all' if scores == 'none' else f'Worst of {len(order)} that are not all right'
    return f'<h2>{what}</h2><div class="worst">{"".join(shown)}</div>'


def _said(data: Data, logits: np.ndarray, target: np.ndarray, scores: str) -> str:
    """Say what is right of an example and what was found."""
    found = np.asarray(score(jnp.asarray(logits), scores))
    if target.ndim == 0 and len(data.labels) > 1:
        best = int(logits.argmax())
        return f'{data.labels[target]}, taken for {data.labels[best]} ({found[best]:.1%})'
    values = np.atleast_1d(target)
    if scores == 'none':
        known = zip(data.labels, values, found)
        said = [f'{name} {x:.4g}, found {y:.4g}' for name, x, y in known if x == x]
        return some(said, _MOST_SAID, '; ')
    wrong = [
        f'{name}: {"there" if x > 0.5 else "not there"}, found {y:.1%}'
        for name, x, y in zip(data.labels, values, found)
        if x == x and (x > 0.5) != (y > 0.5)
    ]
    return some(wrong, _MOST_SAID, '; ')


def _seen(data: Data, i: int) -> str:
    """Show what people see of an example."""
    seen = data.show(data.held_out[i]) if data.show else f'example {i}'
    if isinstance(seen, str):
        return f'<blockquote>{_text(cut(seen, 400))}</blockquote>'
    small = seen.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    content = io.BytesIO()
    small.convert('RGB').save(content, 'PNG')
    return f'<img alt="" src="{_as_url(content.getvalue())}">'


def _plot(content: bytes, what: str) -> str:
    return f'<img class="plot" alt="{what}" src="{_as_url(content)}">'


def _as_url(content: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(content).decode()}'


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = (''.join(f'<td>{_text(cell)}</td>' for cell in row) for row in rows)
    return (
        f'<div class="table"><table>{"".join(f"<tr>{line}</tr>" for line in lines)}</table></div>'
    )


def _text(text: str) -> str:
    return html.escape(printable_lines(text))
