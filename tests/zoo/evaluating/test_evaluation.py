"""`bx.zoo.evaluate` on images, texts and pairs: what is read, what is found, and going on."""

import csv
import dataclasses
import math
import os
import re
import shutil

import numpy as np
import pytest
from commands import END, byte_tokenizer, write_clip, write_encoder, write_model
from helpers import EXAMPLES
from PIL import Image
from sklearn.datasets import load_digits

import blox as bx
from blox.atomic import lock
from blox.tensorfile import CheckpointError
from blox.zoo.evaluating.examples import class_numbers


@pytest.fixture(scope='module')
def digits():
    model, params = bx.zoo.load('vit-digits')
    return model, params, bx.zoo.card('vit-digits')


def write_digits(root, images, targets):
    for i, (image, target) in enumerate(zip(images, targets)):
        folder = root / str(target)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    """Sixty of the digits on which the models in the package were tested, or trained."""
    pixels, targets = load_digits(return_X_y=True)
    images = pixels[:60].reshape(60, 8, 8)
    return write_digits(tmp_path_factory.mktemp('photos'), images, targets[:60])


def evaluate(digits, data, **options):
    model, params, card = digits
    return bx.zoo.evaluate(model, params, data, card=card, **options)


# Images.


def test_a_folder_of_classes_is_measured_as_the_model_predicts(digits, photos):
    found = evaluate(digits, photos)
    model, params, card = digits
    files = sorted(photos.rglob('*.png'))
    logits = np.asarray(model(params, bx.zoo.preprocessor('vit-digits')(files))[0])
    targets = np.array([int(file.parent.name) for file in files])
    assert found.examples == 60
    assert found.metrics['accuracy'] == (logits.argmax(1) == targets).mean()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(60), targets]
    assert found.metrics['loss'] == pytest.approx(expected.mean(), abs=1e-5)
    by_name = {item.name: item for item in found.items}
    assert by_name.keys() == {str(file) for file in files}
    assert by_name[str(files[0])].predicted == str(logits[0].argmax())
    assert found.confusion is not None
    assert found.confusion.sum() == 60
    assert found.labels == card.labels
    text = repr(found)
    assert text.startswith(f'{photos}: 60 examples\naccuracy ')
    assert re.search(r'^3 +\d\.\d{3}  ', text, re.MULTILINE)


def test_parts_of_a_folder_that_train_a_model_are_left_alone(digits, photos, tmp_path):
    for part in ('train', 'val', 'test'):
        shutil.copytree(photos / '3', tmp_path / part / '3')
    (tmp_path / 'test' / '3' / min(p.name for p in (photos / '3').iterdir())).unlink()
    count = len([*(photos / '3').iterdir()])
    assert evaluate(digits, tmp_path).examples == count - 1
    shutil.rmtree(tmp_path / 'test')
    assert evaluate(digits, tmp_path).examples == count
    shutil.rmtree(tmp_path / 'val')
    with pytest.raises(
        ValueError, match=r'found train, of which train hold classes\. Name the one'
    ):
        evaluate(digits, tmp_path)
    shutil.copytree(photos / '3', tmp_path / 'Test' / '3')
    with pytest.raises(ValueError, match=r'found Test, train, of which Test, train hold classes'):
        evaluate(digits, tmp_path)


def test_images_beside_classes_are_told_and_pipes_passed_over(digits, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / 'photos')
    os.mkfifo(folder / '3' / 'pipe.png')
    assert evaluate(digits, folder).examples == 60
    shutil.copy(next((photos / '3').iterdir()), folder / 'loose.png')
    with pytest.raises(ValueError, match=r'found images beside them: loose\.png'):
        evaluate(digits, folder)


def test_a_csv_file_names_files_and_labels(digits, photos, tmp_path):
    files = sorted(photos.rglob('*.png'))[:5]
    rows = [f'{file},{file.parent.name}' for file in files]
    (tmp_path / 'a.csv').write_text('\n'.join(['image,label', *rows]))
    found = evaluate(digits, tmp_path / 'a.csv')
    assert [item.name for item in found.items] == [str(file) for file in files]


def test_files_that_cannot_be_read_are_told_and_left_out(digits, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / 'photos')
    (folder / '3' / 'broken.png').write_bytes(b'no image')
    told = []
    found = evaluate(digits, folder, note=lambda name, what: told.append((name, what)))
    assert (found.examples, found.left_out) == (60, 1)
    ((name, what),) = told
    assert name.endswith('broken.png')
    assert 'image' in what


