"""Compare a model with the library that its checkpoint came from, layer by layer.

Both models hold the same values and see the same inputs; their layers' outputs are compared in the
order in which ours compute them, so the first row that differs says where the fault is.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
import os
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np

from blox.converters.configs import write_config
from blox.converters.mapping import libraries
from blox.converters.mapping.rules import Table, respell_module
from blox.converters.mapping.transforms import Transform
from blox.converters.tables import layouts
from blox.converters.target import table_of
from blox.params import Params
from blox.tap import tap
from blox.zoo.comparing.widening import widen_reference

# Errors that rounding explains, relative to a layer's largest value. Any wrong choice shows in float64.
TOLERANCES = {'float64': 1e-10, 'float32': 1e-4}

# Operators that torchvision looks up as it is imported, whether it was compiled with them or not.
_OPERATORS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
)


class LayerError(NamedTuple):
    """Distance of one of our layers from the reference's.

    Attributes:
      path: where the module is in the graph; the root's row is that of the final outputs.
      error: the largest difference, relative to `scale`.
      scale: the largest value of the reference.
    """

    path: str
    error: float
    scale: float


class Report(NamedTuple):
    """The result of `verify`; `str` of it is a table.

    Attributes:
      reference: the library, its version and its class.
      rows: by dtype, one for each layer that both have, in the order of execution.
    """

    reference: str
    rows: Mapping[str, Sequence[LayerError]]

    def worst(self, dtype: str) -> LayerError:
        """Return the row of `dtype` with the largest error."""
        return max(self.rows[dtype], key=_severity)

    @property
    def diverging(self) -> LayerError | None:
        """The first layer that rounding does not explain, None if the models are equal."""
        found = (diverging(self.rows[dtype], TOLERANCES[dtype]) for dtype in self.rows)
        return next((row for row in found if row is not None), None)

    def fields(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            'reference': self.reference,
            'rows': {d: [row._asdict() for row in rows] for d, rows in self.rows.items()},
            'diverging': self.diverging._asdict() if self.diverging else None,
        }

    def __str__(self) -> str:
        paths = [row.path for row in next(iter(self.rows.values()))]
        columns = [[row.error for row in (*r, self.worst(d))] for d, r in self.rows.items()]
        width = max(map(len, paths))
        lines = [f'{"layer":<{width}}' + ''.join(f'  {dtype:>8}' for dtype in self.rows)]
        for path, *errors in zip([*paths, 'worst'], *columns):
            lines.append(f'{path:<{width}}' + ''.join(f'  {error:8.1e}' for error in errors))
        first = self.diverging
        verdict = f'diverges first at {first.path!r}' if first else 'equal up to rounding'
        return '\n'.join([f'compared with {self.reference}', *lines, verdict])


def verify(folder: str | os.PathLike[str], layout: str, model: Any, params: Params) -> Report:
    """Compare a model with the reference library's, made of the same folder.

    Both get the same random inputs, once in float64 and once in float32. `layout` is 'hf' or another
    of transformers', 'timm' or one of open_clip's. Raises ImportError where the library is not installed.
    """
    rows, name = {}, ''
    for dtype in TOLERANCES:
        with _precision(dtype):
            reference = open_reference(folder, layout, model, dtype)
            name = describe(reference)
            inputs = random_inputs(model)
            rows[dtype] = compare(reference, layout, model, params.cast(jnp.dtype(dtype)), inputs)
    return Report(name, rows)


def compare(
    reference: Any, layout: str, model: Any, params: Params, inputs: Sequence[np.ndarray]
) -> list[LayerError]:
    """Return the errors of our layers' outputs, and of the final ones, in the order of execution.

    `reference` is a module of torch, or the folder of one; a folder's is opened in the dtype
    of `params`. Batches in `inputs` are as ours come: NHWC images, or token ids and a mask.
    """
    if isinstance(reference, str | os.PathLike):
        reference = open_reference(reference, layout, model, params.dtype)
    theirs = reference_outputs(reference, layout, model, inputs)
    ours = jax.jit(functools.partial(layer_outputs, model, frozenset(theirs)))(params, *inputs)
    return [layer_error(path, value, theirs[path]) for path, value in ours.items()]


def diverging(rows: Iterable[LayerError], tolerance: float) -> LayerError | None:
    """Return the first row whose error is above `tolerance`, None if there is none."""
    return next((row for row in rows if _severity(row) > tolerance), None)


def layer_error(path: str, ours: Any, theirs: np.ndarray) -> LayerError:
    """Return the row of one layer. ValueError if the two have different shapes."""
    ours = np.asarray(ours)
    if ours.shape != theirs.shape:
        raise ValueError(
            f'{path!r}: expected {theirs.shape}, as the reference gives there, found {ours.shape}'
        )
    scale = float(np.abs(theirs).max(initial=0))
    return LayerError(path, float(np.abs(ours - theirs).max(initial=0)) / (scale or 1.0), scale)


def _severity(row: LayerError) -> float:
    """Return the error, infinity where it is no number."""
    return math.inf if math.isnan(row.error) else row.error


def random_inputs(model: Any, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Draw two images of noise, or three rows of tokens, with a mask if the model sees both ways.

    A model of two towers gets images and tokens. Of multiple choice each row has two choices.
    """
    rng = np.random.default_rng(seed)
    (example, *others) = model.example_inputs()
    if jnp.issubdtype(example.dtype, jnp.floating):
        images = rng.normal(size=(2, *example.shape[1:])).astype(np.float32)
        return (images, _random_tokens(model, rng, others[0].ndim)) if others else (images,)
    tokens = _random_tokens(model, rng, example.ndim)
    if 'types' not in model.takes:
        return (tokens,)
    length = tokens.shape[-1]
    # Rows of all, about half, and one of the tokens.
    lengths = np.array([length, (length + 1) // 2, 1])
    mask = np.arange(length) < lengths.reshape(-1, *(1,) * (example.ndim - 1))
    return tokens, np.ascontiguousarray(np.broadcast_to(mask, tokens.shape))


def _random_tokens(model: Any, rng: np.random.Generator, axes: int) -> np.ndarray:
    shape = (3, *(2,) * (axes - 2), min(model.config.context, 24))
    return rng.integers(0, model.config.vocab_size, shape).astype(np.int32)


# Our side.


def layer_outputs(
    model: Any, paths: Iterable[str], params: Params, *inputs: Any
) -> OrderedDict[str, jax.Array]:
    """Return the outputs of the modules at `paths`, in the order in which they are done.

    A final output of several fields has them at 'root.field'. It can be jitted: a copy of the
    model is tapped, so neither the model nor its classes change.
    """
    wanted = set(paths)
    tapped = tap(model, lambda path, _: path in wanted or path == model.path)
    (outputs, records), _ = tapped(params, *map(jnp.asarray, inputs))
    if hasattr(outputs, '_asdict'):
        del records[model.path]
        records.update({f'{model.path}.{name}': x for name, x in outputs._asdict().items()})
    # A plain dict would come out of jit in the order of its keys.
    return OrderedDict((p, x) for p, x in records.items() if p in wanted and x is not None)


@contextlib.contextmanager
def _precision(dtype: str) -> Iterator[None]:
    """Have JAX compute in `dtype`, and no less, in this thread."""
    is_on = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    # Where the lowest JAX has it, and where the newest does.
    enable_x64 = vars(jax if hasattr(jax, 'enable_x64') else jax.experimental)['enable_x64']
    with enable_x64(is_on or dtype == 'float64'), jax.default_matmul_precision('highest'):
        yield


# The reference's side.


# What is called otherwise where it is published.
_PACKAGES = {'open_clip': 'open-clip-torch'}


def import_reference(name: str) -> Any:
    """Import torch, torchvision, timm, transformers or open_clip; ImportError that says how to get it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Theirs, at import.
            importlib.import_module('torch')
            if name != 'torch':
                _declare_operators()
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(error.name or '', error.name)
        message = f'a comparison needs {error.name}: pip install {package}'
        raise ImportError(message, name=error.name) from error


@functools.cache
def _declare_operators() -> Any:
    """Declare the operators of a torchvision whose compiled ones do not load, so that it imports.

    The library that holds them is returned, for they live as long as it does.
    """
    try:
        importlib.import_module('torchvision')
    except RuntimeError:
        library = import_reference('torch').library.Library('torchvision', 'DEF')
        for operator in _OPERATORS:
            library.define(operator)
        return library


def describe(reference: Any) -> str:
    """Name the library, its version and the class of a reference model."""
    library = type(reference).__module__.partition('.')[0]
    version = importlib.import_module(library).__version__
    return f'{library} {version}, {type(reference).__name__}'


def open_reference(folder: str | os.PathLike[str], layout: str, model: Any, dtype: Any) -> Any:
    """Open a folder as the reference library's model, for inference in `dtype`.

    transformers' class is the one that computes what `model` does: the encoder of a BERT that was
    saved with other heads. Raises ValueError where it would start parameters at random.
    """
    torch = import_reference('torch')
    _layers(model, layout)
    kind, place = getattr(torch, jnp.dtype(dtype).name), f'local-dir:{os.fspath(folder)}'
    match table_of(model, layout).library:
        case libraries.TIMM:
            timm = import_reference('timm')
            found = timm.create_model(place, pretrained=True).to(kind).eval()
        case libraries.OPEN_CLIP:
            import_reference('timm')
            open_clip = import_reference('open_clip')
            found = open_clip.create_model(place, output_dict=True).to(kind).eval()
        case _:
            found = _open_transformers(os.fspath(folder), table_of(model, layout), model, kind)
    return widen_reference(found) if kind == torch.float64 else found


def _open_transformers(folder: str, table: Table, model: Any, dtype: Any) -> Any:
    (name,) = write_config(table, model.config)['architectures']
    kind = getattr(import_reference('transformers'), name)
    options = {}
    if 'add_pooling_layer' in inspect.signature(kind.__init__).parameters:
        rules = table.rules(model.config)
        is_ours = any('pooler.' in str(rule.theirs) for rule in rules)
        options['add_pooling_layer'] = is_ours or not _pools_by_weights(kind, folder)
    reference, loading = kind.from_pretrained(
        folder,
        dtype=dtype,
        return_dict=True,
        local_files_only=True,
        output_loading_info=True,
        **options,
    )
    if loading['missing_keys']:
        missing = ', '.join(sorted(loading['missing_keys']))
        raise ValueError(f'{folder}: expected all weights of {kind.__name__}, found no {missing}')
    if getattr(reference.config, 'pad_token_id', 0) is None:
        # Without one GPT-2 classifies no more than one text.
        reference.config.pad_token_id = -1
    return reference.eval()


def _pools_by_weights(kind: Any, folder: str) -> bool:
    """Tell whether a class's pooler has weights, and is not a mean alone."""
    with import_reference('torch').device('meta'):
        model = kind(kind.config_class.from_pretrained(folder))
    return any('pooler.' in name for name, _ in model.named_parameters())


def reference_outputs(
    reference: Any, layout: str, model: Any, inputs: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the outputs of the reference's layers, by our paths and as ours lie in memory.

    Raises ValueError if it has no module of a name in the table.
    """
    torch = import_reference('torch')
    modules = dict(reference.named_modules())
    layers = _layers(model, layout)
    missing = sorted({name for name, _ in layers.values()} - set(modules))
    if missing:
        raise ValueError(f'{type(reference).__name__} has no modules {", ".join(missing)}')
    found: dict[str, np.ndarray] = {}
    hooks = [
        modules[name].register_forward_hook(functools.partial(_keep, found, path, via))
        for path, (name, via) in layers.items()
    ]
    try:
        with torch.no_grad():
            finals = final_outputs(model, run_reference(reference, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    return found | {name: value.numpy() for name, value in finals.items()}


def _keep(
    found: dict[str, np.ndarray], path: str, via: Transform, module: Any, args: Any, output: Any
) -> None:
    """Keep a copy of an output, as a forward hook: what comes next may write in place."""
    first = output[0] if isinstance(output, tuple) else output
    found[path] = via.forward([first.numpy().copy()])


def final_outputs(model: Any, outputs: Any) -> dict[str, Any]:
    """Return those of a reference's outputs that a model of ours gives, by the names that ours have."""
    path = model.path
    if not isinstance(outputs, Mapping):
        return {path: outputs}
    if 'image_features' in outputs:
        x, y = (outputs[f'{of}_features'] for of in ('image', 'text'))
        bias = outputs.get('logit_bias')
        logits = outputs['logit_scale'] * x @ y.T + (0 if bias is None else bias)
        found = {'logits': logits, 'image_embedding': x, 'text_embedding': y}
        return {path: logits, **{f'{path}.{name}': value for name, value in found.items()}}
    if 'logits_per_image' in outputs:
        logits = outputs['logits_per_image']
        embeddings = {f'{path}.{of}_embedding': outputs[f'{of}_embeds'] for of in ('image', 'text')}
        return {path: logits, f'{path}.logits': logits, **embeddings}
    if 'start_logits' in outputs:
        torch = import_reference('torch')
        return {path: torch.stack([outputs['start_logits'], outputs['end_logits']], -1)}
    if 'logits' in outputs:
        return {path: outputs['logits']}
    states, pooled = outputs['last_hidden_state'], outputs.get('pooler_output')
    if getattr(model.config, 'task', '') == 'feature-extraction':
        return {path: states}
    if pooled is None:
        return {path: states[:, 0], f'{path}.tokens': states}
    return {path: pooled.flatten(1), f'{path}.tokens': states, f'{path}.pooled': pooled}


def run_reference(reference: Any, inputs: Sequence[np.ndarray]) -> Any:
    """Call a reference with our inputs, in its own dtype."""
    made = reference_inputs(inputs, next(reference.parameters()).dtype)
    # transformers' models of two towers take texts first.
    takes_texts_first = getattr(reference, 'input_modalities', ()) == ('image', 'text')
    return reference(*(reversed(made) if takes_texts_first else made))


def reference_inputs(inputs: Iterable[np.ndarray], dtype: Any) -> list[Any]:
    """Make torch's batches: NCHW images in `dtype`, ids and masks as int64."""
    torch = import_reference('torch')
    return [
        torch.tensor(x.transpose(0, 3, 1, 2)).to(dtype)
        if np.issubdtype(x.dtype, np.floating)
        else torch.tensor(x.astype(np.int64))
        for x in inputs
    ]


def _layers(model: Any, layout: str) -> dict[str, tuple[str, Transform]]:
    """Return the reference's module and `via` for each of our paths that it has one for."""
    table = table_of(model, layout) if layout in layouts(model.path) else None
    if table is None or not (rules := table.layers(model.config)):
        raise ValueError(f'no reference library is known for {model.path!r} in layout {layout!r}')
    respellings = (*table.published(model.config), *table.live)
    found = {}
    for path, _ in model.graph.walk():
        for rule in rules:
            if (fields := rule.match(path)) is not None:
                (name,) = rule.names(fields)
                found[path] = respell_module(name, respellings), rule.via
    return found
