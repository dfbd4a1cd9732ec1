# %% [markdown]
# # A logit lens of GPT-2
#
# What would a language model say if it stopped after a few blocks? The logit lens puts the last norm and the head on the state after
# each block (nostalgebraist, 2020, "interpreting GPT: the logit lens"). The model is `gpt2-pydocs`, of 682,272 parameters, trained on the
# language reference behind Python's `help()`. This page is a script that ran as the site was built.

# %%
import jax
import jax.numpy as jnp
import numpy as np

import blox as bx

model, params = bx.zoo.load('gpt2-pydocs')
tokenizer = bx.zoo.tokenizer('gpt2-pydocs')
text = 'The for statement is used to iterate over the elements of a sequence'
ids = tokenizer.encode(text).ids
print(model.config.depth, 'blocks;', len(ids), 'tokens')

# %% [markdown]
# ## States after each block
#
# `model.features` gives them by name. The head of this model is its table of token embeddings, transposed.

# %%
blocks = ['embed', *(f'block{i}' for i in range(model.config.depth))]
states, _ = jax.jit(lambda params, x: model.features(params, x, blocks))(params, jnp.asarray([ids]))
logits, _ = jax.jit(model)(params, jnp.asarray([ids]))


@jax.jit
def lens(state):
    """Logits of a state [batch, tokens, width], as if the model ended there."""
    normalized, _ = model.norm(params, state)
    return normalized @ params['gpt2/token_embed/w'].value.T


print(
    'the last row is the model itself:', jnp.allclose(lens(states[blocks[-1]]), logits, atol=1e-3)
)

# %% [markdown]
# ## The table
#
# For some places in the text, the token that each layer finds likeliest to come next, with its probability. The last column is what
# the text really goes on with.

# %%
from IPython.display import Markdown


def likeliest(state, place):
    probabilities = jax.nn.softmax(lens(state)[0, place])
    best = int(probabilities.argmax())
    return f'`{tokenizer.decode([best])!r}` {probabilities[best]:.0%}'


places = range(len(ids) - 7, len(ids) - 1)
rows = ['| after | ' + ' | '.join(blocks) + ' | text |', '| --- ' * (len(blocks) + 2) + '|']
for place in places:
    cells = [likeliest(states[name], place) for name in blocks]
    seen, following = (repr(tokenizer.decode([ids[i]])) for i in (place, place + 1))
    rows.append(f'| `{seen}` | ' + ' | '.join(cells) + f' | `{following}` |')
Markdown('\n'.join(rows))

# %% [markdown]
# ## How the answer forms
#
# The same as one number for each layer: how many bits the next token costs there, averaged over the text.

# %%
targets = np.array(ids[1:])
for name in blocks:
    log_probabilities = jax.nn.log_softmax(lens(states[name])[0, :-1])
    bits = -log_probabilities[np.arange(len(targets)), targets].mean() / np.log(2)
    print(f'{name:<7} {bits:5.1f} bits a token')