def test_an_interrupted_evaluation_goes_on(digits, photos, tmp_path):
    whole, journal = evaluate(digits, photos, journal=tmp_path / 'a.jsonl'), tmp_path / 'b.jsonl'
    lines = (tmp_path / 'a.jsonl').read_bytes().splitlines(keepends=True)
    assert len(lines) == 61
    # As it is after a crash in the middle of a line. What is there is believed.
    index, *values = lines[1].decode().strip('[]\n').split(', ')
    changed = f'[{index}, 9.0, 2.0, {values[2]}, {values[3]}]\n'.encode()
    journal.write_bytes(b''.join([lines[0], changed, *lines[2:30], lines[30][:9]]))
    found = evaluate(digits, photos, journal=journal)
    assert len(journal.read_bytes().splitlines()) == 61
    assert found.items[0].predicted == '9'
    assert [item[:3] for item in found.items[1:]] == [item[:3] for item in whole.items[1:]]
    again = evaluate(digits, photos, journal=journal)
    assert again.metrics == found.metrics


def test_a_journal_is_of_one_model_and_one_set_of_examples(digits, photos, tmp_path):
    model, params, card = digits
    journal = tmp_path / 'a.jsonl'
    evaluate(digits, photos, journal=journal)
    shutil.copytree(photos / '3', tmp_path / 'other' / '3')
    last = params['vit/block5/mlp/fc1/w'].value
    others = {
        'weights': (params.set('vit/block5/mlp/fc1/w', last.at[-1, -1].add(1)), card, photos),
        'data': (params, card, tmp_path / 'other'),
        'scores': (params, dataclasses.replace(card, scores='sigmoid'), photos),
        'preprocessing': (
            *(
                params,
                dataclasses.replace(
                    card, preprocessor=dataclasses.replace(card.preprocessor, mean=(0.4,))
                ),
            ),
            photos,
        ),
    }
    for what, (own, said, data) in others.items():
        with pytest.raises(CheckpointError, match=rf'of another evaluation: {what}: expected'):
            evaluate((model, own, said), data, journal=journal)
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for content in (
        b'[9999, 1, 1, 0.5, 0.5]\n',
        b'[-1, 1, 1, 0.5, 0.5]\n',
        b'[0, 1]\n',
        b'[0, "x"]\n',
    ):
        journal.write_bytes(lines[0] + content)
        with pytest.raises(CheckpointError, match='expected lines that an evaluation wrote'):
            evaluate(digits, photos, journal=journal)
    journal.write_bytes(whole.replace(b'\n', b'\r\n'))
    assert evaluate(digits, photos, journal=journal).examples == 60


@pytest.mark.parametrize('content', [b'my only copy', b'no journal\n', b'{"a": 1}\n'])
def test_a_file_that_no_evaluation_wrote_is_left_as_it_is(digits, photos, tmp_path, content):
    (tmp_path / 'a').write_bytes(content)
    with pytest.raises(CheckpointError, match='expected a file that an evaluation wrote'):
        evaluate(digits, photos, journal=tmp_path / 'a')
    assert (tmp_path / 'a').read_bytes() == content


def test_one_process_writes_a_journal_at_a_time(digits, photos, tmp_path):
    evaluate(digits, photos, journal=tmp_path / 'a')
    with open(tmp_path / 'a', 'rb') as file:
        assert lock(file.fileno()) is True
        with pytest.raises(CheckpointError, match='another process is writing it'):
            evaluate(digits, photos, journal=tmp_path / 'a')


def test_scores_that_are_not_finite_are_told_and_left_out(digits, photos):
    model, params, card = digits
    broken = params.set('vit/head/b', np.full(10, np.nan, np.float32))
    with pytest.raises(ValueError, match='none of 60 examples could be read'):
        evaluate((model, broken, card), photos)


def test_a_card_of_another_model_is_refused(photos):
    model, params = bx.zoo.load('vit-digits', num_classes=3)
    with pytest.raises(
        ValueError, match=r"card of 'vit-digits' is of another model: bx.zoo.read_card"
    ):
        bx.zoo.evaluate(model, params, photos, card='vit-digits')
    one, params = bx.zoo.load('vit-digits', num_classes=1)
    card = bx.zoo.read_card('vit-digits', num_classes=1)
    with pytest.raises(ValueError, match='has 1 class; expected a model that tells classes apart'):
        bx.zoo.evaluate(one, params, photos, card=card)


