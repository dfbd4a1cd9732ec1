"""The models in the wheel: small, described, and as good as their cards say."""

import platform
import re
import subprocess
import sys
from pydoc_data.topics import topics

import jax
import numpy as np
import pytest
from helpers import EXAMPLES, example

import blox as bx
from blox.zoo.catalog.entries import WEIGHTS

DIGIT_MODELS = ('resnet-digits', 'vit-digits')
SHIPPED = (*DIGIT_MODELS, 'gpt2-pydocs')


@pytest.fixture(scope='module')
def train_digits():
    return example('train_digits')


@pytest.fixture(scope='module')
def train_pydocs():
    return example('train_pydocs')


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('a shipped model needs no network')

    monkeypatch.setattr('socket.socket.connect', refuse)
    monkeypatch.setattr('socket.getaddrinfo', refuse)


# The files.


def test_these_and_no_others_are_shipped():
    assert {path.name for path in WEIGHTS.iterdir()} == {f'{name}.safetensors' for name in SHIPPED}


@pytest.mark.parametrize('name', SHIPPED)
def test_a_file_is_small(name):
    assert (WEIGHTS / f'{name}.safetensors').stat().st_size < 3_000_000


@pytest.mark.parametrize('name', SHIPPED)
def test_a_card_says_where_the_model_comes_from(name):
    card = bx.zoo.card(name)
    assert card.name == name
    assert card.summary
    assert card.training.startswith('examples/train_')
    assert card.data
    assert card.license == 'MIT'
    assert card.metrics
    assert card.weights == WEIGHTS / f'{name}.safetensors'


@pytest.mark.usefixtures('no_network')
@pytest.mark.parametrize('name', SHIPPED)
def test_a_model_loads_without_network(name):
    model, params = bx.zoo.load(name)
    assert params.initialized
    assert model.config == bx.zoo.card(name).config
    spec = bx.spec(model, *model.example_inputs())
    assert {p: v.shape for p, v in params.items()} == {p: v.shape for p, v in spec.items()}
    values = [param.value for path, param in params.items() if path != 'rng']
    assert all(np.isfinite(value).all() for value in values)


@pytest.mark.parametrize('name', SHIPPED)
def test_the_file_itself_loads_as_its_name_does(name):
    by_name, by_path = (bx.zoo.load(which)[1] for which in (name, WEIGHTS / f'{name}.safetensors'))
    assert set(by_name) == set(by_path)
    assert all(np.array_equal(by_name[p].value, by_path[p].value) for p in by_name if p != 'rng')


@pytest.mark.parametrize('name', SHIPPED)
def test_loading_does_not_import_what_only_training_needs(name):
    assert not {'sklearn', 'torch', 'transformers'} & loaded_modules(name)


def loaded_modules(name):
    code = f'import sys, blox as bx; bx.zoo.load({name!r}); print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return {module.partition('.')[0] for module in done.stdout.split()}


# Digits.


@pytest.mark.parametrize('name', DIGIT_MODELS)
def test_test_accuracy_is_what_the_card_says(train_digits, name):
    model, params = bx.zoo.load(name)
    _, images, _, labels = train_digits.digits_split()
    accuracy = train_digits.accuracy(model, params, images, labels)
    assert len(labels) == 360
    assert accuracy >= 0.98
    assert round(accuracy, 4) == bx.zoo.card(name).metrics['test_accuracy']


def test_training_and_test_images_do_not_overlap(train_digits):
    train, test, train_labels, test_labels = train_digits.digits_split()
    assert len(train) + len(test) == len(train_labels) + len(test_labels) == 1797
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_the_digit_files_are_test_images(train_digits):
    _, images, _, labels = train_digits.digits_split()
    prepare = bx.zoo.preprocessor('vit-digits')
    for digit in range(10):
        found = prepare(EXAMPLES / 'digits' / f'{digit}.png')
        candidates = prepare(images[labels == digit][..., None])
        assert (found == candidates).all((1, 2, 3)).any()


@pytest.mark.parametrize('name', DIGIT_MODELS)
def test_the_digit_files_are_classified_right(name):
    model, params = bx.zoo.load(name)
    files = sorted((EXAMPLES / 'digits').glob('*.png'))
    logits, _ = jax.jit(model)(params, bx.zoo.preprocessor(name)(files))
    labels = bx.zoo.card(name).labels
    assert [labels[i] for i in np.argmax(logits, 1)] == [path.stem for path in files]
    assert len(files) == 10


@pytest.mark.parametrize('name', DIGIT_MODELS)
def test_a_digit_model_is_the_one_that_its_script_makes(train_digits, name):
    assert train_digits.MODELS[name]().config == bx.zoo.card(name).config
    assert bx.zoo.preprocessor(name) == train_digits.PREPROCESSOR


# Text.

TEXTS = [
    'The for statement',
    '',
    ' leading, trailing and  double  spaces ',
    'tabs\tand\nlines\r\n\n\n',
    'naïve café, Ελληνικά, русский, 中文, 日本語, العربية, 🙂👩‍👩‍👧',
    'combining e\u0301 and zero\u200bwidth',
    'control \x00\x01\x7f',
]


@pytest.mark.parametrize('text', TEXTS, ids=ascii)
def test_the_tokenizer_loses_nothing(text):
    tokenizer = bx.zoo.tokenizer('gpt2-pydocs')
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < bx.zoo.card('gpt2-pydocs').config.vocab_size for i in ids)


def test_the_tokenizer_fits_the_model():
    tokenizer, card = bx.zoo.tokenizer('gpt2-pydocs'), bx.zoo.card('gpt2-pydocs')
    assert tokenizer.get_vocab_size() == card.config.vocab_size


def test_bits_per_byte_are_what_the_card_says(train_pydocs, tmp_path):
    model, params = bx.zoo.load('gpt2-pydocs')
    card = bx.zoo.card('gpt2-pydocs')
    found = re.search(r'CPython (\S+) without the held-out topics ([^;]*);', card.data)
    assert found is not None, card.data
    is_same_python = found[1] == platform.python_version()
    held_out = found[2].split(', ')
    if is_same_python:
        assert held_out == train_pydocs.split_topics(topics)[0]
    for name in (name for name in held_out if name in topics):
        (tmp_path / f'{name}.txt').write_text(topics[name], 'utf-8')
    bits = bx.zoo.evaluate(model, params, tmp_path, card=card).metrics['bits_per_byte']
    tolerance = 2e-3 if is_same_python else 0.15
    assert bits == pytest.approx(card.metrics['held_out_bits_per_byte'], abs=tolerance)


def test_held_out_topics_share_no_paragraph_with_the_training_text(train_pydocs):
    held_out, texts = train_pydocs.split_topics(topics)
    paragraphs = {p for name in held_out for p in topics[name].split('\n\n')}
    assert len(held_out) == -(-len(topics) // 10)
    assert not paragraphs & {p for text in texts for p in text.split('\n\n')}


def test_generated_text_reads_like_the_documentation():
    model, params = bx.zoo.load('gpt2-pydocs')
    tokenizer = bx.zoo.tokenizer('gpt2-pydocs')
    prompt = tokenizer.encode('The for statement').ids
    tokens, _ = bx.zoo.generate(model, params, [prompt], max_new_tokens=64, temperature=0)
    words = set(re.findall('[a-z]{3,}', tokenizer.decode(tokens[0].tolist())))
    known = {word for text in topics.values() for word in re.findall('[a-z]{3,}', text)}
    assert len(words & known) > 0.8 * len(words) > 4
