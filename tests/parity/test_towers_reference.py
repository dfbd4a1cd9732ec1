"""CLIP and SigLIP beside transformers: texts, real photographs and their similarities, zero-shot labels."""

import dataclasses
import functools
import io
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import randomized, torch, transformers
from commands import printed
from PIL import Image
from sklearn.datasets import load_sample_image
from tokenizers import pre_tokenizers

import blox as bx
from blox.zoo.running.embedding import zero_shot

sentencepiece = pytest.importorskip('sentencepiece')
os.environ['HF_HUB_OFFLINE'] = '1'
pytestmark = pytest.mark.filterwarnings('ignore')

SENTENCES = [
    'a photo of a flower.',
    'A  Temple in China, with many visitors!',
    "it's 2 o'clock - the sun (and the moon)",
    'x',
    '',
    'a very long text: ' + 'the temple and the flower, ' * 12,
]
# Of all others these tell more about the tokenizers than about the models.
ODD = [
    ' leading',
    'tab\tand\nline',
    'naïve café',
    'ﬁne ½ Ⅷ',
    '日本 語',
    "don't 'quote' [x] ^ `",
    '…—',
    '12345',
]
LABELS = ['a temple', 'a flower', 'the sun']
SIZES = {
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
}
IMAGES = {**SIZES, 'image_size': 32, 'patch_size': 8}
BEGIN, END = '<|startoftext|>', '<|endoftext|>'


def clip_tokenizer():
    """CLIP's own, of all bytes and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [('t', 'h'), ('th', 'e</w>'), ('a', 't'), ('f', 'l'), ('fl', 'o'), ('c', 'h')]
    tokens = [*letters, *(letter + '</w>' for letter in letters), *map(''.join, merges), BEGIN, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=40)


def clip(folder):
    tokenizer = clip_tokenizer()
    ids = {'bos_token_id': len(tokenizer) - 2, 'eos_token_id': len(tokenizer) - 1}
    texts = {**SIZES, **ids, 'vocab_size': len(tokenizer), 'max_position_embeddings': 40}
    config = transformers.CLIPConfig(projection_dim=24, text_config=texts, vision_config=IMAGES)
    images = transformers.CLIPImageProcessorPil(size={'shortest_edge': 40}, crop_size=32)
    return write(
        folder, transformers.CLIPModel(config), transformers.CLIPProcessor(images, tokenizer)
    )


def spiece(folder):
    """A SentencePiece model of the sentences, whose ids are as in SigLIP's."""
    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text.lower() for text in (*SENTENCES, *LABELS) if text]),
        model_writer=content,
        vocab_size=48,
        model_type='unigram',
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / 'spiece.model').write_bytes(content.getvalue())
    return folder / 'spiece.model'


def siglip(folder):
    # As the published ones: without a mask, for padding is seen.
    tokenizer = transformers.SiglipTokenizer(
        str(spiece(folder)), model_max_length=64, model_input_names=['input_ids']
    )
    texts = {**SIZES, 'vocab_size': 48, 'max_position_embeddings': 64}
    texts |= {'bos_token_id': None, 'eos_token_id': 1, 'pad_token_id': 1}
    config = transformers.SiglipConfig(text_config=texts, vision_config=IMAGES)
    images = transformers.SiglipImageProcessorPil(size={'height': 32, 'width': 32})
    return write(
        folder, transformers.SiglipModel(config), transformers.SiglipProcessor(images, tokenizer)
    )


def write(folder, model, processor):
    randomized(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope='module', params=[clip, siglip])
