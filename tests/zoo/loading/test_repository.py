"""Models of repositories: the real client, a loopback server, tiny checkpoints of every kind."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from commands import fails, printed
from folders import FOLDERS, IMAGES, REPO, WEIGHTS, bits, files_in, other
from helpers import message, table
from hub_files import SECRET, conversions, downloads, full_disk, requests
from hub_server import Fault, commit_of, sha256

import blox as bx
from blox import CheckpointError
from blox.tensorfile import TensorFile
from blox.zoo.catalog.published import published as rows
from blox.zoo.loading.repository import Repository

# Folders that transformers and timm saved.
GOLDEN = sorted(
    path.parent for path in (Path(__file__).parents[2] / 'golden').glob('*/config.json')
)


# What a repository gives.


@pytest.mark.parametrize('name', [*FOLDERS, 'sharded'])
def test_a_repository_gives_what_its_folder_does(server, repos, name):
    model, params, _, files = repos[f'org/{name}']
    found, loaded = bx.zoo.load(f'org/{name}')
    assert bits(loaded) == bits(params)
    assert type(found) is type(model)
    read = bx.zoo.read_card(f'org/{name}')
    assert (read.name, read.source, read.commit) == (name, f'org/{name}', commit_of(files))
    assert read.sha256 == {n: sha256(c) for n, c in files.items() if n.endswith('.safetensors')}
    assert read.config == found.config


@pytest.mark.parametrize('folder', GOLDEN, ids=lambda folder: folder.name)
def test_what_the_reference_libraries_wrote_is_read(server, folder):
    server.put('org/theirs', files_in(folder))
    assert bits(bx.zoo.load('org/theirs')[1]) == bits(bx.zoo.load(folder)[1])


@pytest.mark.parametrize('name', IMAGES)
def test_a_repositorys_preprocessor_and_labels_are_at_hand(server, repos, name):
    card = repos[f'org/{name}'][2]
    assert bx.zoo.preprocessor(f'org/{name}') == card.preprocessor
    assert bx.zoo.read_card(f'org/{name}').labels == card.labels


@pytest.mark.parametrize('name', ['gpt2-hf', 'bert-hf'])
def test_a_repositorys_tokenizer_is_at_hand(server, name):
    assert bx.zoo.tokenizer(f'org/{name}').encode('b').ids == [2]


def test_the_pooling_of_sentence_transformers_is_followed(server, repos):
    assert '1_Pooling/config.json' in repos['org/bert-hf'][3]
    config = bx.zoo.load('org/bert-hf')[0].config
    assert (config.pool, config.normalize) == ('mean', True)


def test_only_what_a_conversion_reads_is_downloaded(server, repos):
    files = repos[REPO][3]
    more = dict.fromkeys(['README.md', 'tf_model.h5', 'pytorch_model.bin', 'onnx/model.bin'], b'x')
    server.put(REPO, {**files, **more})
    bx.zoo.load(REPO)
    assert sorted(downloads(server)) == ['config.json', WEIGHTS, 'preprocessor_config.json']


def test_a_repository_without_weights_says_so(server, repos):
    files = {name: content for name, content in repos[REPO][3].items() if name != WEIGHTS}
    server.put(REPO, files)
    said = message(CheckpointError, lambda: bx.zoo.load(REPO))
    assert f'expected {WEIGHTS}' in said


def test_overrides_go_with_a_repository(server, repos):
    model, params = bx.zoo.load(REPO, num_classes=5, image_size=16)
    assert params['vit/head/w'].value.shape == (8, 5)
    assert model.config.image_size == (16, 16)
    assert len(bx.zoo.read_card(REPO, num_classes=5, image_size=16).changes) == 2


# Revisions, and how often the Hub is asked.


def test_a_second_load_asks_once_for_a_branch_and_never_for_a_commit(server, repos):
    commit = commit_of(repos[REPO][3])
    bx.zoo.load(REPO)
    assert requests(server, lambda: bx.zoo.load(REPO)) == 1
    assert requests(server, lambda: bx.zoo.load(REPO, revision=commit)) == 0
    assert requests(server, lambda: bx.zoo.load(f'{REPO}@{commit}')) == 0


def test_offline_what_was_loaded_is_there(server, repos, offline):
    bx.zoo.load(REPO)
    offline()
    calls = (bx.zoo.load, bx.zoo.read_card, bx.zoo.preprocessor)
    assert [requests(server, lambda call=call: call(REPO)) for call in calls] == [0, 0, 0]
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])


def test_offline_what_was_not_loaded_says_what_to_do(server, offline):
    offline()
    said = message(ConnectionError, lambda: bx.zoo.load(REPO))
    assert all(part in said for part in [REPO, 'HF_HUB_OFFLINE', 'load once with a network'])


def test_offline_a_damaged_download_is_named_and_stays(server, repos, tmp_path, offline):
    bx.zoo.load(REPO)
    (conversion,) = conversions(tmp_path)
    (path,) = (tmp_path / 'hf').rglob(WEIGHTS)
    os.truncate(path, 1000)
    offline()
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])
    conversion.unlink()
    said = message(ConnectionError, lambda: bx.zoo.load(REPO))
    assert said.startswith(f'{str(path)!r}: expected ')
    assert 'found 1000; ' in said
    assert 'load once with a network' in said
    assert path.stat().st_size == 1000


@pytest.mark.parametrize('missing', [WEIGHTS, 'config.json'])
def test_offline_a_file_that_others_did_not_download_is_named(
    server, repos, tmp_path, offline, missing
):
    for name in {*repos[REPO][3]} - {missing}:
        huggingface_hub.hf_hub_download(REPO, name)
    (folder,) = (tmp_path / 'hf').glob('hub/models--*/snapshots/*')
    offline()
    said = message(ConnectionError, lambda: bx.zoo.load(REPO))
    assert said.startswith(f'{str(folder / missing)!r}: expected a file, found none')
    assert f'load {REPO!r} once with a network' in said


def test_a_moved_branch_gives_its_new_weights_and_a_commit_its_old(server, repos):
    old = commit_of(repos[REPO][3])
    bx.zoo.load(REPO)
    files, params = other(repos)
    server.put(REPO, files)
    assert bits(bx.zoo.load(REPO)[1]) == bits(params)
    assert bx.zoo.read_card(REPO).commit == commit_of(files)
    assert bits(bx.zoo.load(REPO, revision=old)[1]) == bits(repos[REPO][1])


@pytest.mark.parametrize('at', [True, False])
def test_a_revision_is_named_in_two_ways(server, repos, at):
    files, params = other(repos)
    server.put(REPO, files, 'v2')
    path, revision = (f'{REPO}@v2', None) if at else (REPO, 'v2')
    assert bits(bx.zoo.load(path, revision=revision)[1]) == bits(params)
    assert bx.zoo.read_card(path, revision=revision).commit == commit_of(files)
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])


def test_two_revisions_at_once_are_refused(server):
    said = message(ValueError, lambda: bx.zoo.load(f'{REPO}@v2', revision='v1'))
    assert "'org/vit@v2' names one revision, revision='v1' another" in said
    assert server.log == []


# The catalog.


@pytest.fixture
def published(repos, monkeypatch):
    """'vit-b16' of the catalog, published in REPO."""
    overrides = dataclasses.asdict(repos[REPO][0].config)
    metrics = {'imagenet_top1': 0.5}
    row = rows()['vit-b16']._replace(source=REPO, overrides=overrides, metrics=metrics)
    monkeypatch.setitem(rows(), 'vit-b16', row)
    return row


def test_a_name_in_the_catalog_gives_its_repository(server, repos, published):
    assert bits(bx.zoo.load('vit-b16')[1]) == bits(repos[REPO][1])
    read = bx.zoo.read_card('vit-b16')
    assert (read.name, read.source) == ('vit-b16', REPO)
    assert read.commit == commit_of(repos[REPO][3])
    assert (read.license, read.paper) == (published.license, published.paper)
    assert read.metrics == published.metrics
    assert bx.zoo.preprocessor('vit-b16') == repos[REPO][2].preprocessor


def test_a_name_in_the_catalog_takes_a_revision(server, repos, published):
    files, params = other(repos)
    server.put(REPO, files, 'v2')
    assert bits(bx.zoo.load('vit-b16', revision='v2')[1]) == bits(params)
    # Of these weights nothing was measured.
    assert bx.zoo.read_card('vit-b16', revision='v2').metrics == {}


def test_a_source_may_be_a_repository(server, repos, published):
    path = 'org/vit-timm'
    assert bits(bx.zoo.load('vit-b16', source=path)[1]) == bits(repos[path][1])
    assert bx.zoo.read_card('vit-b16', source=path).source == path


def test_a_source_of_another_model_is_refused_and_both_are_named(server, published):
    said = message(ValueError, lambda: bx.zoo.load('vit-b16', source='org/gpt2-hf'))
    assert all(part in said for part in ["'vit-b16'", "'org/gpt2-hf'", "'vit'", "'gpt2'"])
    assert downloads(server) == ['config.json']
    bx.zoo.load('org/gpt2-hf')
    assert message(ValueError, lambda: bx.zoo.load('vit-b16', source='org/gpt2-hf')) == said


# Conversions.


def test_a_conversion_says_where_it_is_from(server, repos, tmp_path):
    bx.zoo.load(REPO)
    (path,) = conversions(tmp_path)
    header = json.loads(TensorFile(path).metadata['blox.model'])
    files = repos[REPO][3]
    assert (header['source'], header['commit']) == (REPO, commit_of(files))
    assert header['sha256'] == {WEIGHTS: sha256(files[WEIGHTS])}


def test_a_conversion_says_of_which_commit_it_was_asked_for(server, repos):
    bx.zoo.load(REPO)
    files = {**repos[REPO][3], 'README.md': b'Nothing that is converted.'}
    server.put(REPO, files)
    assert bx.zoo.read_card(REPO).commit == commit_of(files)


def test_wrong_weights_are_refused_and_nothing_is_kept(server, repos, tmp_path):
    content = repos[REPO][3][WEIGHTS]
    wrong = content[:-1] + bytes([content[-1] ^ 1])
    server.faults[REPO, WEIGHTS] = Fault(body=wrong)
    said = message(CheckpointError, lambda: bx.zoo.load(REPO))
    assert WEIGHTS in said
    assert 'expected sha256' in said
    assert conversions(tmp_path) == []
    assert not [path for path in (tmp_path / 'hf').rglob('*') if path.name == WEIGHTS]
    server.faults.clear()
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])


DAMAGES = {
    'cut': lambda content: content[:-10],
    'empty': lambda _: b'',
    'text': lambda _: b'no' * 99,
    'a bit': lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    'another repository': lambda content: content.replace(
        rb'\"repository\": \"org/vit\"', rb'\"repository\": \"org/abc\"'
    ),
    'other files': lambda content: re.sub(rb'(key\\": \\")....', rb'\g<1>0000', content),
}


@table(DAMAGES)
def test_a_damaged_conversion_is_made_again(row, server, repos, tmp_path, caplog):
    bx.zoo.load(REPO)
    (path,) = conversions(tmp_path)
    before = path.read_bytes()
    path.write_bytes(row(before))
    assert path.read_bytes() != before
    server.log.clear()
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])
    assert 'converting it again' in caplog.text
    assert downloads(server) == []
    caplog.clear()
    bx.zoo.load(REPO)
    assert caplog.messages == []


def test_a_damaged_conversion_is_made_again_once(server, repos, tmp_path):
    bx.zoo.load(REPO)
    (path,) = conversions(tmp_path)
    path.write_bytes(b'')
    places = [Repository(REPO), Repository(REPO)]
    # Both find it damaged before one of them mends it.
    assert {place.family for place in places} == {'vit'}
    cards, times = zip(*[(place.card, path.stat().st_mtime_ns) for place in places], strict=True)
    assert cards[0] == cards[1]
    assert times[0] == times[1]


def test_what_converts_a_family_makes_its_conversions_anew_and_nothing_else_does(
    server, repos, tmp_path
):
    params = bx.zoo.load(REPO)[1]
    (first,) = conversions(tmp_path)
    load = copied(server, tmp_path)
    load('zoo/cli/files.py', 'converters/tables/gpt2.py')
    assert conversions(tmp_path) == [first]
    load('converters/tables/vit/google.py')
    (second,) = conversions(tmp_path)
    load('converters/mapping/transforms.py')
    assert len({first, second, *conversions(tmp_path)}) == 3
    assert bits(params) == bits(bx.zoo.load(REPO)[1])


def test_a_table_that_another_family_takes_makes_its_conversions_anew(server, repos, tmp_path):
    load = copied(server, tmp_path, 'org/clip-open_clip')
    load()
    (first,) = conversions(tmp_path)
    load('converters/tables/swin.py')
    assert conversions(tmp_path) == [first]
    # The image tower of some open_clip models is a ViT of timm.
    load('converters/tables/vit/timm.py')
    assert conversions(tmp_path) != [first]


def test_a_repository_is_explained_without_being_converted(server, repos, tmp_path):
    params = repos[REPO][1]
    fields = json.loads(printed('explain', REPO, '--json'))
    assert fields['ok']
    assert [entry['ours'] for entry in fields['entries']] == [
        path for path in params if path != 'rng'
    ]
    assert conversions(tmp_path) == []


def test_weights_alone_in_a_repository_are_explained_by_name(server, repos, published):
    server.put('org/bare', {WEIGHTS: repos[REPO][3][WEIGHTS]})
    assert json.loads(printed('explain', 'org/bare', '--as', 'vit-b16', '--json'))['ok']
    assert 'name it, as in --as resnet50' in fails('explain', 'org/bare')


def copied(server, folder, repo=REPO):
    """Call it to have these files of a copy of blox changed, and a repository loaded by it."""
    code = folder / 'code' / 'blox'
    skipped = shutil.ignore_patterns('__pycache__', 'weights')
    shutil.copytree(Path(bx.__file__).parent, code, ignore=skipped)

    def load(*names):
        for name in names:
            (code / name).write_text((code / name).read_text('utf-8') + '\n# Changed.\n', 'utf-8')
        subprocess.run(
            [sys.executable, '-c', f'import blox as bx; bx.zoo.load({repo!r})'],
            env={**os.environ, **server.environment(folder)},
            cwd=code.parent,
            check=True,
        )

    return load


def test_another_commit_of_the_same_files_converts_nothing(server, repos, tmp_path):
    bx.zoo.load(REPO)
    server.put(REPO, {**repos[REPO][3], 'README.md': b'new'})
    bx.zoo.load(REPO)
    assert len(conversions(tmp_path)) == 1


def test_without_a_cache_that_can_be_written_it_converts_in_memory(
    server, repos, tmp_path, monkeypatch, caplog
):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('BLOX_CACHE', str(tmp_path / 'file'))
    for _ in range(2):
        assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])
    read = bx.zoo.read_card(REPO)
    assert (read.source, read.commit) == (REPO, commit_of(repos[REPO][3]))
    assert 'set BLOX_CACHE to a folder of yours' in caplog.text


def test_a_damaged_conversion_that_cannot_be_locked_is_made_in_memory(server, repos, tmp_path):
    bx.zoo.load(REPO)
    (path,) = conversions(tmp_path)
    path.write_bytes(b'no')
    lock = path.with_name('conversions.lock')
    lock.unlink(missing_ok=True)
    lock.mkdir()
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])


def test_on_a_full_disk_it_converts_in_memory_and_says_so_once(server, repos, tmp_path, caplog):
    params = bx.zoo.load(REPO)[1]
    (path,) = conversions(tmp_path)
    path.unlink()
    with full_disk(1_000):
        assert bits(bx.zoo.load(REPO)[1]) == bits(params)
    (said,) = caplog.messages
    assert re.search(f'no conversion is kept in .*{path.parent}.*: File too large; make room', said)
    assert [file for file in path.parent.iterdir() if file.is_file()] == [
        path.with_name('conversions.lock')
    ]


def test_on_a_full_disk_what_does_not_fit_is_refused_all_the_same(server, repos):
    config = {**json.loads(repos[REPO][3]['config.json']), 'hidden_size': 16}
    server.put(REPO, {**repos[REPO][3], 'config.json': json.dumps(config).encode()})
    said = message(CheckpointError, lambda: bx.zoo.load(REPO))
    with full_disk(1_000):
        assert message(CheckpointError, lambda: bx.zoo.load(REPO)) == said


@table({'no lock fits': 'size=4k,nr_inodes=2', 'no conversion fits': 'size=24k'})
def test_a_small_disk_for_the_cache_is_enough(row, server, repos, tmp_path):
    """A real disk, which only the process that loads sees."""
    (tmp_path / 'blox').mkdir()
    mount = f'mount -t tmpfs -o {row} tmpfs "$0" && "$@" && find "$0" -type f ! -name "*.json"'
    alone = ['unshare', '--map-root-user', '--mount', 'sh', '-c', mount, tmp_path / 'blox']
    if not shutil.which('unshare') or subprocess.run([*alone, 'true']).returncode:
        pytest.skip('no disk can be mounted here')
    code = 'import sys, blox as bx; bx.zoo.save(sys.argv[1], *bx.zoo.load(sys.argv[2]))'
    done = subprocess.run(
        [*alone, sys.executable, '-c', code, tmp_path / 'out.safetensors', REPO],
        env={**os.environ, **server.environment(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count('No space left on device; make room there or set BLOX_CACHE') == 1
    assert {Path(line).name for line in done.stdout.splitlines()} <= {'conversions.lock'}
    assert bits(bx.zoo.load(tmp_path / 'out.safetensors')[1]) == bits(repos[REPO][1])


def test_another_kind_of_model_is_refused_before_its_weights_are_downloaded(server, repos):
    config = json.dumps({'model_type': 'swinv2'}).encode()
    server.put(REPO, {**repos[REPO][3], 'config.json': config})
    said = message(CheckpointError, lambda: bx.zoo.load(REPO))
    assert re.search(r"model_type .*gpt2, .* in config\.json, found 'swinv2'", said)
    assert downloads(server) == ['config.json']


def test_another_architecture_of_timm_is_refused_before_its_weights_are_downloaded(server, repos):
    config = json.dumps({'architecture': 'swinv2_tiny_window8_256'}).encode()
    server.put(REPO, {**repos[REPO][3], 'config.json': config})
    said = message(CheckpointError, lambda: bx.zoo.load(REPO))
    assert "'swinv2_tiny_window8_256'" in said
    assert downloads(server) == ['config.json']


def test_a_repository_without_a_config_is_refused_before_its_weights_are_downloaded(server, repos):
    server.put(REPO, {WEIGHTS: repos[REPO][3][WEIGHTS]})
    said = message(CheckpointError, lambda: bx.zoo.load(REPO))
    assert f"'{REPO}': expected a config.json of transformers or timm" in said
    assert downloads(server) == []


def test_a_field_that_changes_the_function_is_refused_by_name(server, repos, tmp_path):
    files = repos[REPO][3]
    config = {**json.loads(files['config.json']), 'use_rope': True}
    server.put(REPO, {**files, 'config.json': json.dumps(config).encode()})
    assert 'use_rope' in message(CheckpointError, lambda: bx.zoo.load(REPO))
    assert conversions(tmp_path) == []


# Repositories that do not open.


def test_a_repository_that_is_not_there_is_named(server):
    assert "'org/nosuch'" in message(FileNotFoundError, lambda: bx.zoo.load('org/nosuch'))


def test_a_revision_that_is_not_there_is_named(server):
    for call in (lambda: bx.zoo.load(f'{REPO}@v9'), lambda: bx.zoo.load(REPO, revision='v9')):
        assert "'v9'" in message(FileNotFoundError, call)


@pytest.mark.parametrize('kind', ['private', 'gated'])
def test_a_closed_repository_says_how_to_open_it(server, repos, monkeypatch, kind):
    getattr(server, kind).add(REPO)
    error = {'private': FileNotFoundError, 'gated': PermissionError}[kind]
    assert 'HF_TOKEN' in message(error, lambda: bx.zoo.load(REPO))
    monkeypatch.setenv('HF_TOKEN', SECRET)
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])


def test_an_unreachable_hub_is_an_error_or_what_is_known(server, repos, caplog):
    bx.zoo.load(REPO)
    server.stop()
    assert bits(bx.zoo.load(REPO)[1]) == bits(repos[REPO][1])
    assert f'going on with commit {commit_of(repos[REPO][3])}' in caplog.text
    said = message(ConnectionError, lambda: bx.zoo.load('org/gpt2-hf'))
    assert all(part in said for part in ["'org/gpt2-hf'", 'HF_ENDPOINT', 'try again'])


# Several processes.


def test_of_two_processes_that_load_one_downloads(server, repos, tmp_path):
    names = ['a.safetensors', 'b.safetensors']
    code = 'import sys, blox as bx; bx.zoo.save(sys.argv[1], *bx.zoo.load(sys.argv[2]))'
    environment = {**os.environ, **server.environment(tmp_path)}
    commands = [[sys.executable, '-c', code, tmp_path / name, REPO] for name in names]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(downloads(server)) == len(set(downloads(server)))
    assert len(conversions(tmp_path)) == 1
    for name in names:
        assert bits(bx.zoo.load(tmp_path / name)[1]) == bits(repos[REPO][1])
