"""From a name to answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import printed, write_clip, write_encoder, write_model
from helpers import EXAMPLES, table
from PIL import Image

import blox as bx
from blox.zoo.running.scoring import best

SEVEN, ONE = (EXAMPLES / 'digits' / f'{digit}.png' for digit in (7, 1))


@pytest.fixture(scope='module')
def classify():
    return bx.zoo.pipeline('vit-digits')


def test_images_of_every_kind_give_labels_and_scores(classify):
    pixels = np.asarray(Image.open(SEVEN))
    (best, *others) = classify(SEVEN)
    assert (best.label, len(others)) == ('7', 4)
    for image in (str(SEVEN), SEVEN.read_bytes(), Image.open(SEVEN), pixels):
        assert classify(image) == [best, *others]
    several = classify([SEVEN, pixels, ONE], top=1)
    assert [row[0].label for row in several] == ['7', '7', '1']
    assert several[0][0].score == pytest.approx(best.score, abs=1e-6)


def test_scores_are_the_models(classify):
    images = jnp.asarray(classify.prepare(SEVEN))
    logits, _ = classify.model(classify.params, images)
    expected = dict(zip(classify.card.labels, jax.nn.softmax(logits)[0].tolist()))
    assert dict(classify(SEVEN, top=10)) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(
        classify.apply(classify.params, images)[0], list(expected.values()), atol=1e-6
    )


def test_what_cannot_be_read_is_refused_by_name(classify, tmp_path):
    (tmp_path / 'no.png').write_text('text')
    with pytest.raises(ValueError, match=r'no\.png.* cannot be read as an image'):
        classify([SEVEN, tmp_path / 'no.png'])
    with pytest.raises(FileNotFoundError):
        classify('none.png')
    with pytest.raises(ValueError, match='an image or several, found none'):
        classify([])


def test_a_batch_is_several_images_and_a_list_in_a_list_none(classify):
    pixels = np.stack([np.asarray(Image.open(file)) for file in (SEVEN, ONE)])[..., None]
    assert [row[0].label for row in classify(pixels, top=1)] == ['7', '1']
    assert [row[0].label for row in classify(x for x in (SEVEN, ONE))] == ['7', '1']
    for wrong in ([[SEVEN, ONE], ONE], [pixels, ONE], [None]):
        with pytest.raises(TypeError, match='image 1: expected a path'):
            classify(wrong)
    with pytest.raises(ValueError, match='found -1'):
        classify(SEVEN, top=-1)


def test_a_models_own_task_may_be_said(classify):
    said = bx.zoo.pipeline('vit-digits', task='image-classification', seed=1)
    assert said(SEVEN) == classify(SEVEN)
    other = bx.zoo.pipeline('vit-digits', task='feature-extraction')
    assert other(SEVEN).shape == (96,)


def test_a_program_is_compiled_once(classify):
    classify(SEVEN)
    before = classify.apply._cache_size()
    for _ in range(3):
        classify(ONE)
    assert classify.apply._cache_size() == before


def test_embeddings_are_what_a_head_sees(classify):
    embed = bx.zoo.pipeline('vit-digits', task='embedding')
    vectors = embed([SEVEN, ONE])
    images = jnp.asarray(classify.prepare([SEVEN, ONE]))
    found, _ = classify.model.features(classify.params, images, ['pre_logits'])
    np.testing.assert_allclose(vectors, found['pre_logits'], atol=1e-5)
    np.testing.assert_allclose(embed(SEVEN), vectors[0], atol=1e-5)
    headless = bx.zoo.pipeline('vit-digits', num_classes=0)
    np.testing.assert_allclose(headless(SEVEN), vectors[0], atol=1e-5)


def test_sentences_are_embedded_and_classified(tmp_path):
    encoder = write_encoder(tmp_path / 'encoder.safetensors')
    embed = bx.zoo.pipeline(encoder)
    vectors = embed(['a', 'bc', 'd'])
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(embed('bc'), vectors[1], atol=1e-5)
    fields = {'task': 'text-classification', 'num_classes': 2, 'pooler': True}
    file = write_encoder(tmp_path / 'classes.safetensors', card={'labels': ('x', 'y')}, **fields)
    read = bx.zoo.pipeline(file)
    one = read('a text')
    assert {answer.label for answer in one} == {'x', 'y'}
    assert sum(answer.score for answer in one) == pytest.approx(1)
    assert read(['a text', 'another'])[0][0].label == one[0].label
    said = printed('predict', file, 'a text').split()
    assert said[2] == one[0].label


def test_images_meet_labels_that_are_texts(tmp_path):
    clip = write_clip(tmp_path / 'clip.safetensors')
    find = bx.zoo.pipeline(clip, labels=['a cat', 'a dog'], templates=['{}'])
    (best, other) = find(SEVEN)
    assert {best.label, other.label} == {'a cat', 'a dog'}
    embed = bx.zoo.pipeline(clip, task='embedding')
    assert embed(['a cat', 'a dog']).shape == embed([SEVEN, ONE]).shape == (2, 16)
    with pytest.raises(ValueError, match=r"pass labels=\['a cat'"):
        bx.zoo.pipeline(clip)


def test_prompts_are_written_on_and_pieces_are_told(tmp_path):
    write = bx.zoo.pipeline('gpt2-pydocs')
    pieces = []
    text = write('The for', max_new_tokens=8, temperature=0, on_text=pieces.append)
    assert text == 'The for' + ''.join(pieces)
    assert (
        printed('generate', 'gpt2-pydocs', 'The for', '--max-new-tokens', 8, '--temperature', 0)
        == text + '\n'
    )
    assert write(['The for', 'The if'], max_new_tokens=8, temperature=0)[0] == text
    stopped = write('The for', max_new_tokens=8, temperature=0, stop=[text[9:11]])
    assert stopped == text[:9]


@table(
    {
        'labels': (lambda f: bx.zoo.pipeline('vit-digits', labels=['a']), 'takes no labels'),
        'a label': (lambda f: bx.zoo.pipeline(f, labels='dog'), 'expected lists of labels'),
        'no prompts': (lambda f: bx.zoo.pipeline(f)([]), 'a text or several, found none'),
        'no embeddings': (lambda f: bx.zoo.pipeline(f, task='embedding'), 'makes no embeddings'),
        'no tokenizer': (lambda f: bx.zoo.pipeline(f)('\udcff'), 'a prompt in UTF-8'),
    }
)
def test_what_does_not_fit_a_task_is_refused(tmp_path, row):
    call, message = row
    with pytest.raises(ValueError, match=message):
        call(write_model(tmp_path / 'writer.safetensors', context=16))


def test_all_values_are_answered():
    answers = bx.zoo.pipeline('vit-digits')(SEVEN, top=1)
    assert len(answers) == 1
    values = best(np.array([0.5, 2.0, -1.0]), ('a', 'b', 'c'), 1, 'none')
    assert [answer.label for answer in values] == ['b', 'a', 'c']


def test_what_is_no_text_is_refused(tmp_path):
    write = bx.zoo.pipeline('gpt2-pydocs')
    for wrong in (7, [b'x'], {'question': 'who'}):
        with pytest.raises(TypeError):
            write(wrong)
    with pytest.raises(TypeError, match="a list of texts to stop before, found 'the'"):
        write('If', stop='the')


def test_a_pipeline_says_what_it_is():
    assert (
        repr(bx.zoo.pipeline('resnet-digits'))
        == "Classifier('resnet-digits', image-classification)"
    )
