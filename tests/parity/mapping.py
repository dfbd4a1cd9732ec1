"""Where the reference libraries keep what our Params hold: theirs in, entries by our paths out.

Values come as they lie in a state dict, arrays in PyTorch's layouts.
"""

from collections.abc import Iterator, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
Entries = Iterator[tuple[str, np.ndarray]]

_NORM = {'scale': 'weight', 'offset': 'bias'}
_BATCH_NORM = {**_NORM, 'mean': 'running_mean', 'var': 'running_var'}


def _renamed(state: Arrays, ours: str, theirs: str, names: Mapping[str, str]) -> Entries:
    for our_name, their_name in names.items():
        yield f'{ours}/{our_name}', state[f'{theirs}.{their_name}']


def _linear(state: Arrays, ours: str, theirs: str) -> Entries:
    yield f'{ours}/w', state[f'{theirs}.weight'].T
    yield f'{ours}/b', state[f'{theirs}.bias']


def _conv(state: Arrays, ours: str, theirs: str) -> Entries:
    yield f'{ours}/w', state[f'{theirs}.weight'].transpose(2, 3, 1, 0)
    if f'{theirs}.bias' in state:
        yield f'{ours}/b', state[f'{theirs}.bias']


def gpt2(state: Arrays, depth: int) -> Entries:
    """transformers.GPT2LMHeadModel, whose Conv1D weights are [inputs, outputs] as ours are."""
    yield 'gpt2/token_embed/w', state['transformer.wte.weight']
    yield 'gpt2/pos_embed/w', state['transformer.wpe.weight']
    yield from _renamed(state, 'gpt2/norm', 'transformer.ln_f', _NORM)
    for i in range(depth):
        ours, theirs = f'gpt2/block{i}', f'transformer.h.{i}'
        yield from _renamed(state, f'{ours}/norm1', f'{theirs}.ln_1', _NORM)
        yield from _renamed(state, f'{ours}/norm2', f'{theirs}.ln_2', _NORM)
        for our_name, their_name in (
            ('attn/qkv', 'attn.c_attn'),
            ('attn/proj', 'attn.c_proj'),
            ('mlp/fc1', 'mlp.c_fc'),
            ('mlp/fc2', 'mlp.c_proj'),
        ):
            names = {'w': 'weight', 'b': 'bias'}
            yield from _renamed(state, f'{ours}/{our_name}', f'{theirs}.{their_name}', names)


def timm_vit(state: Arrays, depth: int) -> Entries:
    """timm's VisionTransformer; the average-pooled one calls its last norm fc_norm."""
    yield from _conv(state, 'vit/patch_embed', 'patch_embed.proj')
    yield 'vit/pos_embed', state['pos_embed']
    if 'cls_token' in state:
        yield 'vit/cls_token', state['cls_token']
    norm = 'norm' if 'norm.weight' in state else 'fc_norm'
    yield from _renamed(state, 'vit/norm', norm, _NORM)
    yield from _linear(state, 'vit/head', 'head')
    for i in range(depth):
        ours, theirs = f'vit/block{i}', f'blocks.{i}'
        for name in ('norm1', 'norm2'):
            yield from _renamed(state, f'{ours}/{name}', f'{theirs}.{name}', _NORM)
        for name in ('attn/qkv', 'attn/proj', 'mlp/fc1', 'mlp/fc2'):
            yield from _linear(state, f'{ours}/{name}', f'{theirs}.{name.replace("/", ".")}')


def hf_vit(state: Arrays, depth: int) -> Entries:
    """transformers.ViTForImageClassification, by the names of its live modules."""
    yield from _conv(state, 'vit/patch_embed', 'vit.embeddings.patch_embeddings.projection')
    yield 'vit/pos_embed', state['vit.embeddings.position_embeddings']
    yield 'vit/cls_token', state['vit.embeddings.cls_token']
    yield from _renamed(state, 'vit/norm', 'vit.layernorm', _NORM)
    yield from _linear(state, 'vit/head', 'classifier')
    for i in range(depth):
        ours, theirs = f'vit/block{i}', f'vit.layers.{i}'
        yield from _renamed(state, f'{ours}/norm1', f'{theirs}.layernorm_before', _NORM)
        yield from _renamed(state, f'{ours}/norm2', f'{theirs}.layernorm_after', _NORM)
        yield from _qkv(state, f'{ours}/attn/qkv', f'{theirs}.attention')
        yield from _linear(state, f'{ours}/attn/proj', f'{theirs}.attention.o_proj')
        yield from _linear(state, f'{ours}/mlp/fc1', f'{theirs}.mlp.fc1')
        yield from _linear(state, f'{ours}/mlp/fc2', f'{theirs}.mlp.fc2')


def _qkv(state: Arrays, ours: str, theirs: str) -> Entries:
    parts = [f'{theirs}.{name}_proj' for name in 'qkv']
    yield f'{ours}/w', np.concatenate([state[f'{part}.weight'].T for part in parts], axis=1)
    yield f'{ours}/b', np.concatenate([state[f'{part}.bias'] for part in parts])


def resnet(state: Arrays) -> Entries:
    """timm's and torchvision's ResNets, which share their names."""
    yield from _linear(state, 'resnet/head', 'fc')
    for theirs in sorted(
        name.removesuffix('.weight') for name in state if name.endswith('.weight')
    ):
        *block, layer = theirs.split('.')
        if layer.startswith('conv'):
            norm = '.'.join([*block, layer.replace('conv', 'bn')])
            ours = _resnet_path(block, layer)
        elif theirs.endswith('downsample.0'):
            norm, ours = f'{theirs[:-1]}1', _resnet_path(block[:-1], 'shortcut')
        else:
            continue
        yield from _conv(state, f'{ours}/conv', theirs)
        yield from _renamed(state, f'{ours}/norm', norm, _BATCH_NORM)


def _resnet_path(block: list[str], layer: str) -> str:
    if not block:
        return 'resnet/stem'
    stage, index = block
    return f'resnet/{stage.replace("layer", "stage")}/block{index}/{layer}'
