"""`blox finetune`, in this process and as one of its own."""

import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from commands import INTERRUPTIBLE, fails, misused, printed, write_encoder, write_model
from helpers import GRAY, opened, write_images

import blox as bx

QUICK = ('--epochs', 2, '--batch-size', 8)


def write_net(path):
    """A small classifier of other classes, with random weights."""
    sizes = {'depths': (1,), 'widths': (8,), 'stem': 'small', 'stem_width': 8}
    model = bx.zoo.create('resnet18', **sizes, image_size=8, in_channels=1, num_classes=2)
    card = bx.zoo.Card('net', '', model.config, '', preprocessor=GRAY, labels=('x', 'y'))
    bx.zoo.save(path, model, bx.zoo.init(model), card=card)
    return path


@pytest.fixture(scope='module')
def net(tmp_path_factory):
    return write_net(tmp_path_factory.mktemp('models') / 'net.safetensors')


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('data') / 'photos', {'cat': 12, 'dog': 12})


def test_it_trains_prints_and_writes_what_predict_reads(net, photos, tmp_path):
    out = tmp_path / 'mine.safetensors'
    lines = printed('finetune', net, photos, '--out', out, *QUICK).splitlines()
    assert lines[0] == 'photos: 24 images of 2 classes, 2 held out'
    assert [line.partition(':')[0] for line in lines[1:3]] == ['epoch 1', 'epoch 2']
    assert lines[3] == bx.zoo.read_card(out).training
    assert re.fullmatch(rf'{out}: held_out_accuracy [\d.]+, held_out_loss [\d.]+', lines[4])
    rows = printed('predict', out, photos).splitlines()
    assert len(rows) == 24
    assert {row.split()[1] for row in rows} <= {'cat', 'dog'}
    assert {path.name for path in tmp_path.iterdir()} == {
        'mine.csv',
        'mine.html',
        'mine.png',
        'mine.safetensors',
    }


@pytest.mark.parametrize('name', ['vit-digits', 'resnet-digits'])
def test_shipped_models_learn_other_classes(name, photos, tmp_path):
    out = tmp_path / 'mine.safetensors'
    options = ('--freeze', '*/[!h]*/**', '--epochs', 1)
    printed('finetune', name, photos, '--out', out, *options)
    stored, found = bx.zoo.load(name)[1], bx.zoo.load(out)[1]
    assert {
        path
        for path in found
        if path != 'rng' and not np.array_equal(stored[path].value, found[path].value)
    } == {path for path in found if '/head/' in path}
    assert bx.zoo.read_card(out).labels == ('cat', 'dog')


def test_options_reach_the_training(net, photos, tmp_path):
    options = {'--lora': (), '--rank': (3,), '--seed': (4,), '--dtype': ('bfloat16',)}
    options |= {'--learning-rate': (0.02,), '--holdout': (0.5,), '--flip': ()}
    given = [part for name, values in options.items() for part in (name, *values)]
    printed('finetune', net, photos, '--out', tmp_path / 'm.safetensors', *QUICK, *given)
    card, adapters = bx.zoo.read_card(tmp_path / 'm.safetensors'), tmp_path / 'm.lora.safetensors'
    assert 'learning rate 0.02, seed 4, computed in bfloat16' in card.training
    assert '12 held out' in card.data
    assert {p.shape[-1] for path, p in bx.load(adapters).items() if path.endswith('_a')} == {3}


def test_images_grow_and_the_last_block_alone_is_trained(photos, tmp_path):
    out = tmp_path / 'm.safetensors'
    options = ('--image-size', 10, '--tune-last', 0, '--rand-augment', 5, '--crop', 'resized')
    printed('finetune', 'vit-digits', photos, '--out', out, *QUICK, *options, '--mixup', 0.5)
    card = bx.zoo.read_card(out)
    assert card.config.image_size == bx.zoo.preprocessor(out).size == (10, 10)
    assert any('pos_embed resized' in line for line in card.changes)
    start = bx.zoo.load('vit-digits', image_size=10)[1]
    found = bx.zoo.load(out)[1]
    same = [p for p in found if p != 'rng' and np.array_equal(start[p].value, found[p].value)]
    assert {*found} - {*same} == {'vit/head/w', 'vit/head/b', 'rng'}
    assert len(printed('predict', out, photos).splitlines()) == 24


