"""torch at its best on a CPU: inference mode, channels_last images, fused attention and AdamW.

ResNets are torchvision's, ViTs, ConvNeXts and Swins timm's, GPT-2, BERT and CLIP those of
transformers.
"""

import os
from typing import Any

import torch

from blox.zoo.comparing.parity import import_reference
from programs.shared import DECAY, RATE, Program, count, inputs, targets, texts, versions_of

COMPILED = False

torch.set_num_threads(len(os.sched_getaffinity(0)))


def versions() -> str:
    return versions_of('torch', 'torchvision', 'timm', 'transformers')


def create(model: str, sizes: dict[str, Any]) -> torch.nn.Module:
    """Make a model with these sizes and no dropout."""
    if model == 'resnet':
        resnet = import_reference('torchvision').models.resnet
        block = resnet.Bottleneck if sizes['block'] == 'bottleneck' else resnet.BasicBlock
        return resnet.ResNet(block, sizes['depths'], num_classes=sizes['num_classes'])
    if model in ('vit', 'convnext', 'swin', 'eva'):
        timm = import_reference('timm')
        common = {'num_classes': sizes['num_classes']}
        if model == 'convnext':
            widths = {'depths': sizes['depths'], 'dims': sizes['widths']}
            return timm.models.ConvNeXt(**common, **widths)
        if model == 'swin':
            sides = {'depths': sizes['depths'], 'img_size': sizes['image_size']}
            return timm.models.SwinTransformer(**common, **sides)
        common |= {'img_size': sizes['image_size'], 'embed_dim': sizes['width']}
        common |= {'depth': sizes['depth'], 'num_heads': sizes['heads']}
        if model == 'eva':
            return timm.create_model('vit_base_patch16_dinov3', global_pool='token', **common)
        return timm.models.VisionTransformer(**common)
    transformers = import_reference('transformers')
    if model == 'clip':
        depth = {'num_hidden_layers': sizes['depth']}
        images = {**depth, 'image_size': sizes['image_size']}
        config = transformers.CLIPConfig(text_config=depth, vision_config=images)
        return transformers.CLIPModel(config)
    if model == 'gpt2':
        config = transformers.GPT2Config(
            vocab_size=sizes['vocab_size'],
            n_positions=sizes['context'],
            n_embd=sizes['width'],
            n_layer=sizes['depth'],
            n_head=sizes['heads'],
            **dict.fromkeys(('embd_pdrop', 'attn_pdrop', 'resid_pdrop'), 0.0),
            attn_implementation='sdpa',
            bos_token_id=None,
            eos_token_id=None,
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.BertConfig(
        vocab_size=sizes['vocab_size'],
        max_position_embeddings=sizes['context'],
        hidden_size=sizes['width'],
        num_hidden_layers=sizes['depth'],
        num_attention_heads=sizes['heads'],
        intermediate_size=4 * sizes['width'],
        attn_implementation='sdpa',
    )
    return transformers.BertModel(config, add_pooling_layer=False)


def build(work: str, model: str, sizes: dict[str, Any]) -> Program:
    net = create(model, sizes)
    x = torch.from_numpy(inputs(model, sizes, channels_first=True))
    if model in ('resnet', 'convnext', 'swin', 'vit', 'eva'):
        net, layout = net.to(memory_format=torch.channels_last), torch.channels_last
        x = x.contiguous(memory_format=layout)
    parameters = count(net.parameters())
    if model == 'clip':
        tokens, towers = torch.from_numpy(texts(sizes)).long(), net
        net = Pairs(towers, tokens)
    if work in ('greedy', 'sampled'):
        return Program(_decode(net, x, sizes, work), parameters)
    if work == 'step':
        return Program(_step(net, model, x, torch.from_numpy(targets(model, sizes))), parameters)
    return Program(_forward(net.eval(), model, x), parameters)


class Pairs(torch.nn.Module):
    """Both towers of a CLIP, for always the same texts."""

    def __init__(self, towers: torch.nn.Module, tokens: torch.Tensor) -> None:
        super().__init__()
        self.towers, self.tokens = towers, tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.towers(self.tokens, x).logits_per_image


def _compiled(function: Any) -> Any:
    return torch.compile(function) if COMPILED else function


def _logits(net: torch.nn.Module, model: str, x: torch.Tensor) -> torch.Tensor:
    """Return logits, or BERT's sentence embeddings: the mean of the tokens, of length 1."""
    outputs = net(x)
    if model == 'gpt2':
        return outputs.logits
    if model == 'bert':
        return torch.nn.functional.normalize(outputs.last_hidden_state.mean(1))
    return outputs


def _forward(net: torch.nn.Module, model: str, x: torch.Tensor) -> Any:
    run = _compiled(lambda x: _logits(net, model, x))

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return run(x)

    return call


def _step(net: torch.nn.Module, model: str, x: torch.Tensor, y: torch.Tensor) -> Any:
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY, fused=True)
    net.train()

    @_compiled
    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = _logits(net, model, x)
        return torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten())

    def call() -> None:
        optimizer.zero_grad()
        loss_of(x, y.long()).backward()
        optimizer.step()

    return call


def _decode(net: Any, x: torch.Tensor, sizes: dict[str, Any], work: str) -> Any:
    net.eval()
    how = (
        {'do_sample': False} if work == 'greedy' else {'do_sample': True, 'top_k': 50, 'top_p': 0.9}
    )
    new = {'max_new_tokens': sizes['new'], 'min_new_tokens': sizes['new']}
    mask, prompt = torch.ones_like(x), x.long()

    def call() -> None:
        with torch.inference_mode():
            net.generate(prompt, attention_mask=mask, pad_token_id=0, **new, **how)

    return call
