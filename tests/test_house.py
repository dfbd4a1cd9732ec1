"""The house: imports run one way, between floors, between rooms, and between files."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Each floor stands on those after it.
FLOORS = ('zoo', 'converters', 'blox')
FILES = {
    '.'.join(
        (*(() if floor == 'blox' else ('blox',)), *file.relative_to(ROOT).with_suffix('').parts)
    ): file
    for floor in FLOORS
    for file in (ROOT / floor).rglob('*.py')
    if not any(parent.is_symlink() for parent in file.parents)
}


def floor_of(module):
    return next((f for f in FLOORS if module.startswith(f'blox.{f}')), 'blox')


def room_of(module):
    """The folder that a module lies in; files outside of any are a room together."""
    return module.rpartition('.')[0]


def imported(module):
    """Modules of ours that a file imports, anywhere in it but for type checkers alone."""
    tree = ast.parse(FILES[module].read_text('utf-8'))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f'{node.module}.{alias.name}'
                names.add(inner if {inner, f'{inner}.__init__'} & set(FILES) else node.module)
    return {found for name in names for found in (name, f'{name}.__init__') if found in FILES}


IMPORTS = {module: imported(module) - {module} for module in FILES}


def one_way(arrows):
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(' <- '.join(error.args[1]))


def test_imports_run_from_floor_to_floor_downward():
    upward = [
        (module, other)
        for module, others in IMPORTS.items()
        for other in others
        if FLOORS.index(floor_of(other)) < FLOORS.index(floor_of(module))
    ]
    assert upward == []


def test_imports_between_rooms_run_one_way():
    arrows = {}
    for module, others in IMPORTS.items():
        # What a floor shows of itself is no room's business.
        if module not in ('blox.__init__', 'blox.converters.__init__', 'blox.zoo.__init__'):
            arrows.setdefault(room_of(module), set()).update(map(room_of, others))
    one_way({room: rooms - {room} for room, rooms in arrows.items()})


def test_imports_between_files_run_one_way():
    one_way(IMPORTS)


def test_the_house_is_seen():
    assert {floor_of(module) for module in FILES} == set(FLOORS)
    assert 'blox.layers.linear' in IMPORTS['blox.layers.attention']
