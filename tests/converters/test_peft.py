"""PEFT's layout without PEFT: what goes out comes back, and what is no such adapter is refused."""

import functools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from families import build, every_library, fitted, tiny
from helpers import promptly, table

import blox as bx
from blox.converters import export_peft, import_peft
from blox.converters.peft.config import config_fields, read_config
from blox.converters.peft.modules import Modules, peft_tables
from blox.converters.target import model_spec
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.models import families
from blox.zoo.models.eva import EvaConfig

# By name: a family, the format, and what is changed of the tiny config.
MODELS = {f'{family} {layout}': (family, layout, {}) for family, layout in every_library()}
MODELS['gpt2 hf untied'] = ('gpt2', 'hf', {'tied_head': False})
every_model = pytest.mark.parametrize('name', MODELS)


def base_of(config):
    """A model, and random Params for it."""
    model = build(config)
    return model, random_like(model_spec(model).partition(lambda path, _: path != 'rng')[0])


@functools.cache
def made(name):
    """A model, random Params for it, and the format that its name says."""
    family, format, fields = MODELS[name]
    return *base_of(fitted(family, format, **fields)), format


def random_like(params, where='**'):
    """Params with a random value at every place that `where` names."""
    rng = np.random.default_rng(0)
    for path, param in params.partition(where)[0].items():
        value = rng.normal(size=param.shape).astype(np.float32)
        params = params.set(path, abs(value) if path.endswith('/var') else value)
    return params


def adapted(params, where, **options):
    return random_like(bx.lora(params, where, **options), '**/*_lora_*b')


def fitting(model, format, *, fused):
    """Paths of the weights that PEFT can adapt, in a module of their own or in one of three."""
    modules = Modules(model, peft_tables(model)[format])
    fit = [entry for entry in modules.entries.values() if not modules.refusal(entry)]
    return [entry.path for entry in fit if (len(entry.names) > 1) == fused]


def returned(folder, model, params, base, format, **options):
    export_peft(folder, model, params, format, **options)
    return import_peft(folder, model, base)


def assert_same(a, b):
    """Equal Params: paths, flags, metadata, dtypes and bits."""
    assert list(a) == list(b)
    for path in a:
        x, y = a[path], b[path]
        assert (x.trainable, x.metadata) == (y.trainable, y.metadata), path
        x, y = np.asarray(x.value), np.asarray(y.value)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), path


def config_of(folder):
    return json.loads((folder / 'adapter_config.json').read_text())


def set_config(folder, **fields):
    (folder / 'adapter_config.json').write_text(json.dumps(config_of(folder) | fields))


def tensors_of(folder):
    return {
        name: np.array(x) for name, x in TensorFile(folder / 'adapter_model.safetensors').items()
    }


def set_tensors(folder, tensors):
    write_tensors(folder / 'adapter_model.safetensors', tensors, {})


# There and back.


@every_model
def test_every_weight_that_is_a_module_of_theirs_comes_back(name, tmp_path):
    model, base, format = made(name)
    params = adapted(base, fitting(model, format, fused=False), rank=3, alpha=5.0)
    assert sum(path.endswith('_lora_a') for path in params) > 6
    assert_same(returned(tmp_path, model, params, base, format), params)


@pytest.mark.parametrize('name', ['bert hf', 'vit hf'])
@pytest.mark.parametrize('parts', ['q', 'kv', 'qkv'])
def test_thirds_that_are_modules_of_theirs_come_back(name, parts, tmp_path):
    model, base, format = made(name)
    params = adapted(base, fitting(model, format, fused=True), parts=parts)
    assert_same(returned(tmp_path, model, params, base, format), params)
    assert len(tensors_of(tmp_path)) == 2 * len(parts) * model.config.depth


