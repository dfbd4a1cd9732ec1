"""Speed on an accelerator: forward passes, training steps and text generation.

    python benchmarks/accelerator.py

Limits that the project holds itself to: half of the device's peak in training ViT-B/16 and GPT-2,
and 40 % of its memory's bandwidth in decoding. Weights are random. Operations are those of the
matrix products and convolutions in a forward pass, attention to what comes later included though
it may be left out, and three times as many in a training step. Passes and steps follow one another
as in a training loop, which waits for none. `--small` takes tiny models, to test this script where
there is no accelerator.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import machine, median, table

import blox as bx

CALLS, WARM_UP, AT_ONCE = 20, 3, 5
PROMPT, NEW = 64, 256


class Peak(NamedTuple):
    """Most that a device does in a second, as its maker says: operations by dtype, bytes moved."""

    operations: dict[str, float]
    bandwidth: float


# Dense products; those of float32 run as TF32, which is JAX's default there.
PEAKS = {
    'NVIDIA H100 80GB HBM3': Peak({'float32': 494.7e12, 'bfloat16': 989.4e12}, 3.35e12),
    'NVIDIA H200': Peak({'float32': 494.7e12, 'bfloat16': 989.4e12}, 4.8e12),
}


class Work(NamedTuple):
    """A model of the catalog, how many inputs it gets at once, its overrides, and those of --small."""

    name: str
    batch: int
    overrides: dict[str, Any]
    small: dict[str, Any]


SMALL_TEXT = {'depth': 1, 'width': 64, 'heads': 2, 'mlp_dim': 256, 'vocab_size': 512}
NO_DROPOUT = dict.fromkeys(('embed_dropout_rate', 'attention_dropout_rate', 'dropout_rate'), 0.0)
WORK = {
    'ResNet-50': Work('resnet50', 128, {}, {'depths': (1, 1, 1, 1), 'image_size': 32}),
    'ViT-B/16': Work('vit-b16', 128, {}, {'depth': 1, 'image_size': 32}),
    'ConvNeXt-T': Work('convnext-tiny', 128, {}, {'depths': (1, 1, 1, 1), 'image_size': 32}),
    'Swin-T': Work('swin-tiny', 128, {}, {'depths': (1, 1, 1, 1), 'image_size': 32}),
    'DINOv3-B/16': Work('dinov3-base', 128, {}, {'depth': 1, 'image_size': 32}),
    'GPT-2': Work('gpt2', 8, {}, SMALL_TEXT),
    'GPT-2 without dropout': Work('gpt2', 8, NO_DROPOUT, SMALL_TEXT),
}
FORWARD = ('ResNet-50', 'ViT-B/16', 'ConvNeXt-T', 'Swin-T', 'DINOv3-B/16', 'GPT-2')
TRAINING = ('ViT-B/16', 'GPT-2 without dropout', 'GPT-2', 'ResNet-50', 'ConvNeXt-T', 'Swin-T')


def prepare(work: Work, small: bool) -> tuple[Any, bx.Params, jax.Array]:
    """Return a model, random Params in float32, and a random batch."""
    model = bx.zoo.create(work.name, **work.overrides, **(work.small if small else {}))
    batch, config, key = 2 if small else work.batch, model.config, jax.random.key(1)
    if work.name == 'gpt2':
        inputs = jax.random.randint(key, (batch, config.context), 0, config.vocab_size, jnp.int32)
    else:
        inputs = jax.random.normal(key, (batch, *config.image_size, config.in_channels))
    return model, bx.zoo.init(model), inputs


def cast(params: bx.Params, dtype: Any) -> bx.Params:
    """Cast weights to `dtype`; batch statistics stay as they are."""
    return params.cast(dtype, lambda _, param: not param.is_state)


def forward_operations(model: Any, params: bx.Params, inputs: jax.Array) -> float:
    """Count the multiplications and additions of a forward pass, as `count_operations` does."""
    # Tapped, attention shows all its weights, and so computes them in the open.
    return count_operations(jax.make_jaxpr(bx.tap(model, '**'))(params, inputs))


def count_operations(program: Any) -> float:
    """Count the multiplications and additions in a program's matrix products and convolutions."""
    total = 0.0
    for equation in program.eqns:
        inner = [value for value in equation.params.values() if hasattr(value, 'eqns')]
        # Of ways that a platform chooses among, the last is that of accelerators.
        inner += equation.params.get('branches', ())[-1:]
        # A scan's body runs `length` times.
        total += equation.params.get('length', 1) * sum(map(count_operations, inner))
        kind, sizes = equation.primitive.name, [x.aval.shape for x in equation.invars]
        if kind == 'dot_general':
            contracted = equation.params['dimension_numbers'][0][0]
            terms = math.prod(sizes[0][i] for i in contracted)
        elif kind == 'conv_general_dilated':
            outputs = equation.params['dimension_numbers'].rhs_spec[0]
            terms = math.prod(sizes[1]) // sizes[1][outputs]
        else:
            continue
        total += 2 * terms * math.prod(equation.outvars[0].aval.shape)
    return total


