"""Tutorials: scripts with cells, executed as notebooks, as pages of Markdown."""

import functools
from pathlib import Path

import jupytext
import nbconvert
import nbformat
from nbclient import NotebookClient


@functools.cache
def executed(name: str, script: str, folder: Path) -> dict[str, str | bytes]:
    """The page of a script that ran in `folder`, its pictures, and the notebook itself, by path.

    One that did not change is not run again while `mkdocs serve` goes on.
    """
    notebook = jupytext.reads(script, fmt='py:percent')
    place = {'metadata': {'path': folder}}
    NotebookClient(notebook, timeout=600, resources=place, coalesce_streams=True).execute()
    exporter = nbconvert.MarkdownExporter()
    names = {'output_files_dir': name, 'unique_key': name}
    page, found = exporter.from_notebook_node(notebook, resources=names)
    return {
        f'tutorials/{name}.md': f'{page}\n[This page as a notebook]({name}.ipynb)\n',
        f'tutorials/{name}.ipynb': nbformat.writes(notebook),
        **{f'tutorials/{path}': content for path, content in found['outputs'].items()},
    }
