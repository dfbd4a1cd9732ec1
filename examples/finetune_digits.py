"""Fine-tunes a network that has seen the digits 0 to 4 on 20 images each of 5 to 9.

    python examples/finetune_digits.py vit-digits
    python examples/finetune_digits.py resnet-digits

It prints, as Markdown, the accuracy on all other images of 5 to 9: of training from scratch on the
same 100 images, of fine-tuning all parameters, adapters, or a linear head alone. Everything goes
through folders of PNG files and `bx.zoo.finetune`, as with `blox finetune`.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from train_digits import MODELS, PREPROCESSOR, digits_split

import blox as bx

FIRST, OTHERS = (0, 1, 2, 3, 4), (5, 6, 7, 8, 9)
IMAGES, PRETRAINING = 20, 100
METHODS = ('from scratch', 'fine-tuned', 'adapters', 'linear head')


def write_folder(path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A directory of PNG files for each digit."""
    for i, (image, label) in enumerate(zip(images, labels)):
        (path / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / str(label) / f'{i:04}.png')
    return path


def pretrain(folder: Path, model, epochs: int = PRETRAINING) -> Path:
    """A file of the model, trained on the training images of the first five digits."""
    images, _, labels, _ = digits_split()
    chosen = np.isin(labels, FIRST)
    write_folder(folder / 'first', images[chosen], labels[chosen])
    data = bx.zoo.image_folder(folder / 'first', PREPROCESSOR)
    card = bx.zoo.Card('first', '', model.config, '', preprocessor=PREPROCESSOR)
    out = folder / 'first.safetensors'
    bx.zoo.finetune(model, bx.zoo.init(model), data, out=out, card=card, epochs=epochs)
    return out


def draw(folder: Path, seed: int) -> tuple[bx.zoo.Data, np.ndarray, np.ndarray]:
    """Twenty images of each other digit, as data to train on, and all others with their labels."""
    images, more_images, labels, more_labels = digits_split()
    images, labels = np.concatenate([images, more_images]), np.concatenate([labels, more_labels])
    rng, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for digit in OTHERS:
        chosen[rng.choice(np.flatnonzero(labels == digit), IMAGES, replace=False)] = True
    rest = np.isin(labels, OTHERS) & ~chosen
    path = write_folder(folder / f'others{seed}', images[chosen], labels[chosen])
    data = bx.zoo.image_folder(path, PREPROCESSOR, seed=seed)
    return data, images[rest], labels[rest]


def start(method: str, pretrained: Path, labels: tuple[str, ...], seed: int) -> bx.Params:
    """Params before training; what the method trains is trainable."""
    model, params, _ = bx.zoo.load_for_classes(pretrained, labels, seed=seed)
    if method == 'from scratch':
        return bx.zoo.init(model, seed)
    if method == 'adapters':
        return bx.lora(params, '**/block*/**/w', seed=seed).unfreeze('*/head/*')
    if method == 'linear head':
        return params.freeze().unfreeze('*/head/*')
    return params


def accuracy(model, params: bx.Params, pixels: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of `pixels`, uint8 [count, 8, 8], that are classified right."""
    logits, _ = jax.jit(model)(params, PREPROCESSOR(pixels[..., None]))
    return float((np.asarray(OTHERS)[np.argmax(logits, -1)] == labels).mean())


def compare(model, pretrained: Path, seed: int, methods=METHODS, epochs: int | None = None):
    """The accuracy of each method, all with the same images."""
    data, images, labels = draw(pretrained.parent, seed)
    found = {}
    for method in methods:
        params = start(method, pretrained, data.labels, seed)
        params, _ = bx.zoo.finetune(model, params, data, seed=seed, epochs=epochs)
        found[method] = accuracy(model, params, images, labels)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('name', choices=list(MODELS))
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--epochs', type=int, help='default: as `blox finetune` chooses')
    args = parser.parse_args()
    model = MODELS[args.name](num_classes=len(OTHERS))
    with tempfile.TemporaryDirectory() as folder:
        pretrained = pretrain(Path(folder), model)
        rows = [compare(model, pretrained, seed, epochs=args.epochs) for seed in range(args.seeds)]
    print('| | mean | ' + ' | '.join(f'seed {seed}' for seed in range(args.seeds)) + ' |')
    print('| --- |' + ' ---: |' * (args.seeds + 1))
    for method in METHODS:
        values = [row[method] for row in rows]
        cells = [f'{100 * x:.1f} %' for x in (np.mean(values), *values)]
        print(f'| {method} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
