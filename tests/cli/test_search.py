"""`blox search`, and what other commands do with images and texts of one model."""

import io
import json
import os
import shutil

import numpy as np
import pytest
from commands import DIGITS, blox, fails, printed, write_clip, write_encoder
from helpers import table

import blox as bx


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp('models') / 'clip.safetensors')


@pytest.fixture
def photos(tmp_path):
    return shutil.copytree(DIGITS, tmp_path / 'photos')


def cosines(file, folder, query):
    """What the library makes of a query and of each image in a folder."""
    model, params = bx.zoo.load(file)
    prepare, texts = bx.zoo.preprocessor(file), bx.zoo.text_preprocessor(file)
    files = sorted(folder.glob('*.png'))
    outputs, _ = model(params, np.concatenate([prepare(f) for f in files]), texts([query]).tokens)
    found = outputs.image_embedding @ outputs.text_embedding[0]
    return sorted(zip(map(float, found), map(str, files)), reverse=True)


def test_search_finds_the_images_that_are_most_like_a_text(clip, photos):
    lines = printed('search', clip, photos, 'a cat', '--top', 3).splitlines()
    expected = cosines(clip, photos, 'a cat')[:3]
    assert [line.split('  ')[1] for line in lines] == [file for _, file in expected]
    np.testing.assert_allclose(
        [float(line[:6]) for line in lines], [cosine for cosine, _ in expected], atol=6e-4
    )


def test_search_takes_several_texts_and_images(clip, photos):
    query = photos / '3.png'
    text = printed('search', clip, photos, query, 'a cat', '--top', 2, '--json')
    of_image, of_text = json.loads(text)
    assert (of_image['query'], of_text['query']) == (str(query), 'a cat')
    assert of_image['images'][0] == {'file': str(query), 'cosine': pytest.approx(1, abs=1e-6)}
    assert of_text['images'][0]['file'] == cosines(clip, photos, 'a cat')[0][1]
    lines = printed('search', clip, photos, query, 'a cat', '--top', 1).splitlines()
    assert [lines[0], lines[2]] == [f'{query}:', 'a cat:']


def test_search_by_image_needs_no_texts(photos):
    (found,) = json.loads(printed('search', 'vit-digits', photos, photos / '3.png', '--json'))
    assert found['images'][0]['cosine'] == pytest.approx(1, abs=1e-6)


def test_an_index_gives_the_same_and_is_kept_up_to_date(clip, photos, tmp_path):
    index = tmp_path / 'index.npz'
    args = ('search', clip, photos, 'a cat', '--top', 20)
    plain = printed(*args)
    assert printed(*args, '--index', index) == plain
    # What is kept is what is used.
    with np.load(index) as arrays:
        kept = dict(arrays)
    np.savez(index, **{**kept, 'vectors': -kept['vectors']})
    turned = printed(*args, '--index', index).splitlines()
    assert [line.split('  ')[1] for line in turned] == [
        line.split('  ')[1] for line in reversed(plain.splitlines())
    ]
    # One file is new and one has changed: these are embedded, the others are as they were kept.
    shutil.copy(photos / '3.png', photos / 'new.png')
    shutil.copy(photos / '3.png', photos / '4.png')
    os.utime(photos / '4.png', ns=(1, 1))
    found = {}
    for line in printed(*args, '--index', index).splitlines():
        found[line.split('  ')[1]] = float(line[:6])
    three, four, new = (found[str(photos / name)] for name in ('3.png', '4.png', 'new.png'))
    assert four == new == pytest.approx(-three, abs=1e-3)


def test_an_index_of_another_model_is_refused_and_kept(clip, photos, tmp_path):
    index, other = tmp_path / 'index.npz', write_clip(tmp_path / 'other.safetensors', embed_dim=8)
    printed('search', clip, photos, 'a', '--index', index)
    before = index.read_bytes()
    assert 'is the index of another model, or of other weights' in fails(
        'search', other, photos, 'a', '--index', index
    )
    assert index.read_bytes() == before


