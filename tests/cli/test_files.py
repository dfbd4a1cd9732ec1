"""The commands of `blox` on files: convert, export, explain, and what verify refuses."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import blox, byte_tokenizer, fails, misused, printed
from families import every_library, fitted
from helpers import flip, normal
from PIL import Image
from safetensors.numpy import load_file, save_file

import blox as bx
from blox.converters.exporting import external
from blox.tensorfile import TensorFile, write_tensors
from blox.zoo.inputs.tokenizers import clean_first
from blox.zoo.models import families

# By folder: the family, and the format.
FOLDERS = {f'{family}-{layout}': (family, layout) for family, layout in every_library()}


def made(name):
    """A model for a row of FOLDERS, random Params, and a card."""
    family = families()[FOLDERS[name][0]]
    config = fitted(*FOLDERS[name])
    is_text, is_of_images = (hasattr(config, name) for name in ('vocab_size', 'image_size'))
    model = family.build(family.override(config, {'vocab_size': 257} if is_text else {}))
    params = bx.zoo.init(model, seed=1)
    for i, path in enumerate(p for p in params if p != 'rng'):
        value = abs(normal(*params[path].shape, seed=i)) / 4
        params = params.set(path, value.astype(np.float32))
    text = byte_tokenizer().to_str()
    if FOLDERS[name][1] == 'open_clip':
        text = clean_first(Path(), text, 'whitespace')  # As it is read.
    more = {'tokenizer': text} if is_text else {}
    if is_of_images:
        prepare = bx.zoo.card('vit-b16').preprocessor
        assert prepare is not None
        prepare = prepare.for_size(model.config.image_size)
        labels = ('cat', 'dog', 'tröll')[: family.count_classes(model.config)]
        more |= {'labels': labels, 'preprocessor': prepare}
    card = bx.zoo.card(next(iter(family.variants)))
    return model, params, dataclasses.replace(card, config=model.config, scores='', **more)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A place with a folder for each row of FOLDERS, as another library has it."""
    place = tmp_path_factory.mktemp('folders')
    for name, (_, layout) in FOLDERS.items():
        model, params, card = made(name)
        bx.zoo.export(place / name, model, params, layout, card=card)
    return place


def changed(folder, to, change):
    """A copy of a folder at `to` with the tensors that `change` makes of its own."""
    shutil.copytree(folder, to)
    tensors = load_file(folder / 'model.safetensors')
    save_file(change(tensors), to / 'model.safetensors')
    return to


def with_nan(tensors):
    name = min(tensors)
    return {**tensors, name: np.full_like(tensors[name], np.nan)}


# convert


@pytest.mark.parametrize('name', FOLDERS)
def test_convert_writes_what_the_library_saves(folders, tmp_path, name):
    out = tmp_path / 'a.safetensors'
    line = printed('convert', folders / name, out)
    model, params = bx.zoo.load(folders / name)
    assert line == f'{out}: {type(model).__name__}, {params.num_params:,} parameters\n'
    bx.zoo.save(tmp_path / 'b', model, params, card=bx.zoo.read_card(folders / name))
    assert out.read_bytes() == (tmp_path / 'b').read_bytes()


def test_a_converted_file_predicts_as_its_folder(folders, tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / 'a.png')
    printed('convert', folders / 'vit-timm', tmp_path / 'a.safetensors')
    answers = [
        printed('predict', model, tmp_path / 'a.png', '--top', 3)
        for model in (folders / 'vit-timm', tmp_path / 'a.safetensors')
    ]
    assert answers[0] == answers[1]
    assert 'tröll' in answers[0]


def test_convert_casts(folders, tmp_path):
    out = tmp_path / 'a.safetensors'
    printed('convert', folders / 'gpt2-hf', out, '--dtype', 'bfloat16')
    params = bx.zoo.load(out)[1]
    assert {str(params[path].dtype) for path in params if path != 'rng'} == {'bfloat16'}


def test_convert_takes_wide_weights_to_a_dtype_alone(folders, tmp_path):
    wide = changed(
        folders / 'gpt2-hf', tmp_path / 'wide', lambda t: {n: v.astype(float) for n, v in t.items()}
    )
    assert 'JAX would cut float64' in fails('convert', wide, tmp_path / 'a.safetensors')
    printed('convert', wide, tmp_path / 'a.safetensors', '--dtype', 'float32')
    params, expected = bx.zoo.load(tmp_path / 'a.safetensors')[1], made('gpt2-hf')[1]
    assert (params['gpt2/norm/scale'].value == expected['gpt2/norm/scale'].value).all()


def test_convert_takes_weights_alone_by_name(tmp_path):
    model, params = bx.zoo.load('vit-digits')
    bx.zoo.export(tmp_path / 'timm', model, params, 'timm')
    weights, out = tmp_path / 'timm' / 'model.safetensors', tmp_path / 'a.safetensors'
    printed('convert', weights, out, '--as', 'vit-digits')
    assert (bx.zoo.load(out)[1]['vit/head/w'].value == params['vit/head/w'].value).all()


