"""Models by name or file: create, init, load, save."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from tokenizers import Tokenizer

import blox.checkpoint
from blox import paths
from blox.checkpoint import RNG_TENSORS
from blox.module import init as init_module
from blox.module import spec
from blox.param import RNG, Param
from blox.params import Params
from blox.sharding import shard
from blox.tensorfile import CheckpointError, TensorFile, fail
from blox.zoo.catalog import Card, card, list_models
from blox.zoo.family import Family, families, family_of
from blox.zoo.preprocessing import ImagePreprocessor


def create(name: str, **overrides: Any) -> Any:
    """The model of a catalog name, with config fields changed as named; no parameters.

    >>> create('vit-b16', num_classes=10).config.num_classes
    10
    """
    found = card(name)
    family = families()[found.family]
    return family.build(family.override(found.config, overrides))


def init(model: Any, seed: int | jax.Array = 0) -> Params:
    """Random Params for a model of the zoo."""
    return init_module(model, *model.example_inputs(), seed=seed)


def model_spec(model: Any) -> Params:
    """Shapes and dtypes of the Params of a model of the zoo, without computing them."""
    return spec(model, *model.example_inputs())


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: Any = None,
    mesh: Mesh | None = None,
    rules: Mapping[str, PartitionSpec] | None = None,
    seed: int | jax.Array = 0,
    **overrides: Any,
) -> tuple[Any, Params]:
    """A model and its Params, from a catalog name or a file that `save` wrote.

    `overrides` change config fields. `num_classes` starts a fresh head, drawn with `seed`, and
    keeps the rest; any other difference between file and model is a CheckpointError that lists
    all of them. `dtype` casts floating-point values. `rules` from path patterns to
    PartitionSpec place the Params on `mesh`. The rng of the result is made from `seed`.

    >>> model, params = load('vit-digits')
    >>> params.initialized
    True
    """
    if rules and mesh is None:
        raise ValueError('rules place Params on a mesh: pass mesh= too')
    file = TensorFile(_weights_of(name_or_path))
    stored = Card.from_file(file)
    family = families()[stored.family]
    model = family.build(family.override(stored.config, overrides))
    fresh = _fresh(family, stored.config, model.config)
    expected = model_spec(model)
    _check_fit(expected, file, fresh)
    params = blox.checkpoint.params_of(file).partition(_is_new(fresh))[1]
    if unmarked := _unmarked_state(expected, params):
        fail(file.path, f'expected these to be marked as batch statistics: {unmarked}')
    params = params.merge(_draw(model, seed, fresh)).finalize()
    if dtype is not None:
        params = params.cast(dtype)
    return model, params if mesh is None else shard(params, mesh, rules or {})


def save(
    path: str | os.PathLike[str], model: Any, params: Params, *, card: Card | None = None
) -> None:
    """Writes a model and its Params to one self-describing .safetensors file, atomically.

    `card` says more of it: pass `dataclasses.replace(bx.zoo.card(name), ...)` to keep the
    preprocessing, labels and tokenizer of the model that this one came from; labels must be as
    many as classes.
    """
    family = family_of(model)
    if card is None:
        card = Card(Path(path).stem, family.name, model.config, family.task)
    card = dataclasses.replace(card, family=family.name, config=model.config, task=family.task)
    expected = model_spec(model)
    wrong = _differences(_shapes(expected), _shapes(params))
    wrong += [
        f'{name}: not marked as batch statistics' for name in _unmarked_state(expected, params)
    ]
    wrong += [
        f'{name}: expected a floating-point dtype, found {param.dtype}'
        for name, param in params.items()
        if name != RNG and not jnp.issubdtype(param.dtype, jnp.floating)
    ]
    if wrong:
        raise ValueError(f'params do not fit {model!r}: ' + '; '.join(wrong))
    blox.checkpoint.save(path, params, card.to_header())


def preprocessor(name_or_path: str | os.PathLike[str]) -> ImagePreprocessor:
    """How a model's images become its inputs: from paths, Pillow images or arrays to a batch.

    >>> preprocessor('vit-digits').size
    (8, 8)
    """
    found = read_card(name_or_path)
    if found.preprocessor is None:
        raise ValueError(
            f'no image preprocessing is known for {found.name!r} ({found.task}); '
            'bx.zoo.save keeps it with card=bx.zoo.card(NAME) of the model it came from'
        )
    return found.preprocessor


def tokenizer(name_or_path: str | os.PathLike[str]) -> Tokenizer:
    """A model's tokenizer.

    >>> tokenizer('gpt2-pydocs').encode('for').tokens
    ['for']
    """
    found = read_card(name_or_path)
    if not found.tokenizer:
        raise ValueError(f'no tokenizer is known for {found.name!r} ({found.task})')
    try:
        return Tokenizer.from_str(found.tokenizer)
    except Exception as error:  # The library raises nothing more special.
        raise CheckpointError(f'{found.name!r}: unsound tokenizer: {error}') from error


def read_card(name_or_path: str | os.PathLike[str]) -> Card:
    """The card of a catalog name, or the one in a file's header."""
    if _is_file(name_or_path):
        return Card.from_file(TensorFile(name_or_path))
    return card(str(name_or_path))


