"""Image preprocessing: what is read, how it is fitted and normalized, and what is refused."""

import dataclasses
import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from helpers import table
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from blox.zoo import ImagePreprocessor

SIZE = {'size': (8, 6), 'resize': (8, 6), 'keep_ratio': False, 'interpolation': 'nearest'}
GRAY = ImagePreprocessor(**SIZE, mean=(0.5,), std=(0.25,))
COLOR = ImagePreprocessor(**SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
PLAIN = ImagePreprocessor(**SIZE, mean=(0.0,), std=(1.0,))
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 6, 3), dtype=np.uint8)


def normalized(pixels, prepare):
    """What `prepare` is to give for pixels [height, width, channels] of its size."""
    return (pixels / 255 - np.array(prepare.mean)) / np.array(prepare.std)


def check(found, pixels, prepare):
    assert found.dtype == np.float32
    assert found.shape == (1, *prepare.size, len(prepare.mean))
    np.testing.assert_allclose(found[0], normalized(pixels, prepare), atol=2e-6)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'photo.png'
    Image.fromarray(PIXELS).save(path)
    return path


# What is read.


def test_a_path_its_bytes_an_image_and_an_array_are_the_same(file):
    sources = (file, str(file), file.read_bytes(), Image.open(file), Image.fromarray(PIXELS))
    for source in (*sources, PIXELS):
        check(COLOR(source), PIXELS, COLOR)


def test_a_list_becomes_a_batch(file):
    batch = COLOR([file, Image.fromarray(PIXELS), PIXELS[::-1]])
    expected = [normalized(p, COLOR) for p in (PIXELS, PIXELS, PIXELS[::-1])]
    np.testing.assert_allclose(batch, expected, atol=2e-6)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_an_array_of_rank_four_is_a_batch(channels):
    images = RNG.integers(0, 256, (5, 8, 6, channels), dtype=np.uint8)
    batch = (GRAY if channels == 1 else COLOR)(images)
    prepare = GRAY if channels == 1 else COLOR
    expected = [normalized(image[..., :3], prepare) for image in images]
    np.testing.assert_allclose(batch, expected, atol=2e-6)


def test_arrays_may_have_no_channel_axis_or_other_strides():
    gray = PIXELS[..., 0]
    check(GRAY(gray), gray[..., None], GRAY)
    check(GRAY(gray[..., None]), gray[..., None], GRAY)
    check(COLOR(PIXELS[::-1, ::-1]), PIXELS[::-1, ::-1], COLOR)
    check(COLOR(np.asfortranarray(PIXELS)), PIXELS, COLOR)


@pytest.mark.parametrize('suffix', ['bmp', 'gif', 'jpg', 'png', 'tiff', 'webp'])
def test_common_formats_are_read(tmp_path, suffix):
    path = tmp_path / f'flat.{suffix}'
    Image.new('RGB', (6, 8), (255, 0, 0)).save(path)
    expected = normalized(np.full((8, 6, 3), (255, 0, 0)), COLOR)
    np.testing.assert_allclose(COLOR(path)[0], expected, atol=0.05)


# Modes.


def luma(rgb):
    """ITU-R 601-2, as Pillow has it."""
    return np.asarray(rgb, float) @ (0.299, 0.587, 0.114)


def in_mode(mode):
    """An image of `mode`, and the colors [height, width, 3] that it shows."""
    gray = PIXELS[..., 0]
    repeated = np.repeat(gray[..., None], 3, -1)
    if mode == 'P':
        palette = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
        image = Image.fromarray(gray % 16)
        image.putpalette(palette.tobytes())
        return image, palette[gray % 16]
    made = {
        'L': lambda: (Image.fromarray(gray), repeated),
        'LA': lambda: (Image.merge('LA', [Image.fromarray(gray)] * 2), repeated),
        'I;16': lambda: (Image.fromarray(gray.astype(np.uint16) * 256 + 77), repeated),
        'I': lambda: (Image.fromarray(gray.astype(np.int32) * 256 + 77), repeated),
        'RGB': lambda: (Image.fromarray(PIXELS), PIXELS),
        'RGBA': lambda: (Image.fromarray(np.dstack([PIXELS, gray])), PIXELS),
        'CMYK': lambda: (Image.fromarray(PIXELS).convert('CMYK'), PIXELS),
        '1': lambda: (Image.fromarray(gray > 127), np.where(repeated > 127, 255, 0)),
    }
    return made[mode]()


