"""Fine-tuning: what is trained and what is not, going on after an interruption, the files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import write_model
from helpers import EXAMPLES, GRAY, example, table
from PIL import Image

import blox as bx
from blox.tensorfile import TensorFile
from blox.zoo.training import finetune as finetuning
from blox.zoo.training import resuming
from blox.zoo.training import step as training

CLASSES = ('dark', 'light')


def tiny(num_classes=2, **overrides):
    sizes = {'depths': (1,), 'widths': (8,), 'stem': 'small', 'stem_width': 8, **overrides}
    return bx.zoo.create('resnet18', **sizes, image_size=8, in_channels=1, num_classes=num_classes)


MODEL = tiny()
PARAMS = bx.zoo.init(MODEL)


def shades(count=24, held_out=8):
    """Dark and light images with noise, in memory."""

    def read(i, rng):
        noise = np.random.default_rng(i).normal(size=(8, 8, 1))
        return np.asarray(noise + 2 * (i % 2) - 1, np.float32), np.asarray(i % 2, np.int32)

    return bx.zoo.Data(range(count), range(1000, 1000 + held_out), read, CLASSES, 'shades')


def finetune(out=None, *, model=MODEL, params=None, data=None, **options):
    params = PARAMS if params is None else params
    options = {'epochs': 3, 'batch_size': 8, 'learning_rate': 1e-2, **options}
    return bx.zoo.finetune(model, params, data or shades(), out=out, **options)


def values(params):
    return {path: np.asarray(param.value) for path, param in params.items() if path != 'rng'}


def moved(before, after):
    """Paths whose values changed."""
    after = values(after)
    return {
        path for path, value in values(before).items() if not np.array_equal(value, after[path])
    }


# What is trained.


def test_it_learns_and_says_how_well():
    params, history = finetune(epochs=6)
    assert [row.epoch for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row.step for row in history] == [3, 6, 9, 12, 15, 18]
    assert history[-1].held_out_accuracy == 1
    assert history[-1].loss < history[0].loss / 2
    assert params['resnet/head/w'].trainable


def test_frozen_parameters_stay_bit_for_bit():
    start = PARAMS.freeze(['resnet/stem/**', '**/conv1/**'])
    params, _ = finetune(params=start)
    trainable = set(start.split_trainable()[0])
    statistics = {
        path for path, param in start.items() if param.metadata.get('tag') == 'batch_stats'
    }
    assert moved(start, params) == trainable | statistics


def test_a_head_alone_is_trained_on_what_evaluation_shows_it():
    start = PARAMS.freeze().unfreeze('resnet/head/*')
    params, _ = finetune(params=start)
    assert moved(start, params) == {'resnet/head/w', 'resnet/head/b'}


def lowered_step(params):
    """The state before a step, and the step's program as JAX hands it to the compiler."""
    optimizer = training.adamw(1e-3, 10, 0.1)
    trainable, stats, frozen = training.divide(params)
    state = training.start(trainable, stats, optimizer)
    batch = jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, jnp.int32), np.uint32(0)
    step = training.train_step.lower(MODEL, optimizer, state, frozen, *batch, is_training=False)
    return state, step.as_text().count('stablehlo.convolution')


def test_frozen_parameters_have_no_optimizer_state_and_no_gradient_in_the_program():
    forward = jax.jit(MODEL).lower(PARAMS, jnp.zeros((4, 8, 8, 1))).as_text()
    forward = forward.count('stablehlo.convolution')
    whole, whole_convolutions = lowered_step(PARAMS)
    head, head_convolutions = lowered_step(PARAMS.freeze().unfreeze('resnet/head/*'))
    whole, head = ([leaf.size for leaf in jax.tree.leaves(x.optimizer)] for x in (whole, head))
    assert whole_convolutions > 2 * forward
    assert head_convolutions == forward > 0
    # Two moments of a weight [8, 2] and its bias, and counters.
    assert sum(size for size in head if size > 1) == 2 * (16 + 2)
    assert sum(whole) > 1000