@pytest.mark.parametrize('parts', ['', 'q', 'qkv'])
def test_shared_keys_and_values_are_modules_of_their_own_size(parts, tmp_path):
    sizes = {'width': 16, 'depth': 2, 'heads': 4, 'kv_heads': (2, 1), 'mlp_dim': 12}
    kind = {'k_bias': True, 'qkv_apart': True, 'image_size': (8, 8), 'patch_size': (4, 4)}
    config = EvaConfig(**sizes, **kind)
    model = families()['eva'].build(config)
    base = bx.zoo.init(model)
    params = adapted(base, '**/attn/qkv/w', parts=parts)
    found = returned(tmp_path, model, params, base, 'timm')
    merged = [bx.merge_lora(p)['eva/block1/attn/qkv/w'].value for p in (found, params)]
    np.testing.assert_allclose(*merged, atol=1e-6)
    rows = {name: x.shape[0] for name, x in tensors_of(tmp_path).items() if 'lora_B' in name}
    for name, count in {'q': 16, 'k': 4, 'v': 4}.items():
        if not parts or name in parts:
            (own,) = (n for n in rows if f'blocks.1.attn.{name}_proj' in n)
            assert rows[own] == count


@pytest.mark.parametrize('name', ['bert hf', 'vit hf'])
def test_an_adapter_of_three_modules_comes_back_as_three_of_one_a(name, tmp_path):
    model, base, format = made(name)
    params = adapted(base, '**/qkv/w')
    found = returned(tmp_path, model, params, base, format)
    path = f'{model.path}/block1/attn/qkv/w_lora'
    for part in 'qkv':
        np.testing.assert_array_equal(found[f'{path}_{part}_a'].value, params[f'{path}_a'].value)
    thirds = [found[f'{path}_{part}_b'].value for part in 'qkv']
    np.testing.assert_array_equal(np.concatenate(thirds, -1), params[f'{path}_b'].value)


@pytest.mark.parametrize('name', ['gpt2 hf', 'vit timm'])
def test_thirds_of_one_module_become_one_of_a_higher_rank(name, tmp_path):
    model, base, format = made(name)
    params = adapted(base, '**/qkv/w', parts='qv', rank=2, alpha=3.0)
    found = returned(tmp_path, model, params, base, format)
    path = f'{model.path}/block0/attn/qkv/w'
    assert found[f'{path}_lora_a'].shape == (8, 4)
    assert config_of(tmp_path)['lora_alpha'] == 6
    one, thirds = (np.asarray(bx.merge_lora(p)[path].value) for p in (found, params))
    np.testing.assert_allclose(one, thirds, atol=1e-6)
    assert (np.asarray(found[f'{path}_lora_b'].value) == 0).sum() == 4 * 24 - 2 * 2 * 8


@pytest.mark.parametrize(
    'name', [name for name in MODELS if any('/head/' in path for path in made(name)[1])]
)
def test_a_head_that_is_trained_goes_along(name, tmp_path):
    model, base, format = made(name)
    where = next(p for p in fitting(model, format, fused=False) if '/head/' not in p)
    params = random_like(adapted(base, where).unfreeze('**/head/*'), '**/head/*')
    assert_same(returned(tmp_path, model, params, base, format), params)
    assert len(config_of(tmp_path)['modules_to_save']) == 1


def test_ranks_and_scales_of_each_module_come_back(tmp_path):
    model, base, format = made('vit timm')
    params = adapted(base, '**/fc1/w', rank=2, alpha=0.7)
    for where, rank, alpha in (('**/fc2/w', 3, 0.1), ('**/block1/**/proj/w', 7, 16.0)):
        other, _ = adapted(base, where, rank=rank, alpha=alpha).partition('**/*_lora_*')
        params = params.merge(other)
    assert_same(returned(tmp_path, model, params, base, format), params)
    assert set(config_of(tmp_path)['rank_pattern'].values()) == {3, 7}


def test_the_stem_alone_is_named_so_that_no_other_conv1_is_meant(tmp_path):
    model, base, format = made('resnet timm')
    params = adapted(base, 'resnet/stem/conv/w')
    assert_same(returned(tmp_path, model, params, base, format), params)
    assert config_of(tmp_path)['target_modules'] == 'conv1'


