"""What is installed, from a clone with symbolic links and from one without, as on Windows."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ('blox', 'zoo', 'converters')
ABOUT = ('pyproject.toml', 'README.md', 'LICENSE')


def copied(folder, *, links):
    """A clone: without links, files in their place say where they would lead."""
    for floor in FLOORS:
        ignored = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / floor, folder / floor, symlinks=True, ignore=ignored)
    for name in ABOUT:
        shutil.copy(ROOT / name, folder / name)
    for name in FLOORS[1:]:
        link = folder / 'blox' / name
        assert link.is_symlink()
        if not links:
            target = os.readlink(link)
            link.unlink()
            link.write_text(target)
    return folder


@pytest.fixture(scope='module')
def wheels(tmp_path_factory):
    """The wheel of a clone with links, and that of one without."""
    pytest.importorskip('hatchling')
    found = []
    for links in (True, False):
        clone = copied(tmp_path_factory.mktemp(f'clone{links}'), links=links)
        out = tmp_path_factory.mktemp(f'wheel{links}')
        command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--disable-pip-version-check']
        command += ['--no-build-isolation', '--no-deps', '-w', str(out), str(clone)]
        subprocess.run(command, check=True)
        found += out.glob('*.whl')
    return found


def test_links_change_nothing_of_what_is_installed(wheels):
    contents = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as files:
            contents.append({name: files.read(name) for name in files.namelist()})
    assert contents[0] == contents[1]
    names = contents[0]
    for floor in FLOORS[1:]:
        ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / floor).rglob('*.py')}
        assert {f'blox/{name}' for name in ours} <= names.keys()
    assert 'blox/zoo/weights/vit-digits.safetensors' in names
    assert not any(name.startswith(('zoo/', 'converters/', 'tests/')) for name in names)


def test_what_is_installed_runs_from_another_folder(wheels, tmp_path):
    with zipfile.ZipFile(wheels[1]) as files:
        files.extractall(tmp_path / 'site')
    script = 'import blox as bx; print(bx.__file__, bx.zoo.pipeline("vit-digits").card.name)'
    done = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / 'site' / 'blox' / '__init__.py'), 'vit-digits']
