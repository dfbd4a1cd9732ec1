"""A model's parameters as a table."""

import jax.numpy as jnp

import blox as bx


def lines(*args, **options):
    return [line.split() for line in bx.to_text(*args, **options).splitlines()]


def test_each_parameter_has_a_row_and_the_total_is_of_all():
    model, params = bx.zoo.load('vit-digits')
    found = lines(model, params.freeze('vit/block0/**'))
    assert found[0] == ['path', 'shape', 'dtype', 'count']
    paths = [row[0] for row in found[1:-3]]
    assert sorted(paths) == sorted(params)
    assert (paths[0], paths[-1]) == ('vit/cls_token', 'rng')
    assert ['vit/pos_embed', '1,', '17,', '96', 'float32', '1,632', 'T'] in found
    assert ['vit/block0/mlp/fc1/b', '192', 'float32', '192', 'F'] in found
    assert found[-2][:2] == ['452,074', 'parameters']
    assert f'{452_074 - 74_784:,}' in found[-2]


def test_blocks_that_are_alike_are_one_row_in_brief():
    model, params = bx.zoo.load('vit-digits')
    found = lines(model, params, brief=True)
    assert ['vit/block1', '..', 'vit/block5', 'as', 'vit/block0', '373,920'] in found
    assert not [row for row in found if row and row[0].startswith('vit/block2/')]


def test_state_is_marked_and_specs_and_labels_are_shown():
    model = bx.zoo.create('resnet-digits')
    spec = bx.spec(model, *model.example_inputs())
    assert ['resnet/stem/norm/mean', '32', 'float32', '32', 'S'] in lines(model, spec)
    trainable, _ = spec.split_trainable()
    labels = bx.labels(trainable, {'**/w': 'decay', '**': 'none'})
    assert ['resnet/head/w', "'decay'", 'T'] in lines(model, labels)


def test_stacked_blocks_are_shown_block_by_block():
    plain, scanned = (bx.zoo.load('vit-digits', scan=scan) for scan in (False, True))
    assert bx.to_text(*plain) == bx.to_text(*scanned)


def test_what_is_of_another_graph_is_counted():
    _, params = bx.zoo.load('vit-digits')
    text = bx.to_text(bx.Graph('net'), params)
    assert '80 entries more, of no part of net' in text


def test_a_number_alone_has_no_axes():
    params = bx.Params.from_entries({'net/scale': jnp.ones(())})
    assert ['net/scale', '()', 'float32', '1', 'T'] in lines(bx.Graph('net'), params)
