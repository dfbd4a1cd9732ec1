"""Pages of the documentation that show other libraries: their code runs too, where these are."""

import importlib.util

import pytest
from documents import NAMES, PAGES, REFERENCES, blocks, needs, run, workplace

from blox.zoo.comparing.parity import import_reference

# torchvision takes a moment to import, and is in order only after `import_reference`.
TORCHES = ('torch', 'torchvision', 'timm', 'transformers', 'peft')
NEEDS = {name: needs(name) for name in NAMES}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', [name for name, needs in NEEDS.items() if needs])
def test_blocks_run_beside_the_libraries_they_speak_of(name):
    missing = [library for library in NEEDS[name] if importlib.util.find_spec(library) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)}: not installed')
    for library in NEEDS[name].intersection(TORCHES):
        import_reference(library)
    with workplace() as folder:
        run(PAGES / name, blocks(PAGES / name), folder)


def test_each_library_has_a_page():
    assert set().union(*NEEDS.values()) == REFERENCES - {'torchvision'}
