"""Families of one's own: registered, and of a package that is installed."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from commands import fails, printed
from documents import families_as_they_are
from helpers import EXAMPLES, GRAY, table, write_images

import blox as bx
from blox.zoo import models

sys.path.append(str(EXAMPLES / 'own_family'))
import convmixer  # pyright: ignore[reportMissingImports]

SIZES = {'width': 8, 'depth': 2, 'image_size': 8, 'patch_size': 2, 'in_channels': 1}

NAMES = ['convmixer-768-32', 'convmixer-1024-20']


@pytest.fixture
def registered():
    with families_as_they_are():
        bx.zoo.register(convmixer.FAMILY)
        yield


@pytest.fixture
def file(registered, tmp_path):
    """A file of a small model of it."""
    model = bx.zoo.create('convmixer-768-32', **SIZES, num_classes=2)
    card = dataclasses.replace(
        bx.zoo.Card.of(model, 'mine'), labels=('cat', 'dog'), preprocessor=GRAY
    )
    bx.zoo.save(tmp_path / 'mine.safetensors', model, bx.zoo.init(model), card=card)
    return tmp_path / 'mine.safetensors'


@pytest.mark.usefixtures('registered')
def test_the_example_has_the_papers_numbers_of_parameters():
    """Of table 1: 21.1 and 24.4 million."""
    for name, count in (('convmixer-768-32', 21_110_248), ('convmixer-1024-20', 24_383_464)):
        model = bx.zoo.create(name)
        trainable, _ = bx.spec(model, *model.example_inputs()).split_trainable()
        assert trainable.num_params == count


def test_it_is_created_listed_and_gone_again(registered):
    assert bx.zoo.list_models('convmixer*') == NAMES
    models._registered.clear()
    models.families.cache_clear()
    assert bx.zoo.list_models('convmixer*') == []


def test_files_are_saved_loaded_shown_and_compiled(file, tmp_path):
    model, params = bx.zoo.load(file)
    images = jnp.zeros((2, 8, 8, 1))
    logits, _ = jax.jit(model)(params, images)
    assert logits.shape == (2, 2)
    features, _ = model.features(params, images)
    assert list(features) == ['stem', 'block0', 'block1', 'pre_logits']
    assert 'convmixer' in printed('info', file)
    assert 'block1' in printed('show', file)
    bx.zoo.compile(tmp_path / 'program', model, params)
    assert 'no other library is known' in fails('export', file, tmp_path / 'theirs')
    assert 'no other library has its family' in printed('verify', file)


def test_it_is_fine_tuned_by_the_command(file, tmp_path):
    photos = write_images(tmp_path / 'photos', {'a': 8, 'b': 8})
    out = tmp_path / 'tuned.safetensors'
    printed('finetune', file, photos, '--out', out, '--epochs', 1, '--tune-last', 1, '--ema', 0.9)
    assert bx.zoo.read_card(out).labels == ('a', 'b')
    assert len(printed('predict', out, photos).splitlines()) == 16
    printed('finetune', file, photos, '--out', tmp_path / 'l.safetensors', '--epochs', 1, '--lora')


def test_a_file_whose_family_is_not_known_says_what_to_do(file):
    models._registered.clear()
    models.families.cache_clear()
    with pytest.raises(bx.CheckpointError, match=r'family one of .*bx\.zoo\.register'):
        bx.zoo.load(file)


@table(
    {
        'no family': (lambda f: 'convmixer', 'expected a bx.zoo.Family, found str'),
        'taken': (lambda f: f._replace(name='vit'), "'vit' is there already"),
        'a name': (lambda f: f._replace(name='conv/mixer'), 'letters, digits and underscores'),
        'a variant': (
            lambda f: f._replace(variants={'vit-b16': f.config()}),
            "'vit-b16'.* are of other families",
        ),
        'no variants': (lambda f: f._replace(variants={}), 'one variant or more'),
        'another config': (lambda f: f._replace(config=dict), 'a subclass of Config'),
        'another model': (lambda f: f._replace(model=bx.Linear), 'a subclass of ZooModel'),
        'a path for a variant': (
            lambda f: f._replace(variants={'a b/c': f.config()}),
            'without spaces and slashes',
        ),
        'a number for a variant': (lambda f: f._replace(variants={3: f.config()}), r'found \[3\]'),
        'the random state': (lambda f: f._replace(name='rng'), "found 'rng'"),
        'its variants': (lambda f: f._replace(variants={'a': 1}), r"others are \['a'\]"),
        'its head': (lambda f: f._replace(head=bx.zoo.Head('labels', 'x/*')), 'no field labels'),
        'its paths': (
            lambda f: f._replace(head=bx.zoo.Head('num_classes', 'convmixer/fc/*')),
            'convmixer/fc/. matches none of',
        ),
    }
)
def test_what_is_no_family_is_refused(row):
    change, message = row
    with pytest.raises((TypeError, ValueError), match=message):
        bx.zoo.register(change(convmixer.FAMILY))


def test_families_that_are_registered_stay_apart(registered):
    family = convmixer.FAMILY
    with pytest.raises(ValueError, match=r"'convmixer-1024-20'.* are of other families"):
        bx.zoo.register(family._replace(name='other', head=None))
    variants = {'other-s': family.config()}
    with pytest.raises(ValueError, match="ConvMixer is the model of family 'convmixer' already"):
        bx.zoo.register(family._replace(name='other', head=None, variants=variants))
    bx.zoo.register(family._replace(variants={'convmixer-s': family.config()}))
    assert list(bx.zoo.list_models('convmixer*')) == ['convmixer-s']


def test_what_a_package_names_may_be_registered_too(monkeypatch):
    monkeypatch.setattr(models, '_of_packages', lambda: {'convmixer': convmixer.FAMILY})
    bx.zoo.register(convmixer.FAMILY)
    assert models._registered == {}


def test_a_model_without_a_head_gives_features(registered, tmp_path):
    model = bx.zoo.create('convmixer-768-32', **SIZES, num_classes=0)
    images = jnp.zeros((1, 8, 8, 1))
    assert model(bx.zoo.init(model), images)[0].shape == (1, 8)


def test_a_package_is_known_once_it_is_installed(file, tmp_path):
    pytest.importorskip('hatchling')
    shutil.copytree(EXAMPLES / 'own_family', tmp_path / 'package')
    site = tmp_path / 'site'
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
    built = [
        *pip,
        'wheel',
        '--no-build-isolation',
        '--no-deps',
        '-w',
        tmp_path,
        tmp_path / 'package',
    ]
    subprocess.run(list(map(str, built)), check=True)
    (wheel,) = tmp_path.glob('*.whl')
    target = [*pip, 'install', '--no-deps', '--no-index', '--target', site, wheel]
    subprocess.run(list(map(str, target)), check=True)
    script = (
        'import sys, json, blox as bx; model, params = bx.zoo.load(sys.argv[1]); '
        "print(json.dumps([type(model).__module__, bx.zoo.list_models('convmixer*')]))"
    )
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get('PYTHONPATH')])])
    done = subprocess.run(
        [sys.executable, '-c', script, str(file)],
        env={**os.environ, 'PYTHONPATH': paths},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ['convmixer', NAMES]


def test_a_package_whose_family_is_broken_is_told_and_left_out(monkeypatch, caplog):
    class Broken:
        value = 'broken:FAMILY'

        def load(self):
            raise ImportError('no module named broken')

    monkeypatch.setattr(models, 'entry_points', lambda group: [Broken()])
    assert models._of_packages.__wrapped__() == {}
    assert 'broken:FAMILY cannot be used: no module named broken' in caplog.text
