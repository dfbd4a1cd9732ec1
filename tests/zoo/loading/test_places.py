"""What a name stands for: a name in the catalog, a path, a repository."""

import os
import shutil
from pathlib import Path

import pytest
from folders import bits
from helpers import message

import blox as bx


@pytest.mark.parametrize('kind', [str, Path, lambda folder: f'{folder}{os.sep}'])
def test_a_folder_may_be_text_or_a_path(exported, kind):
    _, params, _, folder = exported['vit-hf']
    assert bits(bx.zoo.load(kind(folder))[1]) == bits(params)


def test_the_folder_one_is_in_has_a_name(exported, monkeypatch):
    monkeypatch.chdir(exported['vit-hf'][3])
    assert bx.zoo.read_card('.').name == 'vit-hf'


def test_a_folder_goes_before_a_repository_of_its_name(exported, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path('org').mkdir()
    Path('org/name').symlink_to(exported['gpt2-hf'][3])
    assert bits(bx.zoo.load('org/name')[1]) == bits(exported['gpt2-hf'][1])


def test_a_path_is_never_a_name_in_the_catalog(exported, monkeypatch, tmp_path):
    shutil.copytree(exported['gpt2-hf'][3], tmp_path / 'gpt2')
    monkeypatch.chdir(tmp_path)
    assert bits(bx.zoo.load(Path('gpt2'))[1]) == bits(exported['gpt2-hf'][1])


def test_a_name_that_ends_as_a_folder_is_one():
    with pytest.raises(FileNotFoundError, match='my-finetune'):
        bx.zoo.load('my-finetune/')


def test_a_source_needs_a_name_in_the_catalog(exported):
    with pytest.raises(ValueError, match=r"no model 'vitb16' in the catalog; nearest: .*vit-b16"):
        bx.zoo.load('vitb16', source=exported['vit-hf'][3])


@pytest.mark.usefixtures('catalog')
@pytest.mark.parametrize('name', ['vit-hf', 'vit-hf/model.safetensors'])
def test_only_repositories_have_revisions(exported, name):
    path = exported['vit-hf'][3].parent / name
    for arguments in ((path, None), ('vit-b16', path), ('vit-digits', None)):
        with pytest.raises(ValueError, match='no repository: only those have revisions'):
            bx.zoo.load(arguments[0], source=arguments[1], revision='main')


@pytest.mark.parametrize('name', ['nosuch.safetensors', 'org/nosuch', './nosuch', '/nosuch'])
def test_a_path_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in [Path(name)] + [name] * (name != 'org/nosuch'):
        assert name.removeprefix('./') in message(FileNotFoundError, lambda p=path: bx.zoo.load(p))


@pytest.mark.parametrize('name', ['runs/last.ckpt', 'runs/best.pth.tar', 'runs/best.pth'])
def test_names_of_training_checkpoints_are_paths_and_no_repositories(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for arguments in ({'name_or_path': name}, {'name_or_path': 'vit-b16', 'source': name}):
        said = message(FileNotFoundError, lambda arguments=arguments: bx.zoo.load(**arguments))
        assert name in said


def test_no_name_is_no_folder(exported, monkeypatch):
    monkeypatch.chdir(exported['vit-hf'][3])
    for arguments in (('', None), ('vit-b16', '')):
        with pytest.raises(ValueError, match='expected the name of a model or of a file'):
            bx.zoo.load(arguments[0], source=arguments[1])


def test_a_folder_of_neither_library_is_refused(tmp_path):
    (tmp_path / 'config.json').write_text('{"library_name": "blox"}')
    with pytest.raises(FileNotFoundError, match=r'model\.safetensors'):
        bx.zoo.load(tmp_path)


@pytest.mark.parametrize('load', [bx.zoo.load, bx.zoo.preprocessor, bx.zoo.tokenizer])
def test_a_file_that_is_not_there_is_an_error_that_names_it(tmp_path, load):
    with pytest.raises(FileNotFoundError, match=r'a\.safetensors'):
        load(tmp_path / 'a.safetensors')


def test_an_unknown_name_is_an_error_that_names_the_nearest():
    with pytest.raises(
        ValueError, match="no model 'vit-digit' in the catalog; nearest: vit-digits"
    ):
        bx.zoo.load('vit-digit')


def test_a_name_without_weights_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r'vit-b32.*without weights.*load one of vit-b32-384'):
        bx.zoo.load('vit-b32')


def test_a_folder_of_the_same_name_hides_no_model(tmp_path, monkeypatch):
    (tmp_path / 'vit-digits').mkdir()
    monkeypatch.chdir(tmp_path)
    assert bx.zoo.load('vit-digits')[1].initialized