def test_what_is_dropped_depends_on_the_step():
    model, optimizer = tiny(depths=(2,), drop_path_rate=0.9), training.adamw(1e-3, 10, 0.1)
    params = bx.zoo.init(model).unfreeze()
    trainable, stats, frozen = training.divide(params)
    state = training.start(trainable, stats, optimizer)
    inputs, targets = map(np.stack, zip(*(shades().read(i, None) for i in range(8))))
    losses = [
        float(training.train_step(model, optimizer, state, frozen, inputs, targets, step).totals[0])
        for step in np.arange(5, dtype=np.uint32)[[0, 0, 1, 2, 3, 4]]
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) > 2


def test_each_step_knows_its_number(monkeypatch):
    original, numbers = training.train_step, []

    def spy(*args, **extra):
        numbers.append(int(args[-1]))
        return original(*args, **extra)

    monkeypatch.setattr(training, 'train_step', spy)
    finetune()
    assert numbers == list(range(9))


def test_vectors_do_not_decay():
    optimizer = training.adamw(1.0, 1, 0.5)
    params = bx.Params.from_entries({'w': jnp.ones((2, 2)), 'b': jnp.ones(2)})
    zeros = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion('standard'):
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert updates['b'].value.tolist() == [0, 0]
    np.testing.assert_allclose(updates['w'].value, -0.5)


def test_losses_are_those_of_optax_and_ignored_targets_do_not_count():
    rng = np.random.default_rng(0)
    logits, targets = (
        jnp.asarray(rng.normal(size=(3, 5, 7)), jnp.float32),
        rng.integers(0, 7, (3, 5)),
    )
    targets[0, 2:] = -1
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(abs(targets)))
    counts = targets >= 0
    found = training.measures(logits, jnp.asarray(targets))
    right = (logits.argmax(-1) == targets)[counts].mean()
    np.testing.assert_allclose(found, [losses[counts].mean(), right, counts.sum()], rtol=1e-6)


def test_computing_in_bfloat16_keeps_float32_parameters():
    params, history = finetune(dtype='bfloat16', epochs=6)
    assert {param.dtype for path, param in params.items() if path != 'rng'} == {np.dtype('float32')}
    assert history[-1].held_out_accuracy == 1
    assert history != finetune(epochs=6)[1]


@pytest.mark.parametrize(
    ('measured', 'labels', 'best'),
    [
        ([(0.1, 0.5), (0.3, 0.9), (0.2, 0.8)], CLASSES, 1),
        ([(0.3, 0.9), (0.2, 0.9), (0.2, 0.9)], CLASSES, 1),
        ([(0.3, 0.5), (0.1, 0.4), (0.2, 0.9)], (), 1),
    ],
    ids=['by accuracy', 'then by loss', 'text by loss'],
)
def test_the_best_epoch_is_kept(monkeypatch, measured, labels, best):
    states, script = [], iter(measured)
    monkeypatch.setattr(training, 'measure', lambda *args: states.append(args[1]) or next(script))
    monkeypatch.setattr(finetuning, '_check', lambda *args: None)
    params, _ = finetune(data=dataclasses.replace(shades(), labels=labels))
    kept = [not moved(state.trainable, params) for state in states]
    assert kept == [i == best for i in range(3)]


# Going on.


def interrupted(out, at, **options):
    """A training that something ends in its `at`th step."""
    original, steps = training.train_step, iter(range(1, 100))

    def step(*args, **extra):
        if next(steps) == at:
            raise KeyboardInterrupt
        return original(*args, **extra)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, 'train_step', step)
        with pytest.raises(KeyboardInterrupt):
            finetune(out, **options)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('at', [1, 2, 4, 9])
@pytest.mark.parametrize('adapted', [False, True])
def test_what_was_interrupted_goes_on_to_the_very_same_files(tmp_path, at, adapted):
    params = PARAMS
    params = bx.lora(params, '**/block*/**/w').unfreeze('**/head/*') if adapted else params
    for name in ('whole', 'parts'):
        (tmp_path / name).mkdir()
    _, history = finetune(tmp_path / 'whole' / 'm.safetensors', params=params)
    interrupted(tmp_path / 'parts' / 'm.safetensors', at, params=params)
    kept = [path.name for path in (tmp_path / 'parts').iterdir()]
    assert kept == (['m.training'] if at > 1 else [])
    _, again = finetune(tmp_path / 'parts' / 'm.safetensors', params=params)
    assert files(tmp_path / 'parts') == files(tmp_path / 'whole')
    assert again == history