def test_a_rank_of_the_stem_is_not_that_of_blocks(tmp_path):
    model, base, format = made('resnet timm')
    params = adapted(base, '**/block*/conv1/conv/w', rank=3)
    stem, _ = adapted(base, 'resnet/stem/conv/w', rank=2).partition('**/*_lora_*')
    assert_same(returned(tmp_path, model, params.merge(stem), base, format), params.merge(stem))


def test_the_base_that_is_named_is_in_the_config(tmp_path):
    model, base, format = made('gpt2 hf')
    params = adapted(base, '**/fc1/w')
    export_peft(tmp_path, model, params, format, base='openai-community/gpt2')
    assert config_of(tmp_path)['base_model_name_or_path'] == 'openai-community/gpt2'
    assert config_of(tmp_path)['task_type'] == 'CAUSAL_LM'
    assert config_of(tmp_path)['fan_in_fan_out'] is True


# Files of others.


NAMES = {
    'attention.q_proj': 'attention.attention.query',
    'attention.v_proj': 'attention.attention.value',
    'attention.k_proj': 'attention.attention.key',
    'vit.layers': 'vit.encoder.layer',
}


def renamed(text, names):
    for new, old in names.items():
        text = text.replace(new, old)
    return text


@table(
    {
        'of live modules before version 5': ('vit hf', NAMES),
        'of the model without a head': ('vit hf', {'vit.layers': 'layers'}),
        'of a model around it': ('bert hf', {'encoder.layer': 'bert.encoder.layer'}),
    }
)
def test_other_spellings_give_the_same_adapters(row, tmp_path):
    name, names = row
    model, base, format = made(name)
    params = adapted(base, '**/qkv/w', parts='qkv')
    export_peft(tmp_path, model, params, format)
    set_tensors(tmp_path, {renamed(key, names): x for key, x in tensors_of(tmp_path).items()})
    targets = [renamed(target, names) for target in config_of(tmp_path)['target_modules']]
    set_config(tmp_path, target_modules=targets)
    assert_same(import_peft(tmp_path, model, base), params)


def test_adapters_keep_their_dtype_and_a_head_takes_the_wider(tmp_path):
    model, base, format = made('vit hf')
    params = adapted(base, '**/fc1/w').unfreeze('vit/head/*')
    export_peft(tmp_path, model, params, format)
    set_tensors(tmp_path, {k: x.astype(jnp.bfloat16) for k, x in tensors_of(tmp_path).items()})
    found = import_peft(tmp_path, model, base)
    assert found['vit/block0/mlp/fc1/w_lora_a'].dtype == jnp.bfloat16
    assert found['vit/head/w'].dtype == jnp.float32


def test_float64_is_not_cut_short_in_silence(tmp_path):
    model, base, format = made('gpt2 hf')
    export_peft(tmp_path, model, adapted(base, '**/fc1/w'), format)
    set_tensors(tmp_path, {k: x.astype(np.float64) for k, x in tensors_of(tmp_path).items()})
    with pytest.raises(bx.CheckpointError, match=r'lora_A\.weight.*float64.*jax_enable_x64'):
        import_peft(tmp_path, model, base)


def test_a_saved_base_must_be_the_base(tmp_path):
    model, base, format = made('gpt2 hf untied')
    export_peft(tmp_path, model, adapted(base, '**/token_embed/w'), format)
    key = 'base_model.model.transformer.wte.base_layer.weight'
    tensors, w = tensors_of(tmp_path), np.asarray(base['gpt2/token_embed/w'].value)
    set_tensors(tmp_path, tensors | {key: w})
    import_peft(tmp_path, model, base)
    set_tensors(tmp_path, tensors | {key: w + 1})
    with pytest.raises(bx.CheckpointError, match=r'base_layer.*expected the base.*token_embed'):
        import_peft(tmp_path, model, base)


