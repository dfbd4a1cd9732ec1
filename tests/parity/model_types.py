"""Write docs/pages/model-types.md: `python tests/parity/model_types.py`. Needs the `parity` extra.

The classes of transformers that load, each beside ours in float64, and open_clip's names by what
becomes of them.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from cases import CASES, pair, transformers
from libraries import Transformers

from blox.converters import explain, export, layouts, open_source
from blox.converters.configs import identify, read_config
from blox.converters.mapping.libraries import TRANSFORMERS
from blox.converters.sources.source import Source
from blox.converters.sources.tensor import Tensor
from blox.zoo.comparing.parity import compare, import_reference
from blox.zoo.models import families

import_reference('timm')
torch, open_clip = import_reference('torch'), import_reference('open_clip')
PAGE = Path(__file__).parents[2] / 'docs' / 'pages' / 'model-types.md'
HEAD = """# Models of transformers and open_clip

`python tests/parity/model_types.py` wrote this page.

Classes of transformers {transformers} whose folders load, by the `model_type` of their config.json. *Float64*: the largest
difference between any layer of a small model with random weights and ours after conversion, relative to the layer's largest
value, over as many settings as *settings* counts. *Back*: whether an export has the same names, shapes and bits.

| model type | class | settings | float64 | back |
| --- | --- | --- | --- | --- |
{classes}

Names of open_clip {open_clip}, by the config that it has for them: whether the names and shapes of all weights of the full-size
model are those that our converter expects, or what it lacks. {count} of {total} are here.

| name | header |
| --- | --- |
{names}
"""


def classes() -> Iterator[str]:
    """Yield a line for each class of transformers."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for case in CASES.values():
        if layouts(case.family)[case.layout].library is TRANSFORMERS:
            reference = case.reference
            assert isinstance(reference, Transformers)
            config = getattr(transformers, reference.config)
            groups.setdefault((config.model_type, case.reference.kind), []).append(case)
    for (model_type, kind), cases in sorted(groups.items()):
        worst, same = 0.0, True
        for case in cases:
            with tempfile.TemporaryDirectory() as folder:
                made = pair(case, Path(folder, 'in'))
                params = made.params.cast('float64')
                rows = compare(made.saved, case.layout, made.model, params, made.inputs)
                worst = max(worst, *(row.error for row in rows))
                export(Path(folder, 'out'), made.model, made.params, case.layout)
                same &= _tensors(made.saved) == _tensors(Path(folder, 'out'))
        cells = (model_type, kind, str(len(cases)), f'{worst:.1e}', 'yes' if same else '**no**')
        yield f'| {" | ".join(cells)} |'


def _tensors(folder: Path) -> dict[str, bytes]:
    """Return all that a folder's weights say; what pretraining alone uses goes out as zeros."""
    return {
        name: tensor.read().tobytes()
        for name, tensor in open_source(folder).tensors.items()
        if not name.endswith('mask_token')
    }


def fate(name: str) -> str:
    """Say whether the full-size model of an open_clip name fits, or what it needs."""
    config = open_clip.get_model_config(name)
    said = {'model_cfg': config}
    family, layout = identify(Path(name), said)
    try:
        fields = read_config(layouts(family)[layout], Source(Path(name), {}, said))
        model = families()[family].build(families()[family].config(**fields))
    except ValueError as error:
        return f'refused: {str(error).partition(" lacks: ")[2] or error}'
    kind = open_clip.CustomTextCLIP if config.get('custom_text') else open_clip.CLIP
    with torch.device('meta'):
        reference = kind(**{key: value for key, value in config.items() if key != 'custom_text'})
    tensors = {
        key: Tensor(np.dtype(np.float32), tuple(x.shape), lambda: np.zeros(0), Path(name))
        for key, x in reference.state_dict().items()
    }
    return 'fits' if explain(Source(Path(name), tensors, said), model).ok else '**differs**'


def main() -> None:
    jax.config.update('jax_enable_x64', True)
    jax.config.update('jax_default_matmul_precision', 'highest')
    lines = []
    for line in classes():
        print(line, flush=True)
        lines.append(line)
    fates = {name: fate(name) for name in open_clip.list_models()}
    PAGE.write_text(
        HEAD.format(
            transformers=transformers.__version__,
            open_clip=open_clip.__version__,
            classes='\n'.join(lines),
            count=sum(found == 'fits' for found in fates.values()),
            total=len(fates),
            names='\n'.join(
                f'| {name} | {found.replace("|", "/")} |' for name, found in fates.items()
            ),
        )
    )


if __name__ == '__main__':
    sys.exit(main())