@pytest.mark.parametrize(
    ('names', 'labels', 'count', 'expected'),
    [
        (['cat', 'dog'], ('dog', 'cat'), 2, {'cat': 1, 'dog': 0}),
        (['Tench'], ('goldfish', 'tench, Tinca tinca'), 2, {'Tench': 1}),
        (['cafe\u0301'], ('x', 'caf\u00e9'), 2, {'cafe\u0301': 1}),
        (['1', '0'], ('a', 'b'), 2, {'0': 0, '1': 1}),
        (['n02', 'n01'], ('a', 'b'), 2, {'n01': 0, 'n02': 1}),
        (['c10', 'c9'], (), 2, {'c9': 0, 'c10': 1}),
    ],
)
def test_classes_are_known_by_label_synonym_number_or_order(names, labels, count, expected):
    found, how = class_numbers(names, labels, count, in_order=True)
    assert found == expected
    assert (how != '') is (min(names)[0] in 'nc' and 'cat' not in names and len(names) > 1)


@pytest.mark.parametrize(
    ('names', 'labels', 'in_order', 'unknown'),
    [
        (['a', 'x', 'y', 'b'], ('a', 'b', 'c'), True, "'x', 'y'"),
        # A slip of the pen is no other order, nor is an empty cell a name.
        (
            ['negative', 'netural', 'positive'],
            ('positive', 'neutral', 'negative'),
            True,
            "'netural'",
        ),
        (['', 'p', 'q'], ('x', 'y', 'z'), True, "'', 'p', 'q'"),
        (['cat', 'dog', 'emu'], ('a dog', 'a cat', 'an emu'), False, "'cat', 'dog', 'emu'"),
        # What is of two classes is of none.
        (['crane', 'bird'], ('crane', 'bird', 'crane'), True, "'crane'"),
    ],
)
def test_names_that_no_class_has_are_refused(names, labels, in_order, unknown):
    with pytest.raises(ValueError, match=rf"model's 3 classes \(.*\).*{unknown}$"):
        class_numbers(names, labels, 3, in_order=in_order)


def test_directories_in_another_order_are_said_to_be_taken_so(digits, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / 'photos')
    for i in range(10):
        (folder / str(i)).rename(folder / f'class{i}')
    found = evaluate(digits, folder)
    assert found.data == f'{folder} (classes in the order of names)'
    assert found.metrics == evaluate(digits, photos).metrics


def test_a_picture_shows_what_is_taken_for_what(digits, photos, tmp_path):
    evaluate(digits, photos).save_png(tmp_path / 'a.png')
    with Image.open(tmp_path / 'a.png') as image:
        assert image.size == (1200, 600)


@pytest.mark.parametrize('bias', [False, True], ids=['softmax', 'sigmoid'])
def test_two_towers_are_measured_by_names_of_classes(photos, tmp_path, bias):
    path = write_clip(tmp_path / 'a.safetensors', logit_bias=bias)
    (model, params), card = bx.zoo.load(path), bx.zoo.read_card(path)
    found = bx.zoo.evaluate(model, params, photos, card=card, templates=['a {}'])
    assert found.labels == tuple('0123456789')
    assert ('loss' in found.metrics) is not bias
    prepare = bx.zoo.text_preprocessor(path)
    vectors = bx.zoo.label_embeddings(model, params, prepare, found.labels, ['a {}'])
    files = sorted(photos.rglob('*.png'))
    images, _ = model.encode_image(params, bx.zoo.preprocessor(path)(files), normalize=True)
    logits = np.asarray(model.similarity(params, images, vectors)[0])
    assert [item.predicted for item in found.items] == [str(i) for i in logits.argmax(1)]


# Texts.


@pytest.fixture(scope='module')
def writer(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp('models') / 'writer.safetensors', context=16)
    return *bx.zoo.load(path), bx.zoo.read_card(path)


