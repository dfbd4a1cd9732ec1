"""What a model is fine-tuned on: a folder of images by class, or a text file.

Batches come from grain's MapDataset, in which the batch of a step is a function of the seed and
that step alone: the state of the whole pipeline is one number, so training goes on at any step as
if it had not stopped. Files are read, decoded and augmented by grain's threads, ahead of the
model; Pillow lets go of Python's lock while it decodes. It brings no other framework along.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from blox.wording import printable, some
from blox.zoo.inputs.images import ImagePreprocessor, read_image
from blox.zoo.inputs.processors import INTERPOLATIONS

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')
# Of a target that does not count: what fills a batch up.
IGNORED = -1
MAX_TEXT_BYTES = 2**30

_HELD_OUT = ('val', 'valid', 'validation', 'test')
_THREADS = min(os.cpu_count() or 1, 16)

Example: TypeAlias = Any
Pair: TypeAlias = tuple[np.ndarray, np.ndarray]
Files: TypeAlias = Mapping[str, Sequence[Path]]


@dataclass(frozen=True, repr=False)
class Data:
    """Examples to train on, and others to measure with.

    Attributes:
      training, held_out: the examples, each of any kind that `read` takes.
      read: from an example to its inputs and integer targets, without the batch axis. In training
        it gets a random generator, to augment with; in measuring None.
      labels: names of the classes, in the order of the targets; () where those are tokens.
      fingerprint: tells these data from others.
      summary: for people.
    """

    training: Sequence[Example]
    held_out: Sequence[Example]
    read: Callable[[Example, np.random.Generator | None], Pair]
    labels: tuple[str, ...] = ()
    fingerprint: str = ''
    summary: str = ''

    def __repr__(self) -> str:
        return f'Data({len(self.training)} to train on, {len(self.held_out)} held out)'


def training_batches(
    data: Data, size: int, seed: int, start: int = 0
) -> Generator[Pair, None, None]:
    """Batches of training examples from step `start` on, without end, read in the background.

    Each epoch has an order of its own, and takes every example once; batches run across its ends.
    """
    import grain  # Only training needs it.

    # What grain repeats without end it cannot put into batches of one.
    ordered = grain.MapDataset.source(data.training).seed(seed).shuffle().repeat(2**31)
    return _background(ordered.random_map(data.read).batch(size)[start:])


def held_out_batches(data: Data, size: int) -> Generator[Pair, None, None]:
    """The held-out examples in their order; the last batch is filled up with IGNORED targets."""
    import grain

    count = -(-len(data.held_out) // size) * size
    numbers = grain.MapDataset.range(count)
    return _background(numbers.map(lambda i: _held_out(data, i)).batch(size))


def _held_out(data: Data, i: int) -> Pair:
    inputs, targets = data.read(data.held_out[min(i, len(data.held_out) - 1)], None)
    return inputs, targets if i < len(data.held_out) else np.full_like(targets, IGNORED)


def _background(batches: Any) -> Generator[Pair, None, None]:
    import grain

    threads = min(_THREADS, 4)  # Each makes a whole batch.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(batches.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


# Images.


def image_folder(
    path: str | os.PathLike[str],
    prepare: ImagePreprocessor,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    flip: bool = False,
    labels: Sequence[str] = (),
) -> Data:
    """The images in a folder with a directory for each class, whose sorted names are the labels.

    Of each class the fraction `holdout`, at least one image, is held out, drawn with `seed`;
    but where the folder has exactly `train/` and `val/` (or `valid/`, `validation/`, `test/`), these are
    the two parts. `labels`, if the directories have the same names, gives their order. A class's own
    subdirectories belong to it. Hidden files and such that are no images by their suffix are left out,
    as `summary` says.

    Training sees a random part of each image, nearly what `prepare` shows of it, and with `flip`
    mirrors half of them; digits and letters stay what they are without. Held-out images are read by
    `prepare` alone. Every file is decoded once before this returns.

    Raises ValueError, which names all files that cannot be read, or the classes that do not fit.
    """
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise ValueError(f'{str(root)!r}: expected a folder with a directory for each class')
    training, held_out, others = _parts(root, holdout, seed)
    names = sorted(training)
    order = tuple(labels) if sorted(labels) == names else tuple(names)
    parts = [
        [(file, order.index(name)) for name in names for file in part.get(name, ())]
        for part in (training, held_out)
    ]
    files = [file for part in parts for file, _ in part]
    _check_images(files, prepare)
    return Data(
        *parts,
        read=lambda example, rng: _read_image(example, prepare, flip, rng),
        labels=order,
        fingerprint=_fingerprint(root, files, prepare, flip),
        summary=_summary(root, parts, order, others),
    )


def _parts(root: Path, holdout: float, seed: int) -> tuple[Files, Files, Counter[str]]:
    """Training and held-out files by class, and the suffixes of files that are left out."""
    others: Counter[str] = Counter()
    names = [entry.name for entry in _directories(root)]
    held_out = [name for name in names if name in _HELD_OUT]
    if len(names) == 2 and len(held_out) == 1 and 'train' in names:
        found, measured = (_classes(root / name, others) for name in ('train', held_out[0]))
        if unknown := sorted(set(measured) - set(found)):
            raise ValueError(
                f'{str(root / held_out[0])!r}: expected classes of {str(root / "train")!r}, '
                f'found others: {some(unknown)}'
            )
        return found, measured, others
    return *_divided(root, _classes(root, others), holdout, seed), others


def _directories(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith('.'))


def _classes(root: Path, others: Counter[str]) -> dict[str, list[Path]]:
    """The image files of each class. ValueError unless there are two classes or more."""
    loose = [p.name for p in sorted(root.iterdir()) if p.is_file() and _is_image(p.name)]
    if loose:
        raise ValueError(
            f'{str(root)!r}: expected a directory for each class, found images beside them: '
            f'{some(loose)}'
        )
    found = {entry.name: _images(entry, others) for entry in _directories(root)}
    if strange := [name for name in found if not name.isprintable()]:
        raise ValueError(f'{str(root)!r}: expected names that can be printed, found {strange}')
    if empty := [name for name, files in found.items() if not files]:
        raise ValueError(
            f'{str(root)!r}: expected images ({", ".join(IMAGE_SUFFIXES)}) of every class, found '
            f'none of {some(empty)}'
        )
    if len(found) < 2:
        raise ValueError(
            f'{str(root)!r}: expected a directory for each of two classes or more, found '
            f'{some(list(found)) or "none"}'
        )
    return found


def _images(root: Path, others: Counter[str]) -> list[Path]:
    """The image files below a folder, links to files included; what else is there is counted."""
    files = []
    for folder, directories, names in os.walk(root):
        directories[:] = sorted(name for name in directories if not name.startswith('.'))
        for name in sorted(name for name in names if not name.startswith('.')):
            if _is_image(name):
                files.append(Path(folder) / name)
            else:
                others[Path(name).suffix.lower() or name] += 1
    return files


def _is_image(name: str) -> bool:
    return not name.startswith('.') and name.lower().endswith(IMAGE_SUFFIXES)


def _divided(
    root: Path, found: Files, holdout: float, seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Of each class a fraction, drawn with `seed`, and the rest before it."""
    _check_fraction(holdout)
    if single := [name for name, files in found.items() if len(files) < 2]:
        raise ValueError(
            f'{str(root)!r}: expected two images or more of every class, for one is held out; '
            f'found one of {some(single)}'
        )
    training, held_out = {}, {}
    for i, (name, files) in enumerate(found.items()):
        count = min(max(round(holdout * len(files)), 1), len(files) - 1)
        order = np.random.default_rng([seed, i]).permutation(len(files))
        training[name] = [files[j] for j in sorted(order[count:])]
        held_out[name] = [files[j] for j in sorted(order[:count])]
    return training, held_out