MODES = ['L', 'LA', 'P', 'CMYK', 'I;16', 'I', 'RGB', 'RGBA', '1']


@pytest.mark.parametrize('mode', MODES)
def test_every_mode_becomes_color(mode):
    image, colors = in_mode(mode)
    assert image.mode == mode
    check(COLOR(image), colors, COLOR)


@pytest.mark.parametrize('mode', MODES)
def test_every_mode_becomes_gray(mode):
    image, colors = in_mode(mode)
    expected = normalized(luma(colors)[..., None], GRAY)
    np.testing.assert_allclose(GRAY(image)[0], expected, atol=1 / 255 / 0.25)


@pytest.mark.parametrize('mode', ['L', 'LA', 'P', 'I;16', 'RGB', 'RGBA', '1'])
def test_every_mode_survives_a_file(tmp_path, mode):
    image, colors = in_mode(mode)
    image.save(tmp_path / 'image.png')
    check(COLOR(tmp_path / 'image.png'), colors, COLOR)


def test_a_transparent_palette_keeps_its_colors(tmp_path):
    image, colors = in_mode('P')
    image.save(tmp_path / 'image.png', transparency=bytes(range(16)))
    check(COLOR(tmp_path / 'image.png'), colors, COLOR)


@pytest.mark.parametrize(
    'values',
    [np.full((8, 6), 0.5, np.float32), np.full((8, 6), 65536, np.int32), -np.ones((8, 6), 'int32')],
    ids=['float', 'too large', 'negative'],
)
def test_images_of_unknown_range_are_refused(values):
    with pytest.raises(ValueError, match=r'pixels of mode [FI] have no known range'):
        GRAY(Image.fromarray(values))


# Orientation.

UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize('orientation', UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation):
    pixels = PIXELS if orientation < 5 else PIXELS.transpose(1, 0, 2)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / 'turned.png', exif=exif)
    check(COLOR(tmp_path / 'turned.png'), UPRIGHT[orientation](pixels), COLOR)


# Sizes.

small = st.integers(1, 40)


@settings(deadline=None, max_examples=80)
@given(
    shape=st.tuples(small, small),
    size=st.tuples(small, small),
    margin=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    keep_ratio=st.booleans(),
    interpolation=st.sampled_from(['nearest', 'bilinear', 'bicubic', 'lanczos']),
    crop_rounding=st.sampled_from(['even', 'down']),
)
def test_outputs_have_exactly_the_size_asked_for(shape, size, margin, **fields):
    resize = (size[0] + margin[0], size[1] + margin[1])
    prepare = dataclasses.replace(PLAIN, size=size, resize=resize, **fields)
    found = prepare(np.full(shape, 51, np.uint8))
    assert found.shape == (1, *size, 1)
    np.testing.assert_allclose(found, 0.2, atol=1e-6)