def test_bits_per_byte_are_those_of_every_token_from_its_beginning(writer, tmp_path):
    model, params, card = writer
    texts = {'a.txt': 'Grün ist die Heide, die Heide ist grün.', 'b.txt': 'Kurz.'}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    found = bx.zoo.evaluate(model, params, tmp_path, card=card)
    tokenizer, nats, count = byte_tokenizer(), 0.0, 0
    for text in texts.values():
        ids = [tokenizer.token_to_id(END), *tokenizer.encode(text).ids]
        for start in range(0, len(ids) - 1, 16):
            window = np.array(ids[start : start + 17])
            logits = np.asarray(model(params, window[None, :-1])[0], np.float64)[0]
            logs = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), window[1:]]
            nats, count = nats + logs.sum(), count + len(logs)
    size = sum(len(text.encode()) for text in texts.values())
    assert found.metrics == pytest.approx(
        {
            'bits_per_byte': nats / math.log(2) / size,
            'loss': nats / count,
            'perplexity': math.exp(nats / count),
        },
        rel=1e-5,
    )
    alone = bx.zoo.evaluate(model, params, tmp_path / 'a.txt', card=card)
    assert alone.data == f'{tmp_path / "a.txt"}, 41 tokens and 41 bytes'


def test_where_no_token_begins_texts_the_first_is_not_counted(writer, tmp_path):
    _, params, card = writer
    model = bx.zoo.create('gpt2', **{**vars(card.config), 'end_tokens': ()})
    (tmp_path / 'a.txt').write_text('üx')
    found = bx.zoo.evaluate(
        model, params, tmp_path, card=dataclasses.replace(card, config=model.config)
    )
    # Of the bytes of a letter the tokenizer says that each is the whole.
    assert found.data == f'{tmp_path}, 2 tokens and 1 byte'
    assert found.metrics['bits_per_byte'] == pytest.approx(2 * found.metrics['loss'] / math.log(2))


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    path = write_encoder(
        tmp_path_factory.mktemp('models') / 'a.safetensors',
        task='text-classification',
        num_classes=2,
        card={'labels': ('bad', 'good')},
    )
    return *bx.zoo.load(path), bx.zoo.read_card(path), bx.zoo.text_preprocessor(path)


@pytest.mark.parametrize('pairs', [False, True])
def test_texts_are_classified_as_the_model_does(classifier, tmp_path, pairs):
    model, params, card, prepare = classifier
    cells = [('ab', 'c'), ('d, "e"', 'f'), ('g\nh', 'i'), ('j', 'k')]
    texts = cells if pairs else [text for text, _ in cells]
    with open(tmp_path / 'a.csv', 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['text', 'text2', 'label'] if pairs else ['text', 'label'])
        for row, label in zip(cells, ('good', 'bad', 'good', 'good')):
            writer.writerow([*row[: 1 + pairs], label])
    found = bx.zoo.evaluate(model, params, tmp_path / 'a.csv', card=card)
    logits = np.asarray(model(params, *prepare(texts, prompt=''))[0])
    assert [item.predicted for item in found.items] == [card.labels[i] for i in logits.argmax(1)]
    assert found.metrics['accuracy'] == (logits.argmax(1) == [1, 0, 1, 1]).mean()


def test_texts_that_are_too_long_or_empty_are_told(tmp_path):
    path = write_encoder(
        tmp_path / 'a.safetensors', ends=False, task='text-classification', num_classes=2
    )
    (model, params), card = bx.zoo.load(path), bx.zoo.read_card(path)
    (tmp_path / 'a.csv').write_text(f'text,label\n{"a" * 100},0\n"",1\nb,1\n')
    told = []
    found = bx.zoo.evaluate(
        model, params, tmp_path / 'a.csv', card=card, note=lambda name, what: told.append(what)
    )
    assert (found.examples, found.left_out) == (2, 1)
    assert told[-1] == 'cut to their first 64 tokens'
    assert len(told) == 2


