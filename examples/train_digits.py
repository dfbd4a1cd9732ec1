"""Trains a small image classifier on scikit-learn's handwritten digits.

    python examples/train_digits.py resnet-digits
    python examples/train_digits.py vit-digits

Data: 1,797 images of 8 x 8 pixels (Alpaydin and Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, CC BY 4.0). A stratified random fifth, 360 images, is
the test set, the same for both models; writers may occur on both sides of the split.
"""

import argparse
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax.scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import blox as bx

PREPROCESSOR = bx.zoo.ImagePreprocessor(
    size=(8, 8), resize=(8, 8), keep_ratio=False, interpolation='bilinear', mean=(0.5,), std=(0.5,)
)
COMMON = {'image_size': 8, 'in_channels': 1, 'num_classes': 10}
MODELS = {
    'resnet-digits': functools.partial(
        bx.zoo.create,
        'resnet18',
        depths=(1, 1, 1),
        widths=(32, 64, 128),
        stem='small',
        stem_width=32,
        **COMMON,
    ),
    'vit-digits': functools.partial(
        bx.zoo.create,
        'vit-ti16',
        patch_size=2,
        width=96,
        depth=6,
        heads=4,
        mlp_dim=192,
        dropout_rate=0.1,
        drop_path_rate=0.1,
        **COMMON,
    ),
}
EPOCHS, BATCH, PEAK_RATE = 240, 128, 2e-3


def digits_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images, test images (uint8 [count, 8, 8], 255 is full ink), and their labels."""
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    return train, test, train_labels, test_labels


def augment(key: jax.Array, image: jax.Array) -> jax.Array:
    """One image [8, 8, 1], turned, stretched and moved a little."""
    angle_key, scale_key, shift_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, minval=-0.26, maxval=0.26)
    scale = jax.random.uniform(scale_key, (2, 1), minval=0.85, maxval=1.15)
    shift = jax.random.uniform(shift_key, (2, 1), minval=-1.0, maxval=1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    grid = jnp.stack(jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing='ij')).reshape(2, -1)
    places = jnp.array([[cos, -sin], [sin, cos]]) @ (scale * (grid - 3.5)) + 3.5 + shift
    # Outside of the image is paper, which is -1 after normalization.
    return map_coordinates(image[..., 0], list(places), order=1, cval=-1.0).reshape(8, 8, 1)


def train(name: str, seed: int, epochs: int) -> tuple[object, bx.Params, float]:
    """A trained model, its Params and its accuracy on the test images."""
    train_pixels, test_pixels, train_labels, test_labels = digits_split()
    images, labels = jnp.asarray(PREPROCESSOR(train_pixels[..., None])), jnp.asarray(train_labels)
    model = MODELS[name]()
    params = bx.zoo.init(model, seed)
    steps = epochs * (len(images) // BATCH)
    rate = optax.warmup_cosine_decay_schedule(0.0, PEAK_RATE, steps // 20, steps)
    optimizer = optax.adamw(
        rate, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    state = optimizer.init(params.split_trainable()[0])

    @jax.jit
    def step(params, state, batch, targets):
        key, params = params.next_key()
        batch = jax.vmap(augment)(jax.random.split(key, len(batch)), batch)
        trainable, rest = params.split_trainable()

        def loss_fn(trainable, rest):
            logits, new = model(trainable.merge(rest), batch, is_training=True)
            targets_smooth = optax.smooth_labels(jax.nn.one_hot(targets, 10), 0.1)
            loss = optax.softmax_cross_entropy(logits, targets_smooth).mean()
            return loss, new.split_trainable()[1]

        (loss, rest), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable, rest)
        updates, state = optimizer.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates).merge(rest), state, loss

    rng = np.random.default_rng(seed)
    with tqdm.tqdm(total=steps, desc=name, unit='step') as bar:
        for _ in range(epochs):
            order = rng.permutation(len(images))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                chosen = order[start : start + BATCH]
                params, state, loss = step(params, state, images[chosen], labels[chosen])
                bar.update()
            bar.set_postfix(loss=f'{loss:.3f}')
    return model, params, accuracy(model, params, test_pixels, test_labels)


def accuracy(model, params: bx.Params, pixels: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of `pixels`, uint8 [count, 8, 8], that are classified right."""
    logits, _ = jax.jit(model)(params, PREPROCESSOR(pixels[..., None]))
    return float((np.argmax(logits, -1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('name', choices=list(MODELS))
    parser.add_argument('--out', type=Path, help='default: NAME.safetensors')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--epochs', type=int, default=EPOCHS)
    args = parser.parse_args()
    model, params, test_accuracy = train(args.name, args.seed, args.epochs)
    print(f'{args.name}: {params.num_params:,} parameters, test accuracy {test_accuracy:.4f}')
    card = bx.zoo.Card(
        name=args.name,
        family=args.name.removesuffix('-digits'),
        config=model.config,
        task='image-classification',
        summary='Handwritten digits, 8 x 8 pixels, light ink on dark paper.',
        training=f'examples/train_digits.py {args.name} --seed {args.seed} --epochs {args.epochs}',
        data='Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI), as bundled with '
        'scikit-learn: 1,437 training and 360 test images, a stratified random split; CC BY 4.0',
        license='MIT',
        metrics={'test_accuracy': round(test_accuracy, 4)},
        labels=tuple('0123456789'),
        preprocessor=PREPROCESSOR,
    )
    out = args.out or Path(f'{args.name}.safetensors')
    bx.zoo.save(out, model, params, card=card)
    print(f'saved {out}, {out.stat().st_size / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