def test_stretching_keeps_all_of_the_image():
    pixels = np.array([[0, 100], [200, 255]], np.uint8)
    prepare = dataclasses.replace(PLAIN, size=(4, 8), resize=(4, 8))
    expected = np.repeat(np.repeat(pixels, 2, 0), 4, 1) / 255
    np.testing.assert_allclose(prepare(pixels)[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(('shape', 'axis'), [((4, 12), 1), ((12, 4), 0)])
def test_cropping_keeps_proportions_and_the_centre(shape, axis):
    line = np.arange(0, 240, 20, dtype=np.uint8)
    pixels = np.broadcast_to(line if axis else line[:, None], shape)
    prepare = dataclasses.replace(PLAIN, size=(4, 4), resize=(4, 4), keep_ratio=True)
    expected = pixels[:, 4:8] if axis else pixels[4:8]
    np.testing.assert_allclose(prepare(pixels)[0, ..., 0], expected / 255, atol=1e-6)


@pytest.mark.parametrize('keep_ratio', [False, True], ids=['stretch', 'crop'])
@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic', 'lanczos'])
def test_pixels_of_the_right_size_are_kept_exactly(interpolation, keep_ratio):
    prepare = dataclasses.replace(COLOR, interpolation=interpolation, keep_ratio=keep_ratio)
    check(prepare(PIXELS), PIXELS, COLOR)


@pytest.mark.parametrize(('wide', 'even', 'down'), [(9, 2, 2), (10, 3, 3), (11, 4, 3), (12, 4, 4)])
def test_an_odd_rest_is_halved_as_crop_rounding_says(wide, even, down):
    line = np.arange(wide, dtype=np.uint8)[None].repeat(4, 0)
    prepare = dataclasses.replace(PLAIN, size=(4, 4), resize=(4, wide))
    for rounding, start in {'even': even, 'down': down}.items():
        found = dataclasses.replace(prepare, crop_rounding=rounding)(line)[0, 0, :, 0] * 255
        assert found.round().tolist() == list(range(start, start + 4))


@pytest.mark.parametrize('color', [False, True])
def test_pixels_that_are_resized_as_floats_are_not_rounded(color):
    pixels = np.array([[0, 1]], np.uint8)
    prepare = dataclasses.replace(
        PLAIN, size=(1, 4), resize=(1, 4), interpolation='bilinear', resize_dtype='float32'
    )
    if color:
        pixels = np.stack([pixels, pixels, 2 * pixels], -1)
        prepare = dataclasses.replace(prepare, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = prepare(pixels) * 255
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 0.25, 0.75, 1], atol=1e-6)
    np.testing.assert_allclose(
        found[0, 0, :, -1], [0, 0.25 * (1 + color), 0.75 * (1 + color), 1 + color], atol=1e-6
    )


def test_an_image_too_long_to_crop_is_refused():
    prepare = dataclasses.replace(PLAIN, size=(224, 224), resize=(248, 248), keep_ratio=True)
    with pytest.raises(ValueError, match='20000000 x 1 pixels is too long to crop'):
        prepare(Image.new('L', (20_000_000, 1), 51))


# What other libraries' files say. Heights and widths are worked out by hand from theirs.

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HF_VIT = {
    'image_processor_type': 'ViTImageProcessor',
    'do_resize': True,
    'size': {'height': 224, 'width': 224},
    'resample': 2,
    'do_rescale': True,
    'rescale_factor': 0.00392156862745098,
    'do_normalize': True,
    'image_mean': [0.5, 0.5, 0.5],
    'image_std': [0.5, 0.5, 0.5],
}
HF_DINOV3 = {'image_processor_type': 'DINOv3ViTImageProcessorFast', 'resample': 2}
HF_DEIT = {
    'feature_extractor_type': 'DeiTFeatureExtractor',
    'size': 256,
    'resample': 3,
    'do_center_crop': True,
    'crop_size': 224,
    'image_mean': [0.485, 0.456, 0.406],
    'image_std': [0.229, 0.224, 0.225],
}
HF_RESNET = {
    'feature_extractor_type': 'ConvNextFeatureExtractor',
    'size': 224,
    'crop_pct': 0.875,
    'resample': 3,
    'image_mean': [0.485, 0.456, 0.406],
    'image_std': [0.229, 0.224, 0.225],
}
HF_BIT = {
    'image_processor_type': 'BitImageProcessorFast',
    'size': {'shortest_edge': 248},
    'crop_size': {'height': 240, 'width': 224},
    'resample': 1,
    'image_mean': [0.5, 0.5, 0.5],
    'image_std': [0.5, 0.5, 0.5],
}
TIMM_VIT = {
    'input_size': [3, 224, 224],
    'interpolation': 'bicubic',
    'crop_pct': 0.9,
    'crop_mode': 'center',
    'mean': [0.5, 0.5, 0.5],
    'std': [0.5, 0.5, 0.5],
}
FILES = {
    'hf vit': (HF_VIT, (224, 224), (224, 224), False, 'bilinear', *HALF),
    'hf vit by default': (
        {**HF_VIT, 'size': None},
        (224, 224),
        (224, 224),
        False,
        'bilinear',
        *HALF,
    ),
    'hf siglip by default': (
        {'image_processor_type': 'SiglipImageProcessor'},
        (224, 224),
        (224, 224),
        False,
        'bicubic',
        *HALF,
    ),
    'hf clip by default': (
        {'image_processor_type': 'CLIPFeatureExtractor'},
        (224, 224),
        (224, 224),
        True,
        'bicubic',
        *CLIP,
    ),
    'hf dinov3': (
        HF_DINOV3,
        (224, 224),
        (224, 224),
        False,
        'bilinear',
        *IMAGENET,
    ),
    'hf deit': (HF_DEIT, (224, 224), (256, 256), False, 'bicubic', *IMAGENET),
    'hf resnet': (HF_RESNET, (224, 224), (256, 256), True, 'bicubic', *IMAGENET),
    'hf resnet at 384': (
        {**HF_RESNET, 'size': {'shortest_edge': 384}},
        (384, 384),
        (384, 384),
        False,
        'bicubic',
        *IMAGENET,
    ),
    'hf bit': (HF_BIT, (240, 224), (248, 248), True, 'lanczos', *HALF),
    'hf sizes as lists': (
        {**HF_DEIT, 'size': [256, 200], 'crop_size': [224, 192]},
        (224, 192),
        (256, 200),
        False,
        'bicubic',
        *IMAGENET,
    ),
    'timm vit': (TIMM_VIT, (224, 224), (248, 248), True, 'bicubic', *HALF),
    'timm by default': ({}, (224, 224), (256, 256), True, 'bicubic', *IMAGENET),
    'timm squash': (
        {**TIMM_VIT, 'crop_mode': 'squash', 'input_size': [3, 225, 160]},
        (225, 160),
        (250, 177),
        False,
        'bicubic',
        *HALF,
    ),
}


def read(file):
    is_hf = 'image_processor_type' in file or 'feature_extractor_type' in file
    return ImagePreprocessor.from_hf(file) if is_hf else ImagePreprocessor.from_timm(file)


@table(FILES)
def test_a_file_is_read_as_its_library_reads_it(row):
    file, size, resize, keep_ratio, mode, mean, std = row
    is_hf = not {'resample', 'image_processor_type'}.isdisjoint(file)
    rounding = 'down' if is_hf else 'even'
    found, expected = read(file), (size, resize, keep_ratio, mode, mean, std, rounding)
    assert found == ImagePreprocessor(*expected, resize_dtype=found.resize_dtype)
    assert (found.resize_dtype == 'float32') == ('DINOv3' in file.get('image_processor_type', ''))


PHOTOGRAPHS = {
    'hf vit': (HF_VIT, (224, 224), (slice(None), slice(None))),
    'hf deit': (HF_DEIT, (256, 256), (slice(16, 240), slice(16, 240))),
    'hf resnet': (HF_RESNET, (256, 383), (slice(16, 240), slice(79, 303))),
    'hf bit': (HF_BIT, (248, 371), (slice(4, 244), slice(73, 297))),
    'timm vit': (TIMM_VIT, (248, 371), (slice(12, 236), slice(74, 298))),
    'timm default': ({}, (256, 383), (slice(16, 240), slice(80, 304))),
    'timm tall': (
        {'input_size': [3, 288, 160], 'crop_pct': 0.9},
        (320, 480),
        (slice(16, 304), slice(160, 320)),
    ),
}


@table(PHOTOGRAPHS)
@pytest.mark.parametrize('is_portrait', [False, True], ids=['landscape', 'portrait'])
def test_a_photograph_is_resized_and_cropped_where_it_should(row, is_portrait):
    file, (high, wide), crop = row
    prepare = read(file)
    photograph = load_sample_image('china.jpg')
    assert photograph.shape == (427, 640, 3)
    if is_portrait and prepare.size[0] == prepare.size[1]:
        photograph, (wide, high), crop = photograph.transpose(1, 0, 2), (high, wide), crop[::-1]
    mode = Image.Resampling[prepare.interpolation.upper()]
    resized = np.asarray(Image.fromarray(photograph).resize((wide, high), mode))
    check(prepare(photograph), resized[crop], prepare)


STATISTICS = {
    'as they are': ({}, lambda x: (x / 255 - 0.5) / 0.5),
    'to [0, 2]': ({'rescale_factor': 2 / 255}, lambda x: (x * 2 / 255 - 0.5) / 0.5),
    'not rescaled': ({'do_rescale': False}, lambda x: (x - 0.5) / 0.5),
    'not normalized': ({'do_normalize': False}, lambda x: x / 255),
    'neither': ({'do_normalize': False, 'do_rescale': False}, lambda x: x),
}


@table(STATISTICS)
def test_rescaling_and_normalizing_are_what_a_file_says(row):
    changes, expected = row
    prepare = ImagePreprocessor.from_hf({**HF_VIT, 'size': [8, 6], **changes})
    np.testing.assert_allclose(
        prepare(PIXELS)[0], expected(PIXELS.astype(float)), rtol=1e-6, atol=1e-6
    )


def test_model_type_decides_where_a_file_names_no_processor():
    bare = {key: value for key, value in HF_RESNET.items() if key != 'feature_extractor_type'}
    assert ImagePreprocessor.from_hf(bare, 'resnet') == ImagePreprocessor.from_hf(HF_RESNET)
    with pytest.raises(
        ValueError, match=r"expected image_processor_type, .*found model_type 'swinv2'"
    ):
        ImagePreprocessor.from_hf(bare, 'swinv2')


HF_REFUSED = {
    'another processor': (HF_VIT, {'image_processor_type': 'SamImageProcessor'}, 'SamImage'),
    'a bare name': (HF_VIT, {'image_processor_type': 'ViT'}, "'ViT'"),
    'no resizing': (HF_VIT, {'do_resize': False}, 'do_resize true'),
    'padding': (HF_VIT, {'do_pad': True}, 'do_pad false'),
    'an unknown field': (HF_VIT, {'do_flip_channel_order': True}, 'do_flip_channel_order'),
    "another processor's field": (HF_VIT, {'crop_pct': 0.9}, 'crop_pct'),
    'code of its own': (HF_VIT, {'auto_map': {}}, 'auto_map'),
    'a flag that is none': (HF_VIT, {'do_normalize': 1}, 'do_normalize a bool'),
    'a longest edge': (HF_BIT, {'size': {'shortest_edge': 8, 'longest_edge': 9}}, 'longest_edge'),
    'half a size': (HF_VIT, {'size': {'height': 8}}, 'size an integer, height and width'),
    'a size of text': (HF_VIT, {'size': {'height': '8', 'width': 8}}, 'size an integer'),
    'a size of three': (HF_VIT, {'size': [8, 8, 3]}, 'size an integer'),
    'a size of zero': (HF_VIT, {'size': 0}, 'size an integer'),
    'a huge size': (HF_VIT, {'size': 10**9}, 'at most 50000000 pixels'),
    'a size beyond all numbers': (HF_RESNET, {'size': 10**400}, 'size an integer'),
    'no common size': (HF_BIT, {'do_center_crop': False}, 'size of height and width'),
    'a crop that needs padding': (HF_BIT, {'size': {'shortest_edge': 230}}, 'no less than size'),
    'a fixed size of convnext': (HF_RESNET, {'size': [8, 8]}, 'size of shortest_edge'),
    'a second crop': (HF_RESNET, {'do_center_crop': True}, 'do_center_crop false'),
    'a crop of nothing': (HF_RESNET, {'crop_pct': 0}, 'crop_pct above 0.001'),
    'a crop that enlarges': (HF_RESNET, {'crop_pct': 1.1}, 'crop_pct above 0.001, at most 1'),
    'an unknown filter': (HF_VIT, {'resample': 6}, 'resample from 0 to 5'),
    'a filter of floats that torch lacks': (HF_DINOV3, {'resample': 4}, 'resample from 0 to 3'),
    'a factor of zero': (HF_VIT, {'rescale_factor': 0}, 'rescale_factor a positive number'),
    'a mean of text': (HF_VIT, {'image_mean': '0.5'}, 'image_mean a list of numbers'),
    'two means': (HF_VIT, {'image_mean': [0.5, 0.5]}, 'mean one or three numbers'),
    'a deviation of zero': (HF_VIT, {'image_std': [0, 1, 1]}, 'std as many, positive'),
    'a deviation that is NaN': (HF_VIT, {'image_std': [float('nan')] * 3}, 'image_std a list'),
}


@table(HF_REFUSED)
def test_what_would_change_the_pixels_is_refused_by_name(row):
    file, changes, message = row
    with pytest.raises(ValueError, match=message):
        ImagePreprocessor.from_hf({**file, **changes})


TIMM_REFUSED = {
    'a border': ({'crop_mode': 'border'}, 'crop_mode center or squash'),
    'chance': ({'interpolation': 'random'}, 'interpolation of nearest'),
    'padding': ({'crop_pct': 1.15}, 'crop_pct above 0.001, at most 1'),
    'a size of two': ({'input_size': [224, 224]}, 'input_size of channels, height and width'),
    'channels without a mean': ({'input_size': [1, 224, 224]}, 'mean of 1'),
    'a std of text': ({'std': '0.5'}, 'std a list of numbers'),
}


@table(TIMM_REFUSED)
def test_what_timm_draws_or_pads_is_refused_by_name(row):
    changes, message = row
    with pytest.raises(ValueError, match=message):
        ImagePreprocessor.from_timm({**TIMM_VIT, **changes})


@table({name: row for name, row in FILES.items() if name.startswith('hf')})
def test_what_is_written_for_transformers_reads_back(row):
    prepare = read(row[0])
    assert read(json.loads(json.dumps(prepare.to_hf()))) == prepare


@table({name: row for name, row in FILES.items() if name.startswith('timm')})
def test_what_is_written_for_timm_reads_back(row):
    prepare = read(row[0])
    assert read(json.loads(json.dumps(prepare.to_timm()))) == prepare


@given(size=st.integers(1, 600), margin=st.integers(0, 300))
def test_timm_gets_a_crop_pct_for_every_square(size, margin):
    lengths = {'size': (size, size), 'resize': (size + margin, size + margin)}
    prepare = dataclasses.replace(PLAIN, **lengths, keep_ratio=True)
    assert ImagePreprocessor.from_timm(prepare.to_timm()) == prepare


def test_pixels_that_are_not_scaled_are_not_resized_as_floats():
    said = {**HF_DINOV3, 'do_rescale': False}
    assert ImagePreprocessor.from_hf(said).resize_dtype == 'uint8'


NOT_WRITTEN = {
    'a filter of floats': (
        'to_hf',
        {'resize_dtype': 'float32', 'interpolation': 'box', 'crop_rounding': 'down'},
        "resizes no floats with interpolation 'box'",
    ),
    'rounding of timm': ('to_hf', {'keep_ratio': True}, "crop_rounding='down', found 'even'"),
    'rounding of transformers': (
        'to_timm',
        {'keep_ratio': True, 'crop_rounding': 'down'},
        "crop_rounding='even', found 'down'",
    ),
    'rounding of a fixed size': ('to_hf', {'resize': (11, 6)}, "crop_rounding='down'"),
    'covering no square': (
        'to_hf',
        {'keep_ratio': True, 'crop_rounding': 'down'},
        'covers only squares',
    ),
    'unlike margins': ('to_timm', {'resize': (8, 60)}, 'timm has no crop_pct'),
    'floats': ('to_timm', {'resize_dtype': 'float32'}, "resize_dtype='uint8', found 'float32'"),
}


@table(NOT_WRITTEN)
def test_what_a_library_cannot_do_is_not_written(row):
    method, changes, message = row
    with pytest.raises(ValueError, match=message):
        getattr(dataclasses.replace(COLOR, **changes), method)()


def test_rounding_that_makes_no_difference_is_written():
    prepare = dataclasses.replace(COLOR, resize=(9, 6))
    assert prepare.to_hf()['image_processor_type'] == 'DeiTImageProcessor'
    down = dataclasses.replace(COLOR, crop_rounding='down')
    assert down.to_timm()['crop_mode'] == 'squash'


# What is refused.


def png_header(width, height):
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

    header = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', b'\0') + chunk(b'IEND', b'')


@pytest.mark.parametrize(
    ('width', 'height'),
    [(10_000, 5_001), (10_000, 10_000), (100_000, 100_000)],
    ids=['above ours', 'where Pillow warns', 'where Pillow raises'],
)
def test_too_many_pixels_are_refused_unread(tmp_path, width, height):
    path = tmp_path / 'bomb.png'
    path.write_bytes(png_header(width, height))
    with pytest.raises(ValueError, match=r'bomb\.png.*pixels'):
        COLOR(path)


CONTENTS = {
    'empty': b'',
    'text': b'not an image',
    'page': b'<!doctype html><html></html>',
    'pointer': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
    'header alone': png_header(8, 6),
}


@pytest.mark.parametrize('content', CONTENTS.values(), ids=CONTENTS)
def test_what_is_no_image_is_refused_by_name(tmp_path, content):
    path = tmp_path / 'photo.png'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='these bytes cannot be read as an image'):
        COLOR(content)
    with pytest.raises(ValueError, match=r'photo\.png.* cannot be read as an image'):
        COLOR(path)