def test_steps_are_not_taken_twice(tmp_path):
    taken = []
    interrupted(tmp_path / 'm.safetensors', 8, on_epoch=taken.append)
    finetune(tmp_path / 'm.safetensors', on_epoch=taken.append)
    assert [row.epoch for row in taken] == [1, 2, 3]


def test_a_training_that_ended_while_it_wrote_its_result_writes_it_anew(tmp_path, monkeypatch):
    finetune(tmp_path / 'm.safetensors')
    expected = files(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(resuming.Folder, 'remove', lambda self: None)
        finetune(tmp_path / 'm.safetensors')
    (tmp_path / 'm.png').unlink()
    finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path) == expected


OTHERS = {
    'epochs': ({'epochs': 4}, 'epochs 4, found 3'),
    'rate': ({'learning_rate': 0.5}, 'learning rate 0.5, found 0.01'),
    'seed': ({'seed': 1}, 'seed 1, found 0'),
    'dtype': ({'dtype': 'bfloat16'}, 'dtype bfloat16, found'),
    'data': (
        {'data': dataclasses.replace(shades(), fingerprint='others')},
        'data others, found shades',
    ),
    'frozen': ({'params': PARAMS.freeze('**/stem/**')}, 'weights'),
}


@pytest.fixture(scope='module')
def half_done(tmp_path_factory):
    out = tmp_path_factory.mktemp('half') / 'm.safetensors'
    interrupted(out, 5)
    return out


@table(OTHERS)
def test_another_training_does_not_go_on_from_this_one(half_done, row):
    options, message = row
    with pytest.raises(
        ValueError, match=f"m.training' is of another training: expected.*{message}"
    ):
        finetune(half_done, **options)


def test_a_state_of_other_shapes_is_refused(half_done, tmp_path):
    folder = half_done.with_suffix('.training')
    saved = folder / 'state.safetensors'
    header = TensorFile(saved).metadata
    (tmp_path / 'm.training').mkdir()
    params = bx.load(saved).partition(lambda path, _: 'mean' not in path)[0]
    about = {'blox.training': header['blox.training']}
    bx.save(tmp_path / 'm.training' / 'state.safetensors', params, about)
    with pytest.raises(bx.CheckpointError, match='do not fit the training'):
        finetune(tmp_path / 'm.safetensors')


@table(
    {
        'nothing': (lambda about: about.clear(), 'expected what a training keeps, found {}'),
        'no history': (lambda about: about.pop('history'), 'what a training keeps'),
        'rows': (lambda about: about.update(history=[[1, 2]]), 'what a training keeps'),
        'step': (lambda about: about.update(step='5'), 'what a training keeps'),
        'best': (lambda about: about.update(best_epoch=9), 'what a training keeps'),
    }
)
def test_a_state_that_says_nonsense_is_refused(half_done, tmp_path, row):
    spoil, message = row
    saved = half_done.with_suffix('.training') / 'state.safetensors'
    about = json.loads(TensorFile(saved).metadata['blox.training'])
    spoil(about)
    (tmp_path / 'm.training').mkdir()
    state = tmp_path / 'm.training' / 'state.safetensors'
    bx.save(state, bx.load(saved), {'blox.training': json.dumps(about)})
    with pytest.raises(bx.CheckpointError, match=message):
        finetune(tmp_path / 'm.safetensors')


def test_a_state_that_is_not_finite_takes_no_good_ones_place(tmp_path):
    folder = resuming.Folder(tmp_path / 'm.safetensors', {'seed': '0'})
    trainable = bx.Params.from_entries({'w': jnp.ones(3)})
    state = training.State(trainable, bx.Params(), (), jnp.ones(3))
    folder.keep(resuming.Position(1, state))
    bad = state._replace(totals=jnp.full(3, jnp.nan))
    with pytest.raises(resuming.DivergedError):
        folder.keep(resuming.Position(2, bad))
    assert folder.restore(resuming.Position(0, state)).step == 1