LAYERS = {'layers_to_transform': [1, 3], 'target_modules': ['fc']}


@table(
    {
        'an end': ({}, 'a.1.fc', 2, 4.0),
        'the whole name': ({}, 'fc', 2, 4.0),
        'the end of another name': ({}, 'a.1.xfc', 0, 0.0),
        'no whole expression': ({'target_modules': '.*fc'}, 'a.1.fc.x', 0, 0.0),
        'excluded': ({'exclude_modules': ['1.fc']}, 'a.1.fc', 0, 0.0),
        'not excluded': ({'exclude_modules': '1.fc'}, 'a.1.fc', 2, 4.0),
        'in a block': (LAYERS, 'm.a.3.fc', 2, 4.0),
        'in another block': (LAYERS, 'm.a.2.fc', 0, 0.0),
        'in a block of others': (LAYERS | {'layers_pattern': 'b'}, 'm.a.3.fc', 0, 0.0),
        'of a rank': ({'rank_pattern': {'b.*': 5, 'fc': 4}}, 'a.1.fc', 4, 2.0),
        'of an alpha': ({'alpha_pattern': {r'^a\.1\.fc': 3}}, 'a.1.fc', 2, 1.5),
        'rank-stabilized': ({'use_rslora': True, 'rank_pattern': {'fc': 4}}, 'a.1.fc', 4, 4.0),
        'saved whole': ({'modules_to_save': ['1.fc']}, 'a.1.fc', 0, 0.0),
    }
)
def test_a_config_says_which_modules_are_adapted_and_how(row, tmp_path):
    fields, module, rank, scale = row
    basis = {'peft_type': 'LORA', 'r': 2, 'lora_alpha': 8, 'target_modules': ['fc']}
    (tmp_path / 'adapter_config.json').write_text(json.dumps(basis | fields))
    config = read_config(tmp_path / 'adapter_config.json')
    assert config.adapts(module) == (rank > 0)
    if rank:
        assert (config.rank_of(module), config.scale_of(module)) == (rank, scale)


@table(
    {
        'of targets': {'target_modules': '(.*)*(.*)*X'},
        'of what is excluded': {'target_modules': ['fc'], 'exclude_modules': '(a|a.|b.*)*(.+)+X'},
        'of ranks': {'target_modules': ['fc'], 'rank_pattern': {'(x+x+)+y': 3}},
        'of alphas': {'target_modules': ['fc'], 'alpha_pattern': {'(.*.*.*.*.*)*X': 3}},
        'of blocks': LAYERS | {'layers_pattern': '(.*)*(.*)*X'},
    }
)
def test_an_expression_takes_no_longer_than_the_name_is_long(row, tmp_path):
    (tmp_path / 'adapter_config.json').write_text(json.dumps({'peft_type': 'LORA', **row}))
    config, module = read_config(tmp_path / 'adapter_config.json'), f'{"x" * 3000}.1.fc'
    with promptly():
        config.adapts(module)
        config.scale_of(module)


# What is refused.


@pytest.fixture
def saved(tmp_path):
    """A folder of adapters and a head, and what they are for."""
    model, base, format = made('vit hf')
    params = adapted(base, '**/fc1/w', rank=2).unfreeze('vit/head/*')
    export_peft(tmp_path, model, params, format)
    return tmp_path, model, base


