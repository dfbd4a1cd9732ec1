"""Adapters of the `peft` library and ours: the same outputs from the same folders, in float64."""

import copy
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, ours, randomized, torch

import blox as bx
from blox.converters import convert, export_peft, import_peft
from blox.tensorfile import TensorFile
from blox.zoo.comparing.parity import final_outputs, random_inputs, reference_inputs
from blox.zoo.comparing.widening import widen_reference

peft = pytest.importorskip('peft')

pytestmark = [
    pytest.mark.usefixtures('x64'),
    # Of transformers, by what PEFT asks of it.
    pytest.mark.filterwarnings('ignore::FutureWarning'),
]
# What PEFT says of targets that are as the tests want them.
quietly = pytest.mark.filterwarnings('ignore::UserWarning:peft')


class Target(NamedTuple):
    """A case, what PEFT adapts of it and trains whole, and how bx.lora names that."""

    case: str
    modules: Any
    where: Any
    parts: str = ''
    whole: tuple[str, ...] = ()


TARGETS = {
    'gpt2': Target('gpt2', ['c_attn', 'c_fc', 'wpe'], ['**/qkv/w', '**/fc1/w', '**/pos_embed/w']),
    'gpt2 by an expression': Target('gpt2', r'.*h\.[02]\.mlp\.c_.*', '**/block[02]/mlp/*/w'),
    'gpt2 untied': Target('gpt2 untied', ['wte', 'lm_head'], ['**/token_embed/w', '**/head/w']),
    'vit hf': Target('vit hf', ['q_proj', 'v_proj'], '**/qkv/w', 'qv', ('classifier',)),
    'vit hf patches': Target('vit hf', ['projection', 'fc2'], ['**/patch_embed/w', '**/fc2/w']),
    'vit timm': Target('vit timm', ['qkv', 'attn.proj'], '**/attn/*/w', whole=('head',)),
    'bert': Target('bert', ['query', 'key', 'value'], '**/qkv/w', 'qkv'),
    'bert words': Target(
        'bert', ['word_embeddings', 'pooler.dense'], ['**/token_embed/w', '**/pooler/w']
    ),
    'resnet hf': Target('resnet hf v1.5', ['convolution'], '**/conv/w', whole=('classifier',)),
    'resnet timm': Target(
        'resnet timm basic', ['conv1'], ['**/conv1/conv/w', '**/stem/conv/w'], whole=('fc',)
    ),
}
every_target = pytest.mark.parametrize('target', TARGETS.values(), ids=TARGETS)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Gives for a case a reference in float64, and our model, its Params, and inputs."""

    @functools.cache
    def make(name):
        reference = widen_reference(randomized(CASES[name].build()).double())
        saved = CASES[name].save(reference, tmp_path_factory.mktemp('base'))
        model = ours(CASES[name], saved)
        inputs = [x.astype(np.float64) if x.ndim == 4 else x for x in random_inputs(model)]
        return reference, model, convert(saved, model), inputs

    return make


def adapted_by_peft(reference, target, **options):
    """A PEFT model with a random adapter, and random modules that are trained whole."""
    torch.manual_seed(0)
    config = peft.LoraConfig(
        target_modules=target.modules,
        modules_to_save=list(target.whole) or None,
        init_lora_weights=False,
        **options,
    )
    model = peft.get_peft_model(copy.deepcopy(reference), config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim == 1:
                parameter.normal_()
    return model


def adapted_by_us(params, target):
    """Params with an adapter whose `b` is random, and the head to train where the target does."""
    adapted = bx.lora(params, target.where, rank=3, alpha=5.0, parts=target.parts)
    adapted = adapted.unfreeze('**/head/*') if target.whole else adapted
    rng = np.random.default_rng(0)
    for path in adapted.partition('**/*_lora_*b')[0]:
        adapted = adapted.set(path, rng.normal(size=adapted[path].shape))
    return adapted


def assert_equal(model, params, inputs, reference):
    """The outputs of both are equal up to what float64 rounds, and not those of the base."""
    outputs, _ = model(params, *map(jnp.asarray, inputs))
    found = {f'{model.path}.{k}': x for k, x in getattr(outputs, '_asdict', dict)().items()}
    found = found or {model.path: outputs}
    with torch.no_grad():
        expected = final_outputs(model, reference(*reference_inputs(inputs, torch.float64)))
    for path in found.keys() & expected.keys():
        scale = abs(expected[path]).max().item()
        np.testing.assert_allclose(found[path], expected[path].numpy(), rtol=0, atol=1e-12 * scale)
    assert found.keys() & expected.keys()


def assert_same(a, b):
    """Equal Params: paths, flags, metadata, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for path in a.partition(lambda path, _: path != 'rng')[0]:
        x, y = np.asarray(a[path].value), np.asarray(b[path].value)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), path


def contents(folder):
    """Names, dtypes, shapes and bytes of a folder's adapters."""
    file = TensorFile(folder / 'adapter_model.safetensors')
    # Embeddings of a language model come with what they adapt.
    adapters = {name: x for name, x in file.items() if 'base_layer' not in name}
    return {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in adapters.items()}


