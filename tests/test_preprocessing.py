"""Image preprocessing: what is read, how it is fitted and normalized, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blox.zoo import ImagePreprocessor

GRAY = ImagePreprocessor((8, 6), 0, 'nearest', (0.5,), (0.25,))
COLOR = ImagePreprocessor((8, 6), 0, 'nearest', (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
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


def test_a_path_a_string_an_image_and_an_array_are_the_same(file):
    for source in (file, str(file), Image.open(file), Image.fromarray(PIXELS), PIXELS):
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
    height=small,
    width=small,
    size=st.tuples(small, small),
    crop=st.sampled_from([0, 0.5, 0.875, 0.9, 0.95, 1]),
    interpolation=st.sampled_from(['nearest', 'bilinear', 'bicubic', 'lanczos']),
)
def test_outputs_have_exactly_the_size_asked_for(height, width, size, crop, interpolation):
    prepare = ImagePreprocessor(size, crop, interpolation, (0.0,), (1.0,))
    found = prepare(np.full((height, width), 51, np.uint8))
    assert found.shape == (1, *size, 1)
    np.testing.assert_allclose(found, 0.2, atol=1e-6)


def test_stretching_keeps_all_of_the_image():
    pixels = np.array([[0, 100], [200, 255]], np.uint8)
    prepare = ImagePreprocessor((4, 8), 0, 'nearest', (0.0,), (1.0,))
    expected = np.repeat(np.repeat(pixels, 2, 0), 4, 1) / 255
    np.testing.assert_allclose(prepare(pixels)[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(('shape', 'axis'), [((4, 12), 1), ((12, 4), 0)])
def test_cropping_keeps_proportions_and_the_centre(shape, axis):
    line = np.arange(0, 240, 20, dtype=np.uint8)
    pixels = np.broadcast_to(line if axis else line[:, None], shape)
    prepare = ImagePreprocessor((4, 4), 1, 'nearest', (0.0,), (1.0,))
    expected = pixels[:, 4:8] if axis else pixels[4:8]
    np.testing.assert_allclose(prepare(pixels)[0, ..., 0], expected / 255, atol=1e-6)


@pytest.mark.parametrize(('crop', 'kept'), [(1, 16), (0.5, 8), (0.25, 4)])
def test_the_crop_keeps_that_part_of_the_shorter_side(crop, kept):
    pixels = np.zeros((16, 16), np.uint8)
    start = (16 - kept) // 2
    pixels[start : start + kept, start : start + kept] = 255
    prepare = ImagePreprocessor((16, 16), crop, 'nearest', (0.0,), (1.0,))
    assert prepare(pixels).min() == 1
    pixels[start, start] = 0
    assert prepare(pixels).min() == 0


@pytest.mark.parametrize('crop', [0, 1], ids=['stretch', 'crop'])
@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic', 'lanczos'])
def test_pixels_of_the_right_size_are_kept_exactly(interpolation, crop):
    prepare = ImagePreprocessor((8, 6), crop, interpolation, COLOR.mean, COLOR.std)
    check(prepare(PIXELS), PIXELS, COLOR)


def test_interpolation_is_pillows():
    names = ('bilinear', 'bicubic', 'lanczos')
    image = Image.fromarray(PIXELS)
    for name in names:
        prepare = ImagePreprocessor((5, 11), 0, name, COLOR.mean, COLOR.std)
        resized = np.asarray(image.resize((11, 5), Image.Resampling[name.upper()]))
        check(prepare(PIXELS), resized, prepare)


def test_an_image_too_long_to_crop_is_refused():
    prepare = ImagePreprocessor((224, 224), 0.9, 'bicubic', (0.0,), (1.0,))
    with pytest.raises(ValueError, match='20000000 x 1 pixels is too long to crop'):
        prepare(Image.new('L', (20_000_000, 1), 51))


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
    'changes',
    [
        {'size': (0, 8)},
        {'size': (-8, 8)},
        {'crop': -0.1},
        {'crop': 1.1},
        {'crop': float('nan')},
        {'interpolation': 'box'},
        {'mean': (0.5, 0.5), 'std': (0.5, 0.5)},
        {'mean': (0.5,)},
        {'mean': (), 'std': ()},
        {'std': (0.5, 0.5, 0.0)},
        {'std': (0.5, float('nan'), 0.5)},
        {'mean': (0.5, float('inf'), 0.5)},
    ],
    ids=str,
)
def test_unsound_choices_are_refused(changes):
    with pytest.raises(ValueError, match='not a sound preprocessing'):
        ImagePreprocessor(**vars(COLOR) | changes)


def test_a_header_gives_lists_for_tuples():
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(COLOR).items()}
    assert ImagePreprocessor.from_fields(fields) == COLOR