@pytest.mark.parametrize('suffix', ['bmp', 'gif', 'jpg', 'png', 'tiff', 'webp'])
@pytest.mark.parametrize('part', [0.2, 0.6, 0.9])
def test_a_file_cut_short_is_refused_by_name(tmp_path, suffix, part):
    path = tmp_path / f'photo.{suffix}'
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=rf'photo\.{suffix}.* cannot be read as an image'):
        COLOR(path)


@pytest.mark.parametrize('missing', range(1, 21))
def test_a_png_without_its_end_is_refused(missing):
    whole = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, 'PNG')
    COLOR(whole.getvalue())
    with pytest.raises(ValueError, match='these bytes cannot be read as an image'):
        COLOR(whole.getvalue()[:-missing])


def test_a_png_of_a_wrong_checksum_is_refused():
    whole = io.BytesIO()
    Image.fromarray(PIXELS).save(whole, 'PNG')
    content = bytearray(whole.getvalue())
    content[-14] ^= 1  # of the pixels' chunk, before the 12 bytes of the last one
    with pytest.raises(ValueError, match='these bytes cannot be read as an image'):
        COLOR(bytes(content))


@pytest.mark.parametrize('kind', ['EPS', 'ICO', 'PPM', 'PCX', 'PDF', 'SGI', 'TGA'])
def test_other_formats_are_not_even_opened(kind, tmp_path):
    path = tmp_path / 'photo.png'
    with open(path, 'wb') as file:
        Image.fromarray(PIXELS).save(file, kind)
    with pytest.raises(ValueError, match='expected one of BMP, GIF, JPEG, PNG, TIFF, WEBP'):
        COLOR(path)