def training(model: Any, params: bx.Params, inputs: jax.Array) -> Callable[[], Any]:
    """Return a call that takes the next AdamW step: bfloat16 computation, float32 weights."""
    optimizer = optax.adamw(1e-4)
    logits = jax.eval_shape(lambda p, x: model(p, x)[0], params, inputs)
    targets = jax.random.randint(jax.random.key(2), logits.shape[:-1], 0, logits.shape[-1])

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: bx.Params, state: Any, inputs: jax.Array, targets: jax.Array) -> Any:
        weights, rest = params.split_trainable()

        def loss(weights: bx.Params) -> tuple[jax.Array, bx.Params]:
            whole = cast(weights.merge(rest), jnp.bfloat16)
            logits, new = model(whole, inputs, is_training=True)
            logits = logits.astype(jnp.float32)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return losses.mean(), new.split_trainable()[1]

        grads, rest = jax.grad(loss, has_aux=True)(weights)
        updates, state = optimizer.update(grads, state, weights)
        return optax.apply_updates(weights, updates).merge(rest), state

    now = params, jax.jit(optimizer.init)(params.split_trainable()[0])

    def call() -> Any:
        nonlocal now
        now = step(*now, inputs, targets)
        return now

    return call


def measure(call: Callable[[], Any], at_once: int = 1) -> tuple[float, list[float]]:
    """Return the seconds of the first call, and `CALLS` times those of one once it is warm.

    Each time is the mean of `at_once` calls, of which only the last is waited for.
    """

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count - 1):
            call()
        jax.block_until_ready(call())
        return (time.perf_counter() - start) / count

    first, *_ = [seconds(1) for _ in range(1 + WARM_UP)]
    return first, [seconds(at_once) for _ in range(CALLS)]


def share(rate: float, peak: float | None) -> str:
    """Write `rate` as a share of `peak`, if that is known."""
    return f'{100 * rate / peak:.1f} %' if peak else ''


def row(title: str, dtype: str, operations: float, call: Callable[[], Any]) -> list[str]:
    """Measure `call`, and return its row of the first table."""
    first, times = measure(call, AT_ONCE)
    rate, peak = operations / median(times), PEAKS.get(jax.devices()[0].device_kind)
    ms, span = f'{1e3 * median(times):.2f}', f'{1e3 * min(times):.2f}-{1e3 * max(times):.2f}'
    of_peak = share(rate, peak and peak.operations[dtype])
    return [title, dtype, ms, span, f'{rate / 1e12:.0f}', of_peak, f'{first:.1f}']


def measure_products(small: bool) -> Iterator[list[str]]:
    """Yield a row for each forward pass and dtype, and one for each training step."""
    for title in FORWARD:
        model, params, inputs = prepare(WORK[title], small)
        name, operations = f'{title} {[*inputs.shape]}', forward_operations(model, params, inputs)
        run = jax.jit(lambda params, x, model=model: model(params, x)[0])
        for dtype in ('float32', 'bfloat16'):
            yield row(name, dtype, operations, partial(run, cast(params, dtype), inputs))
    for title in TRAINING:
        model, params, inputs = prepare(WORK[title], small)
        operations = 3 * forward_operations(model, params, inputs)
        name, call = f'{title} {[*inputs.shape]}, AdamW step', training(model, params, inputs)
        yield row(name, 'bfloat16', operations, call)


def measure_decoding(small: bool) -> Iterator[list[str]]:
    """Yield a row for each number of sequences."""
    model, params, _ = prepare(WORK['GPT-2'], small)
    params, peak = cast(params, jnp.bfloat16), PEAKS.get(jax.devices()[0].device_kind)
    # A token needs one row of the position table, and all of the token table, which is the head.
    weights = params.partition('gpt2/pos_embed/*')[1].nbytes
    options = {'max_new_tokens': NEW, 'temperature': 0.0}
    for count in (1, 32):
        prompts = np.random.default_rng(0).integers(0, model.config.vocab_size, (count, PROMPT))
        first, times = measure(partial(bx.zoo.generate, model, params, prompts, **options))
        token, low, high = (
            1e3 * seconds / NEW for seconds in (median(times), min(times), max(times))
        )
        of_peak = share(1e3 * weights / token, peak and peak.bandwidth)
        rate, span = f'{1e3 * count / token:,.0f}', f'{low:.3f}-{high:.3f}'
        yield [f'{count}', rate, f'{token:.3f}', span, of_peak, f'{first:.1f}']


def show(header: list[str], rows: Iterator[list[str]]) -> None:
    """Print a table, each row as it comes."""
    print(table(header, []))
    for cells in rows:
        print('| ' + ' | '.join(cells) + ' |', flush=True)


def main() -> None:
    small = '--small' in sys.argv[1:]
    if jax.default_backend() == 'cpu' and not small:
        sys.exit('JAX sees no accelerator here; --small tests this script with tiny models.')
    print(
        f'{machine()}, {jax.devices()[0].device_kind}\nmedians of {CALLS} times {AT_ONCE} calls\n'
    )
    header = ['', 'dtype', 'ms', 'range', 'TFLOP/s', 'of the peak', 'first call, s']
    show(header, measure_products(small))
    print(f'\nGPT-2 in bfloat16, {NEW} tokens after prompts of {PROMPT}, the likeliest each time\n')
    header = ['sequences', 'tokens/s', 'ms a token', 'range', 'weights, of the bandwidth']
    show([*header, 'first call, s'], measure_decoding(small))


if __name__ == '__main__':
    main()