@table(
    {
        'DoRA': {'use_dora': True},
        'a bias of its own': {'lora_bias': True},
        'trained biases': {'bias': 'lora_only'},
        'another method': {'peft_type': 'LOHA'},
        'no method': {'peft_type': None},
        'a start that changes the base': {'init_lora_weights': 'pissa_niter_4'},
        'another such start': {'init_lora_weights': 'olora'},
        'replicated layers': {'layer_replication': [[0, 1], [0, 1]]},
        'single tokens': {'trainable_token_indices': [3]},
        'bare parameters': {'target_parameters': ['x']},
        'what is not known': {'some_new_field': 3},
        'no targets': {'target_modules': None},
        'a shorthand': {'target_modules': 'all-linear'},
        'no expression': {'target_modules': '(fc1'},
        'no pattern': {'rank_pattern': {'*': 2}},
        'a rank of 0': {'r': 0},
        'a rank beyond memory': {'r': 2**62},
        'a rank that is none': {'r': 'two'},
        'a rank of a half': {'rank_pattern': {'fc1': 0.5}},
        'an alpha of too many digits': {'lora_alpha': '9' * 400},
        'an alpha that is off': {'lora_alpha': False},
        'an alpha of words': {'alpha_pattern': {'fc1': 'much'}},
        'an alpha beyond float32': {'lora_alpha': 1e39},
        'another such alpha': {'alpha_pattern': {'fc1': -(10**50)}},
        'a look ahead': {'target_modules': '(?!x).*fc1'},
        'a reference back': {'exclude_modules': r'(a)\1'},
        'a pattern beyond memory': {'rank_pattern': {'((((a{99}){99}){99}){99})': 2}},
        'a target that is no name': {'target_modules': [1]},
    }
)
def test_configs_of_other_functions_are_refused_by_name(row, saved):
    folder, model, base = saved
    set_config(folder, **row)
    with pytest.raises(bx.CheckpointError, match=r'adapter_config\.json') as caught:
        import_peft(folder, model, base)
    (name,) = row
    assert re.search(rf'\b{name}\b', str(caught.value))


@table(
    {
        'off': {'use_dora': False, 'lora_bias': None, 'some_new_field': [], 'eva_config': {}},
        'of training': {'lora_dropout': 0.1, 'inference_mode': False, 'task_type': 'SEQ_CLS'},
        'of its start': {'init_lora_weights': 'gaussian', 'fan_in_fan_out': True},
        'heads of other names': {'modules_to_save': ['classifier', 'score']},
    }
)
def test_fields_that_change_nothing_are_passed_over(row, saved):
    folder, model, base = saved
    expected = import_peft(folder, model, base)
    set_config(folder, **row)
    assert_same(import_peft(folder, model, base), expected)


def test_every_name_that_is_wrong_is_in_one_error(saved):
    folder, model, base = saved
    layer = 'base_model.model.vit.layers.0.mlp.fc'
    tensors = tensors_of(folder)
    tensors[f'{layer}1.lora_B.weight'] = tensors[f'{layer}1.lora_B.weight'][:, :1]
    tensors['base_model.model.classifier.bias'] = np.zeros(3, np.int32)
    tensors[f'{layer}2.lora_A.weight'] = tensors.pop(f'{layer}1.lora_A.weight')
    set_tensors(folder, tensors)
    with pytest.raises(bx.CheckpointError) as caught:
        import_peft(folder, model, base)
    for clause in (
        'adapter_model.safetensors',
        f'{layer}1.lora_A.weight: missing',
        f"'{layer}2.lora_A.weight': unexpected",
        f'{layer}1.lora_B.weight: expected shape (12, 2), found (12, 1)',
        'classifier.bias: expected a floating-point dtype of 16 bits or more, found int32',
    ):
        assert clause in str(caught.value)


@table(
    {
        'without what it targets': ({'target_modules': ['fc1', 'q_proj']}, 'q_proj.*: missing'),
        'with what it does not': ({'target_modules': ['layers.0.mlp.fc1']}, '1.mlp.*: unexpected'),
        'of one block': ({'layers_to_transform': 0, 'target_modules': ['fc1']}, '1.mlp.*: unexp'),
        'of other ranks': ({'rank_pattern': {'0.mlp.fc1': 3}}, r'shape \(3, 8\), found \(2, 8\)'),
        'with a head it does not save': ({'modules_to_save': None}, "classifier.bias': unexpected"),
    }
)
def test_files_that_their_config_does_not_speak_of_are_refused(row, saved):
    folder, model, base = saved
    fields, message = row
    set_config(folder, **fields)
    with pytest.raises(bx.CheckpointError, match=message):
        import_peft(folder, model, base)