def _check_fraction(holdout: float) -> None:
    if not 0 < holdout < 1:
        raise ValueError(f'expected to hold out a fraction between 0 and 1, found {holdout}')


def _check_images(files: Sequence[Path], prepare: ImagePreprocessor) -> None:
    """Decodes every file once: better to stop now than in the middle of training."""

    def error(file: Path) -> str:
        try:
            if file.exists() and not file.is_file():
                return f'{str(file)!r} is not a regular file'
            prepare(file)
        except (OSError, ValueError) as error:
            return str(error) if str(file) in str(error) else f'{str(file)!r}: {error}'
        return ''

    with ThreadPoolExecutor(_THREADS) as pool:
        wrong = [text for text in pool.map(error, files) if text]
    if wrong:
        raise ValueError(
            f'{len(wrong)} of {len(files)} images cannot be read; mend or remove them: '
            f'{some(wrong, 50)}'
        )


def _read_image(
    example: tuple[Path, int],
    prepare: ImagePreprocessor,
    flip: bool,
    rng: np.random.Generator | None,
) -> Pair:
    file, label = example
    target = np.asarray(label, np.int32)
    if rng is None:
        return prepare(file)[0], target
    image = augment(read_image(file, 'L' if len(prepare.mean) == 1 else 'RGB'), prepare, rng, flip)
    return dataclasses.replace(prepare, resize=prepare.size, keep_ratio=False)(image)[0], target


