"""Writes the golden files beside this script: `python tests/golden/make.py [NAME ...]`.

Each folder holds a tiny checkpoint as a reference library saves it, and in expected.npz random
inputs with what that library makes of them in float64. Needs the `parity` extra.
"""

import functools
import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from blox.zoo.comparing.parity import layer_outputs, reference_inputs, reference_outputs

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / 'parity')]
cases, families = map(importlib.import_module, ('cases', 'families'))
torch = cases.torch

CASES = {
    f'{family}-{layout}': cases.Case(family, reference)
    for family, said in families.declared().items()
    for layout, reference in said.golden.items()
}


def write(name: str, folder: Path) -> None:
    """One golden folder."""
    shutil.rmtree(folder, ignore_errors=True)
    made = cases.pair(CASES[name], folder, batch=2)
    if made.case.family == 'gpt2':
        with torch.no_grad():  # Where positions matter little, it says one word over and over.
            made.reference.transformer.wpe.weight *= 5
        made.case.save(made.reference, folder)
    if name == 'vit-google':
        rename_as_google(made, folder)
    made.reference.double()
    expected: dict[str, Any] = blocks_and_outputs(made)
    if made.case.family == 'bert':
        expected |= sentence_embedding(made, folder)
    if made.case.family == 'gpt2':
        expected |= greedy_tokens(made)
    inputs = {f'input{i}': x for i, x in enumerate(made.inputs)}
    np.savez_compressed(folder / 'expected.npz', **inputs, **expected)


def blocks_and_outputs(made: Any) -> dict[str, Any]:
    """By the paths of our blocks, and of the final outputs that ours has too."""
    found = reference_outputs(made.reference, made.case.layout, made.model, made.inputs)
    run = functools.partial(layer_outputs, made.model, found)
    ours = jax.eval_shape(run, made.params, *made.inputs)
    return {path: found[path] for path in ours if re.search(r'/block\d+$|^[^/]+$', path)}


def greedy_tokens(made: Any) -> dict[str, np.ndarray]:
    """What transformers says after prompts of several lengths, one by one."""
    prompts = [made.inputs[0][0, :length] for length in (1, 5, 12)]
    options = {'max_new_tokens': 24, 'do_sample': False, 'pad_token_id': 0}
    found = [
        made.reference.generate(
            torch.tensor(prompt[None]).long(), attention_mask=torch.ones(1, len(prompt)), **options
        )[0, len(prompt) :].numpy()
        for prompt in prompts
    ]
    return {'greedy': np.stack(found)} | {f'prompt{i}': p for i, p in enumerate(prompts)}


_POOLING = {'word_embedding_dimension': 16, 'pooling_mode_mean_tokens': True}


def sentence_embedding(made: Any, folder: Path) -> dict[str, np.ndarray]:
    """The mean over tokens, of length 1; and the files in which sentence-transformers says so."""
    paths = {'Transformer': '', 'Pooling': '1_Pooling', 'Normalize': '2_Normalize'}
    modules = [
        {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
        for i, (kind, path) in enumerate(paths.items())
    ]
    (folder / 'modules.json').write_text(json.dumps(modules, indent=2) + '\n')
    (folder / '1_Pooling').mkdir()
    (folder / '1_Pooling' / 'config.json').write_text(json.dumps(_POOLING, indent=2) + '\n')
    tokens, mask = reference_inputs(made.inputs, torch.float64)
    with torch.no_grad():
        states = made.reference(tokens, mask).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return {'bert.embedding': (mean / mean.norm(dim=1, keepdim=True)).numpy()}


def rename_as_google(made: Any, folder: Path) -> None:
    """Leaves nothing in `folder` but a .npz by the names of google-research/vision_transformer."""
    state = {name: value.numpy() for name, value in made.reference.state_dict().items()}
    shutil.rmtree(folder)
    folder.mkdir()
    weights: dict[str, Any] = dict(_google(state, made.model.config))
    np.savez(folder / 'model.npz', **weights)


def _google(state: dict[str, np.ndarray], config: Any) -> Iterator[tuple[str, np.ndarray]]:
    yield 'cls', state['cls_token']
    yield 'Transformer/posembed_input/pos_embedding', state['pos_embed']
    yield 'embedding/kernel', state['patch_embed.proj.weight'].transpose(2, 3, 1, 0)
    yield 'embedding/bias', state['patch_embed.proj.bias']
    yield from _pair(state, 'norm', 'Transformer/encoder_norm', 'scale')
    yield from _pair(state, 'head', 'head', 'kernel')
    for i in range(config.depth):
        ours, theirs = f'blocks.{i}', f'Transformer/encoderblock_{i}'
        yield from _pair(state, f'{ours}.norm1', f'{theirs}/LayerNorm_0', 'scale')
        yield from _pair(state, f'{ours}.norm2', f'{theirs}/LayerNorm_2', 'scale')
        yield from _pair(state, f'{ours}.mlp.fc1', f'{theirs}/MlpBlock_3/Dense_0', 'kernel')
        yield from _pair(state, f'{ours}.mlp.fc2', f'{theirs}/MlpBlock_3/Dense_1', 'kernel')
        heads = (config.heads, config.width // config.heads)
        attention = f'{theirs}/MultiHeadDotProductAttention_1'
        weights = np.split(state[f'{ours}.attn.qkv.weight'], 3)
        biases = np.split(state[f'{ours}.attn.qkv.bias'], 3)
        for name, w, b in zip(('query', 'key', 'value'), weights, biases):
            yield f'{attention}/{name}/kernel', w.T.reshape(config.width, *heads)
            yield f'{attention}/{name}/bias', b.reshape(heads)
        out = state[f'{ours}.attn.proj.weight'].T.reshape(*heads, config.width)
        yield f'{attention}/out/kernel', out
        yield f'{attention}/out/bias', state[f'{ours}.attn.proj.bias']


def _pair(
    state: dict[str, np.ndarray], theirs: str, name: str, weight: str
) -> Iterator[tuple[str, np.ndarray]]:
    yield f'{name}/{weight}', state[f'{theirs}.weight'].T
    yield f'{name}/bias', state[f'{theirs}.bias']


if __name__ == '__main__':
    for name in sys.argv[1:] or CASES:
        write(name, HERE / name)