def test_a_state_of_a_training_checkpoint_is_converted_and_explained_by_name(tmp_path):
    model, params = bx.zoo.load('vit-digits')
    names = external(model, params, 'timm')
    both = {**names, **{f'ema_model.{name}': value + 1 for name, value in names.items()}}
    weights, out = tmp_path / 'last.safetensors', tmp_path / 'a.safetensors'
    write_tensors(weights, both, {})
    chosen = ('--as', 'vit-digits', '--state', 'ema_model')
    assert '  <-  ema_model.head.weight\n' in printed('explain', weights, *chosen)
    printed('convert', weights, out, *chosen)
    assert (bx.zoo.load(out)[1]['vit/head/w'].value == params['vit/head/w'].value + 1).all()
    assert "expected a state 'other'" in fails('explain', weights, *chosen[:3], 'other')
    for name in (weights, 'vit-digits'):
        said = fails('convert', name, tmp_path / 'b.safetensors', '--state', 'ema_model')
        assert 'is one of the states in a training checkpoint' in said


@pytest.mark.parametrize('command', ['convert', 'explain'])
def test_weights_alone_ask_for_a_name(folders, tmp_path, command):
    out = [tmp_path / 'a.safetensors'] if command == 'convert' else []
    line = fails(command, folders / 'gpt2-hf' / 'model.safetensors', *out)
    assert line.endswith('name it, as in --as resnet50')


@pytest.mark.parametrize(
    ('name', 'message'),
    [('vit-digit', 'nearest: vit-digits'), ('vit-digits', 'are of different models')],
)
def test_convert_refuses_a_name_that_is_not_the_models(folders, tmp_path, name, message):
    assert message in fails(
        'convert', folders / 'gpt2-hf', tmp_path / 'a.safetensors', '--as', name
    )


@pytest.mark.parametrize(
    ('out', 'message'),
    [
        ('old.safetensors', 'is there already'),
        ('link.safetensors', 'is there already'),
        ('new.bin', 'expected OUT to end in .safetensors'),
        ('no/such/a.safetensors', 'its folder is missing or not writable'),
    ],
)
def test_convert_refuses_where_it_cannot_write(folders, tmp_path, out, message):
    (tmp_path / 'old.safetensors').write_text('mine')
    (tmp_path / 'link.safetensors').symlink_to('nowhere')
    assert message in fails('convert', folders / 'gpt2-hf', tmp_path / out)
    assert (tmp_path / 'old.safetensors').read_text() == 'mine'
    assert len(list(tmp_path.iterdir())) == 2


def test_a_conversion_that_fails_leaves_nothing(folders, tmp_path):
    source, place = changed(folders / 'bert-hf', tmp_path / 'bert', with_nan), tmp_path / 'out'
    place.mkdir()
    assert 'expected finite values, found NaN' in fails('convert', source, place / 'a.safetensors')
    assert list(place.iterdir()) == []