@table(
    {
        'of live modules before version 5': ('vit hf', NAMES, r'vit\.encoder.*(query|value)'),
        'of live modules of version 5': ('vit hf', {}, r'vit\.layers.*(q|v)_proj'),
        'of a model around it': (
            'bert hf',
            {'encoder.layer': 'bert.encoder.layer'},
            r'bert\.encoder.*(query|value)',
        ),
    }
)
def test_what_is_targeted_is_missed_in_any_spelling(row, tmp_path):
    name, names, targets = row
    model, base, format = made(name)
    export_peft(tmp_path, model, adapted(base, '**/qkv/w', parts='q'), format)
    set_tensors(tmp_path, {renamed(key, names): x for key, x in tensors_of(tmp_path).items()})
    set_config(tmp_path, target_modules=targets)
    with pytest.raises(bx.CheckpointError, match=rf'{targets[:9]}\S*v\w+\.lora_A\.weight: missing'):
        import_peft(tmp_path, model, base)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value, saved):
    folder, model, base = saved
    tensors = tensors_of(folder)
    tensors['base_model.model.vit.layers.0.mlp.fc1.lora_B.weight'][0] = value
    set_tensors(folder, tensors)
    with pytest.raises(bx.CheckpointError, match=r'0\.mlp\.fc1\.lora_B.*finite'):
        import_peft(folder, model, base)


@table(
    {
        'no config': ('adapter_config.json', None),
        'no weights': ('adapter_model.safetensors', None),
        'a config that is none': ('adapter_config.json', b'[]'),
        'a config with NaN': ('adapter_config.json', b'{"lora_alpha": NaN}'),
        'a config of a number without end': (
            'adapter_config.json',
            b'{"lora_alpha": 1' + b'0' * 400 + b'}',
        ),
        'weights that are a page': ('adapter_model.safetensors', b'<html>no</html>'),
    }
)
def test_folders_that_are_malformed_are_refused(row, saved):
    folder, model, base = saved
    name, content = row
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(bx.CheckpointError, match=name.partition('.')[0]):
        import_peft(folder, model, base)


def test_what_a_head_is_tied_to_is_not_taken_whole(tmp_path):
    model, base, format = made('gpt2 hf')
    export_peft(tmp_path, model, adapted(base, '**/fc1/w'), format)
    set_config(tmp_path, modules_to_save=['wte'])
    w = np.asarray(base['gpt2/token_embed/w'].value)
    key = 'base_model.model.transformer.wte.weight'
    set_tensors(tmp_path, tensors_of(tmp_path) | {key: w})
    with pytest.raises(bx.CheckpointError, match=r'token_embed/w.*lm_head is tied'):
        import_peft(tmp_path, model, base)
    with pytest.raises(ValueError, match=r'token_embed/w.*lm_head is tied'):
        export_peft(tmp_path, model, adapted(base, '**/fc1/w').unfreeze('**/token_embed/w'), format)


def test_params_that_are_adapted_or_of_another_size_take_no_others(saved):
    folder, model, base = saved
    with pytest.raises(ValueError, match='merge_lora'):
        import_peft(folder, model, import_peft(folder, model, base))
    wrong = base.set('vit/block0/mlp/fc1/w', np.zeros((8, 4), np.float32), strict=False)
    with pytest.raises(ValueError, match=r'fc1/w.*expected \(8, 12\), found \(8, 4\)'):
        import_peft(folder, model, wrong)


@table(
    {
        'a bare parameter': ('vit hf', 'vit/pos_embed', 'dense layers'),
        'what a head is tied to': ('gpt2 hf', '**/token_embed/w', 'lm_head is tied'),
    }
)
def test_weights_that_peft_adapts_otherwise_do_not_go_out(row, tmp_path):
    name, where, message = row
    model, base, format = made(name)
    with pytest.raises(ValueError, match=f'{where.strip("*")}.*{message}'):
        export_peft(tmp_path, model, adapted(base, where), format)
    assert not list(tmp_path.iterdir())


