"""timm's names and arguments in our file are those of the timm that is installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name('timm_names.py')


@pytest.mark.skipif(importlib.util.find_spec('timm') is None, reason='needs timm')
def test_the_file_of_timms_names_is_what_timm_says():
    # In a process of its own, for asking takes the place of timm's builder.
    code = 'import timm_names as t; assert t.FILE.read_text("utf-8") == t.text(t.collect())'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code],
        cwd=SCRIPT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
