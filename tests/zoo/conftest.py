"""Tiny models of every kind: as folders, as repositories on a loopback server, as files of our own."""

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path

import huggingface_hub
import pytest
from families import build, declared, tiny
from folders import FOLDERS, REPO, files_in, made, shard
from hub_server import HubServer

import blox as bx
from blox.converters.sources.source import config_in
from blox.zoo.catalog.published import published as rows


@pytest.fixture(scope='session')
def exported(tmp_path_factory):
    """By name of its folder: a model, its Params, its card, and where it was exported to."""
    root, found = tmp_path_factory.mktemp('exported'), {}
    for name, (_, layout) in FOLDERS.items():
        model, params, card = made(name)
        bx.zoo.export(root / name, model, params, layout, card=card)
        found[name] = model, params, card, root / name
    return found


@pytest.fixture
def edited(exported, tmp_path):
    """Call it for a copy of a folder whose config.json has other fields; None removes one."""

    def edit(name, fields, **files):
        folder = Path(shutil.copytree(exported[name][3], tmp_path / name))
        said = config_in(file.name for file in folder.iterdir()).removesuffix('.json')
        config = {**json.loads((folder / f'{said}.json').read_text()), **fields}
        config = {key: value for key, value in config.items() if value is not None}
        for file, content in {said: config, **files}.items():
            (folder / f'{file}.json').write_text(json.dumps(content))
        return folder

    return edit


@pytest.fixture
def catalog(exported, monkeypatch):
    """The catalog with the tiny models' sizes under the names that they were made from."""
    for entry, model in (('vit-b16', 'vit-hf'), ('resnet18', 'resnet-hf'), ('gpt2', 'gpt2-hf')):
        overrides = dataclasses.asdict(exported[model][0].config)
        monkeypatch.setitem(rows(), entry, rows()[entry]._replace(overrides=overrides))


@pytest.fixture(scope='session')
def repos(exported, tmp_path_factory):
    """By repository: a model, its Params, its card and the files."""
    found = {f'org/{name}': (*row[:3], files_in(row[3])) for name, row in exported.items()}
    sharded = tmp_path_factory.mktemp('repos') / 'sharded'
    shard(exported['vit-hf'][3], sharded)
    found[REPO] = found['org/vit-hf']
    found['org/sharded'] = (*found[REPO][:3], files_in(sharded))
    return found


@pytest.fixture
def server(repos, monkeypatch, tmp_path):
    with HubServer({repo: {'main': row[3]} for repo, row in repos.items()}) as server:
        server.connect(monkeypatch, tmp_path)
        yield server


@pytest.fixture
def offline(monkeypatch):
    """Call it to have HF_HUB_OFFLINE set from then on."""
    return lambda: monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)


@pytest.fixture
def unprivileged(server, monkeypatch):
    """A folder of caches whose permission bits bind, which they do not for root."""
    folder = tempfile.mkdtemp()
    server.connect(monkeypatch, folder)
    root = os.name == 'posix' and os.geteuid() == 0
    if root:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    yield Path(folder)
    if root:
        os.seteuid(0)
    for path in [Path(folder), *Path(folder).rglob('*')]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture(scope='session')
def saved(tmp_path_factory):
    """By family: a tiny model, its Params, and the file that they were saved to."""
    folder = tmp_path_factory.mktemp('saved')
    found = {}
    for family in declared():
        model = build(tiny(family))
        params, path = bx.zoo.init(model, seed=1), folder / f'{family}.safetensors'
        bx.zoo.save(path, model, params)
        found[family] = model, params, path
    return found
