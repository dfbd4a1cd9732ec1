"""Fine-tuning: what is trained and what is not, the best epoch, the end."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from commands import write_model
from helpers import EXAMPLES, example, table
from PIL import Image
from trainings import (
    PARAMS,
    finetune,
    in_step,
    moved,
    not_a_number,
    shades,
    tiny,
    values,
)

import blox as bx
from blox.zoo.training.state import Epoch, best_of
from blox.zoo.training.step import measure

CARD = bx.zoo.Card('base', 'resnet', tiny().config, 'image-classification')

# What is trained.


def test_it_learns_and_says_how_well():
    params, history = finetune(epochs=6)
    assert [row.epoch for row in history] == [1, 2, 3, 4, 5, 6]
    assert [row.step for row in history] == [3, 6, 9, 12, 15, 18]
    assert history[-1].held_out_accuracy == 1
    assert history[-1].loss < history[0].loss / 2
    assert params['resnet/head/w'].trainable


@pytest.mark.parametrize('freeze_statistics', [True, False])
def test_frozen_parameters_stay_bit_for_bit(freeze_statistics):
    frozen = ['resnet/stem/**', '**/conv1/**']
    start = PARAMS.freeze(frozen)
    params, _ = finetune(params=start, freeze_statistics=freeze_statistics)
    trainable = set(start.split_trainable()[0])
    _, rest = start.partition(frozen) if freeze_statistics else (None, start)
    statistics = {
        path for path, param in rest.items() if param.metadata.get('tag') == 'batch_stats'
    }
    assert moved(start, params) == trainable | statistics


def test_a_head_alone_is_trained_on_what_evaluation_shows_it():
    start = PARAMS.freeze().unfreeze('resnet/head/*')
    params, _ = finetune(params=start)
    assert moved(start, params) == {'resnet/head/w', 'resnet/head/b'}


def test_computing_in_bfloat16_keeps_float32_parameters():
    params, history = finetune(dtype='bfloat16', epochs=6)
    assert {param.dtype for path, param in params.items() if path != 'rng'} == {np.dtype('float32')}
    assert history[-1].held_out_accuracy == 1
    assert history != finetune(epochs=6)[1]


# The best epoch.


def ranking_classifier():
    """A model of three classes that finds 0 the likeliest, then 1, and 2 next to impossible."""
    model = tiny(3)
    params = bx.zoo.init(model).set('resnet/head/b', np.array([4, 3, -8], np.float32))
    return model, params.set('resnet/head/w', np.zeros((8, 3), np.float32))


def ranking_text_model():
    """A model of three tokens that says of them what the classifier says of its classes."""
    sizes = {'vocab_size': 3, 'context': 4, 'width': 8, 'mlp_dim': 8, 'depth': 1, 'heads': 2}
    model = bx.zoo.create('gpt2', **sizes)
    params = bx.zoo.init(model)
    embeddings = np.outer([4, 3, -8], np.eye(8)[0]).astype(np.float32)
    params = params.set('gpt2/token_embed/w', embeddings)
    params = params.set('gpt2/norm/offset', np.eye(8, dtype=np.float32)[0])
    return model, params.set('gpt2/norm/scale', np.zeros(8, np.float32))


UNSURE, HALF_WRONG, HALF_UNSURE = [1] * 8, [0] * 4 + [2] * 4, [0] * 4 + [1] * 4
CLASSES, TEXT = (ranking_classifier, tuple('abc'), (8, 8, 1), ()), (ranking_text_model, (), 4, 4)


@table(
    {
        'by accuracy': (CLASSES, [UNSURE, HALF_WRONG, UNSURE], 2),
        'then by loss': (CLASSES, [HALF_WRONG, HALF_UNSURE, HALF_WRONG], 2),
        'text by loss': (TEXT, [HALF_WRONG, UNSURE, HALF_WRONG], 2),
        'the first': (CLASSES, [HALF_UNSURE, UNSURE, HALF_WRONG], 1),
    }
)
def test_the_best_epoch_is_kept(row):
    (make, labels, inputs, targets), truths, best = row
    model, params = make()
    ended = []

    def read(i, rng):
        kind = np.float32 if labels else np.int32
        truth = truths[len(ended)][i] if rng is None else i % 2
        return np.zeros(inputs, kind), np.full(targets, truth, np.int32)

    data = bx.zoo.Data(range(24), range(8), read, labels)
    params, history = finetune(model=model, params=params, data=data, on_epoch=ended.append)

    def loss(truth):
        pairs = (np.broadcast_to(read(0, True)[0], (8, *np.shape(read(0, True)[0]))), None)
        found = np.stack([np.full(targets, x, np.int32) for x in truth])
        return measure(model, params, [(np.asarray(pairs[0]), found)])[0]

    same = [loss(truth) == row.held_out_loss for truth, row in zip(truths, history)]
    assert same == [row.epoch == best for row in history]


@table(
    {
        'accuracy': ('accuracy', [0.5, 0.9, 0.9], [1, 3, 2], 3),
        'loss': ('loss', [3, 1, 2], [3, 1, 2], 2),
        'macro_f1': ('macro_f1', [0.2, 0.5, 0.4], [1, 9, 1], 2),
    }
)
def test_the_best_has_the_best_score_then_the_lowest_loss(row):
    choose_by, scores, losses, best = row
    history = [
        Epoch(i, i, 0.0, 0.0, float(loss), 0.0, float(score))
        for i, (score, loss) in enumerate(zip(scores, losses), 1)
    ]
    assert best_of(history, choose_by).epoch == best


def test_scores_by_class_choose_and_are_in_the_history():
    _, history = finetune(choose_by='balanced_accuracy', learning_rate=1e-3)
    assert all(row.score == pytest.approx(row.held_out_accuracy) for row in history)


def test_patience_ends_it_and_an_interruption_does_not_undo_that(tmp_path):
    options = {'epochs': 20, 'patience': 2, 'choose_by': 'accuracy', 'data': shades(held_out=2)}
    _, history = finetune(**options)
    assert len(history) < 20
    assert len(history) == best_of(history, 'accuracy').epoch + 2
    _, whole = finetune(**{**options, 'patience': 0})
    # What comes after has no part in what came before.
    assert history == whole[: len(history)]


def test_an_average_is_what_is_measured_and_returned():
    options = {'epochs': 4, 'learning_rate': 0.05}
    plain, history = finetune(**options)
    averaged, of_average = finetune(**options, ema=0.9)
    # The average takes no part in the steps.
    assert [row.loss for row in history] == [row.loss for row in of_average]
    assert moved(plain, averaged) == {path for path in averaged if path != 'rng'}
    decays = [min(0.9, (1 + n) / (10 + n)) for n in range(3)]
    states = [finetune(**options, ema=decay)[0] for decay in (0.0, 0.9)]
    assert decays[0] == 0.1
    assert moved(*states)


def test_smoothed_and_weighted_losses_are_trained_by_and_not_measured_by():
    choices: list[dict[str, Any]] = [
        {},
        {'label_smoothing': 0.5},
        {'class_weights': (1.0, 5.0)},
        {'mixup': 1.0},
        {'cutmix': 1.0},
    ]
    rows = [finetune(epochs=1, **options)[1][0] for options in choices]
    assert len({row.loss for row in rows}) == 5
    assert all(abs(row.held_out_loss - rows[0].held_out_loss) < 0.5 for row in rows)


def test_images_alone_are_mixed(tmp_path):
    file = write_model(tmp_path / 'base.safetensors', context=16)
    (tmp_path / 'a.csv').write_text('text,label\n' + 'a,x\nb,y\n' * 4)
    prepare, config = bx.zoo.text_preprocessor(file), bx.zoo.read_card(file).config
    data = bx.zoo.text_table(tmp_path / 'a.csv', prepare, config)
    model, params, _ = bx.zoo.load_for_classes(file, data.labels, task='text-classification')
    with pytest.raises(ValueError, match='mixup and cutmix are of images'):
        finetune(model=model, params=params, data=data, mixup=0.5)


@pytest.mark.parametrize('schedule', ['linear', 'constant'])
def test_schedules_change_what_is_learned(schedule):
    assert moved(finetune()[0], finetune(schedule=schedule)[0])


# The end.


def test_a_loss_that_is_not_finite_ends_it_with_the_best_before(tmp_path):
    data = in_step({20: not_a_number})
    with pytest.raises(
        ValueError, match=r"not finite .*: '.*m.safetensors' is the best before, of epoch [1-6];"
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
    'schedule': ({'schedule': 'up'}, 'schedule one of cosine, linear, constant, found'),
    'warmup': ({'warmup': 1.0}, 'a share of the steps below 1, found 1'),
    'ema': ({'ema': 1.0}, 'ema a decay, 0 or more and below 1, found 1'),
    'smoothing': ({'label_smoothing': -0.1}, 'label_smoothing a number, 0 or more'),
    'weights': ({'class_weights': (1.0,)}, 'class_weights of 2 classes'),
    'weights by name': ({'class_weights': 'fair'}, "numbers or 'balanced'"),
    'no counts': ({'class_weights': 'balanced'}, 'found no counts'),
    'half an epoch': ({'epochs': 1.5}, 'expected positive epochs'),
    'half a patience': ({'patience': 0.5}, 'patience a whole number'),
    'no weight': ({'class_weights': (0, 0)}, 'not all 0'),
    'no image': ({'data': dataclasses.replace(shades(), show=lambda i: 7)}, 'found int'),
    'no such score': ({'choose_by': 'f1'}, 'choose_by one of accuracy, loss, balanced_accuracy'),
    'other scores': (
        {'data': dataclasses.replace(shades(), scores='sigmoid'), 'card': CARD},
        "found 'softmax'",
    ),
    'seed': ({'seed': 2**32}, r'a seed below 2\*\*32'),
    'suffix': ({'out': 'm.bin'}, r"ends in '.safetensors', found 'm.bin'"),
}


@table(WRONG)
def test_what_cannot_work_is_refused_at_once(row):
    options, message = row
    with pytest.raises(ValueError, match=message):
        finetune(**options)


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
    pretrained = digits.pretrain(tmp_path, model, epochs=14)
    methods = ('from scratch', 'fine-tuned')
    # Of one draw of images alone, the last bits of a processor's rounding decide too much.
    found = [digits.compare(model, pretrained, seed, methods, epochs=5) for seed in range(3)]
    scratch, tuned = (np.mean([row[method] for row in found]) for method in methods)
    assert tuned > scratch + 0.1


def test_the_images_to_measure_with_are_all_that_are_not_trained_on(digits, tmp_path):
    data, images, labels = digits.draw(tmp_path, 0)
    used = {np.asarray(Image.open(file)).tobytes() for file, _ in (*data.training, *data.held_out)}
    assert len(data.training) + len(data.held_out) == 100
    assert len(labels) == 896 - 100
    assert not used & {image.tobytes() for image in images}


def test_blocks_under_one_scan_are_tuned_and_saved_as_those_of_a_loop(tmp_path):
    sizes = {'patch_size': 4, 'width': 8, 'depth': 3, 'heads': 2, 'mlp_dim': 16, 'image_size': 8}
    losses = []
    for scan in (False, True):
        model = bx.zoo.create('vit-ti16', **sizes, in_channels=1, num_classes=2, scan=scan)
        out = tmp_path / f'{scan}.safetensors'
        tuned, history = finetune(out, model=model, params=bx.zoo.init(model))
        assert ('vit/block*/mlp/fc1/w' in list(tuned)) == scan
        losses.append([row.loss for row in history])
        loaded, params = bx.zoo.load(out)
        assert not loaded.config.scan
        assert bx.zoo.diff(params, tuned).same
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
