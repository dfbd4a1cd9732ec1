"""Write docs/pages/timm-models.md: `python tests/parity/timm_models.py`. Needs the `parity` extra.

Each of timm's names in some modules, beside ours: its full-size header, and what a small model of it
computes in float64.
"""

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

import blox as bx
from blox.converters.configs import identify, read_config
from blox.converters.explanation import explain
from blox.converters.mapping.libraries import timm_names, timm_version
from blox.converters.sources.source import Source
from blox.converters.sources.tensor import Tensor
from blox.converters.tables import layouts
from blox.zoo.comparing.parity import import_reference
from blox.zoo.comparing.widening import widen_reference
from blox.zoo.models import families

MODULES = ('vision_transformer', 'deit', 'eva', 'resnet', 'convnext', 'swin_transformer')
PAGE = Path(__file__).parents[2] / 'docs' / 'pages' / 'timm-models.md'
HEAD = """# timm's names

`python tests/parity/timm_models.py` wrote this page: each name that timm {version} has in its modules
{modules}, and what becomes of it here. *Header*: whether the names and shapes of
all weights of the full-size model are those that our converter expects. *Float64*: the largest difference between the outputs
of a small model of that name (few and narrow blocks, all else as it is) with random weights, and those of ours after conversion, relative
to the largest output; timm's own code gets the frequencies of rotary positions without rounding them to float32 first. *Back*: whether timm opens what our export writes of it, with the same bits.
Names that need what is not here yet are refused, by what they need.

{count} of {total} are here; the largest difference is {worst:.1e}.

| name | header | float64 | back |
| --- | --- | --- | --- |
"""
# Arguments that say only how large a model is, or where its training starts.
SIZES = """
    embed_dim depth num_heads num_kv_heads mlp_ratio img_size patch_size dynamic_img_size weight_init fix_init
    layers channels pruned_widths cardinality base_width stem_width depths dims ls_init_value num_heads
"""


def names(modules: tuple[str, ...] = MODULES) -> list[str]:
    """Return timm's names in these modules, deprecated ones left out."""
    import_reference('timm')
    registry = importlib.import_module('timm.models._registry')._module_to_models
    return [name for module in modules for name in sorted(registry[module] & {*timm_names()})]


def representatives() -> list[str]:
    """Return one name for each function that differs in more than size."""
    first: dict[str, str] = {}
    for name in names():
        kind, arguments = timm_names()[name]
        rest = {k: v for k, v in (arguments or {}).items() if k not in SIZES.split()}
        rest['init_values'] = bool(rest.get('init_values'))
        first.setdefault(json.dumps([kind, rest, arguments is None], sort_keys=True), name)
    return list(first.values())


def needs(name: str) -> str:
    """Return what a name needs that is not here, '' if it is here."""
    try:
        _model(name, {'architecture': name, 'pretrained_cfg': {}})
    except ValueError as error:
        return str(error).partition(' lacks: ')[2] or str(error)
    return ''


def _model(name: str, said: Mapping[str, Any]) -> Any:
    """Return our model of timm's config.json."""
    family, layout = identify(Path(name), said)
    fields = read_config(layouts(family)[layout], Source(Path(name), {}, said))
    return families()[family].build(families()[family].config(**fields))


def small(name: str) -> dict[str, Any]:
    """Return the arguments that make a small model of a name."""
    made_with = timm_names()[name].arguments or {}
    match timm_names()[name].kind:
        case 'ResNet' if made_with.get('pruned'):
            return {'num_classes': 5}
        case 'ResNet':
            return {'num_classes': 5, 'layers': [1, 2, 1, 1]}
        case 'ConvNeXt':
            return {'num_classes': 5, 'depths': [1, 1, 2, 1], 'dims': [8, 12, 16, 24]}
        case 'SwinTransformer':
            sizes = {'embed_dim': 16, 'depths': [1, 2, 1, 1], 'num_heads': [1, 2, 4, 8]}
            return {'num_classes': 5, **sizes}
    patch = made_with.get('patch_size', 16)
    sizes: dict[str, Any] = {'embed_dim': 48, 'depth': 2, 'num_heads': 4}
    if 'num_kv_heads' in made_with:
        sizes['num_kv_heads'] = [4, 2]
    return {'num_classes': 5, 'img_size': [2 * patch, 3 * patch], **sizes}


