# %% [markdown]
# # Fine-tune on digits
#
# A network learns the digits 0 to 4. Then it gets 20 images each of the digits 5 to 9, which it has never seen. How much does it help
# to start from what it knows? This page is a script that ran as the site was built; its data are scikit-learn's handwritten digits, of
# 8 x 8 pixels.

# %%
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import blox as bx

pixels, labels = load_digits(return_X_y=True)
images = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
folder = Path(tempfile.mkdtemp())


def write(name, chosen):
    """A folder of PNG files, with a directory for each digit."""
    for i in np.flatnonzero(chosen):
        path = folder / name / str(labels[i]) / f'{i:04}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(path)
    return folder / name


# %% [markdown]
# ## Two folders
#
# One has all images of 0 to 4, the other 20 each of 5 to 9; the other images of these are for the test at the end.

# %%
is_first = labels < 5
rng = np.random.default_rng(0)
is_few = np.zeros(len(labels), bool)
for digit in range(5, 10):
    is_few[rng.choice(np.flatnonzero(labels == digit), 20, replace=False)] = True
is_test = ~is_first & ~is_few

first, few = write('first', is_first), write('few', is_few)
print(is_first.sum(), 'images of 0 to 4;', is_few.sum(), 'of 5 to 9;', is_test.sum(), 'to test')

# %% [markdown]
# ## Learn the first five digits
#
# A preprocessor says how images become inputs. `image_folder` reads in the background, and holds a tenth of each class back.

# %%
prepare = bx.zoo.preprocessor('vit-digits')
model = bx.zoo.create('vit-digits', num_classes=5)  # the architecture, not its weights

data = bx.zoo.image_folder(first, prepare)
card = bx.zoo.Card('first', 'vit', model.config, '', preprocessor=prepare)
out = folder / 'first.safetensors'
_, history = bx.zoo.finetune(model, bx.zoo.init(model), data, out=out, card=card, epochs=60)
for epoch in (history[0], history[-1]):
    print(f'epoch {epoch.epoch}: {epoch.held_out_accuracy:.1%} of the held-out images')

# %% [markdown]
# ## Then the others
#
# `load_for_classes` gives the trained network with a new head. Training from scratch gets the same 100 images and the same twenty
# epochs, which is soon done and few for it; left to itself, `finetune` chooses more.

# %%
data = bx.zoo.image_folder(few, prepare)
model, pretrained, card = bx.zoo.load_for_classes(out, data.labels)
starts = {
    'from scratch': bx.zoo.init(model),
    'fine-tuned': pretrained,
    'linear probe': pretrained.freeze().unfreeze('vit/head/*'),
}


def test_accuracy(params):
    logits, _ = jax.jit(model)(params, prepare(images[is_test][..., None]))
    return float((np.argmax(logits, -1) + 5 == labels[is_test]).mean())


results = {}
for name, params in starts.items():
    trained, history = bx.zoo.finetune(model, params, data, epochs=20)
    results[name] = test_accuracy(trained)
    print(f'{name}: {results[name]:.1%} of {is_test.sum()} images')

# %%
figure, axes = plt.subplots(figsize=(6, 2))
axes.barh(list(results), list(results.values()))
axes.set_xlim(0, 1)
_ = axes.set_xlabel('accuracy on images not trained on')

# %% [markdown]
# One seed is one draw, and one network one case. [Fine-tuning, measured](../finetune-digits.md) has five seeds, adapters, as many epochs
# as `finetune` chooses, and a ResNet too, for which the first five digits make no such difference.
