"""The README's Python runs, and prints what it says."""

from documents import ROOT, blocks, run

README = ROOT / 'README.md'


def test_python_blocks_run_and_print_what_follows_them():
    found = [block for block in blocks(README) if block.kind in ('python', 'text')]
    assert {block.kind for block in found} == {'python', 'text'}
    run(README, found, ROOT)


def test_the_first_two_bash_blocks_install_and_use_then_test():
    commands = [block.text for block in blocks(README) if block.kind == 'bash']
    assert commands[0].startswith('pip install .\nblox predict')
    assert 'blox generate gpt2-pydocs' in commands[0]
    assert commands[1] == 'pip install -e ".[test]"\npython -m pytest\n'