def fits(name: str) -> bool:
    """Tell whether the full-size model's weights are named and shaped as ours expects."""
    torch, timm = import_reference('torch'), import_reference('timm')
    with torch.device('meta'):
        reference = timm.create_model(name)
    tensors = {
        key: Tensor(np.dtype(np.float32), tuple(x.shape), lambda: np.zeros(0), Path(name))
        for key, x in reference.state_dict().items()
    }
    with tempfile.TemporaryDirectory() as folder:
        timm.models._hub.save_config_for_hf(reference, Path(folder, 'config.json'))
        said = json.loads(Path(folder, 'config.json').read_text())
    return explain(Source(Path(name), tensors, said), _model(name, said)).ok


def error_and_back(name: str, **other: Any) -> tuple[float, bool]:
    """Return the error of a small model's outputs, and whether an export of it is the same again.

    It is made with `other` arguments than its name says.
    """
    torch, timm = import_reference('torch'), import_reference('timm')
    arguments = small(name) | other
    torch.manual_seed(0)
    reference = timm.create_model(name, **arguments).eval()
    _randomize(torch, reference)
    with tempfile.TemporaryDirectory() as folder:
        theirs, back = Path(folder, 'theirs'), Path(folder, 'back')
        timm.models.save_for_hf(reference, theirs, model_args=arguments, safe_serialization=True)
        model, params = bx.zoo.load(theirs)
        (image,) = model.example_inputs()
        images = np.random.default_rng(0).normal(size=(2, *image.shape[1:]))
        bx.converters.export(back, model, params, 'timm')
        said = json.loads((back / 'config.json').read_text())
        again = timm.create_model(
            said['architecture'],
            checkpoint_path=back / 'model.safetensors',
            **said['model_args'],
        )
        state = again.state_dict()
        same = all(torch.equal(state[key], x) for key, x in reference.state_dict().items())
        with torch.no_grad():
            expected = widen_reference(reference.double())(
                torch.tensor(images).permute(0, 3, 1, 2)
            ).numpy()
        found = np.asarray(jax.jit(model)(params.cast('float64'), images)[0])
    return abs(found - expected).max() / abs(expected).max(), same


def _randomize(torch: Any, model: Any) -> None:
    """Give all parameters random values, of a size that lets signals through; and statistics."""
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.3 if value.ndim < 2 else max(1, value[0].numel()) ** -0.5)
        for name, value in model.named_buffers():
            if name.endswith('running_mean'):
                value.normal_(0, 0.3)
            elif name.endswith('running_var'):
                value.uniform_(0.5, 1.5)


def rows() -> Iterator[tuple[str, str, float]]:
    """Yield a line for each name, with what is missing, and its error."""
    for name in names():
        if missing := needs(name):
            yield f'| {name} | refused: {missing.replace("|", "/")} | | |', missing, 0.0
            continue
        error, same = error_and_back(name)
        cells = (
            name,
            'fits' if fits(name) else '**differs**',
            f'{error:.1e}',
            'yes' if same else '**no**',
        )
        yield f'| {" | ".join(cells)} |', '', error


def main() -> None:
    jax.config.update('jax_enable_x64', True)
    jax.config.update('jax_default_matmul_precision', 'highest')
    lines, missing, errors = [], [], []
    for line, lack, error in rows():
        print(line, flush=True)
        lines.append(line)
        missing += [lack] if lack else []
        errors.append(error)
    head = HEAD.format(
        version=timm_version(),
        modules=', '.join(MODULES),
        count=len(lines) - len(missing),
        total=len(lines),
        worst=max(errors),
    )
    PAGE.write_text(head + '\n'.join(lines) + '\n')


if __name__ == '__main__':
    sys.exit(main())