def augment(
    image: Image.Image, prepare: ImagePreprocessor, rng: np.random.Generator, flip: bool
) -> Image.Image:
    """A random part of `image`, in the size that the model takes, and if `flip`, perhaps mirrored.

    Its sides are 85 to 100 % of what `prepare` shows, and it lies at most 10 % of them away from there.
    """
    box = []
    for length, shown in zip(image.size, _shown(image, prepare)):
        side = shown * rng.uniform(0.85, 1)
        middle = length / 2 + shown * rng.uniform(-0.1, 0.1)
        start = min(max(middle - side / 2, 0), length - side)
        box.append((start, min(start + side, length)))
    (left, right), (top, bottom) = box
    resample = INTERPOLATIONS[prepare.interpolation]
    height, width = prepare.size
    part = image.resize((width, height), resample, (left, top, right, bottom))
    mirrored = flip and rng.random() < 0.5
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else part


def _shown(image: Image.Image, prepare: ImagePreprocessor) -> tuple[float, float]:
    """Width and height of the part of `image` that `prepare` shows, in its own pixels."""
    (height, width), (high, wide) = prepare.size, prepare.resize
    x, y = image.width / wide, image.height / high
    if prepare.keep_ratio:
        x = y = min(x, y)
    return width * x, height * y


# Text.


def text_file(
    path: str | os.PathLike[str],
    tokenizer: Tokenizer,
    context: int,
    vocab_size: int,
    *,
    holdout: float = 0.1,
) -> Data:
    """The text in a UTF-8 file, of whose tokens the last tenth, or `holdout`, is held out.

    An example is as many tokens as a model of `context` sees, each with the one that follows
    it as target. Training starts each window somewhere else in every epoch.

    Raises ValueError for what is not UTF-8, too short, or has tokens beyond `vocab_size`.
    """
    tokens = _tokens(Path(path), tokenizer, vocab_size)
    _check_fraction(holdout)
    cut = len(tokens) - min(max(round(holdout * len(tokens)), 2), len(tokens) - 2)
    training, held_out = tokens[:cut], tokens[cut:]
    length = min(context, len(training) - 1)
    count = (len(training) - 1) // length
    name = printable(Path(path).resolve().name)
    return Data(
        training=[(training, i * length) for i in range(count)],
        held_out=[(held_out, start) for start in range(0, len(held_out) - 1, length)],
        read=lambda example, rng: _read_window(example, length, rng),
        fingerprint=hashlib.sha256(f'{cut} {length} '.encode() + tokens.tobytes()).hexdigest(),
        summary=f'{name}: {len(tokens)} tokens, the last {len(held_out)} held out',
    )


def _tokens(path: Path, tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f'{str(path)!r}: expected at most {MAX_TEXT_BYTES} bytes of text')
    try:
        text = path.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(
            f'{str(path)!r}: expected text in UTF-8, found {error.reason} at byte {error.start}'
        ) from error
    tokens = np.asarray(tokenizer.encode(text).ids, np.int32)
    if len(tokens) < 4:
        raise ValueError(f'{str(path)!r}: expected 4 tokens or more, found {len(tokens)}')
    if tokens.max() >= vocab_size:
        raise ValueError(f'{str(path)!r}: expected tokens below {vocab_size}, found {tokens.max()}')
    return tokens


def _read_window(
    example: tuple[np.ndarray, int], length: int, rng: np.random.Generator | None
) -> Pair:
    """`length` tokens and those that follow them; after the last, targets are IGNORED."""
    tokens, start = example
    if rng is not None:
        start = min(start + int(rng.integers(length)), len(tokens) - 1 - length)
    window = tokens[start : start + length + 1]
    missing = length + 1 - len(window)
    return (
        np.pad(window[:-1], (0, missing)),
        np.pad(window[1:], (0, missing), constant_values=IGNORED),
    )


# For people, and for telling data apart.


def _fingerprint(root: Path, files: Sequence[Path], *choices: Any) -> str:
    """A hash of the files' names and contents, and of how they are read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda file: hashlib.sha256(file.read_bytes()).hexdigest(), files)
        names = [f'{file.relative_to(root)}\0{found}' for file, found in zip(files, digests)]
    text = '\0'.join([*names, repr(choices)])
    return hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()


def _summary(
    root: Path, parts: Sequence[Sequence[Any]], labels: Sequence[str], others: Counter[str]
) -> str:
    training, held_out = map(len, parts)
    left = ', '.join(f'{count} {printable(suffix)}' for suffix, count in sorted(others.items()))
    return (
        f'{printable(root.resolve().name)}: {training + held_out} images '
        f'of {len(labels)} classes, {held_out} held out'
        + (f'; left out, as no images: {left}' if left else '')
    )