def test_a_photograph_with_others_behind_it_is_read(tmp_path):
    path = tmp_path / 'stereo.jpg'
    first, other = (Image.new('RGB', (8, 6), color) for color in ('red', 'blue'))
    first.save(path, 'MPO', save_all=True, append_images=[other])
    with Image.open(path) as image:
        assert image.format == 'MPO'
    np.testing.assert_allclose(COLOR(path), COLOR(first), atol=0.05)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'missing\.png'):
        COLOR(tmp_path / 'missing.png')


def test_a_folder_is_named(tmp_path):
    with pytest.raises(OSError, match=tmp_path.name):
        COLOR(tmp_path)


def test_a_path_with_a_nul_is_refused():
    with pytest.raises(ValueError, match=r'cannot be read as an image'):
        COLOR('photo\0.png')


@pytest.mark.parametrize(
    'array',
    [
        np.ones((8, 6, 3), np.float32),
        np.ones((8, 6, 3), np.int64),
        np.ones((8, 6), bool),
        np.ones((8,), np.uint8),
        np.ones((2, 2, 8, 6, 3), np.uint8),
        np.ones((0, 6, 3), np.uint8),
    ],
    ids=lambda array: f'{array.dtype}{list(array.shape)}',
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match='expected a uint8 array .* found ' + str(array.dtype)):
        COLOR(array)