def test_a_full_disk_leaves_nothing(folders, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    line = fails('convert', folders / 'gpt2-hf', tmp_path / 'a.safetensors')
    assert 'No space left on device' in line
    assert list(tmp_path.iterdir()) == []


def test_convert_refuses_an_unknown_dtype(folders, tmp_path):
    out = tmp_path / 'a.safetensors'
    assert "'int8' is not one of" in misused('convert', folders / 'gpt2-hf', out, '--dtype', 'int8')


@pytest.mark.parametrize('command', ['convert', 'explain', 'info'])
def test_a_torch_file_without_torch_is_one_line(folders, tmp_path, monkeypatch, command):
    shutil.copytree(folders / 'gpt2-hf', tmp_path / 'gpt2')
    (tmp_path / 'gpt2' / 'model.safetensors').unlink()
    (tmp_path / 'gpt2' / 'pytorch_model.bin').write_bytes(b'\x80\x02.')
    monkeypatch.setitem(sys.modules, 'torch', None)
    out = [tmp_path / 'a.safetensors'] if command == 'convert' else []
    assert 'install torch to read it' in fails(command, tmp_path / 'gpt2', *out)


# export


@pytest.mark.parametrize('name', FOLDERS)
def test_export_gives_the_folder_back(folders, tmp_path, name):
    printed('convert', folders / name, tmp_path / 'a.safetensors')
    layout = FOLDERS[name][1]
    format = layout if layout in ('timm', 'open_clip') else 'hf'
    line = printed('export', tmp_path / 'a.safetensors', tmp_path / 'new', '--format', format)
    files = sorted(path for path in (folders / name).rglob('*') if path.is_file())
    for path in files:
        again = tmp_path / 'new' / path.relative_to(folders / name)
        assert again.read_bytes() == path.read_bytes()
    top = sorted(path.name for path in (folders / name).iterdir())
    assert line == f'{tmp_path / "new"}: {", ".join(top)}\n'


def test_export_fills_an_empty_folder(tmp_path):
    printed('export', 'vit-digits', tmp_path)
    assert (bx.zoo.load(tmp_path)[1]['vit/head/w'].shape) == (96, 10)


@pytest.mark.parametrize('out', ['full', 'full/file', 'link'])
def test_export_replaces_nothing(tmp_path, out):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').write_text('mine')
    (tmp_path / 'link').symlink_to('nowhere')
    assert 'is no empty folder' in fails('export', 'vit-digits', tmp_path / out)
    assert (tmp_path / 'full' / 'file').read_text() == 'mine'
    assert list((tmp_path / 'full').iterdir()) == [tmp_path / 'full' / 'file']


@pytest.mark.parametrize(
    ('format', 'setting'),
    [('hf', "stem 'small'"), ('timm', 'depths (1, 1, 1) (expected 4 stages)')],
)
@pytest.mark.parametrize('command', ['export', 'verify'])
def test_what_no_library_has_is_one_line(tmp_path, command, format, setting):
    out = [tmp_path / 'new'] if command == 'export' else []
    line = fails(command, 'resnet-digits', *out, '--format', format)
    assert f'cannot express this ResNet: {setting}' in line
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_a_library_without_such_models(folders, tmp_path):
    line = fails('export', folders / 'gpt2-hf', tmp_path / 'new', '--format', 'timm')
    assert "'gpt2' has the layouts hf, nanogpt, not 'timm'" in line


def test_export_refuses_an_unknown_format(tmp_path):
    assert "'keras' is not one of" in misused('export', 'vit-digits', 'x', '--format', 'keras')


# explain


@pytest.mark.parametrize('name', FOLDERS)
def test_explain_says_what_becomes_of_each_name(folders, name):
    text = printed('explain', folders / name)
    fields = json.loads(printed('explain', folders / name, '--json'))
    (weights,) = (folders / name).glob('*.safetensors')
    tensors = load_file(weights)
    named = {theirs for entry in fields['entries'] for theirs in entry['theirs']}
    assert fields['ok']
    assert named | {*fields['ignored']} == set(tensors)
    assert all(
        f'  <-  {", ".join(entry["theirs"])}\n' in text + '\n' for entry in fields['entries']
    )


def test_explain_reads_no_weights(folders, tmp_path):
    printed('explain', changed(folders / 'bert-hf', tmp_path / 'bert', with_nan))


def test_explain_names_all_that_is_wrong_and_exits_with_one(folders, tmp_path):
    def change(tensors):
        gone, cut, *_ = sorted(tensors)
        kept = {name: value for name, value in tensors.items() if name != gone}
        return {**kept, cut: tensors[cut][:1], 'more': tensors[cut]}

    folder = changed(folders / 'gpt2-hf', tmp_path / 'gpt2', change)
    gone, cut, *_ = sorted(load_file(folders / 'gpt2-hf' / 'model.safetensors'))
    result = blox('explain', folder, '--json')
    fields = json.loads(result.stdout)
    assert (result.exit_code, blox('explain', folder).exit_code) == (1, 1)
    assert (fields['ok'], fields['missing'], fields['unexpected']) == (False, [gone], ['more'])
    assert [clause.split(':')[0] for clause in fields['mismatched']] == [cut]


@pytest.mark.parametrize('name', ['no/such.safetensors', './nosuch'])
def test_a_path_that_is_not_there_is_no_repository(name):
    assert fails('explain', name).endswith('No such file or directory')


@pytest.mark.parametrize('source', ['vit-digits', 'own'])
def test_explain_refuses_what_is_our_own(folders, tmp_path, source):
    printed('convert', folders / 'gpt2-hf', tmp_path / 'own.safetensors')
    source = tmp_path / 'own.safetensors' if source == 'own' else source
    assert fails('explain', source).endswith('is of no other library: there is nothing to explain')


# verify, as far as it goes without other libraries: see parity/test_cli_reference.py for more.


@pytest.mark.parametrize('format', ['hf', 'timm'])
def test_verify_without_the_libraries_is_one_line(monkeypatch, format):
    monkeypatch.setitem(sys.modules, 'torch', None)
    result = blox('verify', 'vit-digits', '--format', format)
    assert result.exit_code == 1
    assert result.stderr == 'Error: a comparison needs torch: pip install torch\n'
    assert result.stdout == 'vit-digits: as it was saved, all values finite\n'


def test_verify_names_the_tensor_whose_bytes_changed(tmp_path):
    bx.zoo.save(tmp_path / 'a.safetensors', *bx.zoo.load('vit-digits'))
    file = TensorFile(tmp_path / 'a.safetensors')
    flip(tmp_path / 'a.safetensors', file.tensors['vit/head/w'].start)
    line = fails('verify', tmp_path / 'a.safetensors')
    assert "tensor 'vit/head/w': expected the bytes that were saved, found others" in line


@pytest.mark.parametrize(
    ('against', 'flags', 'message'),
    [
        ('gpt2-hf', [], 'is of another model: '),
        ('vit-hf', [], 'is of another model: '),
        ('vit-hf', ['--format', 'timm'], 'is no folder or repository of the library'),
        ('nowhere', [], 'is no folder or repository of the library'),
    ],
)
def test_verify_refuses_to_compare_with_another_model(folders, against, flags, message):
    line = fails('verify', 'vit-digits', '--against', folders / against, *flags)
    assert message in line