def test_grouped_convolutions_do_not_go_out_or_in(tmp_path):
    model, base = base_of(tiny('resnet', groups=2, group_width=32, widths=(4, 8, 8, 8)))
    with pytest.raises(ValueError, match=r'conv2/conv/w.*grouped'):
        export_peft(tmp_path, model, adapted(base, '**/conv2/**/w'), 'timm')
    export_peft(tmp_path, model, adapted(base, '**/conv1/**/w'), 'timm')
    set_config(tmp_path, target_modules=['conv2', 'layer1.0.conv1'])
    with pytest.raises(bx.CheckpointError, match=r'layer2\.1\.conv2: .*grouped'):
        import_peft(tmp_path, model, base)


@pytest.mark.parametrize(('name', 'value'), [('dilation', 2), ('padding_mode', 'reflect')])
def test_convolutions_that_peft_would_make_others_of_do_not_go_out(name, value, tmp_path):
    model, base = base_of(tiny('resnet'))
    setattr(dict(model.graph.walk())['resnet/stem/conv'], name, value)
    with pytest.raises(ValueError, match=r'stem/conv/w.*dilated'):
        export_peft(tmp_path, model, adapted(base, 'resnet/stem/conv/w'), 'timm')


@table(
    {
        'half of a module': ('vit/head/w', 'head/b.* is not'),
        'what is adapted': ('**/fc1/*', 'fc1/w.*is adapted'),
        'a bare parameter': ('vit/cls_token', 'cls_token.*no module'),
    }
)
def test_what_is_trainable_goes_out_by_whole_modules(row, tmp_path):
    where, message = row
    model, base, format = made('vit hf')
    with pytest.raises(ValueError, match=message):
        export_peft(tmp_path, model, adapted(base, '**/fc1/w').unfreeze(where), format)


def test_a_trained_stem_would_take_other_modules_along(tmp_path):
    model, base, format = made('resnet timm')
    params = adapted(base, '**/conv2/**/w').unfreeze('**/stem/conv/w')
    with pytest.raises(ValueError, match=r'save conv1 without layer1\.0\.conv1'):
        export_peft(tmp_path, model, params, format)


def test_thirds_of_two_scales_are_no_one_module(tmp_path):
    model, base, format = made('gpt2 hf')
    params = adapted(base, '**/qkv/w', parts='q')
    other, _ = adapted(base, '**/qkv/w', parts='v', alpha=3.0).partition('**/*_lora_*')
    with pytest.raises(ValueError, match=r'qkv/w.*scales 2\.0, 0\.375'):
        export_peft(tmp_path, model, params.merge(other), format)


def test_params_and_formats_that_there_are_not_do_not_go_out(tmp_path):
    model, base, format = made('gpt2 hf')
    with pytest.raises(ValueError, match=r'bx\.lora'):
        export_peft(tmp_path, model, base, format)
    with pytest.raises(ValueError, match="goes out as hf, not 'timm'"):
        export_peft(tmp_path, model, adapted(base, '**/fc1/w'), 'timm')
    _, other_base, _ = made('vit hf')
    with pytest.raises(ValueError, match='has no vit/block0/mlp/fc1/w'):
        export_peft(tmp_path, model, base.merge(adapted(other_base, '**/fc1/w')), format)


@pytest.mark.parametrize('rank', [1, 3, 7, 49, 64])
def test_any_scale_is_written_to_the_last_bit(rank, tmp_path):
    for alpha in (1, 16, 0.1, 2 / 3, 5 / np.sqrt(3)):
        fields = config_fields({'x': (rank, alpha / rank)}, [], ['x']) | {'peft_type': 'LORA'}
        (tmp_path / 'adapter_config.json').write_text(json.dumps(fields))
        assert read_config(tmp_path / 'adapter_config.json').scale_of('x') == alpha / rank