def test_pairs_are_correlated_by_cosine(tmp_path):
    path = write_encoder(tmp_path / 'a.safetensors')
    (model, params), card = bx.zoo.load(path), bx.zoo.read_card(path)
    pairs = [('a b', 'a c'), ('x', 'yyy'), ('k', 'k'), ('a b', 'zz')]
    rows = [f'{a},{b},{score}' for (a, b), score in zip(pairs, (3, 1, 5, 2))]
    (tmp_path / 'a.csv').write_text('\n'.join(['sentence1,sentence2,score', *rows]))
    found = bx.zoo.evaluate(model, params, tmp_path / 'a.csv', card=card)
    prepare = bx.zoo.text_preprocessor(path)
    vectors = [np.asarray(model(params, *prepare(x))[0].embedding) for x in zip(*pairs)]
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors)
    expected = np.corrcoef((a * b).sum(1), [3, 1, 5, 2])[0, 1]
    assert found.metrics['pearson'] == pytest.approx(expected, abs=1e-5)
    assert found.metrics.keys() == {'spearman', 'pearson'}
    assert found.items[1] == ('x', 'yyy', 1.0, pytest.approx((a * b).sum(1)[1], abs=1e-5))
    (tmp_path / 'a.csv').write_text('sentence1,sentence2,score\na,b,1\nc,d,1\n')
    with pytest.raises(ValueError, match='expected two different scores or more, found 1'):
        bx.zoo.evaluate(model, params, tmp_path / 'a.csv', card=card)
    (tmp_path / 'a.csv').write_text('Sentence1;Sentence2; Score\na;b;1\nc;d;nan\n')
    with pytest.raises(ValueError, match=r'finite number as the score of row 2, found .nan.'):
        bx.zoo.evaluate(model, params, tmp_path / 'a.csv', card=card)


# What cannot be measured.


def test_data_that_is_not_there_or_not_such_data_is_refused(digits, writer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*nothing': expected a folder or a file"):
        evaluate(digits, tmp_path / 'nothing')
    with pytest.raises(ValueError, match='expected a directory of images for each class'):
        evaluate(digits, tmp_path)
    table = tmp_path / 'a.csv'
    for content, message in {
        'x,y\n1,2\n': r'first line names a column file \(or path, .*\), found x, y',
        '': 'first line names a column file .*, found none',
        'file,label\n': 'expected rows below the names',
        'file,label\na.png\n': 'expected 2 cells, .* ends in line 2, found 1',
        'file,label\n\n"a\nb",7\na.png,7,8\n': 'expected 2 cells, .* ends in line 5, found 3',
        'file,label,label\na.png,7,8\n': 'expected one column label, found several',
        f'file,label\n{"a" * 200_000},7\n': 'none of 1 example could be read',
        'file,label\na.png,12\n': r"model's 10 classes \(0, 1, 2, 3, 4, and 5 more\)",
    }.items():
        table.write_text(content)
        with pytest.raises(ValueError, match=message):
            evaluate(digits, table)
    table.write_text('file,label\nno.png,7\n')
    with pytest.raises(ValueError, match='none of 1 example could be read'):
        evaluate(digits, table)
    table.write_bytes(b'\xff')
    with pytest.raises(ValueError, match='expected text in UTF-8'):
        evaluate(writer, table)
    table.write_bytes(b'')
    with pytest.raises(ValueError, match='expected a text, found nothing'):
        evaluate(writer, table)


def test_models_that_have_no_classes_are_refused(digits, photos, tmp_path):
    model, params, card = digits
    with pytest.raises(ValueError, match=r"'vit-digits' gives values; expected a model that tells"):
        evaluate((model, params, dataclasses.replace(card, scores='none')), photos)
    for options in ({'labels': ['a', 'b']}, {'templates': ['a {}']}):
        with pytest.raises(ValueError, match='takes no labels and no templates'):
            evaluate(digits, photos, **options)
    with pytest.raises(ValueError, match='expected lists of labels and of templates'):
        evaluate(digits, photos, labels='ab')
    path = write_encoder(tmp_path / 'a.safetensors', task='fill-mask')
    with pytest.raises(ValueError, match='is for fill-mask; classifiers of images and texts'):
        bx.zoo.evaluate(*bx.zoo.load(path), photos, card=bx.zoo.read_card(path))


def test_of_a_table_with_parts_the_test_is_measured(digits, tmp_path):
    rows = [
        f'{EXAMPLES}/digits/{i}.png,{i},{part}'
        for i, part in ((1, 'train'), (2, 'val'), (3, 'test'))
    ]
    table = tmp_path / 'parts.csv'
    for kept, expected in ((rows, '3'), (rows[:2], '2')):
        table.write_text('\n'.join(['file,label,split', *kept]))
        (item,) = evaluate(digits, table).items
        assert item.label == expected
    table.write_text('file,label,split\n' + rows[0])
    with pytest.raises(ValueError, match='expected rows of test or val'):
        evaluate(digits, table)
