"""What tests of folders that other libraries saved share: tiny models, and ways to write them."""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from families import build, every_library, fitted
from helpers import normal
from safetensors.numpy import load_file, save_file
from small_models import answer
from tokenizers import Tokenizer, models

import blox as bx
from blox.converters.exporting import external
from blox.converters.target import model_spec
from blox.zoo.catalog.published import published
from blox.zoo.models import families

REPO, WEIGHTS = 'org/vit', 'model.safetensors'
# By folder: the family, and the layout.
FOLDERS = {f'{family}-{layout}': (family, layout) for family, layout in every_library()}
IMAGES = [name for name, (family, _) in FOLDERS.items() if 'image' in families()[family].task]
HEADS = [name for name, (family, _) in FOLDERS.items() if families()[family].head]
COLORS = [
    name
    for name, (family, _) in FOLDERS.items()
    if any('in_channels' in one.fields for one in families()[family].resized)
]
LABELS = ('cat', 'dog', 'tröll')


def made(name):
    """A model for a row of FOLDERS, random Params at every place, and a card."""
    family, layout = FOLDERS[name]
    model = build(fitted(family, layout))
    params = randomized(model)
    entry = next(n for n, row in published().items() if row.variant in families()[family].variants)
    text = words() if 'vocab_size' in vars(model.config) else ''
    card = bx.zoo.card(entry)
    card = dataclasses.replace(
        card, config=model.config, preprocessor=None, tokenizer=text, scores=''
    )
    if name not in IMAGES:
        return model, params, card
    is_torchvision = layout in ('timm', 'open_clip')
    prepare = bx.zoo.ImagePreprocessor(
        model.config.image_size,
        # open_clip crops nothing but what is left of a photograph's longer side.
        tuple(length * (1 if layout == 'open_clip' else 2) for length in model.config.image_size),
        is_torchvision,
        'bilinear',
        (0.5, 0.4, 0.3),
        (0.2, 0.3, 0.4),
        'even' if is_torchvision else 'down',
    )
    labels = LABELS[: families()[family].count_classes(model.config)]
    return model, params, dataclasses.replace(card, labels=labels, preprocessor=prepare)


def randomized(model):
    """Params for a model, random at every place."""
    params = model_spec(model).partition(lambda path, _: path != 'rng')[0]
    for i, (path, param) in enumerate(params.items()):
        value = normal(*param.shape, seed=i).astype(np.float32) / 2
        value = abs(value) + 1 if path.endswith('/var') else value
        params = params.set(path, jnp.asarray(value), strict=False)
    return params


def words():
    """The text of a small tokenizer.json."""
    vocabulary = {'?': 0, 'a': 1, 'b': 2}
    return Tokenizer(models.WordLevel(vocabulary, unk_token='?')).to_str()


def bits(params):
    """Dtype and bytes at every path but the rng's."""
    values = {path: np.asarray(p.value) for path, p in params.items() if path != 'rng'}
    return {path: (value.dtype, value.shape, value.tobytes()) for path, value in values.items()}


def output(model, params):
    inputs = [jnp.ones(x.shape, x.dtype) for x in model.example_inputs()]
    outputs, _ = jax.jit(model)(params, *inputs)
    return np.asarray(answer(outputs))


def shard(folder, into, count=2):
    """Writes a folder again, its weights in shards; the index and the shards."""
    into.mkdir()
    (into / 'config.json').write_bytes((folder / 'config.json').read_bytes())
    tensors = load_file(folder / 'model.safetensors')
    files = [f'model-{i + 1:05}-of-{count:05}.safetensors' for i in range(count)]
    where = {name: files[i % count] for i, name in enumerate(sorted(tensors))}
    for file in files:
        save_file({n: tensors[n] for n in tensors if where[n] == file}, into / file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = into / 'model.safetensors.index.json'
    index.write_text(json.dumps({'metadata': {'total_size': total}, 'weight_map': where}))
    return [index, *(into / file for file in files)]


def as_folder(exported, _):
    return exported['vit-hf'][3]


def as_bare_file(exported, folder):
    (folder / 'weights.safetensors').write_bytes(
        (exported['vit-timm'][3] / 'model.safetensors').read_bytes()
    )
    return folder / 'weights.safetensors'


def as_bare_folder(exported, folder):
    return as_bare_file(exported, folder).parent


def as_npz(exported, folder):
    model, params, _, _ = exported['vit-hf']
    tensors: dict[str, Any] = external(model, params, 'google')
    np.savez(folder / 'weights.npz', **tensors)
    return folder / 'weights.npz'


def as_shards(exported, folder):
    return shard(exported['vit-hf'][3], folder / 'sharded')[0]


def as_own_file(exported, folder):
    bx.zoo.save(folder / 'own.safetensors', *exported['vit-hf'][:2])
    return folder / 'own.safetensors'


def files_in(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def other(repos, value=0.5):
    """The files of REPO with other weights, and the Params of those."""
    model, params, card, files = repos[REPO]
    params = params.set('vit/norm/scale', jnp.full(8, value, jnp.float32), strict=False)
    with tempfile.TemporaryDirectory() as folder:
        bx.zoo.export(folder, model, params, 'hf', card=card)
        return {**files, WEIGHTS: Path(folder, WEIGHTS).read_bytes()}, params
