"""Publishing models on the Hugging Face Hub."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from blox.params import Params
from blox.zoo.catalog.card import Card
from blox.zoo.loading.own import OWN_CONFIG, OWN_FILE, OwnFile
from blox.zoo.saving.save import save


def push(
    repo: str,
    model: Any,
    params: Params,
    *,
    card: Card | None = None,
    private: bool = False,
    message: str = 'Add model',
) -> str:
    """Publish a model on the Hugging Face Hub, for `load(repo)` to read; return the commit's URL.

    The repository, made if need be, gets the file that `save` writes, a config.json and a
    README.md that says how to load it. `card` is as for `save`.
    """
    # It imports huggingface_hub, which takes a while.
    from blox.zoo.loading.hub.uploads import upload

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / OWN_FILE
        save(path, model, params, card=card)
        written = OwnFile(path).card
        if card is None:
            written = dataclasses.replace(written, name=repo.rpartition('/')[2])
            save(path, model, params, card=written)
        config = {**OWN_CONFIG, 'family': written.family, 'config': written.fields()['config']}
        (Path(folder) / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
        (Path(folder) / 'README.md').write_text(_readme(repo, written), 'utf-8')
        return upload(repo, folder, private=private, message=message)


# What the Hub calls a task of ours, and the licenses that it has a name for: it takes no others.
_HUB_TASKS = {'sentence-embedding': 'sentence-similarity'}
_HUB_LICENSES = """
    apache-2.0 bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-nc-4.0 cc-by-sa-4.0 cc0-1.0 gpl-3.0 mit mpl-2.0
"""


def _hub_license(license: str) -> str:
    """Return the Hub's name for a license, 'other' if it has none, '' if none is known."""
    found = license.lower()
    return found if found in _HUB_LICENSES.split() or not found else 'other'


def _readme(repo: str, card: Card) -> str:
    """Return a model card of the Hub: what the model is, and how to load it."""
    header = {
        'library_name': 'blox',
        'pipeline_tag': _HUB_TASKS.get(card.task, card.task),
        'license': _hub_license(card.license),
    }
    front = '\n'.join(f'{name}: {json.dumps(text)}' for name, text in header.items() if text)
    facts = {
        name: getattr(card, name)
        for name in ('summary', 'training', 'data', 'license', 'paper', 'source', 'commit')
        if getattr(card, name)
    }
    facts |= {name: str(value) for name, value in card.metrics.items()}
    lines = '\n'.join(f'- {name}: {text}' for name, text in facts.items())
    return (
        f'---\n{front}\n---\n\n# {card.name}\n\n```python\nimport blox as bx\n\n'
        f'model, params = bx.zoo.load({repo!r})\n```\n\n{lines}\n'
    )