def test_two_trainings_do_not_write_one_file(tmp_path):
    def second(row):
        with pytest.raises(FileExistsError, match='a training that goes on elsewhere'):
            finetune(tmp_path / 'm.safetensors', seed=1)

    finetune(tmp_path / 'm.safetensors', on_epoch=second)
    assert 'seed 0' in bx.zoo.read_card(tmp_path / 'm.safetensors').training
    assert not (tmp_path / 'm.training').exists()


def test_files_of_others_in_the_folder_stay(tmp_path):
    interrupted(tmp_path / 'm.safetensors', 5)
    (tmp_path / 'm.training' / 'notes.txt').write_text('mine')
    finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path / 'm.training') == {'notes.txt': b'mine'}


@pytest.mark.parametrize('name', ['m.safetensors', 'm.csv', 'm.png'])
def test_no_file_of_others_is_replaced(tmp_path, name):
    (tmp_path / name).write_text('mine')
    with pytest.raises(FileExistsError, match='is there already'):
        finetune(tmp_path / 'm.safetensors')
    assert files(tmp_path) == {name: b'mine'}


# The end.


def test_a_loss_that_is_not_finite_ends_it_with_the_best_before(tmp_path):
    good, count = shades(), [0]

    def read(i, rng):
        count[0] += rng is not None
        image, label = good.read(i, rng)
        return image + np.float32(np.nan if count[0] > 120 else 0), label

    data = dataclasses.replace(good, read=read)
    with pytest.raises(
        ValueError, match=r"not finite .*: '.*m.safetensors' is the best before, of epoch"
    ):
        finetune(tmp_path / 'm.safetensors', data=data, epochs=9)
    _, params = bx.zoo.load(tmp_path / 'm.safetensors')
    assert all(np.isfinite(value).all() for value in values(params).values())
    assert not (tmp_path / 'm.training').exists()


def test_a_loss_that_is_not_finite_from_the_start_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='try a learning rate below 1e\\+30'):
        finetune(tmp_path / 'm.safetensors', learning_rate=1e30)
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_in_one_line_and_what_was_done_is_kept(tmp_path):
    def exhausted(row):
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.')

    with pytest.raises(MemoryError, match='batches of 8: try smaller ones'):
        finetune(tmp_path / 'm.safetensors', on_epoch=exhausted)
    assert (tmp_path / 'm.training' / 'state.safetensors').exists()


WRONG = {
    'classes': ({'model': tiny(3)}, 'expected a model of 2 classes, found 3'),
    'task': ({'data': dataclasses.replace(shades(), labels=())}, 'are for text-generation'),
    'nothing to train': ({'params': PARAMS.freeze()}, 'parameters to train'),
    'nothing held out': ({'data': shades(held_out=0)}, 'others to measure with'),
    'no epochs': ({'epochs': 0}, 'expected positive epochs'),
    'no rate': ({'learning_rate': float('nan')}, 'expected positive epochs'),
    'seed': ({'seed': 2**32}, r'a seed below 2\*\*32'),
    'suffix': ({'out': 'm.bin'}, r"ends in '.safetensors', found 'm.bin'"),
}


@table(WRONG)
def test_what_cannot_work_is_refused_at_once(row):
    options, message = row
    with pytest.raises(ValueError, match=message):
        finetune(**options)


# What comes out.


def test_the_file_is_the_models_whole_description(tmp_path):
    card = bx.zoo.Card('base', 'resnet', tiny().config, 'image-classification', preprocessor=GRAY)
    params, history = finetune(tmp_path / 'mine.safetensors', card=card)
    found = bx.zoo.read_card(tmp_path / 'mine.safetensors')
    best = max(history, key=lambda row: (row.held_out_accuracy, -row.held_out_loss))
    assert (found.name, found.labels, found.preprocessor) == ('mine', CLASSES, GRAY)
    assert found.changes == ('fine-tuned from base',)
    assert found.metrics['held_out_accuracy'] == round(best.held_out_accuracy, 4)
    assert f'epoch {best.epoch} is this' in found.training
    assert not moved(params, bx.zoo.load(tmp_path / 'mine.safetensors')[1])