@pytest.mark.parametrize('channels', [2, 5])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ValueError, match=rf'expected 1, 3 or 4 channels last.*{channels}\]'):
        COLOR(np.ones((8, 6, channels), np.uint8))


@pytest.mark.parametrize('images', [[], np.ones((0, 8, 6, 3), np.uint8)], ids=['list', 'array'])
def test_no_images_at_all_are_refused(images):
    with pytest.raises(ValueError, match='image'):
        COLOR(images)


@pytest.mark.parametrize(
    ('named', 'changes'),
    [
        ('size', {'size': (0, 8)}),
        ('size', {'size': (-8, 8)}),
        ('resize', {'size': (9, 6)}),
        ('resize', {'resize': (8, 5)}),
        ('resize', {'resize': (10**5, 10**5)}),
        ('interpolation', {'interpolation': 'cubic'}),
        ('mean', {'mean': (0.5, 0.5), 'std': (0.5, 0.5)}),
        ('std', {'mean': (0.5,)}),
        ('mean', {'mean': (), 'std': ()}),
        ('std', {'std': (0.5, 0.5, 0.0)}),
        ('std', {'std': (0.5, float('nan'), 0.5)}),
        ('mean', {'mean': (0.5, float('inf'), 0.5)}),
        ('crop_rounding', {'crop_rounding': 'up'}),
    ],
    ids=str,
)
def test_unsound_choices_are_refused(named, changes):
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in (vars(COLOR) | changes).items()}
    with pytest.raises(ValueError, match=f'ImagePreprocessor: expected {named} '):
        ImagePreprocessor.from_fields(fields)