def test_tables_of_images_and_texts_are_read(net, photos, tmp_path):
    rows = [f'photos/{name}/{i}.png,{name}|{i % 2}' for name in ('cat', 'dog') for i in range(12)]
    (photos.parent / 'tags.csv').write_text('\n'.join(['file,labels', *rows]))
    out = tmp_path / 'm.safetensors'
    lines = printed('finetune', net, photos.parent / 'tags.csv', '--out', out, *QUICK, '--balanced')
    assert lines.startswith('tags.csv: 24 images of any of 4 classes, 2 held out\n')
    card = bx.zoo.read_card(out)
    assert (card.labels, card.scores) == (('0', '1', 'cat', 'dog'), 'sigmoid')
    encoder = write_encoder(tmp_path / 'encoder.safetensors')
    rows = [f'a text {i},{"xy"[i % 2]}' for i in range(12)]
    (tmp_path / 'texts.csv').write_text('\n'.join(['text,label', *rows]))
    out = tmp_path / 'tuned.safetensors'
    printed('finetune', encoder, tmp_path / 'texts.csv', '--out', out, *QUICK, '--max-tokens', 6)
    assert printed('predict', out, 'a').split()[1] in 'xy'
    assert bx.zoo.read_card(out).texts.max_tokens == 6


def test_a_text_model_is_trained_on_a_text_file(tmp_path):
    file = write_model(tmp_path / 'base.safetensors', context=16)
    (tmp_path / 'a.txt').write_text('to be or not to be, ' * 20)
    printed(
        'finetune', file, tmp_path / 'a.txt', '--out', tmp_path / 'm.safetensors', '--epochs', 2
    )
    assert printed('generate', tmp_path / 'm.safetensors', 'to', '--max-new-tokens', 2)


def test_the_model_is_opened_once(net, photos, tmp_path):
    with opened(net) as times:
        printed('finetune', net, photos, '--out', tmp_path / 'm.safetensors', *QUICK)
    assert len(times) == 1


def test_what_is_wrong_is_one_line(net, photos, tmp_path):
    out = ('--out', tmp_path / 'm.safetensors')
    encoder = write_encoder(tmp_path / 'encoder.safetensors')
    assert 'learns from texts in a CSV file' in fails('finetune', encoder, photos, *out)
    assert 'No such file' in fails('finetune', net, tmp_path / 'none', *out)
    assert 'matches none' in fails('finetune', net, photos, *out, '--freeze', 'resnet/hat/**')
    assert "ends in '.safetensors'" in fails('finetune', net, photos, '--out', tmp_path / 'm.bin')
    misused('finetune', net, photos)
    misused('finetune', net, photos, *out, '--rank', 4)
    misused('finetune', net, photos, *out, '--lora', '--tune-last', 1)
    misused('finetune', encoder, photos, *out, '--image-size', 16)
    misused('finetune', net, photos, *out, '--max-tokens', 16)
    misused('finetune', net, photos, *out, '--schedule', 'up')
    misused('finetune', net, photos, *out, '--choose-by', 'f1')
    misused('finetune', net, photos, *out, '--scale', 0.5)
    misused('finetune', encoder, photos, *out, '--flip')
    assert 'none.csv' in fails('finetune', net, tmp_path / 'none.csv', *out)
    (tmp_path / 'm.csv').write_text('mine')
    assert 'is there already' in fails('finetune', net, photos, *out)


@pytest.fixture(scope='module')
def undisturbed(net, photos, tmp_path_factory):
    """The arguments of a training, and the folder of one that nothing stopped."""
    args = ['finetune', net, photos, '--batch-size', 8, '--epochs', 30, '--out']
    folder = tmp_path_factory.mktemp('undisturbed')
    printed(*args, folder / 'm.safetensors')
    return args, folder


@pytest.mark.parametrize(('how', 'code'), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_process_that_is_stopped_goes_on_to_the_same_file(undisturbed, tmp_path, how, code):
    args, whole = undisturbed
    script = f'{INTERRUPTIBLE}; from blox.zoo.cli.main import main; main()'
    command = [sys.executable, '-c', script, *map(str, args), str(tmp_path / 'm.safetensors')]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith('epoch 2:'))
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == code
    assert ('run the same command again to go on' in err) == (code == 130)
    assert [path.name for path in tmp_path.iterdir()] == ['m.training']
    assert 'epoch 1:' not in printed(*args, tmp_path / 'm.safetensors')
    for name in ('m.safetensors', 'm.csv'):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