def test_adapters_are_merged_and_saved_alone_too(tmp_path):
    base = PARAMS
    start = bx.lora(base, '**/block*/**/w', rank=2).unfreeze('**/head/*')
    params, _ = finetune(tmp_path / 'm.safetensors', params=start)
    model, merged = bx.zoo.load(tmp_path / 'm.safetensors')
    assert all(param.trainable or param.is_state for param in merged.values())
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 1)), jnp.float32)
    expected = model(params, images)[0]
    assert np.abs(expected - model(base, images)[0]).max() > 1e-2
    np.testing.assert_allclose(model(merged, images)[0], expected, atol=1e-5)
    alone = bx.load_lora(tmp_path / 'm.lora.safetensors', base)
    assert not moved(params, alone)


def test_the_curves_are_what_the_history_says(tmp_path):
    _, history = finetune(tmp_path / 'm.safetensors')
    names, *rows = (tmp_path / 'm.csv').read_text().splitlines()
    assert names == 'epoch,step,loss,accuracy,held_out_loss,held_out_accuracy'
    assert [tuple(map(float, row.split(','))) for row in rows] == list(history)
    with Image.open(tmp_path / 'm.png') as image:
        assert min(image.size) > 300
        assert len(np.unique(np.asarray(image))) > 50


def test_classes_that_are_as_many_but_others_get_a_fresh_head():
    stored = bx.zoo.load('vit-digits')[1]
    _, kept, _ = bx.zoo.load_for_classes('vit-digits', tuple('0123456789'))
    _, fresh, card = bx.zoo.load_for_classes('vit-digits', tuple('9876543210'))
    assert moved(stored, kept) == set()
    assert moved(stored, fresh) == {'vit/head/b', 'vit/head/w'}
    assert (card.labels, card.changes[0][:10]) == (tuple('9876543210'), 'vit/head/*')


def test_a_text_model_learns_a_text_and_keeps_its_tokenizer(tmp_path):
    file = write_model(tmp_path / 'base.safetensors', context=16)
    (tmp_path / 'a.txt').write_text('abcdefgh' * 100)
    tokenizer, (model, params) = bx.zoo.tokenizer(file), bx.zoo.load(file)
    data = bx.zoo.text_file(tmp_path / 'a.txt', tokenizer, 16, 257)
    _, history = bx.zoo.finetune(
        model,
        params,
        data,
        out=tmp_path / 'm.safetensors',
        card=bx.zoo.read_card(file),
        epochs=8,
        learning_rate=0.05,
    )
    assert history[-1].held_out_loss < 0.3 < 4 < history[0].loss
    assert bx.zoo.tokenizer(tmp_path / 'm.safetensors').to_str() == tokenizer.to_str()


# Real data.


@pytest.fixture
def digits(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return example('finetune_digits')


def test_a_network_that_knows_other_digits_learns_new_ones_better(digits, tmp_path):
    sizes = {'patch_size': 2, 'width': 32, 'depth': 2, 'heads': 2, 'mlp_dim': 64}
    model = bx.zoo.create('vit-ti16', **sizes, image_size=8, in_channels=1, num_classes=5)
    pretrained = digits.pretrain(tmp_path, model, epochs=20)
    methods = ('from scratch', 'fine-tuned')
    found = digits.compare(model, pretrained, 0, methods, epochs=5)
    assert found['fine-tuned'] > found['from scratch'] + 0.1


def test_the_images_to_measure_with_are_all_that_are_not_trained_on(digits, tmp_path):
    data, images, labels = digits.draw(tmp_path, 0)
    used = {np.asarray(Image.open(file)).tobytes() for file, _ in (*data.training, *data.held_out)}
    assert len(data.training) + len(data.held_out) == 100
    assert len(labels) == 896 - 100
    assert not used & {image.tobytes() for image in images}