def test_a_header_gives_lists_for_tuples():
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(COLOR).items()}
    assert ImagePreprocessor.from_fields(fields) == COLOR


def test_a_header_must_have_every_field_and_no_other():
    fields = {**vars(COLOR), 'crop': 0}
    del fields['crop_rounding']
    with pytest.raises(ValueError, match="crop_rounding: missing; 'crop': unexpected"):
        ImagePreprocessor.from_fields(fields)


# open_clip.


@table(
    {
        'by default': ({}, True, 'bicubic', CLIP),
        'stretched': (
            {'resize_mode': 'squash', 'mean': [0.5] * 3, 'std': [0.5] * 3},
            False,
            'bicubic',
            HALF,
        ),
        'nulls': (
            {'interpolation': 'bilinear', 'mean': None, 'fill_color': 0},
            True,
            'bilinear',
            CLIP,
        ),
    }
)
def test_open_clips_settings_are_followed(row):
    said, keep_ratio, interpolation, (mean, std) = row
    found = ImagePreprocessor.from_open_clip(said, (32, 32))
    expected = ((32, 32), (32, 32), keep_ratio, interpolation, mean, std)
    assert found == ImagePreprocessor(*expected)
    assert ImagePreprocessor.from_open_clip(found.to_open_clip(), (32, 32)) == found


@table(
    {
        'padded': ({'resize_mode': 'longest'}, (32, 32), 'resize_mode squash, or shortest'),
        'no square': ({}, (32, 16), 'resize_mode squash, or shortest for a square'),
        'random': ({'interpolation': 'random'}, (32, 32), 'interpolation bicubic or bilinear'),
        'no numbers': ({'mean': 0.5}, (32, 32), 'mean a list of numbers'),
    }
)
def test_what_open_clip_draws_or_pads_is_refused_by_name(row):
    said, size, expected = row
    with pytest.raises(ValueError, match=re.escape(expected)):
        ImagePreprocessor.from_open_clip(said, size)


def test_what_open_clip_cannot_do_is_not_written():
    prepare = ImagePreprocessor((32, 32), (36, 36), True, 'bicubic', *HALF)
    with pytest.raises(ValueError, match=r'open_clip prepares no images with resize \(36, 36\)'):
        prepare.to_open_clip()