def folder(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


def photographs():
    return [Image.fromarray(load_sample_image(name)) for name in ('china.jpg', 'flower.jpg')]


def padding(folder):
    return {'padding': 'max_length' if 'siglip' in folder.name else 'longest', 'truncation': True}


def test_texts_become_the_tokens_of_transformers(folder):
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    prepare = bx.zoo.text_preprocessor(folder)
    for texts in (SENTENCES, SENTENCES[:1], ODD):
        found = prepare(texts)
        theirs = reference(texts, return_tensors='np', **padding(folder))
        if 'siglip' in folder.name:
            np.testing.assert_array_equal(found.tokens, theirs['input_ids'])
            assert found.tokens.shape == (len(texts), 64)
        else:
            # What fills CLIP's up is not seen.
            np.testing.assert_array_equal(found.mask, theirs['attention_mask'])
            np.testing.assert_array_equal(found.tokens[found.mask], theirs['input_ids'][found.mask])


def test_photographs_become_the_pixels_of_transformers(folder):
    reference = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil')
    prepare = bx.zoo.preprocessor(folder)
    for image in photographs():
        theirs = np.asarray(reference(image, return_tensors='np')['pixel_values'])
        np.testing.assert_allclose(prepare(image), theirs.transpose(0, 2, 3, 1), atol=1e-6)


@pytest.mark.usefixtures('x64')
def test_similarities_of_photographs_and_sentences_are_those_of_transformers(folder):
    kind = 'SiglipModel' if 'siglip' in folder.name else 'CLIPModel'
    reference = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, params = bx.zoo.load(folder, dtype=jnp.float64)
    images = np.concatenate([bx.zoo.preprocessor(folder)(image) for image in photographs()])
    tokens = bx.zoo.text_preprocessor(folder)(SENTENCES).tokens
    outputs, _ = jax.jit(model)(params, jnp.asarray(images, jnp.float64), jnp.asarray(tokens))
    theirs = tokenizer(SENTENCES, return_tensors='pt', **padding(folder))
    with torch.no_grad():
        pixels = torch.tensor(images.transpose(0, 3, 1, 2)).double()
        expected = reference(pixel_values=pixels, **theirs)
    for found, wanted in {
        'logits': expected.logits_per_image,
        'image_embedding': expected.image_embeds,
        'text_embedding': expected.text_embeds,
    }.items():
        np.testing.assert_allclose(getattr(outputs, found), wanted.numpy(), rtol=0, atol=1e-12)
    assert np.ptp(np.asarray(outputs.logits), axis=1).min() > 0.01


@pytest.mark.parametrize('templates', [['This is a photo of {}.'], ['{}', 'a {} or a {}']])
def test_labels_have_the_scores_of_a_pipeline(folder, templates, tmp_path):
    for name, image in zip(('china', 'flower'), photographs()):
        image.save(tmp_path / f'{name}.png')
    files = sorted(tmp_path.iterdir())
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil')
    task, options = 'zero-shot-image-classification', {'image_processor': processor}
    pipeline = functools.partial(
        transformers.pipeline(task, str(folder), device='cpu', **options), candidate_labels=LABELS
    )
    options = [part for template in templates for part in ('--template', template)]
    text = printed(
        'predict',
        folder,
        *files,
        '--labels',
        ' a temple,a flower , the sun',
        *options,
        '--top',
        3,
        '--json',
    )
    for row, file in zip(json.loads(text), files):
        found = {answer['label']: answer['probability'] for answer in row['classes']}
        assert Path(row['file']) == file
        if len(templates) == 1:
            expected = pipeline(str(file), hypothesis_template=templates[0])
            expected = {answer['label']: answer['score'] for answer in expected}
        else:
            expected = scores_of_the_mean(folder, file, templates)
        assert found == pytest.approx(expected, abs=2e-6)


def scores_of_the_mean(folder, file, templates):
    """What transformers' towers make of labels that several templates say."""
    kind = 'SiglipModel' if 'siglip' in folder.name else 'CLIPModel'
    reference = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pixels = torch.tensor(bx.zoo.preprocessor(folder)(file).transpose(0, 3, 1, 2))
    normalized = functools.partial(torch.nn.functional.normalize, dim=-1)
    with torch.no_grad():
        image = normalized(reference.get_image_features(pixels).pooler_output)
        rows = []
        for template in templates:
            texts = [template.replace('{}', label) for label in LABELS]
            ids = tokenizer(texts, return_tensors='pt', **padding(folder))['input_ids']
            rows.append(normalized(reference.get_text_features(ids).pooler_output))
        logits = reference.logit_scale.exp() * image @ normalized(torch.stack(rows).mean(0)).T
        is_siglip = 'siglip' in folder.name
        logits = logits + reference.logit_bias if is_siglip else logits
        scores = logits.sigmoid() if is_siglip else logits.softmax(-1)
    return dict(zip(LABELS, scores[0].tolist()))


@pytest.mark.parametrize('form', ['export', 'file'])
def test_an_export_and_a_file_of_our_own_do_the_same(folder, tmp_path, form):
    card = bx.zoo.read_card(folder)
    model, params = bx.zoo.load(folder)
    if form == 'export':
        saved = tmp_path / 'out'
        bx.zoo.export(saved, model, params, 'hf', card=card)
        images, texts = photographs()[0], SENTENCES[:3]
        outputs = []
        for place in (folder, saved):
            reference = transformers.AutoModel.from_pretrained(place).eval()
            processor = transformers.AutoImageProcessor.from_pretrained(place, backend='pil')
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            pixels = processor(images, return_tensors='pt')['pixel_values']
            ids = tokenizer(texts, return_tensors='pt', **padding(folder))['input_ids']
            with torch.no_grad():
                outputs.append(reference(pixel_values=pixels, input_ids=ids).logits_per_image)
        np.testing.assert_allclose(*map(np.asarray, outputs), rtol=0, atol=1e-6)
    else:
        saved = tmp_path / 'out.safetensors'
        bx.zoo.save(saved, model, params, card=card)
    again = bx.zoo.text_preprocessor(saved)(SENTENCES).tokens
    np.testing.assert_array_equal(again, bx.zoo.text_preprocessor(folder)(SENTENCES).tokens)
    assert bx.zoo.preprocessor(saved) == bx.zoo.preprocessor(folder)
    assert bx.zoo.read_card(saved).scores == card.scores


def test_labels_of_float64_models_are_float64(folder, x64):
    model, params = bx.zoo.load(folder, dtype=jnp.float64)
    prepare = bx.zoo.text_preprocessor(folder)
    labels = bx.zoo.label_embeddings(model, params, prepare, LABELS)
    images = jnp.asarray(bx.zoo.preprocessor(folder)(photographs()[0]), jnp.float64)
    outputs, _ = jax.jit(model)(
        params, images, prepare([f'This is a photo of {label}.' for label in LABELS]).tokens
    )
    np.testing.assert_allclose(labels, outputs.text_embedding, atol=1e-12)
    assert zero_shot(model, labels)(params, images).shape == (1, 3)


def test_open_clip_takes_the_tokenizer_of_an_export(tmp_path):
    open_clip = pytest.importorskip('open_clip')
    source, made = tmp_path / 'source', tmp_path / 'made'
    source.mkdir()
    card = dataclasses.replace(bx.zoo.read_card(clip(source)), preprocessor=None)
    bx.zoo.export(made, *bx.zoo.load(source), format='open_clip', card=card)
    # It repairs ligatures first, which is left out here.
    texts = [text for text in (*SENTENCES, *ODD) if 'ﬁ' not in text]
    wanted = open_clip.get_tokenizer(f'local-dir:{made}')(texts).numpy()
    for folder in (source, made):
        found = bx.zoo.text_preprocessor(folder)(texts)
        length = found.tokens.shape[1]
        np.testing.assert_array_equal(found.tokens[found.mask], wanted[:, :length][found.mask])
        assert {*wanted[:, :length][~found.mask]} == {card.config.vocab_size - 1}
