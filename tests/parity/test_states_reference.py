"""Files as training writes them: wrappers of torch around models, averages, half precision, nanoGPT's names.

Other tests have the same files by hand; here torch, timm and transformers write them.
"""

import argparse
import copy

import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, ours, randomized, timm, torch

import blox as bx
from blox.converters import convert


def assert_same(a, b):
    values = [
        {path: np.asarray(x.value) for path, x in params.items() if path != 'rng'}
        for params in (a, b)
    ]
    assert values[0].keys() == values[1].keys()
    for path, x in values[0].items():
        y = values[1][path]
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), path


class Task(torch.nn.Module):
    """A model as a training script of Lightning holds it."""

    def __init__(self, model):
        super().__init__()
        self.model = model


def compiled(model):
    return torch.compile(model, backend='eager')


WRAPPERS = {
    'DataParallel': torch.nn.DataParallel,
    'compiled': compiled,
    'compiled, then parallel': lambda model: torch.nn.DataParallel(compiled(model)),
    'parallel, then compiled': lambda model: compiled(torch.nn.DataParallel(model)),
    'averaged by torch': torch.optim.swa_utils.AveragedModel,
    'averaged by timm': lambda model: timm.utils.ModelEmaV3(model),
    'a task': Task,
    'a compiled task': lambda model: compiled(Task(compiled(model))),
}


@pytest.fixture(scope='module')
def vit(tmp_path_factory):
    """A ViT of timm, and ours of what timm saves."""
    folder = tmp_path_factory.mktemp('vit')
    reference = randomized(CASES['vit timm'].build())
    saved = CASES['vit timm'].save(reference, folder)
    model = ours(CASES['vit timm'], saved)
    return reference, model, convert(saved, model)


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_what_wrappers_save_is_the_model_inside(vit, wrapper, tmp_path):
    reference, model, params = vit
    state = WRAPPERS[wrapper](copy.deepcopy(reference)).state_dict()
    assert not set(state) & set(reference.state_dict())
    torch.save({'state_dict': state, 'epoch': 3}, tmp_path / 'last.ckpt')
    assert_same(convert(tmp_path / 'last.ckpt', model), params)


def test_what_timms_trainer_saves_is_read(vit, tmp_path):
    """Its own saver, with an optimizer, an average and the script's arguments."""
    reference, model, params = vit
    average = copy.deepcopy(reference)
    with torch.no_grad():
        average.norm.weight += 1
    saver = timm.utils.CheckpointSaver(
        reference,
        torch.optim.AdamW(reference.parameters()),
        argparse.Namespace(model='vit_tiny_patch16_224', lr=0.1),
        timm.utils.ModelEmaV3(average),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(1, 76.1)
    found = convert(tmp_path / 'last.pth.tar', model)
    assert_same(found, params)
    found = convert(tmp_path / 'last.pth.tar', model, state='state_dict_ema')
    scale = np.asarray(params['vit/norm/scale'].value) + 1
    assert (np.asarray(found['vit/norm/scale'].value) == scale).all()


@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16])
def test_halves_in_a_torch_file_are_read_as_they_are(vit, kind, tmp_path):
    reference, model, _ = vit
    state = copy.deepcopy(reference).to(kind).state_dict()
    mixed = {n: x.float() if 'norm' in n else x for n, x in state.items()}
    torch.save(mixed, tmp_path / 'half.pth')
    found = convert(tmp_path / 'half.pth', model)
    name = str(kind).removeprefix('torch.')
    assert found['vit/block0/attn/qkv/w'].dtype == jnp.dtype(name)
    assert found['vit/block0/norm1/scale'].dtype == jnp.float32
    expected = mixed['head.weight'].float().numpy().T
    assert (np.asarray(found['vit/head/w'].value, np.float32) == expected).all()
    cast = convert(tmp_path / 'half.pth', model, dtype=jnp.float32)
    assert (np.asarray(cast['vit/head/w'].value) == expected).all()


# nanoGPT keeps these for torch's Linear, and its GPT is otherwise transformers' with an exact gelu.
TURNED = ('attn.c_attn.weight', 'attn.c_proj.weight', 'mlp.c_fc.weight', 'mlp.c_proj.weight')


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('bias', [True, False])
def test_a_checkpoint_of_nanogpt_computes_as_there(tmp_path, bias):
    reference = randomized(CASES['gpt2 gelu'].build()).double()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter *= 1.0 if bias or not name.endswith('.bias') else 0.0
    config = reference.config
    state = {
        f'_orig_mod.{name}': x.T.contiguous() if name.endswith(TURNED) else x
        for name, x in reference.state_dict().items()
        if bias or not name.endswith('.bias')
    }
    sizes = {'n_layer': config.n_layer, 'n_head': config.n_head, 'n_embd': config.n_embd}
    sizes |= {'block_size': config.n_positions, 'vocab_size': config.vocab_size}
    content = {'model': state, 'model_args': {**sizes, 'bias': bias, 'dropout': 0.0}}
    torch.save({**content, 'iter_num': 9}, tmp_path / 'ckpt.pt')
    model, params = bx.zoo.load('gpt2', source=tmp_path / 'ckpt.pt')
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 9))
    with torch.no_grad():
        expected = reference(torch.tensor(tokens)).logits.numpy()
    found, _ = model(params, jnp.asarray(tokens, jnp.int32))
    assert np.abs(np.asarray(found) - expected).max() < 1e-12 * np.abs(expected).max()
