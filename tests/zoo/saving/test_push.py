"""Models published on the Hub, and read again."""

import dataclasses
import json
import re

import huggingface_hub
import pytest
from folders import REPO, WEIGHTS, bits
from helpers import table
from hub_files import SECRET, conversions

import blox as bx

uploads = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def pushed(server, repos, monkeypatch):
    """Call it to push one of `repos` as 'me/new'; the repository's files."""
    monkeypatch.setenv('HF_TOKEN', SECRET)

    def push(name, **changes):
        model, params, card, _ = repos[f'org/{name}']
        card = dataclasses.replace(card, name='mine', **changes)
        url = bx.zoo.push('me/new', model, params, card=card)
        assert re.fullmatch(f'{server.url}/me/new/commit/[0-9a-f]{{40}}', url)
        repo = server.repos['me/new']
        return repo.commits[repo.branches['main']]

    return push


@uploads
@pytest.mark.parametrize('name', ['vit-hf', 'resnet-timm', 'gpt2-hf', 'bert-hf'])
def test_what_is_pushed_is_loaded_again(pushed, repos, name):
    model, params, card, _ = repos[f'org/{name}']
    pushed(name)
    found, loaded = bx.zoo.load('me/new')
    assert found.config == model.config
    assert bits(loaded) == bits(params)
    read = bx.zoo.read_card('me/new')
    assert dataclasses.replace(read, weights=None) == dataclasses.replace(card, name='mine')
    if card.preprocessor:
        assert bx.zoo.preprocessor('me/new') == card.preprocessor
    else:
        assert bx.zoo.tokenizer('me/new').to_str() == card.tokenizer


@uploads
def test_a_pushed_repository_has_a_config_a_model_card_and_our_file(pushed, repos, tmp_path):
    files = pushed('vit-hf')
    assert set(files) == {'config.json', 'README.md', WEIGHTS}
    config = json.loads(files['config.json'])
    assert (config['library_name'], config['family']) == ('blox', 'vit')
    assert config['config']['width'] == 8
    card = huggingface_hub.ModelCard(files['README.md'].decode())
    assert card.data.to_dict() == {
        'library_name': 'blox',
        'pipeline_tag': 'image-classification',
        'license': 'apache-2.0',
    }
    assert "bx.zoo.load('me/new')" in card.text
    bx.zoo.save(tmp_path / 'a.safetensors', *repos[REPO][:2], card=bx.zoo.read_card('me/new'))
    assert (tmp_path / 'a.safetensors').read_bytes() == files[WEIGHTS]


# By task and license: what the Hub calls them.
@uploads
@table(
    {
        'sentences': ('bert-hf', 'apache-2.0', 'sentence-similarity', 'apache-2.0'),
        'text': ('gpt2-hf', 'MIT', 'text-generation', 'mit'),
        'one of its own': ('gpt2-hf', 'Free: for all', 'text-generation', 'other'),
        'none': ('gpt2-hf', '', 'text-generation', None),
    }
)
def test_a_model_card_speaks_the_hubs_language(row, pushed):
    name, license, task, expected = row
    text = pushed(name, license=license)['README.md'].decode()
    data = huggingface_hub.ModelCard(text).data.to_dict()
    assert (data['pipeline_tag'], data.get('license')) == (task, expected)
    assert license in text


@uploads
def test_a_model_pushed_without_a_card_has_the_repositorys_name(server, repos, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    bx.zoo.push('me/new', *repos[REPO][:2])
    assert bx.zoo.read_card('me/new').name == 'new'


@uploads
def test_a_pushed_model_takes_one_request_when_it_is_there(pushed, tmp_path):
    pushed('vit-hf')
    bx.zoo.load('me/new')
    assert conversions(tmp_path) == []


@uploads
def test_a_clone_of_a_pushed_repository_is_loaded(pushed, repos, tmp_path):
    for name, content in pushed('vit-hf').items():
        (tmp_path / 'clone').mkdir(exist_ok=True)
        (tmp_path / 'clone' / name).write_bytes(content)
    assert bits(bx.zoo.load(tmp_path / 'clone')[1]) == bits(repos[REPO][1])
    assert bx.zoo.read_card(tmp_path / 'clone').name == 'mine'
    assert bx.zoo.preprocessor(tmp_path / 'clone') == repos[REPO][2].preprocessor


@uploads
def test_what_a_repository_gave_can_be_changed_and_pushed(server, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', SECRET)
    card = bx.zoo.read_card(REPO, num_classes=5)
    model, params = bx.zoo.load(REPO, num_classes=5)
    bx.zoo.push('me/tuned', model, params, card=card)
    read = bx.zoo.read_card('me/tuned')
    assert (read.source, read.commit, read.changes) == (REPO, card.commit, card.changes)
    assert bits(bx.zoo.load('me/tuned')[1]) == bits(params)