@every_target
@pytest.mark.parametrize('options', [{'r': 2, 'lora_alpha': 5}, {'r': 3, 'use_rslora': True}])
@quietly
def test_adapters_of_peft_compute_the_same_in_ours(target, options, made, tmp_path):
    reference, model, base, inputs = made(target.case)
    theirs = adapted_by_peft(reference, target, **options)
    theirs.save_pretrained(tmp_path / 'in')
    params = import_peft(tmp_path / 'in', model, base)
    assert_equal(model, params, inputs, theirs)
    export_peft(tmp_path / 'out', model, params, CASES[target.case].layout)
    assert contents(tmp_path / 'out') == contents(tmp_path / 'in')
    assert_equal(model, bx.merge_lora(params), inputs, theirs.merge_and_unload())


@every_target
def test_adapters_of_ours_compute_the_same_in_peft(target, made, tmp_path):
    reference, model, base, inputs = made(target.case)
    params = adapted_by_us(base, target)
    export_peft(tmp_path, model, params, CASES[target.case].layout)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(reference), tmp_path).eval()
    names = peft.get_peft_model_state_dict(theirs, save_embedding_layers=False)
    assert names.keys() == contents(tmp_path).keys()
    assert_equal(model, params, inputs, theirs)
    assert_same(import_peft(tmp_path, model, base), params)


@pytest.mark.parametrize(
    'target',
    [Target('gpt2', None, '**/qkv/w', 'qv'), Target('vit hf', None, '**/qkv/w')],
    ids=['thirds of one module', 'one for three modules'],
)
def test_adapters_that_their_modules_cut_otherwise_compute_the_same(target, made, tmp_path):
    reference, model, base, inputs = made(target.case)
    params = adapted_by_us(base, target)
    export_peft(tmp_path, model, params, 'hf')
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(reference), tmp_path).eval()
    assert_equal(model, params, inputs, theirs)
    assert_equal(model, import_peft(tmp_path, model, base), inputs, theirs)


@pytest.mark.parametrize(
    'options',
    [
        {'rank_pattern': {r'1\.attn\.c_attn': 3, 'c_attn': 4}},
        {'alpha_pattern': {'^transformer.h.0.mlp.c_proj': 1, 'attn.c_proj': 2.5}},
        {'exclude_modules': ['mlp.c_proj']},
        {'exclude_modules': r'.*\.[01]\.attn\..*'},
        {'layers_to_transform': 1},
        {'layers_to_transform': [0, 2], 'layers_pattern': '(h|layers)'},
        {'modules_to_save': ['ln_1', 'ln_f']},
        {'target_modules': 'all-linear'},
        {'init_lora_weights': 'orthogonal'},
        {'use_rslora': True, 'rank_pattern': {'c_attn': 5}, 'lora_alpha': 3},
    ],
    ids=str,
)
@quietly
def test_settings_mean_what_they_mean_in_peft(options, made, tmp_path):
    reference, model, base, inputs = made('gpt2')
    options = {'r': 2, 'target_modules': ['c_attn', 'c_proj'], 'init_lora_weights': False} | options
    theirs = peft.get_peft_model(copy.deepcopy(reference), peft.LoraConfig(**options)).eval()
    theirs.save_pretrained(tmp_path)
    assert_equal(model, import_peft(tmp_path, model, base), inputs, theirs)


@quietly
def test_half_precision_comes_as_it_is(made, tmp_path):
    reference, model, base, _ = made('vit hf')
    theirs = adapted_by_peft(reference, TARGETS['vit hf'], r=2).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / 'in')
    params = import_peft(tmp_path / 'in', model, base.cast(np.float32))
    export_peft(tmp_path / 'out', model, params.cast('bfloat16', '**/head/*'))
    assert contents(tmp_path / 'out') == contents(tmp_path / 'in')


@quietly
def test_old_files_of_torch_give_the_same_adapters(made, tmp_path):
    reference, model, base, _ = made('gpt2')
    theirs = adapted_by_peft(reference, TARGETS['gpt2'], r=2)
    theirs.save_pretrained(tmp_path / 'new')
    theirs.save_pretrained(tmp_path / 'old', safe_serialization=False)
    assert (tmp_path / 'old' / 'adapter_model.bin').exists()
    assert_same(
        import_peft(tmp_path / 'old', model, base), import_peft(tmp_path / 'new', model, base)
    )


@pytest.mark.parametrize(
    'options',
    [{'use_dora': True}, {'init_lora_weights': 'pissa'}, {'bias': 'all'}, {'lora_bias': True}],
    ids=str,
)
@quietly
def test_what_is_no_plain_adapter_is_refused(options, made, tmp_path):
    reference, model, base, _ = made('gpt2')
    config = peft.LoraConfig(target_modules=['c_fc'], fan_in_fan_out=True, **options)
    peft.get_peft_model(copy.deepcopy(reference).float(), config).save_pretrained(tmp_path)
    with pytest.raises(bx.CheckpointError, match=next(iter(options))):
        import_peft(tmp_path, model, base)


@quietly
def test_an_embedding_that_the_head_is_tied_to_is_refused(made, tmp_path):
    reference, model, base, _ = made('gpt2')
    config = peft.LoraConfig(target_modules=['wte'], init_lora_weights=False)
    peft.get_peft_model(copy.deepcopy(reference), config).save_pretrained(tmp_path)
    with pytest.raises(bx.CheckpointError, match=r'transformer\.wte: .*lm_head is tied'):
        import_peft(tmp_path, model, base)
