"""What is compared: models of the reference libraries, and how those libraries save them.

Weights are random and large, norms, biases and batch statistics random too: with those of a
model's start, a wrong activation or epsilon hardly shows.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

import blox as bx
from blox.converters import convert, layouts, open_source, read_config
from blox.zoo.comparing.parity import import_reference, random_inputs, reference_outputs
from blox.zoo.models import families

try:
    torch = import_reference('torch')
    torchvision = import_reference('torchvision')
    timm = import_reference('timm')
    transformers = import_reference('transformers')
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)


class Case(NamedTuple):
    """A model of a reference library.

    Attributes:
      family: which of ours it is.
      layout: whose names its files have.
      build: makes it.
      save: writes it to a folder, as its own library does.
      name: of our config in the catalog, where the files do not say.
      fields: of our config, that the files do not say.
    """

    family: str
    layout: str
    build: Callable[[], Any]
    save: Callable[[Any, Path], None]
    name: str = ''
    fields: Mapping[str, Any] = MappingProxyType({})


def _transformers(family: str, kind: str, config: str, **fields: Any) -> Case:
    def build() -> Any:
        return getattr(transformers, kind)(getattr(transformers, config)(**fields))

    return Case(family, 'hf', build, lambda model, folder: model.save_pretrained(folder))


def _timm(family: str, name: str, **arguments: Any) -> Case:
    def save(model: Any, folder: Path) -> None:
        timm.models.save_for_hf(model, folder, model_args=arguments, safe_serialization=True)

    return Case(family, 'timm', partial(timm.create_model, name, **arguments), save)


def _torchvision(kind: str, name: str, depths: tuple[int, ...], **arguments: Any) -> Case:
    def save(model: Any, folder: Path) -> None:
        torch.save(model.state_dict(), folder / 'model.pth')

    block = getattr(torchvision.models.resnet, kind)
    build = partial(torchvision.models.ResNet, block, depths, num_classes=5, **arguments)
    return Case('resnet', 'timm', build, save, name, {'depths': depths, 'num_classes': 5})


_GPT2 = {'vocab_size': 50, 'n_positions': 128, 'n_embd': 32, 'n_layer': 3, 'n_head': 4}
_GPT2 |= {'bos_token_id': None, 'eos_token_id': None}
gpt2 = partial(_transformers, 'gpt2', 'GPT2LMHeadModel', 'GPT2Config', **_GPT2)

_VIT = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4}
_VIT |= {'intermediate_size': 48, 'image_size': (24, 16), 'patch_size': 8}
hf_vit = partial(_transformers, 'vit', config='ViTConfig', **_VIT)
_classifier = partial(hf_vit, 'ViTForImageClassification', num_labels=7)


def _without_pooler() -> Any:
    return transformers.ViTModel(transformers.ViTConfig(**_VIT), add_pooling_layer=False)


_TIMM_VIT = {'img_size': (24, 16), 'patch_size': 8, 'embed_dim': 32, 'depth': 2, 'num_heads': 4}
timm_vit = partial(_timm, 'vit', 'vit_tiny_patch16_224', **_TIMM_VIT, num_classes=7)

_SMALL = {'layers': [1, 2, 1, 1], 'channels': [8, 16, 24, 32], 'num_classes': 5}
timm_resnet = partial(_timm, 'resnet', **_SMALL)

_RESNET = {'embedding_size': 8, 'hidden_sizes': [16, 32], 'depths': [1, 2], 'num_labels': 5}
hf_resnet = partial(
    _transformers, 'resnet', 'ResNetForImageClassification', 'ResNetConfig', **_RESNET
)

_BERT = {'vocab_size': 50, 'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4}
_BERT |= {'intermediate_size': 48, 'max_position_embeddings': 24}
# Without a token of padding, whose row of the table would get no gradient.
bert = partial(_transformers, 'bert', 'BertModel', 'BertConfig', **_BERT, pad_token_id=None)

CASES = {
    'gpt2': gpt2(),
    'gpt2 n_inner=48': gpt2(n_inner=48),
    'gpt2 gelu': gpt2(activation_function='gelu'),
    'gpt2 relu': gpt2(activation_function='relu'),
    'gpt2 epsilon=0.01': gpt2(layer_norm_epsilon=1e-2),
    'gpt2 unscaled': gpt2(scale_attn_weights=False),
    'gpt2 scaled by depth': gpt2(scale_attn_by_inverse_layer_idx=True),
    'gpt2 untied': gpt2(tie_word_embeddings=False),
    'vit hf': _classifier(),
    'vit hf patch_size=(4, 8)': _classifier(patch_size=(4, 8)),
    'vit hf qkv_bias=False': _classifier(qkv_bias=False),
    'vit hf gelu_new': _classifier(hidden_act='gelu_new'),
    'vit hf square, gray': _classifier(image_size=16, num_channels=1),
    'vit hf pooler': hf_vit('ViTModel'),
    'vit hf narrow pooler': hf_vit('ViTModel', pooler_output_size=12),
    'vit hf no pooler': hf_vit('ViTModel')._replace(build=_without_pooler),
    'vit timm': timm_vit(),
    'vit timm patch_size=(4, 8)': timm_vit(patch_size=(4, 8)),
    'vit timm avg': timm_vit(global_pool='avg'),
    'vit timm avg, no class token': timm_vit(global_pool='avg', class_token=False),
    'vit timm qkv_bias=False': timm_vit(qkv_bias=False),
    'vit timm mlp_ratio=2.5': timm_vit(mlp_ratio=2.5),
    'vit timm num_classes=0': timm_vit(num_classes=0),
    'resnet timm basic': timm_resnet('resnet18'),
    'resnet timm bottleneck': timm_resnet('resnet50'),
    'resnet timm groups': timm_resnet('resnext50_32x4d', channels=[16, 16, 32, 32]),
    'resnet timm wide': timm_resnet('wide_resnet50_2'),
    'resnet timm num_classes=0': timm_resnet('resnet18', num_classes=0),
    'resnet torchvision basic': _torchvision('BasicBlock', 'resnet18', (1, 2, 1, 1)),
    'resnet torchvision groups': _torchvision(
        'Bottleneck', 'resnext50-32x4d', (1, 1, 1, 1), groups=32, width_per_group=4
    ),
    'resnet hf v1.5': hf_resnet(),
    'resnet hf v1': hf_resnet(downsample_in_bottleneck=True),
    'resnet hf basic': hf_resnet(layer_type='basic'),
    'resnet hf no head': _transformers('resnet', 'ResNetModel', 'ResNetConfig', **_RESNET),
    'bert': bert(),
    'bert relu': bert(hidden_act='relu'),
    'bert gelu_new': bert(hidden_act='gelu_new'),
    'bert epsilon=0.01': bert(layer_norm_eps=1e-2),
    'bert type_vocab_size=3': bert(type_vocab_size=3),
}

# ResNets take images of any size.
CASES |= {
    name: case._replace(fields={**case.fields, 'image_size': (31, 40)})
    for name, case in CASES.items()
    if case.family == 'resnet'
}

# One published architecture of each family but BERT, whose real checkpoint is at hand.
FULL_SIZE = {
    'ResNet-50': _timm('resnet', 'resnet50'),
    'ViT-B/16': _transformers('vit', 'ViTForImageClassification', 'ViTConfig', num_labels=1000),
    'GPT-2': _transformers('gpt2', 'GPT2LMHeadModel', 'GPT2Config'),
}


class Pair(NamedTuple):
    """A reference with random weights, the folder or file it was saved to, and ours of that."""

    case: Case
    reference: Any
    saved: Path
    model: Any
    params: bx.Params
    inputs: tuple[np.ndarray, ...]


def pair(case: Case, folder: Path, batch: int = 3) -> Pair:
    """Both sides of a case, in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    reference = randomized(case.build())
    model = ours(case, save(case, reference, folder))
    inputs = tuple(x[:batch] for x in random_inputs(model, seed=1))
    scale_outputs(reference, case.layout, model, inputs)
    saved = save(case, reference, folder)
    return Pair(case, reference, saved, model, convert(saved, model), inputs)


