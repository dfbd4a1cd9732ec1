# %% [markdown]
# # Look inside a ViT
#
# Which patches does `vit-digits` look at? Attention maps come out of the model with `bx.tap`, and a rollout (Abnar and Zuidema, 2020,
# arXiv:2005.00928) follows attention from the class token down to the patches. This page is a script that ran as the site was built.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import blox as bx

model, params = bx.zoo.load('vit-digits')
prepare = bx.zoo.preprocessor('vit-digits')
digits = range(10)
images = prepare([f'examples/digits/{digit}.png' for digit in digits])

# %% [markdown]
# ## Attention, by path
#
# What attention weighs values with is what `.../attn/attention_dropout` gives: [batch, heads, queries, keys]. There are 16 patches of
# 2 x 2 pixels, and before them the class token.

# %%
tapped = jax.jit(bx.tap(model, 'vit/block*/attn/attention_dropout'))
(logits, taps), _ = tapped(params, images)
print(logits.argmax(-1))
for path, value in taps.items():
    print(path, value.shape)

# %% [markdown]
# The four heads of the first and the last block, for the digit 7: rows are queries, columns keys.

# %%
figure, grid = plt.subplots(2, 4, figsize=(8, 4.2))
for row, block in zip(grid, (0, 5)):
    for head, axes in enumerate(row):
        axes.imshow(taps[f'vit/block{block}/attn/attention_dropout'][7, head], vmin=0)
        axes.set_title(f'block {block}, head {head}', fontsize=9)
        axes.set_axis_off()

# %% [markdown]
# ## Rollout
#
# Half of a block's output is its input, by the connection past it. So a block moves information by the mean of the identity and of its
# attention, averaged over heads; the product over blocks says where the class token's comes from.


# %%
def rollout(maps):
    """How much of each token's state comes from each input token: [batch, tokens, tokens]."""
    tokens = np.eye(maps[0].shape[-1])
    total = tokens
    for attention in maps:
        total = (np.asarray(attention).mean(1) + tokens) / 2 @ total
    return total


shares = rollout(list(taps.values()))
print(shares.shape, np.allclose(shares.sum(-1), 1, atol=1e-5))

# %% [markdown]
# Above each image, below it where the class token's information comes from, patch by patch.

# %%
figure, grid = plt.subplots(2, 10, figsize=(10, 2.4))
for digit, (above, below) in enumerate(grid.T):
    above.imshow(images[digit, ..., 0], cmap='gray')
    below.imshow(shares[digit, 0, 1:].reshape(4, 4))
    above.set_axis_off()
    below.set_axis_off()

# %% [markdown]
# ## Features, block by block
#
# How early can a digit be told? The class token after each block, compared with the mean class token of each digit: an image is near
# its own kind from some block on. `model.features` gives these states by name.

# %%
from sklearn.datasets import load_digits

pixels, labels = load_digits(return_X_y=True)
many = prepare(np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1))
names = [f'block{i}' for i in range(model.config.depth)]
states, _ = jax.jit(lambda params, x: model.features(params, x, names))(params, many)

for name in names:
    tokens = np.asarray(states[name][:, 0])
    centers = np.stack([tokens[:900][labels[:900] == digit].mean(0) for digit in digits])
    distances = np.linalg.norm(tokens[900:, None] - centers, axis=-1)
    print(f'{name}: {(distances.argmin(1) == labels[900:]).mean():.1%} nearest to their own')

# %% [markdown]
# Many of these images are among those that the model was trained on; the numbers say where in the model digits come apart, not how
# well it would do on others.