def _is_file(name_or_path: str | os.PathLike[str]) -> bool:
    if not str(name_or_path):
        raise ValueError('expected the name of a model or of a file, found nothing')
    path = Path(name_or_path)
    return path.suffix == '.safetensors' or (
        str(name_or_path) not in list_models() and path.exists()
    )


def _weights_of(name_or_path: str | os.PathLike[str]) -> Path:
    """The file behind a path, or behind a name in the catalog."""
    if _is_file(name_or_path):
        return Path(name_or_path)
    found = card(str(name_or_path))
    if found.weights is None:
        raise ValueError(
            f'{found.name!r} is an architecture without weights here; start from random ones with '
            f'model = bx.zoo.create({found.name!r}); params = bx.zoo.init(model), or load '
            'a file that bx.zoo.save wrote'
        )
    return found.weights


def _fresh(family: Family, stored: Any, wanted: Any) -> tuple[str, ...]:
    """Patterns of the parameters that start anew, for the caller changed their config field."""
    return tuple(
        pattern
        for field, pattern in family.fresh.items()
        if getattr(stored, field) != getattr(wanted, field)
    )


def _is_new(fresh: tuple[str, ...]) -> Callable[[str, Param | None], bool]:
    """A predicate over paths: the rng and what starts anew, which no file decides."""
    return lambda path, _: path == RNG or any(paths.matches(p, path) for p in fresh)


def _draw(model: Any, seed: int | jax.Array, fresh: tuple[str, ...]) -> Params:
    """Initial values of what starts anew, and an rng."""
    if not fresh:
        return Params(seed)
    # One program, from which XLA drops what `partition` does.
    return jax.jit(lambda: init(model, seed).partition(_is_new(fresh))[0])()


def _unmarked_state(expected: Params, params: Params) -> list[str]:
    """Paths of batch statistics that `params` has as parameters: an optimizer would train them."""
    return [
        path
        for path, param in expected.items()
        if path in params and param.is_state and not params[path].is_state
    ]


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {path: param.shape for path, param in params.items() if path != RNG}


def _check_fit(spec: Params, file: TensorFile, fresh: tuple[str, ...]) -> None:
    """Compares names, shapes and dtypes with the file's header, before any data is read."""
    is_new = _is_new(fresh)

    def kept(path: str) -> bool:
        return path not in RNG_TENSORS and not is_new(path, None)

    found = {name: info for name, info in file.tensors.items() if kept(name)}
    expected = {path: shape for path, shape in _shapes(spec).items() if kept(path)}
    wrong = _differences(expected, {name: info.shape for name, info in found.items()})
    wrong += [
        f'{name!r}: expected a floating-point dtype, found {info.dtype}'
        for name, info in found.items()
        if not jnp.issubdtype(info.dtype, jnp.floating)
    ]
    if wrong:
        # All of them, however many: whoever mends the file needs the whole list.
        what = 'its tensors do not fit its config: ' + '; '.join(wrong)
        fail(file.path, what, most=50_000)


def _differences(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """One clause for each path that is missing, unexpected, or has another shape."""
    missing = [f'{path}: missing' for path in expected if path not in found]
    unexpected = [f'{path!r}: unexpected' for path in found if path not in expected]
    mismatched = [
        f'{path}: expected shape {expected[path]}, found {found[path]}'
        for path in expected
        if path in found and expected[path] != found[path]
    ]
    return missing + unexpected + mismatched