def randomized(reference: Any, seed: int = 0) -> Any:
    """`reference` for inference, its parameters and statistics random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith('weight')
            # What keeps the size of values: five to ten times what small models start with.
            std = _std(parameter.shape)
            parameter.normal_(float(is_scale), std, generator=generator)
        for name, buffer in reference.named_buffers():
            if name.endswith('running_mean'):
                buffer.normal_(0, 0.2, generator=generator)
            if name.endswith('running_var'):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return reference.eval()


def _std(shape: Sequence[int]) -> float:
    if len(shape) == 4:
        return (2 / math.prod(shape[1:])) ** 0.5
    return min(shape) ** -0.5 if len(shape) == 2 else 0.1


_HEADS = ('transformer.ln_f', 'classifier.1', 'classifier', 'head', 'fc')


def scale_outputs(reference: Any, layout: str, model: Any, inputs: Sequence[np.ndarray]) -> None:
    """Makes the largest logit 1, by the weights of the last layer; without a head does nothing."""
    modules = dict(reference.named_modules())
    outputs = reference_outputs(reference, layout, model, inputs)
    head = next((modules[name] for name in _HEADS if name in modules), torch.nn.Identity())
    with torch.no_grad():
        for parameter in head.parameters():
            parameter /= float(np.abs(outputs[model.path]).max())


def opened(pair: Pair, dtype: str) -> Any:
    """What `compare` takes as the reference in `dtype`: a folder, or a module where there is none."""
    return copy.deepcopy(pair.reference).to(getattr(torch, dtype)) if pair.case.name else pair.saved


def save(case: Case, reference: Any, folder: Path) -> Path:
    """What there is to open after `reference` was saved to `folder`."""
    case.save(reference, folder)
    return folder / 'model.pth' if case.name else folder


def ours(case: Case, saved: Path) -> Any:
    """Our model of a saved reference."""
    family = families()[case.family]
    table = layouts(case.family)[case.layout]
    stated = {} if case.name else read_config(table, open_source(saved))
    config = family.variants[case.name] if case.name else family.config()
    return family.build(family.override(config, stated | dict(case.fields)))
