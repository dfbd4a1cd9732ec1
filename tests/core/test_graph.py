"""Graph: addresses, ownership and walking."""

import pytest

import blox as bx


def test_paths_join_the_names_from_the_root():
    net = bx.Graph('net')
    hidden = net.child('mlp') / 'hidden'
    assert hidden.path == 'net/mlp/hidden'
    assert hidden.root is net
    assert hidden.parent is not None
    assert hidden.parent.path == 'net/mlp'


@pytest.mark.parametrize('name', ['', 'a/b', '/'])
def test_a_name_that_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match='non-empty string'):
        bx.Graph(name)
    with pytest.raises(ValueError, match='non-empty string'):
        bx.Graph('net').child(name)


def test_a_second_child_of_the_same_name_is_refused():
    net = bx.Graph('net')
    net.child('mlp')
    with pytest.raises(ValueError, match="'net' already has a child 'mlp'"):
        net.child('mlp')


def test_a_refused_child_leaves_no_trace():
    net = bx.Graph('net')
    with pytest.raises(ValueError, match='non-empty'):
        net.child('a/b')
    assert net.children == ()


def test_a_node_belongs_to_one_module():
    node = bx.Graph('net')
    bx.Linear(node, 1)
    with pytest.raises(ValueError, match="'net' already belongs to a Linear"):
        bx.Linear(node, 2)


def test_a_module_needs_a_graph():
    with pytest.raises(TypeError):
        bx.Linear('net', 1)  # pyright: ignore[reportArgumentType]


def test_walk_yields_owned_nodes_depth_first():
    net = bx.Graph('net')
    inner = bx.Linear(net.child('a').child('inner'), 1)
    last = bx.Linear(net.child('b'), 1)
    assert list(net.walk()) == [('net/a/inner', inner), ('net/b', last)]


def test_children_keep_their_order():
    net = bx.Graph('net')
    b, a = net / 'b', net / 'a'
    assert net.children == (b, a)
    assert repr(net.children[0]) == "Graph('net/b')"
