"""Places of parameters between inputs and outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import table

import blox as bx
from blox.zoo.training.depth import decay_factors, depths

SIZES = {'width': 8, 'depth': 3, 'heads': 2, 'mlp_dim': 8, 'image_size': 32}
STAGES = {'depths': (1, 2), 'widths': (8, 8), 'image_size': 32}


def made(name, **sizes):
    model = bx.zoo.create(name, **sizes)
    return model, bx.spec(model, *model.example_inputs())


@table(
    {
        'vit': (
            ('vit-ti16', SIZES),
            {
                'vit/pos_embed': 0,
                'vit/patch_embed/w': 0,
                'vit/block0/attn/qkv/w': 1,
                'vit/block2/mlp/fc1/b': 3,
                'vit/norm/scale': 3,
                'vit/head/w': 4,
            },
        ),
        'resnet': (
            ('resnet18', STAGES),
            {
                'resnet/stem/conv/w': 0,
                'resnet/stage1/block0/conv1/conv/w': 1,
                'resnet/stage2/block0/shortcut/conv/w': 2,
                'resnet/stage2/block1/conv1/norm/scale': 3,
                'resnet/head/b': 4,
            },
        ),
        'convnext': (
            ('convnext-tiny', {'depths': (1, 2, 1, 1), 'widths': (8, 8, 8, 8), 'image_size': 32}),
            {
                'convnext/stem/conv/w': 0,
                'convnext/stage1/block0/conv_dw/w': 1,
                'convnext/stage2/downsample/conv/w': 2,
                'convnext/stage2/block1/conv_dw/w': 3,
                'convnext/stage4/downsample/norm/scale': 5,
                'convnext/norm/scale': 5,
                'convnext/head/w': 6,
            },
        ),
    }
)
def test_places_count_blocks_from_the_stem_to_the_head(row):
    (name, sizes), expected = row
    found = depths(*made(name, **sizes))
    assert {path: (place,) for path, place in expected.items()}.items() <= found.items()


def test_a_decay_of_one_has_no_factors():
    assert decay_factors(*made('vit-ti16', **SIZES), 1.0) == ()


def test_stacked_entries_have_a_factor_for_each_block():
    single, stacked = (
        dict(decay_factors(*made('vit-ti16', scan=s, **SIZES), 0.5)) for s in (False, True)
    )
    assert stacked['vit/block*/mlp/fc1/w'] == (0.125, 0.25, 0.5)
    assert [single[f'vit/block{i}/mlp/fc1/w'] for i in range(3)] == [(0.125,), (0.25,), (0.5,)]
    assert stacked['vit/pos_embed'] == single['vit/pos_embed'] == (0.0625,)


@pytest.mark.parametrize('scan', [False, True])
def test_lower_layers_take_smaller_steps(scan):
    from trainings import finetune

    model = bx.zoo.create(
        'vit-ti16',
        **{**SIZES, 'image_size': 8, 'patch_size': 4},
        in_channels=1,
        num_classes=2,
        scan=scan,
    )
    start = bx.zoo.init(model)
    after, _ = finetune(model=model, params=start, epochs=1, layer_decay=0.01, weight_decay=0)

    def moved(path):
        changed = jax.tree.map(jnp.subtract, after[path].value, start[path].value)
        return float(np.abs(changed).max())

    # AdamW's steps are as large as its rate.
    assert (
        moved('vit/head/w')
        > 30 * moved('vit/block2/mlp/fc1/w')
        > 900 * moved('vit/block1/mlp/fc1/w')
    )


def test_the_last_blocks_alone_are_trainable():
    model, params = made('vit-ti16', **SIZES)
    tuned = bx.zoo.tune_last(model, params, 1).split_trainable()[0]
    assert {path.split('/')[1] for path in tuned} == {'block2', 'norm', 'head'}
    assert (
        bx.zoo.tune_last(model, params, 3)
        .freeze('vit/patch_embed/*')['vit/block0/norm1/scale']
        .trainable
    )


@table(
    {
        'too many': (('vit-ti16', SIZES), 4, '0 to 3, found 4'),
        'stacked': (('vit-ti16', {**SIZES, 'scan': True}), 1, 'load without scan=True'),
        'no head': (
            ('gpt2', {'width': 8, 'depth': 2, 'heads': 2, 'mlp_dim': 8}),
            0,
            '1 to 2, found 0',
        ),
        'towers': (('clip-b32', {}), 1, 'two towers'),
    }
)
def test_what_cannot_be_tuned_is_refused(row):
    (name, sizes), count, message = row
    with pytest.raises(ValueError, match=message):
        bx.zoo.tune_last(*made(name, **sizes), count)