def saved(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def array():
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


ROWS = np.zeros((1, 16), np.float32)
NO_INDEX = {
    'empty': b'',
    'text': b'nothing',
    'half a zip': b'PK\x03\x04',
    'an array': array(),
    'other names': saved(a=ROWS),
    'no axis': saved(stamps=np.array('a'), vectors=ROWS, model='x'),
    'more rows': saved(stamps=np.array(['a', 'b']), vectors=ROWS, model='x'),
    'float64': saved(stamps=np.array(['a']), vectors=ROWS.astype(float), model='x'),
    'objects': saved(stamps=np.array([1]), vectors=ROWS, model='x'),
}


@table(NO_INDEX)
def test_what_is_no_index_is_refused_and_kept(row, clip, photos, tmp_path):
    (tmp_path / 'index.npz').write_bytes(row)
    line = fails('search', clip, photos, 'a', '--index', tmp_path / 'index.npz')
    assert 'expected an index that blox search wrote' in line
    assert (tmp_path / 'index.npz').read_bytes() == row


def test_an_index_keeps_what_other_folders_hold_and_is_read_alone_if_it_has_all(
    clip, photos, tmp_path
):
    index, more = tmp_path / 'kept' / 'index.npz', shutil.copytree(photos, tmp_path / 'more')
    index.parent.mkdir()
    for folder in (photos, more, photos):
        printed('search', clip, folder, 'a', '--index', index)
    with np.load(index) as arrays:
        assert len(arrays['stamps']) == 2 * len([*photos.glob('*.png')])
    before = index.stat().st_mtime_ns
    printed('search', clip, more, 'a', '--index', index)
    assert index.stat().st_mtime_ns == before


def test_an_index_that_cannot_be_written_is_said_before_the_work(clip, photos, tmp_path):
    line = fails('search', clip, photos, 'a', '--index', tmp_path / 'none' / 'index.npz')
    assert 'its folder is missing or not writable' in line


def test_what_is_no_file_is_passed_over_and_what_is_gone_is_reported(clip, photos, tmp_path):
    (photos / 'folder.png').mkdir()
    os.mkfifo(photos / 'pipe.png')
    shutil.copy(photos / '3.png', photos / '._hidden.png')
    plain = printed('search', clip, photos, 'a', '--top', 99)
    (photos / 'broken.png').symlink_to(photos / 'nowhere.png')
    result = blox('search', clip, photos, 'a', '--top', 99)
    assert (result.exit_code, result.stdout) == (1, plain)
    assert result.stderr == f'{photos / "broken.png"}: No such file or directory\n'


def test_a_file_is_an_image_whatever_it_is_called(clip, photos, tmp_path):
    shutil.copy(photos / '3.png', tmp_path / 'three')
    line = printed('search', clip, photos, tmp_path / 'three', '--top', 1)
    assert line == f' 1.000  {photos / "3.png"}\n'
    found = json.loads(printed('embed', clip, tmp_path / 'three', photos / '3.png', '--json'))
    np.testing.assert_array_equal(*found)


def test_texts_of_any_length_are_texts(clip, photos):
    for args in (('search', clip, photos), ('embed', clip)):
        result = blox(*args, 'a ' * 1000, 'a', '')
        assert result.exit_code == 0
        assert 'cut to its first 40 tokens' in result.stderr


def test_files_that_cannot_be_read_are_reported_and_tried_again(clip, photos, tmp_path):
    (photos / '5.png').write_bytes(b'')
    for _ in range(2):
        result = blox('search', clip, photos, 'a', '--index', tmp_path / 'i.npz', '--top', 99)
        assert result.exit_code == 1
        assert str(photos / '5.png') in result.stderr
        assert len(result.stdout.splitlines()) == len([*photos.glob('*.png')]) - 1


def test_what_cannot_be_searched_is_one_line(clip, photos, tmp_path):
    encoder = write_encoder(tmp_path / 'encoder.safetensors')
    assert 'expected a model of images' in fails('search', encoder, photos, 'a')
    line = fails('search', 'vit-digits', photos, 'a cat')
    assert "embeds images alone: expected the file of one, found 'a cat'" in line
    assert 'expected a folder of images' in fails('search', clip, photos / '3.png', 'a')
    assert 'found the folder' in fails('search', clip, photos, photos)
    (tmp_path / 'empty').mkdir()
    assert 'holds no images' in fails('search', clip, tmp_path / 'empty', 'a')


# Embedding and predicting.


def test_embed_takes_images_and_texts_together(clip, photos, tmp_path):
    out, table = tmp_path / 'a.npy', tmp_path / 'a.csv'
    printed('embed', clip, photos, 'a cat', photos / '3.png', '--npy', out)
    printed('embed', clip, photos, 'a cat', photos / '3.png', '--csv', table)
    files, found = sorted(photos.glob('*.png')), np.load(out)
    model, params = bx.zoo.load(clip)
    images = np.concatenate([bx.zoo.preprocessor(clip)(file) for file in files])
    texts = bx.zoo.text_preprocessor(clip)(['a cat']).tokens
    outputs, _ = model(params, images, texts)
    expected = np.concatenate([outputs.image_embedding, outputs.text_embedding])
    np.testing.assert_allclose(found[:-1], expected, atol=1e-6)
    np.testing.assert_array_equal(found[-1], found[files.index(photos / '3.png')])
    head, *rows = table.read_text().splitlines()
    assert head.split(',') == ['input', *map(str, range(16))]
    assert [row.split(',')[0] for row in rows] == [*map(str, files), 'a cat', str(photos / '3.png')]
    np.testing.assert_allclose([list(map(float, row.split(',')[1:])) for row in rows], found)


def test_embed_of_a_classifier_is_what_its_head_sees(photos):
    files = [photos / '1.png', photos / '2.png']
    found = json.loads(printed('embed', 'vit-digits', *files, '--json'))
    model, params = bx.zoo.load('vit-digits')
    images = np.concatenate([bx.zoo.preprocessor('vit-digits')(file) for file in files])
    expected, _ = model.features(params, images, ['pre_logits'])
    np.testing.assert_allclose(found, expected['pre_logits'], atol=1e-5)


def test_embed_says_what_a_model_does_not_take(photos, tmp_path):
    lines = tmp_path / 'lines.txt'
    lines.write_text('a\n')
    line = fails('embed', 'vit-digits', photos / '3.png', '--file', lines, '--json')
    assert 'embeds no texts' in line
    assert 'expected texts to put a prompt before' in fails(
        'embed', 'vit-digits', photos / '3.png', '--prompt', 'x'
    )
    result = blox('embed', 'vit-digits', photos / '3.png', photos / 'none.png', '--json')
    assert (result.exit_code, json.loads(result.stdout)[1]) == (1, None)
    assert f'{photos / "none.png"}: No such file' in result.stderr


@pytest.mark.parametrize('bias', [False, True])
def test_predict_takes_any_labels(tmp_path, photos, bias):
    file = write_clip(tmp_path / 'clip.safetensors', logit_bias=bias)
    args = ('predict', file, photos / '3.png', photos / '4.png', '--top', 2, '--json')
    rows = json.loads(printed(*args, '--labels', 'a cat, a dog', '--template', '{}'))
    model, params = bx.zoo.load(file)
    prepare = bx.zoo.text_preprocessor(file)
    labels = bx.zoo.label_embeddings(model, params, prepare, ['a cat', 'a dog'], ['{}'])
    images = np.concatenate([bx.zoo.preprocessor(file)(photos / f'{i}.png') for i in (3, 4)])
    x, _ = model.encode_image(params, images, normalize=True)
    logits = np.asarray(model.similarity(params, x, labels)[0], np.float64)
    scores = 1 / (1 + np.exp(-logits))
    if not bias:
        scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for row, expected in zip(rows, scores):
        found = {answer['label']: answer['probability'] for answer in row['classes']}
        assert found == pytest.approx(dict(zip(['a cat', 'a dog'], expected)), rel=1e-4)


def test_a_label_is_the_mean_of_its_templates(clip):
    model, params = bx.zoo.load(clip)
    prepare = bx.zoo.text_preprocessor(clip)
    templates = ['a {}', 'the {} of {}', '{}']
    found = bx.zoo.label_embeddings(model, params, prepare, ['cat', 'dog'], templates)
    texts = [template.replace('{}', label) for label in ('cat', 'dog') for template in templates]
    each, _ = model.encode_text(params, prepare(texts).tokens, normalize=True)
    mean = np.asarray(each).reshape(2, 3, -1).mean(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, mean, rtol=0, atol=1e-6)


def test_predict_reads_labels_of_a_file(clip, photos, tmp_path):
    (tmp_path / 'labels.txt').write_bytes(b'a cat, asleep\r\n\r\na dog\n')
    args = ('predict', clip, photos / '3.png', '--top', 9, '--template', '{}', '--json')
    more = ('--labels', f'@{tmp_path / "labels.txt"}', '--labels', 'a fox')
    (row,) = json.loads(printed(*args, *more))
    assert {answer['label'] for answer in row['classes']} == {'a cat, asleep', 'a dog', 'a fox'}


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], 'knows no labels of its own: name some with --labels'),
        (['--labels', ' , '], "--labels ' , ': expected labels, found none"),
        (['--labels', '@'], 'expected the name of a file after @'),
        (['--labels', 'a'], 'divides 100 % among the labels: expected two or more'),
        (['--labels', 'a,' + 'b' * 60], 'expected a text of at most 40 tokens, found more'),
        (['--labels', 'a,\udcff'], r"labels and templates in UTF-8, found '\udcff'"),
        (['--labels', 'a,a'], "expected each label once, found 'a' twice"),
        (['--labels', 'a,c', '--template', 'b'], "templates with {} for a label, found 'b'"),
        (['--labels', 'a,c', '--first', 'b'], 'is for zero-shot-image-classification'),
        (['--labels', '@nowhere.txt'], 'nowhere.txt'),
    ],
)
def test_predict_says_what_is_wrong_with_labels(clip, photos, args, message):
    assert message in fails('predict', clip, photos / '3.png', *args)


def test_models_with_labels_of_their_own_take_no_others(photos):
    for option in ('--labels', '--template'):
        line = fails('predict', 'vit-digits', photos / '3.png', option, 'a')
        assert 'is for image-classification, which takes no labels and no templates' in line
